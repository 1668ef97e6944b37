# SPDX-License-Identifier: Apache-2.0
"""Loops: the host's arithmetic bit for bit, and a run that says how it went and why it ended."""

import sys

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import BatchLoop, Plateau, RunRecord
from mxfusion_mvn.inference.loops import training
from mxfusion_mvn.inference.loops.record import improvement
from mxfusion_mvn.transformations import LowerCholesky

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import MAP, BatchInferenceLoop, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior

from helpers.host import nd
from helpers.runs import ROWS, assert_same_parameters, learned_model, map_inference, parameters, variance_model
from helpers.tolerances import assert_close


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


@pytest.fixture
def data(rng):
    return rng.multivariate_normal([1.0, 2.0, 3.0], [[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 0.8]], size=60)


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
    assert record.message == (
        "All 250 iterations are done; the loss has levelled off: it did not fall clearly over the last 100."
    )


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
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKS", 1e9)  # however slow the machine is
    pushed, reads = [], []
    original = mx.nd.NDArray.asnumpy

    def asnumpy(array):
        reads.append(len(pushed))
        return original(array)

    loop = BatchLoop(check_every=20, schedule=lambda iteration: pushed.append(iteration) or 0.01)
    monkeypatch.setattr(mx.nd.NDArray, "asnumpy", asnumpy)
    map_inference(loop).run(X=nd(data, "float32"), max_iter=50)
    assert set(reads) - {0} == {1, 10, 20, 40, 50}


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


def mxnet_can_update(optimizer, dtype):
    """Whether MXNet itself can make a step with a matrix of this dtype."""
    matrix = mx.nd.ones((2, 2), dtype=dtype)
    try:
        mx.optimizer.get_updater(mx.optimizer.create(optimizer))(0, matrix.copy(), matrix)
    except mx.base.MXNetError:
        return False
    return True


@pytest.mark.parametrize("optimizer", sorted(mx.optimizer.Optimizer.opt_registry))
def test_optimizers_that_mxnet_has_in_float32_only(optimizer, dtype):
    """They are refused where MXNet would fail, and no others are; what was learned stays."""
    model = Model()
    model.mean = Variable(shape=(2, 2), initial_value=nd(np.ones((2, 2)), dtype))
    model.X = MultivariateNormal(model.mean, 1.0, shape=(2, 2), dtype=dtype)
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=BatchLoop(), dtype=dtype)
    X = nd(np.zeros((2, 2)), dtype)
    inference.run(X=X, max_iter=2)
    before = inference.params[model.mean].asnumpy()
    if mxnet_can_update(optimizer, dtype):
        assert inference.run(X=X, max_iter=1, optimizer=optimizer).reason == "max_iter"
        return
    message = f"`optimizer`: got (?i:{optimizer}) for float64 parameters; expected .* Write optimizer='adam', or"
    with pytest.raises(InferenceError, match=message):
        inference.run(X=X, max_iter=1, optimizer=optimizer)
    np.testing.assert_array_equal(inference.params[model.mean].asnumpy(), before)


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
