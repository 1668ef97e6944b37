# SPDX-License-Identifier: Apache-2.0
"""From unconstrained arrays to positive entries, Cholesky factors and positive definite matrices.

A transformation is an argument of a Variable of MXFusion, ``Variable(shape=(D, D),
transformation=PositiveDefinite())``; the optimizer then moves the raw array x, and the model sees
the constrained one. For latent variables see :mod:`~mxfusion_mvn.bijections`, whose raw arrays have
as many entries as there are degrees of freedom::

    Positive            y = log(1 + e^x)                            x = y + log(1 - e^-y)
    Simplex             y = e^x / sum e^x                           x = log y
    LowerCholesky       L_ij = (x_ij + x_ji) / 2 for i > j, L_ii = log(1 + e^x_ii)
    PositiveDefinite    C = L L^T
    CorrelationCholesky each row of L is (s_i1, ..., s_i,i-1, 1) divided by its norm, s_ij = (x_ij + x_ji) / 2

Only the *symmetric part* of a raw matrix is used. Had one triangle a gradient of exactly zero,
adamax would divide 0 by 0 there; so every entry has a gradient, and elementwise steps keep a
symmetric x symmetric.

Softplus is log1p(exp(x)), and x itself where the two are equal; branches as in Maechler,
"Accurately computing log(1 - exp(-|a|))" (vignette of the R package Rmpfr, 2012). The obvious
alternatives on MXNet are all wrong somewhere: ``softrelu`` is zero or negative below -14 in float32 on a CPU;
``max(x, 0) + log1p(exp(-|x|))`` has derivative 0 instead of 1/2 at 0; with ``(x + |x|) / 2`` for
the maximum, the derivative cancels to 0 in the left tail.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from mxfusion_mvn import checks
from mxfusion_mvn.checks.options import is_positive, shown
from mxfusion_mvn.linalg import cholesky, constant, lower_triangle, symmetric_part, transpose, with_diagonal
from mxfusion_mvn.linalg.axes import namespace

import mxnet as mx
import numpy as np
from mxfusion.common.config import get_default_dtype
from mxfusion.components.variables.var_trans import VariableTransformation

# log(1 + e^40) is 40 also in float64, and e^40 is far from overflow in float32.
_LINEAR_ABOVE = 40.0


def softplus(x: mx.nd.NDArray | mx.sym.Symbol) -> mx.nd.NDArray | mx.sym.Symbol:
    """
    log(1 + e^x), to a few units in the last place, with a gradient of the same quality.

    It underflows to 0 where e^x does: below -103 in float32, -745 in float64.

    :param x: NDArray or Symbol, any shape.
    :returns: positive, of the shape and dtype of *x*.
    :raises ModelSpecificationError: for what is not an NDArray or a Symbol.
    """
    check_array("x", x)
    F = namespace(x)
    # The branch not taken must be finite: its gradient is multiplied by 0, and 0 * inf is NaN.
    curved = F.log1p(F.exp(F.minimum(x, _LINEAR_ABOVE)))
    return F.where(x > _LINEAR_ABOVE, x, curved)


def inverse_softplus(y: mx.nd.NDArray | mx.sym.Symbol) -> mx.nd.NDArray | mx.sym.Symbol:
    """
    log(e^y - 1), without overflow.

    :param y: positive NDArray or Symbol, any shape.
    :returns: of the shape and dtype of *y*. Softplus of it is y within about |log y| + 1 units in
        the last place, the spacing of raw values.
    :raises ModelSpecificationError: for what is not an NDArray or a Symbol, and entries that are not positive.
    """
    check_array("y", y)
    F = namespace(y)
    if F is mx.nd:
        checks.check_positive("y", y.asnumpy())
    return y + F.log(-F.expm1(-y))


class Transformation(VariableTransformation):
    """
    A transformation that keeps the shape, and checks values that users give.

    A leaf defines ``_forward`` and ``_backward``, both for NDArray and Symbol, and ``_check``; and ``event_axes``, the
    number of axes of an event: 0 for entries, 1 for vectors, 2 for square matrices.
    """

    event_axes = 0

    def transform(self, var: mx.nd.NDArray | mx.sym.Symbol, F=None, dtype=None) -> mx.nd.NDArray | mx.sym.Symbol:
        """
        Constrain a raw array.

        :param var: raw NDArray or Symbol; for the matrices (..., D, D).
        :param F: unused: the kind of *var* decides.
        :param dtype: unused: the result has the dtype of *var*.
        :returns: the constrained array, of the same shape and dtype.
        :raises ModelSpecificationError: for what is not an array of a shape that this constrains.
        """
        self._check_raw(var)
        return self._forward(var)

    def inverseTransform(
        self, out_var: mx.nd.NDArray | mx.sym.Symbol | np.ndarray | float, F=None, dtype=None
    ) -> mx.nd.NDArray | mx.sym.Symbol:
        """
        The raw array of a constrained one, such as an initial value.

        Arrays are checked; a Symbol has no values to check.

        :param out_var: NDArray, NumPy array or Symbol; for the matrices (..., D, D).
        :param F: unused: the kind of *out_var* decides.
        :param dtype: unused: the result has the dtype of *out_var*.
        :returns: the raw array, of the same shape and dtype.
        :raises ModelSpecificationError: if the values do not satisfy the constraint.
        """
        if isinstance(out_var, mx.sym.Symbol):
            return self._backward(out_var)
        array = _as_ndarray(self._argument, out_var)
        value = array.asnumpy()
        checks.check_finite(self._argument, value)
        self._check(value)
        return self._backward(array)

    def _check_raw(self, raw):
        """Refuse anything but a raw array; raw arrays of matrices are square matrices."""
        check_array(self._raw_argument, raw)
        if self.event_axes == 2 and isinstance(raw, mx.nd.NDArray):
            _check_matrix(self._raw_argument, raw.shape)

    @property
    def _raw_argument(self):
        return f"raw array under {type(self).__name__}()"

    @property
    def _argument(self):
        return f"value under {type(self).__name__}()"

    @abstractmethod
    def _forward(self, raw):
        """The constrained array."""

    @abstractmethod
    def _backward(self, array):
        """The raw array x with _forward(x) = array."""

    @abstractmethod
    def _check(self, value):
        """Refuse a finite NumPy array that no raw array leads to."""


class Positive(Transformation):
    """Positive entries, in any shape: y = log(1 + e^x)."""

    def _forward(self, raw):
        return softplus(raw)

    def _backward(self, array):
        return inverse_softplus(array)

    def _check(self, value):
        checks.check_positive(self._argument, value)


class Simplex(Transformation):
    """Positive entries that sum to one along the last axis: y = exp(x) / sum exp(x)."""

    event_axes = 1

    def _forward(self, raw):
        return namespace(raw).softmax(raw, axis=-1)

    def _backward(self, array):
        return namespace(array).log(array)

    def _check(self, value):
        checks.check_positive(self._argument, value)
        total = value.sum(axis=-1)
        wrong = np.abs(total - 1) > 1e3 * checks.rounding(value)
        if wrong.any():
            checks.refuse(
                self._argument,
                f"numbers that sum to {total[wrong].flat[0]!s}",
                "a sum of 1 along the last axis",
                "Divide them by their sum.",
            )


class LowerCholesky(Transformation):
    """Lower triangular matrices (..., D, D) with a positive diagonal."""

    event_axes = 2

    def _forward(self, raw):
        return _to_lower(raw)

    def _backward(self, array):
        return _from_lower(array)

    def _check(self, value):
        _check_matrix(self._argument, value.shape)
        checks.check_lower_triangular(self._argument, value)
        negative = np.argwhere(np.diagonal(value, axis1=-2, axis2=-1) < 0)
        if len(negative):
            index = checks.plain_index(negative[0])
            checks.refuse(
                self._argument,
                f"a negative number at diagonal position {index}",
                "a positive diagonal",
                "Flip the sign of that whole column: L L^T stays the same.",
            )


class CorrelationCholesky(Transformation):
    """
    Lower Cholesky factors (..., D, D) of correlation matrices: their rows have norm 1.

    Row i of D is (s_i1, ..., s_i,i-1, 1) divided by its norm, which is never singular, however large s is. Its log
    Jacobian is the sum of (i + 1) log L_ii. The diagonal of x has no effect: a correlation matrix has only
    D (D - 1) / 2 free entries. Its gradient is 0, so that adamax, which divides by it, fills the diagonal with NaN;
    this does not change the factor.
    """

    event_axes = 2

    def _forward(self, raw):
        F = namespace(raw)
        rows = with_diagonal(F.ones_like(F.linalg.extractdiag(raw)), lower_triangle(symmetric_part(raw)))
        # Against overflow only: the rows are divided by their norm afterwards, so this needs no gradient.
        largest = constant(F.max(F.abs(rows), axis=-1, keepdims=True))
        rows = F.broadcast_div(rows, largest)
        return F.broadcast_div(rows, F.sqrt(F.sum(F.square(rows), axis=-1, keepdims=True)))

    def _backward(self, array):
        F = namespace(array)
        diagonal = F.linalg.extractdiag(array)
        rows = F.broadcast_div(array, F.expand_dims(diagonal, axis=-1))
        return with_diagonal(F.zeros_like(diagonal), rows + transpose(rows))

    def _check(self, value):
        _check_matrix(self._argument, value.shape)
        defect = correlation_factor_defect(value)
        if defect is not None:
            found, expected = defect
            checks.refuse(self._argument, found, expected, "Use np.linalg.cholesky of a correlation matrix.")


class PositiveDefinite(Transformation):
    """Symmetric positive definite matrices (..., D, D): C = L L^T of :class:`LowerCholesky`."""

    event_axes = 2

    def _forward(self, raw):
        # syrk, not gemm2: faster, and the result is symmetric to the last bit.
        return namespace(raw).linalg.syrk(_to_lower(raw))

    def _backward(self, array):
        return _from_lower(_factor(self._argument, array))

    def _check(self, value):
        _check_matrix(self._argument, value.shape)
        checks.check_symmetric(self._argument, value)


def correlation_factor_defect(value: np.ndarray) -> tuple[str, str] | None:
    """
    The reason why matrices are not Cholesky factors of correlation matrices.

    Norms may be off by the root of machine epsilon, which is that of float32 for values that were rounded to float32.

    :param value: NumPy array (..., D, D).
    :returns: None if they are; else two strings, what was found and what was expected.
    :raises ModelSpecificationError: for anything but such an array.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        checks.refuse("value", f"a {type(value).__name__}", "a NumPy array of float32 or float64", "Convert it first.")
    checks.check_matrix("value", value.shape)
    diagonal = np.diagonal(value, axis1=-2, axis2=-1)
    norms = np.sqrt(np.sum(np.square(value), axis=-1))
    above = np.triu(value, 1)
    tolerance = np.sqrt(checks.rounding(value))
    # Written so that NaN is a defect, too.
    for sound, found, where, expected in (
        (above == 0, above, "at index {}, above the diagonal", "a lower triangular matrix"),
        (diagonal > 0, diagonal, "at diagonal position {}", "a positive diagonal"),
        (np.abs(norms - 1) <= tolerance, norms, "as the norm of row {}", "rows of norm 1"),
    ):
        if not sound.all():
            index = checks.plain_index(np.argwhere(~sound)[0])
            return f"{found[index]:.10g} {where.format(index)}", expected
    return None


def _to_lower(raw):
    F = namespace(raw)
    lower = lower_triangle(symmetric_part(raw))
    return with_diagonal(softplus(F.linalg.extractdiag(raw)), lower)


def _from_lower(factor):
    F = namespace(factor)
    return with_diagonal(inverse_softplus(F.linalg.extractdiag(factor)), factor + transpose(factor))


def check_array(argument: str, value: Any) -> None:
    """
    Refuse arguments that MXNet's classic operators do not take.

    :param argument: the name of the argument.
    :param value: anything.
    :raises ModelSpecificationError: unless it is a Symbol, or a dense NDArray of float32 or float64 with entries.
    """
    if type(value) is mx.nd.NDArray:
        checks.check_floating(argument, value.dtype)
        if not value.shape or 0 in value.shape:
            checks.refuse(argument, f"shape {value.shape}", "at least one entry", "Check what it is computed from.")
    elif type(value) is not mx.sym.Symbol:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        checks.refuse(
            argument,
            f"a {kind}",
            "a dense NDArray, or a Symbol",
            "Convert an array with mx.nd.array(value, dtype=value.dtype), an mx.np array with .as_nd_ndarray().",
        )


def _as_ndarray(argument, value):
    if isinstance(value, mx.np.ndarray):
        value = value.as_nd_ndarray()
    if isinstance(value, mx.nd.NDArray):
        check_array(argument, value)
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = np.asarray(value, dtype=get_default_dtype())
    if not isinstance(value, (np.ndarray, np.generic)):
        checks.refuse(
            argument,
            f"a {type(value).__name__}",
            "an MXNet or NumPy array",
            "Convert it first, for example with np.array(value, dtype='float32').",
        )
    checks.check_kind(argument, value)
    checks.check_floating(argument, value.dtype)
    if value.size == 0:
        checks.refuse(argument, f"shape {value.shape}", "at least one entry", "Check what it is computed from.")
    # In MXNet a shape () means unknown.
    return mx.nd.array(np.atleast_1d(value), dtype=value.dtype)


def _check_matrix(argument, shape):
    if shape == (1,):
        checks.refuse(
            argument,
            "a single number",
            "a matrix (..., D, D)",
            "Write it as the number times np.eye(D).",
        )
    checks.check_matrix(argument, shape)


def _factor(argument, matrix):
    """
    The Cholesky factor of a value given by users.

    :param argument: the name of the argument.
    :param matrix: symmetric NDArray (..., D, D), or a Symbol.
    :returns: (..., D, D), likewise.
    :raises ModelSpecificationError: for an NDArray that has none in its own precision.
    """
    # Read at once, because MXNet reports a failure only once, at the first reading.
    factor = cholesky(matrix)
    if isinstance(factor, mx.sym.Symbol):
        return factor
    try:
        factor.wait_to_read()
    except mx.base.MXNetError:
        checks.check_positive_definite(argument, matrix.asnumpy())
        # NumPy's LAPACK can still factor it, because the two differ by rounding.
        checks.refuse(
            argument,
            f"a matrix that is singular within the rounding of {np.dtype(matrix.dtype).name}",
            "a positive definite matrix",
            "Add a multiple of the identity, or use float64.",
        )
    return factor


class Scaled(Transformation):
    """
    Entries in another unit: y = unit x, so that an optimizer moves y by unit times its rate.

    :param unit: a positive number.
    :raises ModelSpecificationError: for anything else.
    """

    def __init__(self, unit: float) -> None:
        if not is_positive(unit) or unit < np.finfo("float32").tiny:
            checks.refuse("unit", shown(unit), "a positive number of float32", "It is the size of a step.")
        self.unit = float(unit)

    def _forward(self, raw):
        return raw * self.unit

    def _backward(self, array):
        return array / self.unit

    def _check(self, value):
        pass
