# SPDX-License-Identifier: Apache-2.0
"""Bijections: values, round trips, Jacobians, and what they refuse."""

from mxfusion_mvn import transformations
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
from mxfusion_mvn.inference.supports import check_is_bijection, describe
from mxfusion_mvn.linalg.growth import log_ratio_basis

import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from scipy import special

from helpers import oracles
from helpers.bijection_cases import (
    CASES,
    SIZES,
    event_shape,
    gradient_of,
    host_softplus,
    jacobian,
    random_raw,
    tangent_exp,
)
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close

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
    basis = log_ratio_basis(size)
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
        check_is_bijection("sigma", value)


def test_descriptions_tell_transformations_apart():
    assert describe(None) == "none"
    assert describe(Positive()) == "mxfusion_mvn.bijections.Positive()"
    assert describe(transformations.Positive()) == "mxfusion_mvn.transformations.Positive()"
    assert describe(Interval(0, 2)) == "mxfusion_mvn.bijections.Interval(lower=0.0, upper=2.0)"
    assert describe(Interval([0, 1], 2)).endswith("Interval(lower=[0.0, 1.0], upper=2.0)")
    assert "offset=0.1" in describe(host_softplus(0.1))
