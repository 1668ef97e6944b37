# SPDX-License-Identifier: Apache-2.0
"""Error-free transformations of matrices and of their products."""

from mxfusion_mvn import linalg
from mxfusion_mvn.linalg.axes import namespace


def split(matrix):
    """
    A matrix as the sum of two, in float32 the first with so few significant bits that products of two such are exact.

    These are at most 11, on one grid per row, by adding and subtracting a large number (Rump, Ogita and
    Oishi, Accurate floating-point summation, SIAM J. Sci. Comput. 31, 2008). The derivative is that of the matrix.

    :param matrix: (B..., D, E).
    :returns: the leading part and the rest, each (B..., D, E).
    """
    F = namespace(matrix)
    large = linalg.constant(2.0**14 * F.max(F.abs(matrix), axis=-1, keepdims=True))
    leading = F.broadcast_sub(F.broadcast_add(matrix, large), large)
    return leading, matrix - leading


def subtract_product(parts, coefficients, rows):
    """
    y - A x for every row y, in float32 to the last digits also where y and A x are nearly equal.

    :param parts: A (K, D, E) alone, or as :func:`split` gives it: a sequence.
    :param coefficients: x (K, R, E).
    :param rows: y (K, R, D).
    :returns: (K, R, D).
    """
    if len(parts) == 1:
        return rows - linalg.multiply(parts[0], coefficients)
    leading, rest = parts
    coarse, fine = split(coefficients)
    rows = rows - linalg.multiply(leading, coarse) - linalg.multiply(leading, fine)
    return rows - linalg.multiply(rest, coefficients)
