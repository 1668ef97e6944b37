# SPDX-License-Identifier: Apache-2.0
"""Six models of problems.py in MXFusion with this package, and some of the host's that have no peer elsewhere.

Each function gives a Model and the values of its observed variables, by name.
"""

from mxfusion_mvn import LKJCholesky, MultivariateNormal
from mxfusion_mvn.functions import linear, scale_rows
from mxfusion_mvn.transformations import LowerCholesky

import mxfusion.components.distributions as host
import mxnet as mx
import numpy as np
import problems
from mxfusion import Model, Variable
from mxfusion.components.distributions.gp.kernels import RBF, White
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.components.variables import PositiveTransformation
from mxfusion.modules.gp_modules import SVGPRegression
from mxnet.gluon import HybridBlock, nn

PRIOR_VARIANCE = problems.PRIOR_SD**2


def mean_model(data):
    """The mean of a normal, its covariance known."""
    return _normal(data["x"], covariance=data["covariance"])


def mean_and_covariance(data):
    """The mean of a normal, its Cholesky factor a parameter."""
    dim = data["x"].shape[-1]
    factor = Variable(shape=(dim, dim), transformation=LowerCholesky(), initial_value=mx.nd.eye(dim))
    return _normal(data["x"], scale_tril=factor)


def _normal(x, **matrix):
    model = Model()
    model.mean = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=x.shape[1:])
    model.x = MultivariateNormal(mean=model.mean, shape=x.shape, **matrix)
    return model, {"x": x}


def regression(data):
    """Bayesian linear regression."""
    model = Model()
    model.weights = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=data["x"].shape[1:])
    mean = linear(data["x"], model.weights)
    model.y = MultivariateNormal(mean=mean, covariance=problems.REGRESSION_SD**2, shape=(len(data["y"]), 1))
    return model, {"y": data["y"][:, None]}


def sleepstudy(data):
    """Correlated intercepts and slopes."""
    subjects, days = data["y"].shape
    model = Model()
    model.beta = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(2,))
    model.sd = gamma((2,))
    model.correlation = LKJCholesky(problems.LKJ, shape=(2, 2))
    model.noise = gamma((1, 1))
    factor = scale_rows(model.correlation, model.sd)
    model.coefficients = MultivariateNormal(mean=model.beta, scale_tril=factor, shape=(subjects, 2))
    mean = linear(data["design"], model.coefficients)
    model.y = host.Normal.define_variable(mean=mean, variance=model.noise, shape=(days, subjects))
    return model, {"y": data["y"].T}


class Net(HybridBlock):
    """A neural net whose weights are arguments (S, ...), so that all samples are evaluated at once."""

    def hybrid_forward(self, F, x, weight0, bias0, weight1, bias1, weight2, bias2):
        """
        The outputs.

        :param F: ``mxnet.ndarray``.
        :param x: (S, N, 1).
        :returns: (S, N, 1).
        """
        hidden = x
        for weight, bias, activate in (
            (weight0, bias0, F.tanh),
            (weight1, bias1, F.tanh),
            (weight2, bias2, F.identity),
        ):
            product = F.batch_dot(hidden, weight)
            hidden = activate(F.broadcast_add(product, F.expand_dims(bias, axis=-2)))
        return hidden


def neural_net(data):
    """A Bayesian neural net."""
    model = Model()
    weights = []
    for name, shape in problems.net_shapes().items():
        # Not the default of one number: the host would align it with the samples.
        prior = host.Normal(mean=mx.nd.zeros(shape), variance=mx.nd.ones(shape))
        setattr(model, name, Variable(shape=shape))
        getattr(model, name).set_prior(prior)
        weights.append(getattr(model, name))
    net = MXFusionGluonFunction(Net(), num_outputs=1, broadcastable=True)
    mean = net(Variable(value=mx.nd.array(data["x"])), *weights)
    model.y = host.Normal.define_variable(mean=mean, variance=_net_variance(), shape=data["y"].shape)
    return model, {"y": data["y"]}


def gluon_net(data):
    """The same with Gluon's own layers, which the host evaluates sample by sample."""
    net = nn.HybridSequential()
    for _ in range(2):
        net.add(nn.Dense(problems.HIDDEN, activation="tanh", flatten=False))
    net.add(nn.Dense(1, flatten=False))
    net.initialize()
    net.hybridize()
    net(mx.nd.array(data["x"]))
    model = Model()
    model.function = MXFusionGluonFunction(net, num_outputs=1, broadcastable=False)
    mean = model.function(Variable(value=mx.nd.array(data["x"])))
    for weight in mean.factor.parameters.values():
        weight.set_prior(
            host.Normal(
                mean=broadcast_to(mx.nd.array([0]), weight.shape), variance=broadcast_to(mx.nd.array([1]), weight.shape)
            )
        )
    model.y = host.Normal.define_variable(mean=mean, variance=_net_variance(), shape=data["y"].shape)
    return model, {"y": data["y"]}


def process(data):
    """A Gaussian process."""
    model = Model()
    for name in ("variance", "length", "noise"):
        setattr(model, name, gamma((1,)))
    kernel = RBF(1, variance=model.variance, lengthscale=model.length) + White(1, variance=model.noise)
    covariance = kernel(Variable(value=mx.nd.array(data["x"])))
    model.y = MultivariateNormal(covariance=covariance, shape=data["y"].shape)
    return model, {"y": data["y"]}


def hosts_mean(data):
    """The mean of a normal, its covariance known, by the host's class."""
    rows, dim = data["x"].shape
    model = Model()
    model.mean = host.MultivariateNormal.define_variable(
        mean=mx.nd.zeros(dim), covariance=PRIOR_VARIANCE * mx.nd.eye(dim), shape=(dim,)
    )
    model.x = host.MultivariateNormal.define_variable(
        mean=broadcast_to(model.mean, (rows, dim)),
        covariance=mx.nd.broadcast_to(mx.nd.array(data["covariance"]).expand_dims(0), (rows, dim, dim)),
        shape=(rows, dim),
    )
    return model, {"x": data["x"]}


def univariate(data):
    """The means of independent normals, and their variances as parameters, by the host's classes only."""
    model = Model()
    model.mean = host.Normal.define_variable(mean=0.0, variance=PRIOR_VARIANCE, shape=data["x"].shape[1:])
    model.variance = Variable(shape=data["x"].shape[1:], transformation=PositiveTransformation(), initial_value=1.0)
    shape = data["x"].shape
    model.x = host.Normal.define_variable(
        mean=broadcast_to(model.mean, shape), variance=broadcast_to(model.variance, shape), shape=shape
    )
    return model, {"x": data["x"]}


def sparse_process(data):
    """A sparse variational Gaussian process with 10 inducing inputs, the host's module."""
    model = Model()
    model.x = Variable(shape=data["x"].shape)
    model.noise = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=0.1)
    inducing = mx.nd.array(np.linspace(-2, 2, 10)[:, None])
    model.y = SVGPRegression.define_variable(
        X=model.x,
        kernel=RBF(1),
        noise_var=model.noise,
        shape=(len(data["y"]), 1),
        inducing_inputs=Variable(shape=(10, 1), initial_value=inducing),
    )
    return model, {"x": data["x"], "y": data["y"][:, None]}


def gamma(shape, prior=problems.GAMMA):
    """
    A positive variable.

    :param shape: tuple.
    :param prior: shape and rate of its gamma distribution.
    :returns: a random Variable.
    """
    alpha, beta = (mx.nd.full(shape, value) for value in prior)
    return host.Gamma.define_variable(alpha=alpha, beta=beta, shape=shape)


def _net_variance():
    return Variable(value=mx.nd.full((1, 1), problems.NET_SD**2))


MODELS = {
    "mean": mean_model,
    "mean and covariance": mean_and_covariance,
    "regression": regression,
    "sleepstudy": sleepstudy,
    "neural net": neural_net,
    "process": process,
    "mean, host's class": hosts_mean,
    "univariate normals": univariate,
    "Gluon net": gluon_net,
    "sparse process": sparse_process,
}
