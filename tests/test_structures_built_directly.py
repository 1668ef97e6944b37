# SPDX-License-Identifier: Apache-2.0
"""Structures that are built directly refuse what makes no covariance, by name, before a number comes of it."""

import re

from mxfusion_mvn import Gaussian, NotPositiveDefiniteError, OnFailure, linalg, structures

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from helpers.host import nd
from helpers.structure_cases import CASES
from helpers.tolerances import assert_close

Dense, Precision, Cholesky, Diagonal = structures.Dense, structures.Precision, structures.Cholesky, structures.Diagonal
LowRank, ScaledCorrelation, Singular = structures.LowRank, structures.ScaledCorrelation, structures.Singular
Kronecker, Shared = structures.Kronecker, structures.Shared

EYE = np.eye(2)
ONES = np.ones(2)
COLUMN = np.ones((2, 1))
SKEW = np.array([[1.0, 0.9], [0.0, 1.0]])

# Each array of each structure: its right value, and the structure of it, the other arrays being right.
MATRICES = {
    "covariance": (EYE, Dense),
    "precision": (EYE, Precision),
    "scale_tril": (EYE, Cholesky),
    "covariance of Singular": (EYE, lambda x: Singular(x, tolerance=1e-4)),
    "correlation": (EYE, lambda x: ScaledCorrelation(like(ONES, x), x)),
    "correlation_tril": (EYE, lambda x: ScaledCorrelation(like(ONES, x), correlation_tril=x)),
}
VECTORS = {
    "variances": (ONES, Diagonal),
    "diagonal": (ONES, lambda x: LowRank(like(COLUMN, x), x)),
    "standard_deviations": (ONES, lambda x: ScaledCorrelation(x, like(EYE, x))),
}
FACTORS = {"factor": (COLUMN, lambda x: LowRank(x, like(ONES, x)))}
EVERY = {**MATRICES, **VECTORS, **FACTORS}
SYMMETRIC = ["covariance", "precision", "covariance of Singular", "correlation"]
DTYPES = ["float32", "float64"]
METHODS_OF_VECTORS = {"color": "noise", "whiten": "residual", "distance": "residual", "off_support": "residual"}


def like(value, other):
    """An array beside which only the other one is wrong."""
    dtype = getattr(other, "dtype", "float32")
    return nd(value, dtype if dtype in (np.float32, np.float64) else "float32")


def argument(name):
    return name.split(" of ")[0]


def evaluated(structure):
    return Gaussian(covariance=structure).log_pdf(like(np.zeros(2), next(structure.parameters()))).asnumpy()


def refuses(call, message, error=ValueError):
    with pytest.raises(error, match=re.escape(message)):
        call()
    mx.nd.waitall()  # nothing is left that would fail at the next reader


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_right_values_are_taken(name, dtype):
    value, build = EVERY[name]
    assert np.isfinite(evaluated(build(nd(value, dtype)))).all()


WRONG_TYPES = {
    "NumPy": (lambda value: value, "got a ndarray; expected an NDArray or a Symbol"),
    "list": (lambda value: value.tolist(), "got a list; expected an NDArray or a Symbol"),
    "number": (lambda value: 1.0, "got a float; expected an NDArray or a Symbol"),
    "None": (lambda value: None, "got a NoneType; expected an NDArray or a Symbol"),
    "text": (lambda value: "x", "got a str; expected an NDArray or a Symbol"),
    "structure": (lambda value: Diagonal(nd(ONES)), "got a Diagonal; expected an NDArray or a Symbol"),
    "float16": (lambda value: nd(value, "float16"), "got dtype float16; expected float32 or float64"),
    "int32": (lambda value: nd(value, "int32"), "got dtype int32; expected float32 or float64"),
    "int64": (lambda value: nd(value, "int64"), "got dtype int64; expected float32 or float64"),
    "uint8": (lambda value: nd(value, "uint8"), "got dtype uint8; expected float32 or float64"),
    "mx.np": (lambda value: mx.np.array(value), "got an mx.np array; expected one of MXNet's classic arrays"),
    "sparse": (
        lambda value: nd(value.reshape(2, -1)).tostype("csr"),
        "got a sparse CSRNDArray; expected a dense array",
    ),
}


@pytest.mark.parametrize("kind", WRONG_TYPES)
@pytest.mark.parametrize("name", EVERY)
def test_other_types_and_dtypes(name, kind):
    value, build = EVERY[name]
    wrong, message = WRONG_TYPES[kind]
    if "correlation" in name and kind == "None":
        message = "`correlation` and `correlation_tril`: got neither; expected exactly one of them"
    else:
        message = f"`{argument(name)}`: {message}"
    refuses(lambda: build(wrong(value)), message)


SHAPES = {
    "covariance": [(2, 3), (2,), (3, 2, 1)],
    "precision": [(2, 3), (2,), (3, 2, 1)],
    "scale_tril": [(2, 3), (2,), (3, 2, 1)],
    "covariance of Singular": [(2, 3), (2,)],
    "correlation": [(2, 3), (2,)],
    "correlation_tril": [(2, 3), (2,)],
    "factor": [(2,)],
}


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in SHAPES for shape in SHAPES[name]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_shapes(name, shape, dtype):
    _, build = EVERY[name]
    axes = "D, r" if name == "factor" else "D, D"
    refuses(lambda: build(nd(np.ones(shape), dtype)), f"`{argument(name)}`: got shape {shape}; expected (..., {axes})")


TOGETHER = {
    "other D of a diagonal": (
        lambda: LowRank(nd(COLUMN), nd(np.ones(3))),
        "`diagonal`: got shape (3,); expected (..., 2)",
    ),
    "other rows of a diagonal": (
        lambda: LowRank(nd(np.ones((4, 2, 1))), nd(np.ones((3, 2)))),
        "`diagonal`: got shape (3, 2) beside `factor` of shape (4, 2, 1); expected leading axes that are equal or 1",
    ),
    "other dtype of a diagonal": (
        lambda: LowRank(nd(COLUMN, "float32"), nd(ONES, "float64")),
        "`diagonal`: got dtype float64; expected float32, as the other arrays",
    ),
    "a Symbol beside an NDArray": (
        lambda: LowRank(nd(COLUMN), mx.sym.Variable("d")),
        "`diagonal`: got a Symbol beside a NDArray; expected one kind of array",
    ),
    "other rank": (
        lambda: LowRank(nd(COLUMN), nd(ONES), rank=2),
        "`rank`: got 2; expected 1, the columns of the factor",
    ),
    "no rank": (lambda: LowRank(nd(COLUMN), nd(ONES), rank=0), "`rank`: got 0; expected a positive integer"),
    "other D of deviations": (
        lambda: ScaledCorrelation(nd(np.ones(3)), nd(EYE)),
        "`standard_deviations`: got shape (3,); expected (..., 2)",
    ),
    "other dtype of deviations": (
        lambda: ScaledCorrelation(nd(ONES, "float64"), nd(EYE, "float32")),
        "`standard_deviations`: got dtype float64; expected float32, as the other arrays",
    ),
    "row of Kronecker": (lambda: Kronecker(nd(EYE), Dense(nd(EYE))), "`row`: got a NDArray; expected a structure"),
    "column of Kronecker": (lambda: Kronecker(Dense(nd(EYE)), EYE), "`column`: got a ndarray; expected a structure"),
    "dtypes of Kronecker": (
        lambda: Kronecker(Dense(nd(EYE, "float32")), Dense(nd(EYE, "float64"))),
        "`column`: got dtype float64; expected float32, as the other arrays",
    ),
    "Shared": (lambda: Shared(nd(EYE)), "`structure`: got a NDArray; expected a structure"),
    "policy of Dense": (lambda: Dense(nd(EYE), "jitter"), "`on_failure`: got 'jitter'; expected an OnFailure or None"),
    "policy of Precision": (lambda: Precision(nd(EYE), True), "`on_failure`: got True; expected an OnFailure or None"),
    "rank of Singular": (
        lambda: Singular(nd(EYE), rank=3),
        "`rank`: got 3; expected at most 2, the size of the matrix",
    ),
    "tolerance": (lambda: Singular(nd(EYE), tolerance=2), "`tolerance`: got 2; expected a number from 0 to 1"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_what_does_not_fit_together(case):
    refuses(*TOGETHER[case])


VALUES = [
    *(
        (name, [1.0, bad], f"`{name}` has an entry of {bad:.6g}; expected positive numbers")
        for name in VECTORS
        for bad in (-1.0, 0.0)
    ),
    *(
        (name, [1.0, bad], f"`{name}` is {bad} at index (1,); expected finite")
        for name in VECTORS
        for bad in (np.nan, np.inf)
    ),
    ("factor", [[1.0], [np.nan]], "`factor` is nan at index (1, 0); expected finite numbers"),
    ("scale_tril", [[1.0, 0.0], [1.0, 0.0]], "`scale_tril` is singular: its diagonal is 0 at position 1"),
    ("scale_tril", [[1.0, 0.0], [np.nan, 1.0]], "`scale_tril` is nan at index (1, 0); expected finite numbers"),
    ("correlation_tril", [[1.0, 0.0], [1.0, 0.0]], "`correlation_tril` is singular: its diagonal is 0 at position 1"),
]


def wrapped(structure, kind):
    return {
        "itself": lambda: structure,
        "shared": lambda: Shared(structure),
        "row": lambda: Kronecker(structure, structures.Diagonal(like(np.ones(1), next(structure.parameters())))),
    }[kind]()


@pytest.mark.parametrize(("name", "value", "message"), VALUES, ids=str)
@pytest.mark.parametrize("kind", ["itself", "shared", "row"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_make_no_covariance(name, value, message, kind, dtype):
    structure = wrapped(EVERY[name][1](nd(value, dtype)), kind)
    refuses(lambda: Gaussian(covariance=structure), message, NotPositiveDefiniteError)
    with autograd.record():
        Gaussian(covariance=structure)
    Gaussian(covariance=structure, on_failure=None)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("dtype", DTYPES)
def test_asymmetric_matrices(name, leading, dtype):
    value = np.broadcast_to(EYE, (*leading, 2, 2)).copy()
    worst = tuple(size - 1 for size in leading)
    value[worst] = SKEW
    structure = EVERY[name][1](nd(value, dtype))
    where = (
        f"{np.asarray(0.9, dtype)} at index {(*worst, 0, 1)} but 0.0 at {(*worst, 1, 0)}; expected a symmetric matrix"
    )
    refuses(lambda: Gaussian(covariance=structure), f"`{argument(name)}`: got {where}")
    with autograd.record():
        Gaussian(covariance=structure)
    Gaussian(covariance=structure, on_failure=None)


@pytest.mark.parametrize("form", ["covariance", "precision"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_asymmetric_matrices_given_to_gaussian(form, dtype):
    value = nd(SKEW, dtype)
    refuses(
        lambda: Gaussian(**{form: value}), f"`{form}`: got {np.asarray(0.9, dtype)} at index (0, 1) but 0.0 at (1, 0)"
    )
    refuses(lambda: Gaussian(**{form: value}, on_failure=OnFailure("jitter")), "expected a symmetric matrix")
    Gaussian(**{form: value}, on_failure=None)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("name", ["scale_tril", "correlation_tril"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_above_the_diagonal_of_a_factor(name, leading, dtype):
    """The worst is named; while training, and where nothing is to be looked at, they are ignored."""
    value = np.broadcast_to(EYE, (*leading, 2, 2)).copy()
    worst = tuple(size - 1 for size in leading)
    value[..., 0, 1], value[(*worst, 0, 1)] = 0.25, -0.75
    message = f"`{name}`: got -0.75 at index {(*worst, 0, 1)}, above the diagonal; expected a lower triangular matrix"
    structure = EVERY[name][1](nd(value, dtype))
    refuses(lambda: Gaussian(covariance=structure), message)
    if name == "scale_tril":
        refuses(lambda: Gaussian(scale_tril=nd(value, dtype)), message)
        Gaussian(scale_tril=nd(value, dtype), on_failure=None)
    with autograd.record():
        Gaussian(covariance=structure)
    trained = nd(value, dtype)
    trained.attach_grad()
    Gaussian(covariance=EVERY[name][1](trained))
    log_pdf = Gaussian(covariance=structure, on_failure=None).log_pdf(mx.nd.zeros(2, dtype=dtype))
    expected = np.full(leading or (1,), -np.log(2 * np.pi))
    assert log_pdf.shape == expected.shape
    np.testing.assert_allclose(log_pdf.asnumpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [np.nan, np.inf])
def test_entries_above_the_diagonal_that_are_not_finite(size):
    refuses(lambda: Gaussian(scale_tril=nd([[1.0, size], [0.5, 1.0]])), f"got {size} at index (0, 1), above")


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_above_the_diagonal_is_taken(dtype, rng):
    """The factor of a covariance, turned until it is triangular."""
    square = rng.normal(size=(3, 5, 5)).astype(dtype)
    rotation = np.linalg.qr(np.swapaxes(square, -1, -2))[0]
    factor = square @ rotation
    assert np.triu(factor, 1).any()
    log_pdf = Gaussian(scale_tril=nd(factor, dtype)).log_pdf(mx.nd.zeros(5, dtype=dtype))
    assert log_pdf.shape == (3,)
    exact = square.astype("float64")
    expected = -0.5 * (5 * np.log(2 * np.pi) + np.linalg.slogdet(exact @ np.swapaxes(exact, -1, -2))[1])
    np.testing.assert_allclose(log_pdf.asnumpy(), expected, rtol=1e-4 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_symmetric_up_to_rounding_is_taken(dtype, rng):
    root = nd(rng.normal(size=(5, 5)), dtype)
    covariance = mx.nd.dot(root, root.T) + mx.nd.eye(5, dtype=dtype)
    covariance[0, 1] *= 1 + 4 * np.finfo(dtype).eps
    assert np.isfinite(Gaussian(covariance=covariance).log_pdf(mx.nd.zeros(5, dtype=dtype)).asnumpy()).all()


def test_symbols_are_not_looked_at():
    symbol = mx.sym.Variable("x")
    for structure in (Dense(symbol), Precision(symbol), Cholesky(symbol), Diagonal(symbol), LowRank(symbol, symbol)):
        Gaussian(mx.sym.Variable("mean"), structure)


# Empty arrays, and arguments of methods

# Arrays that are no vectors of a structure of float32, made from the right size, and what the message says of each.
NO_VECTORS = {
    "one entry less": (lambda size: mx.nd.ones(size - 1), "got shape ({less},); expected (..., {size})"),
    "one entry more": (lambda size: np.ones((2, size + 1)), "got shape (2, {more}); expected (..., {size})"),
    "one entry": (lambda size: mx.nd.ones((5, 1)), "got shape (5, 1); expected (..., {size})"),
    "float64": (lambda size: mx.nd.ones(size, dtype="float64"), "got dtype float64; expected float32"),
    "a Symbol": (lambda size: mx.sym.var("x"), "got a Symbol beside a NDArray; expected one kind of array"),
    "nothing": (lambda size: None, "got a NoneType; expected an NDArray, a NumPy array or a number"),
}


def structure_of(name, rng, dtype="float32"):
    arrays = {key: nd(array, dtype) for key, array in CASES[name].arrays(rng, (), 4).items()}
    return CASES[name].build(**arrays)


@pytest.mark.parametrize("bad", NO_VECTORS)
@pytest.mark.parametrize(("method", "argument"), METHODS_OF_VECTORS.items())
@pytest.mark.parametrize("name", CASES)
def test_vectors_that_do_not_fit(name, method, argument, bad, rng):
    structure = structure_of(name, rng)
    size = structure.noise_size(4) if argument == "noise" else 4
    make, message = NO_VECTORS[bad]
    message = message.format(size=size, less=size - 1, more=size + 1)
    for held in (structure, Shared(structure)):
        refuses(lambda held=held: getattr(held, method)(make(size)), f"`{argument}`: {message}")


@pytest.mark.parametrize("position", [4, -1])
@pytest.mark.parametrize("name", CASES)
def test_positions_that_are_not_there(name, position, rng):
    structure = structure_of(name, rng)
    message = f"`index`: got {position}; expected positions from 0 to 3"
    for held in (structure, Shared(structure)):
        refuses(lambda held=held: held.marginal([0, position]), message)
        refuses(lambda held=held: held.condition([0, position], [1, 2]), message)
        refuses(lambda held=held: held.condition([0, 1], [2, position]), message)


@pytest.mark.parametrize(("method", "argument"), METHODS_OF_VECTORS.items())
def test_shared_structures_take_rows(method, argument, dtype):
    shared = Shared(Dense(nd(EYE, dtype)))
    refuses(lambda: getattr(shared, method)(nd(ONES, dtype)), f"`{argument}`: got shape (2,); expected (..., N, D)")


@pytest.mark.parametrize("name", CASES)
def test_vectors_may_be_numpy_arrays_and_lists(name, rng, dtype):
    structure = structure_of(name, rng, dtype)
    for method, argument in METHODS_OF_VECTORS.items():
        value = rng.normal(size=structure.noise_size(4) if argument == "noise" else 4)
        expected = getattr(structure, method)(nd(value, dtype))
        for given in (value, value.tolist()):
            got = getattr(structure, method)(given)
            assert (got is None) == (expected is None)
            if got is not None:
                assert got.dtype == expected.dtype
                np.testing.assert_array_equal(got.asnumpy(), expected.asnumpy())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda e: structures.Diagonal(e(0)), r"`variances`: got shape \(0,\); expected at least one entry"),
        (lambda e: structures.Dense(e(0, 5, 5)), r"`covariance`: got shape \(0, 5, 5\); expected at least one entry"),
        (lambda e: structures.Cholesky(e(0, 0)), r"`scale_tril`: got shape \(0, 0\); expected at least one entry"),
        (lambda e: LowRank(e(2, 0), nd(np.ones(2))), r"`factor`: got shape \(2, 0\); expected at least one entry"),
        (
            lambda e: LowRank(nd(np.ones((2, 2))), e(0, 2)),
            r"`diagonal`: got shape \(0, 2\); expected at least one",
        ),
        (lambda e: Gaussian(0.0, precision=e(0, 5, 5)), r"`precision`: got shape \(0, 5, 5\); expected at least one"),
        (lambda e: structures.Cholesky(nd(np.eye(2)), [0.2]), "`refine`: got a list; expected a function without"),
        (lambda e: structures.Cholesky(nd(np.eye(2)), dict).log_det(), "`refine`: got .*; expected "),
    ],
)
def test_empty_arrays_are_refused(build, message, dtype):
    with pytest.raises(ValueError, match=message):
        build(lambda *shape: nd(np.zeros(shape), dtype))


@pytest.mark.parametrize("num_points", [b"x", {}, 0, 2.5])
def test_the_number_of_points_of_an_ellipse(num_points):
    with pytest.raises(ValueError, match="`num_points`: got .*; expected a positive integer"):
        Gaussian(0.0, variance=nd([1.0, 2.0])).ellipse(0.5, num_points)


@pytest.mark.parametrize("mean", [5e-324, -1e-310, 0.0])
def test_a_mean_below_the_smallest_normal_number_is_zero(mean):
    assert Gaussian(mean, variance=nd([1.0, 2.0])).mean.asnumpy().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mean", [np.nan, np.inf, -np.inf])
def test_a_mean_that_is_not_finite_stays_so(mean):
    np.testing.assert_array_equal(Gaussian(mean, variance=nd([1.0, 2.0])).mean.asnumpy(), [mean, mean])


@pytest.mark.parametrize("leading", [((), ()), ((2,), (2,)), ((2, 3), (1,)), ((3,), (2, 3)), ((2, 1, 2), (3, 1))])
def test_kronecker_products_of_any_leading_axes(leading, dtype, rng):
    left, right = (rng.normal(size=(*axes, *shape)) for axes, shape in zip(leading, [(2, 3), (3, 2)]))
    got = linalg.kronecker(nd(left, dtype), nd(right, dtype))
    expected = np.einsum("...ij,...kl->...ikjl", left, right)
    assert_close(got, expected.reshape((*expected.shape[:-4], 6, 6)), rtol=1e-5 if dtype == "float32" else 1e-14)
