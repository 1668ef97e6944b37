# SPDX-License-Identifier: Apache-2.0
"""Inside models of the host: inference, copies, files, prediction, minibatches."""

import copy
import pickle
from pathlib import Path

from mxfusion_mvn import MultivariateNormal, MultivariateNormalMeanPrecision
from mxfusion_mvn.transformations import LowerCholesky, PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions.random_gen import MXNetRandomGenerator
from mxfusion.inference import (
    MAP,
    ForwardSamplingAlgorithm,
    GradBasedInference,
    MinibatchInferenceLoop,
    StochasticVariationalInference,
    TransferInference,
    VariationalPosteriorForwardSampling,
)
from mxfusion.models import Posterior

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import assert_close

DATA = Path(__file__).parent.parent / "examples" / "data"
FORMS = ["covariance", "precision", "scale_tril"]
TRANSFORMATION = {"covariance": PositiveDefinite, "precision": PositiveDefinite, "scale_tril": LowerCholesky}


def learned_model(dim, form="covariance", dtype="float32"):
    """X ~ N(mean, matrix) with both learned."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(dim,), initial_value=nd(np.zeros(dim), dtype))
    model.matrix = Variable(
        shape=(dim, dim), transformation=TRANSFORMATION[form](), initial_value=nd(np.eye(dim), dtype)
    )
    model.X = MultivariateNormal(mean=model.mean, **{form: model.matrix}, shape=(model.N, dim), dtype=dtype)
    return model


def fit(inference, data, rates=(0.1, 0.01, 0.001), max_iter=150, **kwargs):
    for rate in rates:
        inference.run(X=data, learning_rate=rate, max_iter=max_iter, **kwargs)
    return inference


def conjugate_model(prior_covariance, covariance, dtype="float64"):
    """X ~ N(mu, covariance), mu ~ N(0, prior_covariance), and q(mu) with a full covariance."""
    dim = len(covariance)
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=prior_covariance, shape=(dim,), dtype=dtype)
    model.X = MultivariateNormal(mean=model.mu, covariance=covariance, shape=(model.N, dim), dtype=dtype)
    posterior = Posterior(model)
    posterior.mu.set_prior(
        MultivariateNormal(
            mean=Variable(shape=(dim,), initial_value=nd(np.zeros(dim), dtype)),
            scale_tril=Variable(shape=(dim, dim), transformation=LowerCholesky(), initial_value=nd(np.eye(dim), dtype)),
            dtype=dtype,
        )
    )
    return model, posterior


def exact_posterior(prior_covariance, covariance, data):
    """Mean and covariance of mu given the rows of data."""
    precision = np.linalg.inv(prior_covariance) + len(data) * np.linalg.inv(covariance)
    posterior_covariance = np.linalg.inv(precision)
    return posterior_covariance @ np.linalg.solve(covariance, data.sum(0)), posterior_covariance


@pytest.fixture
def data(rng):
    return rng.multivariate_normal([1.0, 2.0, 3.0], [[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 0.8]], size=60)


@pytest.mark.parametrize("form", FORMS)
def test_map_finds_the_sample_mean_and_covariance(form, data, dtype):
    model = learned_model(3, form, dtype)
    inference = fit(GradBasedInference(MAP(model, [model.X]), dtype=dtype), nd(data, dtype))
    fitted = oracles.TO_COVARIANCE[form](inference.params[model.matrix].asnumpy().astype("float64"))
    assert_close(inference.params[model.mean], data.mean(0), atol=2e-3, rtol=0)
    assert_close(fitted, np.cov(data.T, bias=True), atol=2e-3, rtol=0)


def test_map_on_stock_returns():
    prices = np.loadtxt(DATA / "eustockmarkets.csv", delimiter=",", skiprows=1)
    returns = 100 * np.diff(np.log(prices), axis=0)
    model = learned_model(4)
    inference = fit(GradBasedInference(MAP(model, [model.X])), nd(returns, "float32"), max_iter=200)
    assert_close(inference.params[model.mean], returns.mean(0), atol=5e-3, rtol=0)
    assert_close(inference.params[model.matrix], np.cov(returns.T, bias=True), atol=5e-3, rtol=0)


def test_variational_posterior_of_the_mean(data, rng):
    prior, covariance = 10 * np.eye(3), np.cov(data.T)
    model, posterior = conjugate_model(prior, covariance)
    algorithm = StochasticVariationalInference(20, model, posterior, [model.X])
    inference = fit(GradBasedInference(algorithm, dtype="float64"), nd(data), max_iter=300)
    mean, expected = exact_posterior(prior, covariance, data)
    sd = np.sqrt(np.diag(expected))
    factor = inference.params[posterior.mu.factor.scale_tril].asnumpy()
    assert np.abs((inference.params[posterior.mu.factor.mean].asnumpy() - mean) / sd).max() < 0.1
    assert_close(np.sqrt(np.diag(factor @ factor.T)) / sd, np.ones(3), rtol=0.1)


def log_pdf_of(model, x, mean, matrix):
    names = dict(model.X.factor.inputs)
    variables = {
        model.X.uuid: nd(x[None]),
        names["mean"].uuid: nd(mean[None]),
        names[model.X.factor.form].uuid: nd(matrix[None]),
    }
    return model.X.factor.log_pdf(mx.nd, variables).asnumpy()


COPIES = {
    "clone": lambda model: model.clone(),
    "clone of clone": lambda model: model.clone().clone(),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("form", FORMS)
def test_copies_have_the_same_density(form, copied, data):
    model = learned_model(3, form, "float64")
    matrix = oracles.FROM_COVARIANCE[form](np.cov(data.T))
    twin = COPIES[copied](model)
    assert type(twin.X.factor) is MultivariateNormal
    assert twin.X.factor.form == form
    assert_close(log_pdf_of(twin, data, data.mean(0), matrix), log_pdf_of(model, data, data.mean(0), matrix), rtol=0)


def test_replicate_keeps_form_generator_and_dtype(rng):
    generator = MXNetRandomGenerator()
    factor = MultivariateNormalMeanPrecision(precision=np.eye(2), dtype="float64", ctx=mx.cpu(1), rand_gen=generator)
    replica = factor.replicate_self()
    assert (replica.form, replica.dtype, replica.ctx, replica._rand_gen) == (
        "precision",
        "float64",
        mx.cpu(1),
        generator,
    )


@pytest.mark.parametrize("form", FORMS)
def test_saved_parameters_are_loaded_unchanged(form, data, tmp_path):
    def build():
        model = learned_model(3, form)
        return model, GradBasedInference(MAP(model, [model.X]))

    model, inference = build()
    inference.run(X=nd(data, "float32"), max_iter=5, learning_rate=0.1)
    inference.save(str(tmp_path / "fit.zip"))
    other, loaded = build()
    loaded.initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    for name in ("mean", "matrix"):
        assert_close(loaded.params[getattr(other, name)], inference.params[getattr(model, name)].asnumpy(), rtol=0)


def test_a_variational_fit_is_saved_and_loaded(data, tmp_path):
    def build():
        model, posterior = conjugate_model(np.eye(3), np.eye(3), "float32")
        return posterior, GradBasedInference(StochasticVariationalInference(3, model, posterior, [model.X]))

    posterior, inference = build()
    inference.run(X=nd(data, "float32"), max_iter=5, learning_rate=0.1)
    inference.save(str(tmp_path / "fit.zip"))
    other, loaded = build()
    loaded.initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    for name in ("mean", "scale_tril"):
        assert_close(
            loaded.params[getattr(other.mu.factor, name)],
            inference.params[getattr(posterior.mu.factor, name)].asnumpy(),
            rtol=0,
        )


def test_prediction_after_variational_inference(data):
    covariance = np.cov(data.T)
    model, posterior = conjugate_model(10 * np.eye(3), covariance)
    inference = fit(
        GradBasedInference(StochasticVariationalInference(10, model, posterior, [model.X]), dtype="float64"), nd(data)
    )
    prediction = VariationalPosteriorForwardSampling(
        4000, [], inference, target_variables=[model.X], constants={model.N: 2}, dtype="float64"
    )
    draws = prediction.run()[0].asnumpy()
    assert draws.shape == (4000, 2, 3)
    mean, spread = exact_posterior(10 * np.eye(3), covariance, data)
    assert np.abs((draws[:, 0].mean(0) - mean) / np.sqrt(np.diag(covariance + spread) / 4000)).max() < 8
    assert_close(np.cov(draws[:, 0].T), covariance + spread, atol=0.12, rtol=0)


def test_prediction_after_map(data):
    model = learned_model(3)
    inference = fit(GradBasedInference(MAP(model, [model.X])), nd(data, "float32"))
    sampler = TransferInference(
        ForwardSamplingAlgorithm(model, [], num_samples=4000, target_variables=[model.X.uuid]),
        infr_params=inference.params,
        constants={model.N: 2},
    )
    draws = sampler.run()[0].asnumpy()
    assert draws.shape == (4000, 2, 3)
    assert_close(np.cov(draws[:, 0].T), np.cov(data.T, bias=True), atol=0.12, rtol=0)


def test_minibatches_with_scaling_reach_the_full_data_estimate(rng):
    data = rng.multivariate_normal([1.0, 2.0], [[1.0, 0.5], [0.5, 1.0]], size=500)
    model = learned_model(2)
    loop = MinibatchInferenceLoop(batch_size=50, rv_scaling={model.X: 10.0})
    inference = fit(GradBasedInference(MAP(model, [model.X]), grad_loop=loop), nd(data, "float32"), max_iter=30)
    assert model.X.factor.log_pdf_scaling == 10
    assert_close(inference.params[model.mean], data.mean(0), atol=0.05, rtol=0)
    assert_close(inference.params[model.matrix], np.cov(data.T, bias=True), atol=0.1, rtol=0)


def test_a_latent_row_per_observation(rng):
    """Local latents (N, D) with Monte Carlo samples: S and N meet in every factor of the model."""
    model = Model()
    model.N = Variable()
    model.Z = MultivariateNormal(shape=(model.N, 2), dtype="float64")
    model.X = MultivariateNormal(mean=model.Z, covariance=0.5, shape=(model.N, 2), dtype="float64")
    posterior = Posterior(model)
    posterior.Z.set_prior(
        MultivariateNormal(
            mean=Variable(shape=(model.N, 2)),
            covariance=Variable(shape=(2, 2), transformation=PositiveDefinite()),
            dtype="float64",
        )
    )
    data = rng.normal(size=(4, 2))
    inference = GradBasedInference(StochasticVariationalInference(4, model, posterior, [model.X]), dtype="float64")
    fit(inference, nd(data), max_iter=300)
    assert_close(inference.params[posterior.Z.factor.mean], data / 1.5, atol=0.1, rtol=0)
    assert_close(inference.params[posterior.Z.factor.covariance], np.eye(2) / 3, atol=0.05, rtol=0)


def test_a_vector_as_long_as_the_data(rng):
    """A Gaussian process declares shape=(N,) with an (N, N) covariance: D is a Variable."""
    covariance = oracles.random_spd(rng, (), 6)
    model = Model()
    model.N = Variable()
    model.K = Variable(shape=(model.N, model.N))
    model.y = MultivariateNormal(covariance=model.K, shape=(model.N,), dtype="float64")
    y = rng.normal(size=6)
    inference = GradBasedInference(MAP(model, [model.y, model.K]), dtype="float64")
    inference.initialize(y=nd(y), K=nd(covariance))
    loss = inference.create_executor()(
        mx.nd.zeros(1), *[{"y": nd(y), "K": nd(covariance)}[name] for name in inference.observed_variable_names]
    )[0]
    assert_close(loss, -oracles.log_pdf(y[None], np.zeros((1, 6)), covariance), rtol=1e-11)


def unconstrained(initial):
    model = Model()
    model.N = Variable()
    model.C = Variable(shape=(2, 2), initial_value=nd(initial, "float32"))
    model.X = MultivariateNormal(covariance=model.C, shape=(model.N, 2))
    return model


def test_a_covariance_lost_in_training_is_reported_by_name(rng):
    model = unconstrained([[1.0, 0.9], [0.9, 1.0]])
    inference = GradBasedInference(MAP(model, [model.X]))
    with pytest.raises(InferenceError, match=r"`covariance` of variable `X` .*PositiveDefinite\(\)"):
        inference.run(X=nd(rng.normal(size=(50, 2)), "float32"), optimizer="sgd", learning_rate=1.0, max_iter=20)
    mx.nd.waitall()
    assert np.isfinite(inference.params[model.C].asnumpy()).all()


BROKEN = {
    "not positive definite": ([[1.0, 2.0], [2.0, 1.0]], "is not positive definite: its smallest eigenvalue is -1;"),
    "nan": ([[1.0, np.nan], [np.nan, 1.0]], r"is nan at index \(0, 1\);"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("form", ["covariance", "precision"])
@pytest.mark.parametrize("method", ["log_pdf", "draw_samples"])
def test_a_broken_matrix_is_reported_by_name_at_run_time(method, form, case):
    matrix, message = BROKEN[case]
    model = Model()
    model.matrix = Variable(shape=(2, 2))
    model.X = MultivariateNormal(**{form: model.matrix}, shape=(3, 2), dtype="float64")
    variables = {
        model.matrix.uuid: nd(np.array(matrix)[None]),
        model.X.uuid: nd(np.zeros((1, 3, 2))),
        model.X.factor.mean.uuid: nd(np.zeros((1, 2))),
    }
    with pytest.raises(InferenceError, match=f"`{form}` of variable `X` {message}"):
        getattr(model.X.factor, method)(mx.nd, variables)
    mx.nd.waitall()  # nothing of the failure is left behind


def test_the_offending_matrix_of_a_batch_is_named():
    model = Model()
    model.C = Variable(shape=(3, 2, 2))
    model.X = MultivariateNormal(covariance=model.C, shape=(3, 2), dtype="float64")
    matrices = np.stack([np.eye(2), np.eye(2), -np.eye(2)])[None]
    variables = {
        model.C.uuid: nd(matrices),
        model.X.uuid: nd(np.zeros((1, 3, 2))),
        model.X.factor.mean.uuid: nd(np.zeros((1, 2))),
    }
    with pytest.raises(InferenceError, match=r"at batch index \(2,\): its smallest eigenvalue is -1;"):
        model.X.factor.log_pdf(mx.nd, variables)
