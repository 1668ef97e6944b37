# SPDX-License-Identifier: Apache-2.0
"""Where inference begins: at given values, near the means of priors, or as MXFusion begins."""

import re

from mxfusion_mvn import (
    InverseWishart,
    LKJCholesky,
    MultivariateNormal,
    Wishart,
    bijections,
)
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    MAP,
    CompiledLoop,
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
    load,
    save,
)
from mxfusion_mvn.transformations import Positive

import mxfusion.inference as host_inference
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.components.functions.operators import dot
from mxfusion.inference import GradBasedInference, StochasticVariationalInference

from helpers.conjugate import exact_posterior
from helpers.host import nd
from helpers.prior_parameters import CORRELATION, MEAN, SCALE
from helpers.runs import warned
from helpers.tolerances import assert_close

CREATE = {
    "meanfield": create_Gaussian_meanfield,
    "fullrank": create_Gaussian_fullrank,
    "lowrank": create_Gaussian_lowrank,
}
# The offsets from means, in unconstrained coordinates.
OFFSET = 0.07


# Inference begins there, in every support


def every_support(dtype):
    model = Model()
    model.N = Variable()
    model.level = host.Normal.define_variable(nd([1000.0], dtype), nd([1.0], dtype), (2, 3), dtype=dtype)
    model.vector = MultivariateNormal(MEAN, SCALE, shape=(2, 3), dtype=dtype)
    model.positive = host.Gamma.define_variable(nd([300.0], dtype), nd([0.5], dtype), (2,), dtype=dtype)
    model.share = host.Beta.define_variable(nd([9.0], dtype), nd([1.0], dtype), (1,), dtype=dtype)
    model.shares = host.Dirichlet.define_variable(nd([[2.0, 3.0, 5.0]], dtype), (1, 3), dtype=dtype)
    model.precision = Wishart(7.0, SCALE, shape=(3, 3), dtype=dtype)
    model.covariances = InverseWishart(7.0, 900.0, shape=(4, 2, 2), dtype=dtype)
    model.ordered = MultivariateNormal(np.array([-3.0, 1.0, 50.0]), shape=(3,), dtype=dtype)
    model.factor = LKJCholesky(2.0, shape=(3, 3), dtype=dtype)
    model.y = MultivariateNormal(model.vector, shape=(model.N, 2, 3), dtype=dtype)
    return model


EVERY_MEAN = {
    "level": np.full((2, 3), 1000.0),
    "vector": np.tile(MEAN, (2, 1)),
    "positive": np.full(2, 600.0),
    "share": [0.9],
    "shares": [[0.2, 0.3, 0.5]],
    "precision": 7 * SCALE,
    "covariances": np.tile(900 / 7 * np.eye(2), (4, 1, 1)),
    "ordered": [-3.0, 1.0, 50.0],
    "factor": np.eye(3),
}
GIVEN = {
    "level": -7.5 * np.arange(1, 7).reshape(2, 3),
    "vector": np.tile(-MEAN, (2, 1)),
    "positive": np.array([0.125, 2000.0]),
    "share": np.array([0.25]),
    "shares": np.array([[0.5, 0.3, 0.2]]),
    "precision": np.linalg.inv(SCALE),
    "covariances": np.stack([SCALE[:2, :2] * size for size in (1.0, 10.0, 100.0, 0.1)]),
    "ordered": np.array([-100.0, 0.0, 0.5]),
    "factor": CORRELATION,
}


def begun(model, dtype, kind, initial_values=None):
    """An inference that is initialised, and a function from a latent variable to its raw value at the start."""
    observed, options = [model.y], {"supports": {model.ordered: bijections.Ordered()}, "initial_values": initial_values}
    with warned("`ordered` is Ordered in place of Real"):
        if kind == "MAP":
            algorithm = MAP(model, observed, **options)
        else:
            q = CREATE[kind](model, observed, dtype=dtype, **options)
    if kind != "MAP":
        algorithm = StochasticVariationalInference(2, model, q, observed)
    inference = GradBasedInference(algorithm, dtype=dtype)
    inference.initialize(y=(5, 2, 3))

    def raw(variable):
        params = inference.params
        if kind == "MAP":
            return params.param_dict[algorithm.location(variable).uuid].data().asnumpy()
        factor = q[variable].factor
        if kind == "meanfield":
            return params[factor.mean].asnumpy()
        shape = factor.bijection.raw_shape(variable.shape)
        return params[q.joint_0.factor.mean].asnumpy()[factor.start :][: int(np.prod(shape))].reshape(shape)

    return inference, raw


def bijection_of(name):
    return {
        "level": bijections.Real(),
        "vector": bijections.Real(),
        "positive": bijections.Positive(),
        "share": bijections.Interval(),
        "shares": bijections.Simplex(),
        "precision": bijections.PositiveDefinite(),
        "covariances": bijections.PositiveDefinite(),
        "ordered": bijections.Ordered(),
        "factor": bijections.CorrelationCholesky(),
    }[name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["MAP", *CREATE])
def test_latent_variables_begin_near_the_means_of_their_priors(kind, dtype):
    model = every_support(dtype)
    _, raw = begun(model, dtype, kind)
    for name, mean in EVERY_MEAN.items():
        got, expected = raw(getattr(model, name)), bijection_of(name).inverseTransform(nd(mean)).asnumpy()
        assert got.dtype == dtype
        assert got.shape == expected.shape
        assert (np.abs(got - expected) < OFFSET + 1e-4).all(), name


@pytest.mark.parametrize("given_as", ["NumPy", "NDArray of float32"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["MAP", *CREATE])
def test_latent_variables_begin_at_given_values(kind, dtype, given_as):
    model = every_support(dtype)
    values = {name: value if given_as == "NumPy" else nd(value, "float32") for name, value in GIVEN.items()}
    _, raw = begun(model, dtype, kind, {getattr(model, name): value for name, value in values.items()})
    single = dtype == "float32" or given_as == "NDArray of float32"
    for name, value in GIVEN.items():
        got = bijection_of(name).transform(nd(raw(getattr(model, name))))
        assert_close(got, value, rtol=2e-5 if single else 1e-12, atol=1e-5 if single else 1e-12)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2, np.full((2, 3), 2.0)), ([1.0, 2.0, 3.0], np.tile([1.0, 2.0, 3.0], (2, 1))), (nd([[1.0], [4.0]]), None)],
    ids=["integer", "list", "column"],
)
def test_given_values_broadcast_to_the_variable(value, expected):
    model = every_support("float64")
    _, raw = begun(model, "float64", "MAP", {model.level: value})
    assert_close(raw(model.level), np.repeat([[1.0], [4.0]], 3, 1) if expected is None else expected, rtol=1e-15)


@pytest.mark.parametrize("given", [None, 30.0, [1.0, -2.0]], ids=["mean", "number", "vector"])
def test_rows_that_only_the_data_count_have_a_start(given):
    model = Model()
    model.N = Variable()
    model.z = MultivariateNormal(np.array([500.0, -500.0]), shape=(model.N, 2), dtype="float64")
    model.y = MultivariateNormal(model.z, shape=(model.N, 2), dtype="float64")
    algorithm = MAP(model, [model.y], initial_values=None if given is None else {model.z: given})
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize(y=(7, 2))
    got = inference.params[algorithm.location(model.z)].asnumpy()
    expected = np.broadcast_to([500.0, -500.0] if given is None else given, (7, 2))
    assert_close(got, expected, rtol=0, atol=OFFSET if given is None else 0)


def test_what_is_alike_begins_apart():
    model = Model()
    model.one = host.Normal.define_variable(nd([5.0]), nd([1.0]), (1,), dtype="float64")
    model.two = host.Normal.define_variable(nd([5.0]), nd([1.0]), (1,), dtype="float64")
    model.rest = MultivariateNormal(5.0, shape=(3, 2), dtype="float64")
    model.y = MultivariateNormal(model.rest, shape=(3, 2), dtype="float64")
    for kind in ("MAP", *CREATE):
        q = MAP(model, [model.y]).posterior if kind == "MAP" else CREATE[kind](model, [model.y])
        starts = [q[variable].factor for variable in (model.one, model.two, model.rest)]
        if kind in ("MAP", "meanfield"):
            name = "location" if kind == "MAP" else "mean"
            values = [getattr(factor, name).initial_value.asnumpy().ravel() for factor in starts]
        else:
            values = [q.joint_0.factor.mean.initial_value.asnumpy()]
        values = np.concatenate(values)
        assert values.shape == (8,)
        assert len(np.unique(values.round(4))) == 8


# As before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_priors_are_centred_at_zero_the_start_is_that_of_mxfusion(dtype):
    def begin(algorithm_class):
        model = Model()
        model.w = MultivariateNormal(covariance=SCALE, shape=(4, 3), dtype=dtype)
        model.v = host.Normal.define_variable(nd([0.0], dtype), nd([1e-4], dtype), (2,), dtype=dtype)
        model.y = MultivariateNormal(model.w, shape=(4, 3), dtype=dtype)
        algorithm = algorithm_class(model, [model.y])
        inference = GradBasedInference(algorithm, dtype=dtype)
        mx.random.seed(3)
        inference.initialize(y=(4, 3))
        return [inference.params[algorithm.posterior[v].factor.location].asnumpy() for v in (model.w, model.v)]

    for ours, theirs in zip(begin(MAP), begin(host_inference.MAP)):
        assert_close(ours, theirs, rtol=0)


@pytest.mark.parametrize("name", ["shares", "share", "factor", "positive", "bounded"])
def test_where_supports_are_centred_there_is_no_initial_value(name):
    model = Model()
    model.shares = host.Dirichlet.define_variable(nd([2.0]), (3,), dtype="float64")
    model.share = host.Beta.define_variable(nd([2.0]), nd([2.0]), (2,), dtype="float64")
    model.factor = LKJCholesky(2.0, shape=(3, 3), dtype="float64")
    model.positive = host.Gamma.define_variable(nd([2.0]), nd([2.0]), (2,), dtype="float64")
    model.bounded = host.Uniform.define_variable(nd([-3.0]), nd([7.0]), (2,), dtype="float64")
    model.y = MultivariateNormal(shape=(3, 2))
    assert MAP(model, [model.y]).location(getattr(model, name)).initial_value is None


def test_a_mean_outside_the_support_is_passed_over():
    model = Model()
    model.sd = host.Normal.define_variable(nd([-5.0]), nd([1.0]), (1,), dtype="float64")
    model.y = MultivariateNormal(shape=(3, 2))
    with warned("`sd` is Positive in place of Real"):
        algorithm = MAP(model, [model.y], supports={model.sd: bijections.Positive()})
    assert algorithm.location(model.sd).initial_value is None


def test_ordered_numbers_begin_in_a_row_around_their_mean():
    model = Model()
    model.cuts = MultivariateNormal(1000.0, shape=(2, 4), dtype="float64")
    model.y = MultivariateNormal(shape=(3, 2))
    with warned("`cuts` is Ordered in place of Real"):
        algorithm = MAP(model, [model.y], supports={model.cuts: bijections.Ordered()})
    start = algorithm.location(model.cuts).initial_value.asnumpy()
    expected = np.tile([998.5, 999.5, 1000.5, 1001.5], (2, 1))
    # Steps are exponentials of numbers that are off by the offset.
    assert_close(start, expected, rtol=0, atol=5 * OFFSET)


# Hierarchies


def hierarchy():
    model = Model()
    model.N = Variable()
    model.scale = host.Gamma.define_variable(nd([40.0]), nd([2.0]), (1,), dtype="float64")
    model.top = host.Normal.define_variable(nd([100.0]), nd([1.0]), (2,), dtype="float64")
    model.middle = MultivariateNormal(model.top, shape=(3, 2), dtype="float64")
    model.bottom = MultivariateNormal(model.middle, 1.0, shape=(3, 2), dtype="float64")
    model.sum = model.top + model.top
    model.of_sum = MultivariateNormal(model.sum, shape=(2,), dtype="float64")
    model.predicted = linear(np.array([[1.0, 1.0], [1.0, -1.0], [0.5, 0.0]]), model.top, dtype="float64")
    model.of_predicted = MultivariateNormal(model.predicted, shape=(3, 1), dtype="float64")
    model.of_scale = host.GammaMeanVariance.define_variable(model.scale, nd([1.0]), (1,), dtype="float64")
    model.matrix = Wishart(5.0, 1.0, shape=(2, 2), dtype="float64")
    model.of_matrix = InverseWishart(10.0, model.matrix, shape=(2, 2), dtype="float64")
    model.y = MultivariateNormal(model.bottom, shape=(3, 2), dtype="float64")
    return model


def start_of(algorithm, model, name):
    return algorithm.location(getattr(model, name)).initial_value.asnumpy()


CHILDREN = {
    "middle": np.full((3, 2), 100.0),
    "bottom": np.full((3, 2), 100.0),
    "of_sum": [200.0, 200.0],
    "of_predicted": [[200.0], [0.0], [50.0]],
    "of_scale": [20.0],
    "of_matrix": 0.5 * np.eye(2),
}


@pytest.mark.parametrize("name", CHILDREN)
def test_children_begin_near_the_starts_of_their_parents(name):
    model = hierarchy()
    start = start_of(MAP(model, [model.y]), model, name)
    # Positive numbers are off by a factor e^0.07.
    assert_close(
        start, CHILDREN[name], rtol=0, atol=0.2 if name == "of_matrix" else 1.5 if name == "of_scale" else OFFSET
    )


def test_given_values_of_parents_feed_their_children():
    model = hierarchy()
    algorithm = MAP(model, [model.y], initial_values={model.top: [7.0, -7.0], model.bottom: 3.0})
    assert_close(start_of(algorithm, model, "top"), [7.0, -7.0], rtol=0)
    assert_close(start_of(algorithm, model, "middle"), np.tile([7.0, -7.0], (3, 1)), rtol=0, atol=OFFSET)
    assert_close(start_of(algorithm, model, "of_predicted"), [[0.0], [14.0], [3.5]], rtol=0, atol=OFFSET)
    assert_close(start_of(algorithm, model, "bottom"), np.full((3, 2), 3.0), rtol=0)


def test_parameters_feed_their_children_as_far_as_they_are_known():
    model = Model()
    model.known = Variable(shape=(2,), transformation=Positive(), initial_value=nd([20.0, 30.0]))
    model.unknown = Variable(shape=(2,))
    model.x = Variable(shape=(3, 2))
    model.of_known = MultivariateNormal(model.known, shape=(2,), dtype="float64")
    model.of_unknown = MultivariateNormal(model.unknown, shape=(2,), dtype="float64")
    model.of_data = MultivariateNormal(dot(model.x, model.of_known), shape=(3, 2), dtype="float64")
    model.y = MultivariateNormal(model.of_known, shape=(2,), dtype="float64")
    algorithm = MAP(model, [model.y, model.x])
    assert_close(start_of(algorithm, model, "of_known"), [20.0, 30.0], rtol=0, atol=OFFSET)
    assert algorithm.location(model.of_unknown).initial_value is None
    assert algorithm.location(model.of_data).initial_value is None


# Refused


def refusal_model():
    model = Model()
    model.N = Variable()
    model.p = Variable(shape=(2,))
    model.sd = host.Gamma.define_variable(nd([2.0]), nd([1.0]), (1,))
    model.w = MultivariateNormal(model.p, shape=(4, 2))
    model.shares = host.Dirichlet.define_variable(nd([1.0, 1.0]), (2,))
    model.C = InverseWishart(5.0, 1.0, shape=(2, 2))
    model.z = MultivariateNormal(shape=(model.N, 2))
    model.y = MultivariateNormal(model.z, model.C, shape=(model.N, 2))
    return model


REFUSED = {
    "no dict": (lambda m: [1.0], "`initial_values`: got a list; expected a dict from latent Variables"),
    "name": (lambda m: {"w": 1.0}, "`initial_values`: got 'w'; expected some of the latent variables sd, w, shares, C"),
    "parameter": (lambda m: {m.p: 1.0}, "`initial_values`: got p; expected some of the latent variables"),
    "observed": (lambda m: {m.y: 1.0}, "`initial_values`: got y; expected some of the latent variables"),
    "shape": (
        lambda m: {m.w: np.ones((2, 4))},
        "`initial_values` of `w`: got shape (2, 4); expected (4, 2), or what broadcasts to it",
    ),
    "axes": (lambda m: {m.sd: np.ones((1, 1))}, "`initial_values` of `sd`: got shape (1, 1); expected (1,)"),
    "size": (lambda m: {m.z: np.ones((5, 3))}, "`initial_values` of `z`: got shape (5, 3); expected (N, 2)"),
    "negative": (lambda m: {m.sd: -1.0}, "`initial_values` of `sd` is not in its support"),
    "zero": (lambda m: {m.sd: 0}, "`initial_values` of `sd` is not in its support"),
    "sum": (lambda m: {m.shares: [0.5, 0.6]}, "`initial_values` of `shares` is not in its support"),
    "indefinite": (
        lambda m: {m.C: np.array([[1.0, 2.0], [2.0, 1.0]])},
        "`initial_values` of `C` is not in its support",
    ),
    "number for a matrix": (lambda m: {m.C: 1.0}, "`initial_values` of `C` is not in its support"),
    "NaN": (lambda m: {m.w: np.nan}, "`initial_values` of `w`: got nan at index (0,)"),
    "infinity": (lambda m: {m.sd: np.inf}, "`initial_values` of `sd`: got inf at index (0,)"),
    "string": (
        lambda m: {m.w: "zero"},
        "`initial_values` of `w`: got a str; expected a number, NDArray or NumPy array",
    ),
    "None": (lambda m: {m.w: None}, "`initial_values` of `w`: got a NoneType; expected a number, NDArray or NumPy"),
    "complex": (lambda m: {m.w: np.ones(2) * 1j}, "`initial_values` of `w`: got an array of dtype complex128"),
    "complex number": (lambda m: {m.w: 1j}, "`initial_values` of `w`: got a complex; expected a number"),
    "Variable": (lambda m: {m.w: m.sd}, "`initial_values` of `w`: got a Variable; expected a number"),
    "masked": (
        lambda m: {m.w: np.ma.masked_array([1.0, 2.0], [0, 1])},
        "`initial_values` of `w`: got a masked array with 1 masked entries",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", ["MAP", *CREATE])
def test_initial_values_that_do_not_fit_are_refused_by_name(kind, name):
    values, message = REFUSED[name]
    model = refusal_model()
    options = {} if kind in ("MAP", "meanfield") else {"blocks": [[model.w, model.C]]}
    with pytest.raises(ModelSpecificationError, match=re.escape(message)):
        (MAP if kind == "MAP" else CREATE[kind])(model, [model.y], initial_values=values(model), **options)


def test_excluded_variables_have_no_initial_value():
    model = refusal_model()
    with pytest.raises(ModelSpecificationError, match="`initial_values`: got w; expected some of the latent"):
        create_Gaussian_meanfield(model, [model.y], excluded=[model.w], initial_values={model.w: 0.0})


# What comes of it


@pytest.mark.parametrize("kind", ["MAP", "meanfield", "fullrank"])
def test_a_run_arrives_where_the_prior_is_far_from_zero(kind, rng):
    prior, far = np.eye(2), np.array([1000.0, -500.0])
    data = far + 0.5 + rng.normal(size=(20, 2))
    model = Model()
    model.mu = MultivariateNormal(far, prior, shape=(2,), dtype="float64")
    model.y = MultivariateNormal(model.mu, shape=(20, 2), dtype="float64")
    if kind == "MAP":
        algorithm = MAP(model, [model.y])
    else:
        algorithm = StochasticVariationalInference(5, model, CREATE[kind](model, [model.y], "float64"), [model.y])
    inference = GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype="float64")
    inference.run(y=nd(data), learning_rate=0.05, max_iter=500)
    center, posterior = exact_posterior(data - far, prior, np.eye(2))
    if kind == "MAP":
        mean = inference.params[algorithm.location(model.mu)]
    else:
        q = algorithm.posterior
        mean = inference.params[(q.mu if kind == "meanfield" else q.joint_0).factor.mean]
    assert_close(mean, center + far, rtol=0, atol=1e-3 if kind == "MAP" else 0.5 * np.sqrt(posterior[0, 0]))


@pytest.mark.parametrize("kind", ["MAP", *CREATE])
def test_a_saved_file_restores_what_was_learned_wherever_inference_begins(kind, tmp_path):
    first, raw = begun(every_support("float64"), "float64", kind)
    first.run(y=nd(np.ones((5, 2, 3))), max_iter=2, learning_rate=0.01)
    save(first, str(tmp_path / "file.zip"))
    model = every_support("float64")
    given = {getattr(model, name): value for name, value in GIVEN.items()}
    second, raw_of_second = begun(model, "float64", kind, given)
    load(second, str(tmp_path / "file.zip"))
    for name in GIVEN:
        assert_close(raw_of_second(getattr(model, name)), raw(getattr(first.inference_algorithm.model, name)), rtol=0)


@pytest.mark.parametrize("kind", ["MAP", "fullrank"])
def test_two_inferences_begin_alike_whatever_was_drawn_between(kind):
    model = every_support("float64")
    _, raw = begun(model, "float64", kind)
    mx.nd.random.normal(shape=(3,))
    again = every_support("float64")
    _, raw_again = begun(again, "float64", kind)
    for name in set(EVERY_MEAN) - ({"factor"} if kind == "MAP" else set()):
        assert_close(raw_again(getattr(again, name)), raw(getattr(model, name)), rtol=0)
