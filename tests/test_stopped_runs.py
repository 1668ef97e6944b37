# SPDX-License-Identifier: Apache-2.0
"""Runs that cannot go on: they say where and why, and leave the last good parameters."""

import re
import warnings

from mxfusion_mvn import MultivariateNormal, OnFailure
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    TrainingStoppedWarning,
    create_Gaussian_fullrank,
    create_Gaussian_meanfield,
)
from mxfusion_mvn.inference.loops import training

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import MultivariateNormal as HostMultivariateNormal
from mxfusion.components.distributions import Normal
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.inference import BatchInferenceLoop, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior

from helpers.host import nd
from helpers.runs import ROWS, assert_same_parameters, map_inference, parameters, stopped, variance_model
from helpers.tolerances import assert_close


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """MXNet reports a failure once, wherever something is read next: here nothing may be."""
    yield
    mx.nd.waitall()


@pytest.fixture
def data(rng):
    return rng.multivariate_normal([1.0, 2.0, 3.0], [[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 0.8]], size=60)


# A loss that is not finite


def hand_stepped_variances(initial, rate, rows):
    """Gradient descent on N/2 log(2 pi v) + sum x^2 / (2 v), up to the first variance that is not positive."""
    variances = [initial]
    while variances[-1] > 0:
        v = variances[-1]
        variances.append(v - rate * (len(rows) / (2 * v) - np.sum(rows**2) / (2 * v**2)))
    return np.array(variances)


INITIAL, RATE = 40.0, 2.0
VARIANCES = hand_stepped_variances(INITIAL, RATE, ROWS)
FAILURE = len(VARIANCES) - 1


def run_to_failure(loop, max_iter=500, rate=RATE, optimizer="sgd", initial=INITIAL, dtype="float64"):
    inference = map_inference(loop, dtype, variance_model(initial, dtype))
    with stopped():
        record = inference.run(X=nd(ROWS, dtype), max_iter=max_iter, learning_rate=rate, optimizer=optimizer)
    return record, parameters(inference)[0]


def test_the_oracle_fails_late():
    assert 20 < FAILURE < 100


@pytest.mark.parametrize("check_every", [1, 7, FAILURE - 1, FAILURE, FAILURE + 1, 1000])
def test_a_loss_that_is_nan_ends_a_run(check_every):
    """The parameters are those of the last finite loss, wherever the checks fall."""
    record, variance = run_to_failure(BatchLoop(check_every=check_every))
    assert record.reason == "not finite"
    assert record.iterations == FAILURE
    assert record.message.startswith(
        f"The loss of iteration {FAILURE} is nan: the log density of `X` is nan at index (0, 0). "
        f"The parameters are those of iteration {FAILURE - 1}, the last whose loss is finite; use a smaller"
    )
    assert_close(variance, VARIANCES[-2:-1], rtol=1e-9)
    losses = 10 * np.log(2 * np.pi * VARIANCES[:-1]) + np.sum(ROWS**2) / (2 * VARIANCES[:-1])
    assert_close(record.loss, losses, rtol=1e-9)


def test_the_last_update_is_looked_at_too():
    record, variance = run_to_failure(BatchLoop(), max_iter=FAILURE)
    assert record.iterations == FAILURE
    assert record.message.startswith("The loss after the last update is nan: the log density of `X` is nan")
    assert_close(variance, VARIANCES[-2:-1], rtol=1e-9)


def test_one_iteration_before_all_is_well():
    inference = map_inference(BatchLoop(), "float64", variance_model(INITIAL))
    record = inference.run(X=nd(ROWS), max_iter=FAILURE - 1, learning_rate=RATE, optimizer="sgd")
    assert record.reason == "max_iter"
    assert_close(parameters(inference)[0], VARIANCES[-2:-1], rtol=1e-9)


def test_momentum_is_set_back_with_the_parameters():
    """The repeated steps have to be the same steps: with momentum, and a schedule that cannot go back in time."""
    rates = mx.lr_scheduler.FactorScheduler(step=10, factor=0.9, base_lr=0.5)
    optimizer = mx.optimizer.SGD(momentum=0.9)
    record, variance = run_to_failure(BatchLoop(schedule=rates), optimizer=optimizer)
    rates = mx.lr_scheduler.FactorScheduler(step=10, factor=0.9, base_lr=0.5)
    loop = BatchLoop(schedule=rates, check_every=1)
    exact = map_inference(loop, "float64", variance_model(INITIAL))
    again = exact.run(X=nd(ROWS), max_iter=record.iterations - 1, optimizer=optimizer)
    np.testing.assert_array_equal(variance, parameters(exact)[0])
    np.testing.assert_array_equal(record.loss[:-1], again.loss)


def test_overflow_of_the_density():
    record, variance = run_to_failure(BatchLoop(), rate=1e30, dtype="float32")
    assert record.iterations == 1
    assert "The loss of iteration 1 is nan: the log density of `X` is nan at index (0, 0)" in record.message
    assert variance == np.float32(INITIAL)


def test_overflow_of_an_update():
    record, variance = run_to_failure(BatchLoop(), rate=1e38, initial=0.01, dtype="float32")
    assert record.iterations == 1
    assert record.message.startswith(
        "After iteration 0 the parameter `variance` is inf: the loss and the gradient before it were finite, so the "
        "update itself went too far. The parameters are those of iteration 0"
    )
    assert variance == np.float32(0.01)


def model_of_a_function(function, initial):
    """X ~ N(f(x), 1)."""
    model = Model()
    model.x = Variable(shape=(1,), initial_value=nd([initial], "float32"))
    block = mx.gluon.nn.HybridLambda(lambda F, x: function(x))
    model.f = MXFusionGluonFunction(block, num_outputs=1, broadcastable=True)(model.x)
    model.f.shape = (1,)
    model.X = Normal.define_variable(mean=model.f, variance=mx.nd.ones(1), shape=(1,))
    return model


def test_a_parameter_that_is_bad_while_the_loss_is_not():
    """Clipped, an infinite x makes no infinite loss."""
    inference = map_inference(
        BatchLoop(schedule=lambda iteration: 1e38 if iteration == 15 else 1e-3),
        model=model_of_a_function(lambda x: x.clip(-1, 1), initial=0.5),
    )
    with stopped(
        "After iteration 15 the parameter `x` is inf: the loss and the gradient before it were finite, so the"
    ):
        record = inference.run(X=nd([9.0], "float32"), max_iter=100, optimizer="sgd")
    x = [np.float32(0.5)]
    for _ in range(15):
        x.append(x[-1] + np.float32(1e-3) * (9 - x[-1]))
    assert record.iterations == 16
    assert_close(parameters(inference)[0], x[-1:], rtol=1e-6)


def test_a_function_that_is_bad_is_named():
    inference = map_inference(BatchLoop(), model=model_of_a_function(mx.nd.log, initial=-1.0))
    with stopped("The loss of iteration 0 is nan: the value of `f` is nan. The initial parameters are kept"):
        inference.run(X=mx.nd.zeros(1), max_iter=10)


def test_a_gradient_that_is_nan_while_the_loss_is_not():
    """The square root at 0: the loss is finite, its gradient 0 times infinity."""
    inference = map_inference(BatchLoop(), model=model_of_a_function(mx.nd.sqrt, initial=0.0))
    with stopped(
        "After iteration 0 the parameter `x` is nan: the gradient of the parameter `x` is nan. The parameters"
    ):
        record = inference.run(X=mx.nd.zeros(1), max_iter=10, optimizer="sgd")
    assert parameters(inference)[0] == 0
    assert_close(record.loss, [0.5 * np.log(2 * np.pi)], rtol=1e-6)


@pytest.mark.parametrize("check_every", [1, 50])
@pytest.mark.parametrize(
    ("distribution", "cause"),
    [
        (HostMultivariateNormal, "the log density of `X` could not be computed (spotrf failed in lapack on cpu."),
        (MultivariateNormal, "`covariance` of variable `X` is not positive definite: its smallest eigenvalue is -"),
    ],
)
def test_a_matrix_that_cannot_be_factored_ends_a_run(distribution, cause, check_every):
    value = np.array([3.0, -4.0, 1.0])
    model = Model()
    model.covariance = Variable(shape=(3, 3), initial_value=nd(np.eye(3), "float32"))
    model.X = distribution.define_variable(mean=nd(np.zeros(3), "float32"), covariance=model.covariance, shape=(3,))
    covariances = [np.eye(3)]
    while np.linalg.eigvalsh(covariances[-1])[0] > 0:
        inverse = np.linalg.inv(covariances[-1])
        covariances.append(covariances[-1] - 0.3 * (inverse - inverse @ np.outer(value, value) @ inverse) / 2)
    inference = map_inference(BatchLoop(check_every=check_every), model=model)
    with stopped():
        record = inference.run(X=nd(value, "float32"), max_iter=100, learning_rate=0.3, optimizer="sgd")
    failure = len(covariances) - 1
    assert failure > 2
    assert record.iterations == failure
    assert record.message.startswith(f"The loss of iteration {failure} could not be computed: {cause}")
    assert f"The parameters are those of iteration {failure - 1}" in record.message
    assert_close(parameters(inference)[0], covariances[-2], rtol=2e-4, atol=2e-4)


def policy_model(initial):
    model = Model()
    model.covariance = Variable(shape=(2, 2), initial_value=nd(initial, "float32"))
    model.X = MultivariateNormal(covariance=model.covariance, shape=(2,), on_failure=OnFailure())
    return model


def test_a_policy_that_raises_ends_a_run():
    inference = map_inference(BatchLoop(), model=policy_model(np.eye(2)))
    with stopped():
        record = inference.run(X=nd([3.0, -4.0], "float32"), max_iter=100, learning_rate=0.3, optimizer="sgd")
    assert record.iterations > 1
    assert f"Iteration {record.iterations} failed: `covariance` of variable `X` is not positive" in record.message
    assert np.linalg.eigvalsh(parameters(inference)[0])[0] > 0


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "asynchronous"])
def test_a_run_without_one_good_loss_keeps_the_initial_parameters(policy):
    model = policy_model(-np.eye(2))
    if not policy:
        model = Model()
        model.covariance = Variable(shape=(2, 2), initial_value=nd(-np.eye(2), "float32"))
        model.X = MultivariateNormal(covariance=model.covariance, shape=(2,))
    inference = map_inference(BatchLoop(), model=model)
    with stopped():
        record = inference.run(X=nd([3.0, -4.0], "float32"))
    assert re.match(".*iteration 0 .*not positive definite.* The initial parameters are kept", record.message, re.I)
    assert (record.iterations, record.loss.shape, record.reason) == (0, (0,), "not finite")
    np.testing.assert_array_equal(parameters(inference)[0], -np.eye(2))


def test_bad_data_is_named():
    rows = ROWS.copy()
    rows[3] = np.nan
    inference = map_inference(BatchLoop(), "float64", variance_model(INITIAL))
    with stopped(
        "The loss of iteration 0 is nan: `X` is nan at index (3, 0); expected finite numbers. If it is data, "
    ):
        inference.run(X=nd(rows))
    assert parameters(inference)[0] == INITIAL


def test_a_parameter_without_a_name_is_called_by_what_it_feeds():
    model = Model()
    model.N = Variable()
    model.X = MultivariateNormal(Variable(shape=(2,), initial_value=nd([1e3, 0.0], "float32")), shape=(model.N, 2))
    inference = map_inference(BatchLoop(), model=model)
    with stopped("After iteration 0 the parameter `mean of X` is -inf at index (0,): the loss and the gradient before"):
        inference.run(X=nd(np.zeros((4, 2)), "float32"), max_iter=2, learning_rate=1e37, optimizer="sgd")


def test_with_noise_the_iteration_is_the_one_of_the_run(capsys):
    """The steps are repeated with other draws, but it is said where the run itself failed, and it ends well."""

    def create(loop):
        model = Model()
        model.N = Variable()
        model.mu = Normal.define_variable(mean=nd([0.0], "float32"), variance=nd([1.0], "float32"), shape=(1,))
        model.covariance = Variable(shape=(1, 1), initial_value=nd([[40.0]], "float32"))
        model.X = MultivariateNormal(model.mu, model.covariance, shape=(model.N, 1))
        posterior = Posterior(model)
        posterior.mu.set_prior(Normal(nd([0.0], "float32"), nd([0.1], "float32")))
        algorithm = StochasticVariationalInference(3, model, posterior, [model.X])
        return GradBasedInference(algorithm, grad_loop=loop)

    mx.random.seed(1)
    with pytest.raises(mx.base.MXNetError):
        create(BatchInferenceLoop()).run(
            X=nd(ROWS, "float32"), max_iter=300, learning_rate=2.0, optimizer="sgd", verbose=True
        )
    failure = capsys.readouterr().out.count("Iteration")
    mx.random.seed(1)
    ours = create(BatchLoop())
    with stopped():
        record = ours.run(X=nd(ROWS, "float32"), max_iter=300, learning_rate=2.0, optimizer="sgd")
    assert failure > 10
    assert f"The loss of iteration {failure} could not be computed: `covariance` of variable `X` is" in record.message
    assert np.isfinite(record.loss).all()
    assert ours.params[ours.inference_algorithm.model.covariance].asscalar() > 0


def test_what_the_first_iteration_raises_is_raised(data):
    loop = BatchLoop()
    model = Model()
    model.N = Variable()
    model.X = MultivariateNormal(linear(np.ones((59, 2), "float32"), Variable(shape=(3, 2))), shape=(model.N, 3))
    with pytest.raises(InferenceError, match=r"`mean` of variable `X`: got shape \(59, 3\); expected \(60, 3\)"):
        map_inference(loop, model=model).run(X=nd(np.ones((60, 3)), "float32"))
    assert (loop.record.reason, loop.record.iterations) == ("error", 0)
    assert loop.record.message == "InferenceError after 0 iterations."


@pytest.mark.parametrize("create", [create_Gaussian_fullrank, create_Gaussian_meanfield])
def test_what_is_bad_in_a_posterior_is_said_to_be_there(create):
    model = Model()
    model.mu = MultivariateNormal(covariance=nd(np.eye(2), "float32"), shape=(2,))
    model.nu = MultivariateNormal(mean=model.mu, covariance=nd(np.eye(2), "float32"), shape=(2,))
    model.X = MultivariateNormal(model.nu, nd(np.eye(2), "float32"), shape=(2,))
    posterior = create(model, [model.X])
    algorithm = StochasticVariationalInference(3, model, posterior, [model.X])
    inference = GradBasedInference(algorithm, grad_loop=BatchLoop())
    inference.initialize(X=(2,))
    law = getattr(posterior, "joint_0", posterior.mu).factor
    inference.params[law.mean] = nd([np.nan] + [0.0] * (law.mean.shape[0] - 1), "float32")
    with stopped():
        record = inference.run(X=nd([3.0, -4.0], "float32"))
    name = r"`joint_0` \(of `mu`, `nu`\)" if create is create_Gaussian_fullrank else "`mu`"
    assert re.search(rf"a draw of {name} in the posterior is nan at index \(0,\); its `mean` is", record.message)


def test_nothing_is_left_on_the_factors():
    """A diagnosis covers the methods of factors, for its own span only."""
    inference = map_inference(BatchLoop(), "float64", variance_model(INITIAL))
    with stopped():
        inference.run(X=nd(ROWS), max_iter=500, learning_rate=RATE, optimizer="sgd")
    for graph in inference.graphs:
        for factor in graph.ordered_factors:
            assert not {"log_pdf", "draw_samples", "eval"} & set(vars(factor))


# Interrupts


def test_after_an_interrupt_the_parameters_are_in_place(data):
    def interrupt(record):
        if record.iterations == 20:
            raise KeyboardInterrupt

    loop = BatchLoop(checkpoint=interrupt, check_every=10)
    ours, host = map_inference(loop), map_inference(BatchInferenceLoop())
    with pytest.raises(KeyboardInterrupt):
        ours.run(X=nd(data, "float32"), max_iter=1000, learning_rate=0.1)
    host.run(X=nd(data, "float32"), max_iter=20, learning_rate=0.1)
    assert_same_parameters(ours, host)
    assert (loop.record.reason, loop.record.iterations) == ("interrupted", 20)
    assert loop.record.message == "KeyboardInterrupt after 20 iterations."


def test_an_interrupt_after_a_failure_that_was_not_noticed_yet():
    def schedule(iteration):
        if iteration == FAILURE + 5:
            raise KeyboardInterrupt
        return RATE

    loop = BatchLoop(schedule=schedule, check_every=1000)
    inference = map_inference(loop, "float64", variance_model(INITIAL))
    with pytest.raises(KeyboardInterrupt):
        inference.run(X=nd(ROWS), max_iter=1000, optimizer="sgd")
    assert parameters(inference)[0] in VARIANCES[:-1].astype("float64")
    assert loop.record.reason == "interrupted"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (np.r_[np.full(20, 100.0), -np.full(60, 1e22)], True),
        (np.r_[np.full(20, 100.0), np.full(60, 1e12)], True),
        (np.r_[np.full(20, 100.0), np.full(49, 1e12)], False),
        (np.r_[np.full(20, 1e15), np.full(500, 100.0)], False),
        (np.r_[np.full(20, 100.0), np.tile([1e20, 100.0], 200)], False),
        (np.linspace(1e-3, 1e5, 2000), False),
        (np.full(30, 1e30), False),
    ],
    ids=["down", "up", "too short", "a bad start", "heavy tails", "a slow rise", "few"],
)
def test_what_counts_as_diverged(losses, expected):
    assert training._has_diverged(losses) is expected


STEPS = np.arange(2000.0)
FALLS = {
    "from far away": 1e12 * np.exp(-STEPS / 50) + 3,
    "from far away to the other side of zero": 1e15 * np.exp(-STEPS / 50) - 1e9,
    "through zero": 1e8 - 1e6 * STEPS,
    "near zero at first, then steadily": -1e6 * STEPS,
    "near zero at first, then at once": np.r_[np.full(10, 0.3), np.full(1990, -2e9)],
    "near zero at first, then faster and faster": np.maximum(0.3 - 1e-3 * 1.5 ** STEPS[:200], -1e9),
    "from zero exactly": np.r_[np.zeros(10), -1e8 * (1 - np.exp(-STEPS / 100))],
    "and rises for a while": np.r_[np.full(10, 1e-3), np.full(100, 1e6), -STEPS],
}


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("name", sorted(FALLS))
def test_a_loss_that_falls_has_not_diverged(name, noise, rng):
    """At no check, whatever its size and whatever minibatches make of it."""
    losses = FALLS[name] * (1 + noise * rng.standard_t(3, size=len(FALLS[name])))
    assert not any(training._has_diverged(losses[:end]) for end in range(1, len(losses) + 1, 10))


@pytest.mark.parametrize("sign", [1.0, -1.0, "both"], ids=["up", "down", "to and fro"])
@pytest.mark.parametrize("first", [0.0, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("growth", [1.1, 2.0])
def test_a_loss_that_grows_without_end_has_diverged(growth, first, sign):
    signs = (-1.0) ** STEPS[:600] if sign == "both" else sign
    assert training._has_diverged(first + signs * growth ** STEPS[:600])


@pytest.mark.parametrize("loop", [BatchLoop, CompiledLoop])
def test_a_run_that_diverges_stops_with_sound_parameters(loop):
    """Gradient descent with too large a rate: each step more than doubles the error, and all stays finite."""
    model = Model()
    model.x = Variable(shape=(1,), initial_value=mx.nd.ones(1, dtype="float64"))
    model.y = MultivariateNormal(mean=model.x, covariance=1.0, shape=(1,), dtype="float64")
    inference = GradBasedInference(MAP(model, [model.y]), grad_loop=loop(), dtype="float64")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", TrainingStoppedWarning)
        record = inference.run(optimizer="sgd", y=nd([0.0]), learning_rate=2.5, max_iter=300)
    (warning,) = caught
    assert re.search(r"the run has diverged\. .*those after \d+ iterations\. Use a small", str(warning.message))
    assert record.reason == "diverged"
    assert record.iterations < 300
    assert abs(inference.params[model.x].asnumpy()[0]) < 1e3
