# SPDX-License-Identifier: Apache-2.0
"""The low-rank and the matrix normal in models: one table of cases, and every property over it."""

import copy
import pickle
import warnings
from typing import Callable, Dict, NamedTuple, Tuple

from mxfusion_mvn import LowRankMultivariateNormal, MatrixNormal, NotPositiveDefiniteError, OnFailure, RepairWarning
from mxfusion_mvn.transformations import LowerCholesky, Positive, PositiveDefinite

import mxnet as mx
import numpy as np
import oracles
import pytest
from cases import kron
from host import FixedNoise, declare, nd
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import MAP, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

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
    """A distribution, how its parameters are made, its dense covariance and the map from noise to a draw."""

    distribution: type
    event: Tuple[int, ...]
    parameters: Dict[str, Callable]
    covariance: Callable
    color: Callable
    noise: int


def _low_rank_color(noise, factor, diagonal):
    common, own = noise[..., :RANK], noise[..., RANK:]
    return np.einsum("...dr,...r->...d", factor, common) + np.sqrt(diagonal) * own


def _matrix_color(noise, row, column):
    noise = noise.reshape(noise.shape[:-1] + (ROWS, COLUMNS))
    return row @ noise @ np.swapaxes(column, -1, -2)


CASES = {
    "low rank": Case(
        LowRankMultivariateNormal,
        (DIM,),
        {"mean": normal(DIM), "factor": normal(DIM, RANK), "diagonal": positive(DIM)},
        lambda factor, diagonal: factor @ np.swapaxes(factor, -1, -2) + diagonal[..., None] * np.eye(DIM),
        _low_rank_color,
        RANK + DIM,
    ),
    "matrix normal": Case(
        MatrixNormal,
        (ROWS, COLUMNS),
        {"mean": normal(ROWS, COLUMNS), "row_covariance": spd(ROWS), "column_covariance": spd(COLUMNS)},
        lambda row_covariance, column_covariance: kron(row_covariance, column_covariance),
        lambda noise, row_covariance, column_covariance: _matrix_color(
            noise, np.linalg.cholesky(row_covariance), np.linalg.cholesky(column_covariance)
        ),
        DIM,
    ),
    "matrix normal by factors": Case(
        MatrixNormal,
        (ROWS, COLUMNS),
        {"mean": normal(ROWS, COLUMNS), "row_scale_tril": factor(ROWS), "column_scale_tril": factor(COLUMNS)},
        lambda row_scale_tril, column_scale_tril: kron(square(row_scale_tril), square(column_scale_tril)),
        lambda noise, row_scale_tril, column_scale_tril: _matrix_color(noise, row_scale_tril, column_scale_tril),
        DIM,
    ),
}
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]  # sample axis, batch axis


def leading(layout, sizes):
    return (sizes[0] if layout[0] else 1,) + ((sizes[1],) if layout[1] else ())


def make(rng, case, sizes, layouts):
    """Parameters and a value as the host hands them over."""
    names = list(case.parameters)
    arrays = {name: case.parameters[name](rng, leading(layout, sizes)) for name, layout in zip(names, layouts)}
    arrays["random_variable"] = rng.normal(size=leading(layouts[-1], sizes) + case.event)
    return arrays


def with_batch(case, arrays):
    """Missing batch axes inserted after the sample axis, and the event of mean and value flattened."""
    aligned = {}
    for name, array in arrays.items():
        event = len(case.event) if name in ("mean", "random_variable") else (1 if name == "diagonal" else 2)
        aligned[name] = array if array.ndim == 2 + event else array[:, None]
    return aligned


def expected_log_pdf(case, arrays):
    arrays = with_batch(case, arrays)
    value, mean = (arrays.pop(name) for name in ("random_variable", "mean"))
    value, mean = (x.reshape(x.shape[:2] + (DIM,)) for x in (value, mean))
    return oracles.log_pdf(value, mean, case.covariance(**arrays))


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
            symmetrical=key.endswith("covariance"),
        )
        if key.endswith("scale_tril"):
            expected = np.tril(expected)
        assert_close(leaf.grad, expected, **GRADIENT_TOLERANCE)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
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
    (lambda: LowRankMultivariateNormal(0.0, np.ones((3, 1)), -1.0, shape=(3,)), "`diagonal`: got -1.0 .* positive"),
    (
        lambda: LowRankMultivariateNormal(0.0, np.ones(3), 1.0, shape=(3,)),
        r"`factor`: got shape \(3,\); expected a matrix",
    ),
    (
        lambda: LowRankMultivariateNormal(0.0, np.ones((2, 1)), 1.0, shape=(7, 3)),
        r"`factor`: got shape \(2, 1\); expected \(7, 3, 1\), or what broadcasts",
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


def test_a_function_output_of_the_wrong_size_is_named_at_run_time(rng):
    model = declare(LowRankMultivariateNormal, (4, 3), mean=(3,), factor=(3, 1), diagonal=(3,))
    variables = {model.mean.uuid: nd(np.zeros((1, 2))), model.factor.uuid: nd(np.ones((1, 3, 1)))}
    variables.update({model.diagonal.uuid: nd(np.ones((1, 3))), model.X.uuid: nd(np.zeros((1, 4, 3)))})
    with pytest.raises(
        InferenceError, match=r"`mean` of variable `X`: got shape \(1, 2\); expected it to end in \(3,\)"
    ):
        model.X.factor.log_pdf(mx.nd, variables)
    variables[model.mean.uuid] = nd(np.zeros((2, 3)))
    with pytest.raises(InferenceError, match=r"`mean` of variable `X`: got 2 samples; expected 1 or 5"):
        model.X.factor.draw_samples(mx.nd, variables, num_samples=5)
