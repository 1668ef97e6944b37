# SPDX-License-Identifier: Apache-2.0
"""Inferences to compile, and comparisons of their runs."""

import contextlib
import ctypes
import warnings
from pathlib import Path

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import BatchLoop, CompiledLoop, NotCompiledWarning
from mxfusion_mvn.transformations import LowerCholesky

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxfusion.components.distributions import Normal
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import MAP, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from mxnet.base import _LIB, check_call

from helpers.host import nd
from helpers.runs import parameters

DATA = np.random.RandomState(3).normal(1.0, 2.0, size=(24, 1))
ROWS = np.random.RandomState(4).normal(size=(26, 2))


def variational(algorithm=StochasticVariationalInference, dtype="float32", rand_gen=None):
    """Y ~ N(mu, variance), mu ~ N(0, 1), with q(mu) normal and the variance learned."""
    model = Model()
    model.N = Variable()
    zero, one = nd([0.0], dtype), nd([1.0], dtype)
    model.mu = Normal.define_variable(mean=zero, variance=one, shape=(1,), dtype=dtype)
    model.variance = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=nd([2.0], dtype))
    model.Y = Normal.define_variable(
        mean=broadcast_to(model.mu, (model.N, 1)),
        variance=broadcast_to(model.variance, (model.N, 1)),
        shape=(model.N, 1),
        dtype=dtype,
    )
    posterior = Posterior(model)
    posterior.mean = Variable(shape=(1,), initial_value=nd([0.1], dtype))
    posterior.variance = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=nd([0.5], dtype))
    posterior.mu.set_prior(Normal(posterior.mean, posterior.variance, rand_gen=rand_gen, dtype=dtype))
    return algorithm(5, model, posterior, [model.Y])


def fitted(loop, algorithm=None, dtype="float32", data=DATA, **options):
    """An inference after a run from fixed seeds; `inference.record` is what the run returned."""
    algorithm = variational(dtype=dtype) if algorithm is None else algorithm
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=dtype)
    mx.random.seed(11)
    np.random.seed(11)
    options = {"max_iter": 40, "learning_rate": 0.05, **options}
    inference.record = inference.run(Y=nd(data, dtype), **options)
    return inference


@contextlib.contextmanager
def not_compiled(reason):
    """There has to be one warning that the objective is not compiled, at a line of a test, with a reason in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotCompiledWarning)
        yield
    caught = [warning for warning in caught if warning.category is NotCompiledWarning]
    assert len(caught) == 1
    assert Path(__file__).parents[1] in Path(caught[0].filename).parents
    assert reason in str(caught[0].message)


def assert_close_parameters(one, other, atol):
    for mine, yours in zip(parameters(one), parameters(other)):
        assert mine.dtype == yours.dtype
        np.testing.assert_allclose(mine, yours, rtol=0, atol=atol)


def assert_falls_back(reason, create):
    """A loop that cannot compile says so, and trains as the loop that does not try."""
    with not_compiled(reason):
        compiled = fitted(CompiledLoop(), create(), max_iter=10)
    assert not compiled.record.compiled
    assert reason in compiled.record.fallback_reason
    plain = fitted(BatchLoop(), create(), max_iter=10)
    assert_close_parameters(compiled, plain, atol=0)
    np.testing.assert_array_equal(compiled.record.loss, plain.record.loss)


def vectors(dtype="float32"):
    """Y ~ N(mean, L L^T) with both learned."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(2,), initial_value=nd([0.0, 0.5], dtype))
    model.factor = Variable(shape=(2, 2), transformation=LowerCholesky(), initial_value=nd(np.eye(2), dtype))
    model.Y = MultivariateNormal(model.mean, scale_tril=model.factor, shape=(model.N, 2), dtype=dtype)
    return MAP(model, [model.Y])


class Peeking(MAP):
    """The objective has a number in it that is read from the memory of a parameter, where no hook is."""

    def compute(self, F, variables):
        loss = super().compute(F, variables)[0]
        array, address = variables[self.model.mean.uuid], ctypes.c_void_p()
        kinds = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}
        array.wait_to_read()
        check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
        loss = loss * (1.0 + abs(ctypes.cast(address, ctypes.POINTER(kinds[array.dtype]))[0]))
        return loss, loss
