# SPDX-License-Identifier: Apache-2.0
"""The family beside the multivariate normal in models: saved, learned by MAP, and under variational inference."""

from mxfusion_mvn import (
    GaussianMixture,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateStudentT,
)
from mxfusion_mvn.inference import CompiledLoop
from mxfusion_mvn.transformations import LowerCholesky, Positive, PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import MAP, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from scipy.special import logsumexp
from scipy.stats import norm
from scipy.stats import t as student_t

from helpers import oracles
from helpers.family_cases import CASES, square
from helpers.fitting import fit_at_rates
from helpers.host import declare, nd
from helpers.structure_cases import kron
from helpers.tolerances import assert_close


@pytest.mark.parametrize("name", CASES)
def test_saved_parameters_are_loaded_unchanged(name, rng, tmp_path):
    case = CASES[name]
    values = {key: maker(rng, ()) for key, (maker, _) in case.parameters.items()}
    data = nd(rng.normal(size=(7,) + case.event))

    def build():
        model = Model()
        model.N = Variable()
        for key, value in values.items():
            setattr(model, key, Variable(shape=value.shape, initial_value=nd(value)))
        parameters = {key: getattr(model, key) for key in values}
        model.X = case.distribution(**parameters, shape=(model.N,) + case.event, dtype="float64")
        return model, GradBasedInference(MAP(model, [model.X]), dtype="float64")

    model, inference = build()
    inference.run(X=data, learning_rate=1e-3, max_iter=2)
    inference.save(str(tmp_path / "fit.zip"))
    other, loaded = build()
    loaded.initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    for key, value in values.items():
        fitted = inference.params[getattr(model, key)].asnumpy()
        assert not np.array_equal(fitted, value)
        assert_close(loaded.params[getattr(other, key)], fitted, rtol=0)


def low_rank_model(dtype):
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(4,))
    model.W = Variable(shape=(4, 1), initial_value=nd(0.5 * np.ones((4, 1)), dtype))
    model.d = Variable(shape=(4,), transformation=Positive(), initial_value=nd(np.ones(4), dtype))
    model.X = LowRankMultivariateNormal(model.mean, model.W, model.d, shape=(model.N, 4), dtype=dtype)
    return model


def test_map_finds_a_low_rank_covariance(rng, tmp_path):
    loadings = np.array([[2.0], [1.0], [-1.0], [0.5]])
    data = rng.multivariate_normal(np.arange(4.0), loadings @ loadings.T + np.diag([0.5, 1.0, 0.3, 0.8]), size=400)
    model = low_rank_model("float64")
    inference = fit_at_rates(
        GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64"), nd(data)
    )
    factor, diagonal = inference.params[model.W].asnumpy(), inference.params[model.d].asnumpy()
    fitted = factor @ factor.T + np.diag(diagonal)
    # At the maximum diag(Sigma^-1 (Sigma - S) Sigma^-1) = 0 and so diag(Sigma) = diag(S) (Lawley and Maxwell, 1971).
    assert_close(np.diag(fitted), np.var(data, axis=0), rtol=1e-3)
    assert_close(inference.params[model.mean], data.mean(0), rtol=0, atol=1e-3)
    inference.save(str(tmp_path / "fit.zip"))
    other = low_rank_model("float64")
    loaded = GradBasedInference(MAP(other, [other.X]), dtype="float64")
    loaded.initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    assert_close(loaded.params[other.W], factor, rtol=0)


def test_map_finds_the_covariances_of_a_matrix_normal(rng):
    row = np.array([[1.0, 0.6], [0.6, 1.0]])
    column = oracles.random_spd(rng, (), 3, condition=10)
    noise = rng.normal(size=(2000, 2, 3))
    data = np.linalg.cholesky(row) @ noise @ np.linalg.cholesky(column).T
    model = Model()
    model.N = Variable()
    model.R = Variable(shape=(2, 2), transformation=PositiveDefinite(), initial_value=nd(np.eye(2), "float32"))
    model.L = Variable(shape=(3, 3), transformation=LowerCholesky(), initial_value=nd(np.eye(3), "float32"))
    model.X = MatrixNormal(row_covariance=model.R, column_scale_tril=model.L, shape=(model.N, 2, 3))
    inference = fit_at_rates(
        GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop()), nd(data, "float32"), max_iter=100
    )
    fitted = kron(inference.params[model.R].asnumpy(), square(inference.params[model.L].asnumpy()))
    assert_close(fitted, kron(row, column), rtol=0, atol=0.15 * np.abs(column).max())


@pytest.mark.parametrize("name", ["student t", "mixture"])
def test_svi_of_a_latent_mean(name, rng):
    """The law as likelihood of a latent location, against the posterior on a grid."""
    data = rng.normal(size=(8, 1)) + 1.0
    model = Model()
    model.N = Variable()
    model.mu = MatrixNormal(row_covariance=4.0, shape=(1, 1), dtype="float64")
    if name == "student t":
        model.X = MultivariateStudentT(4.0, model.mu, shape=(model.N, 1), dtype="float64")
        likelihood = student_t(4.0).logpdf
    else:
        weights = np.array([0.7, 0.3])
        scales = np.array([1.0, 9.0]).reshape(2, 1, 1)
        model.X = GaussianMixture(weights, model.mu, scales, shape=(model.N, 1), dtype="float64")

        def likelihood(r):
            return np.log(0.7 * norm.pdf(r) + 0.3 * norm.pdf(r, scale=3.0))

    posterior = Posterior(model)
    mean = Variable(shape=(1, 1))
    spread = Variable(shape=(1, 1), transformation=LowerCholesky(), initial_value=nd(np.array([[0.5]])))
    posterior.mu.set_prior(MatrixNormal(mean=mean, row_scale_tril=spread, dtype="float64"))
    algorithm = StochasticVariationalInference(20, model, posterior, [model.X])
    inference = fit_at_rates(
        GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype="float64"), nd(data), max_iter=200
    )
    grid = np.linspace(-4, 6, 2001)
    log_posterior = likelihood(data - grid).sum(0) + norm.logpdf(grid, scale=2.0)
    chance = np.exp(log_posterior - logsumexp(log_posterior))
    exact = chance @ grid
    sd = np.sqrt(chance @ (grid - exact) ** 2)
    assert abs(inference.params[mean].asscalar() - exact) < 0.2 * sd
    assert abs(inference.params[spread].asscalar() / sd - 1) < 0.2


@pytest.mark.parametrize("name", ["degrees_of_freedom", "weights"])
def test_a_gradient_that_draws_cannot_carry_is_refused(name):
    if name == "weights":
        model = declare(GaussianMixture, (3, 2), weights=(2,), mean=(2, 2))
        values = {"weights": np.ones(2) / 2, "mean": np.zeros((2, 2))}
    else:
        model = declare(MultivariateStudentT, (3, 2), degrees_of_freedom=(1,), mean=(2,))
        values = {"degrees_of_freedom": np.array([4.0]), "mean": np.zeros(2)}
    variables = {getattr(model, key).uuid: nd(value[None]) for key, value in values.items()}
    constant = model.X.factor.covariance
    variables[constant.uuid] = constant.constant.expand_dims(0)
    assert model.X.factor.draw_samples(mx.nd, variables, num_samples=2).shape == (2, 3, 2)
    variables[getattr(model, name).uuid].attach_grad()
    with mx.autograd.record(), pytest.raises(InferenceError, match=f"`{name}` of variable `X`: its gradient was asked"):
        model.X.factor.draw_samples(mx.nd, variables, num_samples=2)


@pytest.mark.parametrize("distribution", ["low rank", "matrix normal"])
def test_variational_posterior_of_a_mean(distribution, rng):
    """A conjugate model whose posterior is known: unit noise around a latent with a structured prior."""
    shape = (4,) if distribution == "low rank" else (2, 2)
    loadings, column = rng.normal(size=(4, 1)), np.array([[1.0, 0.5], [0.5, 2.0]])
    model = Model()
    if distribution == "low rank":
        model.Z = LowRankMultivariateNormal(0.0, loadings, 0.5, shape=shape, dtype="float64")
        prior = loadings @ loadings.T + 0.5 * np.eye(4)
    else:
        model.Z = MatrixNormal(column_covariance=column, shape=shape, dtype="float64")
        prior = kron(np.eye(2), column)
    model.X = (
        MatrixNormal(mean=model.Z, shape=(2, 2), dtype="float64")
        if distribution != "low rank"
        else (LowRankMultivariateNormal(model.Z, np.zeros((4, 1)), 1.0, shape=shape, dtype="float64"))
    )
    posterior = Posterior(model)
    mean = Variable(shape=shape)
    posterior.Z.set_prior(
        MatrixNormal(mean=mean, row_covariance=0.3, dtype="float64")
        if distribution != "low rank"
        else LowRankMultivariateNormal(mean, np.zeros((4, 1)), 0.3, dtype="float64")
    )
    data = rng.normal(size=shape)
    algorithm = StochasticVariationalInference(10, model, posterior, [model.X])
    inference = GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype="float64")
    fit_at_rates(inference, nd(data))
    expected = np.linalg.solve(np.linalg.inv(prior) + np.eye(4), data.ravel())
    assert_close(inference.params[mean].asnumpy().ravel(), expected, rtol=0, atol=0.05)
