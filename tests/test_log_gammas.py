# SPDX-License-Identifier: Apache-2.0
"""The log gamma function, its differences and its derivative: exact at any size."""

from mxfusion_mvn.distributions._special import (
    digamma,
    log_gamma_excess,
    log_multivariate_gamma_excess,
    stirling_rest,
)

import mpmath
import mxnet as mx
import numpy as np
import pytest
from scipy import special

from helpers.host import nd
from helpers.tolerances import assert_close


def test_digamma_is_exact():
    """MXNet's own has errors of 1e-7."""
    x = np.concatenate([np.geomspace(1e-3, 1e6, 400), np.linspace(1.3, 1.6, 50)])
    for dtype, tolerance in (("float64", 4e-15), ("float32", 1e-6)):
        array = nd(x, dtype)
        exact = special.digamma(array.asnumpy().astype("float64"))
        assert_close(digamma(array), exact, rtol=tolerance, atol=tolerance)


def exact_rest(x):
    return mpmath.loggamma(x) - (x - 0.5) * mpmath.log(x) + x - mpmath.log(2 * mpmath.pi) / 2


def exact_excess(x, step):
    return mpmath.loggamma(x + step) - mpmath.loggamma(x) - step * mpmath.log(x)


def exact_multivariate_excess(x, dim):
    gammas = sum(mpmath.loggamma(x - mpmath.mpf(i) / 2) for i in range(dim))
    return gammas + mpmath.log(mpmath.pi) * dim * (dim - 1) / 4 - dim * (x * mpmath.log(x) - x)


SPECIAL = {
    "rest": (stirling_rest, exact_rest),
    "excess": (lambda x: log_gamma_excess(x, np.array([2.5])), lambda x: exact_excess(x, mpmath.mpf(5) / 2)),
    "no excess": (lambda x: log_gamma_excess(x, np.array([0.0])), lambda x: mpmath.mpf(0) * x),
    "multivariate": (
        lambda x: log_multivariate_gamma_excess(x, 4).expand_dims(-1),
        lambda x: exact_multivariate_excess(x, 4),
    ),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_differences_of_log_gammas_at_any_size(name):
    function, exact = SPECIAL[name]
    x = np.concatenate([np.geomspace(1.6, 1e30, 61), [9.99, 10.0, 10.01]])
    array = nd(x[:, None])
    array.attach_grad()
    with mx.autograd.record():
        value = function(array)
    value.backward()
    with mpmath.workdps(80):
        # As the step goes with x, so many digits are lost in neither difference.
        expected = [float(exact(mpmath.mpf(each))) for each in x]
        slopes = [
            float((exact(each + h) - exact(each - h)) / (2 * h)) for each in map(mpmath.mpf, x) for h in [each / 10**15]
        ]
    assert_close(value, np.array(expected)[:, None], rtol=2e-14, atol=3e-15)
    assert_close(array.grad * array, (np.array(slopes) * x)[:, None], rtol=2e-12, atol=1e-14)
