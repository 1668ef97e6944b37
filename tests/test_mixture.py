# SPDX-License-Identifier: Apache-2.0
"""Mixtures of Gaussians: their density, their responsibilities, and how they are learned."""

from mxfusion_mvn import (
    Gaussian,
    GaussianMixture,
    mixture,
)
from mxfusion_mvn.inference import CompiledLoop
from mxfusion_mvn.transformations import PositiveDefinite, Simplex

import mpmath
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import MAP, GradBasedInference
from scipy.special import logsumexp
from scipy.stats import norm

from helpers import oracles
from helpers.fitting import fit_at_rates
from helpers.host import declare, nd
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close


def test_map_of_a_mixture_is_the_fixed_point_of_em(rng, tmp_path):
    centers = np.array([[0.0, 0.0], [4.0, 2.0]])
    data = centers[(rng.random(300) < 0.4).astype(int)] + rng.normal(size=(300, 2)) * [1.0, 0.5]

    def build():
        model = Model()
        model.N = Variable()
        start = nd(np.array([0.5, 0.5]))
        model.w = Variable(shape=(2,), transformation=Simplex(), initial_value=start)
        model.mean = Variable(shape=(2, 2), initial_value=nd(centers + 0.5))
        eyes = nd(np.stack([np.eye(2)] * 2))
        model.C = Variable(shape=(2, 2, 2), transformation=PositiveDefinite(), initial_value=eyes)
        model.X = GaussianMixture(model.w, model.mean, model.C, shape=(model.N, 2), dtype="float64")
        return model, GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64")

    model, inference = build()
    fit_at_rates(inference, nd(data), max_iter=200)
    weights, means, covariances = np.array([0.5, 0.5]), centers + 0.5, np.stack([np.eye(2)] * 2)
    for _ in range(300):
        terms = np.stack([np.log(w) + oracles.log_pdf(data, m, c) for w, m, c in zip(weights, means, covariances)], 1)
        share = np.exp(terms - logsumexp(terms, axis=1, keepdims=True))
        total = share.sum(0)
        weights, means = total / len(data), share.T @ data / total[:, None]
        centred = data[:, None] - means
        covariances = np.einsum("nk,nki,nkj->kij", share, centred, centred) / total[:, None, None]
    assert_close(inference.params[model.w], weights, rtol=0, atol=2e-3)
    assert_close(inference.params[model.mean], means, rtol=0, atol=5e-3)
    assert_close(inference.params[model.C], covariances, rtol=0, atol=1e-2)
    fitted = {v.uuid: inference.params[v].expand_dims(0) for v in (model.w, model.mean, model.C)}
    got = model.X.factor.responsibilities({**fitted, model.X.uuid: nd(data[None])})
    assert_close(got, share[None], rtol=0, atol=1e-2)
    assert_close(got.sum(-1), np.ones((1, 300)), rtol=1e-12)
    inference.save(str(tmp_path / "fit.zip"))
    other, loaded = build()
    loaded.initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    assert_close(loaded.params[other.C], inference.params[model.C].asnumpy(), rtol=0)


def test_a_weight_of_zero_has_a_gradient():
    weights, mean = nd(np.array([[1.0, 0.0]])), nd(np.array([[[0.0], [50.0]]]))
    model = declare(GaussianMixture, (3, 1), weights=(2,), mean=(2, 1))
    constant = model.X.factor.covariance
    variables = {model.weights.uuid: weights, model.mean.uuid: mean, constant.uuid: constant.constant.expand_dims(0)}
    variables[model.X.uuid] = nd(np.array([[[0.0], [1.0], [2.0]]]))
    weights.attach_grad()
    with mx.autograd.record():
        log_pdf = model.X.factor.log_pdf(mx.nd, variables)
        log_pdf.backward()
    assert_close(log_pdf, oracles.log_pdf(np.arange(3.0)[None, :, None], np.zeros(1), np.eye(1)), rtol=1e-12)
    assert_close(weights.grad, [[3.0, 0.0]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [0.3, 1e-30, 1e-36, 1e-100, 1e-300])
def test_a_component_of_tiny_weight(weight, dtype):
    smallest = float(np.finfo(dtype).tiny)
    weights = np.array([max(weight, smallest), 1 - weight])
    components = Gaussian(nd([[0.0], [100.0]], dtype), variance=nd([[1.0], [1.0]], dtype))
    got = mixture.log_pdf(nd([[0.5]], dtype), nd(weights, dtype), components)
    weights = nd(weights, dtype).asnumpy().astype("float64")
    expected = np.logaddexp(np.log(weights[0]) + norm.logpdf(0.5), np.log(weights[1]) + norm.logpdf(0.5, 100))
    assert_close(got, [expected], rtol=TOLERANCE[dtype]["rtol"])


@pytest.mark.parametrize("recorded", [False, True], ids=["evaluated", "recorded"])
@pytest.mark.parametrize(("size", "power"), [(1e3, 1), (1e18, 1), (1e19, 1), (1e30, 1), (1e38, 1), (1e38, 5)])
def test_a_mixture_far_out_is_right_or_minus_infinity(size, power, recorded, dtype):
    size = min(size**power, float(np.finfo(dtype).max) / 4)
    components = Gaussian(nd([[0.0], [1.0]], dtype), variance=nd([[1.0], [1.0]], dtype))
    with mx.autograd.record() if recorded else mx.autograd.pause():
        got = mixture.log_pdf(nd([[size]], dtype), nd([0.5, 0.5], dtype), components).asscalar()
    exact = -(mpmath.mpf(size) ** 2) / 2
    if exact < -float(np.finfo(dtype).max):
        assert got == -np.inf
    else:
        assert got == -np.inf or abs(got / float(exact) - 1) < 0.01


def exact_responsibilities(value, weights, means, variances):
    """Of one vector, to more digits than cancel; independent entries."""
    with mpmath.workdps(1500):
        joint = []
        for weight, mean, variance in zip(weights, means, variances):
            terms = zip(value, mean, variance)
            squares = sum((mpmath.mpf(float(x)) - float(m)) ** 2 / float(v) + mpmath.log(float(v)) for x, m, v in terms)
            joint.append((mpmath.log(float(weight)) if weight else -mpmath.inf) - squares / 2)
        shares = [mpmath.exp(entry - max(joint)) for entry in joint]
        return [float(share / sum(shares)) for share in shares]


@pytest.mark.parametrize("recorded", [False, True], ids=["evaluated", "recorded"])
@pytest.mark.parametrize("variances", [(1.0, 1.0, 1.0), (2.0, 2.0, 0.5), (1.0, 1e-6, 1e6)], ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["a matrix each", "one matrix"])
def test_responsibilities_far_from_all_components(shared, variances, recorded, dtype):
    """Also halfway between two components, where the densities have all digits in common but for a few."""
    sizes = [0.0, 1.0, 1e3, 1e6, 1e10, 1e17, 1e20, 1e37] + ([1e100, 1e200, 1e300] if dtype == "float64" else [])
    value = np.array([row for size in sizes for row in ([0.125, size], [size, 0.125], [-size, size])], dtype)
    means, weights = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]], dtype), np.array([0.5, 0.25, 0.25], dtype)
    variances = np.array(variances, dtype)[:1] if shared else np.array(variances, dtype)
    variances = np.repeat(variances[:, None], 2, axis=1)
    components = Gaussian(nd(means, dtype), covariance=nd(variances[..., None] * np.eye(2), dtype))
    with mx.autograd.record() if recorded else mx.autograd.pause():
        got = mixture.responsibilities(nd(value, dtype), nd(weights, dtype), components)
    every = np.broadcast_to(variances, means.shape)
    assert got.dtype == np.dtype(dtype)
    expected = [exact_responsibilities(row, weights, means, every) for row in value]
    assert_close(got, expected, rtol=0, atol=10 * TOLERANCE[dtype]["atol"])


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_responsibilities_have_the_leading_axes_of_the_value(count, leading, dtype, rng):
    value, means, weights = rng.normal(size=(*leading, 2)), rng.normal(size=(count, 2)), rng.dirichlet(np.ones(count))
    components = Gaussian(nd(means, dtype), covariance=nd(np.eye(2)[None], dtype))
    got = mixture.responsibilities(nd(value, dtype), nd(weights, dtype), components)
    terms = np.log(weights) + norm.logpdf(value[..., None, :], means).sum(axis=-1)
    assert_close(got, np.exp(terms - logsumexp(terms, axis=-1, keepdims=True)), **TOLERANCE[dtype])


@pytest.mark.parametrize("form", ["covariance", "precision", "scale_tril"])
def test_responsibilities_of_means_of_one_entry(form, dtype, rng):
    """The same mean in all entries: differences of means have one entry, too."""
    value, weights, means = rng.normal(size=(5, 3)), nd([0.4, 0.6], dtype), np.array([[-1.0], [2.0]])
    matrix = nd(oracles.FROM_COVARIANCE[form](oracles.random_spd(rng, (), 3)), dtype)
    of_one, of_all = (
        mixture.responsibilities(nd(value, dtype), weights, Gaussian(nd(mean, dtype), **{form: matrix})).asnumpy()
        for mean in (means, np.broadcast_to(means, (2, 3)))
    )
    assert of_one.shape == (5, 2)
    np.testing.assert_allclose(of_one, of_all, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_responsibilities_have_gradients(rng):
    value, mean = rng.normal(size=(5, 2)) * np.array([[1.0], [1.0], [1.0], [4.0], [4.0]]), rng.normal(size=(3, 2))
    matrices, weights = oracles.random_spd(rng, (3,), 2, condition=4), np.array([0.2, 0.3, 0.5])
    head = rng.normal(size=(5, 3))
    inputs = [nd(array) for array in (value, weights, mean, matrices)]
    for leaf in inputs:
        leaf.attach_grad()

    def shares(value, weights, mean, matrices):
        joint = [np.log(w) + oracles.log_pdf(value, m, c) for w, m, c in zip(weights, mean, matrices)]
        return np.exp(np.stack(joint, axis=-1) - logsumexp(joint, axis=0)[:, None])

    with mx.autograd.record():
        got = mixture.responsibilities(inputs[0], inputs[1], Gaussian(inputs[2], covariance=inputs[3]))
        (got * nd(head)).sum().backward()
    given = value, weights, mean, matrices
    assert_close(got, shares(*given), rtol=1e-11)
    for position, leaf in enumerate(inputs):

        def objective(array, position=position):
            return np.sum(head * shares(*given[:position], array, *given[position + 1 :]))

        expected = oracles.central_difference(objective, given[position], symmetrical=position == 3)
        assert_close(leaf.grad, expected, **GRADIENT_TOLERANCE)


def test_one_weight_for_many_components_is_refused_at_run_time():
    components = Gaussian(nd(np.zeros((5, 3))), covariance=nd(np.eye(3)[None]))
    with pytest.raises(ValueError, match="`weights`: got 1 for 5 components; expected one for each"):
        mixture.log_pdf(nd(np.zeros((4, 3))), nd(np.ones(1)), components)
