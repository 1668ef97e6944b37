# SPDX-License-Identifier: Apache-2.0
"""Missing entries: densities, gradients and what was missing, one row at a time by SciPy."""

from mxfusion_mvn import Gaussian, MultivariateNormal, NotPositiveDefiniteError
from mxfusion_mvn.inference import CompiledLoop
from mxfusion_mvn.missing import PartlyObserved
from mxfusion_mvn.totals import patterns
from mxfusion_mvn.transformations import PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import MAP, GradBasedInference, MinibatchInferenceLoop
from scipy.stats import multivariate_normal

from helpers import oracles
from helpers.fitting import fit_at_rates
from helpers.host import declare, nd
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

DIM = 4
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def row_log_pdf(value, mean, covariance):
    seen = ~np.isnan(value)
    if not seen.any():
        return 0.0
    return multivariate_normal.logpdf(value[seen], mean[seen], covariance[np.ix_(seen, seen)])


def expected_log_pdf(value, mean, covariance):
    """All leading axes broadcast; one SciPy call per row."""
    leading = np.broadcast_shapes(value.shape[:-1], mean.shape[:-1], covariance.shape[:-2])
    value, mean = (np.broadcast_to(a, leading + a.shape[-1:]) for a in (value, mean))
    covariance = np.broadcast_to(covariance, leading + covariance.shape[-2:])
    return np.reshape([row_log_pdf(value[i], mean[i], covariance[i]) for i in np.ndindex(leading)], leading)


def conditional(value, mean, covariance):
    """Mean and covariance of the whole vector given its observed entries."""
    seen = ~np.isnan(value)
    gain = covariance[:, seen] @ np.linalg.pinv(covariance[np.ix_(seen, seen)])
    return mean + gain @ (value - mean)[seen], covariance - gain @ covariance[seen]


def with_holes(rng, shape, share=0.35):
    """Rows with entries missing at random, among them a complete and an empty one."""
    value = rng.normal(size=shape)
    value[rng.random(shape) < share] = np.nan
    value.reshape(-1, shape[-1])[0] = rng.normal(size=shape[-1])
    value.reshape(-1, shape[-1])[1] = np.nan
    return value


# mean (leading), matrix (leading), value (leading)
LAYOUTS = {
    "shared": ((), (), (40,)),
    "one vector": ((), (), ()),
    "mean per row": ((40,), (), (40,)),
    "matrix per row": ((), (40,), (40,)),
    "samples": ((3, 1), (3, 1), (40,)),
    "samples of the mean": ((3, 40), (), (40,)),
    "samples of the matrix, as many as rows": ((), (5, 1), (5,)),
    "two batch axes": ((1, 7), (), (5, 7)),
    "everything": ((3, 5, 7), (3, 5, 7), (5, 7)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_log_pdf_is_that_of_the_observed_entries(name, rng):
    of_mean, of_matrix, of_value = LAYOUTS[name]
    mean, covariance = rng.normal(size=of_mean + (DIM,)), oracles.random_spd(rng, of_matrix, DIM)
    value = with_holes(rng, of_value + (DIM,)) if of_value else np.array([0.5, np.nan, -1.0, np.nan])
    got = PartlyObserved(Gaussian(nd(mean), covariance=nd(covariance)), nd(value)).log_pdf()
    expected = expected_log_pdf(value, mean, covariance)
    assert_close(got, expected if expected.shape else expected[None], **EXACT)


@pytest.mark.parametrize("dim", [1, 2, 70])
def test_any_number_of_entries(dim, rng):
    value, covariance = with_holes(rng, (30, dim)), oracles.random_spd(rng, (), dim)
    got = PartlyObserved(Gaussian(nd(np.zeros(dim)), covariance=nd(covariance)), nd(value)).log_pdf()
    assert_close(got, expected_log_pdf(value, np.zeros(dim), covariance), **EXACT)


def test_one_factor_for_each_pattern(rng, monkeypatch):
    factored = []
    potrf = mx.nd.linalg.potrf
    monkeypatch.setattr(mx.nd.linalg, "potrf", lambda a, **kwargs: factored.append(a.shape) or potrf(a, **kwargs))
    value = rng.normal(size=(500, DIM))
    value[100:200, 1] = np.nan
    value[200:203, 2:] = np.nan
    PartlyObserved(Gaussian(nd(np.zeros(DIM)), covariance=nd(np.eye(DIM))), nd(value)).log_pdf()
    assert sum(shape[1] for shape in factored) == 3


@pytest.mark.parametrize("form", ["covariance", "precision", "scale_tril"])
@pytest.mark.parametrize("sizes", [(1, 20), (5, 5)], ids=str)
def test_gradients_equal_central_differences(form, sizes, rng):
    samples, rows = sizes
    value = with_holes(rng, (rows, DIM))
    mean = rng.normal(size=(samples, DIM))
    matrix = oracles.FROM_COVARIANCE[form](oracles.random_spd(rng, (samples,), DIM, condition=10))
    model = Model()
    model.mean, model.matrix = Variable(shape=(DIM,)), Variable(shape=(DIM, DIM))
    model.X = MultivariateNormal(model.mean, **{form: model.matrix}, shape=(rows, DIM), missing=True, dtype="float64")
    variables = {model.mean.uuid: nd(mean), model.matrix.uuid: nd(matrix), model.X.uuid: nd(value[None])}
    for leaf in variables.values():
        leaf.attach_grad()
    weights = rng.normal(size=(samples, rows))
    with mx.autograd.record():
        log_pdf = model.X.factor.log_pdf(mx.nd, variables)
        mx.nd.sum(log_pdf * nd(weights)).backward()

    def objective(mean, matrix):
        covariance = oracles.TO_COVARIANCE[form](matrix)[:, None]
        return np.sum(weights * expected_log_pdf(value, mean[:, None], covariance))

    assert log_pdf.shape == (samples, rows)
    of_mean = oracles.central_difference(lambda a: objective(a, matrix), mean)
    of_matrix = oracles.central_difference(lambda a: objective(mean, a), matrix, symmetrical=form != "scale_tril")
    assert_close(variables[model.mean.uuid].grad, of_mean, **GRADIENT_TOLERANCE)
    of_matrix = np.tril(of_matrix) if form == "scale_tril" else of_matrix
    assert_close(variables[model.matrix.uuid].grad, of_matrix, **GRADIENT_TOLERANCE)
    of_value = variables[model.X.uuid].grad.asnumpy()[0]
    assert np.isfinite(of_value).all()
    assert (of_value[np.isnan(value)] == 0).all()


@pytest.mark.parametrize("chunk", [1, 2**20], ids=["a pattern at a time", "all patterns"])
@pytest.mark.parametrize("rows", ["short", "long"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_of_rows_in_any_layout(name, rows, chunk, rng, monkeypatch):
    """Along a random direction. Long: a pattern has more rows than entries."""
    monkeypatch.setattr(patterns, "_CHUNK", chunk)
    of_mean, of_matrix, of_value = LAYOUTS[name]
    mean, covariance = rng.normal(size=of_mean + (DIM,)), oracles.random_spd(rng, of_matrix, DIM, condition=10)
    value = with_holes(rng, of_value + (DIM,)) if of_value else np.array([0.5, np.nan, -1.0, np.nan])
    if rows == "long":
        value = np.where(np.arange(DIM) == 1, np.nan, rng.normal(size=value.shape))
    steps = (
        rng.normal(size=mean.shape),
        oracles.symmetric(rng.normal(size=covariance.shape)),
        rng.normal(size=value.shape),
    )
    weights = rng.normal(size=expected_log_pdf(value, mean, covariance).shape)
    leaves = [nd(mean), nd(covariance), nd(value)]
    for leaf in leaves:
        leaf.attach_grad()
    with mx.autograd.record():
        log_pdf = PartlyObserved(Gaussian(leaves[0], covariance=leaves[1]), leaves[2], on_failure=None).log_pdf()
        mx.nd.sum(log_pdf * nd(weights if weights.shape else weights[None])).backward()
    found = sum(np.sum(np.nan_to_num(leaf.grad.asnumpy()) * step) for leaf, step in zip(leaves, steps))

    def along(length):
        moved = [array + length * step for array, step in zip((mean, covariance, value), steps)]
        return np.sum(weights * expected_log_pdf(moved[2], moved[0], moved[1]))

    assert_close(found, oracles.central_difference(lambda a: along(a[()]), np.array(0.0)), **GRADIENT_TOLERANCE)


def test_complete_data_have_the_ordinary_density(dtype, rng):
    value, covariance = rng.normal(size=(20, DIM)), oracles.random_spd(rng, (), DIM)
    variables = {}
    densities = []
    for missing in (False, True):
        model = declare(lambda **kw: MultivariateNormal(missing=missing, **kw), (20, DIM), dtype, covariance=(DIM, DIM))  # noqa: B023
        variables = {model.covariance.uuid: nd(covariance[None], dtype), model.X.uuid: nd(value[None], dtype)}
        mean = model.X.factor.mean
        variables[mean.uuid] = mean.constant.expand_dims(0)
        densities.append(model.X.factor.log_pdf(mx.nd, variables).asnumpy())
    assert_close(densities[1], densities[0], **TOLERANCE[dtype])


@pytest.mark.parametrize("of_value", [(30,), (2, 15)], ids=str)
def test_what_was_missing(of_value, rng):
    mean, covariance = rng.normal(size=DIM), oracles.random_spd(rng, (), DIM)
    value = with_holes(rng, of_value + (DIM,))
    partly = PartlyObserved(Gaussian(nd(mean), covariance=nd(covariance)), nd(value))
    filled, (covariances, index) = partly.mean(), partly.covariance()
    assert filled.shape == value.shape
    variances = partly.variance()
    assert index.shape == of_value
    for row in np.ndindex(of_value):
        expected_mean, expected_covariance = conditional(value[row], mean, covariance)
        assert_close(filled[row], expected_mean, **EXACT)
        assert_close(covariances[int(index[row])], expected_covariance, **EXACT)
        assert_close(variances[row], np.diag(expected_covariance), **EXACT)
        seen = ~np.isnan(value[row])
        assert (filled[row].asnumpy()[seen] == value[row][seen]).all()


def test_draws_of_what_was_missing(rng):
    count = 20000
    mean, covariance = rng.normal(size=DIM), oracles.random_spd(rng, (), DIM)
    value = with_holes(rng, (6, DIM))
    draws = PartlyObserved(Gaussian(nd(mean), covariance=nd(covariance)), nd(value)).draw_samples(count).asnumpy()
    assert draws.shape == (count, 6, DIM)
    for row in range(6):
        expected_mean, expected = conditional(value[row], mean, covariance)
        holes = np.isnan(value[row])
        assert (draws[:, row][:, ~holes] == value[row][~holes]).all()
        centred = (draws[:, row] - expected_mean)[:, holes]
        products = centred[:, :, None] * centred[:, None, :]
        if holes.any():
            assert np.abs(centred.mean(0) / (centred.std(0) / np.sqrt(count))).max() < 5
            gap = products.mean(0) - expected[np.ix_(holes, holes)]
            assert np.abs(gap / (products.std(0) / np.sqrt(count))).max() < 5


def test_a_draw_from_given_noise(rng):
    """Matheron's rule written out for one row."""
    mean, covariance = rng.normal(size=DIM), oracles.random_spd(rng, (), DIM)
    value, noise = np.array([0.3, np.nan, 1.0, np.nan]), rng.normal(size=(1, DIM))
    prior = np.linalg.cholesky(covariance) @ noise[0]
    seen = ~np.isnan(value)
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    expected = mean + prior + gain @ ((value - mean - prior)[seen])
    partly = PartlyObserved(Gaussian(nd(mean), covariance=nd(covariance)), nd(value))
    assert_close(partly.draw_samples(noise=nd(noise)), expected, **EXACT)


def incomplete_model(dtype="float64", missing=True):
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(3,))
    model.C = Variable(shape=(3, 3), transformation=PositiveDefinite(), initial_value=nd(np.eye(3), dtype))
    model.X = MultivariateNormal(model.mean, model.C, shape=(model.N, 3), missing=missing, dtype=dtype)
    return model


def em(data, iterations=300):
    """Maximum likelihood with missing entries (Little and Rubin, Statistical Analysis with Missing Data, 11.2)."""
    mean, covariance = np.nanmean(data, axis=0), np.diag(np.nanvar(data, axis=0))
    for _ in range(iterations):
        parts = [conditional(row, mean, covariance) for row in data]
        filled = np.stack([m for m, _ in parts])
        mean = filled.mean(0)
        covariance = (filled - mean).T @ (filled - mean) / len(data) + np.mean([c for _, c in parts], axis=0)
    return mean, covariance


@pytest.mark.parametrize("copied", [lambda model: model, lambda model: model.clone()], ids=["model", "clone"])
def test_map_is_the_fixed_point_of_em(copied, rng):
    data = rng.multivariate_normal([1.0, 2.0, 3.0], oracles.random_spd(rng, (), 3, condition=10), size=80)
    data[rng.random(data.shape) < 0.25] = np.nan
    model = copied(incomplete_model())
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64")
    fit_at_rates(inference, nd(data), max_iter=200)
    mean, covariance = em(data)
    assert_close(inference.params[model.mean], mean, rtol=0, atol=1e-3)
    assert_close(inference.params[model.C], covariance, rtol=0, atol=1e-3)


def test_minibatches(rng):
    """The patterns of a batch are its own, and its number of rows may change."""
    data = rng.multivariate_normal(np.zeros(3), np.eye(3) + 0.5, size=210)
    data[rng.random(data.shape) < 0.2] = np.nan
    model = incomplete_model()
    loop = MinibatchInferenceLoop(batch_size=50, rv_scaling={model.X: 4.2})
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=loop, dtype="float64")
    for rate in (0.1, 0.01):
        inference.run(X=nd(data), learning_rate=rate, max_iter=30)
    mean, covariance = em(data, 100)
    assert_close(inference.params[model.mean], mean, rtol=0, atol=0.1)
    assert_close(inference.params[model.C], covariance, rtol=0, atol=0.25)


def test_nan_without_missing_is_reported_by_name(rng):
    data = rng.normal(size=(5, 3))
    data[2, 1] = np.nan
    model = incomplete_model(missing=False)
    inference = GradBasedInference(MAP(model, [model.X]), dtype="float64")
    with pytest.raises(InferenceError, match=r"`X` is nan at index \(2, 1\).*missing=True"):
        inference.run(X=nd(data), max_iter=1, learning_rate=0.0)


def test_a_covariance_that_is_not_positive_definite_is_named():
    model = declare(lambda **kw: MultivariateNormal(missing=True, **kw), (2, 2), "float64", covariance=(2, 2))
    mean = model.X.factor.mean
    variables = {
        model.covariance.uuid: nd(np.array([[[1.0, 2.0], [2.0, 1.0]]])),
        model.X.uuid: nd(np.array([[[1.0, np.nan], [0.0, 0.0]]])),
        mean.uuid: mean.constant.expand_dims(0),
    }
    with pytest.raises(NotPositiveDefiniteError, match="`covariance` of variable `X` is not positive definite"):
        model.X.factor.log_pdf(mx.nd, variables)


def test_leading_axes_that_do_not_meet_are_refused(rng):
    with pytest.raises(ValueError, match=r"`value`: got leading axes \(5,\); expected those of the Gaussian, \(4,\)"):
        PartlyObserved(Gaussian(nd(rng.normal(size=(4, 3))), covariance=nd(np.eye(3))), nd(rng.normal(size=(5, 3))))
