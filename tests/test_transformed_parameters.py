# SPDX-License-Identifier: Apache-2.0
"""Transformations of parameters in models: where they start, and how every optimizer keeps them valid."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.transformations import (
    CorrelationCholesky,
    Positive,
    PositiveDefinite,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components.distributions import MultivariateNormal as HostMultivariateNormal
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.inference import MAP, GradBasedInference

from helpers.tolerances import assert_close
from helpers.transformed import MATRIX_TRANSFORMATIONS

# Plain gradient steps need small rates: the gradient is a sum over all rows.
LEARNING_RATES = {
    "sgd": 1e-4,
    "ccsgd": 1e-4,
    "nag": 1e-4,
    "dcasgd": 1e-4,
    "sgld": 1e-4,
    "lbsgd": 1e-4,
}
# MXNet's "test" optimizer climbs the loss.
OPTIMIZERS = sorted(set(mx.optimizer.Optimizer.opt_registry) - {"test"})


def host_model(transformation, initial_value, dim=3):
    model = Model()
    model.N = Variable()
    model.C = Variable(shape=(dim, dim), transformation=transformation, initial_value=initial_value)
    model.Y = HostMultivariateNormal.define_variable(
        mean=mx.nd.zeros((20, dim)),
        covariance=broadcast_to(model.C, (model.N, dim, dim)),
        shape=(model.N, dim),
    )
    return model


def host_inference(model, data=None):
    inference = GradBasedInference(MAP(model=model, observed=[model.Y]))
    if data is not None:
        inference.initialize(Y=data)
    return inference


@pytest.fixture
def data(rng):
    return mx.nd.array(rng.normal(size=(20, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.7]]))


@pytest.mark.parametrize(
    "as_array",
    [mx.nd.array, lambda x: x, lambda x: x.astype("float32")],
    ids=["NDArray", "float64", "float32"],
)
@pytest.mark.parametrize("name", sorted(MATRIX_TRANSFORMATIONS))
def test_host_parameter_starts_at_its_initial_value(name, as_array, data):
    value = np.array([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.3, 0.2, 0.1]])
    value = value if name == "LowerCholesky" else value @ value.T
    model = host_model(MATRIX_TRANSFORMATIONS[name](), as_array(value))
    inference = host_inference(model, data)
    assert_close(inference.params[model.C], value, rtol=1e-5, atol=1e-6)
    inference.params[model.C] = as_array(3 * value)
    assert_close(inference.params[model.C], 3 * value, rtol=1e-5, atol=1e-6)


def test_host_parameter_without_initial_value_is_positive_definite(data, rng):
    model = host_model(PositiveDefinite(), None)
    got = host_inference(model, data).params[model.C].asnumpy()
    assert got.shape == (3, 3)
    assert np.linalg.eigvalsh(got.astype("float64")).min() > 0.1


@pytest.mark.parametrize(
    ("initial_value", "message"),
    [(1.0, "a single number"), (-np.eye(3), "smallest eigenvalue is -1")],
)
def test_host_reports_a_bad_initial_value(initial_value, message, data):
    with pytest.raises(ModelSpecificationError, match=message):
        host_inference(host_model(PositiveDefinite(), initial_value), data)


def test_host_positive_number(data):
    model = Model()
    model.v = Variable(shape=(1,), transformation=Positive(), initial_value=1e-3)
    model.Y = HostMultivariateNormal.define_variable(
        mean=mx.nd.zeros((20, 3)),
        covariance=mx.nd.ones((20, 1, 1)) * mx.nd.array(np.eye(3)),
        shape=(20, 3),
    )
    inference = host_inference(model, data)
    inference.params[model.v] = 2.0
    assert_close(inference.params[model.v], [2.0], rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_keeps_the_covariance_positive_definite(optimizer, data, rng):
    model = host_model(PositiveDefinite(), mx.nd.array(np.eye(3)))
    inference = host_inference(model)
    inference.run(optimizer=optimizer, learning_rate=LEARNING_RATES.get(optimizer, 0.02), max_iter=20, Y=data)
    raw = inference.params.param_dict[model.C.uuid].data().asnumpy()
    assert np.isfinite(raw).all()
    got = inference.params[model.C].asnumpy()
    assert np.linalg.eigvalsh(got.astype("float64")).min() > 0
    # sgld adds noise of its own to each entry, groupadagrad has one rate per row.
    if optimizer not in ("sgld", "groupadagrad"):
        np.testing.assert_array_equal(raw, raw.T)


def test_maximum_likelihood_covariance(data):
    model = host_model(PositiveDefinite(), mx.nd.array(np.eye(3)))
    inference = host_inference(model)
    inference.run(learning_rate=0.02, max_iter=600, Y=data)
    value = data.asnumpy().astype("float64")
    assert_close(inference.params[model.C], value.T @ value / len(value), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_keeps_the_factor_of_a_correlation(optimizer, data):
    initial = np.linalg.cholesky(np.eye(3) / 2 + 0.5)
    model = Model()
    model.N = Variable()
    model.L = Variable(shape=(3, 3), transformation=CorrelationCholesky(), initial_value=mx.nd.array(initial))
    model.Y = MultivariateNormal(scale_tril=model.L, shape=(model.N, 3))
    inference = host_inference(model)
    inference.run(optimizer=optimizer, learning_rate=LEARNING_RATES.get(optimizer, 0.02), max_iter=20, Y=data)
    got = inference.params[model.L].asnumpy()
    assert np.abs(got - initial).max() > 1e-6
    assert_close(np.linalg.norm(got, axis=-1), np.ones(3), rtol=1e-6)
    assert (np.diagonal(got) > 0).all()
    assert (np.triu(got, 1) == 0).all()
