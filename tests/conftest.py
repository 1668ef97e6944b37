# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: nothing random happens outside them."""

import mxfusion_mvn  # noqa: F401  (first: it makes mxnet importable where NumPy is too new for it)
from mxfusion_mvn.compiler import passes
from mxfusion_mvn.compiler.symbols import check

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


@pytest.fixture(autouse=True)
def checked_graphs(monkeypatch):
    """Each graph that is simplified is held against MXNet's own inference of shapes and types after each pass."""
    simplified = passes.passes

    def checked(graph, is_derived=True):
        check(graph)
        for name, passed in simplified(graph, is_derived):
            try:
                check(passed)
            except AssertionError as error:
                raise AssertionError(f"after the pass `{name}`: {error}") from error
            yield name, passed

    monkeypatch.setattr(passes, "passes", checked)
