# SPDX-License-Identifier: Apache-2.0
"""The eight models of other kinds of problems.py in MXFusion with this package.

Each function gives a Model and the values of its observed variables, by name.
"""

from mxfusion_mvn import (
    GaussianMixture,
    InverseWishart,
    LKJCholesky,
    LowRankMultivariateNormal,
    MultivariateNormal,
    MultivariateStudentT,
)
from mxfusion_mvn.functions import linear, scale_rows

import mxfusion.components.distributions as host
import mxnet as mx
import problems
from models_ours import PRIOR_VARIANCE, gamma
from mxfusion import Model, Variable
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.components.functions.operators import exp
from mxnet.gluon import HybridBlock


def eight_schools(data):
    """Effects that vary about a mean, not centred; its sums and products are the host's, one for each draw."""
    model = Model()
    model.mu = host.Normal.define_variable(mean=mx.nd.zeros(1), variance=mx.nd.full(1, PRIOR_VARIANCE), shape=(1,))
    model.tau = gamma((1,), problems.TAU)
    shape = data["y"].shape
    model.eta = host.Normal.define_variable(mean=mx.nd.zeros(shape), variance=mx.nd.ones(shape), shape=shape)
    variance = Variable(value=mx.nd.array(data["sd"] ** 2))
    model.y = host.Normal.define_variable(mean=model.mu + model.tau * model.eta, variance=variance, shape=shape)
    return model, {"y": data["y"]}


def conjugate_normal(data):
    """Mean and covariance of a normal under a normal-inverse-Wishart prior."""
    dim = data["x"].shape[-1]
    model = Model()
    model.covariance = InverseWishart(problems.freedom(dim), shape=(dim, dim))
    model.mean = MultivariateNormal(covariance=model.covariance, shape=(dim,))
    model.x = MultivariateNormal(mean=model.mean, covariance=model.covariance, shape=data["x"].shape)
    return model, {"x": data["x"]}


def mixture(data):
    """A mixture of normals, its weights, means and covariances unknown."""
    count, dim = problems.COMPONENTS, data["x"].shape[-1]
    model = Model()
    alpha = mx.nd.full((1, count), problems.DIRICHLET)  # the host's class takes rows only
    model.weights = host.Dirichlet.define_variable(alpha=alpha, shape=alpha.shape)
    model.means = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(count, dim))
    model.covariances = InverseWishart(problems.freedom(dim), shape=(count, dim, dim))
    model.x = GaussianMixture(model.weights, model.means, covariance=model.covariances, shape=data["x"].shape)
    return model, {"x": data["x"]}


def lkj_hierarchy(data):
    """Correlated coefficients, each group with its own design."""
    rows, dim = data["x"].shape
    model = Model()
    model.beta = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(dim,))
    model.sd = gamma((dim,))
    model.correlation = LKJCholesky(problems.LKJ, shape=(dim, dim))
    model.noise = gamma((1, 1))
    factor = scale_rows(model.correlation, model.sd)
    model.coefficients = MultivariateNormal(mean=model.beta, scale_tril=factor, shape=(problems.GROUPS, dim))
    mean = linear(data["x"], model.coefficients, groups=data["groups"])
    model.y = host.Normal.define_variable(mean=mean, variance=model.noise, shape=(rows, 1))
    return model, {"y": data["y"][:, None]}


def factor_model(data):
    """Loadings and noise of a factor analysis, its factors summed out."""
    dim = data["x"].shape[-1]
    model = Model()
    model.mean = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(dim,))
    model.loadings = MultivariateNormal(covariance=1.0, shape=(dim, problems.FACTORS))
    model.noise = gamma((dim,))
    model.x = LowRankMultivariateNormal(model.mean, model.loadings, model.noise, shape=data["x"].shape)
    return model, {"x": data["x"]}


def student_t(data):
    """A regression whose residuals have heavy tails; how heavy is learned."""
    model = Model()
    model.weights = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=data["x"].shape[1:])
    model.noise = gamma((1, 1))
    model.freedom = gamma((1,), problems.FREEDOM)
    mean = linear(data["x"], model.weights)
    model.y = MultivariateStudentT(model.freedom, mean, covariance=model.noise, shape=(len(data["y"]), 1))
    return model, {"y": data["y"][:, None]}


class Sigmoid(HybridBlock):
    """Probabilities of log odds, of all samples at once; the host has no such function."""

    def hybrid_forward(self, F, log_odds):
        """
        The probabilities.

        :param F: ``mxnet.ndarray``.
        :param log_odds: (S, N, 1).
        :returns: (S, N, 1).
        """
        return F.sigmoid(log_odds)


def logistic(data):
    """A logistic regression."""
    model = Model()
    model.weights = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=data["x"].shape[1:])
    sigmoid = MXFusionGluonFunction(Sigmoid(), num_outputs=1, broadcastable=True)
    probability = sigmoid(linear(data["x"], model.weights))
    model.y = host.Bernoulli.define_variable(probability, shape=(len(data["y"]), 1))
    return model, {"y": data["y"][:, None]}


def volatility(data):
    """Returns whose log variance is a process; its exponential is the host's, one for each draw."""
    days = data["y"].shape
    model = Model()
    model.mu = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(1,))
    model.h = MultivariateNormal(mean=model.mu, covariance=data["covariance"], shape=days)
    model.y = host.Normal.define_variable(mean=mx.nd.zeros(days), variance=exp(model.h), shape=days)
    return model, {"y": data["y"]}


MODELS = {
    "eight schools": eight_schools,
    "conjugate normal": conjugate_normal,
    "mixture": mixture,
    "LKJ hierarchy": lkj_hierarchy,
    "factor model": factor_model,
    "Student t": student_t,
    "logistic": logistic,
    "volatility": volatility,
}
