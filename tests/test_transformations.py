# SPDX-License-Identifier: Apache-2.0
"""Transformations: value, gradient, round trip, and what they refuse."""

import copy
import pickle

from mxfusion_mvn import checks
from mxfusion_mvn.transformations import (
    CorrelationCholesky,
    LowerCholesky,
    Positive,
    PositiveDefinite,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion.common.exceptions import ModelSpecificationError

from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close
from helpers.transformed import (
    DIMENSIONS,
    LEADING,
    MATRIX_TRANSFORMATIONS,
    TRANSFORMATIONS,
    central_differences,
    evaluate_symbol,
    expected_transform,
    gradient_of,
    random_raw,
    symmetric,
)

# All of them


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("name", sorted(TRANSFORMATIONS))
def test_transform_matches_numpy(name, leading, dim, dtype, rng):
    raw = random_raw(rng, leading, dim, dtype)
    got = TRANSFORMATIONS[name]().transform(mx.nd.array(raw, dtype=dtype))
    assert got.dtype == np.dtype(dtype)
    assert_close(got, expected_transform(name, raw.astype("float64")), **TOLERANCE[dtype])


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("name", sorted(TRANSFORMATIONS))
def test_symbol_equals_ndarray(name, leading, dim, dtype, rng):
    transformation = TRANSFORMATIONS[name]()
    raw = random_raw(rng, leading, dim, dtype)
    value = transformation.transform(mx.nd.array(raw, dtype=dtype), F=mx.nd).asnumpy()
    assert_close(evaluate_symbol(lambda x: transformation.transform(x, F=mx.sym), raw), value, rtol=0)
    back = transformation.inverseTransform(mx.nd.array(value, dtype=dtype), F=mx.nd)
    assert_close(
        evaluate_symbol(lambda x: transformation.inverseTransform(x, F=mx.sym), value),
        back.asnumpy(),
        rtol=0,
    )
    assert_close(evaluate_symbol(transformation.transform, raw), value, rtol=0)


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("name", sorted(TRANSFORMATIONS))
def test_gradient_matches_central_differences(name, leading, dim, rng):
    transformation = TRANSFORMATIONS[name]()
    raw = random_raw(rng, leading, dim, "float64")
    head = rng.normal(size=raw.shape)
    got = gradient_of(transformation.transform, raw, head)
    expected = central_differences(lambda x: np.sum(head * expected_transform(name, x)), raw)
    assert_close(got, expected, **GRADIENT_TOLERANCE)


@pytest.mark.parametrize("name", sorted(MATRIX_TRANSFORMATIONS))
def test_gradient_of_the_diagonal_survives_the_left_tail(name):
    """A head of 1 next to a derivative of e^-30: nothing may cancel."""
    raw = np.array([[-30.0, 0.7], [0.7, 1.0]], "float32")
    head = np.array([[1.0, 0.0], [0.0, 0.0]], "float32")
    sigma, value = np.exp(-30.0), np.exp(-30.0)
    expected = {"LowerCholesky": sigma, "PositiveDefinite": 2 * value * sigma}[name]
    got = gradient_of(MATRIX_TRANSFORMATIONS[name]().transform, raw, head)
    np.testing.assert_allclose(got[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(MATRIX_TRANSFORMATIONS))
def test_every_raw_entry_has_a_gradient_and_it_is_symmetric(name, rng):
    raw = symmetric(random_raw(rng, (2,), 4, "float32"))
    got = gradient_of(MATRIX_TRANSFORMATIONS[name]().transform, raw, rng.normal(size=raw.shape))
    assert (got != 0).all()
    np.testing.assert_array_equal(got, np.swapaxes(got, -1, -2))


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("name", sorted(TRANSFORMATIONS))
def test_round_trip(name, leading, dim, dtype, rng):
    transformation = TRANSFORMATIONS[name]()
    raw = symmetric(random_raw(rng, leading, dim, dtype))
    if name == "CorrelationCholesky":
        raw[..., range(dim), range(dim)] = 0  # which has no say
    value = transformation.transform(mx.nd.array(raw, dtype=dtype))
    back = transformation.inverseTransform(value)
    assert back.dtype == np.dtype(dtype)
    assert_close(transformation.transform(back), value.asnumpy(), **TOLERANCE[dtype])
    # Only PositiveDefinite solves something, which magnifies rounding by the condition number.
    factor = 100 if name == "PositiveDefinite" else 1
    assert_close(back, raw, **{k: factor * v for k, v in TOLERANCE[dtype].items()})


def test_lower_cholesky_keeps_the_strict_triangle_to_the_bit(dtype, rng):
    factor = np.linalg.cholesky(np.eye(4) + 0.3 * np.ones((4, 4))).astype(dtype)
    back = LowerCholesky().transform(LowerCholesky().inverseTransform(mx.nd.array(factor, dtype=dtype))).asnumpy()
    np.testing.assert_array_equal(np.tril(back, -1), np.tril(factor, -1))
    np.testing.assert_array_equal(np.triu(back, 1), 0)


def test_positive_definite_result_is_symmetric_to_the_bit(dtype, rng):
    raw = random_raw(rng, (3,), 17, dtype)
    got = PositiveDefinite().transform(mx.nd.array(raw, dtype=dtype)).asnumpy()
    np.testing.assert_array_equal(got, np.swapaxes(got, -1, -2))


@pytest.mark.parametrize("size", [1e-30, 1e10, 1e30])
def test_correlation_rows_have_norm_one_whatever_their_size(size, dtype, rng):
    raw = size * random_raw(rng, (3,), 4, dtype)
    got = CorrelationCholesky().transform(mx.nd.array(raw, dtype=dtype))
    assert_close(mx.nd.norm(got, axis=-1), np.ones((3, 4)), rtol=4 * np.finfo(dtype).eps)
    assert (mx.nd.linalg.extractdiag(got).asnumpy() > 0).all()
    assert np.isfinite(gradient_of(CorrelationCholesky().transform, raw, rng.normal(size=raw.shape))).all()
    if size == 1e10:  # at 1e30 the diagonal has float32 numbers only just: the round trip is exact until then
        back = CorrelationCholesky().inverseTransform(got).asnumpy()
        off = ~np.eye(4, dtype=bool)
        np.testing.assert_allclose(back[:, off], symmetric(raw)[:, off], rtol=10 * np.finfo(dtype).eps)


def test_the_diagonal_has_no_say_in_a_correlation(dtype, rng):
    raw = symmetric(random_raw(rng, (2,), 4, dtype))
    head = rng.normal(size=raw.shape)
    value = CorrelationCholesky().transform(mx.nd.array(raw, dtype=dtype)).asnumpy()
    gradient = gradient_of(CorrelationCholesky().transform, raw, head)
    on, off = np.eye(4, dtype=bool), ~np.eye(4, dtype=bool)
    assert (gradient[:, off] != 0).all()
    assert (gradient[:, on] == 0).all()
    np.testing.assert_array_equal(gradient, np.swapaxes(gradient, -1, -2))
    raw[:, on] = np.nan  # what adamax leaves there
    assert_close(CorrelationCholesky().transform(mx.nd.array(raw, dtype=dtype)), value, rtol=0)
    np.testing.assert_array_equal(gradient_of(CorrelationCholesky().transform, raw, head), gradient)


def test_the_jacobian_of_the_correlation_factor(rng):
    """The log Jacobian that the docstring gives, from the numbers below the diagonal to those of the factor."""
    below = np.tril_indices(4, -1)

    def forward(x):
        raw = np.zeros((4, 4))
        raw[below] = 2 * x  # whose symmetric part is x
        return CorrelationCholesky().transform(mx.nd.array(raw, dtype="float64")).asnumpy()

    x = rng.normal(size=6)
    jacobian = [(forward(x + e)[below] - forward(x - e)[below]) / 2e-6 for e in 1e-6 * np.eye(6)]
    expected = np.sum(np.arange(2, 6) * np.log(np.diag(forward(x))))
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], expected, rtol=1e-7)


@pytest.mark.parametrize("name", sorted(TRANSFORMATIONS))
def test_inverse_takes_numpy_arrays(name, dtype):
    value = np.eye(3, dtype=dtype) if name != "Positive" else np.ones((3, 3), dtype)
    transformation = TRANSFORMATIONS[name]()
    got = transformation.inverseTransform(value)
    assert got.dtype == np.dtype(dtype)
    assert_close(got, transformation.inverseTransform(mx.nd.array(value, dtype=dtype)).asnumpy(), rtol=0)


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.float64(2), np.array(2.0)], ids=repr)
def test_positive_takes_a_number_as_an_array_of_one(number):
    got = Positive().inverseTransform(number)
    assert_close(got, [np.log(np.expm1(2.0))], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(TRANSFORMATIONS))
def test_a_copy_transforms_alike(name, rng):
    raw = mx.nd.array(random_raw(rng, (), 3, "float32"))
    original = TRANSFORMATIONS[name]()
    for replica in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert_close(replica.transform(raw), original.transform(raw).asnumpy(), rtol=0)


# What is refused

_TWO = np.array([np.eye(2), [[1.0, 2.0], [2.0, 1.0]]])
_NEGATIVE_DIAGONAL = np.array([[1.0, 0.0], [0.3, -2.0]])
_EVERYWHERE = [
    ("list", [[1.0, 0.0], [0.0, 1.0]], "got a list; expected an MXNet or NumPy array. Convert"),
    ("integer", np.eye(2, dtype=int), "got dtype int64; expected float32 or float64. Convert"),
    (
        "integer NDArray",
        mx.nd.array(np.eye(2), dtype="int32"),
        "got dtype int32; expected float32 or float64",
    ),
    ("half", np.eye(2, dtype="float16"), "got dtype float16; expected float32 or float64"),
    (
        "nan",
        np.array([[1.0, np.nan], [np.nan, 1.0]]),
        r"got nan at index \(0, 1\) \(2 such entries\); expected finite",
    ),
    ("infinity", np.array([[np.inf]]), r"got inf at index \(0, 0\)"),
]
_MATRICES = [
    ("number", 1.0, "got a single number; expected a matrix .*number times np.eye"),
    (
        "array of one",
        mx.nd.array([1.0]),
        "got a single number; expected a matrix .*number times np.eye",
    ),
    ("vector", np.ones(3), r"got shape \(3,\); expected a matrix .*np.diag"),
    ("not square", np.ones((2, 3)), r"got shape \(2, 3\); expected square matrices"),
]
_NOT_CORRELATIONS = [
    ("full", np.array([[1.0, 0.0], [0.6, 0.8]]).T, r"got 0.6 at index \(0, 1\), above the diagonal; expected a lower"),
    ("zero", np.diag([1.0, 0.0]), r"got 0 at diagonal position \(1,\); expected a positive diagonal"),
    ("negative", np.array([np.eye(2), np.diag([1.0, -1.0])]), r"got -1 at diagonal position \(1, 1\)"),
    ("covariance", np.diag([1.0, 2.0]), r"got 2 as the norm of row \(1,\); expected rows of norm 1. Use np.linalg"),
]
REFUSED = {
    "CorrelationCholesky": _EVERYWHERE + _MATRICES + _NOT_CORRELATIONS,
    "Positive": _EVERYWHERE
    + [
        (
            "zero",
            np.array([1.0, 0.0]),
            r"got 0.0 at index \(1,\) \(1 such entries\); expected positive numbers. Replace",
        ),
        ("negative number", -1.0, r"got -1.0 at index \(0,\)"),
    ],
    "LowerCholesky": _EVERYWHERE
    + _MATRICES
    + [
        (
            "full",
            np.array([[1.0, 0.5], [0.5, 1.0]]),
            r"got 0.5 at index \(0, 1\), above the diagonal",
        ),
        (
            "zero diagonal",
            np.diag([1.0, 0.0]),
            r"got 0 at diagonal position \(1,\); expected a non-zero diagonal",
        ),
        (
            "negative diagonal",
            _NEGATIVE_DIAGONAL,
            r"got a negative number at diagonal position \(1,\); expected a positive diagonal",
        ),
        (
            "in a batch",
            np.array([np.eye(2), _NEGATIVE_DIAGONAL]),
            r"got a negative number at diagonal position \(1, 1\)",
        ),
    ],
    "PositiveDefinite": _EVERYWHERE
    + _MATRICES
    + [
        (
            "asymmetric",
            np.array([[1.0, 0.1], [0.2, 1.0]]),
            r"got .* but .*; expected a symmetric matrix. Use \(A \+ A.T\)",
        ),
        (
            "indefinite",
            _TWO[1],
            "got a matrix whose smallest eigenvalue is -1; expected a positive definite matrix",
        ),
        ("singular", np.ones((2, 2), "float32"), "got a matrix whose smallest eigenvalue is"),
        ("zero", np.zeros((1, 1)), "got a matrix whose smallest eigenvalue is 0"),
        ("in a batch", _TWO, r"got a matrix at batch index \(1,\) whose smallest eigenvalue is -1"),
        (
            "in a batch of batches",
            np.array([[np.eye(2)] * 2, _TWO]),
            r"got a matrix at batch index \(1, 1\) whose",
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param(name, value, message, id=f"{name}-{case}")
        for name, cases in sorted(REFUSED.items())
        for case, value, message in cases
    ],
)
def test_refused(name, value, message):
    with pytest.raises(ModelSpecificationError, match=rf"`value under {name}\(\)`: {message}"):
        TRANSFORMATIONS[name]().inverseTransform(value)
    # MXNet would report a failure nobody has read here.
    mx.nd.waitall()


def test_refused_where_only_mxnet_fails_to_factor(monkeypatch):
    """NumPy's LAPACK and MXNet's differ by rounding, so one may factor what the other cannot."""
    monkeypatch.setattr(checks, "check_positive_definite", lambda argument, value: None)
    with pytest.raises(ModelSpecificationError, match="singular within the rounding of float32; .*use float64"):
        PositiveDefinite().inverseTransform(np.ones((2, 2), "float32"))
