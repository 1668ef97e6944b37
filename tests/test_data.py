# SPDX-License-Identifier: Apache-2.0
"""Data as people have them: what is converted, what is refused, and in which words."""

import warnings

from mxfusion_mvn import Gaussian, InverseWishart, MultivariateNormal, bijections
from mxfusion_mvn.functions import linear, scale_rows
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    CompiledMinibatchLoop,
    GradBasedInference,
    MinibatchLoop,
    create_Gaussian_fullrank,
    create_Gaussian_meanfield,
    summary,
)
from mxfusion_mvn.missing import PartlyObserved
from mxfusion_mvn.transformations import Positive, PositiveDefinite

import mxfusion.inference as host
import mxnet as mx
import numpy as np
import pandas as pd
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components.functions.operators import exp
from mxfusion.components.variables import VariableType
from scipy.stats import multivariate_normal

from helpers.host import nd

ROWS = np.random.default_rng(0).poisson(7, size=(20, 3)).astype("float32")
LOOPS = {
    "host": host.BatchInferenceLoop,
    "batch": BatchLoop,
    "compiled": CompiledLoop,
    "minibatch": lambda: MinibatchLoop(batch_size=8),
    "compiled minibatch": lambda: CompiledMinibatchLoop(batch_size=8),
}


def model_of_rows(prior=True, shape=None, missing=False, dtype=None):
    model = Model()
    model.N = Variable()
    if prior:
        model.cov = InverseWishart(4.0, 1.0, shape=(3, 3), dtype=dtype)
    else:
        model.cov = Variable(shape=(3, 3), transformation=PositiveDefinite(), initial_value=nd(np.eye(3), "float32"))
    model.mean = Variable(shape=(3,), initial_value=nd([5.0, 5.0, 5.0], "float32"))
    model.X = MultivariateNormal(model.mean, model.cov, shape=shape or (model.N, 3), missing=missing, dtype=dtype)
    return model


def fitted(data, loop="compiled", prior=True, kind=GradBasedInference, missing=False, dtype=None):
    """The mean and its dtype after a few steps, from a start and noise that are always the same."""
    mx.random.seed(0)
    model = model_of_rows(prior, missing=missing, dtype=dtype)
    algorithm = MAP(model, [model.X])
    inference = kind(algorithm, grad_loop=LOOPS[loop](), dtype=dtype)
    inference.initialize(X=(20, 3))
    if prior:
        location = algorithm.location(model.cov)
        inference.params[location] = nd(np.eye(3), dtype or "float32")
    inference.run(X=data, learning_rate=0.05, max_iter=12)
    return inference.params[model.mean].asnumpy()


CONVERTED = {
    "float64 NDArray": lambda: nd(ROWS),
    "int64 NDArray": lambda: nd(ROWS, "int64"),
    "int32 NDArray": lambda: nd(ROWS, "int32"),
    "uint8 NDArray": lambda: nd(ROWS, "uint8"),
    "NumPy float32": lambda: ROWS,
    "NumPy float64": lambda: ROWS.astype("float64"),
    "NumPy float16": lambda: ROWS.astype("float16"),
    "NumPy int64": lambda: ROWS.astype(int),
    "not contiguous": lambda: np.asfortranarray(ROWS),
    "a mask of nothing": lambda: np.ma.masked_less(ROWS, -1),
    "DataFrame": lambda: pd.DataFrame(ROWS),
    "DataFrame of several dtypes": lambda: pd.DataFrame(ROWS).astype({0: "int64", 1: "Int64", 2: "float64"}),
    "mx.np array": lambda: mx.np.array(ROWS),
}


@pytest.mark.parametrize("data", CONVERTED)
@pytest.mark.parametrize("loop", ["host", "compiled"])
@pytest.mark.parametrize("prior", [True, False])
def test_numbers_of_any_kind_give_the_same_run(data, loop, prior):
    found, expected = (fitted(rows, loop, prior) for rows in (CONVERTED[data](), nd(ROWS, "float32")))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("given", ["float64", "int64", "int32"])
@pytest.mark.parametrize("prior", [True, False])
def test_dtypes_make_no_difference_with_mxfusions_class(given, loop, prior):
    kind = host.GradBasedInference
    data = nd(ROWS, given), nd(ROWS, "float32")
    np.random.seed(0)
    found = fitted(data[0], loop, prior, kind)
    np.random.seed(0)
    expected = fitted(data[1], loop, prior, kind)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_a_float32_array_in_a_float64_inference(tmp_path):
    file = np.memmap(tmp_path / "rows", "float32", "w+", shape=ROWS.shape)
    file[:] = ROWS
    expected = fitted(nd(ROWS), prior=True, dtype="float64")
    assert expected.dtype == np.float64
    for data in (file, ROWS, nd(ROWS, "float32")):
        np.testing.assert_array_equal(fitted(data, prior=True, dtype="float64"), expected)


def test_masked_entries_are_missing_where_entries_may_be():
    masked = np.ma.masked_equal(np.where(np.arange(60).reshape(20, 3) % 7 == 0, -999.0, ROWS), -999.0)
    with_nan = np.where(masked.mask, np.nan, ROWS)
    expected = fitted(nd(with_nan, "float32"), "batch", missing=True)
    assert np.isfinite(expected).all()
    for data in (masked, pd.DataFrame(with_nan), pd.DataFrame(with_nan).astype("Float64")):
        np.testing.assert_array_equal(fitted(data, "batch", missing=True), expected)


# (what, the data or a function of nothing, message)
REFUSED = [
    ("transposed", ROWS.T, r"`X`: got shape \(3, 20\); expected \(N, 3\)\. It fits when transposed: write X\.T"),
    ("a vector", ROWS[0], r"`X`: got shape \(3,\); expected \(N, 3\)\. .* single row, write X\.reshape\(1, -1\)"),
    ("another D", ROWS[:, :2], r"`X`: got shape \(20, 2\); expected \(N, 3\)\. Bring the data"),
    ("no rows", ROWS[:0], r"`X`: got shape \(0, 3\); expected \(N, 3\)"),
    ("three axes", ROWS[None], r"`X`: got shape \(1, 20, 3\); expected \(N, 3\)"),
    ("a list", ROWS.tolist(), r"`X`: got a list; expected an NDArray, .* Write X=np\.array\(x\)"),
    ("a number", 3.0, r"`X`: got 3\.0; expected .* Write X=np\.array\(\[x\]\)"),
    ("nothing", None, "`X`: got a NoneType; expected an NDArray"),
    ("masked", np.ma.masked_equal(ROWS, 7.0), r"`X`: got a masked array with \d+ masked .* x\.filled"),
    ("complex", ROWS + 1j, r"`X`: got an array of dtype complex\d+; expected real numbers\. .*x\.real"),
    ("times", ROWS.astype("datetime64[s]"), r"`X`: got an array of dtype datetime64\[s\].*x - x\.min"),
    ("time differences", ROWS.astype("timedelta64[s]"), "`X`: got an array of dtype timedelta64.*Divide by a unit"),
    ("objects", ROWS.astype(object), "`X`: got an array of dtype object; .*float32"),
    ("strings", ROWS.astype(str), r"`X`: got an array of dtype <U\d+; .* np\.unique"),
    ("records", np.zeros((20, 3), [("a", "f4")]), r"`X`: got an array of dtype \[.*Stack its fields"),
    (
        "a column of labels",
        pd.DataFrame(ROWS).assign(kind="a"),
        r"`X`: got a DataFrame whose column 'kind' is of dtype \w+; expected columns of numbers\. .*np\.unique",
    ),
    ("a Series of labels", pd.Series(["a"] * 20, name="kind"), "`X`: got a Series whose column 'kind'"),
    ("sparse", nd(ROWS, "float32").tostype("csr"), r"`X`: got a sparse CSRNDArray; .*tostype\('default'\)"),
]


@pytest.mark.parametrize(("data", "message"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
@pytest.mark.parametrize("loop", LOOPS)
def test_data_that_do_not_fit_are_refused_by_name(data, message, loop):
    model = model_of_rows()
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=LOOPS[loop]())
    with pytest.raises(InferenceError, match=message):
        inference.run(X=data, max_iter=1)
    inference.run(X=ROWS, max_iter=3, learning_rate=0.0)  # nothing is lost


# (declared shape, data, message), of what is declared without a number of rows, or with another one
DECLARED = [
    ((3,), ROWS, r"got shape \(20, 3\); expected \(3,\)\. .* shape=\(model\.N, 3\), where model\.N = Variable\(\)"),
    ((25, 3), ROWS, r"got shape \(20, 3\); expected \(25, 3\)\. For any number of rows .*shape=\(model\.N, 3\)"),
    ((3, 20), ROWS, r"got shape \(20, 3\); expected \(3, 20\)\. It fits when transposed"),
    ((20, 1), ROWS[:, 0], r"got shape \(20,\); expected \(20, 1\)\. Write y\.reshape\(-1, 1\)"),
    ((4, 5, 3), ROWS, r"got shape \(20, 3\); expected \(4, 5, 3\)\. Bring the data"),
]


@pytest.mark.parametrize(("shape", "data", "message"), DECLARED)
def test_data_of_another_shape_than_declared(shape, data, message):
    model = Model()
    model.v = Variable(shape=(1, 1), transformation=Positive(), initial_value=nd([[1.0]], "float32"))
    model.y = MultivariateNormal(covariance=model.v, shape=shape)
    for run in (
        lambda: GradBasedInference(MAP(model, [model.y])).run(y=data),
        lambda: GradBasedInference(MAP(model, [model.y])).initialize(y=data),
        lambda: GradBasedInference(MAP(model, [model.y])).initialize(y=data.shape),
    ):
        with pytest.raises(InferenceError, match="`y`: " + message):
            run()


def regression():
    model = Model()
    model.N = Variable()
    model.x = Variable(shape=(model.N, 3))
    model.w = MultivariateNormal(shape=(3,))
    model.y = MultivariateNormal(linear(model.x, model.w), 1.0, shape=(model.N, 1))
    return model


@pytest.mark.parametrize("kind", [GradBasedInference, host.GradBasedInference])
def test_two_variables_disagree_about_the_rows(kind):
    model = regression()
    inference = kind(MAP(model, [model.x, model.y]), grad_loop=BatchLoop())
    with pytest.raises(InferenceError, match=r"`y`: got shape \(19, 1\); expected \(N, 1\) with N = 20 as in `x`\. "):
        inference.run(x=nd(ROWS, "float32"), y=nd(ROWS[:19, :1], "float32"))


# (keywords beside x and y, those left out, message)
KEYWORDS = [
    ({"Y": 0}, ["y"], "`Y`: got data for what is not observed; expected `x`, `y`. Did you mean y?"),
    ({}, ["y"], r"`y`: got no data; expected an array for each observed variable\. Pass it by name: run\(y=\.\.\.\)"),
    ({"z": 0}, [], r"`z`: got data for what is not observed; expected `x`, `y`\. Leave it out, or name the variable"),
    ({"learning_rat": 0.1}, [], "`learning_rat`: got data .* Did you mean learning_rate?"),
    ({"w": 0}, [], "`w`: got data for what is not observed"),
]


@pytest.mark.parametrize(("extra", "left_out", "message"), KEYWORDS)
def test_keywords_that_are_not_the_observed_variables(extra, left_out, message):
    model = regression()
    data = {"x": ROWS, "y": ROWS[:, :1], **extra}
    for name in left_out:
        del data[name]
    posterior = create_Gaussian_meanfield(model, [model.x, model.y])
    for algorithm in (
        MAP(model, [model.x, model.y]),
        host.StochasticVariationalInference(2, model, posterior, [model.x, model.y]),
    ):
        with pytest.raises(InferenceError, match=message):
            GradBasedInference(algorithm).run(**data)


@pytest.mark.parametrize("create", [MAP, create_Gaussian_meanfield, create_Gaussian_fullrank])
def test_nothing_observed(create):
    model = model_of_rows()
    with pytest.raises(ModelSpecificationError, match=r"`observed`: got no variable; expected `X` .*\[model\.X\]"):
        create(model, [])


def test_a_name_assigned_twice_is_refused_with_any_algorithm_and_loop():
    model = model_of_rows(prior=False)
    model.X = MultivariateNormal(shape=(model.N, 3))
    inference = GradBasedInference(host.MAP(model, [model.X]))
    with pytest.raises(ModelSpecificationError, match="`X`: got two variables of this name"):
        inference.run(X=ROWS)


def test_an_observed_variable_without_a_name():
    model = Model()
    rows = MultivariateNormal(shape=(20, 3))
    model.z = MultivariateNormal(rows, shape=(20, 3))
    with pytest.raises(InferenceError, match=r"`observed`: got a variable without a name; .* Write model\.y"):
        GradBasedInference(host.MAP(model, [rows])).run()


def test_shapes_beside_arrays_are_refused():
    model = regression()
    with pytest.raises(InferenceError, match="`x`: got a tuple; expected an NDArray"):
        GradBasedInference(MAP(model, [model.x, model.y])).initialize(x=(20, 3), y=ROWS[:, :1])


def test_data_for_a_summary_are_held_against_the_model():
    model = regression()
    posterior = create_Gaussian_meanfield(model, [model.x, model.y])
    algorithm = host.StochasticVariationalInference(2, model, posterior, [model.x, model.y])
    inference = GradBasedInference(algorithm, grad_loop=BatchLoop())
    inference.run(x=ROWS, y=ROWS[:, :1], max_iter=2)
    for rows in (ROWS, pd.DataFrame(ROWS)):
        assert len(summary(inference, x=rows, y=ROWS[:, :1])) == 3
    with pytest.raises(InferenceError, match=r"`y`: got shape \(20,\); expected \(N, 1\)"):
        summary(inference, x=ROWS, y=ROWS[:, 0])


# Arrays of other kinds, wherever arrays come in

KINDS = {
    "masked": (np.ma.array([1.0, -999.0], mask=[0, 1]), r"got a masked array with 1 masked entries.* x\.filled"),
    "complex": (np.array([1.0, 2j]), r"got an array of dtype complex128; .* x\.real"),
    "times": (np.array([1, 2], "datetime64[D]"), r"got an array of dtype datetime64\[D\]"),
    "records": (np.zeros(2, [("a", "f4"), ("b", "f4")]), "got an array of dtype .*Stack its fields"),
    "objects": (np.array([1.0, None]), "got an array of dtype object"),
    "strings": (np.array(["1", "2"]), "got an array of dtype <U1"),
}
STANDARD = Gaussian(nd([0.0, 0.0]), covariance=nd([[2.0, 0.5], [0.5, 1.0]]))
PLACES = {
    "value": lambda x: STANDARD.log_pdf(x),
    "mean": lambda x: Gaussian(x, covariance=nd(np.eye(2))),
    "variance": lambda x: Gaussian(variance=x),
    "scale_tril": lambda x: Gaussian(scale_tril=x),
    "`mean`": lambda x: MultivariateNormal(x, shape=(2,)),
    "`value under Positive": lambda x: Positive().inverseTransform(x),
    "`scales`": lambda x: scale_rows(np.eye(2, dtype="float32"), x),
    "`lower`": lambda x: bijections.Interval(x, 2000.0),
    "`groups`": lambda x: linear(ROWS[:2], Variable(shape=(2, 3)), groups=x),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_other_kinds_are_refused_wherever_they_come_in(kind, place):
    array, message = KINDS[kind]
    with pytest.raises((ValueError, ModelSpecificationError), match=f"{place.strip('`')}.*{message}"):
        PLACES[place](array)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "masked"])
def test_partly_observed_refuses_other_kinds(kind):
    array, message = KINDS[kind]
    with pytest.raises(ValueError, match=f"`value`: {message}"):
        PartlyObserved(STANDARD, array)


@pytest.mark.parametrize("fill", [-999.0, -999])
def test_partly_observed_takes_masked_entries_for_missing(fill):
    data = np.ma.masked_equal(np.array([[1, fill], [2, 3], [fill, 4]]), fill)
    partly = PartlyObserved(STANDARD, data)
    full = [[2.0, 0.5], [0.5, 1.0]]
    expected = [
        multivariate_normal.logpdf(1.0, 0, 2),
        multivariate_normal.logpdf([2, 3], [0, 0], full),
        multivariate_normal.logpdf(4.0, 0, 1),
    ]
    np.testing.assert_allclose(partly.log_pdf().asnumpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(partly.mean().asnumpy(), [[1, 0.25], [2, 3], [2, 4]], rtol=1e-12)


@pytest.mark.parametrize("given", [[[2.0, 0.5], [0.5, 1.0]], np.eye(2), np.eye(2, dtype=int), ((1.0, 0.0), (0.0, 1.0))])
def test_the_remedy_for_a_matrix_that_is_no_ndarray_works(given):
    with pytest.raises(ValueError, match=r"`covariance`: got a .* Convert it with mx\.nd\.array\(x, dtype='float32'\)"):
        Gaussian(covariance=given)
    found = Gaussian(covariance=mx.nd.array(given, dtype="float32")).log_pdf(nd([1.0, 2.0], "float32")).asnumpy()
    np.testing.assert_allclose(found, multivariate_normal.logpdf([1.0, 2.0], [0, 0], given), rtol=1e-6)


def test_a_ragged_list_is_refused():
    with pytest.raises(ValueError, match="`value`: got a ragged list; expected real numbers"):
        STANDARD.log_pdf([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_a_function_of_integers_keeps_the_dtype_of_the_others(dtype):
    weights = Variable(shape=(3,))
    function = linear(Variable(shape=(20, 3)), weights).factor
    (_, design), _ = function.inputs
    values = {design.uuid: nd(ROWS[None], dtype), weights.uuid: nd([[0.5, 1.5, -0.25]], "float32")}
    found = function.eval(mx.nd, values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.asnumpy()[0, :, 0], ROWS @ [0.5, 1.5, -0.25], rtol=1e-6)


def test_a_factor_without_two_axes_is_refused():
    factor, scales = Variable(shape=(3, 3)), Variable(shape=(3,))
    function = scale_rows(factor, scales).factor
    with pytest.raises(InferenceError, match=r"got shapes \(1,\) and \(3,\); expected \(B..., D, D\)"):
        function.eval(mx.nd, {factor.uuid: nd([[1.0]]), scales.uuid: nd([[1.0, 2.0, 3.0]])})


# A single number that a function puts out, where a matrix belongs


def log_pdf_given(declare, raw, value):
    """The terms of the log density of y, with a matrix that is the exponential of ``raw`` (S, ...)."""
    model = Model()
    model.raw = Variable(shape=raw.shape[1:])
    model.y = declare(exp(model.raw))
    factor = model.y.factor
    variables = {v.uuid: nd(v.constant.asnumpy()[None]) for _, v in factor.inputs if v.type == VariableType.CONSTANT}
    matrix = next(v for _, v in factor.inputs if v.type != VariableType.CONSTANT)
    variables.update({matrix.uuid: mx.nd.exp(nd(raw)), model.y.uuid: nd(value[None])})
    return factor.log_pdf(mx.nd, variables).asnumpy()


@pytest.mark.parametrize("samples", [1, 2, 3, 10, 20])
@pytest.mark.parametrize("form", ["covariance", "precision", "scale_tril"])
@pytest.mark.parametrize("axes", [0, 1])
def test_a_number_from_a_function_is_a_multiple_of_the_identity(form, samples, axes, rng):
    raw, value = rng.normal(size=(samples,) + (1,) * axes), rng.normal(size=(20, 3))
    found = log_pdf_given(
        lambda matrix: MultivariateNormal(np.zeros(3), **{form: matrix}, shape=(20, 3), dtype="float64"), raw, value
    )
    power = {"covariance": 1, "precision": -1, "scale_tril": 2}[form]
    expected = [multivariate_normal.logpdf(value, np.zeros(3), np.exp(power * r) * np.eye(3)) for r in raw.ravel()]
    assert found.shape == (samples, 20)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 3, 20])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (2,), (20,)])
def test_a_vector_from_a_function_is_no_matrix(shape, samples, rng):
    with pytest.raises(InferenceError, match=r"`covariance` of variable `y`: got shape .*; expected \(20, 3, 3\)"):
        log_pdf_given(
            lambda matrix: MultivariateNormal(np.zeros(3), matrix, shape=(20, 3), dtype="float64"),
            rng.normal(size=(samples, *shape)),
            rng.normal(size=(20, 3)),
        )


@pytest.mark.parametrize("samples", [1, 2, 3, 10])
def test_a_learned_variance_with_any_number_of_samples(samples):
    model = Model()
    model.log_v = MultivariateNormal(shape=(1,))
    model.y = MultivariateNormal(0.0, exp(model.log_v), shape=(20, 3))
    posterior = create_Gaussian_meanfield(model, [model.y])
    algorithm = host.StochasticVariationalInference(samples, model, posterior, [model.y])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="InferenceParameters")
        record = GradBasedInference(algorithm, grad_loop=CompiledLoop()).run(y=ROWS, max_iter=30, learning_rate=0.05)
    assert record.compiled
    assert np.isfinite(record.loss).all()
