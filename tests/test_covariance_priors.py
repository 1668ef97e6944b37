# SPDX-License-Identifier: Apache-2.0
"""Priors of covariances, precisions and factors under MAP, mean field, full rank and Laplace, against exact posteriors.

Fifty rows of normal data with a known mean. Wishart and inverse Wishart priors are conjugate; for standard deviations
and a correlation the posterior is summed over a grid.
"""

from typing import Callable, Dict, NamedTuple

from mxfusion_mvn import InverseWishart, LKJCholesky, MultivariateNormal, Wishart
from mxfusion_mvn.functions import scale_rows
from mxfusion_mvn.inference import MAP, LaplaceApproximation, create_Gaussian_fullrank, create_Gaussian_meanfield

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model
from mxfusion.components import distributions as host
from mxfusion.inference import StochasticVariationalInference
from scipy import special, stats
from scipy.optimize import minimize

from helpers.fitting import fit, last_losses
from helpers.host import nd

ROWS = 50
SCALE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.7]])
TRUE = np.array([[2.0, -1.1, 0.4], [-1.1, 1.5, 0.2], [0.4, 0.2, 0.5]])
DATA = np.random.default_rng(11).multivariate_normal(np.zeros(3), TRUE, size=ROWS)


class Case(NamedTuple):
    """
    A model of x, and what is known of its latent variables.

    ``statistic`` gives from draws by name (S, ...) the numbers that are compared, (S, K); ``mode`` their values at the
    mode of the latent variables themselves, ``raw_mode`` at that of their unconstrained coordinates.
    """

    declare: Callable
    data: np.ndarray
    statistic: Callable
    mean: np.ndarray
    sd: np.ndarray
    mode: np.ndarray
    raw_mode: np.ndarray
    log_evidence: float


def lower_triangle(matrices):
    return matrices[..., np.tril_indices(matrices.shape[-1])[0], np.tril_indices(matrices.shape[-1])[1]]


# Conjugate priors


def log_evidence(freedom, scale_log_det, posterior_log_det):
    """Of a Wishart or inverse Wishart prior whose scale is that of a covariance."""
    ratio = special.multigammaln(0.5 * (freedom + ROWS), 3) - special.multigammaln(0.5 * freedom, 3)
    log_dets = 0.5 * freedom * scale_log_det - 0.5 * (freedom + ROWS) * posterior_log_det
    return ratio + log_dets - 0.5 * 3 * ROWS * np.log(np.pi)


def inverse_wishart():
    freedom, scale = 5.0 + ROWS, SCALE + DATA.T @ DATA

    def declare(model):
        model.covariance = InverseWishart(5.0, SCALE, shape=(3, 3), dtype="float64")
        model.x = MultivariateNormal(covariance=model.covariance, shape=(ROWS, 3), dtype="float64")

    mean, excess = scale / (freedom - 4), freedom - 3
    diagonal = np.diag(scale)
    variance = ((excess + 1) * scale**2 + (excess - 1) * np.outer(diagonal, diagonal)) / (
        excess * (excess - 1) ** 2 * (excess - 3)
    )
    return Case(
        declare,
        DATA,
        lambda draws: lower_triangle(draws["covariance"]),
        lower_triangle(mean),
        np.sqrt(lower_triangle(variance)),
        lower_triangle(scale / (freedom + 4)),
        lower_triangle(scale / freedom),
        log_evidence(5.0, np.linalg.slogdet(SCALE)[1], np.linalg.slogdet(scale)[1]),
    )


def wishart():
    freedom, scale = 5.0 + ROWS, np.linalg.inv(np.linalg.inv(SCALE) + DATA.T @ DATA)

    def declare(model):
        model.precision = Wishart(5.0, SCALE, shape=(3, 3), dtype="float64")
        model.x = MultivariateNormal(precision=model.precision, shape=(ROWS, 3), dtype="float64")

    variance = freedom * (scale**2 + np.outer(np.diag(scale), np.diag(scale)))
    return Case(
        declare,
        DATA,
        lambda draws: lower_triangle(draws["precision"]),
        lower_triangle(freedom * scale),
        np.sqrt(lower_triangle(variance)),
        lower_triangle((freedom - 4) * scale),
        lower_triangle(freedom * scale),
        log_evidence(5.0, -np.linalg.slogdet(SCALE)[1], -np.linalg.slogdet(scale)[1]),
    )


# Standard deviations times a correlation factor


def separated_log_pdf(deviations, correlation):
    """log p(x, s, r) of Gamma(2, 1) deviations (..., 2) and an LKJ(1.5) correlation (...)."""
    scatter = DATA[:, :2].T @ DATA[:, :2]
    s, t = deviations[..., 0], deviations[..., 1]
    inner = scatter[0, 0] / s**2 - 2 * correlation * scatter[0, 1] / (s * t) + scatter[1, 1] / t**2
    log_pdf = -0.5 * inner / (1 - correlation**2) - 0.5 * ROWS * np.log(s**2 * t**2 * (1 - correlation**2))
    prior = stats.gamma.logpdf(deviations, 2.0).sum(-1) + stats.beta.logpdf(0.5 * (correlation + 1), 1.5, 1.5)
    return log_pdf - ROWS * np.log(2 * np.pi) + prior - np.log(2)


def separated_values(raw):
    return np.concatenate([np.exp(raw[..., :2]), np.tanh(raw[..., 2:])], axis=-1)


def separated_log_pdf_of_raw(raw, jacobian):
    values = separated_values(raw)
    volume = raw[..., 0] + raw[..., 1] + np.log(1 - values[..., 2] ** 2)
    return separated_log_pdf(values[..., :2], values[..., 2]) + (volume if jacobian else 0)


def separated_mode(jacobian):
    options = {"xatol": 1e-9, "fatol": 1e-12}
    return minimize(
        lambda raw: -separated_log_pdf_of_raw(raw, jacobian), np.zeros(3), method="Nelder-Mead", options=options
    ).x


def separated():
    def declare(model):
        model.factor = LKJCholesky(1.5, shape=(2, 2), dtype="float64")
        model.deviations = host.Gamma.define_variable(nd([2.0, 2.0]), nd([1.0, 1.0]), (2,), dtype="float64")
        model.x = MultivariateNormal(
            scale_tril=scale_rows(model.factor, model.deviations), shape=(ROWS, 2), dtype="float64"
        )

    found = separated_mode(jacobian=False)
    axes = [np.linspace(c - w, c + w, 81) for c, w in zip(found, (0.8, 0.8, 1.0))]
    raw = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    values, log_pdf = separated_values(raw), separated_log_pdf_of_raw(raw, jacobian=True)
    weights = np.exp(log_pdf - log_pdf.max())
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    mean = np.average(values.reshape(-1, 3), axis=0, weights=weights.ravel())
    second = np.average(values.reshape(-1, 3) ** 2, axis=0, weights=weights.ravel())
    return Case(
        declare,
        DATA[:, :2],
        lambda draws: np.concatenate([draws["deviations"], draws["factor"][:, 1, :1]], axis=1),
        mean,
        np.sqrt(second - mean**2),
        separated_values(found),
        separated_values(separated_mode(jacobian=True)),
        float(np.log(weights.sum() * cell) + log_pdf.max()),
    )


CASES: Dict[str, Case] = {"inverse Wishart": inverse_wishart(), "Wishart": wishart(), "LKJ": separated()}


def declare(name):
    case, model = CASES[name], Model()
    case.declare(model)
    return case, model


def draws_of(model, posterior, params, case, num_samples=20000):
    """Draws of the latent variables in their own space, as the host makes them."""
    variables = {p.uuid: params[p].expand_dims(0) for p in posterior.get_parameters(excluded=set())}
    drawn = posterior.draw_samples(F=mx.nd, variables=variables, num_samples=num_samples)
    latent = model.get_latent_variables([model.x.uuid])
    return case.statistic({variable.name: drawn[variable.uuid].asnumpy() for variable in latent})


def mean_error(statistics, case):
    """As a part of the mean, or of two standard deviations where that is more."""
    return np.max(np.abs(statistics.mean(axis=0) - case.mean) / np.maximum(np.abs(case.mean), 2 * case.sd))


def map_of(name):
    case, model = declare(name)
    algorithm = MAP(model, [model.x])
    return case, model, algorithm, fit(algorithm, 400, factor=0.975, x=nd(case.data))


@pytest.mark.parametrize("name", sorted(CASES))
def test_map_is_the_analytic_mode(name, rng):
    case, _, algorithm, inference = map_of(name)
    found = {v.name: inference.params[algorithm.location(v)].asnumpy()[None] for v in algorithm.bijections}
    np.testing.assert_allclose(case.statistic(found)[0], case.mode, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CASES))
def test_full_rank(name, rng):
    case, model = declare(name)
    posterior = create_Gaussian_fullrank(model, [model.x], entropy="sticking_the_landing")
    algorithm = StochasticVariationalInference(20, model, posterior, [model.x])
    inference = fit(algorithm, 700, rate=0.1, factor=0.991, x=nd(case.data))
    statistics = draws_of(model, posterior, inference.params, case)
    assert mean_error(statistics, case) < 0.03
    np.testing.assert_allclose(statistics.std(axis=0), case.sd, rtol=0.15)
    assert -last_losses(inference, 50) == pytest.approx(case.log_evidence, abs=0.15)


@pytest.mark.parametrize("name", sorted(CASES))
def test_mean_field(name, rng):
    """For want of correlations between coordinates its deviations and its bound are too small; the means are near."""
    case, model = declare(name)
    posterior = create_Gaussian_meanfield(model, [model.x], entropy="sticking_the_landing")
    algorithm = StochasticVariationalInference(20, model, posterior, [model.x])
    inference = fit(algorithm, 700, rate=0.1, factor=0.991, x=nd(case.data))
    statistics = draws_of(model, posterior, inference.params, case)
    assert mean_error(statistics, case) < 0.1
    assert (statistics.std(axis=0) < 1.05 * case.sd).all()
    assert (statistics.std(axis=0) > 0.45 * case.sd).all()
    assert case.log_evidence - 3 < -last_losses(inference, 50) < case.log_evidence


def at_its_mean(laplace):
    """The parameters of an approximation, with next to no spread."""
    params = laplace.inference.params
    (joint,) = {factor for factor in laplace.posterior.ordered_factors if "scale" in factor.input_names}
    params[joint.scale] = 1e-9 * params[joint.scale]
    return params


@pytest.mark.parametrize("name", sorted(CASES))
def test_laplace(name, rng):
    case, model, _, inference = map_of(name)
    laplace = LaplaceApproximation(inference)
    statistics = draws_of(model, laplace.posterior, laplace.inference.params, case)
    assert mean_error(statistics, case) < 0.08
    np.testing.assert_allclose(statistics.std(axis=0), case.sd, rtol=0.15)
    assert laplace.log_evidence == pytest.approx(case.log_evidence, abs=0.15)
    mode = draws_of(model, laplace.posterior, at_its_mean(laplace), case, num_samples=1)[0]
    np.testing.assert_allclose(mode, case.raw_mode, rtol=1e-4, atol=1e-5)
