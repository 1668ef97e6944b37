# SPDX-License-Identifier: Apache-2.0
"""Ridge regression on the columns of a matrix V: computations with I + V V^T without a matrix of its size.

The same code for NDArray and Symbol, on the last axes, as in :mod:`mxfusion_mvn.linalg`.
"""

from mxfusion_mvn import linalg
from mxfusion_mvn.linalg.axes import namespace

import mxnet as mx
from mxnet import autograd


def ridge_factor(matrix):
    """
    A triangular factor L of I + V^T V, all of whose eigenvalues are at least 1.

    The orthogonal factorisation [V^T, I] = L Q never forms V^T V, so the error goes with the condition number of V and
    not with its square, and nothing can fail. While recording, and of Symbols, it is the Cholesky factor, which takes
    less time.

    :param matrix: V (B..., D, E).
    :returns: lower triangular, (B..., E, E), its diagonal of any sign.
    """
    F = namespace(matrix)
    if F is mx.nd and not autograd.is_recording():
        identity = linalg.identity_like(matrix.slice_axis(axis=-2, begin=0, end=1).reshape((*matrix.shape[:-2], -1)))
        return linalg.triangular_factor(F.concat(linalg.transpose(matrix), identity, dim=-1))
    gram = F.linalg.syrk(matrix, transpose=True)
    return linalg.cholesky(gram + linalg.identity_like(linalg.diagonal(gram)))


def ridge_coefficients(matrix, factor, rows):
    """
    The ridge regression a = (I + V^T V)^-1 V^T y of every row y on the columns of V.

    One step of iterative refinement (Higham, Accuracy and Stability of Numerical Algorithms, chapter 12) takes the
    condition number of V out of the error.

    :param matrix: V (K, D, E).
    :param factor: the factor of :func:`ridge_factor`, (K, E, E).
    :param rows: y (K, R, D).
    :returns: a (K, R, E).
    """
    F = namespace(rows)

    def solve(right_hand_side):
        return linalg.solve_upper(factor, linalg.solve_lower(factor, right_hand_side))

    coefficients = solve(F.linalg.gemm2(rows, matrix))
    remainder = rows - linalg.multiply(matrix, coefficients)
    return coefficients + solve(F.linalg.gemm2(remainder, matrix) - coefficients)
