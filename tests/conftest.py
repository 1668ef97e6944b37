# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: nothing random happens outside them."""

import os
import shutil
import sysconfig

import mxfusion_mvn  # noqa: F401  (first: it makes mxnet importable where NumPy is too new for it)
from mxfusion_mvn.compiler import passes
from mxfusion_mvn.compiler.symbols import check

import mxnet as mx
import numpy as np
import pytest

# Where there is no compiler there is no native engine to be tested.
_COMPILER = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
_ENGINES = ["native", "mxnet"] if shutil.which(_COMPILER) else ["mxnet"]
collect_ignore_glob = [] if "native" in _ENGINES else ["test_native_*.py"]


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


@pytest.fixture(params=_ENGINES)
def engine(request, monkeypatch):
    """Both ways to run a program: the native engine, and MXNet's operators."""
    monkeypatch.setenv("MXFUSION_MVN_NATIVE", "1" if request.param == "native" else "0")
    return request.param
