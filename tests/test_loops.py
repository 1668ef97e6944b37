# SPDX-License-Identifier: Apache-2.0
"""Loops: the host's arithmetic bit for bit, and a run that says how it went and why it ended."""

import contextlib
import re
import sys
import warnings

from mxfusion_mvn import MultivariateNormal, OnFailure
from mxfusion_mvn.inference import create_Gaussian_fullrank, create_Gaussian_meanfield, training
from mxfusion_mvn.inference.loops import BatchLoop
from mxfusion_mvn.inference.record import Plateau, RunRecord, TrainingStoppedWarning, improvement
from mxfusion_mvn.transformations import LowerCholesky, PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from host import nd
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import MultivariateNormal as HostMultivariateNormal
from mxfusion.components.distributions import Normal
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.inference import MAP, BatchInferenceLoop, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from tolerances import assert_close


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """MXNet reports a failure once, wherever something is read next: here nothing may be."""
    yield
    mx.nd.waitall()


def learned_model(dtype="float32"):
    """X ~ N(mean, covariance) with both learned."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(3,), initial_value=nd(np.zeros(3), dtype))
    model.covariance = Variable(shape=(3, 3), transformation=PositiveDefinite(), initial_value=nd(np.eye(3), dtype))
    model.X = MultivariateNormal(model.mean, model.covariance, shape=(model.N, 3), dtype=dtype)
    return model


def map_inference(loop, dtype="float32", model=None):
    model = learned_model(dtype) if model is None else model
    return GradBasedInference(MAP(model, [model.X]), grad_loop=loop, dtype=dtype)


def map_algorithm(dtype="float32"):
    model = learned_model(dtype)
    return MAP(model, [model.X])


def variational_algorithm(dtype="float32"):
    """X ~ N(mu, I), mu ~ N(0, I), and a full-rank q(mu)."""
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=nd(np.eye(3), dtype), shape=(3,), dtype=dtype)
    model.X = MultivariateNormal(model.mu, nd(np.eye(3), dtype), shape=(model.N, 3), dtype=dtype)
    posterior = Posterior(model)
    posterior.mu.set_prior(
        MultivariateNormal(
            Variable(shape=(3,), initial_value=nd(np.zeros(3), dtype)),
            scale_tril=Variable(shape=(3, 3), transformation=LowerCholesky(), initial_value=nd(np.eye(3), dtype)),
            dtype=dtype,
        )
    )
    return StochasticVariationalInference(4, model, posterior, [model.X])


def parameters(inference):
    """The raw values, the smallest first so that two inferences can be compared without their uuids."""
    values = [parameter.data().asnumpy() for parameter in inference.params.param_dict.values()]
    return sorted(values, key=lambda value: value.size)


def assert_same_parameters(one, other):
    for mine, yours in zip(parameters(one), parameters(other)):
        assert mine.dtype == yours.dtype
        np.testing.assert_array_equal(mine, yours)


@contextlib.contextmanager
def stopped(message=""):
    """
    There has to be one warning that the run was stopped, at a line of this file, whose message begins so.

    ``pytest.warns`` would also catch what MXNet warns of at each ``mx.nd.array``, and turn it into an error.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingStoppedWarning)
        yield
    assert [warning.category for warning in caught] == [TrainingStoppedWarning]
    assert caught[0].filename == __file__
    assert str(caught[0].message).startswith(message)


@pytest.fixture
def data(rng):
    return rng.multivariate_normal([1.0, 2.0, 3.0], [[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 0.8]], size=60)


def variance_model(initial, dtype="float64"):
    """X ~ N(0, variance) with a variance that nothing keeps positive."""
    model = Model()
    model.N = Variable()
    model.variance = Variable(shape=(1,), initial_value=nd([initial], dtype))
    model.X = Normal.define_variable(
        mean=nd(np.zeros(1), dtype), variance=model.variance, shape=(model.N, 1), dtype=dtype
    )
    return model


ROWS = np.linspace(-2.0, 2.0, 20)[:, None]


# The host's arithmetic


@pytest.mark.parametrize(
    ("create", "optimizer"),
    [
        (map_algorithm, "adam"),
        (map_algorithm, "nadam"),
        (variational_algorithm, "adam"),
        (variational_algorithm, "sgd"),
    ],
)
def test_parameters_are_those_of_the_host_bit_for_bit(create, optimizer, data, dtype):
    algorithm = create(dtype)
    inferences = []
    for loop in (BatchInferenceLoop(), BatchLoop(check_every=7)):
        inferences.append(GradBasedInference(algorithm, grad_loop=loop, dtype=dtype))
        mx.random.seed(7)
        inferences[-1].run(X=nd(data, dtype), max_iter=40, learning_rate=0.01, optimizer=optimizer)
    assert_same_parameters(*inferences)


def test_the_losses_are_those_of_the_host(data, capsys):
    mx.random.seed(7)
    host = GradBasedInference(variational_algorithm(), grad_loop=BatchInferenceLoop())
    host.run(X=nd(data, "float32"), max_iter=20, verbose=True)
    printed = [line.split("loss: ")[1].split()[0] for line in capsys.readouterr().out.split("\r")[1:]]
    mx.random.seed(7)
    record = GradBasedInference(variational_algorithm(), grad_loop=BatchLoop()).run(X=nd(data, "float32"), max_iter=20)
    np.testing.assert_array_equal(record.loss.astype("float32"), np.array(printed, "float32"))


def test_a_second_run_continues(data):
    inferences = [map_inference(loop) for loop in (BatchInferenceLoop(), BatchLoop())]
    for inference in inferences:
        for rate in (0.1, 0.01):
            inference.run(X=nd(data, "float32"), max_iter=15, learning_rate=rate)
    assert_same_parameters(*inferences)


def test_an_optimizer_brings_its_own_rate_and_keeps_no_momentum(data):
    optimizer = mx.optimizer.Adam(learning_rate=0.1)
    inferences = [map_inference(BatchLoop()) for _ in range(2)]
    for _ in range(2):
        inferences[0].run(X=nd(data, "float32"), max_iter=15, optimizer=optimizer)
        inferences[1].run(X=nd(data, "float32"), max_iter=15, optimizer="adam", learning_rate=0.1)
    assert_same_parameters(*inferences)
    assert optimizer.num_update == 0


# The record


def test_the_record_of_a_run(data):
    loop = BatchLoop()
    record = map_inference(loop).run(X=nd(data, "float32"), max_iter=23, learning_rate=0.01)
    assert record is loop.record
    assert record.loss.shape == (23,)
    assert record.loss.dtype == "float64"
    assert record.iterations == 23
    assert 0 < record.seconds < 60
    assert (record.reason, record.compiled, record.fallback_reason) == ("max_iter", False, None)
    assert record.message.startswith("All 23 iterations are done; the loss was still falling, by ")
    assert_close(loop.data[0], data.astype("float32"), rtol=0)


def test_the_record_in_words():
    record = RunRecord(np.array([3.0, 2.5]), 1.25, "converged", "It is done.")
    assert repr(record) == "RunRecord(converged: 2 iterations in 1.25 s, last loss 2.5)"
    assert str(record) == "RunRecord(converged: 2 iterations in 1.25 s, last loss 2.5)\nIt is done."
    compiled = RunRecord(np.array([]), 0.5, "not finite", "Failed.", True, None)
    assert str(compiled) == "RunRecord(not finite: 0 iterations in 0.5 s, compiled)\nFailed."
    fallback = RunRecord(np.array([]), 0.5, "max_iter", "Done.", False, "it reads a value")
    assert str(fallback).endswith("Done.\nNot compiled: it reads a value")


def test_no_iterations(data):
    record = map_inference(BatchLoop()).run(X=nd(data, "float32"), max_iter=0)
    assert (record.iterations, record.reason) == (0, "max_iter")


def test_a_run_that_has_arrived_says_so():
    inference = map_inference(BatchLoop(), "float64", variance_model(1.0))
    record = inference.run(X=nd(ROWS), max_iter=250, learning_rate=0.1, optimizer="sgd")
    assert record.message == "All 250 iterations are done; the loss did not fall clearly over the last 100."


# Progress


def test_a_bar_appears_when_asked_for(data, capfd):
    map_inference(BatchLoop()).run(X=nd(data, "float32"), max_iter=20, verbose=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "20/20" in err
    assert "loss " in err


def test_nothing_appears_otherwise(data, capfd, monkeypatch):
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    map_inference(BatchLoop()).run(X=nd(data, "float32"), max_iter=20)
    assert capfd.readouterr() == ("", "")


# Schedules


def test_a_schedule_gives_the_rate_of_each_iteration(data):
    rates = [0.1, 0.0, 0.03, 0.2, 0.01]
    ours = map_inference(BatchLoop(schedule=rates.__getitem__))
    ours.run(X=nd(data, "float32"), max_iter=5, optimizer="sgd", learning_rate=1e9)
    host = map_inference(BatchInferenceLoop())
    for rate in rates:
        host.run(X=nd(data, "float32"), max_iter=1, optimizer="sgd", learning_rate=rate)
    assert_same_parameters(ours, host)


def test_a_scheduler_of_mxnet(data):
    scheduler = mx.lr_scheduler.FactorScheduler(step=3, factor=0.5, base_lr=0.1)
    asked = []

    def schedule(iteration):
        asked.append(scheduler(iteration))
        return asked[-1]

    map_inference(BatchLoop(schedule=schedule)).run(X=nd(data, "float32"), max_iter=10)
    assert_close(asked, 0.1 * 0.5 ** (np.maximum(np.arange(10) - 1, 0) // 3), rtol=1e-12)


@pytest.mark.parametrize("rate", [np.nan, -1.0, None, "fast"])
def test_a_rate_that_is_none(rate, data):
    loop = BatchLoop(schedule=lambda iteration: rate if iteration == 3 else 0.1)
    with pytest.raises(InferenceError, match="The learning rate of iteration 3: got .*; expected a number that is not"):
        map_inference(loop).run(X=nd(data, "float32"), max_iter=10)
    assert (loop.record.reason, loop.record.iterations) == ("error", 3)


# Stop rules and checkpoints


def first_stop(losses, rule, every=50):
    return next((n for n in range(every, len(losses) + 1, every) if rule(losses[:n])), None)


def test_improvement_of_noise_about_a_line(rng):
    """Falling by 0.02 per iteration, windows are 2 apart; the standard error is that of a difference of two means."""
    noise = rng.normal(size=(2000, 200))
    found = [improvement(-0.02 * np.arange(200) + 3 * row, window=100) for row in noise]
    assert_close(np.mean([f.nats for f in found]), 2.0, rtol=0.02)
    assert_close(np.std([f.nats for f in found]), 3 * np.sqrt(2 / 100), rtol=0.06)
    assert_close(np.mean([f.standard_error for f in found]), 3 * np.sqrt(2 / 100), rtol=0.01)


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_noise_does_not_hide_a_clear_fall(slope, rng):
    """A fall of `slope` nats per 100 iterations is 2 to 11 standard errors of the difference of two means."""
    for _ in range(20):
        losses = -slope * np.arange(2000) / 100 + 2 * rng.normal(size=2000)
        assert first_stop(losses, Plateau()) is None


def test_noise_alone_is_a_plateau_soon(rng):
    stops = [first_stop(5 * rng.normal(size=3000), Plateau()) for _ in range(20)]
    assert None not in stops
    assert np.median(stops) <= 800


@pytest.mark.parametrize("time", [50, 300])
def test_without_noise_a_run_goes_on_until_it_stands_still(time):
    """Even far below the tolerance: at the end the loss is at its limit to the rounding of float32."""
    losses = (1000 + 50 * np.exp(-np.arange(10000) / time)).astype("float32")
    stop = first_stop(losses, Plateau())
    assert stop is not None
    assert losses[stop - 1] == 1000


def test_a_loss_that_rises_is_a_plateau():
    assert first_stop(0.01 * np.arange(1000.0), Plateau()) == 400


def test_a_plateau_ends_a_run():
    inference = map_inference(BatchLoop(stop=Plateau(window=25)), "float64", variance_model(5.0))
    record = inference.run(X=nd(ROWS), max_iter=2000, learning_rate=0.1, optimizer="sgd")
    assert record.reason == "converged"
    assert record.iterations < 500
    assert record.iterations % 50 == 0
    assert record.message == (
        f"The stop rule Plateau(window=25, tolerance=0.01) said 'converged' after {record.iterations} iterations."
    )
    assert_close(parameters(inference)[0], np.mean(ROWS**2, axis=0), rtol=1e-7)


def test_rules_and_checkpoints_are_called_on_time(data, monkeypatch):
    """Also where losses are read more often, because iterations are slow."""
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKS", 0.0)
    seen, saved = [], []
    inference = map_inference(
        BatchLoop(
            check_every=6,
            stop=lambda losses: seen.append(losses) or ("enough" if len(losses) == 24 else None),
            checkpoint=lambda record: saved.append((record, parameters(inference))),
        )
    )
    record = inference.run(X=nd(data, "float32"), max_iter=100, learning_rate=0.1)
    assert record.reason == "enough"
    assert [len(losses) for losses in seen] == [6, 12, 18, 24]
    assert [r.iterations for r, _ in saved] == [6, 12, 18, 24]
    assert all(r.reason == "running" for r, _ in saved)
    np.testing.assert_array_equal(seen[-1], record.loss)
    host = map_inference(BatchInferenceLoop())
    host.run(X=nd(data, "float32"), max_iter=12, learning_rate=0.1)
    for got, expected in zip(saved[1][1], parameters(host)):
        np.testing.assert_array_equal(got, expected)


def test_losses_are_read_once_in_a_while_only(data, monkeypatch):
    pushed, reads = [], []
    original = mx.nd.NDArray.asnumpy

    def asnumpy(array):
        reads.append(len(pushed))
        return original(array)

    loop = BatchLoop(check_every=20, schedule=lambda iteration: pushed.append(iteration) or 0.01)
    monkeypatch.setattr(mx.nd.NDArray, "asnumpy", asnumpy)
    map_inference(loop).run(X=nd(data, "float32"), max_iter=50)
    assert set(reads) - {0} == {1, 10, 20, 40, 50}


# What cannot go on


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


def test_a_gradient_that_is_nan_while_the_loss_is_not():
    """The square root at 0: the loss is finite, its gradient 0 times infinity."""
    model = Model()
    model.x = Variable(shape=(1,), initial_value=nd([0.0], "float32"))
    root = MXFusionGluonFunction(mx.gluon.nn.HybridLambda(lambda F, x: F.sqrt(x)), num_outputs=1, broadcastable=True)
    model.root = root(model.x)
    model.root.shape = (1,)
    model.X = Normal.define_variable(mean=model.root, variance=mx.nd.ones(1), shape=(1,))
    inference = map_inference(BatchLoop(), model=model)
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
    with stopped("The loss of iteration 0 is nan: the log density of `X` is nan at index (3, 0); `X` is nan at index "):
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
    inference = map_inference(loop)
    inference.initialize(X=(60, 3))
    with pytest.raises(InferenceError, match="`mean` of variable `X`: got shape"):
        inference.run(X=nd(np.ones((60, 4)), "float32"))
    assert (loop.record.reason, loop.record.iterations) == ("error", 0)
    assert loop.record.message == "InferenceError after 0 iterations."


@pytest.mark.parametrize("create", [create_Gaussian_fullrank, create_Gaussian_meanfield])
def test_what_is_bad_in_a_posterior_is_said_to_be_there(create):
    model = Model()
    model.mu = MultivariateNormal(covariance=nd(np.eye(2), "float32"), shape=(2,))
    model.X = MultivariateNormal(model.mu, nd(np.eye(2), "float32"), shape=(2,))
    posterior = create(model, [model.X])
    algorithm = StochasticVariationalInference(3, model, posterior, [model.X])
    inference = GradBasedInference(algorithm, grad_loop=BatchLoop())
    inference.initialize(X=(2,))
    law = getattr(posterior, "joint_0", posterior.mu).factor
    inference.params[law.mean] = nd([np.nan, 0.0], "float32")
    with stopped():
        record = inference.run(X=nd([3.0, -4.0], "float32"))
    assert re.search(r"a draw of `(joint_0|mu)` in the posterior is nan at index \(0,\); its `mean` is", record.message)


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


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 0.1}, "`schedule`: got 0.1; expected a function or None"),
        ({"stop": "converged"}, "`stop`: got 'converged'; expected a function or None"),
        ({"checkpoint": 3}, "`checkpoint`: got 3; expected a function or None"),
        ({"check_every": 0}, "`check_every`: got 0; expected an integer of at least 1"),
        ({"check_every": 2.5}, "`check_every`: got 2.5; expected an integer of at least 1"),
    ],
)
def test_options_of_the_wrong_kind(options, message):
    with pytest.raises(InferenceError, match=message):
        BatchLoop(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_iter": 1e3}, "`max_iter`: got 1000.0; expected an integer of at least 0"),
        ({"optimizer": "adamw"}, "`optimizer`: got 'adamw'; expected an Optimizer or one of .*adam"),
        ({"optimizer": 3}, "`optimizer`: got 3; expected an Optimizer or one of .*adam"),
        (
            {"optimizer": mx.optimizer.Adam(lr_scheduler=mx.lr_scheduler.PolyScheduler(10))},
            "`optimizer`: got one with an lr_scheduler; expected one without. Give it to the loop: schedule=",
        ),
    ],
)
def test_arguments_of_the_wrong_kind(arguments, message, data):
    with pytest.raises(InferenceError, match=message):
        map_inference(BatchLoop()).run(X=nd(data, "float32"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 1}, "`window`: got 1; expected an integer of at least 2"),
        ({"tolerance": 0}, "`tolerance`: got 0; expected a positive number of nats"),
    ],
)
def test_rules_that_could_not_judge(arguments, message):
    with pytest.raises(InferenceError, match=message):
        Plateau(**arguments)


def test_nothing_is_left_on_the_factors():
    """A diagnosis covers the methods of factors, for its own span only."""
    inference = map_inference(BatchLoop(), "float64", variance_model(INITIAL))
    with stopped():
        inference.run(X=nd(ROWS), max_iter=500, learning_rate=RATE, optimizer="sgd")
    for graph in inference.graphs:
        for factor in graph.ordered_factors:
            assert not {"log_pdf", "draw_samples", "eval"} & set(vars(factor))
