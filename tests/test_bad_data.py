# SPDX-License-Identifier: Apache-2.0
"""Data that are not finite: the variable that was observed is blamed, and the row is that of all data."""

import warnings

from mxfusion_mvn import GaussianMixture, LowRankMultivariateNormal, MultivariateNormal, MultivariateStudentT
from mxfusion_mvn.inference import MAP, BatchLoop, CompiledLoop, CompiledMinibatchLoop, MinibatchLoop

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import GradBasedInference

from helpers.host import nd

ROWS = 137
LOOPS = {
    "host": lambda: None,
    "batch": BatchLoop,
    "compiled": CompiledLoop,
    "minibatch": lambda: MinibatchLoop(50),
    "compiled minibatch": lambda: CompiledMinibatchLoop(50),
}
DISTRIBUTIONS = {
    "MultivariateNormal": lambda m, **kw: MultivariateNormal(m.mu, **kw),
    "LowRankMultivariateNormal": lambda m, **kw: LowRankMultivariateNormal(
        m.mu, np.ones((2, 1), "float32"), np.ones(2, "float32"), **kw
    ),
    "MultivariateStudentT": lambda m, **kw: MultivariateStudentT(5.0, m.mu, **kw),
    "GaussianMixture": lambda m, **kw: GaussianMixture(np.array([0.5, 0.5], "float32"), m.means, covariance=1.0, **kw),
}


def inference_of(name, loop, latent=True):
    model = Model()
    model.N = Variable()
    shape = (2, 2) if name == "GaussianMixture" else (2,)
    location = MultivariateNormal(0.0, 10.0, shape=shape) if latent else Variable(shape=shape)
    setattr(model, "means" if name == "GaussianMixture" else "mu", location)
    model.X = DISTRIBUTIONS[name](model, shape=(model.N, 2))
    return GradBasedInference(MAP(model, [model.X]), grad_loop=LOOPS[loop]())


def said(inference, data):
    """What the run says of bad data: as an error, or as the message of its record."""
    mx.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return inference.run(X=nd(data, "float32"), max_iter=5).message
        except InferenceError as error:
            return str(error)


@pytest.mark.parametrize("latent", [True, False], ids=["latent", "parameter"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("loop", LOOPS)
def test_the_observed_variable_is_blamed_by_its_row(loop, name, latent, rng):
    data = rng.normal(size=(ROWS, 2))
    data[121, 1] = np.nan
    message = said(inference_of(name, loop, latent), data)
    assert "`X` is nan at index (121, 1); expected " in message
    assert ("missing=True" in message) == (name == "MultivariateNormal")
    assert ("leave out the rows with missing entries" in message) == (name != "MultivariateNormal")


@pytest.mark.parametrize("loop", ["batch", "minibatch", "compiled minibatch"])
@pytest.mark.parametrize("row", [0, 60, 136])
def test_infinity_is_not_called_missing(loop, row, rng):
    data = rng.normal(size=(ROWS, 2))
    data[row, 0] = -np.inf
    message = said(inference_of("MultivariateStudentT", loop), data)
    assert f"`X` is -inf at index ({row}, 0); expected finite numbers. Look at the data" in message
    assert "missing" not in message


@pytest.mark.parametrize("loop", ["batch", "minibatch"])
def test_missing_entries_are_not_blamed(loop, rng):
    data = rng.normal(size=(ROWS, 2))
    data[5, 1] = np.nan
    model = Model()
    model.N = Variable()
    model.v = Variable(shape=(2, 2), initial_value=nd(-np.eye(2), "float32"))
    model.X = MultivariateNormal(0.0, model.v, shape=(model.N, 2), missing=True)
    message = said(GradBasedInference(MAP(model, [model.X]), grad_loop=LOOPS[loop]()), data)
    assert "`v`" in message or "`covariance` of variable `X` is not positive definite" in message
    assert "`X` is nan" not in message
