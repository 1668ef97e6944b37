# SPDX-License-Identifier: Apache-2.0
"""Bijections: values, round trips, Jacobians, the densities they carry over, their range, and what they refuse."""

import re
from typing import Callable, NamedTuple

from mxfusion_mvn import LKJCholesky, Wishart, bijections, transformations
from mxfusion_mvn.bijections import (
    CorrelationCholesky,
    Interval,
    LowerCholesky,
    Ordered,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host
from scipy import special, stats
from scipy.linalg import helmert

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close

BOUNDS = np.array([-1.0, 2.5])


# Oracles: one raw vector at a time, in NumPy float64.


def tangent_exp(x):
    return np.where(x <= 20, np.exp(np.minimum(x, 20)), np.exp(20.0) * (x - 19))


def lower(x, dim):
    matrix = np.zeros((dim, dim))
    matrix[np.tril_indices(dim)] = x
    scales = tangent_exp(np.diag(matrix))
    return scales[:, None] * (np.tril(matrix, -1) + np.eye(dim))


def correlation_factor(x, dim):
    factor, angles = np.zeros((dim, dim)), np.zeros((dim, dim))
    angles[np.tril_indices(dim, -1)] = x
    for i in range(dim):
        left = 1.0
        for j in range(i):
            factor[i, j] = np.tanh(angles[i, j]) * left
            left /= np.cosh(angles[i, j])
        factor[i, i] = left
    return factor


def increasing(x, dim):
    return np.cumsum(np.concatenate([x[:1], tangent_exp(x[1:])]))


class Case(NamedTuple):
    """``value(raw, dim)`` by NumPy, ``free`` the coordinates of a value that densities use, ``count`` their number."""

    bijection: bijections.Bijection
    value: Callable
    free: Callable
    count: Callable
    event_axes: int


def entries(value):
    return value


def lower_triangle(value):
    rows, columns = np.tril_indices(value.shape[-1])
    return value[..., rows, columns]


def strict_triangle(value):
    rows, columns = np.tril_indices(value.shape[-1], -1)
    return value[..., rows, columns]


CASES = {
    "Real": Case(Real(), lambda x, dim: x, entries, lambda dim: dim, 0),
    "Positive": Case(Positive(), lambda x, dim: tangent_exp(x), entries, lambda dim: dim, 0),
    "Interval": Case(Interval(*BOUNDS), lambda x, dim: -1.0 + 3.5 * special.expit(x), entries, lambda dim: dim, 0),
    "Simplex": Case(
        Simplex(), lambda x, dim: special.softmax(helmert(dim).T @ x), lambda y: y[..., :-1], lambda dim: dim - 1, 1
    ),
    "Ordered": Case(Ordered(), increasing, entries, lambda dim: dim, 1),
    "LowerCholesky": Case(LowerCholesky(), lower, lower_triangle, lambda dim: dim * (dim + 1) // 2, 2),
    "PositiveDefinite": Case(
        PositiveDefinite(),
        lambda x, dim: lower(x, dim) @ lower(x, dim).T,
        lower_triangle,
        lambda dim: dim * (dim + 1) // 2,
        2,
    ),
    "CorrelationCholesky": Case(
        CorrelationCholesky(), correlation_factor, strict_triangle, lambda dim: dim * (dim - 1) // 2, 2
    ),
}
DIMENSIONS = [1, 2, 5, 20]
SIZES = [
    pytest.param(name, dim, id=f"{name}-{dim}") for name, case in CASES.items() for dim in DIMENSIONS if case.count(dim)
]


def event_shape(case, dim):
    return (dim,) * max(1, case.event_axes)


def random_raw(rng, case, leading, dim):
    """About as spread as raw numbers are; matrices of size 20 stay well conditioned."""
    size = case.count(dim)
    return rng.normal(size=leading + (size,)) / np.sqrt(1 + size / 10)


def jacobian(function, point, step=1e-3):
    """By the five-point formula, all points in one call: (n, m) of a function from (K, n) to (K, m)."""
    moves = step * np.eye(len(point))
    values = function(point + np.concatenate([moves, -moves, 2 * moves, -2 * moves])).reshape(4, len(point), -1)
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)


def gradient_of(function, raw, dtype="float64"):
    array = nd(raw, dtype)
    array.attach_grad()
    with mx.autograd.record():
        out = mx.nd.sum(function(array))
    out.backward()
    return array.grad.asnumpy()


# Values and round trips


@pytest.mark.parametrize(("name", "dim"), SIZES)
@pytest.mark.parametrize("leading", [(), (3,), (1, 2)], ids=str)
def test_values_are_those_of_the_formula(name, dim, leading, dtype, rng):
    case = CASES[name]
    raw = random_raw(rng, case, leading, dim)
    got = case.bijection.transform(nd(raw, dtype))
    assert got.dtype == np.dtype(dtype)
    expected = np.empty(leading + event_shape(case, dim))
    for index in np.ndindex(leading):
        expected[index] = case.value(raw[index], dim)
    assert_close(got, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "dim"), SIZES)
@pytest.mark.parametrize("leading", [(), (3,), (1, 2)], ids=str)
def test_round_trip(name, dim, leading, dtype, rng):
    case = CASES[name]
    raw = random_raw(rng, case, leading, dim)
    value = case.bijection.transform(nd(raw, dtype))
    back = case.bijection.inverseTransform(value)
    assert back.dtype == np.dtype(dtype)
    # Of a covariance the raw numbers are known to its condition number times the rounding.
    rounding = {"float32": 2e-4, "float64": 1e-11}[dtype]
    assert_close(back, raw, rtol=rounding, atol=rounding)
    assert_close(case.bijection.transform(back), value.asnumpy(), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", ["Positive", "LowerCholesky", "PositiveDefinite"])
def test_beyond_twenty_the_exponential_is_continued_by_its_tangent(name, rng):
    case = CASES[name]
    raw = np.array([[19.9], [20.0], [20.1], [35.0], [1000.0]])
    value = case.bijection.transform(nd(raw))
    expected = tangent_exp(raw)[..., None] if case.event_axes else tangent_exp(raw)
    assert_close(value, expected**2 if name == "PositiveDefinite" else expected, rtol=1e-12)
    assert_close(case.bijection.inverseTransform(value), raw, rtol=1e-12)


def test_interval_with_a_bound_for_each_entry(dtype, rng):
    low, high = np.array([0.0, -3.0, 10.0]), np.array([1.0, 3.0, 11.0])
    raw = rng.normal(size=(4, 2, 3))
    interval = Interval(low, high)
    value = interval.transform(nd(raw, dtype))
    assert_close(value, low + (high - low) * special.expit(raw), **TOLERANCE[dtype])
    slope = np.log(high - low) + np.log(special.expit(raw)) + np.log(special.expit(-raw))
    assert_close(interval.log_det_jacobian(nd(raw, dtype)), slope.sum(-1), **TOLERANCE[dtype])
    assert_close(interval.inverseTransform(value), raw, rtol=1e-5 if dtype == "float32" else 1e-12, atol=2e-5)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-4.0, 0.0), (-1.0, 2.5), (1e6, 1e6 + 1), ([0.0, -2.0], [3.0, 0.0])])
def test_values_of_an_interval_stay_inside_and_off_zero(bounds, dtype):
    """Of numbers next to zero, a logarithm is finite."""
    interval = Interval(*bounds)
    low, high = (bound.astype(dtype) for bound in (interval.lower, interval.upper))
    value = interval.transform(nd(np.array([[-1000.0] * 2, [1000.0] * 2]), dtype)).asnumpy()
    assert (value > low).all()
    assert (value < high).all()
    assert np.isfinite(np.log(np.abs(value))).all()
    assert np.isfinite(np.log(np.abs(value - low))).all()


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_log_ratio_basis_is_orthonormal_and_sums_to_zero(size):
    basis = bijections.log_ratio_basis(size)
    assert_close(basis.T @ basis, np.eye(size - 1), rtol=0, atol=1e-14)
    assert_close(basis.sum(axis=0), np.zeros(size - 1), rtol=0, atol=1e-14)


# Jacobians


@pytest.mark.parametrize(("name", "dim"), SIZES)
def test_log_det_jacobian_equals_finite_differences(name, dim, rng):
    case = CASES[name]
    raw = random_raw(rng, case, (), dim)

    def free(points):
        return case.free(case.bijection.transform(nd(points)).asnumpy())

    sign, expected = np.linalg.slogdet(jacobian(free, raw))
    assert sign != 0
    assert_close(case.bijection.log_det_jacobian(nd(raw)), [expected], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("name", "dim"), [p for p in SIZES if p.values[1] in (2, 5)])
def test_log_det_jacobian_of_batches_is_that_of_each_vector(name, dim, dtype, rng):
    bijection = CASES[name].bijection
    raw = random_raw(rng, CASES[name], (3, 2), dim)
    each = [[bijection.log_det_jacobian(nd(raw[i, j])).asnumpy()[0] for j in range(2)] for i in range(3)]
    assert_close(bijection.log_det_jacobian(nd(raw, dtype)), each, **TOLERANCE[dtype])


def test_log_det_jacobian_beyond_twenty():
    raw = np.array([25.0, -3.0, 400.0])
    assert_close(Positive().log_det_jacobian(nd(raw)), [20.0 - 3.0 + 20.0], rtol=1e-14)
    # d_i to the power i, and D + 1 for a covariance with one row
    factor = LowerCholesky().log_det_jacobian(nd([25.0, 0.5, 30.0]))
    assert_close(factor, [20.0 + np.log(tangent_exp(30.0)) + 20.0], rtol=1e-12)
    square = PositiveDefinite().log_det_jacobian(nd([30.0]))
    assert_close(square, [np.log(2) + np.log(tangent_exp(30.0)) + 20.0], rtol=1e-12)


@pytest.mark.parametrize(("name", "dim"), [p for p in SIZES if p.values[1] in (2, 5)])
def test_gradients_equal_finite_differences(name, dim, rng):
    case = CASES[name]
    raw = random_raw(rng, case, (2,), dim)
    weights = rng.normal(size=(2,) + event_shape(case, dim))

    def projection(array):
        return case.bijection.transform(array) * nd(weights)

    for function in (projection, case.bijection.log_det_jacobian):
        expected = oracles.central_difference(lambda x, f=function: float(f(nd(x)).asnumpy().sum()), raw, step=1e-3)
        assert_close(gradient_of(function, raw), expected, rtol=1e-8, atol=1e-8)


# Densities that are carried over


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


# Range, in float32


EXTREMES = np.array([-1000.0, -200.0, -90.0, -50.0, -10.0, 0.0, 10.0, 50.0, 90.0, 200.0, 1000.0])


def extreme_raw(rng, size, rows=40):
    """Random choices of the extremes, and each of them in all entries at once."""
    return np.concatenate([rng.choice(EXTREMES, size=(rows, size)), np.repeat(EXTREMES[:, None], size, axis=1)])


@pytest.mark.parametrize(("name", "dim"), SIZES)
def test_nothing_overflows_in_float32(name, dim, rng):
    case = CASES[name]
    raw = extreme_raw(rng, case.count(dim))
    for function in (case.bijection.transform, case.bijection.log_det_jacobian):
        assert np.isfinite(function(nd(raw, "float32")).asnumpy()).all()
        assert np.isfinite(gradient_of(function, raw, "float32")).all()


def of_one_scale(rng, size):
    """Extremes for both scales of two rows, equal within a few powers of e, and a moderate number below."""
    raw = np.repeat(EXTREMES, 4)[:, None] + 3 * rng.normal(size=(4 * len(EXTREMES), size))
    raw[:, 1] = rng.normal(size=len(raw))
    return raw


def constant(value):
    return Variable(value=nd(value, "float32"))


INSIDE = {
    "Gamma": (Positive(), 2, extreme_raw, lambda: host.Gamma.define_variable(constant([2.0]), constant([3.0]), (2,))),
    "Gamma of mean and variance": (
        Positive(),
        2,
        extreme_raw,
        lambda: host.GammaMeanVariance.define_variable(constant([2.0]), constant([3.0]), (2,)),
    ),
    "Beta": (Interval(), 2, extreme_raw, lambda: host.Beta.define_variable(constant([2.0]), constant([0.5]), (2,))),
    "Uniform": (
        Interval(*BOUNDS),
        2,
        extreme_raw,
        lambda: host.Uniform.define_variable(constant([-1.0] * 2), constant([2.5] * 2), (2,)),
    ),
    "Uniform far from zero": (
        Interval(1e6, 1e6 + 1),
        2,
        extreme_raw,
        lambda: host.Uniform.define_variable(constant([1e6] * 2), constant([1e6 + 1] * 2), (2,)),
    ),
    "Dirichlet": (
        Simplex(),
        2,
        extreme_raw,
        lambda: host.Dirichlet.define_variable(constant([[1.5, 1.5, 0.5]]), (1, 3)),
    ),
    "LKJ": (CorrelationCholesky(), 6, extreme_raw, lambda: LKJCholesky(2.0, shape=(4, 4))),
    "Wishart": (PositiveDefinite(), 3, of_one_scale, lambda: Wishart(5.0, 1.0, shape=(2, 2))),
}


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_in_float32_values_stay_where_the_density_is_finite(name, rng):
    bijection, size, make, declare = INSIDE[name]
    variable = declare()
    raw = make(rng, size)
    leading = (1,) * (len(variable.shape) - max(1, bijection.event_axes))  # host.Dirichlet wants a batch axis

    def log_pdf(array):
        value = bijection.transform(array.reshape((len(raw),) + leading + (size,)))
        variables = {v.uuid: v.constant.expand_dims(0) for _, v in variable.factor.inputs}
        variables[variable.uuid] = value
        return variable.factor.log_pdf(F=mx.nd, variables=variables)

    got = log_pdf(nd(raw, "float32")).asnumpy()
    assert np.isfinite(got).all(), raw[~np.isfinite(got.reshape(len(raw), -1)).all(-1)]
    assert np.isfinite(gradient_of(log_pdf, raw, "float32")).all()


def round_trip(bijection, value):
    """The value again, NumPy array, or the words in which it is refused."""
    try:
        return bijection.transform(bijection.inverseTransform(value)).asnumpy()
    except ModelSpecificationError as error:
        return str(error)


@pytest.mark.parametrize("bound", [1.0, 5.0, 15.0])
@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("name", sorted(CASES))
def test_what_came_out_in_float32_goes_back_in_either_precision(name, dim, bound, rng):
    """Or is refused by name where rounding has made entries equal, or a matrix singular, and there is no way back."""
    case = CASES[name]
    size = case.count(dim)
    for row in np.concatenate([rng.uniform(-bound, bound, (20, size)), rng.choice([-bound, bound], (20, size))]):
        value = case.bijection.transform(nd(row, "float32"))
        for given in (value, value.astype("float64")):
            again = round_trip(case.bijection, given)
            if isinstance(again, str):
                assert name in ("Ordered", "PositiveDefinite")
                assert bound == 15.0
                assert re.search("got .* before|smallest eigenvalue|singular within the rounding", again)
            else:
                assert_close(again, value.asnumpy(), rtol=0, atol=1e-5 * np.abs(value.asnumpy()).max())


# Shapes, refusals and descriptions


def test_raw_shapes_keep_leading_sizes_that_are_not_known_yet():
    size = rows()
    assert Positive().raw_shape((size, 3)) == (size, 3)
    assert Simplex().raw_shape((size, 3)) == (size, 2)
    assert Ordered().raw_shape((size, 3)) == (size, 3)
    assert LowerCholesky().raw_shape((size, 2, 3, 3)) == (size, 2, 6)
    assert PositiveDefinite().raw_shape((4, 4)) == (10,)
    assert CorrelationCholesky().raw_shape((4, 4)) == (6,)


def rows():
    """A size with a name."""
    model = Model()
    model.N = Variable()
    return model.N


@pytest.mark.parametrize(
    ("bijection", "shape", "message"),
    [
        (Simplex(), (3, rows()), r"`shape`: got \(3, N\) under Simplex\(\); expected a last axis of a known size"),
        (PositiveDefinite(), (3,), r"got \(3,\) under PositiveDefinite\(\); expected two equal last axes of a known"),
        (LowerCholesky(), (2, 3), r"got \(2, 3\) under LowerCholesky\(\); expected two equal last axes"),
        (LowerCholesky(), (rows(), 2), r"got \(N, 2\) under LowerCholesky\(\).*Declare it with an integer"),
        (Simplex(), (4, 1), r"`shape`: got \(4, 1\); expected more than one Simplex\. Make it a constant"),
        (CorrelationCholesky(), (1, 1), r"`shape`: got \(1, 1\); expected more than one CorrelationCholesky"),
    ],
)
def test_shapes_that_are_refused(bijection, shape, message):
    with pytest.raises(ModelSpecificationError, match=message):
        bijection.raw_shape(shape)


@pytest.mark.parametrize(
    ("bijection", "value", "message"),
    [
        (Real(), [np.inf, 0.0], r"value under Real\(\)`: got inf at index \(0,\)"),
        (Positive(), [1.0, 0.0], r"value under Positive\(\)`: got 0\.0 at index \(1,\).*expected positive numbers"),
        (Positive(), [np.nan], r"value under Positive\(\)`: got nan at index \(0,\)"),
        (Interval(), [0.5, 1.0], r"under Interval\(\)`: got 1\.0 at index \(1,\); expected numbers strictly between 0"),
        (Interval([0.0, 5.0], 6.0), [1.0, 5.0], r"got 5\.0 at index \(1,\); expected numbers strictly between \[0\. 5"),
        (Simplex(), [0.5, 0.4], r"under Simplex\(\)`: got numbers that sum to 0\.9; expected a sum of 1"),
        (Simplex(), [1.0, 0.0], r"under Simplex\(\)`: got 0\.0 at index \(1,\)"),
        (Ordered(), [1.0, 3.0, 3.0], r"got 3\.0 before 3\.0 at index \(1,\); expected increasing numbers"),
        (LowerCholesky(), [[1.0, 2.0], [0.0, 1.0]], r"got 2\.0 at index \(0, 1\), above the diagonal"),
        (LowerCholesky(), [[-1.0, 0.0], [0.0, 1.0]], r"a negative number at diagonal position \(0,\)"),
        (LowerCholesky(), [2.0], r"under LowerCholesky\(\)`: got a single number; expected a matrix"),
        (PositiveDefinite(), [[1.0, 2.0], [2.0, 1.0]], r"whose smallest eigenvalue is -1; expected a positive def"),
        (PositiveDefinite(), [[1.0, 0.5], [0.0, 1.0]], r"expected a symmetric matrix"),
        (PositiveDefinite(), [1.0, 2.0], r"under PositiveDefinite\(\)`: got shape \(2,\); expected a matrix"),
        (CorrelationCholesky(), [[1.0, 0.0], [0.5, 0.5]], r"got 0\.707106\d+ as the norm of row \(1,\)"),
    ],
)
def test_values_that_are_refused(bijection, value, message, dtype):
    with pytest.raises(ModelSpecificationError, match=message):
        bijection.inverseTransform(np.array(value, dtype=dtype))


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (0.0, np.inf), (np.nan, 1.0), ([0.0, 3.0], [1.0, 3.0])])
def test_bounds_that_are_refused(bounds):
    with pytest.raises(
        ModelSpecificationError, match=r"`lower` and `upper`: got .*; expected finite bounds, lower < u"
    ):
        Interval(*bounds)


@pytest.mark.parametrize("value", [Positive, transformations.Positive(), None, "positive"])
def test_what_is_no_bijection_is_refused(value):
    with pytest.raises(ModelSpecificationError, match=r"`sigma`: got .* as its support; expected a Bijection\. Choose"):
        bijections.check_is_bijection("sigma", value)


def test_descriptions_tell_transformations_apart():
    assert bijections.describe(None) == "none"
    assert bijections.describe(Positive()) == "mxfusion_mvn.bijections.Positive()"
    assert bijections.describe(transformations.Positive()) == "mxfusion_mvn.transformations.Positive()"
    assert bijections.describe(Interval(0, 2)) == "mxfusion_mvn.bijections.Interval(lower=0.0, upper=2.0)"
    assert bijections.describe(Interval([0, 1], 2)).endswith("Interval(lower=[0.0, 1.0], upper=2.0)")
    assert "offset=0.1" in bijections.describe(host_softplus(0.1))


def host_softplus(offset):
    from mxfusion.components.variables.var_trans import Softplus

    return Softplus(offset)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["Simplex", "CorrelationCholesky"])
@pytest.mark.parametrize("module", [bijections, transformations], ids=["bijection", "transformation"])
def test_values_rounded_in_float32_are_taken_in_float64(module, kind, seed):
    """They satisfy the constraint to the rounding of float32; what is further off is refused, in all digits."""
    rng = np.random.default_rng(seed)
    if kind == "Simplex":
        exact = rng.dirichlet(np.ones(7), size=4)
    else:
        exact = np.linalg.cholesky(0.3 * np.eye(4) + 0.7)[None]
    value = exact.astype("float32").astype("float64")
    bijection = getattr(module, kind)()
    raw = bijection.inverseTransform(nd(value, "float64"))
    assert_close(bijection.transform(raw), value, rtol=1e-6, atol=1e-6)
    with pytest.raises(ModelSpecificationError, match=r"got (numbers that sum to )?1\.00000\d+"):
        bijection.inverseTransform(nd(exact * (1 + 1.23456e-6), "float64"))
