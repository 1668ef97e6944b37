# SPDX-License-Identifier: Apache-2.0
"""The adjoints of operators on matrices; see :mod:`~mxfusion_mvn.inference.compiler.derivatives.reverse`.

The formulas are those of Giles, Collected matrix derivative results for forward and reverse mode algorithmic
differentiation (2008), and for the Cholesky factor of Murray, Differentiation of the Cholesky decomposition (2016). As
MXNet's autograd has it, the gradient of a factor is a lower triangle, and that of a factorised matrix is symmetric.
"""

from mxfusion_mvn.inference.compiler.derivatives.arithmetic import binary, is_true, times, unary
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, shape_of, size_of

import numpy as np

# Products with so few columns take less time than a transposition.
_NARROW = 4


def _alpha(node):
    return float(node.attributes.get("alpha", "1.0"))


def _is_upper(node):
    return node.attributes.get("lower", "True") not in ("True", "1")


def _product(rewriter, left, right, transpose_left=False, transpose_right=False, alpha=1.0):
    """alpha op(left) op(right) of matrices (B..., ., .)."""
    rows, columns = shape_of(left)[-1 if transpose_left else -2], shape_of(right)[-2 if transpose_right else -1]
    attributes = {"transpose_a": transpose_left, "transpose_b": transpose_right, "alpha": alpha}
    return rewriter.call("_linalg_gemm2", [left, right], shape_of(left)[:-2] + (rows, columns), attributes)


def _transposed(rewriter, matrix):
    shape = shape_of(matrix)
    axes = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return rewriter.call("transpose", [matrix], shape[:-2] + shape[:-3:-1], {"axes": axes})


def _masked(rewriter, matrix, mask):
    """The product of the entries of matrices with those of one of their size, a NumPy array."""
    shape = (1,) * (len(shape_of(matrix)) - 2) + mask.shape
    constant = rewriter.constant(mask.reshape(shape).astype(dtype_of(matrix)), dtype_of(matrix))
    return times(rewriter, matrix, constant)


def _lower(rewriter, matrix):
    return _masked(rewriter, matrix, np.tril(np.ones(shape_of(matrix)[-2:])))


def _gemm2(rewriter, node, gradient):
    if node.attributes.get("axis", "-2") != "-2":
        return None
    (a, b), alpha = node.inputs, _alpha(node)
    on_a, on_b = is_true(node, "transpose_a"), is_true(node, "transpose_b")
    return _factors(lambda *product: _product(rewriter, *product, alpha), a, b, gradient, on_a, on_b)


def _factors(product, a, b, gradient, on_a, on_b):
    """The gradients of A and B in op(A) op(B), by a function of two matrices and of whether each is transposed."""
    of_a = product(b, gradient, on_b, True) if on_a else product(gradient, b, False, not on_b)
    of_b = product(gradient, a, True, on_a) if on_b else product(a, gradient, not on_a, False)
    return [of_a, of_b]


def _dot(rewriter, node, gradient):
    a, b = node.inputs
    on_a, on_b = is_true(node, "transpose_a"), is_true(node, "transpose_b")
    dims = len(shape_of(a)), len(shape_of(b))
    if dims == (1, 1):
        return [times(rewriter, gradient, b), times(rewriter, gradient, a)]
    if dims == (2, 2):
        return _factors(lambda *product: _matrix_dot(rewriter, *product), a, b, gradient, on_a, on_b)
    if dims[1] == 2 and not on_a:
        rows = [_rows(rewriter, entry) for entry in (a, gradient)]
        of_a, of_b = _factors(lambda *product: _matrix_dot(rewriter, *product), rows[0], b, rows[1], on_a, on_b)
        return [rewriter.reshaped(of_a, shape_of(a)), of_b]
    if dims == (2, 1):
        of_a = _outer_product(rewriter, *((b, gradient) if on_a else (gradient, b)))
        return [of_a, rewriter.call("dot", [a, gradient], shape_of(b), {"transpose_a": not on_a})]
    return None


def _rows(rewriter, entry):
    size = shape_of(entry)[-1]
    return rewriter.reshaped(entry, (size_of(entry) // size, size))


def _outer_product(rewriter, column, row):
    return times(rewriter, rewriter.reshaped(column, (size_of(column), 1)), rewriter.reshaped(row, (1, size_of(row))))


def _matrix_dot(rewriter, left, right, transpose_left, transpose_right):
    shape = shape_of(left)[1 if transpose_left else 0], shape_of(right)[0 if transpose_right else 1]
    return rewriter.call("dot", [left, right], shape, {"transpose_a": transpose_left, "transpose_b": transpose_right})


def _batch_dot(rewriter, node, gradient):
    def product(left, right, transpose_left, transpose_right):
        return _product(rewriter, left, right, transpose_left, transpose_right)

    return _factors(product, *node.inputs, gradient, is_true(node, "transpose_a"), is_true(node, "transpose_b"))


def _syrk(rewriter, node, gradient):
    if not is_true(node, "transpose") and shape_of(node.inputs[0])[-1] <= _NARROW:
        parts = [_product(rewriter, gradient, node.inputs[0], turned, False, _alpha(node)) for turned in (False, True)]
        return [binary(rewriter, "add", *parts)]
    both = binary(rewriter, "add", gradient, _transposed(rewriter, gradient))
    if is_true(node, "transpose"):
        return [_product(rewriter, node.inputs[0], both, alpha=_alpha(node))]
    return [_product(rewriter, both, node.inputs[0], alpha=_alpha(node))]


def _solved(rewriter, factor, matrix, transpose, rightside, alpha=1.0):
    attributes = {"transpose": transpose, "rightside": rightside, "alpha": alpha}
    return rewriter.call("_linalg_trsm", [factor, matrix], shape_of(matrix), attributes)


def _potrf(rewriter, node, gradient):
    """S = 1/2 L^-T (P + P^T) L^-1, where P is the lower triangle of L^T gradient with half of its diagonal."""
    if _is_upper(node):
        return None
    factor = node, 0
    size = node.shapes[0][-1]
    half = np.tril(np.ones((size, size))) - 0.5 * np.eye(size)
    triangle = _masked(rewriter, _product(rewriter, factor, gradient, transpose_left=True), half)
    symmetric = binary(rewriter, "add", triangle, _transposed(rewriter, triangle))
    left = _solved(rewriter, factor, symmetric, transpose=True, rightside=False, alpha=0.5)
    return [_solved(rewriter, factor, left, transpose=False, rightside=True)]


def _trsm(rewriter, node, gradient):
    """With U = op(L)^-T gradient the system is one for U; X is its solution."""
    if _is_upper(node):
        return None
    factor, solution = node.inputs[0], (node, 0)
    transpose, rightside = is_true(node, "transpose"), is_true(node, "rightside")
    u = _solved(rewriter, factor, gradient, not transpose, rightside)
    # d op(L) is -U X^T for a system from the left, -X^T U for one from the right.
    first, second = (u, solution) if transpose == rightside else (solution, u)
    of_factor = _product_of_sides(rewriter, first, second, rightside, alpha=-1.0)
    return [_lower(rewriter, of_factor), times(rewriter, u, _alpha(node))]


def _product_of_sides(rewriter, first, second, rightside, alpha):
    """first second^T, or from the right first^T second."""
    if rightside:
        return _product(rewriter, first, second, transpose_left=True, alpha=alpha)
    return _product(rewriter, first, second, transpose_right=True, alpha=alpha)


def _trmm(rewriter, node, gradient):
    if _is_upper(node):
        return None
    factor, other = node.inputs
    transpose, rightside = is_true(node, "transpose"), is_true(node, "rightside")
    attributes = {**node.attributes, "transpose": not transpose}
    of_other = rewriter.call("_linalg_trmm", [factor, gradient], shape_of(other), attributes)
    first, second = (gradient, other) if transpose == rightside else (other, gradient)
    return [_lower(rewriter, _product_of_sides(rewriter, first, second, rightside, _alpha(node))), of_other]


def _sumlogdiag(rewriter, node, gradient):
    matrix = node.inputs[0]
    batch, size = shape_of(matrix)[:-2], shape_of(matrix)[-1]
    diagonal = rewriter.call("_linalg_extractdiag", [matrix], batch + (size,))
    column = rewriter.reshaped(gradient, batch + (1,))
    scaled = times(rewriter, column, unary(rewriter, "reciprocal", diagonal))
    return [rewriter.call("_linalg_makediag", [scaled], shape_of(matrix))]


def _reverse(operator):
    """Of operators that put numbers into matrices, or take them out."""

    def adjoint(rewriter, node, gradient):
        return [rewriter.call(operator, [gradient], shape_of(node.inputs[0]), node.attributes)]

    return adjoint


def _dense(rewriter, node, gradient):
    data, weight = node.inputs[:2]
    units, features = shape_of(weight)
    rows = size_of(data) // features
    gradient = rewriter.reshaped(gradient, (rows, units))
    flat = rewriter.reshaped(data, (rows, features))
    of_data = rewriter.reshaped(_matrix_dot(rewriter, gradient, weight, False, False), shape_of(data))
    of_weight = _matrix_dot(rewriter, gradient, flat, True, False)
    of_bias = rewriter.call("sum", [gradient], (units,), {"axis": (0,)})
    return [of_data, of_weight, of_bias][: len(node.inputs)]


MATRICES = {
    "_linalg_gemm2": _gemm2,
    "dot": _dot,
    "batch_dot": _batch_dot,
    "_linalg_syrk": _syrk,
    "_linalg_potrf": _potrf,
    "_linalg_trsm": _trsm,
    "_linalg_trmm": _trmm,
    "_linalg_sumlogdiag": _sumlogdiag,
    "_linalg_extractdiag": _reverse("_linalg_makediag"),
    "_linalg_makediag": _reverse("_linalg_extractdiag"),
    "_linalg_extracttrian": _reverse("_linalg_maketrian"),
    "_linalg_maketrian": _reverse("_linalg_extracttrian"),
    "FullyConnected": _dense,
}
