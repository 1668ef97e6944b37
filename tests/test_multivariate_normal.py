# SPDX-License-Identifier: Apache-2.0
"""Density, gradients and draws of the multivariate normal, over every way its arrays can meet."""

import itertools

from mxfusion_mvn import MultivariateNormal, MultivariateNormalMeanPrecision

import mxnet as mx
import numpy as np
import pytest

from helpers import oracles
from helpers.host import FixedNoise, declare, nd
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

FORMS = ["covariance", "precision", "scale_tril"]
SIZES = [(1, 4), (4, 4), (3, 1), (5, 3)]  # (S, N); the host itself goes wrong where S equals N
EVENT_AXES = {"mean": 1, "matrix": 2, "random_variable": 1}
# For each array: has it a sample axis, has it a batch axis.
LAYOUTS = [
    dict(zip(EVENT_AXES, layout)) for layout in itertools.product(itertools.product([False, True], repeat=2), repeat=3)
]
SHARED = {"mean": (False, False), "matrix": (False, False), "random_variable": (False, True)}
FULL = dict.fromkeys(EVENT_AXES, (True, True))
SAMPLED_MEAN = {"mean": (True, False), "matrix": (False, False), "random_variable": (False, True)}
SAMPLED_MATRIX = {"mean": (False, True), "matrix": (True, False), "random_variable": (False, True)}
MATRIX_PER_ROW = {"mean": (True, False), "matrix": (False, True), "random_variable": (True, True)}


def leading_axes(layout, sizes):
    samples, rows = sizes
    return (samples if layout[0] else 1,) + ((rows,) if layout[1] else ())


def make_arrays(rng, form, dim, sizes, layouts):
    """Arrays as the host hands them over: axis 0 the samples, batch axes only where the layout says so."""
    mean, value = (rng.normal(size=leading_axes(layouts[k], sizes) + (dim,)) for k in ("mean", "random_variable"))
    covariance = oracles.random_spd(rng, leading_axes(layouts["matrix"], sizes), dim)
    return {"mean": mean, "matrix": oracles.FROM_COVARIANCE[form](covariance), "random_variable": value}


def with_batch_axis(array, event_axes):
    """Insert the missing batch axis after the sample axis: the alignment under test, written independently."""
    return array if array.ndim == 2 + event_axes else array[:, None]


def expected_log_pdf(form, arrays):
    arrays = {name: with_batch_axis(array, EVENT_AXES[name]) for name, array in arrays.items()}
    return oracles.log_pdf(arrays["random_variable"], arrays["mean"], oracles.TO_COVARIANCE[form](arrays["matrix"]))


def runtime(form, arrays, sizes, dtype):
    """The factor, and the dict the host evaluates it with."""
    dim = arrays["mean"].shape[-1]
    shapes = {"mean": (dim,), form: (dim, dim)}
    model = declare(MultivariateNormal, (sizes[1], dim), dtype, **shapes)
    variables = {
        model.mean.uuid: nd(arrays["mean"], dtype),
        getattr(model, form).uuid: nd(arrays["matrix"], dtype),
        model.X.uuid: nd(arrays["random_variable"], dtype),
    }
    return model.X.factor, variables


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("form", FORMS)
def test_log_pdf_matches_scipy_in_every_layout(form, dim, sizes, dtype, rng):
    for layouts in LAYOUTS:
        arrays = make_arrays(rng, form, dim, sizes, layouts)
        rounded = {name: array.astype(dtype).astype("float64") for name, array in arrays.items()}
        factor, variables = runtime(form, arrays, sizes, dtype)
        got = factor.log_pdf(mx.nd, variables)
        expected = expected_log_pdf(form, rounded)
        if not any(batched for _, batched in layouts.values()):
            expected = expected[:, 0]
        assert got.dtype == np.dtype(dtype)
        try:
            assert_close(got, expected, **TOLERANCE[dtype])
        except AssertionError as error:
            raise AssertionError(f"layout {layouts}: {error}") from None


@pytest.mark.parametrize(
    "layouts",
    [SHARED, FULL, SAMPLED_MEAN, SAMPLED_MATRIX, MATRIX_PER_ROW],
    ids=["shared", "full", "sampled mean", "sampled matrix", "matrix per row"],
)
@pytest.mark.parametrize("sizes", [(4, 4), (3, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_central_differences(form, sizes, layouts, rng):
    dim = 3
    arrays = make_arrays(rng, form, dim, sizes, layouts)
    arrays["matrix"] = oracles.FROM_COVARIANCE[form](
        oracles.random_spd(rng, leading_axes(layouts["matrix"], sizes), dim, condition=10)
    )
    factor, variables = runtime(form, arrays, sizes, "float64")
    leaves = dict(zip(["mean", "matrix", "random_variable"], variables.values()))
    for leaf in leaves.values():
        leaf.attach_grad()
    weights = rng.normal(size=expected_log_pdf(form, arrays).shape)
    with mx.autograd.record():
        mx.nd.sum(factor.log_pdf(mx.nd, variables) * nd(weights)).backward()
    for name, leaf in leaves.items():
        expected = oracles.central_difference(
            lambda array, name=name: np.sum(weights * expected_log_pdf(form, {**arrays, name: array})),
            arrays[name],
            symmetrical=name == "matrix" and form != "scale_tril",
        )
        if name == "matrix" and form == "scale_tril":
            expected = np.tril(expected)
        assert_close(leaf.grad, expected, **GRADIENT_TOLERANCE)


def test_log_pdf_is_scaled():
    model = declare(MultivariateNormal, (2, 3), mean=(3,))
    variables = {
        model.mean.uuid: nd(np.zeros((1, 3))),
        model.X.uuid: nd(np.ones((1, 2, 3))),
        model.X.factor.inputs[1][1].uuid: nd(np.eye(3)[None]),
    }
    plain = model.X.factor.log_pdf(mx.nd, variables).asnumpy()
    model.X.factor.log_pdf_scaling = 7.5
    assert_close(model.X.factor.log_pdf(mx.nd, variables), 7.5 * plain, **TOLERANCE["float64"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [2.5, np.float32(2.5), np.array([[2.5]])], ids=["float", "numpy scalar", "1 x 1"])
def test_a_number_is_a_multiple_of_the_identity(form, value, dtype, rng):
    x = rng.normal(size=(1, 4, 3)).astype(dtype)
    variable = MultivariateNormal(mean=1, **{form: value}, shape=(4, 3), dtype=dtype)
    got = variable.factor.log_pdf(mx.nd, constants_of(variable, x))
    covariance = oracles.TO_COVARIANCE[form](2.5 * np.eye(3))
    assert_close(got, oracles.log_pdf(x.astype("float64"), np.ones(3), covariance), **TOLERANCE[dtype])


@pytest.mark.parametrize("distribution", [MultivariateNormal, MultivariateNormalMeanPrecision])
def test_defaults_are_the_standard_normal(distribution, dtype, rng):
    x = rng.normal(size=(1, 4, 3)).astype(dtype)
    variable = distribution.define_variable((4, 3), dtype=dtype)
    got = variable.factor.log_pdf(mx.nd, constants_of(variable, x))
    assert_close(got, oracles.log_pdf(x.astype("float64"), np.zeros(3), np.eye(3)), **TOLERANCE[dtype])


def test_mean_precision_is_the_precision_form(rng):
    precision = oracles.random_spd(rng, (), 3)
    x = rng.normal(size=(1, 4, 3))
    variable = MultivariateNormalMeanPrecision(1.0, precision, (4, 3), dtype="float64")
    assert variable.factor.form == "precision"
    got = variable.factor.log_pdf(mx.nd, constants_of(variable, x))
    assert_close(got, oracles.log_pdf(x, np.ones(3), np.linalg.inv(precision)), **TOLERANCE["float64"])


def test_float_constants_of_the_host_reach_the_factor_as_numbers(rng):
    from mxfusion import Variable

    x = rng.normal(size=(1, 4, 3))
    variable = MultivariateNormal(mean=Variable(value=2.0), shape=(4, 3), dtype="float64")
    variables = constants_of(variable, x)
    got = variable.factor.log_pdf(mx.nd, variables)
    assert_close(got, oracles.log_pdf(x, np.full(3, 2.0), np.eye(3)), **TOLERANCE["float64"])


def constants_of(variable, value):
    """What the host hands over when every input is a constant: arrays get a sample axis, bare floats stay."""
    variables = {variable.uuid: nd(value, value.dtype)}
    for _, constant in variable.factor.inputs:
        held = constant.constant
        variables[constant.uuid] = held.expand_dims(0) if isinstance(held, mx.nd.NDArray) else held
    return variables


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_injected_noise_gives_the_affine_map(form, sizes, dtype, rng):
    samples, rows = sizes
    for layouts in LAYOUTS:
        arrays = make_arrays(rng, form, 3, sizes, layouts)
        noise = rng.normal(size=(samples, rows, 3))
        factor, variables = runtime(form, arrays, sizes, dtype)
        factor._rand_gen = FixedNoise(noise)
        got = factor.draw_samples(mx.nd, variables, num_samples=samples)
        mean, matrix = (with_batch_axis(arrays[k], EVENT_AXES[k]) for k in ("mean", "matrix"))
        expected = mean + np.einsum("...ij,...j->...i", oracles.COLOR[form](matrix), noise)
        assert factor._rand_gen.asked == [((samples, rows, 3), np.dtype(dtype).type, mx.cpu())]
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == "float32" else TOLERANCE[dtype]
        assert_close(got, expected, **tolerance)


Z_BOUND = 5.0  # 12 entries a case: a right sampler exceeds it once in 150000 runs of this file


@pytest.mark.parametrize("form", FORMS)
def test_draws_have_the_right_mean_and_covariance(form, dtype, rng):
    count, dim = 20000, 3
    covariance = oracles.random_spd(rng, (), dim)
    mean = rng.normal(size=dim)
    variable = MultivariateNormal(
        mean, **{form: oracles.FROM_COVARIANCE[form](covariance)}, shape=(2, dim), dtype=dtype
    )
    draws = variable.factor.draw_samples(mx.nd, constants_of(variable, np.zeros((1, 2, dim), dtype)), count)
    assert draws.shape == (count, 2, dim)
    draws = draws.asnumpy().astype("float64")
    for row in range(2):
        z_mean = (draws[:, row].mean(0) - mean) / np.sqrt(np.diag(covariance) / count)
        spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / count)
        z_covariance = (np.cov(draws[:, row].T) - covariance) / spread
        assert np.abs(z_mean).max() < Z_BOUND
        assert np.abs(z_covariance).max() < Z_BOUND
    cross = draws[:, 0].T @ draws[:, 1] / count - np.outer(mean, mean)
    assert np.abs(cross).max() < Z_BOUND * np.abs(covariance).max() * 2 / np.sqrt(count)


def test_draws_are_reparametrised(rng):
    covariance = oracles.random_spd(rng, (), 3)
    noise = rng.normal(size=(2, 4, 3))
    arrays = {"mean": rng.normal(size=(1, 3)), "matrix": covariance[None], "random_variable": np.zeros((1, 4, 3))}
    factor, variables = runtime("covariance", arrays, (2, 4), "float64")
    factor._rand_gen = FixedNoise(noise)
    mean, matrix = list(variables.values())[:2]
    mean.attach_grad(), matrix.attach_grad()
    weights = rng.normal(size=noise.shape)
    with mx.autograd.record():
        mx.nd.sum(factor.draw_samples(mx.nd, variables, num_samples=2) * nd(weights)).backward()
    expected = oracles.central_difference(
        lambda c: np.sum(weights * (noise @ np.swapaxes(np.linalg.cholesky(c), -1, -2))),
        covariance[None],
        symmetrical=True,
    )
    assert_close(mean.grad, weights.sum((0, 1))[None], **GRADIENT_TOLERANCE)
    assert_close(matrix.grad, expected, **GRADIENT_TOLERANCE)


def test_one_draw_per_sample_of_the_inputs(rng):
    arrays = {"mean": rng.normal(size=(5, 3)), "matrix": np.eye(3)[None], "random_variable": np.zeros((1, 4, 3))}
    factor, variables = runtime("covariance", arrays, (5, 4), "float64")
    assert factor.draw_samples(mx.nd, variables, num_samples=1).shape == (5, 4, 3)


@pytest.mark.parametrize("method", ["log_pdf", "draw_samples"])
def test_a_shared_matrix_is_factored_once_and_never_copied(method, rng, monkeypatch):
    seen = []
    potrf, trsm, trmm = mx.nd.linalg.potrf, mx.nd.linalg.trsm, mx.nd.linalg.trmm
    for name, kernel in {"potrf": potrf, "trsm": trsm, "trmm": trmm}.items():
        monkeypatch.setattr(
            mx.nd.linalg,
            name,
            lambda a, *args, kernel=kernel, **kwargs: seen.append(a.size) or kernel(a, *args, **kwargs),
        )
    arrays = {"mean": rng.normal(size=(6, 3)), "matrix": np.eye(3)[None], "random_variable": np.zeros((1, 40, 3))}
    factor, variables = runtime("covariance", arrays, (6, 40), "float64")
    if method == "log_pdf":
        factor.log_pdf(mx.nd, variables)
    else:
        factor.draw_samples(mx.nd, variables, num_samples=6)
    assert seen == [9, 9]


def test_context_is_respected(rng):
    variable = MultivariateNormal(np.zeros(3), np.eye(3), shape=(4, 3), ctx=mx.cpu(1), dtype="float64")
    constants = constants_of(variable, np.zeros((1, 4, 3)))
    assert {constant.constant.context for _, constant in variable.factor.inputs} == {mx.cpu(1)}
    assert variable.factor.draw_samples(mx.nd, constants, 2).context == mx.cpu(1)
    follows = MultivariateNormal(mx.nd.zeros(3, ctx=mx.cpu(1)), mx.nd.array(np.eye(3), ctx=mx.cpu(1)), shape=(4, 3))
    follows.factor._rand_gen = FixedNoise(np.zeros((2, 4, 3)))
    follows.factor.draw_samples(mx.nd, constants_of(follows, np.zeros((1, 4, 3), "float32")), 2)
    assert follows.factor._rand_gen.asked == [((2, 4, 3), np.float32, mx.cpu(1))]


def test_float64_constants_meet_float32_arrays_in_float64(rng):
    variable = MultivariateNormal(nd(np.zeros(3)), nd(np.eye(3)), shape=(4, 3))
    got = variable.factor.log_pdf(mx.nd, constants_of(variable, np.ones((1, 4, 3), "float32")))
    assert got.dtype == np.float64
    assert_close(got, oracles.log_pdf(np.ones((1, 4, 3)), np.zeros(3), np.eye(3)), **TOLERANCE["float64"])
