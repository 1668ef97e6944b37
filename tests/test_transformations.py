# SPDX-License-Identifier: Apache-2.0
"""Transformations: value, gradient, round trip, what they refuse, and their life in the host."""

import copy
import pickle
from decimal import Decimal, localcontext

from mxfusion_mvn import MultivariateNormal, checks
from mxfusion_mvn.transformations import (
    CorrelationCholesky,
    LowerCholesky,
    Positive,
    PositiveDefinite,
    inverse_softplus,
    softplus,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components.distributions import MultivariateNormal as HostMultivariateNormal
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.inference import MAP, GradBasedInference

from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

TRANSFORMATIONS = {t.__name__: t for t in (Positive, LowerCholesky, PositiveDefinite, CorrelationCholesky)}
MATRIX_TRANSFORMATIONS = {"LowerCholesky": LowerCholesky, "PositiveDefinite": PositiveDefinite}
LEADING = [(), (2,), (3, 2)]
DIMENSIONS = [1, 2, 5]

# Plain gradient steps need small rates: the gradient is a sum over all rows.
LEARNING_RATES = {
    "sgd": 1e-4,
    "ccsgd": 1e-4,
    "nag": 1e-4,
    "dcasgd": 1e-4,
    "sgld": 1e-4,
    "lbsgd": 1e-4,
}
# MXNet's "test" optimizer climbs the loss.
OPTIMIZERS = sorted(set(mx.optimizer.Optimizer.opt_registry) - {"test"})


# Oracles: decimal arithmetic for the scalars, NumPy float64 for the matrices.


def _decimals(function, values):
    with localcontext() as context:
        context.prec = 400
        return np.array([float(function(Decimal(float(v)))) for v in values])


def exact_softplus(values):
    return _decimals(lambda x: (1 + x.exp()).ln() if x < 800 else x, values)


def exact_sigmoid(values):
    return _decimals(lambda x: 1 / (1 + (-x).exp()) if x < 800 else Decimal(1), values)


def exact_inverse_softplus(values):
    return _decimals(lambda y: y + (1 - (-y).exp()).ln() if y < 800 else y, values)


def expected_transform(name, raw):
    """Float64, one matrix at a time."""
    if name == "Positive":
        return np.logaddexp(0, raw)
    out = np.empty_like(raw)
    for index in np.ndindex(raw.shape[:-2]):
        x = raw[index]
        if name == "CorrelationCholesky":
            rows = np.tril((x + x.T) / 2, -1) + np.eye(len(x))
            out[index] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            continue
        factor = np.tril((x + x.T) / 2, -1) + np.diag(np.logaddexp(0, np.diag(x)))
        out[index] = factor if name == "LowerCholesky" else factor @ factor.T
    return out


def central_differences(function, x, step=1e-6):
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        gradient[index] = (function(x + shift) - function(x - shift)) / (2 * step)
    return gradient


def random_raw(rng, leading, dim, dtype):
    return rng.normal(size=leading + (dim, dim)).astype(dtype)


def symmetric(x):
    return (x + np.swapaxes(x, -1, -2)) / 2


def gradient_of(function, x, head=None):
    array = mx.nd.array(x, dtype=x.dtype)
    array.attach_grad()
    with mx.autograd.record():
        out = function(array)
    out.backward(None if head is None else mx.nd.array(head, dtype=x.dtype))
    return array.grad.asnumpy()


def evaluate_symbol(function, x):
    symbol = function(mx.sym.Variable("x"))
    return symbol.eval(ctx=mx.cpu(), x=mx.nd.array(x, dtype=x.dtype))[0].asnumpy()


# Softplus and its inverse


def softplus_grid(dtype):
    points = [0, -0.0, 39.999, 40, 40.001, -9.5, -14.3, -20, 20, 88.7, 89, 700, 1e4, 1e30]
    return np.concatenate([np.linspace(-85, 85, 341), points]).astype(dtype)


def test_softplus_value_to_the_last_places(dtype):
    x = softplus_grid(dtype)
    got = softplus(mx.nd.array(x, dtype=dtype))
    assert got.dtype == np.dtype(dtype)
    assert_close(got, exact_softplus(x), rtol=3 * np.finfo(dtype).eps)


def test_softplus_gradient_to_the_last_places(dtype):
    """Also in the left tail, where a difference of larger terms would give 0."""
    x = softplus_grid(dtype)
    assert_close(gradient_of(softplus, x), exact_sigmoid(x), rtol=4 * np.finfo(dtype).eps)


def test_softplus_gradient_at_zero_is_one_half(dtype):
    assert gradient_of(softplus, np.zeros(1, dtype)).tolist() == [0.5]


def test_softplus_at_infinity_and_nan(dtype):
    x = np.array([np.inf, -np.inf, np.nan], dtype)
    np.testing.assert_array_equal(softplus(mx.nd.array(x, dtype=dtype)).asnumpy(), [np.inf, 0, np.nan])
    np.testing.assert_array_equal(gradient_of(softplus, x), [1, 0, np.nan])


def test_softplus_is_positive_until_it_underflows(dtype):
    lowest = {"float32": -103.0, "float64": -744.0}[dtype]
    x = np.linspace(lowest, 0, 1000).astype(dtype)
    assert (softplus(mx.nd.array(x, dtype=dtype)).asnumpy() > 0).all()


def inverse_grid(dtype):
    return np.concatenate([np.logspace(-30, 30, 241), np.linspace(0.5, 1, 51), [88.7, 89.2, 709, 711]]).astype(dtype)


def test_inverse_softplus_from_tiny_to_huge(dtype):
    y = inverse_grid(dtype)
    got = inverse_softplus(mx.nd.array(y, dtype=dtype)).asnumpy()
    expected = exact_inverse_softplus(y)
    assert got.dtype == np.dtype(dtype)
    assert np.isfinite(got).all()
    # Near y = log 2 the result passes through zero, so the error is absolute there.
    assert (np.abs(got - expected) / (1 + np.abs(expected))).max() < 2 * np.finfo(dtype).eps


def test_softplus_of_inverse_is_as_good_as_the_raw_number_allows(dtype):
    y = inverse_grid(dtype)
    got = softplus(inverse_softplus(mx.nd.array(y, dtype=dtype))).asnumpy()
    relative = np.abs(got.astype("float64") - y) / y
    assert (relative / (1 + np.abs(np.log(y.astype("float64"))))).max() < 2 * np.finfo(dtype).eps


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


# Inside the host


def host_model(transformation, initial_value, dim=3):
    model = Model()
    model.N = Variable()
    model.C = Variable(shape=(dim, dim), transformation=transformation, initial_value=initial_value)
    model.Y = HostMultivariateNormal.define_variable(
        mean=mx.nd.zeros((20, dim)),
        covariance=broadcast_to(model.C, (model.N, dim, dim)),
        shape=(model.N, dim),
    )
    return model


def host_inference(model, data=None):
    inference = GradBasedInference(MAP(model=model, observed=[model.Y]))
    if data is not None:
        inference.initialize(Y=data)
    return inference


@pytest.fixture
def data(rng):
    return mx.nd.array(rng.normal(size=(20, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.7]]))


@pytest.mark.parametrize(
    "as_array",
    [mx.nd.array, lambda x: x, lambda x: x.astype("float32")],
    ids=["NDArray", "float64", "float32"],
)
@pytest.mark.parametrize("name", sorted(MATRIX_TRANSFORMATIONS))
def test_host_parameter_starts_at_its_initial_value(name, as_array, data):
    value = np.array([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.3, 0.2, 0.1]])
    value = value if name == "LowerCholesky" else value @ value.T
    model = host_model(MATRIX_TRANSFORMATIONS[name](), as_array(value))
    inference = host_inference(model, data)
    assert_close(inference.params[model.C], value, rtol=1e-5, atol=1e-6)
    inference.params[model.C] = as_array(3 * value)
    assert_close(inference.params[model.C], 3 * value, rtol=1e-5, atol=1e-6)


def test_host_parameter_without_initial_value_is_positive_definite(data, rng):
    model = host_model(PositiveDefinite(), None)
    got = host_inference(model, data).params[model.C].asnumpy()
    assert got.shape == (3, 3)
    assert np.linalg.eigvalsh(got.astype("float64")).min() > 0.1


@pytest.mark.parametrize(
    ("initial_value", "message"),
    [(1.0, "a single number"), (-np.eye(3), "smallest eigenvalue is -1")],
)
def test_host_reports_a_bad_initial_value(initial_value, message, data):
    with pytest.raises(ModelSpecificationError, match=message):
        host_inference(host_model(PositiveDefinite(), initial_value), data)


def test_host_positive_number(data):
    model = Model()
    model.v = Variable(shape=(1,), transformation=Positive(), initial_value=1e-3)
    model.Y = HostMultivariateNormal.define_variable(
        mean=mx.nd.zeros((20, 3)),
        covariance=mx.nd.ones((20, 1, 1)) * mx.nd.array(np.eye(3)),
        shape=(20, 3),
    )
    inference = host_inference(model, data)
    inference.params[model.v] = 2.0
    assert_close(inference.params[model.v], [2.0], rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_keeps_the_covariance_positive_definite(optimizer, data, rng):
    model = host_model(PositiveDefinite(), mx.nd.array(np.eye(3)))
    inference = host_inference(model)
    inference.run(optimizer=optimizer, learning_rate=LEARNING_RATES.get(optimizer, 0.02), max_iter=20, Y=data)
    raw = inference.params.param_dict[model.C.uuid].data().asnumpy()
    assert np.isfinite(raw).all()
    got = inference.params[model.C].asnumpy()
    assert np.linalg.eigvalsh(got.astype("float64")).min() > 0
    # sgld adds noise of its own to each entry, groupadagrad has one rate per row.
    if optimizer not in ("sgld", "groupadagrad"):
        np.testing.assert_array_equal(raw, raw.T)


def test_maximum_likelihood_covariance(data):
    model = host_model(PositiveDefinite(), mx.nd.array(np.eye(3)))
    inference = host_inference(model)
    inference.run(learning_rate=0.02, max_iter=600, Y=data)
    value = data.asnumpy().astype("float64")
    assert_close(inference.params[model.C], value.T @ value / len(value), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_keeps_the_factor_of_a_correlation(optimizer, data):
    initial = np.linalg.cholesky(np.eye(3) / 2 + 0.5)
    model = Model()
    model.N = Variable()
    model.L = Variable(shape=(3, 3), transformation=CorrelationCholesky(), initial_value=mx.nd.array(initial))
    model.Y = MultivariateNormal(scale_tril=model.L, shape=(model.N, 3))
    inference = host_inference(model)
    inference.run(optimizer=optimizer, learning_rate=LEARNING_RATES.get(optimizer, 0.02), max_iter=20, Y=data)
    got = inference.params[model.L].asnumpy()
    assert np.abs(got - initial).max() > 1e-6
    assert_close(np.linalg.norm(got, axis=-1), np.ones(3), rtol=1e-6)
    assert (np.diagonal(got) > 0).all()
    assert (np.triu(got, 1) == 0).all()
