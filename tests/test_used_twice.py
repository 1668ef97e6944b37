# SPDX-License-Identifier: Apache-2.0
"""Objects of the user's that serve several runs: no run sees what another has left on them."""

import functools

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    CompiledMinibatchLoop,
    LaplaceApproximation,
    MinibatchLoop,
    load,
    save,
    to_arviz,
)
from mxfusion_mvn.inference.loops.states import for_one_run

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import GradBasedInference
from scipy.stats import multivariate_normal

from helpers.host import nd
from helpers.runs import map_inference, parameters
from helpers.tolerances import assert_close

LOOPS = {
    "batch": BatchLoop,
    "compiled": CompiledLoop,
    "minibatch": lambda **options: MinibatchLoop(10, **options),
    "compiled minibatch": lambda **options: CompiledMinibatchLoop(10, **options),
}
PRIOR_VARIANCE = 100.0


def located(data, loop):
    """An inference of the location mu of y ~ N(mu, 1), run."""
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(0.0, PRIOR_VARIANCE, shape=(2,), dtype="float64")
    model.y = MultivariateNormal(model.mu, 1.0, shape=(model.N, 2), dtype="float64")
    inference = GradBasedInference(MAP(model, [model.y]), grad_loop=loop, dtype="float64")
    inference.run(y=nd(data), learning_rate=0.1, max_iter=60)
    return inference


def evidence(data):
    rows = len(data)
    covariance = np.eye(rows) + PRIOR_VARIANCE * np.ones((rows, rows))
    return sum(multivariate_normal.logpdf(column, np.zeros(rows), covariance) for column in data.T)


def posterior_mean(data):
    return data.sum(axis=0) / (len(data) + 1 / PRIOR_VARIANCE)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_serves_two_inferences_mixes_up_no_data(name, rng):
    here, there = rng.normal([0, 5], 1, size=(20, 2)), rng.normal([50, -30], 1, size=(30, 2))
    loop = LOOPS[name]()
    one, other = located(here, loop), located(there, loop)
    for inference, data in ((one, here), (other, there)):
        laplace = LaplaceApproximation(inference)
        assert_close(laplace.mean, posterior_mean(data), rtol=1e-9)
        assert laplace.log_evidence == pytest.approx(evidence(data), rel=1e-9)
        assert_close(to_arviz(inference, 5).observed_data.y.values, data, rtol=1e-15)
        assert_close(to_arviz(laplace.inference, 5).observed_data.y.values, data, rtol=1e-15)


def test_observed_variables_are_known_by_name_in_any_order():
    def both(in_order, loop):
        model = Model()
        model.mu = MultivariateNormal(0.0, PRIOR_VARIANCE, shape=(2,))
        model.nu = MultivariateNormal(0.0, PRIOR_VARIANCE, shape=(2,))
        model.x = MultivariateNormal(model.mu, shape=(5, 2))
        model.y = MultivariateNormal(model.nu, shape=(5, 2))
        observed = [model.x, model.y] if in_order else [model.y, model.x]
        inference = GradBasedInference(MAP(model, observed), grad_loop=loop)
        inference.run(x=mx.nd.ones((5, 2)), y=-7 * mx.nd.ones((5, 2)), learning_rate=0.1, max_iter=20)
        return inference

    loop = BatchLoop()
    for inference in [both(True, loop), both(False, loop)]:
        assert_close(LaplaceApproximation(inference).mean, np.array([1, 1, -7, -7]) * 5 / 5.01, rtol=1e-6)


def test_what_is_loaded_was_not_learned_from_the_data_of_the_last_run(tmp_path, rng):
    here, there = rng.normal(size=(20, 2)), rng.normal([50, -30], 1, size=(20, 2))
    save(located(here, BatchLoop()), tmp_path / "here.zip")
    inference = located(there, BatchLoop())
    load(inference, tmp_path / "here.zip")
    with pytest.raises(InferenceError, match="`data`: got none; expected the observed variables"):
        LaplaceApproximation(inference)
    assert_close(LaplaceApproximation(inference, y=here).mean, posterior_mean(here), rtol=1e-9)


class Halving:
    """A schedule that counts its calls, with a list for a state."""

    def __init__(self):
        self.rates = [0.1]

    def __call__(self, iteration):
        self.rates.append(self.rates[-1] * 0.9)
        return self.rates[-2]

    rate = __call__


class StopAtThirdCall:
    """A stop rule that counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, losses):
        self.calls += 1
        return "third call" if self.calls == 3 else None


SCHEDULES = {
    "factor": lambda: mx.lr_scheduler.FactorScheduler(step=5, factor=0.5, base_lr=0.1),
    "several factors": lambda: mx.lr_scheduler.MultiFactorScheduler(step=[3, 10], factor=0.1, base_lr=0.1),
    "cosine": lambda: mx.lr_scheduler.CosineScheduler(20, base_lr=0.1, final_lr=1e-4),
    "own": Halving,
    "method": lambda: Halving().rate,
    "partial": lambda: functools.partial(Halving()),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", LOOPS)
def test_each_run_begins_with_the_schedule_as_it_was_given(name, schedule, rng):
    data = nd(rng.normal(size=(20, 3)), "float32")
    loop = LOOPS[name](schedule=SCHEDULES[schedule]())
    found = []
    for _ in range(2):
        mx.random.seed(3)
        inference = map_inference(loop)
        inference.run(X=data, max_iter=20)
        found.append(parameters(inference))
    for first, second in zip(*found):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", LOOPS)
def test_each_run_begins_with_the_stop_rule_as_it_was_given(name, rng):
    data = nd(rng.normal(size=(20, 3)), "float32")
    loop = LOOPS[name](stop=StopAtThirdCall(), check_every=4)
    for _ in range(2):
        record = map_inference(loop).run(X=data, max_iter=40)
        assert (record.reason, record.iterations) == ("third call", 12)


def test_what_a_schedule_and_a_stop_rule_share_stays_shared(rng):
    class Controller:
        """Quarters the rate whenever it is asked whether to stop."""

        def __init__(self):
            self.present = 0.4

        def rate(self, iteration):
            return self.present

        def stop(self, losses):
            self.present /= 4
            return "small" if self.present < 0.01 else None

    controller = Controller()
    loop = BatchLoop(schedule=controller.rate, stop=controller.stop, check_every=5)
    for _ in range(2):
        record = map_inference(loop).run(X=nd(rng.normal(size=(20, 3)), "float32"), max_iter=40)
        assert (record.reason, record.iterations) == ("small", 15)
    assert controller.present == 0.4


def test_the_inference_that_a_stop_rule_looks_at_is_not_copied(rng):
    class Watch:
        """Stops when the mean has moved."""

        def __init__(self):
            self.inference, self.calls = None, 0

        def __call__(self, losses):
            self.calls += 1
            mean = self.inference.params[self.inference.inference_algorithm.model.mean]
            return "moved" if float(mean.norm().asscalar()) > 0.5 else None

    watch = Watch()
    inference = watch.inference = map_inference(BatchLoop(stop=watch, check_every=1))
    record = inference.run(X=nd(rng.normal(3, 1, size=(20, 3)), "float32"), max_iter=400, learning_rate=0.01)
    assert record.reason == "moved"
    assert watch.calls == 0


@pytest.mark.parametrize("value", [None, len, lambda iteration: 0.1, print])
def test_a_plain_function_is_used_as_it_is(value):
    assert for_one_run(value) == [value]


def test_what_cannot_be_copied_is_used_as_it_is(tmp_path):
    with open(tmp_path / "log", "w") as stream:
        rule = functools.partial(print, file=stream)
        assert for_one_run(rule)[0] is rule
