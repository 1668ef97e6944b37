# SPDX-License-Identifier: Apache-2.0
"""Runs from statistics of rows with missing entries are those from all rows."""

from mxfusion_mvn import GaussianStatistics, MultivariateNormal, OnFailure
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    GradBasedInference,
    LaplaceApproximation,
    create_Gaussian_fullrank,
)
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.transformations import LowerCholesky, Positive, PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import StochasticVariationalInference

from helpers.host import nd
from helpers.tolerances import assert_close

ROUNDING = {"float32": 1e-5, "float64": 1e-12}
DIM = 4
FORMS = {
    "covariance": (PositiveDefinite, np.eye(DIM), {}),
    "precision": (PositiveDefinite, np.eye(DIM), {}),
    "scale_tril": (LowerCholesky, np.eye(DIM), {}),
    "one variance": (Positive, [[2.0]], {}),
    "policy": (PositiveDefinite, np.eye(DIM), {"on_failure": OnFailure("jitter")}),
}


def model_of(form, dtype):
    transformation, begin, options = FORMS[form]
    m = Model()
    m.N = Variable()
    m.mu = MultivariateNormal(covariance=100.0, shape=(DIM,), dtype=dtype)
    m.V = Variable(shape=np.shape(begin), transformation=transformation(), initial_value=nd(begin, dtype))
    options = {form if form in ("precision", "scale_tril") else "covariance": m.V, **options}
    m.X = MultivariateNormal(m.mu, shape=(m.N, DIM), missing=True, dtype=dtype, **options)
    return m


def rows_of(rng, share=0.25, count=300, empty=True):
    root = np.tril(rng.normal(size=(DIM, DIM)), -1) + np.diag([0.5, 1.0, 1.5, 2.0])
    rows = (2 + rng.normal(size=(count, DIM)) @ root.T).astype("float32")
    rows[rng.random(rows.shape) < share] = np.nan
    rows[:3] = np.nan if empty else rows[:3]
    return rows


def algorithm_of(m, kind):
    if kind == "map":
        return MAP(m, [m.X])
    q = create_Gaussian_fullrank(m, [m.X], entropy="sticking_the_landing")
    return StochasticVariationalInference(DIM, m, q, [m.X])  # as many samples as entries


def run(form, kind, loop, dtype, data, rate=0.05, max_iter=20):
    """The inference, its losses, its parameters and their gradients by name."""
    mx.random.seed(3)
    m = model_of(form, dtype)
    inference = GradBasedInference(algorithm_of(m, kind), grad_loop=loop, dtype=dtype)
    record = inference.run(X=data, learning_rate=rate, max_iter=max_iter)
    variables = {uuid: variable for graph in inference.graphs for uuid, variable in graph.variables.items()}
    parameters = {name_of(variables[uuid]): p for uuid, p in inference.params.param_dict.items()}
    values = {name: parameter.data().asnumpy() for name, parameter in parameters.items()}
    return inference, record, values, {name: parameter.grad().asnumpy() for name, parameter in parameters.items()}


def assert_same(one, other, rtol):
    assert set(one) == set(other)
    for name, yours in other.items():
        assert_close(one[name], yours, rtol=0, atol=rtol * np.abs(yours).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["map", "full rank"])
def test_value_and_gradient_are_those_of_all_rows(form, kind, dtype, rng):
    rows = rows_of(rng)
    statistics = GaussianStatistics.of([rows[:100], rows[100:]])
    assert statistics.patterns > 10
    _, got, _, gradients = run(form, kind, BatchLoop(), dtype, statistics, 1e-30, 1)
    _, expected, _, expected_gradients = run(form, kind, BatchLoop(), dtype, rows, 1e-30, 1)
    assert_close(got.loss, expected.loss, rtol=ROUNDING[dtype])
    assert_same(gradients, expected_gradients, ROUNDING[dtype])


@pytest.mark.parametrize(("share", "kind"), [(0.0, "map"), (0.02, "map"), (0.5, "map"), (0.5, "full rank")])
def test_a_compiled_run_is_that_from_all_rows(share, kind, dtype, rng):
    rows = rows_of(rng, share, empty=share > 0)
    _, got, values, _ = run("covariance", kind, CompiledLoop(), dtype, GaussianStatistics.of(rows))
    _, expected, expected_values, _ = run("covariance", kind, CompiledLoop(), dtype, rows)
    assert got.compiled
    assert_close(got.loss, expected.loss, rtol=20 * ROUNDING[dtype])
    assert_same(values, expected_values, 50 * ROUNDING[dtype])


def test_by_laplace_too(rng):
    rows = rows_of(rng, count=60)
    found = []
    for data in (GaussianStatistics.of(rows), rows):
        found.append(LaplaceApproximation(run("covariance", "map", CompiledLoop(), "float64", data)[0]))
    assert_close(found[0].mean, found[1].mean, rtol=1e-9)
    assert_close(found[0].covariance, found[1].covariance, rtol=1e-7, atol=1e-12)
    assert_close(found[0].log_evidence, found[1].log_evidence, rtol=1e-10)


def test_rows_of_one_pattern_only(rng):
    rows = rows_of(rng, 0.0, empty=False)
    rows[:, 1] = np.nan
    losses = [
        run("covariance", "map", CompiledLoop(), "float64", data)[1].loss
        for data in (GaussianStatistics.of(rows), rows)
    ]
    assert_close(*losses, rtol=1e-12)


def test_each_row_with_a_pattern_of_its_own(rng):
    rows = rng.normal(size=(2**DIM - 1, DIM))
    rows[[[(i >> j) & 1 == 0 for j in range(DIM)] for i in range(1, 2**DIM)]] = np.nan
    statistics = GaussianStatistics.of(rows)
    assert statistics.patterns == len(rows)
    got, expected = (run("covariance", "map", BatchLoop(), "float64", data)[1].loss for data in (statistics, rows))
    assert_close(got, expected, rtol=1e-12)
