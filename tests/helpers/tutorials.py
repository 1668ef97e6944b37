# SPDX-License-Identifier: Apache-2.0
"""The models of MXFusion's tutorials, with MXFusion's own distributions and modules, in small.

Each function takes a dtype and returns a :class:`Tutorial`.
"""

from typing import Any, Callable, NamedTuple, Optional

import mxfusion_mvn  # noqa: F401  (makes MXNet importable)

import mxfusion.components.distributions as host
import mxnet as mx
import numpy as np
from mxfusion import Model, Posterior, Variable
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import MAP, StochasticVariationalInference, create_Gaussian_meanfield
from mxfusion.modules.gp_modules import GPRegression, SparseGPRegression, SVGPRegression
from mxnet.gluon import nn

from helpers.host import nd

ROWS = 64


class Tutorial(NamedTuple):
    """
    A model, its data and how it is learned.

    ``batch_size`` is None where the tutorial uses all rows in each step; ``scaled`` are the variables whose density
    counts more where it does not; ``start`` takes the initialized inference, and sets what does not start at random.
    """

    algorithm: Any
    data: dict
    learning_rate: float
    batch_size: Optional[int] = None
    scaled: tuple = ()
    start: Callable = lambda inference: None


def normal(dtype):
    """Getting started: the mean and the variance of rows that are normal."""
    model = Model()
    model.mean = Variable(shape=(1,))
    _observe(model, dtype)
    return Tutorial(MAP(model, [model.Y]), {"Y": 3 + 2 * _rng().normal(size=ROWS)}, 0.1)


def normal_with_prior(dtype):
    """Getting started, its second half: the mean has a prior, and a posterior is learned."""
    model = Model()
    model.mean = host.Normal.define_variable(mean=nd([0], dtype), variance=nd([100], dtype), shape=(1,), dtype=dtype)
    _observe(model, dtype)
    posterior = create_Gaussian_meanfield(model, [model.Y], dtype=dtype)
    algorithm = StochasticVariationalInference(10, model, posterior, [model.Y])
    return Tutorial(algorithm, {"Y": 3 + 2 * _rng().normal(size=ROWS)}, 0.1)


def _observe(model, dtype):
    model.variance = _positive(5.0, dtype)
    model.Y = host.Normal.define_variable(
        mean=broadcast_to(model.mean, (ROWS,)),
        variance=broadcast_to(model.variance, (ROWS,)),
        shape=(ROWS,),
        dtype=dtype,
    )


def principal_components(dtype):
    """Probabilistic PCA: two latent coordinates of each row, whose posterior has a covariance for each row."""
    latent, columns = 2, 5
    model = Model()
    model.weights = Variable(shape=(latent, columns), initial_value=nd(_rng(1).normal(size=(latent, columns)), dtype))
    model.dot = MXFusionGluonFunction(nn.HybridLambda(function="dot"), num_outputs=1, broadcastable=False)
    identity = mx.nd.broadcast_to(mx.nd.eye(latent, dtype=dtype).expand_dims(0), (ROWS, latent, latent))
    model.z = host.MultivariateNormal.define_variable(
        mean=mx.nd.zeros((ROWS, latent), dtype=dtype), covariance=identity, shape=(ROWS, latent), dtype=dtype
    )
    model.noise = _positive(1.0, dtype)
    model.x = host.Normal.define_variable(
        mean=model.dot(model.z, model.weights),
        variance=broadcast_to(model.noise, (ROWS, columns)),
        shape=(ROWS, columns),
        dtype=dtype,
    )
    posterior = Posterior(model)
    posterior.mean = Variable(shape=(ROWS, latent), initial_value=mx.nd.zeros((ROWS, latent), dtype=dtype))
    posterior.covariance = Variable(shape=(ROWS, latent, latent), initial_value=0.5 * identity)
    posterior.z.set_prior(host.MultivariateNormal(mean=posterior.mean, covariance=posterior.covariance, dtype=dtype))
    x = _rng(2).normal(size=(ROWS, latent)) @ _rng(3).normal(size=(latent, columns))
    data = {"x": x + 0.1 * _rng(4).normal(size=x.shape)}
    return Tutorial(StochasticVariationalInference(10, model, posterior, [model.x]), data, 1e-2)


def process(dtype):
    """Regression by a Gaussian process."""
    return _process(GPRegression, dtype)


def sparse_process(dtype):
    """Regression by a sparse Gaussian process."""
    return _process(SparseGPRegression, dtype, **_inducing(dtype))


def variational_process(dtype):
    """Regression by a Gaussian process whose inducing variables have a posterior of their own, in minibatches."""
    return _process(SVGPRegression, dtype, batch_size=16, **_inducing(dtype))


def _process(module, dtype, batch_size=None, **inducing):
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 1))
    model.noise = _positive(0.1, dtype)
    kernel = RBF(1, variance=1.0, lengthscale=1.0, dtype=dtype)
    model.Y = module.define_variable(
        X=model.X, kernel=kernel, noise_var=model.noise, shape=(model.N, 1), dtype=dtype, **inducing
    )
    x = np.sort(_rng(5).uniform(-3, 3, size=(ROWS, 1)), axis=0)
    data = {"X": x, "Y": np.sin(x) + 0.3 * _rng(6).normal(size=x.shape)}
    return Tutorial(MAP(model, [model.X, model.Y]), data, 0.02, batch_size, (model.Y,) if batch_size else ())


def _inducing(dtype):
    points = np.linspace(-3, 3, 8)[:, None]
    return {"inducing_inputs": Variable(shape=points.shape, initial_value=nd(points, dtype))}


def neural_regression(dtype):
    """Regression by a Bayesian neural net."""
    model, x = _bayesian_net(1, dtype)
    model.noise = _positive(0.1, dtype)
    model.y = host.Normal.define_variable(
        mean=model.r, variance=broadcast_to(model.noise, (model.N, 1)), shape=(model.N, 1), dtype=dtype
    )
    return _learned_net(model, {"x": x, "y": np.sin(2 * x) + 0.05 * _rng(7).normal(size=x.shape)}, dtype)


def neural_classification(dtype):
    """Two classes, told apart by a Bayesian neural net."""
    model, x = _bayesian_net(2, dtype)
    model.y = host.Categorical.define_variable(
        log_prob=model.r, shape=(model.N, 1), num_classes=2, normalization=True, one_hot_encoding=False, dtype=dtype
    )
    return _learned_net(model, {"x": x, "y": (np.sin(2 * x) > 0).astype("float64")}, dtype)


def _bayesian_net(outputs, dtype):
    x = np.sort(_rng(8).uniform(-2, 2, size=(ROWS, 1)), axis=0)
    model = Model()
    model.N = Variable()
    model.x = Variable(shape=(model.N, 1))
    model.net = _gluon(_net("net_", (1, 10, 10, outputs), dtype), 1)
    model.r = model.net(model.x)
    for weight in model.r.factor.parameters.values():
        mean, variance = (broadcast_to(Variable(value=nd([value], dtype)), weight.shape) for value in (0, 3))
        weight.set_prior(host.Normal(mean=mean, variance=variance, dtype=dtype))
    return model, x


def _learned_net(model, data, dtype):
    observed = [model.x, model.y]
    posterior = create_Gaussian_meanfield(model, observed, dtype=dtype)
    weights = [posterior[weight].factor for weight in model.r.factor.parameters.values()]

    def start(inference):
        for weight in weights:
            inference.params[weight.variance] = mx.nd.full(weight.variance.shape, 1e-4, dtype=dtype)

    return Tutorial(StochasticVariationalInference(3, model, posterior, observed), data, 3e-3, start=start)


def auto_encoder(dtype):
    """A variational auto-encoder: one net makes rows of latent coordinates, another their posterior of rows."""
    latent, columns, batch_size = 2, 6, 16
    model = Model()
    model.N = Variable()
    model.decoder = _gluon(_net("decoder_", (latent, 16, columns), dtype), 1)
    model.x = host.Normal.define_variable(
        mean=broadcast_to(Variable(value=nd([0], dtype)), (model.N, latent)),
        variance=broadcast_to(Variable(value=nd([1], dtype)), (model.N, latent)),
        shape=(model.N, latent),
        dtype=dtype,
    )
    model.noise = _positive(0.5, dtype)
    model.y = host.Normal.define_variable(
        mean=model.decoder(model.x),
        variance=broadcast_to(model.noise, (model.N, columns)),
        shape=(model.N, columns),
        dtype=dtype,
    )
    posterior = Posterior(model)
    posterior.encoder = _gluon(Encoder("encoder_", columns, latent, dtype), 2)
    posterior.x_mean, posterior.x_variance = posterior.encoder(posterior.y)
    posterior.x.set_prior(host.Normal(mean=posterior.x_mean, variance=posterior.x_variance, dtype=dtype))
    y = np.tanh(_rng(9).normal(size=(ROWS, latent)) @ _rng(10).normal(size=(latent, columns)))
    algorithm = StochasticVariationalInference(3, model, posterior, [model.y])
    return Tutorial(algorithm, {"y": y}, 1e-2, batch_size, (model.x, model.y))


class Encoder(mx.gluon.HybridBlock):
    """Means and variances of latent coordinates; its weights start from a seed of their own."""

    def __init__(self, prefix, columns, latent, dtype):
        super().__init__(prefix=prefix)
        with self.name_scope():
            self.net = _net("net_", (columns, 16, 2 * latent), dtype)
        self._latent = latent

    def hybrid_forward(self, F, y):
        """
        From rows to coordinates.

        :param F: ``mxnet.ndarray`` or ``mxnet.symbol``.
        :param y: (N, D).
        :returns: means (N, Q), variances (N, Q).
        """
        both = self.net(y)
        mean = F.slice_axis(both, axis=-1, begin=0, end=self._latent)
        return mean, F.Activation(F.slice_axis(both, axis=-1, begin=self._latent, end=None), act_type="softrelu")


def _net(prefix, units, dtype):
    """Dense layers with tanh between them, initialized from a fixed seed."""
    net = nn.HybridSequential(prefix=prefix)
    with net.name_scope():
        for inputs, outputs in zip(units[:-2], units[1:-1]):
            net.add(nn.Dense(outputs, activation="tanh", flatten=False, in_units=inputs))
        net.add(nn.Dense(units[-1], flatten=False, in_units=units[-2]))
    net.cast(dtype)
    mx.random.seed(5)
    net.initialize(mx.init.Xavier(magnitude=3))
    return net


def _gluon(block, outputs):
    block.hybridize()
    return MXFusionGluonFunction(block, num_outputs=outputs, broadcastable=False)


def _positive(value, dtype):
    return Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=nd([value], dtype))


def _rng(seed=0):
    return np.random.RandomState(seed)
