# SPDX-License-Identifier: Apache-2.0
"""A second factor that makes up for the rounding of the first.

The Cholesky factor L of a matrix A of condition number k carries a relative error k * eps into log det A and into
quadratic forms. The missing part is a matrix near I, whose factor K is well conditioned::

    A = L (I + M) L^T        I + M = K K^T        M = L^-1 (A - L L^T) L^-T

A - L L^T needs twice the working precision and nothing else does. As in Ozaki, Ogita, Oishi and Rump (Numerical
Algorithms 59, 2012), L is split into an upper part H of 21 bits, whose products float64 sums without rounding, and a
rest::

    A - L L^T = (A - H H^T) - 1/2 (R + R^T)        R = (L - H) (L + H)^T

The error that is left is about sqrt(k) * eps. K is held constant in gradients: it is I up to rounding.
"""

from mxfusion_mvn import linalg

import mxnet as mx
import numpy as np
from mxnet import autograd

# Adding and subtracting this multiple of a bound of x rounds x to 20 or 21 bits: sums of up to 2048 products of two
# such numbers fit into the 53 bits of float64.
_SPLITTER = 1.5 * 2.0**32
# Pivots that kept a quarter of the diagonal entry have lost two bits, which is not worth the work.
_CANCELLATION = 4.0
# Pivots of K further from 1 than this mean that the matrix is singular in working precision, or was repaired.
_LARGEST_PIVOT = 2.0


def refinement(matrix, factor):
    """
    The second factor of a matrix, if it is worth having.

    :param matrix: A (B..., D, D).
    :param factor: L, its Cholesky factor.
    :returns: K (B..., D, D), without gradient; None where no pivot has lost digits, and for anything but NDArrays of
        float64.
    """
    if not isinstance(matrix, mx.nd.NDArray) or matrix.dtype != np.float64:
        return None
    with autograd.pause():
        kept = linalg.diagonal(factor).asnumpy() ** 2
        if (linalg.diagonal(matrix).asnumpy() <= _CANCELLATION * kept).all():
            return None
        try:
            second = linalg.cholesky(_remainder(matrix, factor))
            pivots = linalg.diagonal(second).asnumpy()
        except mx.base.MXNetError:  # not positive definite in twice the precision
            return None
    sound = (pivots < _LARGEST_PIVOT) & (pivots > 1 / _LARGEST_PIVOT)
    return second if sound.all() else None


def _remainder(matrix, factor):
    """I + M, (B..., D, D)."""
    diagonal = linalg.diagonal(matrix)
    splitter = (_SPLITTER * diagonal.sqrt()).expand_dims(-1)  # |L_ij|^2 <= A_ii
    upper = (factor + splitter) - splitter
    rest = mx.nd.linalg.gemm2(factor - upper, factor + upper, transpose_b=True)
    missed = (matrix - mx.nd.linalg.gemm2(upper, upper, transpose_b=True)) - linalg.symmetric_part(rest)
    half = linalg.transpose(linalg.solve_lower(factor, missed))
    return linalg.identity_like(diagonal) + linalg.symmetric_part(linalg.solve_lower(factor, half))
