# SPDX-License-Identifier: Apache-2.0
"""
Models whose posterior is known: rows with an unknown mean, X_n ~ N(mu, C), mu ~ N(0, P), and a linear regression.

And an inference that holds the posterior of the first.
"""

from typing import Any, NamedTuple

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.functions import linear
from mxfusion_mvn.transformations import LowerCholesky

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxfusion.inference import GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from scipy import stats

from helpers.host import nd


class Exact(NamedTuple):
    """The inference, its data (N, D), and what is known of it in float64."""

    inference: Any
    data: np.ndarray
    prior: np.ndarray
    covariance: np.ndarray
    mean: np.ndarray
    posterior: np.ndarray

    @property
    def log_evidence(self):
        """Log p(X): the rows are correlated through mu."""
        rows, dim = self.data.shape
        joint = np.kron(np.eye(rows), self.covariance) + np.kron(np.ones((rows, rows)), self.prior)
        return stats.multivariate_normal.logpdf(self.data.ravel(), np.zeros(rows * dim), joint)


def conjugate_model(prior, covariance, dtype="float64"):
    """The model."""
    dim = len(covariance)
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=nd(prior, dtype), shape=(dim,), dtype=dtype)
    model.X = MultivariateNormal(mean=model.mu, covariance=nd(covariance, dtype), shape=(model.N, dim), dtype=dtype)
    return model


def exact_posterior(data, prior, covariance):
    """Mean and covariance of mu given the data (N, D)."""
    precision = np.linalg.inv(covariance)
    posterior = np.linalg.inv(np.linalg.inv(prior) + len(data) * precision)
    return posterior @ precision @ data.sum(axis=0), posterior


def exact_inference(rng, rows=12, dtype="float64", grad_loop=None):
    """An inference that is initialised at the exact posterior, for D = 2."""
    prior, covariance = np.array([[2.0, 0.3], [0.3, 1.0]]), np.array([[1.0, -0.4], [-0.4, 0.5]])
    data = rng.multivariate_normal([1.0, -1.0], covariance, size=rows)
    model = conjugate_model(prior, covariance, dtype)
    q = Posterior(model)
    mean = Variable(shape=(2,))
    scale_tril = Variable(shape=(2, 2), transformation=LowerCholesky(), initial_value=nd(np.eye(2), dtype))
    q.mu.set_prior(MultivariateNormal(mean=mean, scale_tril=scale_tril, dtype=dtype))
    algorithm = StochasticVariationalInference(3, model, q, [model.X])
    inference = GradBasedInference(algorithm, grad_loop=grad_loop, dtype=dtype)
    inference.initialize(X=data.shape)
    center, posterior = exact_posterior(data, prior, covariance)
    inference.params[mean] = nd(center, dtype)
    inference.params[scale_tril] = nd(np.linalg.cholesky(posterior), dtype)
    mx.nd.waitall()
    return Exact(inference, data, prior, covariance, center, posterior)


def regression(rng, rows=40, dim=10, dtype="float64"):
    """A regression with correlated predictors, its data, the exact posterior of the weights, and the log evidence."""
    predictors = rng.normal(size=(rows, dim)) + 1.5 * rng.normal(size=(rows, 1))
    response = predictors @ rng.normal(size=dim) + 0.7 * rng.normal(size=rows)
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, dim))
    model.w = MultivariateNormal(covariance=4.0, shape=(dim,), dtype=dtype)
    model.Y = MultivariateNormal(mean=linear(model.X, model.w), covariance=0.49, shape=(model.N, 1), dtype=dtype)
    data = {"X": nd(predictors, dtype), "Y": nd(response[:, None], dtype)}
    cov = np.linalg.inv(predictors.T @ predictors / 0.49 + np.eye(dim) / 4)
    mean = cov @ predictors.T @ response / 0.49
    marginal = 4 * predictors @ predictors.T + 0.49 * np.eye(rows)
    return model, data, (mean, cov), stats.multivariate_normal.logpdf(response, np.zeros(rows), marginal)


def assert_moments(draws, mean, covariance, errors=5.0):
    """Draws (S, D) have these moments, within so many standard errors (of the covariance: those of Gaussian draws)."""
    size, mean, covariance = len(draws), np.asarray(mean), np.asarray(covariance)
    variances = np.diag(covariance)
    assert draws.shape[1:] == mean.shape
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean), errors * np.sqrt(variances / size))
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / size)
    np.testing.assert_array_less(np.abs(np.cov(draws.T) - covariance), errors * error)
