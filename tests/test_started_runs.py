# SPDX-License-Identifier: Apache-2.0
"""Runs arrive from where inference begins, also where predictors are large or components are alike."""

from mxfusion_mvn import (
    GaussianMixture,
    MultivariateNormal,
)
from mxfusion_mvn.inference import (
    MAP,
    CompiledLoop,
)

import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.components.functions.operators import dot
from mxfusion.inference import GradBasedInference
from scipy import stats

from helpers.host import nd
from helpers.tolerances import assert_close

AGES = np.array([2.0, 4.0, 6.0, 8.0, 10.0])


def growth_model(dtype, is_vague):
    """Heights of children in millimetres, each with a level and a slope of its own; sizes of millimetres."""
    design = np.stack([np.ones(5), AGES - AGES.mean()], axis=1)
    center, spread = (0.0, 1e8) if is_vague else (np.array([1100.0, 60.0]), np.array([[2500.0, 0.0], [0.0, 100.0]]))
    model = Model()
    model.mean = MultivariateNormal(center, spread, shape=(2,), dtype=dtype)
    model.child = MultivariateNormal(model.mean, np.array([[900.0, 0.0], [0.0, 25.0]]), shape=(8, 2), dtype=dtype)
    model.height = MultivariateNormal(linear_in(model.child, design, dtype), 100.0, shape=(8, 5), dtype=dtype)
    return model, design


def linear_in(weights, design, dtype):
    return dot(weights, Variable(value=nd(design.T, dtype)))


@pytest.mark.parametrize("is_vague", [False, True], ids=["by the prior", "by initial values"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_growth_in_millimetres_arrives(dtype, is_vague, rng):
    model, design = growth_model(dtype, is_vague)
    heights = rng.normal([1080.0, 63.0], [30.0, 5.0], (8, 2)) @ design.T + 10 * rng.normal(size=(8, 5))
    initial_values = {model.mean: [1000.0, 50.0]} if is_vague else None
    inference = GradBasedInference(
        MAP(model, [model.height], initial_values=initial_values),
        grad_loop=CompiledLoop(schedule=lambda iteration: 2.0 * 0.995**iteration),
        dtype=dtype,
    )
    record = inference.run(height=nd(heights, dtype), max_iter=1500)
    assert abs(record.loss[-1] - best_loss(heights, design, is_vague)) < (0.05 if dtype == "float32" else 1e-3)


def best_loss(heights, design, is_vague):
    """Minus the log density at the mode, by linear algebra: mean and children (2 + 16) are jointly Gaussian."""
    prior_mean_, prior = (
        (np.zeros(2), 1e8 * np.eye(2)) if is_vague else (np.array([1100.0, 60.0]), np.diag([2500.0, 100.0]))
    )
    spread = np.diag([900.0, 25.0])
    children = np.kron(np.eye(8), spread) + np.kron(np.ones((8, 8)), prior)
    joint = np.block([[prior, np.kron(np.ones((1, 8)), prior)], [np.kron(np.ones((8, 1)), prior), children]])
    seen = np.hstack([np.zeros((40, 2)), np.kron(np.eye(8), design)])
    center = np.tile(prior_mean_, 9)
    gain = joint @ seen.T @ np.linalg.inv(seen @ joint @ seen.T + 100 * np.eye(40))
    mode = center + gain @ (heights.ravel() - seen @ center)
    mean, child = mode[:2], mode[2:].reshape(8, 2)
    log_density = stats.multivariate_normal.logpdf(mean, prior_mean_, prior)
    log_density += stats.multivariate_normal.logpdf(child - mean, np.zeros(2), spread).sum()
    return -log_density - stats.norm.logpdf(heights, child @ design.T, 10.0).sum()


def test_components_with_one_prior_come_apart(rng):
    centers = np.array([[98.0], [102.0]])
    model = Model()
    model.means = MultivariateNormal(100.0, 25.0, shape=(2, 1), dtype="float64")
    model.y = GaussianMixture(np.array([0.5, 0.5]), model.means, 1.0, shape=(200, 1), dtype="float64")
    data = centers[rng.integers(2, size=200)] + rng.normal(size=(200, 1))
    algorithm = MAP(model, [model.y])
    inference = GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype="float64")
    inference.run(y=nd(data), learning_rate=0.05, max_iter=600)
    means = np.sort(inference.params[algorithm.location(model.means)].asnumpy(), axis=0)
    assert_close(means, centers, rtol=0, atol=0.5)
