# SPDX-License-Identifier: Apache-2.0
"""Totals: those of SciPy's rows, with the gradients of the rows, for every layout and class."""

import threading

from mxfusion_mvn import (
    GaussianMixture,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateNormal,
    MultivariateStudentT,
    OnFailure,
)
from mxfusion_mvn.functions import linear
from mxfusion_mvn.totals import closed_form, statistics
from mxfusion_mvn.totals.summed import is_constant, reading

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxnet import autograd

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close
from helpers.totals import FORMS, LAYOUTS, SAME, as_factor, draw, evaluate, expected_total, traced


def check_against_rows(factor, arrays, latent, tolerance=SAME):
    """The total and its gradients are those of the rows."""
    rows, wanted = evaluate(factor, arrays, False, latent=latent)
    total, got = evaluate(factor, arrays, True, latent=latent)
    rows, total = (array.asnumpy().reshape(len(array), -1).sum(axis=1) for array in (rows, total))
    assert_close(total, rows, **tolerance)
    for name in latent:
        assert_close(got[name], wanted[name], rtol=tolerance["rtol"], atol=1e-10 * np.abs(wanted[name]).max())


@pytest.fixture(params=["closed form", "MXNet's gradients"])
def gradients(request, monkeypatch):
    """Both ways to the gradients."""
    if request.param == "MXNet's gradients":
        monkeypatch.setattr(closed_form, "pays", lambda rows, matrix: False)
    return request.param


# Totals of the multivariate normal


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_totals_are_the_sums_of_scipys_rows(name, form, dtype, rng):
    arrays, covariance = draw(rng, name, form)
    total, _ = evaluate(as_factor(MultivariateNormal, arrays, dtype), arrays, True, dtype, latent=("mean", form))
    assert total.dtype == np.dtype(dtype)
    assert_close(total, expected_total(arrays, covariance), **TOLERANCE[dtype])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_are_those_of_the_rows(name, form, gradients, rng):
    arrays, _ = draw(rng, name, form)
    check_against_rows(as_factor(MultivariateNormal, arrays), arrays, ("mean", form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_for_latent_rows_are_those_of_the_rows(name, form, gradients, rng):
    arrays, _ = draw(rng, name, form)
    check_against_rows(as_factor(MultivariateNormal, arrays), arrays, ("random_variable", "mean", form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("latent", [("mean",), ("matrix",), ("random_variable",)], ids="".join)
def test_gradients_where_all_else_is_constant(form, latent, rng):
    for name in ("shared", "a matrix per row"):
        arrays, _ = draw(rng, name, form)
        latent = tuple(form if which == "matrix" else which for which in latent)
        check_against_rows(as_factor(MultivariateNormal, arrays), arrays, latent)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["shared", "samples of both", "matrices of groups in the last axis"])
def test_gradients_are_central_differences(name, form, rng):
    arrays, _ = draw(rng, name, form)

    def combined(**changed):
        changed = {**arrays, **changed}
        totals = expected_total(changed, oracles.TO_COVARIANCE[form](changed[form]))
        return totals @ np.arange(1, 1 + len(totals))

    _, got = evaluate(as_factor(MultivariateNormal, arrays), arrays, True, latent=("mean", form))
    for name in ("mean", form):
        expected = oracles.central_difference(
            lambda array, name=name: combined(**{name: array}), arrays[name], symmetrical=name in FORMS[:2]
        )
        expected = np.tril(expected) if name == "scale_tril" else expected
        assert_close(got[name], expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
def test_number_for_a_matrix_makes_each_entry_a_row(form, gradients, rng):
    for shape in ((1, 9), (1,), (4, 9)):
        for of_mean in ((1, 3), (1, 1), (4, 3)):
            arrays = {"random_variable": rng.normal(size=shape + (3,)), "mean": rng.normal(size=of_mean)}
            arrays[form] = rng.uniform(0.5, 2.0, size=(of_mean[0], 1, 1))
            check_against_rows(as_factor(MultivariateNormal, arrays), arrays, ("mean", form))


def test_number_for_a_matrix_needs_no_matrix(rng):
    arrays = {"random_variable": rng.normal(size=(1, 500)), "mean": rng.normal(size=(1, 500))}
    arrays["covariance"] = np.full((1, 1, 1), 2.0)
    graph = traced(as_factor(MultivariateNormal, arrays), arrays, ("mean", "covariance"))
    assert max(np.prod(shape) for node in graph.nodes for shape in node.shapes) <= 500


@pytest.mark.parametrize(("dim", "rank"), [(3, 1), (3, 0), (6, 4)])
def test_scatter_without_full_rank(dim, rank, rng):
    value = np.ones((1, 40, 1)) + rng.normal(size=(1, 40, rank)) @ rng.normal(size=(1, rank, dim))
    covariance = oracles.random_spd(rng, (1,), dim)
    arrays = {"random_variable": value, "mean": rng.normal(size=(1, dim)), "covariance": covariance}
    total, _ = evaluate(as_factor(MultivariateNormal, arrays), arrays, True, latent=("covariance",))
    assert_close(total, expected_total(arrays, covariance), **TOLERANCE["float64"])


def test_data_far_from_zero_keep_their_digits(rng):
    covariance = oracles.random_spd(rng, (1,), 3, condition=1e4)
    noise = rng.normal(size=(1, 300, 3)) @ np.linalg.cholesky(covariance[0]).T
    value = (1000 + noise).astype("float32").astype("float64")
    arrays = {"random_variable": value, "mean": np.full((1, 3), 1000.0), "covariance": covariance}
    arrays["covariance"] = arrays["covariance"].astype("float32").astype("float64")
    total, _ = evaluate(as_factor(MultivariateNormal, arrays, "float32"), arrays, True, "float32", latent=("mean",))
    assert_close(total, expected_total(arrays, arrays["covariance"]), rtol=1e-4)


def test_nan_in_the_data_is_nan_in_the_total(rng):
    arrays, _ = draw(rng, "shared", "covariance")
    arrays["random_variable"][0, 3, 1] = np.nan
    total, _ = evaluate(as_factor(MultivariateNormal, arrays), arrays, True, latent=("mean",))
    assert np.isnan(total.asnumpy()).all()


@pytest.mark.filterwarnings("ignore::mxfusion_mvn.RepairWarning")
def test_policy_is_heeded(rng):
    arrays, _ = draw(rng, "shared", "covariance")
    arrays["covariance"] = np.ones((1, 3, 3))
    policy = OnFailure("jitter")
    factor = as_factor(MultivariateNormal, arrays, on_failure=policy)
    check_against_rows(factor, arrays, ("mean",), tolerance={"rtol": 1e-6, "atol": 1e-6})
    assert policy.repairs


def test_scaling_multiplies(rng):
    arrays, covariance = draw(rng, "samples of the mean", "covariance")
    factor = as_factor(MultivariateNormal, arrays)
    factor.log_pdf_scaling = 2.5
    total, _ = evaluate(factor, arrays, True, latent=("mean",))
    assert_close(total, 2.5 * expected_total(arrays, covariance), **TOLERANCE["float64"])


# Other classes

LOW_RANK = {
    "shared": ((1, 9), (1,), (1,), (1,)),
    "fewer rows than entries": ((1, 3), (1,), (1,), (1,)),
    "samples": ((1, 9), (4,), (4,), (1,)),
    "as many samples as rows": ((1, 9), (9,), (1,), (9,)),
    "a diagonal per row": ((1, 9), (2,), (1,), (1, 9)),
    "latent": ((4, 9), (1,), (1,), (1,)),
}


@pytest.mark.parametrize("name", LOW_RANK)
def test_low_rank(name, rng):
    of_value, of_mean, of_factor, of_diagonal = LOW_RANK[name]
    arrays = {
        "random_variable": rng.normal(size=of_value + (4,)),
        "mean": rng.normal(size=of_mean + (4,)),
        "factor": rng.normal(size=of_factor + (4, 2)),
        "diagonal": rng.uniform(0.5, 2.0, size=of_diagonal + (4,)),
    }
    check_against_rows(as_factor(LowRankMultivariateNormal, arrays), arrays, ("mean", "factor", "diagonal"))


@pytest.mark.parametrize(
    ("of_value", "of_mean", "of_row"), [((1, 9), (1,), (1,)), ((1, 9), (3,), (3,)), ((1,), (2,), (1,))]
)
def test_matrix_normal(of_value, of_mean, of_row, rng):
    arrays = {
        "random_variable": rng.normal(size=of_value + (2, 3)),
        "mean": rng.normal(size=of_mean + (2, 3)),
        "row_covariance": oracles.random_spd(rng, of_row, 2),
        "column_covariance": oracles.random_spd(rng, (1,), 3),
    }
    latent = ("mean", "row_covariance", "column_covariance")
    check_against_rows(as_factor(MatrixNormal, arrays), arrays, latent)


@pytest.mark.parametrize(
    ("of_mean", "of_matrix"), [((1,), (1,)), ((3,), (1,)), ((1,), (3,)), ((12,), (12,)), ((2, 12), (1,))]
)
@pytest.mark.parametrize("form", FORMS)
def test_missing_entries(of_mean, of_matrix, form, rng):
    value = rng.normal(size=(1, 12, 3))
    value[0, :6, 0] = np.nan
    value[0, 6:8, 1:] = np.nan
    value[0, 8] = np.nan
    covariance = oracles.random_spd(rng, of_matrix, 3)
    arrays = {"random_variable": value, "mean": rng.normal(size=of_mean + (3,))}
    arrays[form] = oracles.FROM_COVARIANCE[form](covariance)
    check_against_rows(as_factor(MultivariateNormal, arrays, missing=True), arrays, ("mean", form))


def test_nothing_missing_where_it_might_be(rng):
    arrays, covariance = draw(rng, "samples of the mean", "covariance")
    total, _ = evaluate(as_factor(MultivariateNormal, arrays, missing=True), arrays, True, latent=("mean",))
    assert_close(total, expected_total(arrays, covariance), **TOLERANCE["float64"])


def regression(rng, samples, responses, groups=None, form="covariance", number=False, rows=30):
    """A factor whose mean is a linear predictor, and arrays by variable for it and for the weights."""
    size = (4, 2) if groups is not None else ((2,) if responses is None else (responses, 2))
    dim = responses or 1
    model = Model()
    model.weights, model.matrix = Variable(shape=size), Variable(shape=(1, 1) if number else (dim, dim))
    design = rng.normal(size=(rows, 2))
    mean = linear(design, model.weights, groups=groups, dtype="float64")
    model.X = MultivariateNormal(mean=mean, shape=(rows, dim), dtype="float64", **{form: model.matrix})
    covariance = rng.uniform(0.5, 2, size=(1, 1, 1)) if number else oracles.random_spd(rng, (1,), dim)
    arrays = {
        model.weights: rng.normal(size=(samples,) + size),
        model.matrix: oracles.FROM_COVARIANCE[form](covariance),
        model.X: rng.normal(size=(1, rows, dim)),
        dict(mean.factor.inputs)["design"]: design[None],
    }
    return model, {variable.uuid: array for variable, array in arrays.items()}


def evaluate_regression(model, arrays, summed):
    """Totals and gradients for weights and matrix; the function is evaluated, as the host does it."""
    variables = {uuid: nd(array) for uuid, array in arrays.items()}
    latent = [variables[model.weights.uuid], variables[model.matrix.uuid]]
    for array in latent:
        array.attach_grad()
    mean = dict(model.X.factor.inputs)["mean"]
    with autograd.record():
        variables[mean.uuid] = mean.factor.eval(mx.nd, variables)
        if summed:
            with reading(lambda array: True):
                total = model.X.factor.total_log_pdf(mx.nd, variables)
        else:
            total = model.X.factor.log_pdf(mx.nd, variables).sum(axis=1)
        mx.nd.sum(total * mx.nd.arange(1, 1 + len(total), dtype="float64")).backward()
    return [total.asnumpy()] + [array.grad.asnumpy() for array in latent]


@pytest.mark.parametrize("samples", [1, 5, 30])
@pytest.mark.parametrize(("responses", "number"), [(None, False), (3, False), (3, True), (40, True)])
@pytest.mark.parametrize("form", FORMS)
def test_regression_on_a_constant_design(samples, responses, number, form, rng):
    model, arrays = regression(rng, samples, responses, form=form, number=number)
    for got, expected in zip(evaluate_regression(model, arrays, True), evaluate_regression(model, arrays, False)):
        assert_close(got, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("samples", [1, 5, 30])
def test_regression_with_groups(samples, rng):
    model, arrays = regression(rng, samples, None, groups=np.repeat([2, 0, 3, 1], [15, 1, 3, 11]))
    for got, expected in zip(evaluate_regression(model, arrays, True), evaluate_regression(model, arrays, False)):
        assert_close(got, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("arrays_of", ["student", "mixture"])
def test_laws_without_statistics_stay_rows(arrays_of, rng):
    arrays = {"random_variable": rng.normal(size=(1, 9, 3)), "mean": rng.normal(size=(1, 3))}
    arrays["covariance"] = oracles.random_spd(rng, (1,), 3)
    if arrays_of == "student":
        arrays["degrees_of_freedom"] = np.full((1, 1), 5.0)
        factor = as_factor(MultivariateStudentT, arrays)
    else:
        arrays.update(weights=np.array([[0.4, 0.6]]), mean=rng.normal(size=(1, 2, 3)))
        arrays["covariance"] = oracles.random_spd(rng, (1, 2), 3)
        factor = as_factor(GaussianMixture, arrays)
    on, off = (evaluate(factor, arrays, summed)[0] for summed in (True, False))
    assert on.shape == (1, 9)
    np.testing.assert_array_equal(on.asnumpy(), off.asnumpy())


# The switch


def test_rows_are_not_summed_unless_totals_are_asked_for(rng):
    arrays, covariance = draw(rng, "samples of the mean", "covariance")
    with reading(lambda array: True):
        log_pdf, _ = evaluate(as_factor(MultivariateNormal, arrays), arrays, False)
    mean = arrays["mean"][:, None]
    assert log_pdf.shape == (4, 9)
    assert_close(log_pdf, oracles.log_pdf(arrays["random_variable"], mean, covariance[:, None]), **TOLERANCE["float64"])


def test_reading_is_undone_and_nests():
    array = nd([1.0])
    assert not is_constant(array)
    with reading(lambda array: True):
        with reading(lambda array: False):
            assert not is_constant(array)
        assert is_constant(array)
    assert not is_constant(array)
    with pytest.raises(ZeroDivisionError), reading(lambda array: True):
        raise ZeroDivisionError
    assert not is_constant(array)


def test_reading_is_of_one_thread():
    seen, array = [], nd([1.0])
    with reading(lambda array: True):
        thread = threading.Thread(target=lambda: seen.append(is_constant(array)))
        thread.start()
        thread.join()
    assert seen == [False]


def test_data_that_change_are_not_read(monkeypatch, rng):
    arrays, covariance = draw(rng, "shared", "covariance")
    factor = as_factor(MultivariateNormal, arrays)
    variables = {variable.uuid: nd(arrays[name]) for name, variable in factor.inputs + factor.outputs}
    monkeypatch.setattr(statistics, "compress", lambda *arguments: pytest.fail("data were read"))
    with reading(lambda array: False), autograd.record():
        total = factor.total_log_pdf(mx.nd, variables)
    assert_close(total, expected_total(arrays, covariance), **TOLERANCE["float64"])
