# SPDX-License-Identifier: Apache-2.0
"""MXFusion's predictions from Gaussian posteriors keep the correlation of what is latent."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import (
    BatchLoop,
    create_Gaussian_fullrank,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model
from mxfusion.components import distributions as host
from mxfusion.inference import (
    GradBasedInference,
    StochasticVariationalInference,
    VariationalPosteriorForwardSampling,
)

from helpers.conjugate import assert_moments, regression
from helpers.gaussian_posteriors import CREATE, assert_same_gaussian, every_kind, infer, learned
from helpers.host import nd
from helpers.tolerances import assert_close


def correlated_pair(dtype="float64"):
    """Two variables, one of them positive, a function of both, and data about that."""
    model = Model()
    model.a = MultivariateNormal(shape=(1,), dtype=dtype)
    model.b = host.Gamma.define_variable(nd([2.0], dtype), nd([1.0], dtype), (1,), dtype=dtype)
    model.total = model.a + model.b
    model.x = MultivariateNormal(mean=model.total, covariance=0.01, shape=(1,), dtype=dtype)
    return model


def initialised(model, posterior, observed, values, dtype="float64", num_samples=2):
    """An inference with given parameters of the joint Gaussian."""
    algorithm = StochasticVariationalInference(num_samples, model, posterior, observed)
    inference = GradBasedInference(algorithm, grad_loop=BatchLoop(), dtype=dtype)
    inference.initialize(**{v.name: v.shape for v in observed})
    for name, value in values.items():
        inference.params[getattr(posterior.joint_0.factor, name)] = nd(value, dtype)
    return inference


PAIR = {"mean": [0.3, -0.2], "scale": [1.0, 0.4], "below": [-2.0]}


def test_predictions_keep_the_correlation(dtype, rng):
    """Between latent variables, in a function of both, and in data about that; several predictions in a row."""
    model = correlated_pair(dtype)
    posterior = create_Gaussian_fullrank(model, [model.x])
    inference = initialised(model, posterior, [model.x], PAIR, dtype)
    for _ in range(3):
        predict = VariationalPosteriorForwardSampling(
            5000, [], inference, target_variables=[model.a, model.b, model.total, model.x], dtype=dtype
        )
        a, b, total, x = (array.asnumpy()[:, 0] for array in predict.run())
        assert a.dtype == np.dtype(dtype)
        assert_close(total, a + b, rtol=1e-5)
        moments = np.cov(a, np.log(b))
        assert_close(moments, [[1.0, -0.8], [-0.8, 0.8]], rtol=0.1)
        assert np.var(x - total) == pytest.approx(0.01, rel=0.1)
        assert np.var(total) < 0.8 * (np.var(a) + np.var(b))
    again = inference.run(x=nd([0.5], dtype), max_iter=5)  # predictions leave the inference as it was
    assert np.isfinite(again.loss).all()


def test_functions_of_joint_draws_can_be_compiled(rng):
    """The host evaluates them sample by sample; the samples share their parts of the joint variable."""
    model = correlated_pair()
    posterior = create_Gaussian_fullrank(model, [model.x])
    inference = infer(model, [model.x], posterior, 2, max_iter=5, x=nd([0.5]))
    assert inference._grad_loop.record.compiled


def test_predictions_at_new_predictors(rng):
    """The rows of a prediction share the draw of the weights: their covariance is that of the exact predictive law."""
    model, data, (mean, cov), _ = regression(rng, dim=3)
    posterior = create_Gaussian_fullrank(model, [model.X, model.Y])
    root = np.linalg.cholesky(cov)
    scale = np.diag(root)
    algorithm = StochasticVariationalInference(2, model, posterior, [model.X, model.Y])
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize(**data)
    below = (root / scale[:, None])[np.tril_indices(3, -1)]
    for name, value in {"mean": mean, "scale": scale, "below": below}.items():
        inference.params[getattr(posterior.joint_0.factor, name)] = nd(value)
    new = 3 * rng.normal(size=(2, 3))
    predict = VariationalPosteriorForwardSampling(
        20000, [model.X], inference, target_variables=[model.Y], dtype="float64"
    )
    draws = predict.run(X=nd(new))[0].asnumpy()
    assert draws.shape == (20000, 2, 1)
    assert_moments(draws[:, :, 0], new @ mean, new @ cov @ new.T + 0.49 * np.eye(2))


def test_predictions_of_a_model_with_every_kind_of_variable(rng):
    """The draws that the host makes for prediction are those of the posterior, each in its own space."""
    model = every_kind()
    for name in sorted(CREATE):
        posterior = CREATE[name](model, [])
        algorithm = StochasticVariationalInference(2, model, posterior, [])
        inference = GradBasedInference(algorithm, dtype="float64")
        inference.initialize()
        latent = model.get_latent_variables([])
        predict = VariationalPosteriorForwardSampling(3, [], inference, target_variables=latent, dtype="float64")
        mx.random.seed(3)
        drawn = dict(zip([v.name for v in latent], predict.run()))
        assert all(drawn[v.name].shape == (3,) + v.shape for v in latent)
        assert (drawn["rate"].asnumpy() > 0).all()
        assert_close(drawn["shares"].asnumpy().sum(axis=-1), np.ones((3, 1)), rtol=1e-12)
        assert_close(np.square(drawn["factor"].asnumpy()).sum(axis=-1), np.ones((3, 3)), rtol=1e-12)
        assert (np.linalg.eigvalsh(drawn["covariances"].asnumpy()) > 0).all()


def test_a_latent_variable_without_a_name(rng):
    model = Model()
    model.x = MultivariateNormal(mean=MultivariateNormal(shape=(2,), dtype="float64"), shape=(2,), dtype="float64")
    posterior = create_Gaussian_fullrank(model, [model.x], entropy="sticking_the_landing")
    (latent,) = model.get_latent_variables([model.x.uuid])
    inference = infer(model, [model.x], posterior, x=nd([1.0, -2.0]))
    assert_same_gaussian(learned(inference, posterior, latent), (np.array([0.5, -1.0]), 0.5 * np.eye(2)))
