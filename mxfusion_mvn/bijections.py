# SPDX-License-Identifier: Apache-2.0
"""One-to-one maps from unconstrained vectors to the supports of random variables, with their Jacobians.

A :mod:`~mxfusion_mvn.transformations` keeps the shape of an array, as the host wants it of a parameter, and so has more
raw numbers than the constrained array has degrees of freedom. A bijection has exactly as many, so that densities can be
carried from one side to the other. With p(x) = e^x (beyond 20 its tangent: no overflow) and x in the last axis::

    Positive              y = p(x)
    Interval              y = lower + (upper - lower) / (1 + e^-x)
    Simplex               y = softmax(V x), the columns of V orthonormal and orthogonal to 1
    Ordered               y_1 = x_1, y_k = y_k-1 + p(x_k)
    LowerCholesky         L = diag(d) (I + T), d = p(diagonal of x), T the rest of x below the diagonal
    PositiveDefinite      C = L L^T
    CorrelationCholesky   L_ij = tanh(x_ij) prod_k<j sech(x_ik), L_ii = prod_k<i sech(x_ik)

The isometric log ratios of the simplex treat all its entries alike (Egozcue et al., Mathematical Geology 35, 2003).
As the rows of L are scaled by d, a change of units moves d alone. The x_ij of a correlation factor are Fisher's z of
partial correlations (Lewandowski, Kurowicka and Joe, J. Multivariate Analysis 100, 2009), whose posteriors are most
nearly normal. Triangles are read row by row.

Entries of factors are cut where they, or their squares, would overflow. Where e^x would underflow, values end at e^-80,
and shares and scales, which densities square, at e^-40. The Jacobians go on falling, so that no mass is left there.
"""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from typing import Sequence

from mxfusion_mvn import checks, transformations
from mxfusion_mvn.linalg import diagonal, outer_square, scale_rows, with_diagonal
from mxfusion_mvn.linalg.axes import do_broadcast
from mxfusion_mvn.transformations import Transformation

import numpy as np
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components.variables import Variable
from mxfusion.components.variables.var_trans import VariableTransformation
from mxnet import nd
from mxnet.symbol import Symbol

# e^20 times raw numbers in the thousands can be squared in float32.
_LINEAR_ABOVE = 20.0
# exp of this is far from the smallest float32, and exp of half of it can be squared.
_SMALLEST_LOG = -80.0
_SMALLEST_LOG_SCALE = 0.5 * _SMALLEST_LOG


class Bijection(Transformation):
    """
    A transformation of the last axis of NDArrays, one-to-one onto a support; the raw axis may have another size.

    A leaf writes ``_forward``, ``_backward`` and ``_check`` of a transformation, and ``_log_det_jacobian``; where the
    shapes differ also ``event_axes``, ``_raw_size`` and ``_is_raw_size``.
    """

    def raw_shape(self, shape: Sequence[int | Variable]) -> tuple[int | Variable, ...]:
        """
        The shape of the raw array that leads to a value.

        :param shape: tuple (B..., event) of integers and Variables.
        :returns: tuple (B..., n).
        :raises ModelSpecificationError: if the sizes of the event are not integers, too few, or leave nothing free.
        """
        if not isinstance(shape, (tuple, list)) or any(isinstance(size, (tuple, list)) for size in shape):
            got = shape if isinstance(shape, (numbers.Number, str)) else f"a {type(shape).__name__}"
            checks.refuse("shape", got, "a tuple such as (N, D)", "For a single vector write (D,).")
        shape = tuple(shape)
        if self.event_axes == 0:
            return shape
        event = shape[-self.event_axes :]
        if len(event) < self.event_axes or not all(isinstance(size, int) for size in event) or len(set(event)) > 1:
            kind = "a last axis" if self.event_axes == 1 else "two equal last axes"
            checks.refuse(
                "shape",
                f"{checks.show_shape(shape)} under {type(self).__name__}()",
                f"{kind} of a known size",
                "Declare it with an integer.",
            )
        size = self._raw_size(event[-1])
        if size == 0:
            checks.refuse(
                "shape", checks.show_shape(shape), f"more than one {type(self).__name__}", "Make it a constant."
            )
        return shape[: -self.event_axes] + (size,)

    def _raw_size(self, dim):
        return dim

    def inverseTransform(self, out_var: nd.NDArray | np.ndarray | float, F=None, dtype=None) -> nd.NDArray:
        """
        The raw array of a constrained one, such as an initial value.

        :param out_var: NDArray or NumPy array (B..., event).
        :param F: unused, as in the host.
        :param dtype: unused, as in the host: the result has the dtype of *out_var*.
        :returns: the raw NDArray (B..., n).
        :raises ModelSpecificationError: if the values are not in the support, or it has one value only.
        """
        if isinstance(out_var, Symbol):
            checks.refuse(self._argument, "a Symbol", "an NDArray or a NumPy array", "Bijections read the size of it.")
        shape = getattr(out_var, "shape", ()) or (1,)
        if self.event_axes and self._raw_size(shape[-1]) == 0:
            checks.refuse(self._argument, f"shape {shape}", "more than one entry", "Make it a constant.")
        return super().inverseTransform(out_var)

    def log_det_jacobian(self, raw: nd.NDArray) -> nd.NDArray:
        """
        The log of the volume that a unit of raw volume is mapped to, in the coordinates the densities use.

        Those are the entries; of a simplex all but one, of matrices the lower triangle (without its diagonal where that
        is not free).

        :param raw: NDArray (B..., n).
        :returns: (B...), or (1,) for a single vector.
        :raises ModelSpecificationError: for what is not a raw array.
        """
        self._check_raw(raw)
        return self._log_det_jacobian(raw)

    @abstractmethod
    def _log_det_jacobian(self, raw):
        """Of a raw array that has been checked."""

    def _check_raw(self, raw):
        transformations.check_array(self._raw_argument, raw)
        if isinstance(raw, Symbol):
            checks.refuse(self._raw_argument, "a Symbol", "an NDArray", "Bijections read the size of an array.")
        if not self._is_raw_size(raw.shape[-1]):
            checks.refuse(
                self._raw_argument,
                f"shape {raw.shape}",
                f"a last axis of {self._raw_size(1)}, {self._raw_size(2)}, {self._raw_size(3)}, ... entries",
                "raw_shape() of the shape of the value says how many.",
            )

    def _is_raw_size(self, size):
        return True


class Real(Bijection):
    """All numbers: y = x."""

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
    """Positive numbers: y = p(x), in which a factor in y is a shift of x."""

    def _forward(self, raw):
        return _p(raw, _SMALLEST_LOG)

    def _backward(self, array):
        return _inverse_p(array)

    def _check(self, value):
        checks.check_positive(self._argument, value)

    def _log_det_jacobian(self, raw):
        """Sum of log p'(x), (B...)."""
        return nd.sum(_log_slope(raw), axis=-1)


class Interval(Bijection):
    """
    Numbers strictly between two bounds.

    :param lower: a number, or a NumPy array that broadcasts with the value.
    :param upper: likewise, greater than lower.
    :raises ModelSpecificationError: unless lower < upper, both finite.
    """

    def __init__(self, lower: float | np.ndarray = 0.0, upper: float | np.ndarray = 1.0) -> None:
        for name, bound in (("lower", lower), ("upper", upper)):
            checks.check_kind(name, bound)
        self.lower, self.upper = _bound("lower", lower), _bound("upper", upper)
        if not do_broadcast(self.lower.shape, self.upper.shape):
            checks.refuse(
                "lower` and `upper",
                f"shapes {self.lower.shape} and {self.upper.shape}",
                "shapes that broadcast",
                "Write one bound for each entry, or a number.",
            )
        if not (np.isfinite(self.lower).all() and np.isfinite(self.upper).all() and (self.lower < self.upper).all()):
            checks.refuse(
                "lower` and `upper",
                f"{lower} and {upper}",
                "finite bounds, lower < upper",
                "For a half-open support use Positive().",
            )

    def _forward(self, raw):
        dtype = np.dtype(raw.dtype).type
        width, lower = self._constant(self.upper - self.lower, raw), self._constant(self.lower, raw)
        value = nd.broadcast_add(nd.broadcast_mul(nd.sigmoid(raw), width), lower)
        # Rounded onto a bound, a density would be zero or infinite there.
        above, below = _next_to(self.lower, self.upper, dtype), _next_to(self.upper, self.lower, dtype)
        return nd.broadcast_minimum(nd.broadcast_maximum(value, self._constant(above, raw)), self._constant(below, raw))

    def _backward(self, array):
        low = nd.broadcast_sub(array, self._constant(self.lower, array))
        high = nd.broadcast_sub(self._constant(self.upper, array), array)
        return nd.broadcast_sub(nd.log(low), nd.log(high))

    def _check(self, value):
        self._check_bounds(self._argument, value.shape)
        lower, upper = (bound.astype(value.dtype) for bound in (self.lower, self.upper))
        bad = np.argwhere(~((value > lower) & (value < upper)))
        if len(bad):
            index = tuple(int(i) for i in bad[0])
            checks.refuse(
                self._argument,
                f"{value[index]} at index {index}",
                f"numbers strictly between {self.lower} and {self.upper}",
                "Move it inside.",
            )

    def _log_det_jacobian(self, raw):
        """Sum of log(upper - lower) - log(1 + e^x) - log(1 + e^-x), (B...)."""
        size = nd.abs(raw)
        slope = -size - 2 * nd.log1p(nd.exp(-size))
        return nd.sum(nd.broadcast_add(slope, self._constant(np.log(self.upper - self.lower), raw)), axis=-1)

    def _check_raw(self, raw):
        super()._check_raw(raw)
        self._check_bounds(self._raw_argument, raw.shape)

    def _check_bounds(self, argument, shape):
        bounds = np.broadcast(self.lower, self.upper).shape
        fits = all(own in (1, size) for own, size in zip(reversed(bounds), reversed(shape)))
        if len(bounds) > len(shape) or not fits:
            checks.refuse(
                argument, f"shape {shape}", f"one to which the bounds, {bounds}, broadcast", "Check its last axes."
            )

    def _constant(self, value, like):
        return _constant(np.atleast_1d(value), like)


class Simplex(Bijection):
    """Positive numbers that sum to one along the last axis: y = softmax(V x)."""

    event_axes = 1

    def _raw_size(self, dim):
        return dim - 1

    def _forward(self, raw):
        # Beyond this a share would be zero, of which densities take the logarithm.
        return nd.exp(nd.maximum(self._log_shares(raw), _SMALLEST_LOG_SCALE))

    def _backward(self, array):
        return nd.dot(nd.log(array), _constant(log_ratio_basis(array.shape[-1]), array))

    _check = transformations.Simplex._check

    def _log_det_jacobian(self, raw):
        """Sum of log y plus half the log of the number of entries, (B...)."""
        return nd.sum(self._log_shares(raw), axis=-1) + 0.5 * math.log(raw.shape[-1] + 1)

    def _log_shares(self, raw):
        basis = _constant(log_ratio_basis(raw.shape[-1] + 1).T, raw)
        return nd.log_softmax(nd.dot(raw, basis), axis=-1)


class Ordered(Bijection):
    """Increasing numbers along the last axis."""

    event_axes = 1

    def _forward(self, raw):
        if raw.shape[-1] == 1:
            return raw
        first, steps = _split_first(raw)
        size = raw.shape[-1]
        return nd.dot(
            nd.concat(first, _p(steps, _SMALLEST_LOG), dim=-1), _constant(np.triu(np.ones((size, size))), raw)
        )

    def _backward(self, array):
        if array.shape[-1] == 1:
            return array
        first, rest = _split_first(array)
        before = nd.slice_axis(array, axis=-1, begin=0, end=-1)
        return nd.concat(first, _inverse_p(rest - before), dim=-1)

    def _check(self, value):
        bad = np.argwhere(np.diff(value, axis=-1) <= 0)
        if len(bad):
            index = tuple(int(i) for i in bad[0])
            checks.refuse(
                self._argument,
                f"{value[index]} before {value[index[:-1] + (index[-1] + 1,)]} at index {index}",
                "increasing numbers along the last axis",
                "Sort them, and move equal ones apart.",
            )

    def _log_det_jacobian(self, raw):
        """Sum of log p'(x) over all but the first, (B...)."""
        if raw.shape[-1] == 1:
            return nd.zeros_like(nd.sum(raw, axis=-1))
        return nd.sum(_log_slope(_split_first(raw)[1]), axis=-1)


class LowerCholesky(Bijection):
    """Lower triangular matrices (..., D, D) with a positive diagonal."""

    event_axes = 2

    def _raw_size(self, dim):
        return dim * (dim + 1) // 2

    def _is_raw_size(self, size):
        return self._raw_size(_order(size, strict=False)) == size

    def _forward(self, raw):
        triangle = nd.linalg.maketrian(raw)
        scales = diagonal(triangle)
        largest = self._largest(float(np.finfo(raw.dtype).max))
        scales = nd.minimum(_p(scales, _SMALLEST_LOG_SCALE), largest)  # infinity times 0 would be NaN
        factor = scale_rows(with_diagonal(nd.ones_like(scales), triangle), scales)
        return nd.maximum(nd.minimum(factor, largest), -largest)

    def _largest(self, number):
        return number

    def _backward(self, array):
        scales = diagonal(array)
        return nd.linalg.extracttrian(with_diagonal(_inverse_p(scales), scale_rows(array, 1 / scales)))

    _check = transformations.LowerCholesky._check

    def _log_det_jacobian(self, raw):
        """Sum of i log d_i + log p'(x_ii), i = 0, 1, ..., (B...)."""
        return self._log_volume(raw, lambda dim: np.arange(dim))

    def _log_volume(self, raw, exponents):
        scales = diagonal(nd.linalg.maketrian(raw))
        weights = _constant(exponents(scales.shape[-1]).astype("float64"), raw)
        return nd.sum(nd.broadcast_mul(_log_p(scales), weights) + _log_slope(scales), axis=-1)


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
        volume = self._log_volume(raw, lambda dim: np.full(dim, dim))
        return volume + math.log(2) * _order(raw.shape[-1], strict=False)


class CorrelationCholesky(Bijection):
    """Lower Cholesky factors (..., D, D) of correlation matrices: their rows have norm 1."""

    event_axes = 2

    def _raw_size(self, dim):
        return dim * (dim - 1) // 2

    def _is_raw_size(self, size):
        return self._raw_size(_order(size, strict=True)) == size

    def _forward(self, raw):
        angles = nd.linalg.maketrian(raw, offset=-1)
        dim = angles.shape[-1]
        left = nd.dot(_log_sech(angles), _constant(np.triu(np.ones((dim, dim)), 1), raw))
        left = nd.exp(nd.maximum(left, _SMALLEST_LOG_SCALE))
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
        rows, columns = np.tril_indices(_order(raw.shape[-1], strict=True), -1)
        return nd.sum(nd.broadcast_mul(_log_sech(raw), _constant(1.0 + rows - columns, raw)), axis=-1)


def log_ratio_basis(size: int) -> np.ndarray:
    """
    An orthonormal basis of the vectors whose sum is zero (Helmert's).

    :param size: K.
    :returns: NumPy array (K, K - 1).
    :raises ModelSpecificationError: unless K is a positive integer.
    """
    if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
        checks.refuse("size", f"a {type(size).__name__}", "a positive integer", "It is the number of shares.")
    basis = np.zeros((size, size - 1))
    for k in range(1, size):
        basis[:k, k - 1] = 1.0 / k
        basis[k, k - 1] = -1.0
        basis[:, k - 1] /= math.sqrt(1.0 + 1.0 / k)
    return basis


def describe(transformation: VariableTransformation | None) -> str:
    """
    A transformation in words that stay the same, for saved files and messages.

    :param transformation: a host ``VariableTransformation``, or None.
    :returns: a string, such as ``mxfusion_mvn.bijections.Interval(lower=0.0, upper=1.0)``, or ``none``.
    :raises ModelSpecificationError: for anything else.
    """
    if transformation is None:
        return "none"
    if not isinstance(transformation, VariableTransformation):
        got = f"a {type(transformation).__name__}"
        checks.refuse("transformation", got, "a VariableTransformation or None", "Pass one, such as Positive().")
    arguments = ", ".join(
        f"{name.lstrip('_')}={np.asarray(value).tolist()}"
        for name, value in sorted(vars(transformation).items())
        if isinstance(value, (int, float, np.ndarray))
    )
    return f"{type(transformation).__module__}.{type(transformation).__name__}({arguments})"


def check_is_bijection(name: str, value: object) -> None:
    """
    Refuse what is no bijection.

    :param name: what it is for, for the message.
    :param value: anything.
    :raises ModelSpecificationError: unless it is a :class:`Bijection`.
    """
    if not isinstance(value, Bijection):
        raise ModelSpecificationError(
            f"`{name}`: got {value!r} as its support; expected a Bijection. Choose one from mxfusion_mvn.bijections, "
            "such as Positive()."
        )


def _bound(name, value):
    if isinstance(value, (numbers.Real, np.ndarray, list, tuple)):
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            array = np.asarray(None)
        if array.dtype.kind in "fiu":
            return array.astype("float64")
    return checks.refuse(name, f"a {type(value).__name__}", "a number or a NumPy array of them", "Write 0.0 for zero.")


def _next_to(bound, other, dtype):
    """The number nearest to a bound on the side of the other; next to 0 the smallest that has all its digits."""
    near = np.nextafter(bound.astype(dtype), other.astype(dtype))
    return np.where(bound == 0, np.sign(other) * np.finfo(dtype).tiny, near).astype(dtype)


def _p(x, smallest):
    return nd.exp(nd.maximum(nd.minimum(x, _LINEAR_ABOVE), smallest)) * (1 + nd.relu(x - _LINEAR_ABOVE))


def _log_p(x):
    return nd.minimum(x, _LINEAR_ABOVE) + nd.log1p(nd.relu(x - _LINEAR_ABOVE))


def _log_slope(x):
    return nd.minimum(x, _LINEAR_ABOVE)


def _inverse_p(y):
    largest = math.exp(_LINEAR_ABOVE)
    return nd.where(y > largest, y / largest + (_LINEAR_ABOVE - 1), nd.log(nd.minimum(y, largest)))


def _log_sech(x):
    size = nd.abs(x)
    return math.log(2) - size - nd.log1p(nd.exp(-2 * size))


def _split_first(array):
    return nd.slice_axis(array, axis=-1, begin=0, end=1), nd.slice_axis(array, axis=-1, begin=1, end=None)


def _order(count, strict):
    """D of a triangle with so many entries."""
    root = math.isqrt(8 * count + 1)
    return (root + 1) // 2 if strict else (root - 1) // 2


def _constant(value, like):
    return nd.array(value, dtype=like.dtype, ctx=like.context)
