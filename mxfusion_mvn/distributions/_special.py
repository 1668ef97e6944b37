# SPDX-License-Identifier: Apache-2.0
"""Differences of log gamma functions, accurate for arguments of any size, with gradients of the same quality.

For large x log Gamma is of size x log x, and differences of it lose all digits. Stirling's formula has them in closed
form but for a small rest r(x) (Abramowitz and Stegun, Handbook of Mathematical Functions, 6.1.40 and 6.3.18, with B_2n
the Bernoulli numbers), which is all that has to be computed::

    log Gamma(x) = (x - 1/2) log x - x + 1/2 log 2 pi + r(x)
    r(x) = sum_n B_2n / (2 n (2 n - 1) x^(2 n - 1))            for x >= 10, else by log Gamma itself
    log Gamma(x + a) - log Gamma(x) - a log x = (x + a - 1/2) log(1 + a/x) - a + r(x + a) - r(x)

MXNet's own digamma, the gradient of its ``gammaln``, has errors of 1e-7 in float64 too. Here (6.3.5, with z = x + 10)::

    digamma(x) = log z - 1 / (2 z) - sum_n B_2n / (2 n z^2n) - sum_i 1 / (x + i),   i = 0, ..., 9
"""

import math

from mxfusion_mvn.linalg import constant, is_differentiated

import mxnet as mx
import numpy as np

_SHIFT = 10
# B_2n / (2 n), n = 1, ..., 6; for z >= 10 the first one left out is below 1e-15.
_COEFFICIENTS = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def log_gamma_excess(x, steps):
    """
    log Gamma(x + a) - log Gamma(x) - a log x, which goes to 0 as x grows.

    :param x: NDArray (B..., 1) of float64, positive.
    :param steps: a, NumPy array (K,), greater than -x.
    :returns: NDArray (B..., K).
    """
    steps = mx.nd.array(steps, dtype=x.dtype, ctx=x.context)
    shifted = mx.nd.broadcast_add(x, steps)
    rest = mx.nd.broadcast_sub(stirling_rest(shifted), stirling_rest(x))
    curved = (shifted - 0.5) * mx.nd.log1p(mx.nd.broadcast_div(steps.reshape((1,) * (x.ndim - 1) + (-1,)), x))
    return mx.nd.broadcast_sub(curved, steps) + rest


def log_multivariate_gamma_excess(x, dim):
    """
    log Gamma_D(x) - D (x log x - x), Gamma_D(x) = pi^(D (D - 1) / 4) prod_i Gamma(x - i / 2), i = 0, ..., D - 1.

    :param x: NDArray (B..., 1) of float64, greater than (D - 1) / 2.
    :param dim: D.
    :returns: NDArray (B...).
    """
    pairs = 0.25 * dim * (dim - 1)
    first = dim * stirling_rest(x) - (pairs + 0.5 * dim) * mx.nd.log(x)
    rest = mx.nd.sum(log_gamma_excess(x, -0.5 * np.arange(dim)), axis=-1)
    return first.reshape(rest.shape) + rest + (pairs * math.log(math.pi) + dim * _HALF_LOG_2PI)


def stirling_rest(x):
    """
    The rest of Stirling's formula, r(x) = log Gamma(x) - (x - 1/2) log x + x - 1/2 log 2 pi.

    :param x: NDArray of float64 with at least one axis, positive.
    :returns: NDArray of that shape.
    """
    held = constant(x)
    is_large, small, large = held > _SHIFT, mx.nd.minimum(held, _SHIFT), mx.nd.maximum(held, _SHIFT)
    inverse, log_small = 1 / large, mx.nd.log(small)
    by_series = _series([c / (2 * n + 1) for n, c in enumerate(_COEFFICIENTS)], inverse) / inverse
    by_gamma = mx.nd.gammaln(small) - (small - 0.5) * log_small + small - _HALF_LOG_2PI
    value = mx.nd.where(is_large, by_series, by_gamma)
    if not is_differentiated(x):
        return value
    slope = mx.nd.where(is_large, -_series(_COEFFICIENTS, inverse), digamma(small) - log_small + 0.5 / small)
    # The second term is 0, and has the gradient.
    return value + slope * (x - held)


def digamma(x):
    """
    The derivative of log Gamma.

    :param x: NDArray of any shape with at least one axis, positive.
    :returns: NDArray of that shape.
    """
    steps = mx.nd.arange(_SHIFT, dtype=x.dtype, ctx=x.context)
    recurrence = mx.nd.sum(1 / mx.nd.broadcast_add(x.expand_dims(axis=-1), steps), axis=-1)
    inverse = 1 / (x + _SHIFT)
    return -mx.nd.log(inverse) - 0.5 * inverse - _series(_COEFFICIENTS, inverse) - recurrence


def _series(coefficients, inverse):
    """Sum of c_n / z^2n, n = 1, 2, ..."""
    square = mx.nd.square(inverse)
    series = 0
    for coefficient in reversed(coefficients):
        series = (series + coefficient) * square
    return series
