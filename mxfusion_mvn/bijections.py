# SPDX-License-Identifier: Apache-2.0
"""One-to-one maps from unconstrained vectors to the supports of random variables, with their Jacobians.

A transformation (:mod:`~mxfusion_mvn.transformations`) keeps the shape of an array, as MXFusion requires it of
parameters, and so a raw array has more entries than there are degrees of freedom. Under a bijection it has exactly as
many, so that densities can be carried from one side to the other. With p(x) = e^x (beyond 20 its tangent)
and x in the last axis::

    Positive              y = p(x)
    Interval              y = lower + (upper - lower) / (1 + e^-x)
    Simplex               y = softmax(V x), the columns of V orthonormal and orthogonal to 1
    Ordered               y_1 = x_1, y_k = y_k-1 + p(x_k)
    LowerCholesky         L = diag(d) (I + T), d = p(diagonal of x), T the rest of x below the diagonal
    PositiveDefinite      C = L L^T
    CorrelationCholesky   L_ij = tanh(x_ij) prod_k<j sech(x_ik), L_ii = prod_k<i sech(x_ik)

The isometric log ratios of the simplex treat all its entries alike (Egozcue et al., Mathematical Geology 35, 2003).
Because d scales the rows of L, a change of units changes only d. The x_ij of a correlation factor are Fisher's z of
partial correlations (Lewandowski, Kurowicka and Joe, J. Multivariate Analysis 100, 2009), whose posteriors are nearly
normal. Triangles are read row by row.

Entries of factors are clipped where they, or their squares, would overflow. Values do not fall below e^-80, and shares
and scales, which densities square, not below e^-40; the Jacobians go on falling, so that no mass is left there.
"""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from typing import Sequence

from mxfusion_mvn import checks, transformations
from mxfusion_mvn.linalg import diagonal, outer_square, scale_rows, with_diagonal
from mxfusion_mvn.linalg.axes import do_broadcast
from mxfusion_mvn.linalg.growth import (
    SMALLEST_LOG_SCALE,
    growth,
    inverse_growth,
    log_growth,
    log_ratio_basis,
    log_sech,
    log_slope,
    next_to,
)
from mxfusion_mvn.transformations import Transformation

import numpy as np
from mxfusion.components.variables import Variable
from mxnet import nd
from mxnet.symbol import Symbol


class Bijection(Transformation):
    """
    A transformation of the last axis of NDArrays, one-to-one onto a support; the raw axis may have another size.

    A leaf defines ``_forward``, ``_backward``, ``_check``, as a transformation does, and ``_log_det_jacobian``; if the
    shapes differ, also ``event_axes``, ``_raw_size`` (from D to the number of raw entries) and its inverse ``_dim``.
    """

    def raw_shape(self, shape: Sequence[int | Variable]) -> tuple[int | Variable, ...]:
        """
        The shape of the raw array that leads to a value.

        :param shape: tuple (B..., event) of integers and Variables.
        :returns: tuple (B..., n).
        :raises ModelSpecificationError: if the sizes of the event are not integers, are too few, or leave nothing free.
        """
        if not isinstance(shape, (tuple, list)) or any(isinstance(size, (tuple, list)) for size in shape):
            got = shape if isinstance(shape, (numbers.Number, str)) else f"a {type(shape).__name__}"
            checks.refuse("shape", got, "a tuple such as (N, D)", "For a single vector write (D,).")
        shape = tuple(shape)
        if self.event_axes == 0:
            return shape
        event, name, shown = shape[-self.event_axes :], type(self).__name__, checks.show_shape(shape)
        if len(event) < self.event_axes or not all(isinstance(size, int) for size in event) or len(set(event)) > 1:
            kind = "a last axis" if self.event_axes == 1 else "two equal last axes"
            checks.refuse("shape", f"{shown} under {name}()", f"{kind} of a known size", "Declare it with an integer.")
        size = self._raw_size(event[-1])
        if size == 0:
            checks.refuse("shape", shown, f"more than one {name}", "Make it a constant.")
        return shape[: -self.event_axes] + (size,)

    def _raw_size(self, dim):
        return dim

    def _dim(self, size):
        return size

    def inverseTransform(self, out_var: nd.NDArray | np.ndarray | float, F=None, dtype=None) -> nd.NDArray:
        """
        The raw array of a constrained one, such as an initial value.

        :param out_var: NDArray or NumPy array (B..., event).
        :param F: unused, like *dtype*: the result has the dtype of *out_var*.
        :returns: the raw NDArray (B..., n).
        :raises ModelSpecificationError: if the values are not in the support, or the support has only one value.
        """
        if isinstance(out_var, Symbol):
            checks.refuse(self._argument, "a Symbol", "an NDArray or a NumPy array", "Bijections read the size of it.")
        shape = getattr(out_var, "shape", ()) or (1,)
        if self.event_axes and self._raw_size(shape[-1]) == 0:
            checks.refuse(self._argument, f"shape {shape}", "more than one entry", "Make it a constant.")
        return super().inverseTransform(out_var)

    def log_det_jacobian(self, raw: nd.NDArray) -> nd.NDArray:
        """
        The log of the volume that a unit of raw volume is mapped to, in the coordinates of the densities.

        These are the entries; for a simplex all but one of them, for matrices those of the lower triangle (without its
        diagonal if that is not free).

        :param raw: NDArray (B..., n).
        :returns: (B...), or (1,) for a single vector.
        :raises ModelSpecificationError: for anything but a raw array.
        """
        self._check_raw(raw)
        return self._log_det_jacobian(raw)

    @abstractmethod
    def _log_det_jacobian(self, raw):
        """The same for a raw array that has been checked."""

    def _check_raw(self, raw):
        transformations.check_array(self._raw_argument, raw)
        if isinstance(raw, Symbol):
            checks.refuse(self._raw_argument, "a Symbol", "an NDArray", "Bijections read the size of an array.")
        if self._raw_size(self._dim(raw.shape[-1])) != raw.shape[-1]:
            expected = f"a last axis of {self._raw_size(1)}, {self._raw_size(2)}, {self._raw_size(3)}, ... entries"
            remedy = "raw_shape() of the shape of the value says how many."
            checks.refuse(self._raw_argument, f"shape {raw.shape}", expected, remedy)


class Real(Bijection):
    """All reals: y = x."""

    def _forward(self, raw):
        return raw

    def _backward(self, array):
        return array

    def _check(self, value):
        pass

    def _log_det_jacobian(self, raw):
        """Zero, (B...)."""
        return nd.zeros_like(nd.sum(raw, axis=-1))


class Positive(Bijection):
    """Positive values: y = p(x), where a factor of y is a shift of x."""

    def _forward(self, raw):
        return growth(raw)

    def _backward(self, array):
        return inverse_growth(array)

    def _check(self, value):
        checks.check_positive(self._argument, value)

    def _log_det_jacobian(self, raw):
        """Sum of log p'(x), (B...)."""
        return nd.sum(log_slope(raw), axis=-1)


class Interval(Bijection):
    """
    Values strictly between two bounds.

    :param lower: a number, or a NumPy array that broadcasts with the value.
    :param upper: likewise, greater than lower.
    :raises ModelSpecificationError: unless lower < upper, both finite.
    """

    def __init__(self, lower: float | np.ndarray = 0.0, upper: float | np.ndarray = 1.0) -> None:
        self.lower, self.upper = _bound("lower", lower), _bound("upper", upper)
        both = "lower` and `upper"
        if not do_broadcast(self.lower.shape, self.upper.shape):
            got = f"shapes {self.lower.shape} and {self.upper.shape}"
            checks.refuse(both, got, "shapes that broadcast", "Write one bound for each entry, or a number.")
        if not (np.isfinite(self.lower).all() and np.isfinite(self.upper).all() and (self.lower < self.upper).all()):
            checks.refuse(both, f"{lower} and {upper}", "finite bounds, lower < upper", "Use Positive() for one bound.")

    def _forward(self, raw):
        dtype = np.dtype(raw.dtype).type
        width, lower = _constant(self.upper - self.lower, raw), _constant(self.lower, raw)
        value = nd.broadcast_add(nd.broadcast_mul(nd.sigmoid(raw), width), lower)
        # A value that is rounded to a bound would have a density of zero or infinity.
        above, below = next_to(self.lower, self.upper, dtype), next_to(self.upper, self.lower, dtype)
        return nd.broadcast_minimum(nd.broadcast_maximum(value, _constant(above, raw)), _constant(below, raw))

    def _backward(self, array):
        low = nd.broadcast_sub(array, _constant(self.lower, array))
        high = nd.broadcast_sub(_constant(self.upper, array), array)
        return nd.broadcast_sub(nd.log(low), nd.log(high))

    def _check(self, value):
        self._check_bounds(self._argument, value.shape)
        lower, upper = (bound.astype(value.dtype) for bound in (self.lower, self.upper))
        bad = np.argwhere(~((value > lower) & (value < upper)))
        if len(bad):
            index = checks.plain_index(bad[0])
            expected = f"numbers strictly between {self.lower} and {self.upper}"
            checks.refuse(self._argument, f"{value[index]} at index {index}", expected, "Move it inside.")

    def _log_det_jacobian(self, raw):
        """Sum of log(upper - lower) - log(1 + e^x) - log(1 + e^-x), (B...)."""
        size = nd.abs(raw)
        slope = -size - 2 * nd.log1p(nd.exp(-size))
        return nd.sum(nd.broadcast_add(slope, _constant(np.log(self.upper - self.lower), raw)), axis=-1)

    def _check_raw(self, raw):
        super()._check_raw(raw)
        self._check_bounds(self._raw_argument, raw.shape)

    def _check_bounds(self, argument, shape):
        bounds = np.broadcast(self.lower, self.upper).shape
        fits = all(own in (1, size) for own, size in zip(reversed(bounds), reversed(shape)))
        if len(bounds) > len(shape) or not fits:
            expected = f"one to which the bounds, {bounds}, broadcast"
            checks.refuse(argument, f"shape {shape}", expected, "Check its last axes.")


class Simplex(Bijection):
    """Positive entries that sum to one along the last axis: y = softmax(V x)."""

    event_axes = 1

    def _raw_size(self, dim):
        return dim - 1

    def _dim(self, size):
        return size + 1

    def _forward(self, raw):
        # Below this a share would be zero, and densities take its logarithm.
        return nd.exp(nd.maximum(self._log_shares(raw), SMALLEST_LOG_SCALE))

    def _backward(self, array):
        return nd.dot(nd.log(array), _constant(log_ratio_basis(array.shape[-1]), array))

    _check = transformations.Simplex._check

    def _log_det_jacobian(self, raw):
        """Sum of log y plus half the log of the number of entries, (B...)."""
        return nd.sum(self._log_shares(raw), axis=-1) + 0.5 * math.log(self._dim(raw.shape[-1]))

    def _log_shares(self, raw):
        basis = _constant(log_ratio_basis(self._dim(raw.shape[-1])).T, raw)
        return nd.log_softmax(nd.dot(raw, basis), axis=-1)


class Ordered(Bijection):
    """Increasing entries along the last axis."""

    event_axes = 1

    def _forward(self, raw):
        if raw.shape[-1] == 1:
            return raw
        first, steps = _split_first(raw)
        size = raw.shape[-1]
        return nd.dot(nd.concat(first, growth(steps), dim=-1), _constant(np.triu(np.ones((size, size))), raw))

    def _backward(self, array):
        if array.shape[-1] == 1:
            return array
        first, rest = _split_first(array)
        before = nd.slice_axis(array, axis=-1, begin=0, end=-1)
        return nd.concat(first, inverse_growth(rest - before), dim=-1)

    def _check(self, value):
        bad = np.argwhere(np.diff(value, axis=-1) <= 0)
        if len(bad):
            index = checks.plain_index(bad[0])
            got = f"{value[index]} before {value[index[:-1] + (index[-1] + 1,)]} at index {index}"
            remedy = "Sort them, and move equal ones apart."
            checks.refuse(self._argument, got, "increasing numbers along the last axis", remedy)

    def _log_det_jacobian(self, raw):
        """Sum of log p'(x) over all but the first, (B...)."""
        if raw.shape[-1] == 1:
            return nd.zeros_like(nd.sum(raw, axis=-1))
        return nd.sum(log_slope(_split_first(raw)[1]), axis=-1)


class LowerCholesky(Bijection):
    """Lower triangular matrices (..., D, D) with a positive diagonal."""

    event_axes = 2

    def _raw_size(self, dim):
        return dim * (dim + 1) // 2

    def _dim(self, size):
        return (math.isqrt(8 * size + 1) - 1) // 2

    def _forward(self, raw):
        triangle = nd.linalg.maketrian(raw)
        scales = diagonal(triangle)
        largest = self._largest(float(np.finfo(raw.dtype).max))
        scales = nd.minimum(growth(scales, SMALLEST_LOG_SCALE), largest)  # infinity times 0 would be NaN
        factor = scale_rows(with_diagonal(nd.ones_like(scales), triangle), scales)
        return nd.maximum(nd.minimum(factor, largest), -largest)

    def _largest(self, number):
        return number

    def _backward(self, array):
        scales = diagonal(array)
        return nd.linalg.extracttrian(with_diagonal(inverse_growth(scales), scale_rows(array, 1 / scales)))

    def _check(self, value):
        transformations.LowerCholesky._check(self, value)

    def _log_det_jacobian(self, raw):
        """Sum of i log d_i + log p'(x_ii), i = 0, 1, ..., (B...)."""
        return self._log_volume(raw, np.arange(self._dim(raw.shape[-1])))

    def _log_volume(self, raw, exponents):
        scales, weights = diagonal(nd.linalg.maketrian(raw)), _constant(exponents, raw)
        return nd.sum(nd.broadcast_mul(log_growth(scales), weights) + log_slope(scales), axis=-1)


class PositiveDefinite(LowerCholesky):
    """Symmetric positive definite matrices (..., D, D): C = L L^T."""

    def _forward(self, raw):
        return outer_square(super()._forward(raw))

    def _largest(self, number):
        return math.sqrt(number) / 64  # the sum of the squares of a row must not overflow

    def _backward(self, array):
        return super()._backward(transformations._factor(self._argument, array))

    def _check(self, value):
        transformations.PositiveDefinite._check(self, value)
        checks.check_positive_definite(self._argument, value)

    def _log_det_jacobian(self, raw):
        """Sum of D log d_i + log p'(x_ii), plus D log 2, (B...)."""
        dim = self._dim(raw.shape[-1])
        return self._log_volume(raw, np.full(dim, dim)) + math.log(2) * dim


class CorrelationCholesky(Bijection):
    """Lower Cholesky factors (..., D, D) of correlation matrices: their rows have norm 1."""

    event_axes = 2

    def _raw_size(self, dim):
        return dim * (dim - 1) // 2

    def _dim(self, size):
        return (math.isqrt(8 * size + 1) + 1) // 2

    def _forward(self, raw):
        angles = nd.linalg.maketrian(raw, offset=-1)
        dim = angles.shape[-1]
        left = nd.dot(log_sech(angles), _constant(np.triu(np.ones((dim, dim)), 1), raw))
        left = nd.exp(nd.maximum(left, SMALLEST_LOG_SCALE))
        return with_diagonal(diagonal(left), nd.tanh(angles) * left)

    def _backward(self, array):
        dim = array.shape[-1]
        after = nd.dot(nd.square(array), _constant(np.tril(np.ones((dim, dim)), -1), array))
        above = _constant(np.triu(np.ones((dim, dim))), array)  # where nothing comes after
        ratio = array / nd.sqrt(nd.broadcast_add(after, above))
        return nd.arcsinh(nd.linalg.extracttrian(ratio, offset=-1))

    _check = transformations.CorrelationCholesky._check

    def _log_det_jacobian(self, raw):
        """Sum of (1 + i - j) log sech x_ij over j < i, (B...)."""
        rows, columns = np.tril_indices(self._dim(raw.shape[-1]), -1)
        return nd.sum(nd.broadcast_mul(log_sech(raw), _constant(1.0 + rows - columns, raw)), axis=-1)


def _bound(name, value):
    checks.check_kind(name, value)
    if isinstance(value, (numbers.Real, np.ndarray, list, tuple)):
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            array = np.asarray(None)
        if array.dtype.kind in "fiu":
            return array.astype("float64")
    return checks.refuse(name, f"a {type(value).__name__}", "a number or a NumPy array of them", "Write 0.0 for zero.")


def _split_first(array):
    return nd.slice_axis(array, axis=-1, begin=0, end=1), nd.slice_axis(array, axis=-1, begin=1, end=None)


def _constant(value, like):
    return nd.array(np.atleast_1d(value), dtype=like.dtype, ctx=like.context)
