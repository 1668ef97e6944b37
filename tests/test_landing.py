# SPDX-License-Identifier: Apache-2.0
"""Full rank by each estimate of its entropy, at the learning rates of the guide, in few coordinates and in many.

All posteriors are Gaussian, so that the divergence of what was learned from them is known in closed form.
"""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    LaplaceApproximation,
    create_Gaussian_fullrank,
    unconstrained_gaussian,
)
from mxfusion_mvn.inference.variational import gaussians

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model
from mxfusion.inference import GradBasedInference, StochasticVariationalInference

from helpers.host import nd
from helpers.tolerances import assert_close

RATES = (0.05, 0.01, 0.002)


def regression(size, rng):
    """Predictors, noise variance and prior precision (n, n) of weights that the data determine well."""
    return rng.normal(size=(size + 50, size)) / np.sqrt(size), 0.01, np.eye(size)


def groups(size, rng):
    """A vague mean and n - 1 groups about it, of each of which one noisy row is known: the mean is their own only."""
    prior = np.eye(size)
    prior[0, 0] = size - 1 + 0.01
    prior[0, 1:] = prior[1:, 0] = -1
    return np.eye(size)[1:], 10.0, prior


def walk(size, rng):
    """A random walk whose steps are a tenth of the noise."""
    difference = np.eye(size) - np.eye(size, k=-1)
    return np.eye(size), 1.0, 100 * difference.T @ difference


class Exact:
    """A model of weights with a Gaussian prior of mean 0 and Gaussian rows, and its posterior."""

    def __init__(self, problem, size, dtype="float32"):
        rng = np.random.default_rng(size)
        predictors, self.variance, self.prior = problem(size, rng)
        weights = 2 + rng.normal(size=size) / np.sqrt(np.diag(self.prior))
        response = predictors @ weights + np.sqrt(self.variance) * rng.normal(size=len(predictors))
        self.precision = self.prior + predictors.T @ predictors / self.variance
        self.mean = np.linalg.solve(self.precision, predictors.T @ response / self.variance)
        self.sd = np.sqrt(np.diag(np.linalg.inv(self.precision)))
        self.model = Model()
        prior = nd(self.prior, dtype)
        self.model.w = MultivariateNormal(0.0, precision=prior, shape=(size,), dtype=dtype)
        rows = linear(predictors, self.model.w, dtype=dtype)
        self.model.y = MultivariateNormal(rows, self.variance, shape=(len(predictors), 1), dtype=dtype)
        self.data = {"y": nd(response[:, None], dtype)}
        self.dtype = dtype

    def fullrank(self, entropy, num_samples):
        posterior = create_Gaussian_fullrank(self.model, [self.model.y], entropy=entropy)
        algorithm = StochasticVariationalInference(num_samples, self.model, posterior, [self.model.y])
        inference = GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype=self.dtype)
        mx.random.seed(0)
        for rate in RATES:
            inference.run(learning_rate=rate, max_iter=300, **self.data)
        return inference

    def divergence(self, inference):
        """KL of what was learned from the posterior, in nats, and the largest error of a mean in deviations."""
        learned = unconstrained_gaussian(inference)
        mean = learned.mean.asnumpy().astype("float64") - self.mean
        covariance = learned.covariance.asnumpy().astype("float64")
        log_det = np.linalg.slogdet(self.precision)[1] + np.linalg.slogdet(covariance)[1]
        inner = np.trace(self.precision @ covariance) + mean @ self.precision @ mean - len(mean)
        return 0.5 * (inner - log_det), np.abs(mean / self.sd).max()


@pytest.mark.parametrize(
    ("problem", "size", "num_samples"),
    [(regression, 5, 3), (regression, 100, 3), (regression, 203, 10), (groups, 21, 3), (groups, 66, 10), (walk, 50, 3)],
)
def test_landing_comes_nearer(problem, size, num_samples):
    """A triangle that is ill-conditioned on the way makes it explode where it is not held: in a walk, 50 rows do."""
    exact = Exact(problem, size)
    landed, error = exact.divergence(exact.fullrank("sticking_the_landing", num_samples))
    sampled, sampled_error = exact.divergence(exact.fullrank("sampled", num_samples))
    assert landed < 0.3 * sampled
    assert error < 0.5 * sampled_error


@pytest.mark.parametrize("size", [5, 66, 203])
def test_the_exact_posterior_of_laplace_stays_exact(size):
    """Refined by landing nothing varies, also where the triangle has units of its own."""
    exact = Exact(groups, size, "float64")
    inference = GradBasedInference(MAP(exact.model, [exact.model.y]), grad_loop=BatchLoop(), dtype="float64")
    inference.run(learning_rate=0.1, max_iter=50, **exact.data)
    laplace = LaplaceApproximation(inference)
    posterior = laplace.inference.inference_algorithm.posterior
    posterior.joint_0.factor.entropy = "sticking_the_landing"
    assert exact.divergence(laplace.inference)[0] < 1e-8
    laplace.inference.run(optimizer="sgd", learning_rate=1e-4, max_iter=30, **exact.data)
    assert exact.divergence(laplace.inference)[0] < 1e-8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "unit"), [(2, 1.0), (50, 1.0), (51, np.sqrt(50 / 51)), (200, 0.5)])
def test_large_triangles_are_moved_in_smaller_units(size, unit, dtype):
    value = np.linspace(-2, 3, size * (size - 1) // 2)
    below = gaussians.triangle(size, value)
    assert below.shape == value.shape
    if unit == 1:
        assert below.transformation is None
        return
    raw = below.transformation.inverseTransform(nd(value, dtype))
    assert raw.dtype == np.dtype(dtype)
    assert_close(raw, value / unit, rtol=1e-6)
    assert_close(below.transformation.transform(raw), value, rtol=1e-6)
    assert not gaussians.triangle(size).initial_value.asnumpy().any()
