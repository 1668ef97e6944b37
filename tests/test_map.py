# SPDX-License-Identifier: Apache-2.0
"""MAP in supports: closed-form modes with and without the Jacobian, its objective, copies, minibatches, prediction."""

import copy

from mxfusion_mvn import InverseWishart, LKJCholesky, MultivariateNormal, Wishart, bijections
from mxfusion_mvn.inference import MAP
from mxfusion_mvn.transformations import PositiveDefinite

import mxfusion.inference as host_inference
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.inference import GradBasedInference, MinibatchInferenceLoop, VariationalPosteriorForwardSampling
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit

from helpers import oracles
from helpers.fitting import fit
from helpers.host import nd
from helpers.runs import warned
from helpers.tolerances import assert_close

SCALE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.7]])


def found(inference, variable):
    return inference.params[inference.inference_algorithm.location(variable)].asnumpy()


# Modes in closed form, or by SciPy in one dimension


def every_support():
    """Independent latent variables, a few with data of their own: one run finds all modes."""
    model = Model()
    model.gamma = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (2,), dtype="float64")
    model.spread = host.GammaMeanVariance.define_variable(nd([6.0]), nd([12.0]), (1,), dtype="float64")
    model.beta = host.Beta.define_variable(nd([3.0]), nd([1.5]), (1,), dtype="float64")
    model.shares = host.Dirichlet.define_variable(nd([[2.0, 3.0, 5.0]]), (1, 3), dtype="float64")
    model.precision = Wishart(7.0, SCALE, shape=(3, 3), dtype="float64")
    model.bounded = host.Uniform.define_variable(nd([-1.0]), nd([2.0]), (1,), dtype="float64")
    model.x = MultivariateNormal(mean=model.bounded, covariance=0.5, shape=(4, 1), dtype="float64")
    model.covariance = InverseWishart(6.0, SCALE, shape=(3, 3), dtype="float64")
    model.y = MultivariateNormal(covariance=model.covariance, shape=(8, 3), dtype="float64")
    model.batch = InverseWishart(5.0, 1.0, shape=(4, 1, 2, 2), dtype="float64")
    model.b = MultivariateNormal(covariance=model.batch, shape=(4, 6, 2), dtype="float64")
    model.factor = LKJCholesky(2.5, shape=(2, 2), dtype="float64")
    model.z = MultivariateNormal(scale_tril=model.factor, shape=(9, 2), dtype="float64")
    return model


def correlated_data(seed, rows, dim):
    return np.random.default_rng(seed).normal(size=(rows, dim)) @ np.linalg.cholesky(SCALE[:dim, :dim]).T


DATA = {
    "x": np.array([[1.2], [-0.3], [0.9], [1.3]]),
    "y": correlated_data(1, 8, 3),
    "b": np.random.default_rng(2).normal(size=(4, 6, 2)),
    "z": correlated_data(3, 9, 2),
}


def best(log_pdf, low, high):
    options = {"xatol": 1e-10}
    return minimize_scalar(lambda x: -log_pdf(x), bounds=(low, high), method="bounded", options=options).x


def bounded_mode(jacobian):
    def log_pdf(raw):
        volume = np.log(expit(raw) * expit(-raw)) if jacobian else 0.0
        return stats.norm.logpdf(DATA["x"], -1 + 3 * expit(raw), np.sqrt(0.5)).sum() + volume

    return np.array([-1 + 3 * expit(best(log_pdf, -10, 10))])


def correlation_mode(jacobian):
    def log_pdf(r):
        prior = (1.5 + jacobian) * np.log(1 - r * r)  # r = tanh x, dr/dx = 1 - r^2
        return prior + oracles.log_pdf(DATA["z"], np.zeros(2), np.array([[1.0, r], [r, 1.0]])).sum()

    r = best(log_pdf, -0.999, 0.999)
    return np.array([[1.0, 0.0], [r, np.sqrt(1 - r * r)]])


SCATTER = DATA["y"].T @ DATA["y"]
SCATTERS = np.swapaxes(DATA["b"], 1, 2) @ DATA["b"]

# The mode of each variable, and of its coordinates: a power of a positive number or determinant more.
MODES = {
    "gamma": (np.full(2, 2 / 0.5), np.full(2, 3 / 0.5)),
    "spread": (np.array([4.0]), np.array([6.0])),
    "beta": (np.array([2 / 2.5]), np.array([3 / 4.5])),
    "shares": (np.array([[1, 2, 4]]) / 7, np.array([[2, 3, 5]]) / 10),
    "precision": ((7 - 4) * SCALE, 7 * SCALE),
    "bounded": (bounded_mode(False), bounded_mode(True)),
    "covariance": ((SCALE + SCATTER) / (6 + 8 + 4), (SCALE + SCATTER) / (6 + 8)),
    "batch": ((np.eye(2) + SCATTERS)[:, None] / (5 + 6 + 3), (np.eye(2) + SCATTERS)[:, None] / (5 + 6)),
    "factor": (correlation_mode(False), correlation_mode(True)),
}


@pytest.mark.parametrize("jacobian", [False, True])
def test_map_finds_the_modes(jacobian, rng):
    """Of the variables, or with the Jacobian of their unconstrained coordinates."""
    model = every_support()
    algorithm = MAP(model, [getattr(model, name) for name in DATA], jacobian=jacobian)
    inference = fit(algorithm, **{name: nd(array) for name, array in DATA.items()})
    assert {variable.name for variable in algorithm.bijections} == set(MODES)
    for name, modes in MODES.items():
        assert_close(found(inference, getattr(model, name)), modes[jacobian], rtol=1e-4, atol=1e-5)


def covariance_model(dtype="float64"):
    model = Model()
    model.v = InverseWishart(6.0, SCALE, shape=(3, 3), dtype=dtype)
    model.x = MultivariateNormal(covariance=model.v, shape=(8, 3), dtype=dtype)
    return model


def test_float32(rng):
    model = covariance_model("float32")
    algorithm = MAP(model, [model.x])
    inference = fit(algorithm, dtype="float32", x=nd(DATA["y"], "float32"))
    assert found(inference, model.v).dtype == np.float32
    assert_close(found(inference, model.v), MODES["covariance"][0], rtol=1e-3, atol=1e-3)


def test_a_mode_at_a_bound_is_approached_from_inside(rng):
    """A mean that must not exceed 2, and data about 6."""
    model = Model()
    model.v = host.Uniform.define_variable(nd([-1.0]), nd([2.0]), (1,), dtype="float64")
    model.x = MultivariateNormal(mean=model.v, covariance=0.5, shape=(4, 1), dtype="float64")
    algorithm = MAP(model, [model.x])
    inference = fit(algorithm, begin={algorithm.location(model.v): nd([1.99])}, x=nd(DATA["x"] + 5))
    assert 1.995 < found(inference, model.v)[0] < 2.0


# The objective


def objective(algorithm, grad_loop=None, locations=(), **data):
    """The loss at given locations, {variable: value}."""
    inference = GradBasedInference(algorithm, grad_loop=grad_loop, dtype="float64")
    inference.initialize(**{name: array.shape for name, array in data.items()})
    for variable, value in dict(locations).items():
        inference.params[algorithm.location(variable)] = nd(value)
    return inference.create_executor()(mx.nd.zeros(1), *(nd(array) for array in data.values()))[0].asscalar()


def hierarchy():
    """A positive variance over the rows of a mean, over data."""
    model = Model()
    model.N = Variable()
    model.v = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (2,), dtype="float64")
    model.m = host.Normal.define_variable(nd([0.0, 0.0]), model.v, (2,), dtype="float64")
    model.x = MultivariateNormal(mean=model.m, covariance=0.5, shape=(model.N, 2), dtype="float64")
    return model


def hierarchy_log_pdf(v, m, x, scaling=1.0):
    log_pdf = stats.gamma.logpdf(v, 3.0, scale=2.0).sum() + stats.norm.logpdf(m, 0.0, np.sqrt(v)).sum()
    return log_pdf + scaling * stats.norm.logpdf(x, m, np.sqrt(0.5)).sum()


def test_the_objective_is_the_negative_log_density(rng):
    v, m, x = np.array([0.7, 3.0]), rng.normal(size=2), rng.normal(size=(5, 2))
    for jacobian in (False, True):
        model = hierarchy()
        loss = objective(MAP(model, [model.x], jacobian=jacobian), None, {model.v: v, model.m: m}, x=x)
        volume = np.log(v).sum() if jacobian else 0.0
        assert loss == pytest.approx(-hierarchy_log_pdf(v, m, x) - volume, rel=1e-12)


def test_in_minibatches_the_data_are_scaled_and_the_prior_is_not(rng):
    v, m, x = np.array([0.7, 3.0]), rng.normal(size=2), rng.normal(size=(5, 2))
    model = hierarchy()
    loop = MinibatchInferenceLoop(batch_size=5, rv_scaling={model.x: 4.0})
    loss = objective(MAP(model, [model.x], jacobian=True), loop, {model.v: v, model.m: m}, x=x)
    assert loss == pytest.approx(-hierarchy_log_pdf(v, m, x, scaling=4.0) - np.log(v).sum(), rel=1e-12)


def test_a_scaled_latent_variable_has_its_jacobian_scaled_with_it(rng):
    precision = oracles.random_spd(rng, (), 2)
    model = Model()
    model.v = Wishart(4.0, np.eye(2), shape=(2, 2), dtype="float64")
    loop = MinibatchInferenceLoop(rv_scaling={model.v: 3.0})
    loss = objective(MAP(model, [], jacobian=True), loop, {model.v: precision})
    raw = bijections.PositiveDefinite().inverseTransform(nd(precision))
    volume = bijections.PositiveDefinite().log_det_jacobian(raw).asscalar()
    log_pdf = stats.wishart.logpdf(precision, 4.0, np.eye(2))
    assert loss == pytest.approx(-3.0 * (log_pdf + volume), rel=1e-10)


def test_a_run_of_the_hosts_minibatch_loop(rng):
    """With batches that are copies of each other, so that the exact mode is a fixed point."""
    x = rng.normal(size=(5, 2))
    model = Model()
    model.N = Variable()
    model.v = InverseWishart(5.0, 1.0, shape=(2, 2), dtype="float64")
    model.x = MultivariateNormal(covariance=model.v, shape=(model.N, 2), dtype="float64")
    algorithm = MAP(model, [model.x])
    mode = (np.eye(2) + 4 * x.T @ x) / (5 + 20 + 3)
    loop = MinibatchInferenceLoop(batch_size=5, rv_scaling={model.x: 4.0})
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype="float64")
    inference.initialize(x=x.shape)
    for begin in (mode, 1.02 * mode):
        inference.params[algorithm.location(model.v)] = nd(begin)
        inference.run(x=nd(x), optimizer="sgd", learning_rate=0.1, max_iter=40)  # which keeps still where nothing pulls
        assert_close(found(inference, model.v), mode, rtol=1e-4)


# Beside the host's own MAP


def unconstrained_model():
    model = Model()
    model.N = Variable()
    model.C = Variable(shape=(2, 2), transformation=PositiveDefinite(), initial_value=mx.nd.array(np.eye(2)))
    model.m = host.Normal.define_variable(mx.nd.zeros(2), mx.nd.ones(2), (2,))
    model.x = MultivariateNormal(mean=model.m, covariance=model.C, shape=(model.N, 2))
    return model


@pytest.mark.parametrize("jacobian", [False, True])
def test_without_limited_supports_it_is_the_hosts(jacobian, rng):
    """The same parameters to the last bit, also those of the model."""
    x = nd(rng.normal(size=(6, 2)), "float32")
    fitted = []
    for algorithm_class in (host_inference.MAP, lambda m, o: MAP(m, o, jacobian=jacobian)):
        mx.random.seed(1)
        model = unconstrained_model()
        algorithm = algorithm_class(model, [model.x])
        inference = GradBasedInference(algorithm)
        inference.run(x=x, learning_rate=0.05, max_iter=20)
        location = inference.params[algorithm.posterior.m.factor.location]
        fitted.append([location.asnumpy(), inference.params[model.C].asnumpy()])
    np.testing.assert_array_equal(fitted[0][0], fitted[1][0])
    np.testing.assert_array_equal(fitted[0][1], fitted[1][1])


def test_it_is_an_algorithm_of_the_hosts(rng):
    model = hierarchy()
    algorithm = MAP(model, [model.x])
    assert isinstance(algorithm, host_inference.MAP)
    assert not algorithm.jacobian
    assert MAP(model, [model.x], jacobian=True).jacobian
    assert algorithm.observed_variable_names == ["x"]
    assert {v.name: type(b).__name__ for v, b in algorithm.bijections.items()} == {"v": "Positive", "m": "Real"}
    algorithm.bijections.clear()
    assert len(algorithm.bijections) == 2


def test_only_latent_variables_have_a_location():
    model = hierarchy()
    algorithm = MAP(model, [model.x])
    for variable in (model.x, model.N):
        with pytest.raises(
            ModelSpecificationError, match=r"`variable`: got .*; expected a latent variable: v, m\. Name"
        ):
            algorithm.location(variable)
    assert set(algorithm.posterior.variables) == {v.uuid for pair in locations(algorithm) for v in pair}


def locations(algorithm):
    return [(variable, algorithm.location(variable)) for variable in algorithm.bijections]


# Sizes that the data tell


def test_local_latent_variables(rng):
    """A mean and a share for each row, whose modes are known."""
    x = rng.normal(size=(7, 2))
    model = Model()
    model.N = Variable()
    model.z = MultivariateNormal(covariance=2.0, shape=(model.N, 2), dtype="float64")
    model.w = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (model.N, 1), dtype="float64")
    model.x = MultivariateNormal(mean=model.z, covariance=0.5, shape=(model.N, 2), dtype="float64")
    inference = fit(MAP(model, [model.x]), x=nd(x))
    assert_close(found(inference, model.z), 2.0 / 2.5 * x, rtol=1e-4, atol=1e-5)
    assert_close(found(inference, model.w), np.full((7, 1), 4.0), rtol=1e-4)


# Supports that are given


def test_another_support_may_change_the_mode_that_is_found(rng):
    """A normal mean that is known to be below zero."""
    model = Model()
    model.v = host.Normal.define_variable(nd([1.0]), nd([1.0]), (1,), dtype="float64")
    model.x = MultivariateNormal(mean=model.v, shape=(3, 1), dtype="float64")
    with warned("`v` is Interval in place of Real"):
        algorithm = MAP(model, [model.x], supports={model.v: bijections.Interval(-4.0, 0.0)})
    x = np.array([[-3.0], [-2.0], [-1.0]])
    assert_close(found(fit(algorithm, x=nd(x)), model.v), [(1.0 - 6.0) / 4], rtol=1e-4)


# Copies


def loss_of(algorithm, values, x):
    """The objective without an inference around it, which the host cannot put around a replica."""
    model = algorithm.model
    variables = {v.uuid: v.constant.expand_dims(0) for v in model.get_constants()}
    variables.update({model.x.uuid: nd(x[None]), model.N.uuid: len(x)})
    for variable, value in values.items():
        location = algorithm.location(variable)
        variables[location.uuid] = location.transformation.inverseTransform(nd(value[None]))
    return algorithm.compute(mx.nd, variables)[0].asscalar()


@pytest.mark.parametrize("jacobian", [False, True])
def test_a_replica_for_a_copy_of_the_model(jacobian, rng):
    v, m, x = np.array([0.7, 3.0]), rng.normal(size=2), rng.normal(size=(5, 2))
    model = hierarchy()
    with warned("`v` is Interval in place of Positive"):
        algorithm = MAP(model, [model.x], jacobian=jacobian, supports={model.v: bijections.Interval(0, 9)})
    copied = model.clone()
    replica = algorithm.replicate_self(copied, [algorithm.posterior.clone(copied)])
    assert replica.jacobian is jacobian
    assert list(replica.bijections.values()) == list(algorithm.bijections.values())
    assert all(copied[variable.uuid] is variable for variable in replica.bijections)
    losses = [loss_of(a, {g.v: v, g.m: m}, x) for a, g in ((algorithm, model), (replica, copied))]
    assert losses[0] == losses[1]
    volume = np.log(v * (9 - v) / 9).sum() if jacobian else 0.0
    assert losses[1] == pytest.approx(-hierarchy_log_pdf(v, m, x) - volume, rel=1e-12)


def test_a_deep_copy_of_the_model_is_another_model(rng):
    v, m, x = np.array([0.7, 3.0]), rng.normal(size=2), rng.normal(size=(5, 2))
    model = copy.deepcopy(hierarchy())
    loss = objective(MAP(model, [model.x]), None, {model.v: v, model.m: m}, x=x)
    assert loss == pytest.approx(-hierarchy_log_pdf(v, m, x), rel=1e-12)


def test_save_and_load(rng, tmp_path):
    x = nd(DATA["y"])

    def inference():
        model = covariance_model()
        algorithm = MAP(model, [model.x])
        return GradBasedInference(algorithm, dtype="float64"), model

    trained, model = inference()
    trained.run(x=x, learning_rate=0.1, max_iter=10)
    path = str(tmp_path / "map")
    trained.save(path)
    loaded, again = inference()
    loaded.initialize(x=x)
    loaded.load(path)
    np.testing.assert_array_equal(found(loaded, again.v), found(trained, model.v))


# Prediction


def test_the_host_predicts_from_it(rng):
    """Draws of the data from the covariance found, and the latent variable itself, which does not vary."""
    model = covariance_model()
    algorithm = MAP(model, [model.x])
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize(x=DATA["y"].shape)
    mode = MODES["covariance"][0]
    inference.params[algorithm.location(model.v)] = nd(mode)
    for _ in range(2):
        predict = VariationalPosteriorForwardSampling(
            1000, [], inference, target_variables=[model.x, model.v], dtype="float64"
        )
        draws, values = (array.asnumpy() for array in predict.run())
        assert_close(values, np.broadcast_to(mode, (len(values), 3, 3)), rtol=1e-12)
        rows = draws.reshape(-1, 3)
        assert_close(rows.T @ rows / len(rows), mode, rtol=0.1, atol=0.1)
