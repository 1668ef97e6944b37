# SPDX-License-Identifier: Apache-2.0
"""Kernels on matrices and their triangular factors, by MXNet's linear algebra, the same code for NDArray and Symbol.

All act on the last axes and read no shape. Vectors are the *rows* of (K, R, D), so that any number R of them meets a
factor (K, D, D) in one call. Only the lower triangle of a factor is read.
"""

from mxfusion_mvn.linalg import axes
from mxfusion_mvn.linalg.axes import namespace

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


def triangular_factor(root):
    """
    Lower triangular L with L L^T = A A^T, without forming the product: A = L Q with orthonormal rows of Q.

    Its error grows with the condition number of A; the error of the Cholesky factor of A A^T grows with its square. It
    cannot fail. The gradient needs an A of full rank.

    :param root: A (B..., D, E), E >= D.
    :returns: (B..., D, D), its diagonal of any sign.
    """
    return namespace(root).linalg.gelqf(root)[1]


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


def squared_norm(vectors):
    """
    |z|^2 of every vector.

    :param vectors: z (B..., E).
    :returns: (B...), or (1,) for a single vector.
    """
    F = namespace(vectors)
    return F.sum(F.square(vectors), axis=-1)


def log_abs_det(factor):
    """
    log |det L| of a triangular factor, whose diagonal may have any sign.

    :param factor: L, lower triangular, (B..., D, D).
    :returns: sum of log |L_ii|, (B...), or (1,) for a single matrix.
    """
    F = namespace(factor)
    # The gradient of sumlogdiag fills a triangle with zeros, at ten times the cost of this one.
    return F.sum(F.log(F.abs(diagonal(factor))), axis=-1)


def multiply(matrix, rows):
    """
    A x for every row x.

    :param matrix: A (K, E, D).
    :param rows: (K, R, D).
    :returns: (K, R, E).
    """
    return namespace(rows).linalg.gemm2(rows, matrix, transpose_b=True)


def gram(rows):
    """
    Sum of the outer products x x^T of the rows.

    :param rows: (K, R, D).
    :returns: (K, D, D).
    """
    return weighted_sum(rows, rows)


def weighted_sum(weights, rows):
    """
    Sum of the outer products w x^T of pairs of rows.

    :param weights: w (K, R, E).
    :param rows: x (K, R, D).
    :returns: (K, E, D).
    """
    return namespace(rows).linalg.gemm2(weights, rows, transpose_a=True)


def solve_columns(factor, matrix, scale=1.0):
    """
    s L^-T A, by substitution.

    :param factor: L, lower triangular, (K, D, D).
    :param matrix: A (K, D, E).
    :param scale: s, a number.
    :returns: (K, D, E).
    """
    return namespace(matrix).linalg.trsm(factor, matrix, transpose=True, alpha=scale)


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
    if namespace(matrix) is mx.nd:  # much faster, but needs to know the number of axes
        *leading, rows, columns = range(matrix.ndim)
        return matrix.transpose((*leading, columns, rows))
    return mx.sym.swapaxes(matrix, -1, -2)


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


def with_diagonal(vector, matrix):
    """
    A matrix with its diagonal replaced.

    :param vector: the new diagonal, (B..., D).
    :param matrix: (B..., D, D).
    :returns: (B..., D, D).
    """
    # `where` leaves the old diagonal out, rather than subtracting it and trusting that it cancels; and a strict
    # triangle, which maketrian can make, is an empty array for D = 1.
    return namespace(matrix).where(identity_like(vector), from_diagonal(vector), matrix)


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


def multiply_entries(scale, rows):
    """
    diag(s) x for every row x.

    :param scale: s as a row, (K, 1, D).
    :param rows: (K, R, D).
    :returns: (K, R, D).
    """
    return namespace(rows).broadcast_mul(rows, scale)


def divide_entries(scale, rows):
    """
    diag(s)^-1 x for every row x.

    :param scale: s as a row, (K, 1, D).
    :param rows: (K, R, D).
    :returns: (K, R, D).
    """
    return namespace(rows).broadcast_div(rows, scale)


def as_row(vector):
    """
    A vector as a matrix of one row.

    :param vector: (B..., D).
    :returns: (B..., 1, D).
    """
    return namespace(vector).expand_dims(vector, axis=-2)


def take(array, index, axis):
    """
    Some positions along one of the last axes.

    :param array: NDArray or Symbol.
    :param index: list of non-negative integers.
    :param axis: -1 or -2.
    :returns: the array with len(index) positions there.
    :raises ValueError: for a position that an NDArray has not.
    """
    if namespace(array) is mx.nd:
        check_positions(index, array.shape[axis])
        return mx.nd.take(array, mx.nd.array(index, ctx=array.context, dtype="int32"), axis=array.ndim + axis)
    slices = [mx.sym.slice_axis(array, axis=axis, begin=i, end=i + 1) for i in index]
    return mx.sym.concat(*slices, dim=axis) if len(slices) > 1 else slices[0]


def check_positions(index, size):
    """
    Refuse positions that are not there: MXNet would take the nearest ones.

    :param index: list of integers.
    :param size: how many positions there are.
    :raises ValueError: unless all are from 0 to size - 1.
    """
    for position in index:
        if not 0 <= position < size:
            raise ValueError(
                f"`index`: got {position}; expected positions from 0 to {size - 1}. Count from the first entry, 0."
            )


def submatrix(matrix, rows, columns):
    """
    Some rows and columns.

    :param matrix: (B..., D, E).
    :param rows: list of positions.
    :param columns: list of positions.
    :returns: (B..., len(rows), len(columns)).
    """
    return take(take(matrix, rows, axis=-2), columns, axis=-1)


def size(matrix):
    """
    The number of rows of square matrices.

    :param matrix: (B..., D, D).
    :returns: the integer D for NDArrays; for Symbols an expression of shape (B...) with that value.
    """
    return matrix.shape[-1] if namespace(matrix) is mx.nd else axes.size_of_last(diagonal(matrix))


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
