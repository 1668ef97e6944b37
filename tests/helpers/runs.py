# SPDX-License-Identifier: Apache-2.0
"""Inferences to run, and what to look at after a run."""

import contextlib
import warnings
from pathlib import Path

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import TrainingStoppedWarning
from mxfusion_mvn.transformations import PositiveDefinite

import numpy as np
from mxfusion import Model, Variable
from mxfusion.components.distributions import Normal
from mxfusion.inference import MAP, GradBasedInference

from helpers.host import nd

ROWS = np.linspace(-2.0, 2.0, 20)[:, None]


def learned_model(dtype="float32"):
    """X ~ N(mean, covariance) with both learned."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(3,), initial_value=nd(np.zeros(3), dtype))
    model.covariance = Variable(shape=(3, 3), transformation=PositiveDefinite(), initial_value=nd(np.eye(3), dtype))
    model.X = MultivariateNormal(model.mean, model.covariance, shape=(model.N, 3), dtype=dtype)
    return model


def map_inference(loop, dtype="float32", model=None):
    model = learned_model(dtype) if model is None else model
    return GradBasedInference(MAP(model, [model.X]), grad_loop=loop, dtype=dtype)


def variance_model(initial, dtype="float64"):
    """X ~ N(0, variance) with a variance that nothing keeps positive."""
    model = Model()
    model.N = Variable()
    model.variance = Variable(shape=(1,), initial_value=nd([initial], dtype))
    model.X = Normal.define_variable(
        mean=nd(np.zeros(1), dtype), variance=model.variance, shape=(model.N, 1), dtype=dtype
    )
    return model


def parameters(inference):
    """The raw values, the smallest first so that two inferences can be compared without their uuids."""
    values = [parameter.data().asnumpy() for parameter in inference.params.param_dict.values()]
    return sorted(values, key=lambda value: value.size)


def assert_same_parameters(one, other):
    for mine, yours in zip(parameters(one), parameters(other)):
        assert mine.dtype == yours.dtype
        np.testing.assert_array_equal(mine, yours)


@contextlib.contextmanager
def stopped(message=""):
    """
    There has to be one warning that the run was stopped, at a line of a test, whose message begins so.

    ``pytest.warns`` would also catch what MXNet warns of at each ``mx.nd.array``, and turn it into an error.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingStoppedWarning)
        yield
    assert [warning.category for warning in caught] == [TrainingStoppedWarning]
    assert Path(caught[0].filename).name.startswith("test_")
    assert str(caught[0].message).startswith(message)


@contextlib.contextmanager
def warned(message):
    """There has to be one warning of the package that says so, at a line of a test, as in :func:`stopped`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    (warning,) = [each for each in caught if each.category is UserWarning]
    assert Path(warning.filename).name.startswith("test_")
    assert message in str(warning.message)
