# SPDX-License-Identifier: Apache-2.0
"""How a run ended goes with its result: in words, under the table, in ArviZ and in files."""

import re
import sys
import warnings

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    CompiledMinibatchLoop,
    LaplaceApproximation,
    MinibatchLoop,
    create_Gaussian_meanfield,
    load,
    save,
    summary,
    to_arviz,
)
from mxfusion_mvn.inference.loops.record import trend

import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import GradBasedInference, StochasticVariationalInference

from helpers.host import nd
from helpers.runs import map_inference, parameters, stopped

LOOPS = {
    "batch": BatchLoop,
    "compiled": CompiledLoop,
    "minibatch": lambda **options: MinibatchLoop(10, **options),
    "compiled minibatch": lambda **options: CompiledMinibatchLoop(10, **options),
}
NOISE = np.random.default_rng(8).normal(size=2000)
STEPS = np.arange(2000.0)
# Losses, whether a run before had arrived, and what is said of them.
TRENDS = {
    "a fall": (-STEPS, False, "; the loss was still falling, by 100 nats over the last 100"),
    "a fall in noise": (-STEPS + 5 * NOISE, False, "; the loss was still falling, by "),
    "a slow fall": (1000 - 1e-5 * STEPS, False, "; the loss was still falling, by 0.001 nats over the last 100"),
    "a slow fall in noise": (-0.01 * STEPS + NOISE, False, "; the loss was still falling, by "),
    "no fall": (np.full(2000, 3.0), False, "; the loss has not fallen since the beginning"),
    "no fall in noise": (NOISE, False, "; the loss has not fallen since the beginning"),
    "no fall, from where one had arrived": (NOISE, True, "; the loss has levelled off"),
    "an exponential": (1000 * np.exp(-STEPS / 50), False, "; the loss has levelled off: it did not fall clearly over"),
    "an exponential in noise": (1000 * np.exp(-STEPS / 50) + NOISE, False, "; the loss has levelled off"),
    "a few steps": (np.where(STEPS < 3, 100.0, 0.0), False, "; the loss has levelled off"),
    "a walk": (np.cumsum(10 * NOISE) ** 2, True, "; the loss wanders: over the last 100 its mean is "),
    "a rise": (0.1 * STEPS + NOISE, False, "; the loss wanders: over the last 100 its mean is "),
    "a jump": (np.where(STEPS < 1, 3.0, 103.0), False, "; the loss is 100 nats above where it began. Use a smaller"),
    "a jump in noise": (np.where(STEPS < 1, 3.0, 103.0) + NOISE, True, "; the loss is 10"),
    "a jump and a fall": (
        np.where(STEPS < 1, 0.0, 5000.0 - STEPS),
        False,
        "; the loss was still falling, by 100 nats over the last 100, but is 3.05e+03 nats above where it began.",
    ),
    "a jump to below": (np.where(STEPS < 1, 3.0, -50.0), False, "; the loss has levelled off"),
    "a jump within noise": (np.where(STEPS < 1, 0.0, 1.0) + NOISE, True, "; the loss has levelled off"),
    "rounding": ((1e6 + 0.05 * NOISE).astype("float32").astype("float64"), True, "; the loss has levelled off"),
    "four": (np.array([4.0, 3.0, 2.0, 1.0]), False, "; the loss was still falling, by 2 nats over the last 2"),
    "three": (np.array([3.0, 2.0, 1.0]), False, ""),
    "none": (np.array([]), False, ""),
}


@pytest.mark.parametrize("name", TRENDS)
def test_where_the_loss_was_going(name):
    losses, had_arrived, words = TRENDS[name]
    found = trend(losses, had_arrived)
    assert found.words.startswith(words)
    assert (words == "") == (found.words == "")
    assert found.has_arrived == ("levelled off" in words)


def located(kind, loop):
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(0.0, 100.0, shape=(2,))
    model.y = MultivariateNormal(model.mu, 1.0, shape=(model.N, 2))
    if kind == "MAP":
        return GradBasedInference(MAP(model, [model.y]), grad_loop=loop)
    posterior = create_Gaussian_meanfield(model, [model.y])
    return GradBasedInference(StochasticVariationalInference(3, model, posterior, [model.y]), grad_loop=loop)


# The learning rate, and whether the run arrives: rates that are wrong by orders are to be seen in the table.
RATES = {"right": (0.1, True), "too small": (1e-4, False), "far too small": (1e-6, False)}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["MAP", "VI"])
def test_a_learning_rate_that_is_wrong_by_orders_is_seen(kind, rate, rng, tmp_path):
    value, arrives = RATES[rate]
    data = nd(rng.normal([3, -2], 1, size=(30, 2)), "float32")
    inference = located(kind, CompiledLoop())
    record = inference.run(y=data, learning_rate=value, max_iter=1000)
    assert record.has_arrived == arrives
    note = None if arrives else record.message
    assert summary(inference, 10).note == note
    assert str(summary(inference, 10)).endswith(record.message) == (not arrives)
    attributes = to_arviz(inference, 10).posterior.attrs
    assert (attributes["run_ended"], attributes["run_has_arrived"]) == (record.message, int(arrives))
    save(inference, tmp_path / "run.zip")
    other = located(kind, BatchLoop())
    other.initialize(y=data.shape)
    load(other, tmp_path / "run.zip")
    assert summary(other, 10).note == note


SAID = {
    0.0: "it began at its lowest, or the learning rate is too small",
    1e-9: "it began at its lowest, or the learning rate is too small",
    1e8: "nats above where it began. Use a smaller learning rate",
    1e30: "use a smaller learning rate",
}


@pytest.mark.parametrize("rate", SAID)
@pytest.mark.parametrize("name", LOOPS)
def test_what_is_wrong_with_a_learning_rate_is_said(name, rate, rng):
    data = nd(rng.normal([3, -2], 1, size=(30, 2)), "float32")
    inference = located("MAP", LOOPS[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = inference.run(y=data, learning_rate=rate, max_iter=50)
    assert not record.has_arrived
    assert SAID[rate] in record.message


@pytest.mark.parametrize("rate", [-0.1, np.nan, np.inf, -np.inf, 1e39, "fast"])
@pytest.mark.parametrize("name", LOOPS)
def test_what_is_no_learning_rate_is_refused_before_anything_is_learned(name, rate, rng):
    data = nd(rng.normal([3, -2], 1, size=(30, 2)), "float32")
    inference = located("MAP", LOOPS[name]())
    inference.initialize(y=data.shape)
    before = parameters(inference)
    with pytest.raises(
        InferenceError, match=re.escape(f"learning rate of iteration 0: got {rate!r}; expected a number that is not")
    ):
        inference.run(y=data, learning_rate=rate, max_iter=5)
    for mine, kept in zip(parameters(inference), before):
        np.testing.assert_array_equal(mine, kept)


@pytest.mark.parametrize("name", LOOPS)
def test_a_run_that_was_stopped_is_seen(name, rng):
    data = rng.normal(size=(20, 3))
    inference = map_inference(LOOPS[name]())
    with stopped():
        record = inference.run(X=nd(np.where(STEPS[:20, None] == 7, 1e30, data), "float32"), max_iter=5)
    assert (record.reason, record.has_arrived) == ("not finite", False)
    assert summary(inference).note == record.message


@pytest.mark.parametrize("name", LOOPS)
def test_a_run_that_was_interrupted_is_seen(name, rng):
    def interrupt(record):
        raise KeyboardInterrupt

    inference = map_inference(LOOPS[name](checkpoint=interrupt, check_every=4))
    with pytest.raises(KeyboardInterrupt):
        inference.run(X=nd(rng.normal(size=(20, 3)), "float32"), max_iter=20)
    assert summary(inference).note == "KeyboardInterrupt after 4 iterations."


def test_while_a_run_goes_on_nothing_is_said_of_its_end(rng):
    notes = []
    inference = map_inference(BatchLoop(checkpoint=lambda record: notes.append(summary(inference).note), check_every=5))
    inference.run(X=nd(rng.normal(size=(20, 3)), "float32"), max_iter=10)
    assert notes == [None, None]


def test_a_file_without_the_end_of_a_run_says_nothing_of_it(rng, tmp_path):
    inference = map_inference(BatchLoop())
    inference.initialize(X=(20, 3))
    save(inference, tmp_path / "new.zip")
    inference.run(X=nd(rng.normal(size=(20, 3)), "float32"), max_iter=5)
    assert summary(inference).note is not None
    load(inference, tmp_path / "new.zip")
    assert summary(inference).note is None


def test_the_approximation_of_laplace_at_a_mode_needs_no_note(rng):
    inference = located("MAP", BatchLoop())
    inference.run(y=nd(rng.normal(size=(30, 2)), "float32"), learning_rate=1e-4, max_iter=5)
    assert summary(inference).note is not None
    assert summary(LaplaceApproximation(inference).inference, 10).note is None


# What is refused


@pytest.mark.parametrize("name", LOOPS)
def test_a_model_without_anything_to_train_is_refused(name):
    model = Model()
    model.N = Variable()
    model.X = MultivariateNormal(0.0, 1.0, shape=(model.N, 3))
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=LOOPS[name]())
    with pytest.raises(InferenceError, match=r"Nothing is to be trained: there are no parameters; expected .* Declare"):
        inference.run(X=nd(np.zeros((20, 3)), "float32"), max_iter=5)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("name", LOOPS)
def test_parameters_that_are_all_fixed_are_refused(name, when, rng):
    loop = LOOPS[name](checkpoint=lambda record: inference.params.fix_all(), check_every=4)
    inference = map_inference(loop)
    inference.initialize(X=(20, 3))
    if when == "before":
        inference.params.fix_all()
    message = r"Nothing is to be trained: fixed are the parameter `.*`, parameter `.*`; expected .* grad_req to 'write'"
    with pytest.raises(InferenceError, match=message):
        inference.run(X=nd(rng.normal(size=(20, 3)), "float32"), max_iter=20)
    values = [parameter.data().asnumpy() for parameter in inference.params.param_dict.values()]
    assert all(np.isfinite(value).all() for value in values)


@pytest.mark.parametrize("rate", [1e300, 1e39, -1.0, float("nan"), "fast"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_learning_rate_that_is_out_of_range_is_refused(name, rate, rng):
    inference = map_inference(LOOPS[name](schedule=lambda iteration: rate))
    with pytest.raises(InferenceError, match="The learning rate of iteration 0: got .*; expected a number that is not"):
        inference.run(X=nd(rng.normal(size=(20, 3)), "float32"), max_iter=5)
    if isinstance(rate, float):
        with pytest.raises(InferenceError, match="The learning rate of iteration 0: got .*; expected a number that is"):
            map_inference(LOOPS[name]()).run(X=nd(np.ones((20, 3)), "float32"), learning_rate=rate, max_iter=5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_learning_rate_may_fall_without_end(name, optimizer, rng):
    inference = map_inference(LOOPS[name](schedule=lambda iteration: 0.01 * 10.0 ** (-2.0 * iteration)))
    record = inference.run(X=nd(rng.normal(size=(20, 3)), "float32"), optimizer=optimizer, max_iter=200)
    assert record.reason == "max_iter"


# ArviZ


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import scipy.no_such_room", r"which is installed, but cannot be imported \(No module named 'scipy.no_"),
        ("raise ImportError('cannot import name gaussian')", r"cannot be imported \(cannot import name gaussian\)"),
        (None, "to_arviz needs ArviZ, which is not installed. Install it with"),
    ],
)
def test_an_arviz_that_is_broken_is_not_one_that_is_missing(content, message, tmp_path, monkeypatch, rng):
    inference = map_inference(BatchLoop())
    inference.initialize(X=(20, 3))
    for module in [name for name in sys.modules if name.split(".")[0] == "arviz"]:
        monkeypatch.delitem(sys.modules, module)
    if content is None:
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
    else:
        (tmp_path / "arviz.py").write_text(content)
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=message):
        to_arviz(inference)
