# SPDX-License-Identifier: Apache-2.0
"""Functions of variables: values for every layout of samples and batches, copies, models, and what they refuse."""

import copy
import pickle

from mxfusion_mvn import LKJCholesky, MultivariateNormal
from mxfusion_mvn.functions import linear, scale_rows
from mxfusion_mvn.inference import MAP, create_Gaussian_fullrank

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components.functions.operators import dot
from mxfusion.inference import GradBasedInference, StochasticVariationalInference

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close

# Samples of the design and of the weights, and the number of observations; with as many samples as observations, a
# sample axis taken for another would go unnoticed elsewhere.
SAMPLES = [(1, 1, 4), (1, 4, 4), (4, 4, 4), (4, 1, 4), (1, 3, 5), (3, 3, 2), (2, 2, 2)]


def evaluate(output, arrays):
    """The value of the output of a function at arrays (S or 1, ...) by name."""
    function = output.factor
    variables = {variable.uuid: arrays[name] for name, variable in function.inputs}
    return function.eval(F=mx.nd, variables=variables)


def for_each_sample(function, *arrays):
    """Stack of a NumPy function of single arrays, over the leading axis, along which 1 broadcasts."""
    samples = max(len(array) for array in arrays)
    return np.stack([function(*(array[i % len(array)] for array in arrays)) for i in range(samples)])


# Linear predictors


@pytest.mark.parametrize("samples", SAMPLES, ids=str)
@pytest.mark.parametrize("responses", [None, 1, 4])
def test_linear_is_the_matrix_product_of_each_sample(samples, responses, dtype, rng):
    of_design, of_weights, rows = samples
    design = rng.normal(size=(of_design, rows, 3))
    weights = rng.normal(size=(of_weights,) + ((3,) if responses is None else (responses, 3)))
    output = linear(Variable(shape=(rows, 3)), Variable(shape=weights.shape[1:]))
    got = evaluate(output, {"design": nd(design, dtype), "weights": nd(weights, dtype)})
    assert got.dtype == np.dtype(dtype)
    assert_close(got, for_each_sample(lambda x, w: x @ np.atleast_2d(w).T, design, weights), **TOLERANCE[dtype])


@pytest.mark.parametrize("samples", SAMPLES, ids=str)
def test_linear_with_groups_takes_the_weights_of_each_group(samples, dtype, rng):
    of_design, of_weights, rows = samples
    design, weights = rng.normal(size=(of_design, rows, 3)), rng.normal(size=(of_weights, 4, 3))
    groups = rng.integers(4, size=rows)
    output = linear(Variable(shape=(rows, 3)), Variable(shape=(4, 3)), groups=groups)
    got = evaluate(output, {"design": nd(design, dtype), "weights": nd(weights, dtype)})
    expected = for_each_sample(lambda x, w: np.sum(x * w[groups], axis=-1, keepdims=True), design, weights)
    assert_close(got, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("groups", [None, [2, 0, 2, 1]])
def test_gradients_of_linear_equal_differences(groups, rng):
    arrays = {"design": rng.normal(size=(1, 4, 3)), "weights": rng.normal(size=(2, 3, 3))}
    output = linear(Variable(shape=(4, 3)), Variable(shape=(3, 3)), groups=groups)
    check_gradients(output, arrays, rng)


# Scaled rows


@pytest.mark.parametrize("samples", SAMPLES, ids=str)
@pytest.mark.parametrize("batches", [((), ()), ((2,), (2,)), ((2,), ()), ((), (4,))], ids=str)
def test_scale_rows_is_a_product_with_a_diagonal_matrix(samples, batches, dtype, rng):
    of_factor, of_scales, dim = samples
    factor = rng.normal(size=(of_factor,) + batches[0] + (dim, dim))
    scales = rng.normal(size=(of_scales,) + batches[1] + (dim,))
    output = scale_rows(Variable(shape=factor.shape[1:]), Variable(shape=scales.shape[1:]))
    got = evaluate(output, {"factor": nd(factor, dtype), "scales": nd(scales, dtype)})
    assert got.dtype == np.dtype(dtype)
    expected = for_each_sample(lambda f, s: s[..., None] * np.eye(dim) @ f, factor, scales)
    assert_close(got, expected, **TOLERANCE[dtype])


def test_one_scale_for_all_rows(rng):
    factor = rng.normal(size=(1, 3, 3))
    got = evaluate(scale_rows(nd(factor[0]), 2.0), {"factor": nd(factor), "scales": nd([[2.0]])})
    assert_close(got, 2 * factor, rtol=1e-15)


def test_gradients_of_scale_rows_equal_differences(rng):
    arrays = {"factor": rng.normal(size=(2, 3, 3)), "scales": rng.normal(size=(1, 4, 3))}
    check_gradients(scale_rows(Variable(shape=(3, 3)), Variable(shape=(4, 3))), arrays, rng)


def check_gradients(output, arrays, rng):
    weights = rng.normal(size=evaluate(output, {name: nd(a) for name, a in arrays.items()}).shape)
    inputs = {name: nd(array) for name, array in arrays.items()}
    for array in inputs.values():
        array.attach_grad()
    with mx.autograd.record():
        total = mx.nd.sum(evaluate(output, inputs) * nd(weights))
    total.backward()
    for name, array in arrays.items():

        def value(x, name=name):
            changed = {**inputs, name: nd(x)}
            return float(np.sum(evaluate(output, changed).asnumpy() * weights))

        expected = oracles.central_difference(value, array, step=1e-2)
        assert_close(inputs[name].grad, expected, rtol=1e-10, atol=1e-10)


# Inputs


def test_of_two_dtypes_the_wider_counts(rng):
    design, weights = rng.normal(size=(1, 4, 3)), rng.normal(size=(2, 3))
    output = linear(Variable(shape=(4, 3)), Variable(shape=(3,)))
    got = evaluate(output, {"design": nd(design, "float32"), "weights": nd(weights, "float64")})
    assert got.dtype == np.dtype("float64")
    expected = design.astype("float32").astype("float64") @ weights[:, :, None]
    assert_close(got, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("given", "expected"), [(None, "float32"), ("float64", "float64")])
def test_the_dtype_of_constants(given, expected):
    (_, design), _ = linear(np.eye(2), Variable(shape=(2,)), dtype=given).factor.inputs
    assert design.constant.dtype == np.dtype(expected)
    (_, factor), _ = scale_rows(np.eye(2), Variable(shape=(2,)), dtype=given).factor.inputs
    assert factor.constant.dtype == np.dtype(expected)


MISFITS = [
    (lambda x: linear(x, Variable(shape=(3,))), r"got shapes \(4, 2\) and \(3,\); expected \(N, P\), and \(P,\) or"),
    (lambda x: linear(x[None], Variable(shape=(2,))), r"got shapes \(1, 4, 2\) and \(2,\); expected \(N, P\)"),
    (lambda x: linear(x, Variable(shape=(5, 3, 2))), r"got shapes \(4, 2\) and \(5, 3, 2\)"),
    (
        lambda x: linear(x, Variable(shape=(3, 2)), groups=[0, 1, 2, 3]),
        r"`design` and `weights`: got shapes \(4, 2\) and \(3, 2\); expected .* with N = 4 and J > 3, as `groups` has",
    ),
    (lambda x: linear(x, Variable(shape=(3, 2)), groups=[0]), r"with N = 1 and J > 0, as `groups` has it"),
    (
        lambda x: linear(x, Variable(shape=(2,)), groups=[0, 1, 0, 1]),
        r"got shapes \(4, 2\) and \(2,\); expected .*J > 1",
    ),
    (lambda x: linear(x[0], Variable(shape=(2,))), r"`design`: got shape \(2,\); expected a matrix"),
    (lambda x: linear(x.tolist(), Variable(shape=(2,))), r"`design`: got a list; expected a Variable, an NDArray"),
    (lambda x: linear(x, Variable(shape=(2, 2)), groups=[0.5, 1]), r"`groups`: got an array \(2,\) of float64; exp"),
    (
        lambda x: linear(x, Variable(shape=(2, 2)), groups=[0, -1]),
        r"`groups`: got .*; expected integers \(N,\).*np\.uni",
    ),
    (lambda x: linear(x, Variable(shape=(2, 2)), groups=[[0, 1]]), r"`groups`: got an array \(1, 2\)"),
    (lambda x: linear(x, Variable(shape=(2, 2)), groups=np.array([], int)), r"`groups`: got an array \(0,\)"),
    (lambda x: scale_rows(x, Variable(shape=(2,))), r"`factor`: got shape \(4, 2\); expected square matrices"),
    (
        lambda x: scale_rows(np.eye(3), x),
        r"`factor` and `scales`: got shapes \(3, 3\) and \(4, 2\); expected \(B..., D",
    ),
    (lambda x: scale_rows(np.eye(2), None), r"`scales`: got a NoneType; expected a Variable"),
]


@pytest.mark.parametrize(("define", "message"), MISFITS)
def test_refused_at_definition(define, message):
    with pytest.raises(ModelSpecificationError, match=message):
        define(np.ones((4, 2)))


def test_sizes_that_are_not_known_at_definition_are_refused_at_run_time():
    rows, groups = Variable(), Variable()
    output = linear(Variable(shape=(rows, 3)), Variable(shape=(groups, 3)), groups=[0, 2])
    arrays = {"design": mx.nd.ones((1, 2, 3)), "weights": mx.nd.ones((5, 2, 3))}
    with pytest.raises(InferenceError, match=r"got shapes \(2, 3\) and \(2, 3\); expected .*with N = 2 and J > 2"):
        evaluate(output, arrays)
    factor = scale_rows(scale_rows(np.eye(3), 2.0), Variable(shape=(2,)))  # the shape of a function is not known
    with pytest.raises(InferenceError, match=r"`factor` and `scales`: got shapes \(3, 3\) and \(2,\)"):
        evaluate(factor, {"factor": mx.nd.ones((1, 3, 3)), "scales": mx.nd.ones((1, 2))})


# In models


def grouped_model(design, groups, dtype="float64"):
    """Rows of coefficients, one for each group, whose covariance is a scaled correlation matrix."""
    model = Model()
    model.factor = LKJCholesky(2.0, shape=(2, 2), dtype=dtype)
    model.scales = Variable(shape=(2,), initial_value=nd([0.5, 2.0], dtype))
    model.scale_tril = scale_rows(model.factor, model.scales)
    model.w = MultivariateNormal(scale_tril=model.scale_tril, shape=(3, 2), dtype=dtype)
    model.eta = linear(design, model.w, groups=groups, dtype=dtype)
    model.Y = MultivariateNormal(mean=model.eta, shape=(len(design), 1), dtype=dtype)
    return model


def grouped_log_pdf(design, groups, factor, scales, weights, response):
    """log p(Y, w | factor, scales)."""
    root = np.diag(scales) @ factor
    log_pdf = oracles.log_pdf(weights, np.zeros(2), root @ root.T).sum()
    mean = np.sum(design * weights[groups], axis=1, keepdims=True)
    return log_pdf + oracles.log_pdf(response, mean, np.eye(1)).sum()


COPIES = {
    "itself": lambda model: model,
    "clone": lambda model: model.clone(),
    "clone of a clone": lambda model: model.clone().clone(),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("copied", sorted(COPIES))
def test_copies_of_a_model_have_the_same_density(copied, rng):
    design, groups = rng.normal(size=(6, 2)), np.array([0, 2, 1, 1, 0, 2])
    factor = np.linalg.cholesky(np.array([[1.0, -0.6], [-0.6, 1.0]]))
    weights, response = rng.normal(size=(3, 2)), rng.normal(size=(6, 1))
    model = COPIES[copied](grouped_model(design, groups))
    values = {"factor": factor, "scales": np.array([0.7, 1.3]), "w": weights, "Y": response}
    variables = {model[getattr(model, name).uuid].uuid: nd(value[None]) for name, value in values.items()}
    variables.update({v.uuid: v.constant.expand_dims(0) for v in model.get_constants()})
    total = model.log_pdf(F=mx.nd, variables=variables).asscalar()
    prior = np.log(0.75 * (1 - factor[1, 0] ** 2))  # LKJ(2) for D = 2: the correlation is Beta(2, 2) on (-1, 1)
    expected = prior + grouped_log_pdf(design, groups, factor, values["scales"], weights, response)
    assert total == pytest.approx(expected, rel=1e-10)


def test_inference_save_and_load(rng, tmp_path):
    """Parameters of a model with both functions are bit-identical after save and load, into a model built anew."""
    design, groups = rng.normal(size=(6, 2)), np.array([0, 2, 1, 1, 0, 2])
    response = nd(rng.normal(size=(6, 1)))

    def inference():
        model = grouped_model(design, groups)
        posterior = create_Gaussian_fullrank(model, [model.Y])
        algorithm = StochasticVariationalInference(3, model, posterior, [model.Y])
        return GradBasedInference(algorithm, dtype="float64"), model, posterior

    trained, model, posterior = inference()
    trained.run(Y=response, learning_rate=0.05, max_iter=5)
    path = str(tmp_path / "inference")
    trained.save(path)
    loaded, again, posterior_again = inference()
    loaded.initialize(Y=response)
    loaded.load(path)
    for get in (lambda m, q: m.scales, lambda m, q: q.joint_0.factor.mean, lambda m, q: q.joint_0.factor.below):
        before, after = trained.params[get(model, posterior)], loaded.params[get(again, posterior_again)]
        np.testing.assert_array_equal(before.asnumpy(), after.asnumpy())
        assert np.abs(before.asnumpy()).max() > 1e-3


def test_the_objective_is_that_of_the_hosts_product(rng):
    """The same regression with the host's own dot, one sample at a time."""
    design, response = nd(rng.normal(size=(6, 3))), nd(rng.normal(size=(6, 1)))
    fitted = []
    for ours in (True, False):
        model = Model()
        model.X = Variable(shape=(6, 3))
        model.w = MultivariateNormal(shape=(3,) if ours else (3, 1), covariance=1.0, dtype="float64")
        mean = linear(model.X, model.w) if ours else dot(model.X, model.w)
        model.Y = MultivariateNormal(mean=mean, covariance=0.3, shape=(6, 1), dtype="float64")
        algorithm = MAP(model, [model.X, model.Y])
        inference = GradBasedInference(algorithm, dtype="float64")
        inference.initialize(X=design, Y=response)
        inference.params[algorithm.location(model.w)] = mx.nd.zeros(model.w.shape, dtype="float64")
        inference.run(X=design, Y=response, learning_rate=0.05, max_iter=20)
        fitted.append(inference.params[algorithm.location(model.w)].asnumpy().ravel())
    assert_close(fitted[0], fitted[1], rtol=1e-10)
