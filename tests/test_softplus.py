# SPDX-License-Identifier: Apache-2.0
"""Softplus and its inverse, to the last places."""

from mxfusion_mvn.transformations import (
    inverse_softplus,
    softplus,
)

import mxnet as mx
import numpy as np

from helpers.tolerances import assert_close
from helpers.transformed import exact_inverse_softplus, exact_sigmoid, exact_softplus, gradient_of


def softplus_grid(dtype):
    points = [0, -0.0, 39.999, 40, 40.001, -9.5, -14.3, -20, 20, 88.7, 89, 700, 1e4, 1e30]
    return np.concatenate([np.linspace(-85, 85, 341), points]).astype(dtype)


def test_softplus_value_to_the_last_places(dtype):
    x = softplus_grid(dtype)
    got = softplus(mx.nd.array(x, dtype=dtype))
    assert got.dtype == np.dtype(dtype)
    assert_close(got, exact_softplus(x), rtol=3 * np.finfo(dtype).eps)


def test_softplus_gradient_to_the_last_places(dtype):
    """Also in the left tail, where a difference of larger terms would give 0."""
    x = softplus_grid(dtype)
    assert_close(gradient_of(softplus, x), exact_sigmoid(x), rtol=4 * np.finfo(dtype).eps)


def test_softplus_gradient_at_zero_is_one_half(dtype):
    assert gradient_of(softplus, np.zeros(1, dtype)).tolist() == [0.5]


def test_softplus_at_infinity_and_nan(dtype):
    x = np.array([np.inf, -np.inf, np.nan], dtype)
    np.testing.assert_array_equal(softplus(mx.nd.array(x, dtype=dtype)).asnumpy(), [np.inf, 0, np.nan])
    np.testing.assert_array_equal(gradient_of(softplus, x), [1, 0, np.nan])


def test_softplus_is_positive_until_it_underflows(dtype):
    lowest = {"float32": -103.0, "float64": -744.0}[dtype]
    x = np.linspace(lowest, 0, 1000).astype(dtype)
    assert (softplus(mx.nd.array(x, dtype=dtype)).asnumpy() > 0).all()


def inverse_grid(dtype):
    return np.concatenate([np.logspace(-30, 30, 241), np.linspace(0.5, 1, 51), [88.7, 89.2, 709, 711]]).astype(dtype)


def test_inverse_softplus_from_tiny_to_huge(dtype):
    y = inverse_grid(dtype)
    got = inverse_softplus(mx.nd.array(y, dtype=dtype)).asnumpy()
    expected = exact_inverse_softplus(y)
    assert got.dtype == np.dtype(dtype)
    assert np.isfinite(got).all()
    # Near y = log 2 the result passes through zero, so the error is absolute there.
    assert (np.abs(got - expected) / (1 + np.abs(expected))).max() < 2 * np.finfo(dtype).eps


def test_softplus_of_inverse_is_as_good_as_the_raw_number_allows(dtype):
    y = inverse_grid(dtype)
    got = softplus(inverse_softplus(mx.nd.array(y, dtype=dtype))).asnumpy()
    relative = np.abs(got.astype("float64") - y) / y
    assert (relative / (1 + np.abs(np.log(y.astype("float64"))))).max() < 2 * np.finfo(dtype).eps
