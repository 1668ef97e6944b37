# SPDX-License-Identifier: Apache-2.0
"""Several steps of Adam in one program: those of the host, one by one, whatever happens in their midst."""

import re

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.compiler.passes import simplify
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.inference import BatchLoop, CompiledLoop, CompiledMinibatchLoop
from mxfusion_mvn.inference.loops import compiled_stepper, training, verification
from mxfusion_mvn.inference.loops.native_steps import NativeSteps
from mxfusion_mvn.inference.loops.several_steps import SeveralSteps, several_steps
from mxfusion_mvn.inference.loops.training import Training

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import BatchInferenceLoop, GradBasedInference

from helpers.compiled_runs import DATA, ROWS, assert_close_parameters, fitted, variational, vectors
from helpers.host import nd
from helpers.runs import map_inference, stopped, variance_model
from helpers.tracing import traced

BEFORE = 20
ATOL = {"float32": 2e-6, "float64": 1e-12}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Do not wait for as many steps as a program of several takes to make."""
    monkeypatch.setattr(compiled_stepper, "_STEPS_BEFORE_SEVERAL", BEFORE)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """MXNet reports a failure once, wherever something is read next: here nothing may be."""
    yield
    mx.nd.waitall()


@pytest.fixture
def pushes(monkeypatch, engine):
    """The numbers of steps that were pushed at once, however slow the machine is."""
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKS", 1e9)
    counts = []
    kind = NativeSteps if engine == "native" else SeveralSteps
    for name in ("push", "push_verifiably") if engine == "native" else ("push",):
        monkeypatch.setattr(kind, name, counting(getattr(kind, name), counts))
    return counts


def counting(push, counts):
    """A push that notes how many steps it makes."""

    def counted(several, learning_rates):
        counts.append(len(learning_rates))
        return push(several, learning_rates)

    return counted


ALGORITHMS = {"variational": (variational, DATA), "maximum": (vectors, ROWS)}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_they_are_those_of_the_host(name, dtype, pushes):
    create, data = ALGORITHMS[name]
    options = {"algorithm": create(dtype=dtype), "dtype": dtype, "data": data, "max_iter": 150}
    several = fitted(CompiledLoop(), **options)
    assert sum(pushes) >= 100
    assert_close_parameters(several, fitted(BatchInferenceLoop(), **options), ATOL[dtype])


def test_losses_are_those_of_the_batch_loop(pushes):
    losses = [fitted(loop, dtype="float64", max_iter=150).record.loss for loop in (CompiledLoop(), BatchLoop())]
    assert sum(pushes) >= 100
    np.testing.assert_allclose(*losses, rtol=1e-10)


def test_random_streams_are_where_the_host_leaves_them(pushes):
    following = []
    for loop in (CompiledLoop(), BatchInferenceLoop()):
        fitted(loop, max_iter=100)
        following.append(mx.nd.random.normal(shape=(3,)).asnumpy())
    assert sum(pushes) >= 50
    np.testing.assert_array_equal(*following)


@pytest.mark.parametrize("engine", ["mxnet"], indirect=True)
@pytest.mark.parametrize(("check_every", "count"), [(50, 10), (14, 7), (7, 7), (3, 3)])
def test_few_are_left_over_at_a_check(check_every, count, pushes):
    options = {"schedule": lambda iteration: 0.1 / (1 + iteration), "check_every": check_every}
    several = fitted(CompiledLoop(**options), dtype="float64", max_iter=130)
    assert set(pushes) == {count}
    assert_close_parameters(several, fitted(BatchLoop(**options), dtype="float64", max_iter=130), ATOL["float64"])


def test_a_check_at_each_step_leaves_single_steps(pushes):
    seen = []
    fitted(CompiledLoop(check_every=1, stop=lambda losses: seen.append(len(losses))), max_iter=60)
    assert pushes == []
    assert seen == list(range(1, 61))


def test_a_long_run_of_fast_steps_is_looked_at_less_often(engine, monkeypatch):
    """In the same iterations each time, and where a function of the user's is to be called as often as said."""
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKS", 1e9)
    looks, check = [], Training._check

    def noted(training):
        check(training)
        looks.append(training._done)

    monkeypatch.setattr(Training, "_check", noted)
    found = []
    for stop in (None, None, lambda losses: None):
        looks.clear()
        assert len(fitted(CompiledLoop(stop=stop), dtype="float64", max_iter=3000).record.loss) == 3000
        found.append(np.array(looks))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2][:2], [1, 10])
    np.testing.assert_array_equal(found[2][2:], np.arange(50, 3001, 50))
    assert (np.diff(found[0]) <= 50 + found[0][:-1] / 8).all()
    assert (len(found[0]) < 30) == (engine == "native")


def run_with_checkpoints(loop, checkpoint):
    """An inference after 160 iterations, of which every 20 call a function of the number of them and the inference."""
    inference = map_inference(None, "float64")
    inference._grad_loop = loop(checkpoint=lambda record: checkpoint(record.iterations, inference), check_every=20)
    inference.run(X=nd(np.random.RandomState(0).normal(size=(9, 3)), "float64"), max_iter=160, learning_rate=0.05)
    return inference


def test_gradients_are_up_to_date_at_a_checkpoint(pushes):
    def look(_, inference):
        found = [parameter.grad().asnumpy() for parameter in inference.params.param_dict.values()]
        seen.append(np.concatenate([gradient.ravel() for gradient in sorted(found, key=np.size)]))

    seen = []
    for loop in (CompiledLoop, BatchLoop):
        run_with_checkpoints(loop, look)
    assert pushes
    np.testing.assert_allclose(seen[:8], seen[8:], rtol=1e-8, atol=1e-8)


def test_a_checkpoint_may_fix_and_free_a_parameter(pushes):
    def alter(iterations, inference):
        first = min(inference.params.param_dict.values(), key=lambda parameter: parameter.data().size)
        first.grad_req = "null" if 60 <= iterations < 120 else "write"

    several = run_with_checkpoints(CompiledLoop, alter)
    assert len(pushes) >= 4
    assert several._grad_loop.record.compiled
    assert_close_parameters(several, run_with_checkpoints(BatchLoop, alter), 1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["adam", mx.optimizer.NAG(momentum=0.5, learning_rate=0.01)], ids=["Adam", "NAG"])
def test_a_checkpoint_may_initialise_parameters_anew(optimizer, dtype):
    """As the checkpoint left them at iteration 60, and in the arrays that the inference reads."""

    def run(loop):
        def alter(record):
            if record.iterations == 60:
                for number, parameter in enumerate(sorted(parameters_of(inference), key=lambda p: p.data().size)):
                    parameter.initialize(init=mx.init.Constant(0.5 * (number + 1)), force_reinit=True)

        inference = map_inference(loop(checkpoint=alter, check_every=20), dtype)
        data = nd(np.random.RandomState(0).normal(size=(9, 3)), dtype)
        inference.record = inference.run(X=data, max_iter=160, learning_rate=0.05, optimizer=optimizer)
        return inference

    compiled, plain = run(CompiledLoop), run(BatchLoop)
    assert compiled.record.compiled
    assert compiled.record.fallback_reason is None
    assert plain.record.loss[60] > plain.record.loss[59] + 1
    np.testing.assert_allclose(compiled.record.loss, plain.record.loss, rtol=1e-4 if dtype == "float32" else 1e-10)
    assert_close_parameters(compiled, plain, 1e-3 if dtype == "float32" else 1e-9)


def parameters_of(inference):
    return inference.params.param_dict.values()


def test_momentum_moves_a_parameter_that_has_no_gradient():
    arrays = {name: nd([1.0, 2.0], "float64") for name in ("learned", "other")}
    graph = simplify(traced(lambda: arrays["learned"].square().sum(), {"learned": arrays["learned"]})[1])
    moments = {name: [nd([0.1, -0.2], "float64"), nd([0.3, 0.4], "float64")] for name in arrays}
    rates = nd([0.1, 0.05, 0.01], "float64")
    steps = several_steps(graph, arrays, moments, rates, {})
    results = {name: mx.nd.zeros_like(array) for name, array in arrays.items()}
    expected, known = arrays["other"].copy(), [moment.copy() for moment in moments["other"]]
    program = Program(steps, arrays, results, mx.cpu())
    program.run()
    program.deliver()
    for rate in rates.asnumpy():
        mx.nd.adam_update(expected, mx.nd.zeros_like(expected), *known, lr=rate, out=expected)
    assert np.abs(expected.asnumpy() - arrays["other"].asnumpy()).min() > 0.01
    np.testing.assert_allclose(results["other"].asnumpy(), expected.asnumpy(), rtol=1e-7)
    for moment, seen in zip(moments["other"], known):
        np.testing.assert_allclose(moment.asnumpy(), seen.asnumpy(), rtol=1e-12)


# What goes wrong


def jumps_at(iteration, rate):
    return lambda each: rate if each == iteration else 1e-3


@pytest.mark.parametrize("iteration", [110, 114, 119])
def test_a_loss_that_is_not_finite(iteration, pushes):
    found = []
    for loop in (CompiledLoop, BatchLoop):
        inference = map_inference(loop(schedule=jumps_at(iteration, 1e3)), "float64", variance_model(2.0))
        with stopped():
            record = inference.run(X=nd(np.full((4, 1), 0.5), "float64"), max_iter=200)
        found.append((inference, record))
    assert pushes
    (several, one), (plain, other) = found
    assert one.iterations == other.iterations == iteration + 1
    assert one.message == other.message
    assert_close_parameters(several, plain, 1e-12)


def without_asymmetry(message):
    """That of a gradient is a matter of rounding."""
    return re.sub(r" and its asymmetry \S+, at \(\d, \d\)", "", message)


@pytest.mark.parametrize("is_verified", [False, True])
@pytest.mark.parametrize("iteration", [110, 114, 119])
def test_a_factorisation_that_fails(iteration, is_verified, pushes, monkeypatch):
    """Also where the steps that fail are being compared with imperative ones."""
    monkeypatch.setattr(verification.Runs, "is_due", lambda runs: is_verified and runs.count >= 1)
    found = []
    for loop in (CompiledLoop, BatchLoop):
        model = Model()
        model.N = Variable()
        model.covariance = Variable(shape=(2, 2), initial_value=nd(3 * np.eye(2), "float64"))
        model.X = MultivariateNormal(nd(np.zeros(2), "float64"), model.covariance, shape=(model.N, 2), dtype="float64")
        inference = map_inference(loop(schedule=jumps_at(iteration, 1e3)), "float64", model)
        with stopped():
            record = inference.run(X=nd(np.random.RandomState(0).normal(size=(9, 2)), "float64"), max_iter=200)
        found.append((inference, record))
    assert pushes
    (several, one), (plain, other) = found
    assert one.iterations == other.iterations == iteration + 1
    assert without_asymmetry(one.message) == without_asymmetry(other.message)
    assert_close_parameters(several, plain, 1e-12)


def test_an_interruption(pushes):
    def fail(record):
        if record.iterations == 100:
            raise KeyboardInterrupt

    inference = GradBasedInference(variational(), grad_loop=CompiledLoop(checkpoint=fail))
    mx.random.seed(11)
    with pytest.raises(KeyboardInterrupt):
        inference.run(Y=nd(DATA, "float32"), max_iter=200, learning_rate=0.05)
    assert pushes
    assert inference._grad_loop.record.reason == "interrupted"
    assert_close_parameters(inference, fitted(BatchInferenceLoop(), max_iter=100), ATOL["float32"])


# Where it is not possible


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: mx.optimizer.Adam(learning_rate=1e-3, wd=0.1),
        lambda: mx.optimizer.Adam(learning_rate=1e-3, clip_gradient=0.5),
        lambda: mx.optimizer.SGD(learning_rate=1e-3),
    ],
)
def test_other_optimizers_make_single_steps(optimizer, pushes, engine):
    """Where MXNet runs them, weight decay is another optimizer."""
    algorithm = variational()
    several, plain = (
        fitted(loop, algorithm, optimizer=optimizer(), max_iter=60) for loop in (CompiledLoop(), BatchLoop())
    )
    assert several.record.compiled
    assert not pushes or engine == "native" and optimizer().wd
    assert_close_parameters(several, plain, 1e-6)


@pytest.mark.parametrize("batch_size", [7, 8, len(DATA)])
def test_minibatches_make_single_steps(batch_size, pushes):
    loop = CompiledMinibatchLoop(batch_size, check_every=5)
    assert fitted(loop, max_iter=40).record.compiled
    assert pushes == []
