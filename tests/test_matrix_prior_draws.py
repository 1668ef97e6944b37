# SPDX-License-Identifier: Apache-2.0
"""Draws from Wishart, inverse Wishart and LKJ distributions, and their gradients."""

from mxfusion_mvn.checks import failure

import mxnet as mx
import numpy as np
import pytest
from mxfusion.common.exceptions import InferenceError
from scipy import special, stats

from helpers import oracles
from helpers.host import nd
from helpers.matrix_prior_cases import (
    CASES,
    DIMENSIONS,
    GRADIENT_LAYOUTS,
    SIZES,
    aligned,
    expected_log_pdf,
    fixed_noise,
    layouts_of,
    make,
    runtime,
    spd,
    square,
    transposed,
)
from helpers.tolerances import TOLERANCE, assert_close

BAD_SHAPES = [np.nan, np.inf, -np.inf, 0.0, -1.0]


@pytest.mark.parametrize("bad", BAD_SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_draws_with_bad_parameters_return(name, bad, dtype, rng):
    """MXNet's gamma sampler would never return; while recording nobody looks at the parameters first."""
    case = CASES[name]
    arrays = make(rng, case, (1, 2), 3, tuple((False, True) for _ in range(3))[: len(case.parameters) + 1], dtype)
    first = next(iter(case.parameters))
    arrays[first] = arrays[first] + 1
    arrays[first][0, 1] = bad
    factor, variables = runtime(case, arrays, 2, 3, dtype)
    with mx.autograd.record():
        drawn = factor.draw_samples(mx.nd, variables).asnumpy()
    assert drawn.shape == (1, 2, 3, 3)
    assert np.isfinite(drawn[0, 0]).all()
    assert np.isnan(drawn[0, 1]).any()


# Draws


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_injected_noise_gives_bartletts_draw(name, sizes, dim, dtype, rng):
    case = CASES[name]
    for layouts in layouts_of(case):
        arrays = make(rng, case, sizes, dim, layouts, dtype)
        distribution, variables = runtime(case, arrays, sizes[1], dim, dtype)
        distribution._rand_gen, noise = fixed_noise(rng, case, arrays, sizes, dim)
        got = distribution.draw_samples(mx.nd, variables, num_samples=sizes[0])
        assert got.dtype == np.dtype(dtype)
        expected = case.draw(noise, **aligned({key: arrays[key] for key in case.parameters}))
        tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-9}
        assert_close(got, expected, **tolerance)
        mirror = np.tril if name == "LKJ" else transposed
        np.testing.assert_array_equal(got.asnumpy(), mirror(got.asnumpy()))


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("layouts", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("name", [name for name in CASES if name != "LKJ"])
def test_draws_are_reparametrised_in_the_scale(name, layouts, dim, rng):
    case = CASES[name]
    arrays = make(rng, case, (2, 3), dim, [GRADIENT_LAYOUTS[layouts][0]] * 2 + [(False, True)])
    distribution, variables = runtime(case, arrays, 3, dim)
    distribution._rand_gen, noise = fixed_noise(rng, case, arrays, (2, 3), dim)
    key, leaf = list(case.parameters)[1], list(variables.values())[1]
    head = rng.normal(size=(2, 3, dim, dim))
    leaf.attach_grad()
    with mx.autograd.record():
        mx.nd.sum(distribution.draw_samples(mx.nd, variables, num_samples=2) * nd(head)).backward()
    parameters = {name: arrays[name] for name in case.parameters}
    expected = oracles.central_difference(
        lambda array: np.sum(head * case.draw(noise, **aligned({**parameters, key: array}))),
        arrays[key],
        symmetrical=key == "scale",
    )
    assert_close(leaf.grad, np.tril(expected) if key == "scale_tril" else expected, rtol=1e-6, atol=1e-6)


COUNT = 40000


def drawn(name, rng, dim, dtype, **values):
    case = CASES[name]
    arrays = {key: np.asarray(value, "float64")[None] for key, value in values.items()}
    arrays["random_variable"] = case.value(rng, (1, 2), dim)
    distribution, variables = runtime(case, arrays, 2, dim, dtype)
    draws = distribution.draw_samples(mx.nd, variables, num_samples=COUNT).asnumpy().astype("float64")
    assert draws.shape == (COUNT, 2, dim, dim)
    return draws


@pytest.mark.parametrize(("name", "reference"), [("Wishart", stats.wishart), ("inverse Wishart", stats.invwishart)])
def test_moments_of_draws(name, reference, dtype, rng):
    """Mean and variance of each entry, per row of the batch, within 5 standard errors."""
    scale, nu = spd(rng, (2,), 3), 14.5
    draws = drawn(name, rng, 3, dtype, degrees_of_freedom=[nu], scale=scale)
    mean = np.stack([reference.mean(nu, s) for s in scale])
    variance = np.stack([reference.var(nu, s) for s in scale])
    assert (np.abs(draws.mean(0) - mean) < 5 * np.sqrt(variance / COUNT)).all()
    deviation = (draws - mean) ** 2
    assert (np.abs(deviation.mean(0) - variance) < 5 * deviation.std(0) / np.sqrt(COUNT)).all()


@pytest.mark.parametrize("nu", [3.4, 9.0])
@pytest.mark.parametrize("name", ["Wishart", "inverse Wishart"])
def test_projections_and_determinants_of_draws_have_their_laws(name, nu, dtype, rng):
    """a' X a and |X| in a random direction a (Muirhead, Aspects of Multivariate Statistical Theory, 1982, ch. 3.2)."""
    dim = 4
    scale = spd(rng, (), dim)
    a = rng.normal(size=dim)
    draws = drawn(name, rng, dim, dtype, degrees_of_freedom=[nu], scale=scale)
    ratio = np.einsum("...ij,i,j", draws, a, a) / (a @ scale @ a)
    log_det = np.log(np.maximum(np.linalg.det(draws / np.diag(scale).mean()), 1e-300)) - np.log(
        np.linalg.det(scale / np.diag(scale).mean())
    )
    expected = special.digamma((nu - np.arange(dim)) / 2).sum() + dim * np.log(2)
    sign, law = (1, stats.chi2(nu)) if name == "Wishart" else (-1, stats.chi2(nu - dim + 1))
    assert stats.kstest(ratio.ravel() ** sign, law.cdf).pvalue > 1e-3
    if nu > 5:  # where the determinant is no product of roundings
        assert abs(log_det.mean() - sign * expected) < 5 * log_det.std() / np.sqrt(2 * COUNT)


@pytest.mark.parametrize("eta", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("dim", [2, 3, 4])
def test_correlations_of_draws_are_beta(dim, eta, dtype, rng):
    draws = drawn("LKJ", rng, dim, dtype, concentration=[eta])
    assert (draws[..., 0, 0] == 1).all()
    np.testing.assert_allclose(np.linalg.norm(draws, axis=-1), 1, rtol=4 * np.finfo(dtype).eps)
    shape = eta + dim / 2 - 1
    correlations = square(draws)
    for i, j in zip(*np.tril_indices(dim, -1)):
        assert stats.kstest((correlations[..., i, j].ravel() + 1) / 2, stats.beta(shape, shape).cdf).pvalue > 1e-3
    log_det = 2 * np.log(draws[..., range(dim), range(dim)]).sum(-1)
    shapes = eta + (dim - 1 - np.arange(dim)) / 2  # each L_ii^2 is Beta(shape, i / 2)
    expected = np.sum(special.digamma(shapes) - special.digamma(eta + (dim - 1) / 2))
    assert abs(log_det.mean() - expected) < 5 * log_det.std() / np.sqrt(2 * COUNT)


def test_tiny_shapes_give_no_singular_draws(rng):
    """In float32 a good part of the gamma draws of shape 0.02 is 0."""
    draws = drawn("LKJ", rng, 2, "float32", concentration=[0.02])
    assert np.isfinite(draws).all()
    assert (np.diagonal(draws, axis1=-2, axis2=-1) > 0).all()


# Gradients that do not exist


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_through_gamma_draws_is_refused(name, rng):
    case = CASES[name]
    arrays = make(rng, case, (2, 3), 2, [(False, False)] * len(case.parameters) + [(False, True)])
    distribution, variables = runtime(case, arrays, 3, 2)
    first, leaf = next(iter(case.parameters)), next(iter(variables.values()))
    with mx.autograd.record():  # a constant may be drawn from
        distribution.draw_samples(mx.nd, variables, num_samples=2)
    leaf.attach_grad()
    distribution.draw_samples(mx.nd, variables, num_samples=2)
    message = f"`{first}` of variable `X`: its gradient was asked for; expected a constant, .*MAP"
    with mx.autograd.record(), pytest.raises(InferenceError, match=message):
        distribution.draw_samples(mx.nd, variables, num_samples=2)
    with mx.autograd.record():
        variables[next(iter(variables))] = 2 * leaf + 1
        with pytest.raises(InferenceError, match=message):
            distribution.draw_samples(mx.nd, variables, num_samples=2)


@pytest.mark.parametrize("name", ["Wishart by factor", "inverse Wishart by factor"])
def test_the_density_of_a_draw_needs_no_cholesky(name, rng, monkeypatch):
    """And has the gradients that a factorisation of the draw would give."""
    case = CASES[name]
    arrays = make(rng, case, (2, 3), 3, [(False, False)] * 2 + [(True, True)])
    distribution, variables = runtime(case, arrays, 3, 3)
    distribution._rand_gen, _ = fixed_noise(rng, case, arrays, (2, 3), 3)
    leaf = list(variables.values())[1]
    leaf.attach_grad()
    results, factored = [], []
    genuine = failure.factor
    monkeypatch.setattr(failure, "factor", lambda *args: factored.append(args) or genuine(*args))
    for forget in (False, True):
        with mx.autograd.record():
            draw = distribution.draw_samples(mx.nd, variables, num_samples=2)
            if forget:
                distribution._drawn = None
            log_pdf = distribution.log_pdf(mx.nd, {**variables, list(variables)[-1]: draw})
            mx.nd.sum(log_pdf * nd(np.arange(6.0).reshape(2, 3))).backward()
        assert len(factored) == forget
        assert distribution._drawn is None
        results.append((log_pdf.asnumpy(), leaf.grad.asnumpy()))
    assert_close(results[0][0], results[1][0], rtol=1e-11)
    assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-9)


def test_the_factor_of_a_draw_serves_that_draw_only(rng):
    case = CASES["Wishart"]
    arrays = make(rng, case, (1, 3), 2, [(False, False)] * 2 + [(False, True)])
    distribution, variables = runtime(case, arrays, 3, 2)
    with mx.autograd.record():
        distribution.draw_samples(mx.nd, variables)
        assert_close(distribution.log_pdf(mx.nd, variables), expected_log_pdf(case, arrays), **TOLERANCE["float64"])
