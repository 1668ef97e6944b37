# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: nothing random happens outside them."""

import mxfusion_mvn  # noqa: F401  (first: it makes mxnet importable where NumPy is too new for it)

import mxnet as mx
import numpy as np
import pytest


@pytest.fixture
def rng():
    """A seeded NumPy generator; MXNet's own streams are seeded with it."""
    mx.random.seed(20240229)
    np.random.seed(20240229)
    return np.random.default_rng(20240229)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions MXNet's linear algebra has."""
    return request.param
