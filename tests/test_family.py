# SPDX-License-Identifier: Apache-2.0
"""The family beside the multivariate normal: every property over the table of cases, and what is refused."""

import copy
import pickle
import warnings

from mxfusion_mvn import (
    GaussianMixture,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateStudentT,
    NotPositiveDefiniteError,
    OnFailure,
    RepairWarning,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError

from helpers import oracles
from helpers.family_cases import CASES, DIM, SIZES, expected_log_pdf, layouts_of, make, runtime, with_batch
from helpers.host import FixedNoise, declare, nd
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close


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


def test_a_function_output_of_the_wrong_size_is_named_at_run_time(rng):
    model = declare(LowRankMultivariateNormal, (4, 3), mean=(3,), factor=(3, 1), diagonal=(3,))
    variables = {model.mean.uuid: nd(np.zeros((1, 2))), model.factor.uuid: nd(np.ones((1, 3, 1)))}
    variables.update({model.diagonal.uuid: nd(np.ones((1, 3))), model.X.uuid: nd(np.zeros((1, 4, 3)))})
    with pytest.raises(InferenceError, match=r"`mean` of variable `X`: got shape \(2,\); expected \(4, 3\)"):
        model.X.factor.log_pdf(mx.nd, variables)
    variables[model.mean.uuid] = nd(np.zeros((2, 3)))
    with pytest.raises(InferenceError, match=r"`mean` of variable `X`: got 2 samples; expected 1 or 5"):
        model.X.factor.draw_samples(mx.nd, variables, num_samples=5)
