# SPDX-License-Identifier: Apache-2.0
"""Models of a chosen size: what libraries compute by other algorithms when it grows.

Each function returns an algorithm and its data, a dict from name to NumPy array. Rows can be cut into minibatches,
but for those of a Gaussian process.
"""

import mxfusion_mvn as mvn
from mxfusion_mvn.functions import scale_rows
from mxfusion_mvn.inference import create_Gaussian_fullrank
from mxfusion_mvn.transformations import CorrelationCholesky, Positive, PositiveDefinite

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxfusion.components.distributions import Normal
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.inference import MAP, StochasticVariationalInference
from mxfusion.modules.gp_modules import GPRegression

from helpers.host import nd


def free(value, dtype, transformation=None):
    """A parameter that is learned."""
    return Variable(shape=np.shape(value), transformation=transformation, initial_value=nd(value, dtype))


def covariance(dim, rows, dtype):
    """Rows with a learned mean and covariance."""
    return _vectors(dim, rows, dtype, lambda m: {"covariance": m.matrix}, free(np.eye(dim), dtype, PositiveDefinite()))


def precision(dim, rows, dtype):
    """Rows with a learned mean and precision."""
    return _vectors(dim, rows, dtype, lambda m: {"precision": m.matrix}, free(np.eye(dim), dtype, PositiveDefinite()))


def correlation(dim, rows, dtype):
    """Rows with a learned mean, learned standard deviations and learned correlations."""
    matrix = free(np.eye(dim), dtype, CorrelationCholesky())
    return _vectors(dim, rows, dtype, lambda m: {"scale_tril": scale_rows(m.matrix, m.diagonal)}, matrix)


def low_rank(dim, rank, rows, dtype):
    """Rows whose covariance is a learned low-rank matrix and a learned diagonal."""
    model = _rows_model(dim, dtype)
    model.factor = free(0.1 * np.random.RandomState(1).normal(size=(dim, rank)), dtype)
    model.Y = mvn.LowRankMultivariateNormal(model.mean, model.factor, model.diagonal, shape=(model.N, dim), dtype=dtype)
    return MAP(model, [model.Y]), {"Y": _correlated(rows, dim)}


def posterior(dim, rows, dtype):
    """The mean of rows under a full-rank posterior."""
    model = Model()
    model.N = Variable()
    model.mean = mvn.MultivariateNormal(covariance=4.0, shape=(dim,), dtype=dtype)
    model.Y = mvn.MultivariateNormal(model.mean, 1.0, shape=(model.N, dim), dtype=dtype)
    approximation = create_Gaussian_fullrank(model, [model.Y], dtype=dtype)
    return StochasticVariationalInference(3, model, approximation, [model.Y]), {"Y": _correlated(rows, dim)}


def net(width, rows, dtype, *layers):
    """A regression by a Gluon net of two dense layers, with layers between them."""
    x = np.random.RandomState(2).normal(size=(rows, 3))
    mx.random.seed(5)
    block = mx.gluon.nn.HybridSequential(prefix="net_")
    with block.name_scope():
        block.add(mx.gluon.nn.Dense(width, activation="tanh", flatten=False, in_units=3), *(make() for make in layers))
        block.add(mx.gluon.nn.Dense(1, flatten=False, in_units=width))
    block.cast(dtype)
    block.initialize(mx.init.Xavier())
    block.hybridize()
    block(nd(x, dtype))
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 3))
    model.net = MXFusionGluonFunction(block, num_outputs=1, broadcastable=False)
    model.f = model.net(model.X)
    model.variance = free([0.5], dtype, Positive())
    model.Y = Normal.define_variable(
        mean=model.f, variance=broadcast_to(model.variance, (model.N, 1)), shape=(model.N, 1), dtype=dtype
    )
    return MAP(model, [model.X, model.Y]), {"X": x, "Y": np.sin(x[:, :1])}


def process(dim, rows, dtype):
    """A Gaussian process with a length scale for each input."""
    x = np.random.RandomState(3).normal(size=(rows, dim))
    model = Model()
    model.X = Variable(shape=x.shape)
    kernel = RBF(dim, ARD=True, variance=1.0, lengthscale=free(np.ones(dim), dtype, Positive()), dtype=dtype)
    model.noise = free([0.1], dtype, Positive())
    model.Y = GPRegression.define_variable(
        X=model.X, kernel=kernel, noise_var=model.noise, shape=(rows, 1), dtype=dtype
    )
    return MAP(model, [model.X, model.Y]), {"X": x, "Y": np.sin(x[:, :1])}


def _rows_model(dim, dtype):
    model = Model()
    model.N = Variable()
    model.mean = free(np.zeros(dim), dtype)
    model.diagonal = free(np.ones(dim), dtype, Positive())
    return model


def _vectors(dim, rows, dtype, parameters, matrix):
    model = _rows_model(dim, dtype)
    model.matrix = matrix
    model.Y = mvn.MultivariateNormal(model.mean, shape=(model.N, dim), dtype=dtype, **parameters(model))
    return MAP(model, [model.Y]), {"Y": _correlated(rows, dim)}


def _correlated(rows, dim):
    rng = np.random.RandomState(4)
    return 0.5 + rng.normal(size=(rows, dim)) + 0.7 * rng.normal(size=(rows, 1))
