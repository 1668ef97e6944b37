# SPDX-License-Identifier: Apache-2.0
"""The adjoints of operators on matrices; see :mod:`~mxfusion_mvn.compiler.derivatives.reverse`.

The formulas are those of Giles, Collected matrix derivative results for forward and reverse mode algorithmic
differentiation (2008), and for the Cholesky factor of Murray, Differentiation of the Cholesky decomposition (2016). The
gradient of a factor is lower triangular, and that of a factorised matrix symmetric, as in MXNet's autograd.
"""

from functools import partial

from mxfusion_mvn.compiler.derivatives.arithmetic import adjoint, binary, times, unary
from mxfusion_mvn.compiler.graph import CONSTANT
from mxfusion_mvn.compiler.operators import having
from mxfusion_mvn.compiler.thresholds import LARGE_CONSTANT, NARROW

import numpy as np


def _product(rewriter, left, right, transpose_left=False, transpose_right=False, alpha=1.0):
    """alpha op(left) op(right) of matrices (B..., ., .)."""
    rows, columns = left.shape[-1 if transpose_left else -2], right.shape[-2 if transpose_right else -1]
    attributes = {"transpose_a": transpose_left, "transpose_b": transpose_right, "alpha": alpha}
    return rewriter.call("_linalg_gemm2", [left, right], left.shape[:-2] + (rows, columns), attributes)


def _transposed(rewriter, matrix):
    shape = matrix.shape
    axes = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return rewriter.call("transpose", [matrix], shape[:-2] + shape[:-3:-1], {"axes": axes})


def _masked(rewriter, matrix, mask):
    """Matrices times a mask of their size, a NumPy array, entry by entry."""
    shape = (1,) * (len(matrix.shape) - 2) + mask.shape
    constant = rewriter.constant(mask.reshape(shape).astype(matrix.dtype), matrix.dtype)
    return times(rewriter, matrix, constant)


def _lower(rewriter, matrix):
    return _masked(rewriter, matrix, np.tril(np.ones(matrix.shape[-2:])))


@adjoint("_linalg_gemm2")
def _gemm2(rewriter, node, gradient):
    if node["axis"] != -2:
        return None
    a, b = node.inputs
    product = partial(_product, rewriter, alpha=node["alpha"])
    return _factors(product, a, b, gradient, node["transpose_a"], node["transpose_b"])


def _factors(product, a, b, gradient, on_a, on_b):
    """The gradients of A and B in op(A) op(B), by a function of two matrices and of whether each is transposed."""
    of_a = product(b, gradient, on_b, True) if on_a else product(gradient, b, False, not on_b)
    of_b = product(gradient, a, True, on_a) if on_b else product(a, gradient, not on_a, False)
    return [of_a, of_b]


@adjoint("dot")
def _dot(rewriter, node, gradient):
    a, b = node.inputs
    on_a, on_b = node["transpose_a"], node["transpose_b"]
    product = partial(_matrix_dot, rewriter)
    dims = len(a.shape), len(b.shape)
    if dims == (1, 1):
        return [times(rewriter, gradient, b), times(rewriter, gradient, a)]
    if dims == (2, 2):
        return _factors(product, a, b, gradient, on_a, on_b)
    if dims[1] == 2 and not on_a:
        rows = [_rows(rewriter, entry) for entry in (a, gradient)]
        of_a, of_b = _factors(product, rows[0], b, rows[1], on_a, on_b)
        return [rewriter.reshaped(of_a, a.shape), of_b]
    if dims == (2, 1):
        of_a = _outer_product(rewriter, *((b, gradient) if on_a else (gradient, b)))
        return [of_a, rewriter.call("dot", [a, gradient], b.shape, {"transpose_a": not on_a})]
    return None


def _rows(rewriter, entry):
    size = entry.shape[-1]
    return rewriter.reshaped(entry, (entry.size // size, size))


def _outer_product(rewriter, column, row):
    return times(rewriter, rewriter.reshaped(column, (column.size, 1)), rewriter.reshaped(row, (1, row.size)))


def _matrix_dot(rewriter, left, right, transpose_left, transpose_right):
    shape = left.shape[1 if transpose_left else 0], right.shape[0 if transpose_right else 1]
    return rewriter.call("dot", [left, right], shape, {"transpose_a": transpose_left, "transpose_b": transpose_right})


@adjoint("batch_dot")
def _batch_dot(rewriter, node, gradient):
    a, b = node.inputs
    return _factors(partial(_product, rewriter), a, b, gradient, node["transpose_a"], node["transpose_b"])


@adjoint("_linalg_syrk")
def _syrk(rewriter, node, gradient):
    if _is_symmetric(gradient):
        sides = (node.inputs[0], gradient) if node["transpose"] else (gradient, node.inputs[0])
        return [_product(rewriter, *sides, alpha=2 * node["alpha"])]
    if not node["transpose"] and node.inputs[0].shape[-1] <= NARROW:
        parts = [_product(rewriter, gradient, node.inputs[0], turned, False, node["alpha"]) for turned in (False, True)]
        return [binary(rewriter, "add", *parts)]
    both = binary(rewriter, "add", gradient, _transposed(rewriter, gradient))
    if node["transpose"]:
        return [_product(rewriter, node.inputs[0], both, alpha=node["alpha"])]
    return [_product(rewriter, both, node.inputs[0], alpha=node["alpha"])]


def _is_symmetric(entry):
    """Whether matrices are known to be symmetric: A A^T, L^-T S L^-1, and sums and multiples of such matrices."""
    if entry.is_a("_linalg_syrk"):
        return True
    if entry.is_a("_linalg_gemm2"):
        return entry.inputs[0] == entry.inputs[1] and entry.node["transpose_a"] != entry.node["transpose_b"]
    if entry.is_a("Reshape", "broadcast_to"):
        return entry.inputs[0].shape[-2:] == entry.shape[-2:] and _is_symmetric(entry.inputs[0])
    if entry.is_a("_mul_scalar", "_div_scalar", "negative", *having("sign")):
        return all(part.shape[-2:] == entry.shape[-2:] and _is_symmetric(part) for part in entry.inputs)
    if entry.is_a("_linalg_trsm"):
        factor, inner = entry.inputs
        first, second = entry.node, inner.node
        is_congruence = inner.is_a("_linalg_trsm") and inner.inputs[0] == factor
        is_congruence = is_congruence and first["rightside"] != second["rightside"]
        return is_congruence and first["transpose"] != second["transpose"] and _is_symmetric(inner.inputs[1])
    if entry.is_a(CONSTANT) and entry.size <= LARGE_CONSTANT:
        values = entry.node.array.asnumpy()
        return np.array_equal(values, np.swapaxes(values, -1, -2))
    return False


def _solved(rewriter, factor, matrix, transpose, rightside, alpha=1.0):
    attributes = {"transpose": transpose, "rightside": rightside, "alpha": alpha}
    return rewriter.call("_linalg_trsm", [factor, matrix], matrix.shape, attributes)


@adjoint("_linalg_potrf")
def _potrf(rewriter, node, gradient):
    """S = 1/2 L^-T (P + P^T) L^-1, where P is the lower triangle of L^T gradient with half of its diagonal."""
    if not node["lower"]:
        return None
    factor = node.entry()
    size = node.shape[-1]
    half = np.tril(np.ones((size, size))) - 0.5 * np.eye(size)
    triangle = _masked(rewriter, _product(rewriter, factor, gradient, transpose_left=True), half)
    symmetric = binary(rewriter, "add", triangle, _transposed(rewriter, triangle))
    left = _solved(rewriter, factor, symmetric, transpose=True, rightside=False, alpha=0.5)
    return [_solved(rewriter, factor, left, transpose=False, rightside=True)]


@adjoint("_linalg_trsm")
def _trsm(rewriter, node, gradient):
    """With U = op(L)^-T gradient, alpha U is the gradient of the right-hand side; X is the solution."""
    if not node["lower"]:
        return None
    factor, solution = node.inputs[0], node.entry()
    transpose, rightside = node["transpose"], node["rightside"]
    u = _solved(rewriter, factor, gradient, not transpose, rightside)
    # d op(L) is -U X^T for a system from the left, -X^T U for one from the right.
    first, second = (u, solution) if transpose == rightside else (solution, u)
    of_factor = _product_of_sides(rewriter, first, second, rightside, alpha=-1.0)
    return [_lower(rewriter, of_factor), times(rewriter, u, node["alpha"])]


def _product_of_sides(rewriter, first, second, rightside, alpha):
    """first second^T, or from the right first^T second."""
    if rightside:
        return _product(rewriter, first, second, transpose_left=True, alpha=alpha)
    return _product(rewriter, first, second, transpose_right=True, alpha=alpha)


@adjoint("_linalg_trmm")
def _trmm(rewriter, node, gradient):
    if not node["lower"]:
        return None
    factor, other = node.inputs
    transpose, rightside = node["transpose"], node["rightside"]
    attributes = {**node.attributes, "transpose": not transpose}
    of_other = rewriter.call("_linalg_trmm", [factor, gradient], other.shape, attributes)
    first, second = (gradient, other) if transpose == rightside else (other, gradient)
    return [_lower(rewriter, _product_of_sides(rewriter, first, second, rightside, node["alpha"])), of_other]


@adjoint("_linalg_sumlogdiag")
def _sumlogdiag(rewriter, node, gradient):
    matrix = node.inputs[0]
    batch, size = matrix.shape[:-2], matrix.shape[-1]
    diagonal = rewriter.call("_linalg_extractdiag", [matrix], batch + (size,))
    column = rewriter.reshaped(gradient, batch + (1,))
    scaled = times(rewriter, column, unary(rewriter, "reciprocal", diagonal))
    return [rewriter.call("_linalg_makediag", [scaled], matrix.shape)]


def _reversed_by(operator):
    """The adjoint of an operator that puts entries into matrices is the one that takes them out, and vice versa."""

    def reverse(rewriter, node, gradient):
        return [rewriter.call(operator, [gradient], node.inputs[0].shape, node.attributes)]

    return reverse


for _one, _other in (("makediag", "extractdiag"), ("maketrian", "extracttrian")):
    adjoint(f"_linalg_{_one}")(_reversed_by(f"_linalg_{_other}"))
    adjoint(f"_linalg_{_other}")(_reversed_by(f"_linalg_{_one}"))


@adjoint("FullyConnected")
def _dense(rewriter, node, gradient):
    data, weight = node.inputs[:2]
    units, features = weight.shape
    rows = data.size // features
    gradient = rewriter.reshaped(gradient, (rows, units))
    flat = rewriter.reshaped(data, (rows, features))
    of_data = rewriter.reshaped(_matrix_dot(rewriter, gradient, weight, False, False), data.shape)
    of_weight = _matrix_dot(rewriter, gradient, flat, True, False)
    of_bias = rewriter.call("sum", [gradient], (units,), {"axis": (0,)})
    return [of_data, of_weight, of_bias][: len(node.inputs)]
