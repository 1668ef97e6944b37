# SPDX-License-Identifier: Apache-2.0
"""Densities that bijections carry over to raw space are right, and integrate to one."""

from mxfusion_mvn.bijections import (
    CorrelationCholesky,
    Interval,
    LowerCholesky,
    Ordered,
    Positive,
    PositiveDefinite,
    Simplex,
)

import numpy as np
import pytest
from scipy import special, stats

from helpers import oracles
from helpers.bijection_cases import BOUNDS, strict_triangle
from helpers.host import nd
from helpers.tolerances import assert_close


def standard_normal_pushed(bijection, value):
    """The log density of b(x), x standard normal, at a value."""
    raw = bijection.inverseTransform(nd(value))
    log_pdf = stats.norm.logpdf(raw.asnumpy()).sum(-1)
    return log_pdf - bijection.log_det_jacobian(raw).asnumpy()


def test_a_normal_pushed_to_positive_numbers_is_log_normal(rng):
    value = rng.lognormal(size=(6, 1))
    assert_close(standard_normal_pushed(Positive(), value), stats.lognorm.logpdf(value[:, 0], 1.0), rtol=1e-12)


def test_a_normal_pushed_to_an_interval_is_logit_normal(rng):
    share = rng.uniform(0.01, 0.99, size=(6, 1))
    expected = stats.norm.logpdf(special.logit(share)) - np.log(share * (1 - share)) - np.log(3.5)
    assert_close(standard_normal_pushed(Interval(*BOUNDS), -1 + 3.5 * share), expected[:, 0], rtol=1e-10)


def test_a_logistic_pushed_to_the_unit_interval_is_uniform():
    raw = np.linspace(-30, 30, 13)[:, None]
    log_pdf = stats.logistic.logpdf(raw[:, 0]) - Interval().log_det_jacobian(nd(raw)).asnumpy()
    assert_close(log_pdf, np.zeros(13), rtol=0, atol=1e-12)


SCALE = np.array([[0.7, 0.2], [0.2, 0.3]])


def wishart_log_pdf(value, inverse=False, freedom=6.0):
    """Of W(freedom, SCALE), or of the inverse Wishart distribution, for D = 2; SciPy takes one matrix at a time."""
    inner = np.linalg.solve(value, SCALE + 0 * value) if inverse else np.linalg.solve(SCALE + 0 * value, value)
    sign = -1 if inverse else 1
    log_pdf = 0.5 * (sign * freedom - 3) * np.linalg.slogdet(value)[1] - 0.5 * np.trace(inner, axis1=-2, axis2=-1)
    norm = freedom * np.log(2) + special.multigammaln(0.5 * freedom, 2)
    return log_pdf - norm - sign * 0.5 * freedom * np.linalg.slogdet(SCALE)[1]


def bartlett_log_pdf(factor, freedom=12.0):
    """Of the factor of a Wishart matrix with the identity as its scale: normals, and chi variables on the diagonal."""
    log_pdf = stats.norm.logpdf(strict_triangle(factor)).sum(-1)
    for i in range(factor.shape[-1]):
        log_pdf = log_pdf + stats.chi.logpdf(factor[..., i, i], freedom - i)
    return log_pdf


def lkj_log_pdf(factor, concentration=1.5):
    """Of the factor of an LKJ matrix: each row is uniform on its half sphere, times a power of its last entry."""
    dim = factor.shape[-1]
    log_pdf = np.zeros(factor.shape[:-2])
    for i in range(1, dim):
        shape = concentration + 0.5 * (dim - 1 - i)
        norm = special.gammaln(shape + 0.5 * i) - special.gammaln(shape) - 0.5 * i * np.log(np.pi)
        log_pdf = log_pdf + norm + (2 * shape - 2) * np.log(factor[..., i, i])
    return log_pdf


def order_statistics_log_pdf(value):
    return special.gammaln(value.shape[-1] + 1) + stats.norm.logpdf(value).sum(-1)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_oracle_of_the_wishart_densities_is_scipys(inverse, rng):
    value = oracles.random_spd(rng, (3,), 2)
    law = stats.invwishart if inverse else stats.wishart
    assert_close(wishart_log_pdf(value, inverse), [law.logpdf(v, 6.0, SCALE) for v in value], rtol=1e-12)


# Bijection, dimension, log density of the value, and the box in raw space that holds it all.
DENSITIES = {
    "gamma": (Positive(), 1, lambda y: stats.gamma.logpdf(y[..., 0], 2.5, scale=0.4), [(-18, 4)]),
    "beta": (Interval(), 1, lambda y: stats.beta.logpdf(y[..., 0], 2.0, 0.7), [(-25, 50)]),
    "uniform": (Interval(*BOUNDS), 1, lambda y: stats.uniform.logpdf(y[..., 0], -1.0, 3.5), [(-40, 40)]),
    "dirichlet of 2": (Simplex(), 2, lambda y: stats.dirichlet.logpdf(y.T, [2.0, 0.9]), [(-32, 50)]),
    "dirichlet of 3": (Simplex(), 3, lambda y: stats.dirichlet.logpdf(y.T, [2.0, 1.2, 3.0]), [(-20, 20)] * 2),
    "order statistics": (Ordered(), 3, order_statistics_log_pdf, [(-7, 7), (-17, 3.5), (-17, 3.5)]),
    "factor of a wishart": (LowerCholesky(), 2, bartlett_log_pdf, [(-0.8, 2.2), (-3, 3), (-0.9, 2.2)]),
    "wishart": (
        PositiveDefinite(),
        2,
        wishart_log_pdf,
        [(-7, 2), (-12, 12), (-8, 2)],
    ),
    "inverse wishart": (
        PositiveDefinite(),
        2,
        lambda y: wishart_log_pdf(y, inverse=True),
        [(-3, 6), (-12, 12), (-3, 5)],
    ),
    "lkj of 2": (CorrelationCholesky(), 2, lkj_log_pdf, [(-15, 15)]),
    "lkj of 3": (CorrelationCholesky(), 3, lkj_log_pdf, [(-10, 10)] * 3),
}


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_a_density_integrates_to_one_in_raw_space(name):
    """The trapezoidal rule, which for smooth functions that vanish at both ends is exact to many digits."""
    bijection, dim, log_pdf, box = DENSITIES[name]
    points = {1: 801, 2: 201, 3: 81}[len(box)]
    axes = [np.linspace(*bounds, points) for bounds in box]
    raw = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    value = bijection.transform(nd(raw)).asnumpy()
    density = np.exp(log_pdf(value) + bijection.log_det_jacobian(nd(raw)).asnumpy())
    volume = np.prod([axis[1] - axis[0] for axis in axes])
    assert density.sum() * volume == pytest.approx(1.0, abs=2e-4)
