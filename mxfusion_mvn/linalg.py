# SPDX-License-Identifier: Apache-2.0
"""Kernels on triangular factors, the same code for NDArray and Symbol: the only place that calls ``F.linalg``.

All act on the last axes and read no shape. Vectors are the *rows* of (K, R, D), so that any number R of them meets a
factor (K, D, D) in one call. Only the lower triangle of a factor is read.
"""

from mxfusion_mvn import axes
from mxfusion_mvn.axes import namespace

import mxnet as mx


def cholesky(matrix):
    """
    Lower Cholesky factor L, L L^T = matrix.

    MXNet computes in the background: for a matrix that is not positive definite the error surfaces when a result is
    read, not here. NaN passes through. The gradient is the symmetrised one (Murray, arXiv 1602.07527).

    :param matrix: symmetric positive definite, (B..., D, D), of which the lower triangle is read.
    :returns: lower triangular factor (B..., D, D).
    """
    return namespace(matrix).linalg.potrf(matrix)


def multiply_lower(factor, rows):
    """
    L x for every row x.

    :param factor: L, lower triangular, (K, D, D).
    :param rows: (K, R, D).
    :returns: (K, R, D).
    """
    return namespace(rows).linalg.trmm(factor, rows, rightside=True, transpose=True)


def multiply_upper(factor, rows):
    """
    L^T x for every row x.

    :param factor: L, lower triangular, (K, D, D).
    :param rows: (K, R, D).
    :returns: (K, R, D).
    """
    return namespace(rows).linalg.trmm(factor, rows, rightside=True)


def solve_lower(factor, rows):
    """
    L^-1 x for every row x, by substitution.

    :param factor: L, lower triangular, (K, D, D).
    :param rows: (K, R, D).
    :returns: (K, R, D).
    """
    return namespace(rows).linalg.trsm(factor, rows, rightside=True, transpose=True)


def solve_upper(factor, rows):
    """
    L^-T x for every row x, by substitution.

    :param factor: L, lower triangular, (K, D, D).
    :param rows: (K, R, D).
    :returns: (K, R, D).
    """
    return namespace(rows).linalg.trsm(factor, rows, rightside=True)


def log_abs_det(factor):
    """
    log |det L| of a triangular factor, whose diagonal may have any sign.

    :param factor: L, lower triangular, (B..., D, D).
    :returns: sum of log |L_ii|, (B...), or (1,) for a single matrix.
    """
    F = namespace(factor)
    return F.linalg.sumlogdiag(F.abs(factor))


def multiply(matrix, rows):
    """
    A x for every row x.

    :param matrix: A (K, E, D).
    :param rows: (K, R, D).
    :returns: (K, R, E).
    """
    return namespace(rows).linalg.gemm2(rows, matrix, transpose_b=True)


def lower_triangle(matrix):
    """
    The matrix with zeros above the diagonal.

    :param matrix: (B..., D, D).
    :returns: (B..., D, D).
    """
    F = namespace(matrix)
    return F.linalg.maketrian(F.linalg.extracttrian(matrix))


def outer_square(matrix):
    """
    A A^T, symmetric to the last bit.

    :param matrix: A (B..., D, E).
    :returns: (B..., D, D).
    """
    return namespace(matrix).linalg.syrk(matrix)


def transpose(matrix):
    """
    The last two axes exchanged.

    :param matrix: (B..., D, E).
    :returns: (B..., E, D).
    """
    return namespace(matrix).swapaxes(matrix, -1, -2)


def symmetric_part(matrix):
    """
    (A + A^T) / 2.

    :param matrix: (B..., D, D).
    :returns: (B..., D, D).
    """
    return 0.5 * (matrix + transpose(matrix))


def diagonal(matrix):
    """
    The diagonal.

    :param matrix: (B..., D, D).
    :returns: (B..., D).
    """
    return namespace(matrix).linalg.extractdiag(matrix)


def from_diagonal(vector):
    """
    Diagonal matrices.

    :param vector: (B..., D).
    :returns: (B..., D, D).
    """
    return namespace(vector).linalg.makediag(vector)


def identity_like(vector):
    """
    Identity matrices of the size of a vector.

    :param vector: (B..., D).
    :returns: (B..., D, D).
    """
    return from_diagonal(namespace(vector).ones_like(vector))


def outer(left, right):
    """
    Outer products; leading axes broadcast.

    :param left: (B..., N).
    :param right: (B..., M).
    :returns: (B..., N, M).
    """
    F = namespace(left)
    return axes.multiply(F.expand_dims(left, axis=-1), F.expand_dims(right, axis=-2))


def scale_rows(matrix, scale):
    """
    diag(s) A.

    :param matrix: A (B..., D, E).
    :param scale: s (B..., D).
    :returns: (B..., D, E).
    """
    return axes.multiply(matrix, namespace(scale).expand_dims(scale, axis=-1))


def take(array, index, axis):
    """
    Some positions along one of the last axes.

    :param array: NDArray or Symbol.
    :param index: list of non-negative integers.
    :param axis: -1 or -2.
    :returns: the array with len(index) positions there.
    """
    if namespace(array) is mx.nd:
        return mx.nd.take(array, mx.nd.array(index, ctx=array.context, dtype="int32"), axis=array.ndim + axis)
    slices = [mx.sym.slice_axis(array, axis=axis, begin=i, end=i + 1) for i in index]
    return mx.sym.concat(*slices, dim=axis) if len(slices) > 1 else slices[0]


def blocks(factor, count):
    """
    The three blocks of a lower triangular factor, split after a number of rows.

    :param factor: (B..., D, D).
    :param count: C, the size of the first block.
    :returns: L_aa (B..., C, C), L_ba (B..., D - C, C) and L_bb (B..., D - C, D - C).
    """
    F = namespace(factor)
    first = F.slice_axis(factor, axis=-1, begin=0, end=count)
    second = F.slice_axis(factor, axis=-1, begin=count, end=None)
    return (
        F.slice_axis(first, axis=-2, begin=0, end=count),
        F.slice_axis(first, axis=-2, begin=count, end=None),
        F.slice_axis(second, axis=-2, begin=count, end=None),
    )


def ridge_factor(matrix):
    """
    The Cholesky factor of I + V^T V, all of whose eigenvalues are at least 1.

    :param matrix: V (B..., D, E).
    :returns: lower triangular, (B..., E, E).
    """
    gram = namespace(matrix).linalg.syrk(matrix, transpose=True)
    return cholesky(gram + identity_like(diagonal(gram)))


def ridge_split(matrix, factor, rows):
    """
    The ridge regression a = (I + V^T V)^-1 V^T y of every row y on the columns of V, and what it leaves, y - V a.

    Then y^T (I + V V^T)^-1 y = |y - V a|^2 + |a|^2. One step of iterative refinement (Higham, Accuracy and Stability of
    Numerical Algorithms, chapter 12) takes the condition number of V out of the error.

    :param matrix: V (K, D, E).
    :param factor: that of :func:`ridge_factor`, (K, E, E).
    :param rows: y (K, R, D).
    :returns: a (K, R, E) and y - V a (K, R, D).
    """
    F = namespace(rows)

    def solve(right_hand_side):
        return solve_upper(factor, solve_lower(factor, right_hand_side))

    coefficients = solve(F.linalg.gemm2(rows, matrix))
    remainder = rows - multiply(matrix, coefficients)
    coefficients = coefficients + solve(F.linalg.gemm2(remainder, matrix) - coefficients)
    return coefficients, rows - multiply(matrix, coefficients)


def kronecker(left, right):
    """
    Kronecker products; leading axes broadcast.

    :param left: (B..., N, E).
    :param right: (B..., M, G).
    :returns: (B..., N M, E G).
    """
    F = namespace(left)
    left = F.expand_dims(F.expand_dims(left, axis=-1), axis=-3)  # N, 1, E, 1
    right = F.expand_dims(F.expand_dims(right, axis=-2), axis=-4)  # 1, M, 1, G
    return F.reshape(axes.multiply(left, right), shape=(-2, -3, -3), reverse=True)


def flatten(matrices):
    """
    The last two axes as one, row by row.

    :param matrices: (B..., N, M).
    :returns: (B..., N M).
    """
    return namespace(matrices).reshape(matrices, shape=(-2, -3), reverse=True)


def unflatten(vectors, example):
    """
    The last axis as two.

    :param vectors: (B..., N M).
    :param example: (..., N, M); its shape alone matters.
    :returns: (B..., N, M).
    """
    F = namespace(vectors)
    return F.reshape_like(vectors, example, lhs_begin=-1, lhs_end=None, rhs_begin=-2, rhs_end=None)


def on_last_axis(kernel, matrices):
    """
    Apply a kernel on rows to the rows of many matrices.

    :param kernel: function from (K, P, M) to (K, P, G).
    :param matrices: (K, R, N, M).
    :returns: (K, R, N, G).
    """
    F = namespace(matrices)
    rows = kernel(F.reshape(matrices, shape=(-2, -3, 0), reverse=True))
    return F.reshape_like(rows, matrices, lhs_begin=-2, lhs_end=-1, rhs_begin=-3, rhs_end=-1)
