# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions for maps from all reals to positive values, without overflow, and an orthonormal basis.

With c = 20, the exponential of x and, beyond c, its tangent::

    growth(x) = e^x  for x <= c,        e^c (1 + x - c)  for x > c
"""

import math

import numpy as np
from mxnet import nd

# e^20 times raw values in the thousands can be squared in float32.
_LINEAR_ABOVE = 20.0
# exp of this is far from the smallest float32, and exp of half of it can be squared.
SMALLEST_LOG = -80.0
# For scales and shares, which densities square.
SMALLEST_LOG_SCALE = 0.5 * SMALLEST_LOG


def growth(x, smallest=SMALLEST_LOG):
    """
    The exponential of entries, continued by its tangent.

    :param x: NDArray.
    :param smallest: where the function stops to fall, so that it does not underflow.
    :returns: NDArray of the same shape.
    """
    return nd.exp(nd.maximum(nd.minimum(x, _LINEAR_ABOVE), smallest)) * (1 + nd.relu(x - _LINEAR_ABOVE))


def log_growth(x):
    """Log of :func:`growth`, where that has not stopped to fall."""
    return nd.minimum(x, _LINEAR_ABOVE) + nd.log1p(nd.relu(x - _LINEAR_ABOVE))


def log_slope(x):
    """Log of the derivative of :func:`growth`, where that has not stopped to fall."""
    return nd.minimum(x, _LINEAR_ABOVE)


def inverse_growth(y):
    """The inverse of :func:`growth`, of a positive NDArray."""
    largest = math.exp(_LINEAR_ABOVE)
    return nd.where(y > largest, y / largest + (_LINEAR_ABOVE - 1), nd.log(nd.minimum(y, largest)))


def log_sech(x):
    """Log of 1 / cosh(x), without overflow."""
    size = nd.abs(x)
    return math.log(2) - size - nd.log1p(nd.exp(-2 * size))


def log_ratio_basis(size):
    """
    An orthonormal basis of the vectors whose sum is zero (Helmert's).

    :param size: K, a positive integer.
    :returns: NumPy array (K, K - 1).
    """
    basis = np.zeros((size, size - 1))
    for k in range(1, size):
        basis[:k, k - 1] = 1.0 / k
        basis[k, k - 1] = -1.0
        basis[:, k - 1] /= math.sqrt(1.0 + 1.0 / k)
    return basis


def next_to(bound, other, dtype):
    """
    The value next to a bound, on the side of another bound.

    :param bound: NumPy array.
    :param other: NumPy array that broadcasts with it.
    :param dtype: the dtype in which to step.
    :returns: NumPy array; for a bound of 0 the smallest normal number.
    """
    near = np.nextafter(bound.astype(dtype), other.astype(dtype))
    return np.where(bound == 0, np.sign(other) * np.finfo(dtype).tiny, near).astype(dtype)
