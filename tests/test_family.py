# SPDX-License-Identifier: Apache-2.0
"""The family beside the multivariate normal: one table of cases, and every property over it."""

import copy
import pickle
import warnings
from typing import Callable, Dict, NamedTuple, Tuple

from mxfusion_mvn import (
    Gaussian,
    GaussianMixture,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateStudentT,
    NotPositiveDefiniteError,
    OnFailure,
    RepairWarning,
    mixture,
)
from mxfusion_mvn.transformations import LowerCholesky, Positive, PositiveDefinite, Simplex

import mpmath
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import MAP, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_t, norm
from scipy.stats import t as student_t

from helpers import oracles
from helpers.host import FixedNoise, declare, nd
from helpers.structure_cases import kron
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

SIZES = [(1, 4), (4, 4), (3, 1), (5, 3)]  # (S, N)
ROWS, COLUMNS = 2, 3
DIM, RANK = 6, 2


def spd(dim):
    return lambda rng, leading: oracles.random_spd(rng, leading, dim, condition=20)


def factor(dim):
    return lambda rng, leading: np.linalg.cholesky(oracles.random_spd(rng, leading, dim, condition=20))


def normal(*event):
    return lambda rng, leading: rng.normal(size=leading + event)


def positive(dim):
    return lambda rng, leading: rng.uniform(0.2, 2.0, size=leading + (dim,))


def square(tril):
    return np.tril(tril) @ np.swapaxes(np.tril(tril), -1, -2)


class Case(NamedTuple):
    """
    A distribution and its oracles.

    ``parameters`` holds, by name, a maker and the number of event axes. ``log_pdf(value, **parameters)`` takes arrays
    (S, N, event) and gives (S, N); ``moments(**parameters)`` takes single events and gives mean and covariance of the
    flattened vector. ``color(noise, **parameters)`` is the affine map of a draw, for laws that are one.
    """

    distribution: type
    event: Tuple[int, ...]
    parameters: Dict[str, Tuple[Callable, int]]
    log_pdf: Callable
    moments: Callable
    color: Callable = None
    noise: int = 0


def flat(array):
    return array.reshape(array.shape[:2] + (DIM,))


def gaussian(event, parameters, covariance, color, distribution, noise):
    """A case whose law is a Gaussian vector of a given dense covariance."""
    return Case(
        distribution,
        event,
        parameters,
        lambda value, mean, **matrices: oracles.log_pdf(flat(value), flat(mean), covariance(**matrices)),
        lambda mean, **matrices: (mean.ravel(), covariance(**matrices)),
        color,
        noise,
    )


def _low_rank_color(noise, factor, diagonal):
    common, own = noise[..., :RANK], noise[..., RANK:]
    return np.einsum("...dr,...r->...d", factor, common) + np.sqrt(diagonal) * own


def _matrix_color(noise, row, column):
    noise = noise.reshape(noise.shape[:-1] + (ROWS, COLUMNS))
    return row @ noise @ np.swapaxes(column, -1, -2)


def _student_log_pdf(value, degrees_of_freedom, mean, precision):
    leading = np.broadcast_shapes(*(a.shape[:2] for a in (value, degrees_of_freedom, mean, precision)))
    arrays = [value, mean, np.linalg.inv(precision), degrees_of_freedom]
    arrays = [np.broadcast_to(a, leading + a.shape[2:]) for a in arrays]
    result = np.empty(leading)
    for index in np.ndindex(leading):
        x, loc, shape, freedom = (a[index] for a in arrays)
        result[index] = multivariate_t.logpdf(x, loc, shape, df=freedom[0])
    return result


def _mixture_log_pdf(value, weights, mean, scale_tril):
    terms = [
        np.log(weights[..., k]) + oracles.log_pdf(value, mean[..., k, :], square(scale_tril[..., k, :, :]))
        for k in range(COMPONENTS)
    ]
    return logsumexp(np.stack(terms), axis=0)


def _mixture_moments(weights, mean, scale_tril):
    center = weights @ mean
    second = sum(w * (square(tril) + np.outer(m, m)) for w, m, tril in zip(weights, mean, scale_tril))
    return center, second - np.outer(center, center)


COMPONENTS = 3
CASES = {
    "low rank": gaussian(
        (DIM,),
        {"mean": (normal(DIM), 1), "factor": (normal(DIM, RANK), 2), "diagonal": (positive(DIM), 1)},
        lambda factor, diagonal: factor @ np.swapaxes(factor, -1, -2) + diagonal[..., None] * np.eye(DIM),
        _low_rank_color,
        LowRankMultivariateNormal,
        RANK + DIM,
    ),
    "matrix normal": gaussian(
        (ROWS, COLUMNS),
        {
            "mean": (normal(ROWS, COLUMNS), 2),
            "row_covariance": (spd(ROWS), 2),
            "column_covariance": (spd(COLUMNS), 2),
        },
        lambda row_covariance, column_covariance: kron(row_covariance, column_covariance),
        lambda noise, row_covariance, column_covariance: _matrix_color(
            noise, np.linalg.cholesky(row_covariance), np.linalg.cholesky(column_covariance)
        ),
        MatrixNormal,
        DIM,
    ),
    "matrix normal by factors": gaussian(
        (ROWS, COLUMNS),
        {
            "mean": (normal(ROWS, COLUMNS), 2),
            "row_scale_tril": (factor(ROWS), 2),
            "column_scale_tril": (factor(COLUMNS), 2),
        },
        lambda row_scale_tril, column_scale_tril: kron(square(row_scale_tril), square(column_scale_tril)),
        lambda noise, row_scale_tril, column_scale_tril: _matrix_color(noise, row_scale_tril, column_scale_tril),
        MatrixNormal,
        DIM,
    ),
    "student t": Case(
        MultivariateStudentT,
        (DIM,),
        {
            "degrees_of_freedom": (lambda rng, leading: rng.uniform(9, 12, size=leading + (1,)), 1),
            "mean": (normal(DIM), 1),
            "precision": (spd(DIM), 2),
        },
        _student_log_pdf,
        lambda degrees_of_freedom, mean, precision: (
            mean,
            degrees_of_freedom / (degrees_of_freedom - 2) * np.linalg.inv(precision),
        ),
    ),
    "mixture": Case(
        GaussianMixture,
        (DIM,),
        {
            "weights": (lambda rng, leading: rng.dirichlet(np.full(COMPONENTS, 2.0), size=leading), 1),
            "mean": (normal(COMPONENTS, DIM), 2),
            "scale_tril": (
                lambda rng, leading: np.linalg.cholesky(oracles.random_spd(rng, leading + (COMPONENTS,), DIM, 20)),
                3,
            ),
        },
        _mixture_log_pdf,
        _mixture_moments,
    ),
}
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]  # sample axis, batch axis


def leading(layout, sizes):
    return (sizes[0] if layout[0] else 1,) + ((sizes[1],) if layout[1] else ())


def make(rng, case, sizes, layouts):
    """Parameters and a value as the host hands them over."""
    names = list(case.parameters)
    arrays = {name: case.parameters[name][0](rng, leading(layout, sizes)) for name, layout in zip(names, layouts)}
    arrays["random_variable"] = rng.normal(size=leading(layouts[-1], sizes) + case.event)
    return arrays


def with_batch(case, arrays):
    """Missing batch axes inserted after the sample axis."""
    axes = {"random_variable": len(case.event), **{name: event for name, (_, event) in case.parameters.items()}}
    return {name: a if a.ndim == 2 + axes[name] else a[:, None] for name, a in arrays.items()}


def expected_log_pdf(case, arrays):
    arrays = with_batch(case, arrays)
    return case.log_pdf(arrays.pop("random_variable"), **arrays)


def runtime(case, arrays, sizes, dtype):
    shapes = {name: tuple(arrays[name].shape[1:]) for name in case.parameters}
    model = declare(case.distribution, (sizes[1],) + case.event, dtype, **shapes)
    variables = {getattr(model, name).uuid: nd(arrays[name], dtype) for name in case.parameters}
    variables[model.X.uuid] = nd(arrays["random_variable"], dtype)
    return model.X.factor, variables


def layouts_of(case):
    """All parameters alike, and each one different from the rest."""
    count = len(case.parameters) + 1
    for one in LAYOUTS:
        for other in LAYOUTS:
            for place in range(count):
                yield [one if i == place else other for i in range(count)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_log_pdf_matches_scipy(name, sizes, dtype, rng):
    case = CASES[name]
    for layouts in layouts_of(case):
        if not any(batched for _, batched in layouts):
            continue
        arrays = make(rng, case, sizes, layouts)
        rounded = {key: array.astype(dtype).astype("float64") for key, array in arrays.items()}
        distribution, variables = runtime(case, arrays, sizes, dtype)
        assert_close(distribution.log_pdf(mx.nd, variables), expected_log_pdf(case, rounded), **TOLERANCE[dtype])


ALL_SHARED = [(False, False)] * 3 + [(False, True)]
ALL_FULL = [(True, True)] * 4
PER_SAMPLE = [(True, False)] * 3 + [(False, True)]
AFFINE = [name for name in CASES if CASES[name].color]


@pytest.mark.parametrize("layouts", [ALL_SHARED, ALL_FULL, PER_SAMPLE], ids=["shared", "full", "per sample"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_central_differences(name, layouts, rng):
    case = CASES[name]
    arrays = make(rng, case, (2, 3), layouts)
    distribution, variables = runtime(case, arrays, (2, 3), "float64")
    leaves = dict(zip(list(case.parameters) + ["random_variable"], variables.values()))
    for leaf in leaves.values():
        leaf.attach_grad()
    weights = rng.normal(size=expected_log_pdf(case, arrays).shape)
    with mx.autograd.record():
        mx.nd.sum(distribution.log_pdf(mx.nd, variables) * nd(weights)).backward()
    for key, leaf in leaves.items():
        expected = oracles.central_difference(
            lambda array, key=key: np.sum(weights * expected_log_pdf(case, {**arrays, key: array})),
            arrays[key],
            symmetrical=key.endswith(("covariance", "precision")),
        )
        if key.endswith("scale_tril"):
            expected = np.tril(expected)
        assert_close(leaf.grad, expected, **GRADIENT_TOLERANCE)


Z_BOUND = 5.0  # at most 42 numbers a case: a right sampler exceeds it once in 40000 cases


@pytest.mark.parametrize("name", CASES)
def test_draws_have_the_right_mean_and_covariance(name, dtype, rng):
    case, count = CASES[name], 20000
    arrays = {key: maker(rng, ()) for key, (maker, _) in case.parameters.items()}
    mean, covariance = case.moments(**arrays)
    model = declare(case.distribution, (2,) + case.event, dtype, **{key: a.shape for key, a in arrays.items()})
    variables = {getattr(model, key).uuid: nd(a[None], dtype) for key, a in arrays.items()}
    draws = model.X.factor.draw_samples(mx.nd, variables, num_samples=count)
    assert draws.shape == (count, 2) + case.event
    draws = draws.asnumpy().astype("float64").reshape(count, 2, DIM) - mean
    for row in range(2):
        centred = draws[:, row]
        products = centred[:, :, None] * centred[:, None, :]
        z_mean = centred.mean(0) / (centred.std(0) / np.sqrt(count))
        z_covariance = (products.mean(0) - covariance) / (products.std(0) / np.sqrt(count))
        assert np.abs(z_mean).max() < Z_BOUND
        assert np.abs(z_covariance).max() < Z_BOUND


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", AFFINE)
def test_injected_noise_gives_the_affine_map(name, sizes, dtype, rng):
    case = CASES[name]
    samples, rows = sizes
    for layouts in layouts_of(case):
        arrays = make(rng, case, sizes, layouts)
        noise = rng.normal(size=(samples, rows, case.noise))
        distribution, variables = runtime(case, arrays, sizes, dtype)
        distribution._rand_gen = FixedNoise(noise)
        got = distribution.draw_samples(mx.nd, variables, num_samples=samples)
        aligned = with_batch(case, {key: arrays[key] for key in case.parameters})
        expected = aligned.pop("mean") + case.color(noise, **aligned)
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == "float32" else TOLERANCE[dtype]
        assert_close(got, expected, **tolerance)


@pytest.mark.parametrize("copied", [lambda m: m.clone(), copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", CASES)
def test_copies_have_the_same_density(name, copied, rng):
    case = CASES[name]
    arrays = make(rng, case, (2, 3), [(False, False)] * 3 + [(True, True)])
    model = declare(case.distribution, (3,) + case.event, **{k: arrays[k].shape[1:] for k in case.parameters})
    twin = copied(model)
    values = []
    for each in (model, twin):
        variables = {getattr(each, key).uuid: nd(arrays[key]) for key in case.parameters}
        values.append(each.X.factor.log_pdf(mx.nd, {**variables, each.X.uuid: nd(arrays["random_variable"])}))
    assert_close(values[1], values[0].asnumpy(), rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_saved_parameters_are_loaded_unchanged(name, rng, tmp_path):
    case = CASES[name]
    values = {key: maker(rng, ()) for key, (maker, _) in case.parameters.items()}
    data = nd(rng.normal(size=(7,) + case.event))

    def build():
        model = Model()
        model.N = Variable()
        for key, value in values.items():
            setattr(model, key, Variable(shape=value.shape, initial_value=nd(value)))
        parameters = {key: getattr(model, key) for key in values}
        model.X = case.distribution(**parameters, shape=(model.N,) + case.event, dtype="float64")
        return model, GradBasedInference(MAP(model, [model.X]), dtype="float64")

    model, inference = build()
    inference.run(X=data, learning_rate=1e-3, max_iter=2)
    inference.save(str(tmp_path / "fit.zip"))
    other, loaded = build()
    loaded.initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    for key, value in values.items():
        fitted = inference.params[getattr(model, key)].asnumpy()
        assert not np.array_equal(fitted, value)
        assert_close(loaded.params[getattr(other, key)], fitted, rtol=0)


def fit(inference, data, rates=(0.1, 0.02, 0.004), max_iter=300):
    for rate in rates:
        inference.run(X=data, learning_rate=rate, max_iter=max_iter)
    return inference


def low_rank_model(dtype):
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(4,))
    model.W = Variable(shape=(4, 1), initial_value=nd(0.5 * np.ones((4, 1)), dtype))
    model.d = Variable(shape=(4,), transformation=Positive(), initial_value=nd(np.ones(4), dtype))
    model.X = LowRankMultivariateNormal(model.mean, model.W, model.d, shape=(model.N, 4), dtype=dtype)
    return model


def test_map_finds_a_low_rank_covariance(rng, tmp_path):
    loadings = np.array([[2.0], [1.0], [-1.0], [0.5]])
    data = rng.multivariate_normal(np.arange(4.0), loadings @ loadings.T + np.diag([0.5, 1.0, 0.3, 0.8]), size=400)
    model = low_rank_model("float64")
    inference = fit(GradBasedInference(MAP(model, [model.X]), dtype="float64"), nd(data))
    factor, diagonal = inference.params[model.W].asnumpy(), inference.params[model.d].asnumpy()
    fitted = factor @ factor.T + np.diag(diagonal)
    # At the maximum diag(Sigma^-1 (Sigma - S) Sigma^-1) = 0 and so diag(Sigma) = diag(S) (Lawley and Maxwell, 1971).
    assert_close(np.diag(fitted), np.var(data, axis=0), rtol=1e-3)
    assert_close(inference.params[model.mean], data.mean(0), rtol=0, atol=1e-3)
    inference.save(str(tmp_path / "fit.zip"))
    other = low_rank_model("float64")
    loaded = GradBasedInference(MAP(other, [other.X]), dtype="float64")
    loaded.initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    assert_close(loaded.params[other.W], factor, rtol=0)


def test_map_finds_the_covariances_of_a_matrix_normal(rng):
    row = np.array([[1.0, 0.6], [0.6, 1.0]])
    column = oracles.random_spd(rng, (), 3, condition=10)
    noise = rng.normal(size=(2000, 2, 3))
    data = np.linalg.cholesky(row) @ noise @ np.linalg.cholesky(column).T
    model = Model()
    model.N = Variable()
    model.R = Variable(shape=(2, 2), transformation=PositiveDefinite(), initial_value=nd(np.eye(2), "float32"))
    model.L = Variable(shape=(3, 3), transformation=LowerCholesky(), initial_value=nd(np.eye(3), "float32"))
    model.X = MatrixNormal(row_covariance=model.R, column_scale_tril=model.L, shape=(model.N, 2, 3))
    inference = fit(GradBasedInference(MAP(model, [model.X])), nd(data, "float32"), max_iter=100)
    fitted = kron(inference.params[model.R].asnumpy(), square(inference.params[model.L].asnumpy()))
    assert_close(fitted, kron(row, column), rtol=0, atol=0.15 * np.abs(column).max())


def test_map_of_a_student_t_is_the_fixed_point_of_em(rng):
    data = rng.standard_t(4.0, size=(300, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]]) + [1.0, -1.0]
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(2,))
    model.S = Variable(shape=(2, 2), transformation=PositiveDefinite(), initial_value=nd(np.eye(2)))
    model.X = MultivariateStudentT(4.0, model.mean, model.S, shape=(model.N, 2), dtype="float64")
    inference = fit(GradBasedInference(MAP(model, [model.X]), dtype="float64"), nd(data), max_iter=200)
    mean, scale = data.mean(0), np.cov(data.T)
    for _ in range(500):  # Liu and Rubin, Statistica Sinica 5, 1995
        centred = data - mean
        weights = (4.0 + 2) / (4.0 + np.einsum("ni,ij,nj->n", centred, np.linalg.inv(scale), centred))
        mean = weights @ data / weights.sum()
        scale = np.einsum("n,ni,nj->ij", weights, data - mean, data - mean) / len(data)
    assert_close(inference.params[model.mean], mean, rtol=0, atol=2e-3)
    assert_close(inference.params[model.S], scale, rtol=0, atol=5e-3)


def test_degrees_of_freedom_are_learned(rng):
    data = rng.standard_t(3.0, size=(4000, 1))
    model = Model()
    model.N = Variable()
    model.freedom = Variable(shape=(1,), transformation=Positive(), initial_value=nd(np.array([10.0]), "float64"))
    model.X = MultivariateStudentT(model.freedom, shape=(model.N, 1), dtype="float64")
    inference = fit(GradBasedInference(MAP(model, [model.X]), dtype="float64"), nd(data), (0.3, 0.05), 150)
    grid = np.linspace(2, 5, 601)
    best = grid[np.argmax([student_t.logpdf(data, df).sum() for df in grid])]
    assert_close(inference.params[model.freedom], [best], rtol=0, atol=0.01)


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
        return model, GradBasedInference(MAP(model, [model.X]), dtype="float64")

    model, inference = build()
    fit(inference, nd(data), max_iter=200)
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


@pytest.mark.parametrize("name", ["student t", "mixture"])
def test_svi_of_a_latent_mean(name, rng):
    """The law as likelihood of a latent location, against the posterior on a grid."""
    data = rng.normal(size=(8, 1)) + 1.0
    model = Model()
    model.N = Variable()
    model.mu = MatrixNormal(row_covariance=4.0, shape=(1, 1), dtype="float64")
    if name == "student t":
        model.X = MultivariateStudentT(4.0, model.mu, shape=(model.N, 1), dtype="float64")
        likelihood = student_t(4.0).logpdf
    else:
        weights = np.array([0.7, 0.3])
        scales = np.array([1.0, 9.0]).reshape(2, 1, 1)
        model.X = GaussianMixture(weights, model.mu, scales, shape=(model.N, 1), dtype="float64")

        def likelihood(r):
            return np.log(0.7 * norm.pdf(r) + 0.3 * norm.pdf(r, scale=3.0))

    posterior = Posterior(model)
    mean = Variable(shape=(1, 1))
    spread = Variable(shape=(1, 1), transformation=LowerCholesky(), initial_value=nd(np.array([[0.5]])))
    posterior.mu.set_prior(MatrixNormal(mean=mean, row_scale_tril=spread, dtype="float64"))
    algorithm = StochasticVariationalInference(20, model, posterior, [model.X])
    inference = fit(GradBasedInference(algorithm, dtype="float64"), nd(data), max_iter=200)
    grid = np.linspace(-4, 6, 2001)
    log_posterior = likelihood(data - grid).sum(0) + norm.logpdf(grid, scale=2.0)
    chance = np.exp(log_posterior - logsumexp(log_posterior))
    exact = chance @ grid
    sd = np.sqrt(chance @ (grid - exact) ** 2)
    assert abs(inference.params[mean].asscalar() - exact) < 0.2 * sd
    assert abs(inference.params[spread].asscalar() / sd - 1) < 0.2


@pytest.mark.parametrize("name", ["degrees_of_freedom", "weights"])
def test_a_gradient_that_draws_cannot_carry_is_refused(name):
    if name == "weights":
        model = declare(GaussianMixture, (3, 2), weights=(2,), mean=(2, 2))
        values = {"weights": np.ones(2) / 2, "mean": np.zeros((2, 2))}
    else:
        model = declare(MultivariateStudentT, (3, 2), degrees_of_freedom=(1,), mean=(2,))
        values = {"degrees_of_freedom": np.array([4.0]), "mean": np.zeros(2)}
    variables = {getattr(model, key).uuid: nd(value[None]) for key, value in values.items()}
    constant = model.X.factor.covariance
    variables[constant.uuid] = constant.constant.expand_dims(0)
    assert model.X.factor.draw_samples(mx.nd, variables, num_samples=2).shape == (2, 3, 2)
    variables[getattr(model, name).uuid].attach_grad()
    with mx.autograd.record(), pytest.raises(InferenceError, match=f"`{name}` of variable `X`: its gradient was asked"):
        model.X.factor.draw_samples(mx.nd, variables, num_samples=2)


@pytest.mark.parametrize("distribution", ["low rank", "matrix normal"])
def test_variational_posterior_of_a_mean(distribution, rng):
    """A conjugate model whose posterior is known: unit noise around a latent with a structured prior."""
    shape = (4,) if distribution == "low rank" else (2, 2)
    loadings, column = rng.normal(size=(4, 1)), np.array([[1.0, 0.5], [0.5, 2.0]])
    model = Model()
    if distribution == "low rank":
        model.Z = LowRankMultivariateNormal(0.0, loadings, 0.5, shape=shape, dtype="float64")
        prior = loadings @ loadings.T + 0.5 * np.eye(4)
    else:
        model.Z = MatrixNormal(column_covariance=column, shape=shape, dtype="float64")
        prior = kron(np.eye(2), column)
    model.X = (
        MatrixNormal(mean=model.Z, shape=(2, 2), dtype="float64")
        if distribution != "low rank"
        else (LowRankMultivariateNormal(model.Z, np.zeros((4, 1)), 1.0, shape=shape, dtype="float64"))
    )
    posterior = Posterior(model)
    mean = Variable(shape=shape)
    posterior.Z.set_prior(
        MatrixNormal(mean=mean, row_covariance=0.3, dtype="float64")
        if distribution != "low rank"
        else LowRankMultivariateNormal(mean, np.zeros((4, 1)), 0.3, dtype="float64")
    )
    data = rng.normal(size=shape)
    algorithm = StochasticVariationalInference(10, model, posterior, [model.X])
    inference = fit(GradBasedInference(algorithm, dtype="float64"), nd(data))
    expected = np.linalg.solve(np.linalg.inv(prior) + np.eye(4), data.ravel())
    assert_close(inference.params[mean].asnumpy().ravel(), expected, rtol=0, atol=0.05)


REFUSED = [
    (
        lambda: GaussianMixture(1.0, np.zeros((5, 3)), shape=(4, 3)),
        r"`weights`: got shape \(1,\); expected \(..., 5\), one for each component. Write np.full",
    ),
    (lambda: MultivariateStudentT(4.0, shape=(3,), on_failure="jitter"), r"`on_failure`: got 'jitter'; .*OnFailure\("),
    (lambda: MultivariateStudentT(-1.0, shape=(3,)), "`degrees_of_freedom`: got -1.0 .* positive"),
    (
        lambda: MultivariateStudentT(np.ones(3), shape=(3,)),
        r"`degrees_of_freedom`: got shape \(3,\); expected \(1,\), or what broadcasts",
    ),
    (
        lambda: GaussianMixture(np.ones(2), np.zeros((2, 3)), shape=(3,)),
        r"`weights`: got weights that sum to 2\.0; .* Divide",
    ),
    (lambda: GaussianMixture(np.array([1.5, -0.5]), np.zeros((2, 3)), shape=(3,)), "`weights`: got -0.5 at index"),
    (
        lambda: GaussianMixture(np.ones(2) / 2, np.zeros((2, 3)), np.eye(3), shape=(3,)),
        r"`covariance`: got shape \(3, 3\); expected \(2, 3, 3\)",
    ),
    (
        lambda: GaussianMixture(np.ones(2) / 2, np.zeros((3, 3)), shape=(3,)),
        r"`mean`: got shape \(3, 3\); expected \(2, 3\)",
    ),
    (lambda: LowRankMultivariateNormal(0.0, np.ones((3, 1)), -1.0, shape=(3,)), "`diagonal`: got -1.0 .* positive"),
    (
        lambda: LowRankMultivariateNormal(0.0, np.ones(3), 1.0, shape=(3,)),
        r"`factor`: got shape \(3,\); expected a matrix",
    ),
    (
        lambda: LowRankMultivariateNormal(0.0, np.ones((2, 1)), 1.0, shape=(7, 3)),
        r"`factor`: got shape \(2, 1\); expected \(7, 3, R\), or what broadcasts",
    ),
    (lambda: LowRankMultivariateNormal(np.zeros(2), np.ones((3, 1)), 1.0, shape=(3,)), r"`mean`: got shape \(2,\)"),
    (
        lambda: MatrixNormal(row_covariance=np.eye(2), row_scale_tril=np.eye(2), shape=(2, 3)),
        "`row_covariance` and `row_scale_tril`: got 2 matrices; expected at most one",
    ),
    (
        lambda: MatrixNormal(row_covariance=np.eye(3), shape=(5, 2, 3)),
        r"`row_covariance`: got shape \(3, 3\); expected \(5, 2, 2\)",
    ),
    (
        lambda: MatrixNormal(column_covariance=-np.eye(3), shape=(2, 3)),
        "`column_covariance`: .* smallest eigenvalue is -1",
    ),
    (
        lambda: MatrixNormal(column_scale_tril=np.ones((3, 3)), shape=(2, 3)),
        "`column_scale_tril`: .* above the diagonal",
    ),
    (lambda: MatrixNormal(shape=(3,)), r"`shape`: got \(3,\); expected at least 2 axes"),
    (lambda: MatrixNormal(mean=np.zeros(3), shape=(2, 3)), r"`mean`: got shape \(3,\); expected a matrix. Add an axis"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_at_definition(call, message):
    with pytest.raises(ModelSpecificationError, match=message):
        call()


def test_a_diagonal_that_is_not_positive_is_reported_by_name():
    model = declare(LowRankMultivariateNormal, (3,), mean=(3,), factor=(3, 1), diagonal=(3,))
    values = {"mean": np.zeros(3), "factor": np.ones((3, 1)), "diagonal": np.array([1.0, -0.25, 1.0])}
    variables = {getattr(model, name).uuid: nd(value[None]) for name, value in values.items()}
    variables[model.X.uuid] = nd(np.zeros((1, 3)))
    with pytest.raises(NotPositiveDefiniteError, match="`diagonal` of variable `X` has an entry of -0.25; .*Positive"):
        model.X.factor.log_pdf(mx.nd, variables)


def test_a_broken_side_is_reported_by_name_or_repaired(rng):
    value = nd(rng.normal(size=(1, 5, 2, 2)))
    broken = nd(np.array([[[1.0, 2.0], [2.0, 1.0]]]))
    for policy in (None, OnFailure("project")):
        model = Model()
        model.C = Variable(shape=(2, 2))
        model.X = MatrixNormal(column_covariance=model.C, shape=(5, 2, 2), dtype="float64", on_failure=policy)
        variables = {variable.uuid: variable.constant.expand_dims(0) for variable in model.get_constants()}
        variables.update({model.C.uuid: broken, model.X.uuid: value})
        if policy is None:
            with pytest.raises(NotPositiveDefiniteError, match="`column_covariance` of variable `X` is not positive"):
                model.X.factor.log_pdf(mx.nd, variables)
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert np.isfinite(model.X.factor.log_pdf(mx.nd, variables).asnumpy()).all()
            messages = [str(warning.message) for warning in caught if warning.category is RepairWarning]
            assert len(messages) == 1
            assert "`column_covariance` of variable `X` is not positive definite" in messages[0]


def test_a_number_of_rows_that_does_not_fit_is_named_at_run_time(rng):
    model = declare(LowRankMultivariateNormal, (4, 3), mean=(4, 3), factor=(3, 1), diagonal=(3,))
    variables = {model.mean.uuid: nd(np.zeros((1, 4, 3))), model.factor.uuid: nd(np.ones((1, 3, 1)))}
    variables[model.diagonal.uuid] = nd(np.ones((1, 3)))
    for rows in (1, 5):  # one row would be counted four times
        variables[model.X.uuid] = nd(np.zeros((1, rows, 3)))
        with pytest.raises(
            InferenceError, match=rf"`mean` of variable `X`: got shape \(4, 3\); expected \({rows}, 3\)"
        ):
            model.X.factor.log_pdf(mx.nd, variables)
    variables[model.X.uuid], variables[model.mean.uuid] = nd(np.zeros((3, 4, 3))), nd(np.zeros((2, 4, 3)))
    with pytest.raises(InferenceError, match="got 2 samples; expected 1 or 3"):
        model.X.factor.log_pdf(mx.nd, variables)


@pytest.mark.parametrize("freedom", [30.0, 1e4, 1e6])
def test_many_degrees_of_freedom_in_float32(freedom):
    """The difference of the log gammas cancels, in the value and more so in the gradient."""
    model = declare(MultivariateStudentT, (1, 3), "float32", degrees_of_freedom=(1,))
    variables = {v.uuid: v.constant.expand_dims(0) for v in model.get_constants()}
    variables[model.X.uuid] = nd(np.ones((1, 1, 3)), "float32")
    freedoms = nd(np.array([[freedom]]), "float32")
    freedoms.attach_grad()
    variables[model.degrees_of_freedom.uuid] = freedoms
    with mx.autograd.record():
        log_pdf = model.X.factor.log_pdf(mx.nd, variables)
        log_pdf.backward()

    def exact(nu):
        gammas = mpmath.loggamma((nu + 3) / 2) - mpmath.loggamma(nu / 2)
        return gammas - 1.5 * mpmath.log(nu * mpmath.pi) - (nu + 3) / 2 * mpmath.log1p(3 / nu)

    with mpmath.workdps(60):
        value, slope = exact(mpmath.mpf(freedom)), mpmath.diff(exact, mpmath.mpf(freedom))
    assert_close(log_pdf, [[float(value)]], rtol=3e-6)
    assert_close(freedoms.grad, [[float(slope)]], rtol=0.02, atol=1e-12)


@pytest.mark.parametrize("recorded", [False, True], ids=["evaluated", "recorded"])
@pytest.mark.parametrize("freedom", [3.0, 1e6, 1e12, 1e16, 1e30, 1e38, np.inf])
def test_a_student_t_with_many_degrees_of_freedom_is_the_normal(freedom, recorded, dtype, rng):
    value, mean, covariance = rng.normal(size=(4, 3)), rng.normal(size=3), oracles.random_spd(rng, (), 3)
    value, mean, covariance = (a.astype(dtype).astype("float64") for a in (value, mean, covariance))
    factor = MultivariateStudentT(
        freedom, mean.astype(dtype), covariance.astype(dtype), shape=(4, 3), dtype=dtype
    ).factor
    freedoms = nd([[[freedom]]], dtype)
    freedoms.attach_grad()
    arrays = {"degrees_of_freedom": freedoms, "mean": nd(mean[None, None], dtype)}
    arrays.update(covariance=nd(covariance[None, None], dtype), random_variable=nd(value[None], dtype))
    with mx.autograd.record() if recorded else mx.autograd.pause():
        got = factor.log_pdf_impl(**arrays)
    if recorded:
        got.backward()
        assert np.isfinite(freedoms.grad.asnumpy()).all()
    expected = []
    with mpmath.workdps(80):
        nu = mpmath.mpf(float(nd([freedom], dtype).asscalar()))
        for row in value:
            residual, matrix = mpmath.matrix((row - mean).tolist()), mpmath.matrix(covariance.tolist())
            squares = (residual.T * matrix**-1 * residual)[0]
            if mpmath.isinf(nu):
                log_p = -squares / 2 - 3 * mpmath.log(2 * mpmath.pi) / 2
            else:
                log_p = mpmath.loggamma((nu + 3) / 2) - mpmath.loggamma(nu / 2) - 3 * mpmath.log(nu * mpmath.pi) / 2
                log_p -= (nu + 3) / 2 * mpmath.log1p(squares / nu)
            expected.append(float(log_p - mpmath.log(mpmath.det(matrix)) / 2))
    assert_close(got, [expected], **({"rtol": 2e-5} if dtype == "float32" else {"rtol": 1e-11}))


@pytest.mark.parametrize("freedom", [1e7, 1e30, np.inf])
def test_draws_of_a_student_t_with_many_degrees_of_freedom_are_normal(freedom, dtype, rng):
    factor = MultivariateStudentT(freedom, shape=(20000, 2), dtype=dtype).factor
    arrays = {"degrees_of_freedom": nd([[[freedom]]], dtype), "mean": nd(np.zeros((1, 1, 2)), dtype)}
    drawn = factor.draw_samples_impl(rv_shape=(20000, 2), covariance=nd(np.eye(2)[None, None], dtype), **arrays)
    assert kstest(drawn.asnumpy().ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, -np.inf], ids=str)
def test_draws_with_bad_degrees_of_freedom_return(bad, dtype):
    """MXNet's gamma sampler would never return; while recording nobody looks at the parameters first."""
    factor = MultivariateStudentT(3.0, shape=(2, 3), dtype=dtype).factor
    arrays = {"degrees_of_freedom": nd([[[4.0], [bad]]], dtype), "mean": nd(np.zeros((1, 1, 3)), dtype)}
    with mx.autograd.record():
        drawn = factor.draw_samples_impl(rv_shape=(2, 3), covariance=nd(np.eye(3)[None, None], dtype), **arrays)
    drawn = drawn.asnumpy()
    assert drawn.shape == (1, 2, 3)
    assert np.isfinite(drawn[0, 0]).all()
    assert np.isnan(drawn[0, 1]).all()


@pytest.mark.parametrize("size", [1e3, 1e17, 1e20, 1e30, 1e38])
def test_a_student_t_far_out(size, dtype):
    """Squares overflow in float32, and the density does not."""
    factor = MultivariateStudentT(3.0, shape=(1, 2), dtype=dtype).factor
    arrays = {"degrees_of_freedom": nd([[[3.0]]], dtype), "mean": nd(np.zeros((1, 1, 2)), dtype)}
    value = nd([[[size, 0.0]]], dtype)
    got = factor.log_pdf_impl(random_variable=value, covariance=nd(np.eye(2)[None, None], dtype), **arrays)
    expected = multivariate_t.logpdf(value.asnumpy()[0].astype("float64"), np.zeros(2), np.eye(2), df=3)
    assert_close(got, [[expected]], rtol=1e-6)
    with mx.autograd.record():
        recorded = factor.log_pdf_impl(random_variable=value, covariance=nd(np.eye(2)[None, None], dtype), **arrays)
    assert not np.isnan(recorded.asnumpy()).any()


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


def test_a_failure_of_training_is_reported_by_name(rng):
    """The degrees of freedom must not be read before the matrix, or they take the error for themselves."""
    model = Model()
    model.N = Variable()
    model.C = Variable(shape=(2, 2), initial_value=nd(np.array([[1.0, 0.9], [0.9, 1.0]]), "float32"))
    model.X = MultivariateStudentT(4.0, covariance=model.C, shape=(model.N, 2))
    inference = GradBasedInference(MAP(model, [model.X]))
    with pytest.raises(NotPositiveDefiniteError, match="`covariance` of variable `X`"):
        inference.run(X=nd(rng.normal(size=(50, 2)), "float32"), optimizer="sgd", learning_rate=1.0, max_iter=20)


def test_one_weight_for_many_components_is_refused_at_run_time():
    components = Gaussian(nd(np.zeros((5, 3))), covariance=nd(np.eye(3)[None]))
    with pytest.raises(ValueError, match="`weights`: got 1 for 5 components; expected one for each"):
        mixture.log_pdf(nd(np.zeros((4, 3))), nd(np.ones(1)), components)


def test_a_function_output_of_the_wrong_size_is_named_at_run_time(rng):
    model = declare(LowRankMultivariateNormal, (4, 3), mean=(3,), factor=(3, 1), diagonal=(3,))
    variables = {model.mean.uuid: nd(np.zeros((1, 2))), model.factor.uuid: nd(np.ones((1, 3, 1)))}
    variables.update({model.diagonal.uuid: nd(np.ones((1, 3))), model.X.uuid: nd(np.zeros((1, 4, 3)))})
    with pytest.raises(InferenceError, match=r"`mean` of variable `X`: got shape \(2,\); expected \(4, 3\)"):
        model.X.factor.log_pdf(mx.nd, variables)
    variables[model.mean.uuid] = nd(np.zeros((2, 3)))
    with pytest.raises(InferenceError, match=r"`mean` of variable `X`: got 2 samples; expected 1 or 5"):
        model.X.factor.draw_samples(mx.nd, variables, num_samples=5)
