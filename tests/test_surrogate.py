# SPDX-License-Identifier: Apache-2.0
"""Totals with their gradients in closed form: values, gradients, executors, and what is refused."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.compiler.graph import DATA, PARAMETER, leaf
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.tracing import tracing
from mxfusion_mvn.totals import closed_form
from mxfusion_mvn.totals.summed import reading

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Variable
from mxnet import autograd

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close

FORMS = ("covariance", "precision", "scale_tril")
# Leading axes of x, mean and matrix.
LAYOUTS = {
    "one vector": ((), (), ()),
    "many rows": ((20,), (), ()),
    "as many rows as entries": ((4,), (), ()),
    "mean per row": ((6,), (6,), ()),
    "matrix per row": ((5,), (5,), (5,)),
    "few rows for each matrix": ((2, 5), (5,), (5,)),
    "many rows for each matrix": ((2, 9), (2, 1), (2, 1)),
    "means of groups": ((3, 7), (3, 1), ()),
    "one vector under many means": ((), (6,), ()),
    "one vector under many matrices": ((), (), (6,)),
    "rows under many means": ((1, 8), (3, 1), ()),
    "rows under many means and matrices": ((1, 1, 8), (2, 3, 1), (3, 1)),
}


def draw(rng, name, form, dim=4):
    of_x, of_mean, of_matrix = LAYOUTS[name]
    matrix = oracles.FROM_COVARIANCE[form](oracles.random_spd(rng, of_matrix, dim))
    return {"x": rng.normal(size=of_x + (dim,)), "mean": rng.normal(size=of_mean + (dim,)), form: matrix}


def expected_total(form, **arrays):
    return oracles.log_pdf(arrays["x"], arrays["mean"], oracles.TO_COVARIANCE[form](arrays[form])).sum()


def total_log_pdf(x, mean, **matrix):
    """The total of a distribution without Monte Carlo samples, whose random variable has all leading axes."""
    ((form, array),) = matrix.items()
    leading = np.broadcast_shapes(x.shape[:-1], mean.shape[:-1], array.shape[:-2])
    if x.ndim > 1 and x.shape[:-1] != leading:
        x = x.broadcast_to(leading + x.shape[-1:])
    inputs = {"mean": Variable(shape=mean.shape), form: Variable(shape=array.shape)}
    factor = MultivariateNormal(**inputs, shape=leading + x.shape[-1:]).factor
    held = {"mean": mean, form: array, "random_variable": x}
    variables = {variable.uuid: held[name].expand_dims(0) for name, variable in factor.inputs + factor.outputs}
    return factor.total_log_pdf(mx.nd, variables)


def value_and_gradients(arrays, dtype="float64", head=1.0):
    held = {name: nd(array, dtype) for name, array in arrays.items()}
    for array in held.values():
        array.attach_grad()
    with autograd.record():
        total = total_log_pdf(**held)
        (head * total).backward()
    return total, {name: array.grad.asnumpy() for name, array in held.items()}


@pytest.fixture
def is_closed(monkeypatch):
    """A list that gets an entry for each use of the closed form."""
    used, total = [], closed_form.total
    monkeypatch.setattr(closed_form, "total", lambda *arguments: used.append(1) or total(*arguments))
    return used


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_total_is_scipys(name, form, dtype, is_closed, rng):
    arrays = draw(rng, name, form)
    total, _ = value_and_gradients(arrays, dtype)
    assert is_closed
    assert total.dtype == np.dtype(dtype)
    assert_close(total, [expected_total(form, **arrays)], **TOLERANCE[dtype])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_are_central_differences(name, form, is_closed, rng):
    arrays = draw(rng, name, form, dim=3)
    _, gradients = value_and_gradients(arrays, head=-0.5)
    assert is_closed
    for name, got in gradients.items():
        expected = -0.5 * oracles.central_difference(
            lambda array, name=name: expected_total(form, **{**arrays, name: array}),
            arrays[name],
            symmetrical=name in FORMS[:2],
        )
        expected = np.tril(expected) if name == "scale_tril" else expected
        assert_close(got, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["many rows", "matrix per row", "rows under many means and matrices"])
def test_gradients_are_those_of_autograd_to_rounding(name, form, monkeypatch, rng):
    arrays = draw(rng, name, form)
    _, closed = value_and_gradients(arrays)
    monkeypatch.setattr(closed_form, "pays", lambda rows, matrix: False)
    _, derived = value_and_gradients(arrays)
    for name in arrays:
        assert_close(closed[name], derived[name], rtol=1e-12, atol=1e-12 * np.abs(derived[name]).max())


def test_gradients_of_an_ill_conditioned_covariance_in_float32(rng):
    """The condition number enters once, not twice: 1e6 leaves a digit of seven, and squared would leave none."""
    covariance = oracles.random_spd(rng, (), 4, condition=1e6)
    x = rng.normal(size=(50, 4)) @ np.linalg.cholesky(covariance).T
    arrays = {"x": x, "mean": np.zeros(4), "scale_tril": np.linalg.cholesky(covariance)}
    arrays = {name: array.astype("float32").astype("float64") for name, array in arrays.items()}
    _, exact = value_and_gradients(arrays)
    _, got = value_and_gradients(arrays, "float32")
    for name in ("mean", "scale_tril"):
        assert_close(got[name], exact[name], rtol=1e-3, atol=1e-3 * np.abs(exact[name]).max())


@pytest.mark.parametrize("entry", [0, 5])
def test_upper_triangle_of_a_factor_has_no_say(entry, rng):
    arrays = draw(rng, "many rows", "scale_tril")
    clean, gradients = value_and_gradients(arrays)
    arrays["scale_tril"] = arrays["scale_tril"] + entry * np.triu(np.ones((4, 4)), 1)
    total, with_rubbish = value_and_gradients(arrays)
    assert_close(total, clean.asnumpy(), rtol=1e-14)
    assert not np.triu(with_rubbish["scale_tril"], 1).any()
    assert_close(with_rubbish["scale_tril"], gradients["scale_tril"], rtol=1e-14)


def test_negative_diagonal_of_a_factor(rng):
    arrays = draw(rng, "many rows", "scale_tril")
    arrays["scale_tril"][:, 1] *= -1
    total, gradients = value_and_gradients(arrays)
    assert_close(total, [expected_total("scale_tril", **arrays)], **TOLERANCE["float64"])
    expected = oracles.central_difference(
        lambda factor: expected_total("scale_tril", **{**arrays, "scale_tril": factor}), arrays["scale_tril"]
    )
    assert_close(gradients["scale_tril"], np.tril(expected), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of", ["x", "mean", "matrix"])
def test_second_derivative_is_refused(form, of, is_closed, rng):
    for name in ("many rows", "as many rows as entries", "matrix per row"):
        held = {key: nd(array) for key, array in draw(rng, name, form).items()}
        for array in held.values():
            array.attach_grad()
        with autograd.record():
            total = total_log_pdf(**held)
            target = held[form if of == "matrix" else of]
            gradient = autograd.grad(total, [target], create_graph=True, retain_graph=True)[0]
            squared = (gradient * gradient).sum()
        with pytest.raises(mx.base.MXNetError, match="non-differentiable|because it is not in a computational graph"):
            squared.backward()
    assert is_closed


def test_second_derivative_by_another_array_is_refused(is_closed, rng):
    held = {name: nd(array) for name, array in draw(rng, "many rows", "covariance").items()}
    for array in held.values():
        array.attach_grad()
    with autograd.record():
        total = total_log_pdf(**held)
        gradient = autograd.grad(total, [held["mean"]], create_graph=True, retain_graph=True)[0]
        with pytest.raises(mx.base.MXNetError, match="Cannot differentiate with respect"):
            autograd.grad(gradient.sum(), [held["covariance"]])
    assert is_closed


def test_arrays_by_way_of_views_and_joins(rng):
    """MXNet's own BlockGrad crashes the process in the backward pass of these."""
    rows, factor = nd(rng.normal(size=(6, 4))), nd(np.tril(rng.normal(size=(4, 4))) + 3 * np.eye(4))
    rows.attach_grad()
    factor.attach_grad()
    with autograd.record():
        joined = mx.nd.concat(rows, rows, dim=0)
        total_log_pdf(joined, rows[0], scale_tril=factor.swapaxes(0, 1).swapaxes(0, 1)).backward()
    assert np.abs(factor.grad.asnumpy()).max() > 0
    assert np.abs(rows.grad.asnumpy()).max() > 0


def traced(arrays, parameters):
    for name in parameters:
        arrays[name].attach_grad()
    leaves = [leaf(PARAMETER if name in parameters else DATA, array, name) for name, array in arrays.items()]
    with tracing(leaves) as trace, reading(lambda array: not trace.is_traced(array)), autograd.record():
        total = total_log_pdf(**arrays)
    return trace.graph(total, total)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["many rows", "many rows for each matrix"])
def test_executor_gives_the_same(name, form, is_closed, rng):
    arrays = draw(rng, name, form)
    total, gradients = value_and_gradients(arrays)
    held = {key: nd(array) for key, array in arrays.items()}
    graph = traced(held, ("mean", form))
    receivers = {key: mx.nd.zeros_like(held[key]) for key in ("mean", form)}
    program = Program(graph, held, receivers, mx.cpu())
    program.run()
    program.deliver()
    assert len(is_closed) == 2
    assert_close(program.loss, total.asnumpy(), rtol=1e-14)
    for key, receiver in receivers.items():
        assert_close(receiver, gradients[key], rtol=1e-12, atol=1e-12)


def test_executor_has_no_backward_pass_of_the_factorisation(rng):
    """Every differentiable path from a parameter is a product with a constant."""
    graph = traced({name: nd(array) for name, array in draw(rng, "many rows", "covariance").items()}, ("covariance",))
    differentiable = {node for node in graph.nodes if node.operator == PARAMETER}
    for node in graph.nodes:
        if node.operator != "BlockGrad" and any(source in differentiable for source, _ in node.inputs):
            differentiable.add(node)
    operators = {node.operator for node in graph.nodes if node in differentiable}
    assert not any(operator.startswith("_linalg") for operator in operators)


def test_matrix_shared_by_samples_is_left_to_autograd(is_closed, rng):
    """Its gradient for each sample by itself would be a matrix for each."""
    from mxfusion_mvn.totals.statistics import all_rows

    matrix = nd(oracles.random_spd(rng, (1, 1), 3))
    matrix.attach_grad()
    with autograd.record():
        rows = all_rows(nd(rng.normal(size=(1, 9, 3))), nd(rng.normal(size=(4, 1, 3))), (1, 1))
        assert not closed_form.pays(rows, matrix * 1)
        rows = all_rows(nd(rng.normal(size=(1, 9, 3))), nd(rng.normal(size=(1, 1, 3))), (1, 1))
        assert closed_form.pays(rows, matrix * 1)
    assert not closed_form.pays(rows, matrix)
