# SPDX-License-Identifier: Apache-2.0
"""Models with their log joint densities by SciPy, and their bijections and Jacobians in NumPy."""

from typing import Any, Callable, Dict, NamedTuple

from mxfusion_mvn import InverseWishart, LKJCholesky, MultivariateNormal
from mxfusion_mvn.functions import linear

import numpy as np
from mxfusion import Model, Variable
from mxfusion.components import distributions as host
from scipy import special, stats
from scipy.linalg import helmert

from helpers.host import nd


class Unknown(NamedTuple):
    """A latent variable: its raw size, its value (shape) as a function of the raw vector, and what is free of that."""

    size: int
    shape: tuple
    value: Callable = np.asarray
    free: Callable = np.ravel


class Case(NamedTuple):
    """A model, its data, its latent variables by name, and log p(data, values) as a function of values by name."""

    model: Any
    data: Dict[str, np.ndarray]
    unknown: Dict[str, Unknown]
    log_joint: Callable

    def parts(self, density, x):
        """The raw vector of each variable, by name."""
        sizes = [self.unknown[name].size for name in density.bijections]
        return dict(zip(density.bijections, np.split(x, np.cumsum(sizes)[:-1])))

    def values(self, density, x):
        """The latent variables at a point, by name."""
        return {
            name: self.unknown[name].value(raw).reshape(self.unknown[name].shape)
            for name, raw in self.parts(density, x).items()
        }

    def log_density(self, density, x):
        """With the Jacobian by central differences."""
        log_volume = 0.0
        for name, raw in self.parts(density, x).items():
            unknown = self.unknown[name]
            log_volume += np.linalg.slogdet(_jacobian(lambda r, u=unknown: u.free(u.value(r)), raw))[1]
        return self.log_joint(self.values(density, x)) + log_volume


def _jacobian(function, at, step=1e-3):
    """Its error is that of the sixth power of the step."""
    columns = []
    for i in range(len(at)):
        move = step * np.eye(len(at))[i]
        first, second, third = (function(at + k * move) - function(at - k * move) for k in (1, 2, 3))
        columns.append((45 * first - 9 * second + third) / (60 * step))
    return np.stack(columns, axis=-1)


def normal_mean(dtype, rng):
    """Rows of a normal with a known covariance, their number a Variable."""
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    x = rng.normal(size=(5, 2)).astype("float32").astype("float64")
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=4.0, shape=(2,), dtype=dtype)
    model.x = MultivariateNormal(mean=model.mu, covariance=nd(covariance, dtype), shape=(model.N, 2), dtype=dtype)

    def log_joint(values):
        log_prior = stats.multivariate_normal.logpdf(values["mu"], np.zeros(2), 4 * np.eye(2))
        return log_prior + stats.multivariate_normal.logpdf(x, values["mu"], covariance).sum()

    return Case(model, {"x": x}, {"mu": Unknown(2, (2,))}, log_joint)


def regression(dtype, rng):
    """Whose predictors are data, and whose noise is unknown."""
    predictors, y = (rng.normal(size=(6, size)).astype("float32").astype("float64") for size in (3, 1))
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 3))
    model.w = MultivariateNormal(covariance=4.0, shape=(3,), dtype=dtype)
    model.variance = host.Gamma.define_variable(nd([[3.0]], dtype), nd([[2.0]], dtype), (1, 1), dtype=dtype)
    mean = linear(model.X, model.w, dtype=dtype)
    model.y = MultivariateNormal(mean=mean, covariance=model.variance, shape=(model.N, 1), dtype=dtype)

    def log_joint(values):
        w, variance = values["w"], values["variance"].item()
        log_prior = stats.norm.logpdf(w, 0, 2).sum() + stats.gamma.logpdf(variance, 3.0, scale=0.5)
        return log_prior + stats.norm.logpdf(y[:, 0], predictors @ w, np.sqrt(variance)).sum()

    unknown = {"w": Unknown(3, (3,)), "variance": Unknown(1, (1, 1), np.exp)}
    return Case(model, {"X": predictors, "y": y}, unknown, log_joint)


def bounded(dtype, rng):
    """Nothing is observed: a share, a probability and a position, each in its own interval."""
    alpha = np.array([2.0, 3.0, 5.0])
    model = Model()
    model.shares = host.Dirichlet.define_variable(nd(np.tile(alpha, (2, 1)), dtype), (2, 3), dtype=dtype)
    model.probability = host.Beta.define_variable(nd([4.0], dtype), nd([2.0], dtype), (1,), dtype=dtype)
    model.position = host.Uniform.define_variable(nd([-1.0], dtype), nd([3.0], dtype), (1,), dtype=dtype)

    def log_joint(values):
        log_pdf = stats.beta.logpdf(values["probability"], 4, 2) + stats.uniform.logpdf(values["position"], -1, 4)
        return log_pdf.item() + sum(stats.dirichlet.logpdf(row / row.sum(), alpha) for row in values["shares"])

    def shares(raw):
        return special.softmax(raw.reshape(2, 2) @ helmert(3), axis=-1)

    unknown = {
        "shares": Unknown(4, (2, 3), shares, lambda value: value[:, :2].ravel()),
        "probability": Unknown(1, (1,), special.expit),
        "position": Unknown(1, (1,), lambda raw: -1 + 4 * special.expit(raw)),
    }
    return Case(model, {}, unknown, log_joint)


def matrices(dtype, rng):
    """A covariance, of which there are data, and the factor of a correlation."""
    scale = np.array([[2.0, 0.5], [0.5, 1.0]])
    x = rng.normal(size=(4, 2)).astype("float32").astype("float64")
    model = Model()
    model.covariance = InverseWishart(7.0, scale.astype(dtype), shape=(2, 2), dtype=dtype)
    model.factor = LKJCholesky(3.0, shape=(2, 2), dtype=dtype)
    model.x = MultivariateNormal(covariance=model.covariance, shape=(4, 2), dtype=dtype)

    def log_joint(values):
        correlation = values["factor"][1, 0]
        log_prior = stats.invwishart.logpdf(values["covariance"], 7.0, scale)
        log_prior += stats.beta.logpdf(0.5 * (1 + correlation), 3, 3) - np.log(2)
        return log_prior + stats.multivariate_normal.logpdf(x, np.zeros(2), values["covariance"]).sum()

    def covariance(raw):
        factor = np.diag(np.exp(raw[[0, 2]])) @ np.array([[1.0, 0.0], [raw[1], 1.0]])
        return factor @ factor.T

    def factor(raw):
        return np.array([[1.0, 0.0], [np.tanh(raw[0]), 1 / np.cosh(raw[0])]])

    unknown = {
        "covariance": Unknown(3, (2, 2), covariance, lambda value: value[np.tril_indices(2)]),
        "factor": Unknown(1, (2, 2), factor, lambda value: value[1, :1]),
    }
    return Case(model, {"x": x}, unknown, log_joint)


CASES = {case.__name__: case for case in (normal_mean, regression, bounded, matrices)}
