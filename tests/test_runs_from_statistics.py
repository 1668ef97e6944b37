# SPDX-License-Identifier: Apache-2.0
"""Runs from statistics are those from all rows: values, gradients, results."""

from mxfusion_mvn import (
    GaussianStatistics,
    InverseWishart,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateNormal,
    MultivariateNormalMeanPrecision,
    OnFailure,
)
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    GradBasedInference,
    LaplaceApproximation,
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
    log_density,
    summary,
    to_arviz,
)
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.transformations import LowerCholesky, Positive, PositiveDefinite

import mxfusion.inference as host
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import StochasticVariationalInference

from helpers.fitting import adam
from helpers.host import nd
from helpers.tolerances import assert_close

ROUNDING = {"float32": 1e-5, "float64": 1e-12}
LOOPS = {"batch": BatchLoop, "compiled": CompiledLoop, "host": host.BatchInferenceLoop}
DIM = 4


def matrix(transformation, dim=DIM, dtype="float64"):
    return Variable(shape=(dim, dim), transformation=transformation, initial_value=nd(np.eye(dim), dtype))


def covariance(m, **kw):
    m.V = matrix(PositiveDefinite(), dtype=kw["dtype"])
    m.X = MultivariateNormal(m.mu, covariance=m.V, shape=(m.N, DIM), **kw)


def precision(m, **kw):
    m.V = matrix(PositiveDefinite(), dtype=kw["dtype"])
    m.X = MultivariateNormal(m.mu, precision=m.V, shape=(m.N, DIM), **kw)


def mean_precision(m, **kw):
    m.V = matrix(PositiveDefinite(), dtype=kw["dtype"])
    m.X = MultivariateNormalMeanPrecision(m.mu, m.V, shape=(m.N, DIM), **kw)


def scale_tril(m, **kw):
    m.V = matrix(LowerCholesky(), dtype=kw["dtype"])
    m.X = MultivariateNormal(m.mu, scale_tril=m.V, shape=(m.N, DIM), **kw)


def with_policy(m, **kw):
    m.V = matrix(PositiveDefinite(), dtype=kw["dtype"])
    m.X = MultivariateNormal(m.mu, covariance=m.V, shape=(m.N, DIM), on_failure=OnFailure("jitter"), **kw)


def one_variance(m, **kw):
    m.V = Variable(shape=(1, 1), transformation=Positive(), initial_value=nd([[2.0]], kw["dtype"]))
    m.X = MultivariateNormal(m.mu, covariance=m.V, shape=(m.N, DIM), **kw)


def low_rank(m, **kw):
    dtype = kw["dtype"]
    m.W = Variable(shape=(DIM, 2), initial_value=nd(0.3 * np.arange(2 * DIM).reshape(DIM, 2) - 1, dtype))
    m.d = Variable(shape=(DIM,), transformation=Positive(), initial_value=nd(np.ones(DIM), dtype))
    m.X = LowRankMultivariateNormal(m.mu, m.W, m.d, shape=(m.N, DIM), **kw)


def matrix_normal(m, **kw):
    dtype = kw["dtype"]
    m.M = Variable(shape=(2, 2), initial_value=nd(np.zeros((2, 2)), dtype))
    m.R = matrix(PositiveDefinite(), 2, dtype)
    m.C = matrix(LowerCholesky(), 2, dtype)
    m.X = MatrixNormal(m.M, row_covariance=m.R, column_scale_tril=m.C, shape=(m.N, 2, 2), **kw)


KINDS = [covariance, precision, mean_precision, scale_tril, with_policy, one_variance, low_rank, matrix_normal]


def model_of(kind, dtype, begin=None, **kw):
    """A model whose matrices are parameters, and whose mean has a prior, or is a parameter that begins somewhere."""
    m = Model()
    m.N = Variable()
    if begin is not None:
        m.mu = Variable(shape=(DIM,), initial_value=nd(np.full(DIM, begin), dtype))
    elif kind is not matrix_normal:
        m.mu = MultivariateNormal(covariance=100.0, shape=(DIM,), dtype=dtype)
    kind(m, dtype=dtype, **kw)
    return m


def rows_of(rng, kind, count=300, mean=2.0, dtype="float32"):
    root = np.tril(rng.normal(size=(DIM, DIM)), -1) + np.diag([0.5, 1.0, 1.5, 2.0])
    rows = (mean + rng.normal(size=(count, DIM)) @ root.T).astype(dtype)
    return rows.reshape(count, 2, 2) if kind is matrix_normal else rows


def algorithms(m):
    return {
        "map": lambda: MAP(m, [m.X]),
        "host's map": lambda: host.MAP(m, [m.X]),
        "mean field": lambda: StochasticVariationalInference(3, m, create_Gaussian_meanfield(m, [m.X]), [m.X]),
        "low rank": lambda: StochasticVariationalInference(3, m, create_Gaussian_lowrank(m, [m.X], rank=1), [m.X]),
        "full rank": lambda: StochasticVariationalInference(
            DIM, m, create_Gaussian_fullrank(m, [m.X], entropy="sticking_the_landing"), [m.X]
        ),
    }


def started(m, algorithm, loop, dtype):
    mx.random.seed(3)
    return GradBasedInference(algorithms(m)[algorithm](), grad_loop=LOOPS[loop](), dtype=dtype)


def one_evaluation(kind, algorithm, dtype, data, **kw):
    """Loss and gradients at the start, as the imperative objective gives them, by name."""
    m = model_of(kind, dtype, **kw)
    inference = started(m, algorithm, "batch", dtype)
    inference.run(X=data, learning_rate=1e-30, max_iter=1)
    return inference._grad_loop.record.loss[0], by_name(inference, lambda parameter: parameter.grad())


def fitted(kind, algorithm, loop, dtype, data, max_iter=25, **kw):
    m = model_of(kind, dtype, **kw)
    inference = started(m, algorithm, loop, dtype)
    record = inference.run(X=data, learning_rate=0.05, max_iter=max_iter)
    return inference, record, by_name(inference, lambda parameter: parameter.data())


def by_name(inference, array_of):
    variables = {uuid: variable for graph in inference.graphs for uuid, variable in graph.variables.items()}
    arrays = inference.params.param_dict.items()
    return {name_of(variables[uuid]): array_of(parameter).asnumpy() for uuid, parameter in arrays}


def assert_same(one, other, rtol):
    assert set(one) == set(other)
    for name, yours in other.items():
        assert_close(one[name], yours, rtol=0, atol=rtol * np.abs(yours).max())


# Value and gradient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ["map", "full rank"])
def test_value_and_gradient_are_those_of_all_rows(kind, algorithm, dtype, rng):
    rows = rows_of(rng, kind)
    loss, gradients = one_evaluation(kind, algorithm, dtype, GaussianStatistics.of([rows[:100], rows[100:]]))
    expected, expected_gradients = one_evaluation(kind, algorithm, dtype, rows)
    assert_close(loss, expected, rtol=ROUNDING[dtype])
    assert_same(gradients, expected_gradients, ROUNDING[dtype])
    assert all(np.abs(gradient).max() > 1 for gradient in gradients.values())


@pytest.mark.parametrize("kind", [covariance, low_rank])
def test_float32_keeps_its_digits_far_from_zero(kind, rng):
    """The rows of the factor lie about zero, whatever the mean, which is rounded as the parameter is."""
    rows = rows_of(rng, kind, mean=1000.0)
    loss, gradients = one_evaluation(kind, "map", "float32", GaussianStatistics.of(rows), begin=1000.0)
    expected, expected_gradients = one_evaluation(kind, "map", "float32", rows, begin=1000.0)
    assert_close(loss, expected, rtol=1e-5)
    by_an_ulp = 2 * len(rows) * float(np.spacing(np.float32(1000)))  # moves the mean, and so its gradient
    assert_close(gradients.pop("mu"), expected_gradients.pop("mu"), rtol=0, atol=by_an_ulp)
    assert_same(gradients, expected_gradients, 1e-5)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("kind", [covariance, scale_tril, low_rank])
def test_rows_fewer_than_entries(kind, count, rng):
    rows = rows_of(rng, kind, count)
    loss, gradients = one_evaluation(kind, "map", "float64", GaussianStatistics.of([rows]))
    expected, expected_gradients = one_evaluation(kind, "map", "float64", rows)
    assert_close(loss, expected, rtol=1e-12)
    assert_same(gradients, expected_gradients, 1e-12)


# Runs


@pytest.mark.filterwarnings("ignore::mxfusion_mvn.inference.NotCompiledWarning")  # with a policy
@pytest.mark.parametrize(
    ("kind", "loop", "dtype"),
    [(kind, "compiled", "float64") for kind in KINDS]
    + [(kind, "batch", "float64") for kind in (covariance, low_rank, matrix_normal)]
    + [(kind, "compiled", "float32") for kind in (scale_tril, low_rank)],
)
def test_a_run_is_that_from_all_rows(kind, loop, dtype, rng):
    rows = rows_of(rng, kind)
    _, record, values = fitted(kind, "map", loop, dtype, GaussianStatistics.of([rows]))
    _, expected, expected_values = fitted(kind, "map", loop, dtype, rows)
    assert record.compiled == expected.compiled == (loop == "compiled" and kind is not with_policy)
    tolerance = 20 * ROUNDING[dtype]  # of the steps together
    assert_close(record.loss, expected.loss, rtol=tolerance)
    assert_same(values, expected_values, tolerance)


@pytest.mark.parametrize("algorithm", ["host's map", "mean field", "low rank", "full rank"])
@pytest.mark.parametrize("loop", ["compiled", "host"])
def test_every_posterior_is_that_from_all_rows(algorithm, loop, rng):
    rows = rows_of(rng, scale_tril)
    values = [fitted(scale_tril, algorithm, loop, "float64", data)[2] for data in (GaussianStatistics.of(rows), rows)]
    assert_same(*values, 1e-10)


def test_by_laplace_too(rng):
    rows = rows_of(rng, covariance)
    found = []
    for data in (GaussianStatistics.of([rows]), rows):
        inference, _, _ = fitted(covariance, "map", "compiled", "float64", data)
        found.append(LaplaceApproximation(inference))
        found.append(LaplaceApproximation(inference, X=data))
    for laplace in found[:3]:
        assert_close(laplace.mean, found[3].mean, rtol=1e-9)
        assert_close(laplace.covariance, found[3].covariance, rtol=1e-7, atol=1e-12)
        assert_close(laplace.log_evidence, found[3].log_evidence, rtol=1e-10)


def test_the_posterior_of_laplace_can_be_refined(rng):
    rows = rows_of(rng, covariance)
    losses = []
    for data in (GaussianStatistics.of([rows]), rows):
        inference, _, _ = fitted(covariance, "map", "compiled", "float64", data)
        mx.random.seed(1)
        losses.append(LaplaceApproximation(inference).inference.run(X=data, learning_rate=1e-3, max_iter=5).loss)
    assert_close(*losses, rtol=1e-9)


def test_the_fit_is_the_closed_form(rng):
    rows = rows_of(rng, scale_tril, 2000, mean=3.0)
    m = model_of(scale_tril, "float64", begin=0.0)
    statistics = GaussianStatistics.of(rows[start : start + 300] for start in range(0, 2000, 300))
    inference = GradBasedInference(
        MAP(m, [m.X]), grad_loop=CompiledLoop(schedule=lambda iteration: 0.3 * 0.98**iteration), dtype="float64"
    )
    inference.run(optimizer=adam(), max_iter=700, X=statistics)
    data, tril = rows.astype("float64"), inference.params[m.V].asnumpy()
    assert_close(inference.params[m.mu].asnumpy(), data.mean(axis=0), rtol=1e-6)
    assert_close(tril @ tril.T, np.cov(data.T, bias=True), rtol=1e-6, atol=1e-6)


def test_an_evaluation_has_as_many_rows_as_entries(rng):
    rows = rows_of(rng, covariance)
    inference, _, _ = fitted(covariance, "map", "compiled", "float64", GaussianStatistics.of(rows))
    m = inference.inference_algorithm.model
    assert inference.params.constants[m.N.uuid] == DIM + 1


def test_a_run_from_rows_after_one_from_statistics_sees_rows(rng):
    rows = rows_of(rng, covariance)
    inference, _, _ = fitted(covariance, "map", "batch", "float64", GaussianStatistics.of(rows))
    other, _, _ = fitted(covariance, "map", "batch", "float64", rows)
    losses = [each.run(X=rows[:50], learning_rate=1e-30, max_iter=1).loss for each in (inference, other)]
    assert_close(*losses, rtol=1e-10)


def test_a_failed_run_leaves_nothing_behind(rng):
    rows = rows_of(rng, covariance)
    m = model_of(covariance, "float64")
    inference = started(m, "map", "batch", "float64")
    with pytest.raises(InferenceError, match="`optimizer`: got 'none'"):
        inference.run(optimizer="none", X=GaussianStatistics.of(rows))
    expected = one_evaluation(covariance, "map", "float64", rows)[0]
    assert_close(inference.run(X=rows, learning_rate=1e-30, max_iter=1).loss[0], expected, rtol=1e-12)


def test_rows_of_another_variable_stay_rows(rng):
    first, second = rows_of(rng, covariance), rng.normal(size=(7, DIM))
    losses = []
    for data in (GaussianStatistics.of(first), first):
        mx.random.seed(2)
        m = model_of(covariance, "float64")
        m.K = Variable()
        m.Y = MultivariateNormal(m.mu, covariance=2.0, shape=(m.K, DIM), dtype="float64")
        inference = GradBasedInference(MAP(m, [m.X, m.Y]), grad_loop=CompiledLoop(), dtype="float64")
        losses.append(inference.run(X=data, Y=second, learning_rate=0.05, max_iter=20).loss)
    assert_close(*losses, rtol=1e-11)


# Results


def test_results_of_a_run_from_statistics(rng):
    rows = rows_of(rng, covariance)
    tables, densities = [], []
    for data in (GaussianStatistics.of(rows), rows):
        inference, _, _ = fitted(covariance, "full rank", "compiled", "float64", data)
        mx.random.seed(5)
        tables.append(summary(inference, num_samples=50))
        mx.random.seed(5)
        densities.append(to_arviz(inference, num_samples=20))
    assert str(tables[0])[:400] == str(tables[1])[:400]
    of_statistics, of_rows = densities
    assert_close(of_statistics.sample_stats.lp.values, of_rows.sample_stats.lp.values, rtol=1e-9)
    assert set(of_rows.groups()) - set(of_statistics.groups()) == {
        "log_likelihood",
        "observed_data",
        "posterior_predictive",
        "prior_predictive",
    }
    mx.random.seed(5)
    given = to_arviz(inference, num_samples=20, X=GaussianStatistics.of(rows))
    assert_close(given.sample_stats.lp.values, of_rows.sample_stats.lp.values, rtol=1e-9)


def test_a_checkpoint_sees_statistics(rng):
    rows = rows_of(rng, covariance)
    found = []

    def checkpoint(record):
        found.append(LaplaceApproximation(inference).log_evidence)

    m = model_of(covariance, "float64")
    inference = started(m, "map", "batch", "float64")
    inference._grad_loop = BatchLoop(checkpoint=checkpoint, check_every=10)
    inference.run(X=GaussianStatistics.of(rows), learning_rate=0.05, max_iter=10)
    found.append(LaplaceApproximation(inference, X=rows).log_evidence)
    assert_close(found[0], found[1], rtol=1e-9)


def test_log_densities_for_samplers(rng):
    rows = rows_of(rng, covariance)
    densities = []
    for data in (GaussianStatistics.of(rows), rows):
        m = Model()
        m.N = Variable()
        m.mu = MultivariateNormal(covariance=100.0, shape=(DIM,), dtype="float64")
        m.V = InverseWishart(DIM + 2.0, np.eye(DIM), shape=(DIM, DIM), dtype="float64")
        m.X = MultivariateNormal(m.mu, m.V, shape=(m.N, DIM), dtype="float64")
        densities.append(log_density(m, X=data))
    points = densities[0].begin + rng.normal(size=(6, densities[0].dim))
    for point in points:
        (value, gradient), (expected, expected_gradient) = (density(point) for density in densities)
        assert_close(value, expected, rtol=1e-12)
        assert_close(gradient, expected_gradient, rtol=0, atol=1e-12 * np.abs(expected_gradient).max())
    assert densities[0].fallback_reason is None
