# SPDX-License-Identifier: Apache-2.0
"""Gaussian posteriors arrive at the posterior that is known exactly."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    BatchLoop,
    CompiledLoop,
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model
from mxfusion.components import distributions as host
from mxfusion.components.functions.operators import reshape
from mxfusion.inference import (
    GradBasedInference,
    StochasticVariationalInference,
)
from scipy import stats

from helpers import oracles
from helpers.conjugate import conjugate_model, exact_posterior, regression
from helpers.fitting import last_losses
from helpers.gaussian_posteriors import (
    CREATE,
    ENTROPIES,
    TARGET_MEAN,
    TARGETS,
    assert_same_gaussian,
    every_kind,
    infer,
    learned,
    target,
)
from helpers.host import nd
from helpers.tolerances import assert_close


def test_full_rank_is_exact_for_a_linear_regression(rng):
    model, data, exact, log_evidence = regression(rng)
    posterior = create_Gaussian_fullrank(model, [model.X, model.Y], entropy="sticking_the_landing")
    inference = infer(model, [model.X, model.Y], posterior, **data)
    assert_same_gaussian(learned(inference, posterior, model.w), exact)
    assert -last_losses(inference) == pytest.approx(log_evidence, abs=0.01)


@pytest.mark.parametrize(
    ("dim", "loop", "dtype"),
    [(100, CompiledLoop, "float32"), (100, CompiledLoop, "float64"), (60, BatchLoop, "float32")],
)
def test_many_coordinates_at_a_large_rate(dim, loop, dtype, rng):
    """An optimizer's random moves give the triangle an inverse that grows as a power of their number."""
    predictors = rng.normal(size=(dim + 50, dim)) / np.sqrt(dim)
    response = predictors @ rng.normal(size=dim) + 0.1 * rng.normal(size=dim + 50)
    precision = np.eye(dim) + predictors.T @ predictors / 0.01
    mean, sd = np.linalg.solve(precision, predictors.T @ response / 0.01), np.sqrt(np.diag(np.linalg.inv(precision)))
    marginal = predictors @ predictors.T + 0.01 * np.eye(dim + 50)
    log_evidence = stats.multivariate_normal.logpdf(response, np.zeros(dim + 50), marginal)
    model = Model()
    model.w = MultivariateNormal(0.0, 1.0, shape=(dim,), dtype=dtype)
    model.y = MultivariateNormal(linear(predictors, model.w, dtype=dtype), 0.01, shape=(dim + 50, 1), dtype=dtype)
    posterior = create_Gaussian_fullrank(model, [model.y], entropy="sticking_the_landing")
    algorithm = StochasticVariationalInference(10, model, posterior, [model.y])
    inference = GradBasedInference(algorithm, grad_loop=loop(), dtype=dtype)
    mx.random.seed(0)
    for rate in (0.05, 0.01, 0.002):
        record = inference.run(y=nd(response[:, None], dtype), learning_rate=rate, max_iter=300)
    learned_mean = inference.params[posterior.joint_0.factor.mean].asnumpy()
    assert (np.abs(learned_mean - mean) < 0.2 * sd).all()
    assert -1 < record.loss[-20:].mean() + log_evidence < 5


def test_full_rank_is_exact_for_a_mean_with_known_covariance(rng):
    prior, noise = oracles.random_spd(rng, (), 4, condition=10), oracles.random_spd(rng, (), 4, condition=50)
    data = rng.multivariate_normal([1.0, 0.0, -2.0, 0.5], noise, size=12)
    model = conjugate_model(prior, noise)
    posterior = create_Gaussian_fullrank(model, [model.X], entropy="sticking_the_landing")
    inference = infer(model, [model.X], posterior, X=nd(data))
    assert_same_gaussian(learned(inference, posterior, model.mu), exact_posterior(data, prior, noise))
    joint = np.kron(np.eye(12), noise) + np.kron(np.ones((12, 12)), prior)
    log_evidence = stats.multivariate_normal.logpdf(data.ravel(), np.zeros(48), joint)
    assert -last_losses(inference) == pytest.approx(log_evidence, abs=0.01)


def test_low_rank_is_exact_where_the_posterior_is_of_low_rank(rng):
    """Of six coordinates with two directions they share, in two variables."""
    loadings, variances = rng.normal(size=(6, 2)), rng.uniform(0.2, 2.0, size=6)
    cov, mean = loadings @ loadings.T + np.diag(variances), rng.normal(size=6)
    model = Model()
    model.a = MultivariateNormal(mean=nd(mean[:4]), covariance=nd(cov[:4, :4]), shape=(4,), dtype="float64")
    regression = cov[4:, :4] @ np.linalg.inv(cov[:4, :4])
    model.shift = linear(nd(regression), model.a)
    model.b = MultivariateNormal(
        mean=reshape(model.shift, (2,)),
        covariance=nd(cov[4:, 4:] - regression @ cov[:4, 4:]),
        shape=(2,),
        dtype="float64",
    )
    offset = mean[4:] - regression @ mean[:4]
    for rank in (2, 3):
        posterior = create_Gaussian_lowrank(model, [], rank=rank, entropy="sticking_the_landing")
        inference = infer(model, [], posterior, 10)
        assert_same_gaussian(learned(inference, posterior, model.a), (mean - np.append(np.zeros(4), offset), cov))
        assert last_losses(inference) == pytest.approx(0.0, abs=0.01)


def test_a_mean_field_has_the_variances_given_the_others(rng):
    """Its optimum for a Gaussian posterior; its bound is lower by what the correlations tell."""
    cov = TARGETS["full rank"]
    model, posterior = target("full rank", "closed_form")
    posterior = create_Gaussian_meanfield(model, [], entropy="sticking_the_landing")
    inference = infer(model, [], posterior, 400)
    mean, found = learned(inference, posterior, model.v)
    expected = 1 / np.diag(np.linalg.inv(cov))
    assert_close(mean, TARGET_MEAN, rtol=0.02)
    assert_close(found, np.apply_along_axis(np.diag, -1, expected), rtol=0.02)
    bound = 0.5 * (np.log(expected).sum() - np.linalg.slogdet(cov)[1])
    assert -last_losses(inference, 100) == pytest.approx(bound, abs=0.05)


def test_a_positive_variable_in_the_mean_field(rng):
    """Log v ~ N(m, s^2) is nearest to Gamma(a, b) with s^2 = 1/a and exp(m + s^2/2) = a/b."""
    model = Model()
    model.v = host.Gamma.define_variable(nd([3.0, 8.0]), nd([0.5, 2.0]), (2,), dtype="float64")
    posterior = create_Gaussian_meanfield(model, [], entropy="sticking_the_landing")
    inference = infer(model, [], posterior, 100)
    mean, cov = learned(inference, posterior, model.v)
    shape, rate = np.array([3.0, 8.0]), np.array([0.5, 2.0])
    assert_close(np.diag(cov), 1 / shape, rtol=0.05)
    assert_close(mean, np.log(shape / rate) - 0.5 / shape, rtol=0.02)


def test_float32_arrives_too(rng):
    model, data, exact, log_evidence = regression(rng, dtype="float32")
    posterior = create_Gaussian_fullrank(model, [model.X, model.Y], entropy="sticking_the_landing")
    inference = infer(model, [model.X, model.Y], posterior, dtype="float32", **data)
    assert inference.params[posterior.joint_0.factor.mean].dtype == np.float32
    assert_same_gaussian(learned(inference, posterior, model.w), exact)
    assert -last_losses(inference) == pytest.approx(log_evidence, abs=0.01)


@pytest.mark.parametrize("entropy", ENTROPIES)
@pytest.mark.parametrize("name", sorted(CREATE))
def test_they_can_be_compiled(name, entropy, rng):
    """With the same noise the compiled loop and one in Python have the same losses."""
    losses = []
    for loop in (BatchLoop(), CompiledLoop()):
        mx.random.seed(7)
        model = every_kind()
        algorithm = StochasticVariationalInference(3, model, CREATE[name](model, [], entropy=entropy), [])
        record = GradBasedInference(algorithm, grad_loop=loop, dtype="float64").run(learning_rate=0.01, max_iter=6)
        losses.append(record.loss)
    assert record.compiled
    assert_close(losses[1], losses[0], rtol=1e-9)
