# SPDX-License-Identifier: Apache-2.0
"""Programs that are right where they were compiled, and wrong after: they are found out, and the run ends right."""

import functools
import warnings

from mxfusion_mvn.compiler import evaluation, program
from mxfusion_mvn.compiler.graph import CONSTANT, PARAMETER, leaf
from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.inference import BatchLoop, CompiledLoop, CompiledMinibatchLoop, MinibatchLoop, NotCompiledWarning
from mxfusion_mvn.inference.loops import compiled_stepper, verification
from mxfusion_mvn.inference.loops.several_steps import SeveralSteps
from mxfusion_mvn.inference.loops.verification import Runs

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.components.distributions import Normal
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.inference import MAP, GradBasedInference, StochasticVariationalInference
from mxnet import autograd

from helpers.along_the_run import fix_averages
from helpers.compiled_runs import ROWS, assert_close_parameters, fitted, not_compiled, variational, vectors
from helpers.host import nd

FOUND = "the objective has changed since it was compiled, or the program is wrong"
ATOL = {"float32": 1e-5, "float64": 1e-10}


def found_out(loop, algorithm, **options):
    """A run whose program is found to be wrong, with all iterations."""
    with not_compiled(FOUND):
        found = fitted(loop, algorithm, **options)
    record = found.record
    assert (record.compiled, record.reason) == (False, "max_iter")
    assert FOUND in record.fallback_reason
    return found


# What faults are planted in, and the same run by a loop that does not compile: one for all faults.


@functools.lru_cache(maxsize=None)
def plain_run(dtype, max_iter):
    algorithm = vectors(dtype=dtype)
    return algorithm, fitted(BatchLoop(), algorithm, dtype=dtype, data=ROWS, max_iter=max_iter)


@functools.lru_cache(maxsize=None)
def plain_run_with_draws(max_iter):
    algorithm = variational()
    return algorithm, fitted(BatchLoop(), algorithm, max_iter=max_iter)


@functools.lru_cache(maxsize=None)
def plain_run_of_minibatches(batch_size, max_iter):
    algorithm = vectors()
    return algorithm, fitted(MinibatchLoop(batch_size), algorithm, data=ROWS, max_iter=max_iter)


def assert_same_run(found, wanted, dtype):
    assert found.record.loss.shape == wanted.record.loss.shape
    np.testing.assert_allclose(found.record.loss, wanted.record.loss, rtol=ATOL[dtype])
    assert_close_parameters(found, wanted, ATOL[dtype])


# Planted faults


def frozen(graph):
    """A graph in which one operator sees a parameter as it was when the graph was made."""
    position, node = next(
        (i, node)
        for i, node in reversed(list(enumerate(graph.nodes)))
        if any(source.operator == PARAMETER for source, _ in node.inputs)
    )
    constants = {s: leaf(CONSTANT, s.array.copy()) for s, _ in node.inputs if s.operator == PARAMETER}
    wrong = node.with_inputs([constants.get(source, source).entry(index) for source, index in node.inputs])
    nodes = [*constants.values()]
    made = {node: wrong}
    for each in graph.nodes[:position]:
        made[each] = each
    rest = [wrong]
    for each in graph.nodes[position + 1 :]:
        made[each] = each if each.is_leaf else each.with_inputs([made[s].entry(i) for s, i in each.inputs])
        rest.append(made[each])
    heads = graph.mapped(lambda entry: made[entry.node].entry(entry.output))
    return graph._replace(
        nodes=[*nodes, *graph.nodes[:position], *rest], loss=heads[0], objective=heads[1], results=heads[2]
    )


def planted_rule(monkeypatch):
    simplify = evaluation.both_forms
    monkeypatch.setattr(
        evaluation,
        "both_forms",
        lambda graph, is_derived=True: [each and frozen(each) for each in simplify(graph, is_derived)],
    )


def planted_adjoint(monkeypatch):
    """The gradient of a parameter is right where the graph is made, and does not change any more."""
    simplify = evaluation.both_forms
    made = []

    def with_a_constant(found):
        name, (node, index) = next(iter(found.results.items()))
        gradient = made[-1][name]
        wrong = leaf(CONSTANT, gradient)
        return found._replace(nodes=[wrong, *found.nodes], results={**found.results, name: wrong.entry()})

    def simplified(graph, is_derived=True):
        return [each and with_a_constant(each) for each in simplify(graph, is_derived)]

    deviation = evaluation.Evaluations._deviation

    def noting(self, graph, wanted):
        made.append({uuid: nd(gradient, gradient.dtype.name) for uuid, gradient in wanted.gradients.items()})
        return deviation(self, graph, wanted)

    monkeypatch.setattr(evaluation, "both_forms", simplified)
    monkeypatch.setattr(evaluation.Evaluations, "_deviation", noting)


def planted_stale_array(monkeypatch, after):
    """From some run on, a program sees the parameters of that run."""
    run = Program.run

    def stale(self):
        if self.executor.arg_dict and self.draws is not None and not getattr(self, "is_checked", False):
            self.count = getattr(self, "count", 0) + 1
            arrays = [array for name, array in self.executor.arg_dict.items() if name.startswith(PARAMETER)]
            if self.count == after:
                self.kept = [array.copy() for array in arrays]
            if self.count > after:
                present = [array.copy() for array in arrays]
                for array, old in zip(arrays, self.kept):
                    old.copyto(array)
                run(self)
                for array, new in zip(arrays, present):
                    new.copyto(array)
                return
        run(self)

    monkeypatch.setattr(Program, "run", stale)


def planted_stale_push(monkeypatch):
    """From the second call of the native engine on, steps of Adam begin at the parameters of the first call."""
    train, kept = NativeProgram.train, []

    def stale(self, adam, rates, losses):
        values = adam.arrays[0]
        present = values.copy()
        kept.append(present)
        if len(kept) > 1:
            kept[0].copyto(values)
        made = train(self, adam, rates, losses)
        if len(kept) > 1:
            (values - kept[0] + present).copyto(values)
        return made

    monkeypatch.setattr(NativeProgram, "train", stale)


PLANTS = {
    "rule": planted_rule,
    "adjoint": planted_adjoint,
    "stale from the first run": lambda monkeypatch: planted_stale_array(monkeypatch, 1),
    "stale from the 5th run": lambda monkeypatch: planted_stale_array(monkeypatch, 5),
    "stale from the 60th run": lambda monkeypatch: planted_stale_array(monkeypatch, 60),
}


def planted(plant, engine):
    """How to plant a fault: the engine makes many steps in a call, so that stale ones begin earlier or not at all."""
    return planted_stale_push if engine == "native" and plant.startswith("stale") else PLANTS[plant]


# The iterations after which the stale programs are wrong.
FIRST_WRONG = {"stale from the 5th run": 7, "stale from the 60th run": 62}


@pytest.mark.parametrize(
    ("plant", "max_iter"),
    [(plant, max_iter) for plant in PLANTS for max_iter in (5, 70, 130) if max_iter > FIRST_WRONG.get(plant, 0)],
)
def test_a_planted_fault_is_found_and_the_run_ends_right(plant, max_iter, dtype, monkeypatch, engine):
    if engine == "native" and plant.startswith("stale"):
        max_iter = max(max_iter, 70)  # the engine makes all steps of a shorter run in one call
    algorithm, wanted = plain_run(dtype, max_iter)
    with monkeypatch.context() as patched:
        planted(plant, engine)(patched)
        found = found_out(CompiledLoop(), algorithm, dtype=dtype, data=ROWS, max_iter=max_iter)
    assert_same_run(found, wanted, dtype)


@pytest.mark.parametrize("plant", ["rule", "adjoint", "stale from the 5th run"])
def test_a_planted_fault_is_found_with_draws(plant, monkeypatch, engine):
    """The draws after it are others than those of a run that was never compiled: the losses agree on average."""
    algorithm, wanted = plain_run_with_draws(300)
    with monkeypatch.context() as patched:
        planted(plant, engine)(patched)
        found = found_out(CompiledLoop(), algorithm, max_iter=300)
    assert found.record.loss.shape == wanted.record.loss.shape
    means = [run.record.loss[-100:].mean() for run in (found, wanted)]
    error = wanted.record.loss[-100:].std() / np.sqrt(100)
    assert abs(means[0] - means[1]) < 5 * error


@pytest.mark.parametrize("plant", ["rule", "adjoint", "stale from the 5th run"])
def test_a_planted_fault_is_found_in_minibatches(plant, monkeypatch):
    """26 rows in batches of 10: the last batch of an epoch has a program of its own."""
    monkeypatch.setenv("MXFUSION_MVN_NATIVE", "0")
    algorithm, wanted = plain_run_of_minibatches(10, 30)
    with monkeypatch.context() as patched:
        PLANTS[plant](patched)
        found = found_out(CompiledMinibatchLoop(10), algorithm, data=ROWS, max_iter=30)
    assert_same_run(found, wanted, "float32")


def test_a_fault_in_a_program_of_several_steps_is_found(monkeypatch, dtype):
    """From its third run on it moves the parameters of the third, as single steps never do."""
    monkeypatch.setenv("MXFUSION_MVN_NATIVE", "0")
    monkeypatch.setattr(compiled_stepper, "_STEPS_BEFORE_SEVERAL", 20)
    push, kept = SeveralSteps.push, []

    def stale(several, learning_rates):
        kept.append(several._flat.values.copy())
        if len(kept) > 3:
            kept[2].copyto(several._flat.values)
        return push(several, learning_rates)

    monkeypatch.setattr(SeveralSteps, "push", stale)
    # What the program starts from is wrong, not the program: that is seen from outside only.
    monkeypatch.setattr(SeveralSteps, "deviation", lambda several: "a step of Adam differs")
    with not_compiled("a step of Adam differs"):
        found = fitted(CompiledLoop(), vectors(dtype=dtype), dtype=dtype, data=ROWS, max_iter=300)
    assert found.record.loss.shape == (300,)
    wanted = fitted(BatchLoop(), vectors(dtype=dtype), dtype=dtype, data=ROWS, max_iter=300)
    assert_same_run(found, wanted, dtype)


@pytest.mark.parametrize("what", ["gradients", "loss", "step"])
def test_each_part_of_the_last_of_several_steps_is_compared(what, monkeypatch):
    monkeypatch.setenv("MXFUSION_MVN_NATIVE", "0")
    monkeypatch.setattr(compiled_stepper, "_STEPS_BEFORE_SEVERAL", 20)
    create = SeveralSteps.__init__

    def spoiled(several, *args):
        create(several, *args)
        run = several._program.run

        def wrong():
            run()
            {"gradients": several._gradients, "loss": several._program.loss, "step": several._flat.adam.moments[0]}[
                what
            ][:] *= 1.1

        several._program.run = wrong

    monkeypatch.setattr(SeveralSteps, "__init__", spoiled)
    with not_compiled("a step of Adam differs" if what == "step" else FOUND):
        record = fitted(CompiledLoop(), vectors(), data=ROWS, max_iter=100).record
    assert record.loss.shape == (100,)


# MXNet's own fault: the pass that keeps the first weights of dense layers


def network(width, rows, dropout=0.0, batch_norm=False):
    net = mx.gluon.nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(mx.gluon.nn.Dense(width, activation="tanh", flatten=False, in_units=3))
        if batch_norm:
            net.add(mx.gluon.nn.BatchNorm(axis=-1, in_channels=width))
        if dropout:
            net.add(mx.gluon.nn.Dropout(dropout))
        net.add(mx.gluon.nn.Dense(width, activation="tanh", flatten=False, in_units=width))
        net.add(mx.gluon.nn.Dense(1, flatten=False, in_units=width))
    mx.random.seed(5)
    np.random.seed(5)
    net.initialize(mx.init.Xavier())
    model = Model()
    model.x = Variable(shape=(rows, 3))
    model.net = MXFusionGluonFunction(net, num_outputs=1, broadcastable=False)
    model.mean = model.net(model.x)
    one = mx.nd.array([1.0])
    model.y = Normal.define_variable(mean=model.mean, variance=one, shape=(rows, 1))
    rng = np.random.RandomState(0)
    x = rng.normal(size=(rows, 3))
    return net, MAP(model, [model.x, model.y]), {"x": nd(x, "float32"), "y": nd(np.sin(x[:, :1] * 2), "float32")}


def trained(loop, max_iter=40, **options):
    net, algorithm, data = network(**options)
    inference = GradBasedInference(algorithm, grad_loop=loop)
    inference.initialize(**{name: array.shape for name, array in data.items()})
    fix_averages(algorithm, inference.params.param_dict)
    mx.random.seed(7)
    record = inference.run(max_iter=max_iter, learning_rate=0.01, **data)
    averages = [value.data().asnumpy() for name, value in net.collect_params().items() if "running" in name]
    return record, [array.data().asnumpy() for array in inference.params.param_dict.values()], averages


def test_the_pass_that_keeps_weights_would_be_found(monkeypatch):
    monkeypatch.setenv("MXFUSION_MVN_NATIVE", "0")
    monkeypatch.setattr(program, "_REQUIRED", {"MXNET_SUBGRAPH_BACKEND": "MKLDNN"})
    with not_compiled(FOUND):
        record, found, _ = trained(CompiledLoop(), width=64, rows=400)
    wanted, plain, _ = trained(BatchLoop(), width=64, rows=400)
    np.testing.assert_allclose(record.loss, wanted.loss, rtol=1e-4)


# No false alarms


@pytest.mark.parametrize("batch_norm", [False, True])
def test_dropout_and_averages_are_compared_without_a_mark(batch_norm):
    options = {"width": 16, "rows": 50, "dropout": 0.3, "batch_norm": batch_norm, "max_iter": 60}
    record, found, averages = trained(CompiledLoop(), **options)
    wanted, plain, expected = trained(BatchLoop(), **options)
    assert (record.compiled, record.fallback_reason) == (True, None)
    np.testing.assert_allclose(record.loss, wanted.loss, rtol=1e-4)
    assert len(averages) == len(expected)
    for mine, yours in zip(averages, expected):
        np.testing.assert_allclose(mine, yours, rtol=1e-3, atol=1e-5)


def test_data_changed_in_place_are_found_with_dropout():
    net, algorithm, data = network(16, 50, dropout=0.3)

    def change(record):
        data["y"][:] = 3.0

    inference = GradBasedInference(algorithm, grad_loop=CompiledLoop(checkpoint=change, check_every=20))
    with not_compiled(FOUND):
        record = inference.run(max_iter=60, learning_rate=0.01, **data)
    assert record.loss.shape == (60,)
    assert not record.compiled


def test_random_streams_are_not_moved(dtype):
    following = []
    for loop in (CompiledLoop(), BatchLoop()):
        fitted(loop, variational(dtype=dtype), dtype=dtype, max_iter=130)
        following.append(mx.nd.random.normal(shape=(3,)).asnumpy())
    np.testing.assert_array_equal(*following)


@pytest.mark.parametrize("seed", range(10))
def test_draws_of_few_values_may_come_twice(seed):
    class Counting(StochasticVariationalInference):
        def compute(self, F, variables):
            loss = super().compute(F, variables)[0]
            with autograd.pause():
                weight = 1.0 + mx.nd.random.poisson(1.0, shape=(1,))
            return loss * weight, loss * weight

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        inference = GradBasedInference(variational(Counting), grad_loop=CompiledLoop())
        mx.random.seed(seed)
        record = inference.run(Y=nd(np.ones((24, 1)), "float32"), max_iter=30)
    assert record.compiled


def test_a_run_that_has_arrived_is_no_fault(dtype):
    """Gradients there are rounding errors of larger terms."""
    options = {"algorithm": vectors(dtype=dtype), "dtype": dtype, "data": 1e3 * ROWS, "max_iter": 3000}
    record = fitted(CompiledLoop(), learning_rate=0.5, **options).record
    assert (record.compiled, record.fallback_reason) == (True, None)


# When


def test_the_second_tenth_hundredth_run_is_verified(monkeypatch):
    monkeypatch.setattr(verification, "_SHARE", 1e9)
    runs, due = Runs(0.0), []
    for count in range(2000):
        if runs.is_due():
            runs.note(0.001)
            due.append(count)
        runs.count += 1
    assert due == [1, 10, 100, 1000]


def test_a_verification_waits_where_it_would_take_too_long(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(verification.time, "perf_counter", lambda: now[0])
    runs = Runs(99.0)
    runs.count = 1
    assert runs.is_due()
    runs.note(0.2)
    runs.count = 10
    assert not runs.is_due()
    now[0] = 104.0
    assert runs.is_due()
