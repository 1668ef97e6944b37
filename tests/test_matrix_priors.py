# SPDX-License-Identifier: Apache-2.0
"""Wishart, inverse Wishart and LKJ: one table of cases, and every property over it; then their lives in models."""

import copy
import pickle
import warnings
from typing import Callable, Dict, NamedTuple

from mxfusion_mvn import MultivariateNormal, NotPositiveDefiniteError, OnFailure, RepairWarning
from mxfusion_mvn.checks import failure
from mxfusion_mvn.distributions._special import (
    digamma,
    log_gamma_excess,
    log_multivariate_gamma_excess,
    stirling_rest,
)
from mxfusion_mvn.distributions.inverse_wishart import InverseWishart
from mxfusion_mvn.distributions.lkj import LKJCholesky
from mxfusion_mvn.distributions.wishart import Wishart
from mxfusion_mvn.transformations import CorrelationCholesky, LowerCholesky, Positive, PositiveDefinite

import mpmath
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import MAP, GradBasedInference, Inference, StochasticVariationalInference
from mxfusion.inference.forward_sampling import ForwardSamplingAlgorithm
from mxfusion.models import Posterior
from scipy import special, stats
from scipy.optimize import minimize_scalar

from helpers import oracles
from helpers.host import FixedNoise, declare, nd
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

SIZES = [(1, 4), (4, 4), (3, 1), (5, 3)]  # (S, N)
DIMENSIONS = [1, 2, 4]


# Makers, (rng, leading, dim) -> array, and oracles in float64


def spd(rng, leading, dim):
    return oracles.random_spd(rng, leading, dim, condition=20)


def factor(rng, leading, dim):
    """With a negative pivot: only L L^T counts."""
    lower = np.linalg.cholesky(spd(rng, leading, dim))
    return lower * np.where(np.arange(dim) == dim - 1, -1.0, 1.0)


def freedom(rng, leading, dim):
    return dim - 1 + rng.uniform(0.3, 6.0, size=leading + (1,))


def concentration(rng, leading, dim):
    return rng.uniform(0.3, 4.0, size=leading + (1,))


def correlation_factor(rng, leading, dim):
    lower = np.linalg.cholesky(spd(rng, leading, dim))
    return lower / np.linalg.norm(lower, axis=-1, keepdims=True)


def transposed(matrix):
    return np.swapaxes(matrix, -1, -2)


def square(lower):
    return np.tril(lower) @ transposed(np.tril(lower))


def lkj_log_pdf(value, concentration):
    """
    Of a factor, with the constant by the vine: Lewandowski, Kurowicka and Joe (2009), page 1999, the first form.

    The package uses the second, by the onion.
    """
    dim, eta = len(value), concentration
    k = np.arange(1, dim)
    shapes = eta + (dim - k - 1) / 2
    log_constant = np.sum((2 * eta - 2 + dim - k) * (dim - k)) * np.log(2)
    log_constant += np.sum((dim - k) * special.betaln(shapes, shapes))
    return np.sum((dim - k - 1 + 2 * eta - 2) * np.log(np.diag(value)[1:])) - log_constant


def bartlett(degrees, gammas, normals):
    """The steps are those between the degrees of freedom of the gammas, which the test compares itself."""
    dim = gammas.shape[-1]
    return np.tril(normals, -1) + np.sqrt(2 * gammas)[..., None] * np.eye(dim)


def wishart_draw(noise, degrees_of_freedom, scale):
    return square_of(np.linalg.cholesky(scale) @ noise)


def inverse_wishart_draw(noise, degrees_of_freedom, scale):
    return square_of(np.linalg.cholesky(scale) @ np.linalg.inv(noise))


def square_of(matrix):
    return matrix @ transposed(matrix)


class Case(NamedTuple):
    """
    A distribution and its oracles.

    ``log_pdf(value, **parameters)`` takes one event, ``draw(noise, **parameters)`` a stack of Bartlett's matrices, and
    ``halves(dim, parameter)`` gives the shapes of the gamma noise from the first parameter.
    """

    distribution: type
    parameters: Dict[str, Callable]
    value: Callable
    log_pdf: Callable
    draw: Callable
    halves: Callable


def _ascending(dim, nu):
    return (nu - dim + 1 + np.arange(dim)) / 2


CASES = {
    "Wishart": Case(
        Wishart,
        {"degrees_of_freedom": freedom, "scale": spd},
        spd,
        lambda value, degrees_of_freedom, scale: stats.wishart.logpdf(value, degrees_of_freedom, scale),
        wishart_draw,
        lambda dim, nu: (nu - np.arange(dim)) / 2,
    ),
    "Wishart by factor": Case(
        Wishart,
        {"degrees_of_freedom": freedom, "scale_tril": factor},
        spd,
        lambda value, degrees_of_freedom, scale_tril: stats.wishart.logpdf(
            value, degrees_of_freedom, square(scale_tril)
        ),
        lambda noise, degrees_of_freedom, scale_tril: square_of(np.tril(scale_tril) @ noise),
        lambda dim, nu: (nu - np.arange(dim)) / 2,
    ),
    "inverse Wishart": Case(
        InverseWishart,
        {"degrees_of_freedom": freedom, "scale": spd},
        spd,
        lambda value, degrees_of_freedom, scale: stats.invwishart.logpdf(value, degrees_of_freedom, scale),
        inverse_wishart_draw,
        _ascending,
    ),
    "inverse Wishart by factor": Case(
        InverseWishart,
        {"degrees_of_freedom": freedom, "scale_tril": factor},
        spd,
        lambda value, degrees_of_freedom, scale_tril: stats.invwishart.logpdf(
            value, degrees_of_freedom, square(scale_tril)
        ),
        lambda noise, degrees_of_freedom, scale_tril: square_of(np.tril(scale_tril) @ np.linalg.inv(noise)),
        _ascending,
    ),
    "LKJ": Case(
        LKJCholesky,
        {"concentration": concentration},
        correlation_factor,
        lkj_log_pdf,
        lambda noise, concentration: noise / np.linalg.norm(noise, axis=-1, keepdims=True),
        lambda dim, eta: eta + (dim - 1 - np.arange(dim)) / 2,
    ),
}
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]  # sample axis, batch axis


def layouts_of(case):
    """For the parameters and the value, which has the batch axis always: one in each layout, the rest alike."""
    count = len(case.parameters) + 1
    seen = set()
    for rest in (LAYOUTS[0], LAYOUTS[-1]):
        for one in LAYOUTS:
            for place in range(count):
                layouts = tuple(one if i == place else rest for i in range(count))
                seen.add(layouts[:-1] + ((layouts[-1][0], True),))
    return sorted(seen)


def make(rng, case, sizes, dim, layouts, dtype="float64"):
    """Parameters and a value as the host hands them over, and rounded as the dtype does."""

    def leading(layout):
        return (sizes[0] if layout[0] else 1,) + ((sizes[1],) if layout[1] else ())

    makers = {**case.parameters, "random_variable": case.value}
    arrays = {name: makers[name](rng, leading(layout), dim) for name, layout in zip(makers, layouts)}
    return {name: array.astype(dtype).astype("float64") for name, array in arrays.items()}


def event_axes(name):
    return 1 if name in ("degrees_of_freedom", "concentration") else 2


def aligned(arrays):
    """Missing batch axes inserted after the sample axis."""
    return {name: a if a.ndim == 2 + event_axes(name) else a[:, None] for name, a in arrays.items()}


def broadcast(arrays, sizes):
    return {name: np.broadcast_to(a, sizes + a.shape[2:]) for name, a in aligned(arrays).items()}


def expected_log_pdf(case, arrays):
    leading = np.broadcast_shapes(*(a.shape[:2] for a in aligned(arrays).values()))
    full = broadcast(arrays, leading)
    result = np.empty(leading)
    for index in np.ndindex(leading):
        each = {name: a[index].item() if event_axes(name) == 1 else a[index] for name, a in full.items()}
        result[index] = case.log_pdf(each.pop("random_variable"), **each)
    return result


def runtime(case, arrays, rows, dim, dtype="float64"):
    """The factor of a model and its arrays by uuid."""
    shapes = {name: tuple(arrays[name].shape[1:]) for name in case.parameters}
    model = declare(case.distribution, (rows, dim, dim), dtype, **shapes)
    variables = {getattr(model, name).uuid: nd(arrays[name], dtype) for name in case.parameters}
    variables[model.X.uuid] = nd(arrays["random_variable"], dtype)
    return model.X.factor, variables


class FixedGamma(FixedNoise):
    """Gamma noise beside the normal one, which must be asked for with the right shapes."""

    def __init__(self, normals, gammas, halves):
        super().__init__(normals)
        self.gammas, self.halves = gammas, halves

    def sample_gamma(self, alpha=1, beta=1, shape=None, dtype=None, out=None, ctx=None, F=None):
        np.testing.assert_allclose(alpha.asnumpy(), self.halves, rtol=1e-5)
        assert (beta.asnumpy() == 1).all()
        return nd(self.gammas, dtype)


def fixed_noise(rng, case, arrays, sizes, dim):
    first = next(iter(case.parameters))
    halves = case.halves(dim, broadcast({first: arrays[first]}, sizes)[first])
    gammas, normals = rng.uniform(0.2, 3.0, size=sizes + (dim,)), rng.normal(size=sizes + (dim, dim))
    return FixedGamma(normals, gammas, halves), bartlett(halves, gammas, normals)


# Densities


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_log_pdf_matches_the_oracle(name, sizes, dim, dtype, rng):
    case = CASES[name]
    for layouts in layouts_of(case):
        arrays = make(rng, case, sizes, dim, layouts, dtype)
        distribution, variables = runtime(case, arrays, sizes[1], dim, dtype)
        got = distribution.log_pdf(mx.nd, variables)
        assert got.dtype == np.dtype(dtype)
        assert_close(got, expected_log_pdf(case, arrays), **TOLERANCE[dtype])


GRADIENT_LAYOUTS = {
    "shared": ((False, False), (False, True)),
    "full": ((True, True), (True, True)),
    "per sample": ((True, False), (False, True)),
}


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("layouts", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_central_differences(name, layouts, dim, rng):
    case = CASES[name]
    parameters, value = GRADIENT_LAYOUTS[layouts]
    arrays = make(rng, case, (2, 3), dim, [parameters] * len(case.parameters) + [value])
    distribution, variables = runtime(case, arrays, 3, dim)
    leaves = dict(zip(arrays, variables.values()))
    for leaf in leaves.values():
        leaf.attach_grad()
    weights = rng.normal(size=expected_log_pdf(case, arrays).shape)
    with mx.autograd.record():
        mx.nd.sum(distribution.log_pdf(mx.nd, variables) * nd(weights)).backward()
    for key, leaf in leaves.items():
        expected = oracles.central_difference(
            lambda array, key=key: np.sum(weights * expected_log_pdf(case, {**arrays, key: array})),
            arrays[key],
            symmetrical=event_axes(key) == 2 and key != "scale_tril" and name != "LKJ",
        )
        expected = np.tril(expected) if key == "scale_tril" else expected
        assert_close(leaf.grad, expected, **GRADIENT_TOLERANCE)


def test_digamma_is_exact():
    """MXNet's own has errors of 1e-7."""
    x = np.concatenate([np.geomspace(1e-3, 1e6, 400), np.linspace(1.3, 1.6, 50)])
    for dtype, tolerance in (("float64", 4e-15), ("float32", 1e-6)):
        array = nd(x, dtype)
        exact = special.digamma(array.asnumpy().astype("float64"))
        assert_close(digamma(array), exact, rtol=tolerance, atol=tolerance)


def exact_rest(x):
    return mpmath.loggamma(x) - (x - 0.5) * mpmath.log(x) + x - mpmath.log(2 * mpmath.pi) / 2


def exact_excess(x, step):
    return mpmath.loggamma(x + step) - mpmath.loggamma(x) - step * mpmath.log(x)


def exact_multivariate_excess(x, dim):
    gammas = sum(mpmath.loggamma(x - mpmath.mpf(i) / 2) for i in range(dim))
    return gammas + mpmath.log(mpmath.pi) * dim * (dim - 1) / 4 - dim * (x * mpmath.log(x) - x)


SPECIAL = {
    "rest": (stirling_rest, exact_rest),
    "excess": (lambda x: log_gamma_excess(x, np.array([2.5])), lambda x: exact_excess(x, mpmath.mpf(5) / 2)),
    "no excess": (lambda x: log_gamma_excess(x, np.array([0.0])), lambda x: mpmath.mpf(0) * x),
    "multivariate": (
        lambda x: log_multivariate_gamma_excess(x, 4).expand_dims(-1),
        lambda x: exact_multivariate_excess(x, 4),
    ),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_differences_of_log_gammas_at_any_size(name):
    function, exact = SPECIAL[name]
    x = np.concatenate([np.geomspace(1.6, 1e30, 61), [9.99, 10.0, 10.01]])
    array = nd(x[:, None])
    array.attach_grad()
    with mx.autograd.record():
        value = function(array)
    value.backward()
    with mpmath.workdps(80):
        # As the step goes with x, so many digits are lost in neither difference.
        expected = [float(exact(mpmath.mpf(each))) for each in x]
        slopes = [
            float((exact(each + h) - exact(each - h)) / (2 * h)) for each in map(mpmath.mpf, x) for h in [each / 10**15]
        ]
    assert_close(value, np.array(expected)[:, None], rtol=2e-14, atol=3e-15)
    assert_close(array.grad * array, (np.array(slopes) * x)[:, None], rtol=2e-12, atol=1e-14)


@pytest.mark.parametrize("recorded", [False, True], ids=["evaluated", "recorded"])
@pytest.mark.parametrize("freedom", [10.0, 1e4, 1e6, 1e9])
@pytest.mark.parametrize(("cls", "law"), [(Wishart, stats.wishart), (InverseWishart, stats.invwishart)])
def test_many_degrees_of_freedom(cls, law, freedom, recorded, dtype, rng):
    """Terms of size nu log nu cancel; the reference has 50 digits, of the very numbers that are passed."""
    dim = 5
    scale = oracles.random_spd(rng, (), dim, condition=20).astype(dtype).astype("float64")
    values = law.rvs(freedom, scale, size=2, random_state=rng).astype(dtype).astype("float64")
    factor = declare(cls, (dim, dim), dtype, degrees_of_freedom=(1,), scale=(dim, dim)).X.factor
    arrays = {"degrees_of_freedom": nd([[freedom]], dtype), "scale": nd(scale[None], dtype)}
    freedoms = arrays["degrees_of_freedom"]
    freedoms.attach_grad()
    expected = []
    with mpmath.workdps(60):
        nu = mpmath.mpf(freedoms.asscalar().item())
        for value in values:
            one, other = (mpmath.matrix(a.tolist()) for a in (value, scale))
            signed = 1 if cls is Wishart else -1
            ratio = other**-1 * one if cls is Wishart else one**-1 * other
            trace = sum(ratio[i, i] for i in range(dim))
            log_p = (nu - dim - 1 if cls is Wishart else -nu - dim - 1) * mpmath.log(mpmath.det(one)) / 2 - trace / 2
            log_p -= signed * nu / 2 * mpmath.log(mpmath.det(other)) + nu * dim / 2 * mpmath.log(2)
            gammas = sum(mpmath.loggamma(nu / 2 - mpmath.mpf(i) / 2) for i in range(dim))
            expected.append(float(log_p - gammas - mpmath.log(mpmath.pi) * dim * (dim - 1) / 4))
    if recorded:
        with mx.autograd.record():
            got = factor.log_pdf_impl(random_variable=nd(values, dtype), **arrays)
        got.backward()
        assert np.isfinite(freedoms.grad.asnumpy()).all()
    else:
        got = factor.log_pdf_impl(random_variable=nd(values, dtype), **arrays)
    assert got.dtype == np.dtype(dtype)
    # While training, factors are those of float32, whose errors nu does not multiply but by its root.
    atol = {"float32": 3e-7 * np.sqrt(freedom) if recorded else 0.0, "float64": 1e-15 * np.sqrt(freedom)}[dtype]
    assert_close(got, expected, rtol={"float32": 1e-6, "float64": 1e-12}[dtype], atol=atol)


@pytest.mark.parametrize("eta", [0.5, 30.0, 1e6, 1e12])
def test_many_concentrations(eta, dtype):
    """The constant is a sum of differences of log gammas; the reference is that of the vine, with 60 digits."""
    dim, value = 4, np.eye(4)
    factor = declare(LKJCholesky, (dim, dim), dtype, concentration=(1,)).X.factor
    got = factor.log_pdf_impl(concentration=nd([[eta]], dtype), random_variable=nd(value[None], dtype))
    with mpmath.workdps(60):
        exact, constant = mpmath.mpf(float(nd([eta], dtype).asscalar())), mpmath.mpf(0)
        for k in range(1, dim):
            shape = exact + mpmath.mpf(dim - k - 1) / 2
            constant += (2 * exact - 2 + dim - k) * (dim - k) * mpmath.log(2)
            constant += (dim - k) * mpmath.log(mpmath.beta(shape, shape))
    assert_close(got, [-float(constant)], rtol={"float32": 1e-6, "float64": 1e-13}[dtype])


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


def lkj_at(value, eta):
    """Log densities of a stack of factors (K, D, D)."""
    model = declare(LKJCholesky, value.shape, concentration=(1,))
    return model.X.factor.log_pdf(mx.nd, {model.concentration.uuid: nd([[eta]]), model.X.uuid: nd(value[None])})


@pytest.mark.parametrize("eta", [1.0, 1.5, 3.0])
def test_the_lkj_density_integrates_to_one(eta):
    """Numerically, D = 2 over the interval and D = 3 over interval times disc, both by angles."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t, weights = nodes * np.pi / 2, weights * np.pi / 2
    zero = np.zeros_like(t)
    two = np.stack([np.stack([1 + zero, zero], -1), np.stack([np.sin(t), np.cos(t)], -1)], -2)
    total = np.sum(weights * np.cos(t) * np.exp(lkj_at(two, eta).asnumpy()))
    np.testing.assert_allclose(total, 1, rtol=1e-10)
    t, r, angle = np.meshgrid(t, (nodes + 1) * np.pi / 4, np.arange(6) * np.pi / 3, indexing="ij")
    value = np.zeros(t.shape + (3, 3))
    value[..., 0, 0], value[..., 1, 0], value[..., 1, 1] = 1, np.sin(t), np.cos(t)
    value[..., 2, 0], value[..., 2, 1] = np.sin(r) * np.cos(angle), np.sin(r) * np.sin(angle)
    value[..., 2, 2] = np.cos(r)
    volume = np.cos(t) * np.sin(r) * np.cos(r) * weights[:, None, None] * weights[:, None] / 2 * np.pi / 3
    density = np.exp(lkj_at(value.reshape(-1, 3, 3), eta).asnumpy()).reshape(t.shape)
    np.testing.assert_allclose(np.sum(volume * density), 1, rtol=1e-10)


def test_the_lkj_density_is_a_power_of_the_determinant_and_a_jacobian(rng):
    """p(L) = p(R) |dR/dL|, with the Jacobian of the entries below the diagonal by differences."""
    dim, eta = 4, 1.7
    below = np.tril_indices(dim, -1)

    def correlations(entries):
        lower = np.zeros((dim, dim))
        lower[below] = entries
        lower += np.diag(np.sqrt(1 - np.sum(lower**2, axis=-1)))
        return square(lower)[below]

    values = correlation_factor(rng, (2,), dim)

    def kernel(lower):
        steps = 1e-6 * np.eye(len(below[0]))
        jacobian = [correlations(lower[below] + e) - correlations(lower[below] - e) for e in steps]
        return (eta - 1) * np.linalg.slogdet(square(lower))[1] + np.linalg.slogdet(jacobian)[1]

    got = lkj_at(values, eta).asnumpy()[0]
    np.testing.assert_allclose(got[1] - got[0], kernel(values[1]) - kernel(values[0]), rtol=1e-7)


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


@pytest.mark.parametrize("distribution", [Wishart, InverseWishart])
def test_the_scale_is_the_identity_unless_it_is_given(distribution, rng):
    """As in MXFusion's Wishart, declared by its own method too."""
    value = nd(oracles.random_spd(rng, (), 3, condition=10)[None])
    model = Model()
    model.plain = distribution(5.0, shape=(3, 3), dtype="float64")
    model.as_in_mxfusion = distribution.define_variable(shape=(3, 3), degrees_of_freedom=5.0, dtype="float64")
    oracle = {Wishart: stats.wishart, InverseWishart: stats.invwishart}[distribution]
    for variable in (model.plain, model.as_in_mxfusion):
        variables = {v.uuid: v.constant.expand_dims(0) for v in model.get_constants()}
        got = variable.factor.log_pdf(mx.nd, {**variables, variable.uuid: value})
        assert_close(got, [oracle.logpdf(value[0].asnumpy(), 5, np.eye(3))], **TOLERANCE["float64"])


# What is refused


REFUSED = [
    (lambda: Wishart(4.0, np.eye(3), np.eye(3), shape=(3, 3)), "`scale` and `scale_tril`: got 2 matrices"),
    (lambda: Wishart(2.0, 1.0, shape=(3, 3)), "`degrees_of_freedom`: got 2; expected more than D - 1 = 2. With fewer"),
    (lambda: InverseWishart(-1.0, 1.0, shape=(3, 3)), "`degrees_of_freedom`: got -1.0 .*; expected positive numbers"),
    (lambda: Wishart(np.nan, 1.0, shape=(3, 3)), "`degrees_of_freedom`: got nan at index"),
    (
        lambda: Wishart(np.array([[4.0], [1.5]]), 1.0, shape=(2, 3, 3)),
        "`degrees_of_freedom`: got 1.5; expected more than D - 1 = 2",
    ),
    (
        lambda: Wishart(Variable(value=nd([1.5])), 1.0, shape=(3, 3)),
        "`degrees_of_freedom`: got 1.5; expected more than D - 1 = 2",
    ),
    (
        lambda: Wishart(Variable(value=1.5), 1.0, shape=(3, 3)),
        "`degrees_of_freedom`: got 1.5; expected more than D - 1 = 2",
    ),
    (
        lambda: Wishart(np.array([4.0, 5.0]), 1.0, shape=(2, 3, 3)),
        r"`degrees_of_freedom`: got shape \(2,\); expected \(2, 1\), or what broadcasts",
    ),
    (
        lambda: Wishart(np.full((3, 1), 5.0), 1.0, shape=(2, 3, 3)),
        r"`degrees_of_freedom`: got shape \(3, 1\); expected \(2, 1\)",
    ),
    (lambda: Wishart(5.0, -np.eye(3), shape=(3, 3)), "`scale`: got a matrix whose smallest eigenvalue is -1"),
    (lambda: Wishart(5.0, -1.0, shape=(3, 3)), "`scale`: got a matrix whose smallest eigenvalue is -1"),
    (lambda: InverseWishart(5.0, np.full((3, 3), np.nan), shape=(3, 3)), "`scale`: got nan at index"),
    (lambda: InverseWishart(5.0, np.eye(2), shape=(3, 3)), r"`scale`: got shape \(2, 2\); expected \(3, 3\)"),
    (lambda: InverseWishart(5.0, np.ones(3), shape=(3, 3)), r"`scale`: got shape \(3,\); expected a matrix"),
    (
        lambda: InverseWishart(5.0, np.ones((4, 1, 1)), shape=(2, 3, 3)),
        r"`scale`: got shape \(4, 1, 1\); expected \(2, 3, 3\)",
    ),
    (
        lambda: InverseWishart(5.0, scale_tril=np.ones((3, 3)), shape=(3, 3)),
        "`scale_tril`: got 1.0 .* above the diagonal",
    ),
    (lambda: Wishart(5.0, 1.0, shape=(3,)), r"`shape`: got \(3,\); expected at least 2 axes"),
    (lambda: Wishart(5.0, 1.0, shape=(2, 3)), r"`shape`: got shape \(2, 3\); expected square matrices"),
    (lambda: LKJCholesky(0.0, shape=(3, 3)), "`concentration`: got 0.0 .*; expected positive numbers"),
    (lambda: LKJCholesky(np.inf, shape=(3, 3)), "`concentration`: got inf at index"),
    (lambda: LKJCholesky("2", shape=(3, 3)), "`concentration`: got '2' of type str; expected a Variable"),
    (lambda: LKJCholesky(np.ones(3), shape=(3, 3)), r"`concentration`: got shape \(3,\); expected \(1,\)"),
    (lambda: LKJCholesky(1.0, shape=(3, 2)), r"`shape`: got shape \(3, 2\); expected square matrices"),
    (lambda: Variable(shape=(3, 3)).set_prior(Wishart(1.0, 1.0)), "`degrees_of_freedom`: got 1; expected more than D"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_at_definition(call, message):
    with pytest.raises(ModelSpecificationError, match=message):
        call()


_SPD = 2 * np.eye(2) + 1
_BROKEN = np.array([[1.0, 2.0], [2.0, 1.0]])
_CORRELATION = np.array([[1.0, 0.0], [0.6, 0.8]])
AT_RUN_TIME = [
    ("Wishart", {"degrees_of_freedom": [1.0]}, "`degrees_of_freedom` of variable `X`: got 1; expected more than D - 1"),
    ("Wishart", {"degrees_of_freedom": [np.nan]}, "`degrees_of_freedom` of variable `X` is nan at"),
    ("Wishart", {"scale": _BROKEN}, "`scale` of variable `X` is not positive definite: its smallest eigenvalue is -1"),
    ("Wishart by factor", {"scale_tril": np.zeros((2, 2))}, "`scale_tril` of variable `X` is singular"),
    ("LKJ", {"concentration": [-0.5]}, "`concentration` of variable `X`: got -0.5; expected positive numbers"),
]
AT_DENSITY = [
    (
        "Wishart",
        {"random_variable": [_SPD, _BROKEN]},
        r"`random_variable` of variable `X` is not .* at batch index \(1,\)",
    ),
    ("inverse Wishart", {"random_variable": [_SPD, np.nan * _SPD]}, r"`X` is nan at index \(1, 0, 0\)"),
    ("LKJ", {"random_variable": [_CORRELATION, np.eye(2) / 2]}, r"`random_variable` of .* got 0.5 as the norm of row"),
    ("LKJ", {"random_variable": [_CORRELATION, _CORRELATION.T]}, r"`X`: got 0.6 at index \(0, 1, 0, 1\), above"),
    ("LKJ", {"random_variable": [_CORRELATION, -np.eye(2)]}, r"`X`: got -1 at diagonal position .*CorrelationCholesky"),
    ("LKJ", {"random_variable": [_CORRELATION, np.nan * np.eye(2)]}, r"`X` is nan at index \(1, 0, 0\)"),
]


def broken(name, changes):
    case = CASES[name]
    arrays = {"degrees_of_freedom": [4.0], "scale": _SPD, "scale_tril": _CORRELATION, "concentration": [2.0]}
    arrays["random_variable"] = [_CORRELATION if name == "LKJ" else _SPD] * 2
    arrays = {key: np.asarray(value)[None] for key, value in {**arrays, **changes}.items()}
    return runtime(case, arrays, 2, 2)


@pytest.mark.parametrize(("name", "changes", "message"), AT_RUN_TIME + AT_DENSITY)
def test_refused_at_run_time(name, changes, message):
    distribution, variables = broken(name, changes)
    with pytest.raises(InferenceError, match=message):
        distribution.log_pdf(mx.nd, variables)
    if "random_variable" not in changes:
        with pytest.raises(InferenceError, match=message):
            distribution.draw_samples(mx.nd, variables, num_samples=3)
    mx.nd.waitall()


def test_a_policy_repairs_scale_and_value():
    model = Model()
    model.V = Variable(shape=(2, 2))
    model.X = Wishart(4.0, model.V, shape=(2, 2), dtype="float64", on_failure=OnFailure("project"))
    variables = {variable.uuid: variable.constant.expand_dims(0) for variable in model.get_constants()}
    variables.update({model.V.uuid: nd(_SPD[None]), model.X.uuid: nd(_SPD[None])})
    for broken_one, name in ((model.V, "scale"), (model.X, "random_variable")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            log_pdf = model.X.factor.log_pdf(mx.nd, {**variables, broken_one.uuid: nd(_BROKEN[None])})
            assert np.isfinite(log_pdf.asnumpy()).all()
        (message,) = [str(warning.message) for warning in caught if warning.category is RepairWarning]
        assert f"`{name}` of variable `X` is not positive definite" in message


def test_a_value_of_the_wrong_size_is_named(rng):
    distribution, variables = broken("Wishart", {})
    variables[list(variables)[-1]] = nd(np.ones((1, 2, 3, 3)))
    with pytest.raises(InferenceError, match=r"`scale` of variable `X`: got shape \(2, 2\); expected \(2, 3, 3\)"):
        distribution.log_pdf(mx.nd, variables)


# In models


@pytest.mark.parametrize("copied", [lambda m: m.clone(), copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", CASES)
def test_copies_have_the_same_density(name, copied, rng):
    case = CASES[name]
    arrays = make(rng, case, (2, 3), 2, [(False, False)] * len(case.parameters) + [(True, True)])
    model = declare(case.distribution, (3, 2, 2), **{k: arrays[k].shape[1:] for k in case.parameters})
    twin = copied(model)
    values = []
    for each in (model, twin):
        variables = {getattr(each, key).uuid: nd(arrays[key]) for key in case.parameters}
        variables[each.X.uuid] = nd(arrays["random_variable"])
        values.append(each.X.factor.log_pdf(mx.nd, variables))
        with mx.autograd.record():
            each.X.factor.draw_samples(mx.nd, variables, num_samples=2)
    assert_close(values[1], values[0].asnumpy(), rtol=0)


@pytest.mark.parametrize("name", ["Wishart", "inverse Wishart"])
def test_a_number_is_a_multiple_of_the_identity(name, rng):
    case = CASES[name]
    value = spd(rng, (1, 4), 3)
    results = []
    for scale in (2.0, 2 * np.eye(3)):
        model = Model()
        model.X = case.distribution.define_variable((4, 3, 3), 5.0, scale, dtype="float64")
        variables = {variable.uuid: variable.constant.expand_dims(0) for variable in model.get_constants()}
        mx.random.seed(1)
        draw = model.X.factor.draw_samples(mx.nd, variables, num_samples=2)
        results.append((model.X.factor.log_pdf(mx.nd, {**variables, model.X.uuid: nd(value)}), draw))
    assert_close(results[0][0], results[1][0].asnumpy(), rtol=1e-14)
    assert_close(results[0][1], results[1][1].asnumpy(), rtol=1e-12)


def in_support(inference, variable, transformation, initial):
    """Keep the point estimate of a variable in its support; the host starts it anywhere."""
    location = inference.inference_algorithm.posterior[variable].factor.location
    location._transformation = transformation
    location._initial_value = nd(initial)
    return inference


def fit(inference, data, rates=(0.2, 0.05, 0.01, 0.002), max_iter=50):
    for rate in rates:
        inference.run(X=data, learning_rate=rate, max_iter=max_iter)
    return inference


ROWS, DIM = 30, 3
PRIORS = {  # prior, the form in which the likelihood takes it, and the mode of its law by degrees of freedom and scale
    "Wishart": (Wishart, "precision", lambda nu, scale: (nu - DIM - 1) * scale),
    "inverse Wishart": (InverseWishart, "covariance", lambda nu, scale: scale / (nu + DIM + 1)),
}


def conjugate(name, rng):
    """A model of centred data with its prior, the data, and degrees of freedom and scale of the exact posterior."""
    prior, form, _ = PRIORS[name]
    scale = oracles.random_spd(rng, (), DIM, condition=5)
    model = Model()
    model.C = prior(6.0, nd(scale), shape=(DIM, DIM), dtype="float64")
    model.X = MultivariateNormal(**{form: model.C}, shape=(ROWS, DIM), dtype="float64")
    data = rng.multivariate_normal(np.zeros(DIM), oracles.random_spd(rng, (), DIM, condition=5), size=ROWS)
    updated = scale + data.T @ data
    if form == "precision":
        updated = np.linalg.inv(np.linalg.inv(scale) + data.T @ data)
    return model, data, 6.0 + ROWS, oracles.symmetric(updated)


@pytest.mark.parametrize("name", PRIORS)
def test_map_reaches_the_analytic_mode(name, rng, tmp_path):
    model, data, nu, scale = conjugate(name, rng)
    inference = GradBasedInference(MAP(model, [model.X]), dtype="float64")
    fit(in_support(inference, model.C, PositiveDefinite(), np.eye(DIM)), nd(data))
    location = inference.inference_algorithm.posterior.C.factor.location
    mode = PRIORS[name][2](nu, scale)
    assert_close(inference.params[location], mode, rtol=1e-4, atol=1e-4 * np.abs(mode).max())
    inference.save(str(tmp_path / "fit.zip"))
    twin = conjugate(name, np.random.default_rng(20240229))[0]
    loaded = GradBasedInference(MAP(twin, [twin.X]), dtype="float64")
    in_support(loaded, twin.C, PositiveDefinite(), np.eye(DIM)).initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    location = loaded.inference_algorithm.posterior.C.factor.location
    assert_close(loaded.params[location], inference_value(inference), rtol=1e-12)


def inference_value(inference):
    return inference.params[inference.inference_algorithm.posterior.C.factor.location].asnumpy()


def test_map_outside_the_support_is_reported(rng):
    """The host's own point estimate is not kept positive definite."""
    model, _, _, _ = conjugate("Wishart", rng)
    algorithm = MAP(model, [model.X])
    inference = GradBasedInference(algorithm, dtype="float64")
    in_support(inference, model.C, None, -np.eye(DIM)).initialize(X=(ROWS, DIM))
    with pytest.raises(NotPositiveDefiniteError, match="`random_variable` of variable `C` is not positive definite"):
        inference.create_executor()(mx.nd.zeros(1), mx.nd.zeros((ROWS, DIM), dtype="float64"))


def test_map_learns_the_degrees_of_freedom(rng):
    """By the density, which has their gradient; the oracle maximises SciPy's."""
    draws = stats.wishart.rvs(7.0, np.eye(2), size=300, random_state=1)
    model = Model()
    model.nu = Variable(shape=(1,), transformation=Positive(), initial_value=nd([3.0]))
    model.X = Wishart(model.nu, 1.0, shape=(300, 2, 2), dtype="float64")
    inference = fit(GradBasedInference(MAP(model, [model.X]), dtype="float64"), nd(draws))

    def loss(nu):
        return -stats.wishart.logpdf(draws.transpose(1, 2, 0), nu, np.eye(2)).sum()

    best = minimize_scalar(loss, bounds=(2, 20), method="bounded", options={"xatol": 1e-8})
    assert_close(inference.params[model.nu], [best.x], rtol=1e-4)


def test_map_of_a_correlation_factor(rng):
    data = rng.multivariate_normal(np.zeros(2), [[1.0, 0.7], [0.7, 1.0]], size=40)
    model = Model()
    model.C = LKJCholesky(2.0, shape=(2, 2), dtype="float64")
    model.X = MultivariateNormal(scale_tril=model.C, shape=(40, 2), dtype="float64")
    inference = GradBasedInference(MAP(model, [model.X]), dtype="float64")
    fit(in_support(inference, model.C, CorrelationCholesky(), np.eye(2)), nd(data))

    def loss(r):
        lower = np.array([[1.0, 0.0], [r, np.sqrt(1 - r**2)]])
        return -lkj_log_pdf(lower, 2.0) - oracles.log_pdf(data, np.zeros(2), square(lower)).sum()

    best = minimize_scalar(loss, bounds=(-0.99, 0.99), method="bounded", options={"xatol": 1e-9}).x
    assert_close(inference_value(inference), [[1.0, 0.0], [best, np.sqrt(1 - best**2)]], rtol=0, atol=1e-4)


def variational(name, model, nu, initial, num_samples=4):
    """SVI with a posterior of the prior's kind, of which the factor of the scale is learned."""
    posterior = Posterior(model)
    factor = Variable(shape=(DIM, DIM), transformation=LowerCholesky(), initial_value=nd(initial))
    posterior.C.set_prior(PRIORS[name][0](nu, scale_tril=factor, dtype="float64"))
    algorithm = StochasticVariationalInference(num_samples, model, posterior, [model.X])
    return GradBasedInference(algorithm, dtype="float64"), factor


def negative_bound(inference, data, seed=3):
    mx.random.seed(seed)
    executor = inference.create_executor()
    with mx.autograd.record():
        loss, _ = executor(mx.nd.zeros(1), nd(data))
    return loss


def log_evidence(name, model, data, nu, scale):
    """Prior times likelihood over posterior, at any one point."""
    law = {"Wishart": stats.wishart, "inverse Wishart": stats.invwishart}[name]
    point = np.eye(DIM)
    prior_scale = next(v.constant for v in model.get_constants() if v.shape == (DIM, DIM)).asnumpy()
    likelihood = stats.multivariate_normal.logpdf(data, np.zeros(DIM), point).sum()
    return likelihood + law.logpdf(point, 6.0, prior_scale) - law.logpdf(point, nu, scale)


@pytest.mark.parametrize("name", PRIORS)
def test_the_bound_at_the_exact_posterior_is_the_evidence(name, rng):
    """Whatever is drawn: prior times likelihood over posterior is constant there."""
    model, data, nu, scale = conjugate(name, rng)
    inference, _ = variational(name, model, nu, np.linalg.cholesky(scale))
    inference.initialize(X=nd(data))
    expected = log_evidence(name, model, data, nu, scale)
    for seed in range(3):
        assert_close(-negative_bound(inference, data, seed), [expected], rtol=1e-10)


@pytest.mark.parametrize("name", PRIORS)
def test_the_gradient_of_the_bound_equals_differences(name, rng):
    model, data, nu, scale = conjugate(name, rng)
    start = np.linalg.cholesky(1.5 * scale)
    inference, factor = variational(name, model, nu, start)
    inference.initialize(X=nd(data))
    raw = inference.params.param_dict[factor.uuid]
    negative_bound(inference, data).backward()
    got, at = raw.grad().asnumpy(), raw.data().asnumpy()

    def bound(value):
        raw.set_data(nd(value))
        return negative_bound(inference, data).asscalar()

    assert_close(got, oracles.central_difference(bound, at, step=1e-3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PRIORS)
def test_svi_finds_the_exact_posterior(name, rng):
    model, data, nu, scale = conjugate(name, rng)
    inference, factor = variational(name, model, nu, np.linalg.cholesky(1.5 * scale), num_samples=100)
    fit(inference, nd(data), rates=(0.1, 0.03, 0.01))
    fitted = square(inference.params[factor].asnumpy())
    assert_close(fitted, scale, rtol=0, atol=0.03 * np.abs(scale).max())


def test_svi_refuses_to_learn_the_degrees_of_freedom(rng):
    model, data, nu, scale = conjugate("Wishart", rng)
    learned = Variable(shape=(1,), transformation=Positive(), initial_value=nd([nu]))
    inference, _ = variational("Wishart", model, learned, np.linalg.cholesky(scale))
    with pytest.raises(InferenceError, match="`degrees_of_freedom` of variable `C`: its gradient was asked for"):
        inference.run(X=nd(data), max_iter=1)


def test_svi_draws_correlation_factors(rng):
    """Beside a latent correlation, of which the posterior is given, the mean is learned."""
    data = rng.multivariate_normal([1.0, -1.0], [[1.0, 0.5], [0.5, 1.0]], size=200)
    model = Model()
    model.mean = Variable(shape=(2,))
    model.C = LKJCholesky(1.0, shape=(2, 2), dtype="float64")
    model.X = MultivariateNormal(model.mean, scale_tril=model.C, shape=(200, 2), dtype="float64")
    posterior = Posterior(model)
    posterior.C.set_prior(LKJCholesky(5.0, dtype="float64"))
    algorithm = StochasticVariationalInference(5, model, posterior, [model.X])
    inference = fit(GradBasedInference(algorithm, dtype="float64"), nd(data), rates=(0.05, 0.01))
    assert_close(inference.params[model.mean], data.mean(0), rtol=0, atol=0.05)


def test_forward_sampling_of_a_hierarchy(rng):
    model = Model()
    model.C = InverseWishart(8.0, 5.0, shape=(2, 2))
    model.X = MultivariateNormal(covariance=model.C, shape=(4, 2))
    algorithm = ForwardSamplingAlgorithm(model=model, observed=[], num_samples=20000, target_variables=[model.X])
    (draws,) = Inference(algorithm).run()
    draws = draws.asnumpy()
    assert draws.shape == (20000, 4, 2)
    covariance = np.einsum("sni,snj->ij", draws, draws) / draws[..., 0].size
    assert_close(covariance, np.eye(2), rtol=0, atol=0.05)  # Psi / (nu - D - 1)
