# SPDX-License-Identifier: Apache-2.0
"""The log pdf against 50 digits: float32 loses none, float64 half of those that the condition number takes."""

from mxfusion_mvn import Gaussian

import mxnet as mx
import numpy as np
import pytest

from helpers import oracles
from helpers.fifty_digits import DRAWS, FORMS, inputs, log_pdf, relative_error

CONDITIONS = {"float32": (1, 1e3, 1e6), "float64": (1, 1e3, 1e8, 1e14)}
# Of float64, in machine epsilons, for each unit of the square root of the condition number of the covariance.
LOSS = 8


def largest_error_allowed(dtype, condition):
    if dtype == "float32":
        return np.finfo("float32").eps  # computed in float64, rounded once
    return (4 + LOSS * condition**0.5) * np.finfo("float64").eps


@pytest.mark.parametrize(
    ("dtype", "condition"), [(dtype, condition) for dtype in CONDITIONS for condition in CONDITIONS[dtype]]
)
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("form", FORMS)
def test_error_is_what_the_condition_number_allows(form, draw, dtype, condition, rng):
    for dim in (2, 10):
        for mean, matrix, value in zip(*inputs(rng, form, draw, dtype, dim, condition, replicates=5)):
            gaussian = Gaussian(mx.nd.array(mean, dtype=dtype), **{form: mx.nd.array(matrix, dtype=dtype)})
            got = gaussian.log_pdf(mx.nd.array(value, dtype=dtype))
            assert got.dtype == np.dtype(dtype)
            error = relative_error(got.asscalar(), log_pdf(value, mean, matrix, form))
            assert error <= largest_error_allowed(dtype, condition), (dim, error)


@pytest.mark.parametrize("form", FORMS)
def test_fifty_digits_begin_like_scipy(form, rng):
    for mean, matrix, value in zip(*inputs(rng, form, "from the distribution", "float64", 4, 10.0, replicates=3)):
        expected = oracles.log_pdf(value, mean, oracles.TO_COVARIANCE[form](matrix))
        assert relative_error(expected, log_pdf(value, mean, matrix, form)) < 1e-13
