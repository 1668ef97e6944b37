# SPDX-License-Identifier: Apache-2.0
"""The compiled loop: its parameters are the host's, and it can be explained."""

import os
import tempfile
import warnings

from mxfusion_mvn.compiler import passes
from mxfusion_mvn.compiler.derivatives.reverse import differentiated
from mxfusion_mvn.inference import BatchLoop, CompiledLoop

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import Normal
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.inference import MAP, BatchInferenceLoop, GradBasedInference, StochasticVariationalInference

from helpers.compiled_runs import DATA, ROWS, assert_close_parameters, fitted, variational, vectors
from helpers.host import nd
from helpers.runs import map_inference, parameters, stopped, variance_model

# The host's parameters


def test_forty_steps_of_adam_are_those_of_the_host(dtype):
    compiled = fitted(CompiledLoop(), dtype=dtype)
    assert compiled.record.compiled
    assert compiled.record.fallback_reason is None
    assert_close_parameters(
        compiled, fitted(BatchInferenceLoop(), dtype=dtype), {"float32": 1e-6, "float64": 1e-12}[dtype]
    )


def test_losses_are_those_of_the_batch_loop():
    np.testing.assert_allclose(fitted(CompiledLoop()).record.loss, fitted(BatchLoop()).record.loss, rtol=1e-5)


def test_random_streams_are_where_the_host_leaves_them():
    following = []
    for loop in (CompiledLoop(), BatchInferenceLoop()):
        fitted(loop)
        following.append(mx.nd.random.normal(shape=(3,)).asnumpy())
    np.testing.assert_array_equal(*following)


@pytest.mark.parametrize(
    "optimizer",
    "sgd nag adam adagrad adadelta rmsprop ftrl ftml adamax nadam signum lamb dcasgd".split(),
)
def test_any_optimizer(optimizer):
    options = {"optimizer": optimizer, "max_iter": 12, "learning_rate": 1e-3}
    algorithm = variational()  # one for both, for the order of the parameters, by uuid, matters to some
    compiled = fitted(CompiledLoop(), algorithm, **options)
    assert compiled.record.compiled
    assert_close_parameters(compiled, fitted(BatchInferenceLoop(), algorithm, **options), 1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: mx.optimizer.SGD(momentum=0.9, learning_rate=1e-3, wd=0.1),
        lambda: mx.optimizer.Adam(clip_gradient=1.0, learning_rate=0.01),
        lambda: mx.optimizer.Adam(beta1=0.5, epsilon=1e-3, wd=0.2, learning_rate=0.01),
        lambda: mx.optimizer.RMSProp(centered=True, learning_rate=1e-3),
    ],
    ids=["momentum", "clipped", "adam", "centered"],
)
def test_optimizers_with_options(optimizer):
    compiled = fitted(CompiledLoop(), optimizer=optimizer(), max_iter=12)
    assert compiled.record.compiled
    assert_close_parameters(compiled, fitted(BatchLoop(), optimizer=optimizer(), max_iter=12), 1e-6)


def test_parameters_with_learning_rates_of_their_own():
    inferences = []
    for loop in (CompiledLoop(), BatchLoop()):
        inference = GradBasedInference(variational(), grad_loop=loop)
        inference.initialize(Y=DATA.shape)
        for parameter in inference.params.param_dict.values():
            parameter.lr_mult = 1.0 + parameter.data().asscalar()
        mx.random.seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inference.run(Y=nd(DATA, "float32"), max_iter=20, learning_rate=0.02)
        inferences.append(inference)
    assert_close_parameters(*inferences, 1e-6)


class Counting(mx.optimizer.Optimizer):
    """An optimizer of a user's, which does not count its updates as MXNet's do."""

    def create_state(self, index, weight):
        return None

    def update(self, index, weight, grad, state):
        weight[:] = weight - self.lr * grad.sign()


def test_an_optimizer_that_does_not_count():
    options = {"optimizer": Counting(learning_rate=0.01), "max_iter": 12}
    assert_close_parameters(fitted(CompiledLoop(), **options), fitted(BatchLoop(), **options), 1e-6)


@pytest.mark.parametrize("create", [mx.optimizer.Adam, mx.optimizer.Nadam, mx.optimizer.SGLD])
def test_a_parameter_whose_gradient_cancels_decays_all_the_same(create):
    """Simplified, the graph has it no more; weight decay and noise of the optimizer move it."""
    model = Model()
    model.mean, model.other = (Variable(shape=(1,), initial_value=nd([value], "float32")) for value in (0.3, 0.7))
    mean = broadcast_to(model.mean + model.other - model.other, DATA.shape)
    model.Y = Normal.define_variable(mean=mean, variance=nd(np.ones((1, 1)), "float32"), shape=DATA.shape)
    options = {"algorithm": MAP(model, [model.Y]), "max_iter": 12}
    rule = create(learning_rate=0.01, wd=0.5)
    compiled, plain = (fitted(loop, optimizer=rule, **options) for loop in (CompiledLoop(), BatchLoop()))
    assert compiled.record.compiled
    assert compiled.params[model.other].asscalar() != np.float32(0.7)
    assert_close_parameters(compiled, plain, 1e-6)


class WithDensity(StochasticVariationalInference):
    """An objective with one of MXNet's own densities in it, which are named as its draws are."""

    def compute(self, F, variables):
        loss, mean = super().compute(F, variables)[0], variables[self.posterior.mean.uuid].reshape((1,))
        loss = loss - F.sum(F.random_pdf_normal(nd([[0.3, 0.4]], "float32"), mean, nd([1.0], "float32"), is_log=True))
        return loss, loss


def test_densities_are_not_taken_for_draws():
    compiled, host = (fitted(loop, variational(WithDensity)) for loop in (CompiledLoop(), BatchInferenceLoop()))
    assert compiled.record.compiled
    assert_close_parameters(compiled, host, 1e-6)


class Clipped(MAP):
    """Rows that are far out count less: the objective is no sum of log densities."""

    def compute(self, F, variables):
        rows = self.model.Y.factor.log_pdf(F=F, variables=variables)
        loss = -F.sum(F.maximum(rows, -4.0))
        return loss, loss


def test_who_asks_for_rows_gets_rows():
    model = vectors().model
    compiled, host = (
        fitted(loop, Clipped(model, [model.Y]), data=2 * ROWS) for loop in (CompiledLoop(), BatchInferenceLoop())
    )
    assert compiled.record.compiled
    assert_close_parameters(compiled, host, 1e-6)


def fix(parameter):
    parameter.grad_req = "null"


def slow_down(parameter):
    parameter.lr_mult = 0.1


def initialise_anew(parameter):
    parameter.initialize(init=mx.init.Constant(nd([-3.0, 4.0], "float32")), force_reinit=True)


def initialise_anew_and_fix(parameter):
    initialise_anew(parameter)
    fix(parameter)


def changed_at_checkpoints(loop, change):
    """The inference after a run of which one checkpoint sets and changes a parameter, and the next frees it."""

    def alter(record):
        inference.params[mean] = nd([1.0, 2.0], "float32")
        parameter = inference.params.param_dict[mean.uuid]
        if record.iterations == 10:
            change(parameter)
        else:
            parameter.grad_req = "write"

    algorithm = vectors()
    mean = algorithm.model.mean
    inference = GradBasedInference(algorithm, grad_loop=loop(checkpoint=alter, check_every=10))
    inference.record = inference.run(Y=nd(ROWS, "float32"), max_iter=30, learning_rate=0.05)
    return inference


@pytest.mark.parametrize("change", [fix, slow_down, initialise_anew, initialise_anew_and_fix])
def test_a_checkpoint_may_change_parameters(change):
    compiled, plain = (changed_at_checkpoints(loop, change) for loop in (CompiledLoop, BatchLoop))
    assert compiled.record.compiled
    assert compiled.record.fallback_reason is None
    assert_close_parameters(compiled, plain, 1e-6)


def test_schedule_stop_and_checkpoint():
    def schedule(iteration):
        return 0.1 / (1 + iteration)

    seen = []
    options = {"schedule": schedule, "check_every": 10, "stop": lambda losses: "enough" if len(losses) >= 20 else None}
    compiled = fitted(CompiledLoop(checkpoint=lambda record: seen.append(record), **options))
    assert [record.iterations for record in seen] == [10, 20]
    assert all(record.compiled for record in seen)
    assert compiled.record.reason == "enough"
    assert_close_parameters(compiled, fitted(BatchLoop(**options)), 1e-6)


def test_parameters_are_up_to_date_at_a_checkpoint_and_after_an_exception():
    def fail(record):
        values.append(parameters(inference))
        raise KeyboardInterrupt

    values = []
    inference = GradBasedInference(variational(), grad_loop=CompiledLoop(checkpoint=fail, check_every=20))
    mx.random.seed(11)
    with pytest.raises(KeyboardInterrupt):
        inference.run(Y=nd(DATA, "float32"), max_iter=40, learning_rate=0.05)
    after_twenty = fitted(BatchInferenceLoop(), max_iter=20)
    for left, seen, expected in zip(parameters(inference), values[0], parameters(after_twenty)):
        np.testing.assert_array_equal(left, seen)
        np.testing.assert_allclose(left, expected, rtol=0, atol=1e-6)
    assert inference._grad_loop.record.reason == "interrupted"


def test_a_second_run_goes_on_and_leaves_the_arrays_of_the_first_alone():
    inference = GradBasedInference(variational(), grad_loop=CompiledLoop())
    inference.initialize(Y=DATA.shape)
    arrays = [parameter.data() for parameter in inference.params.param_dict.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mx.random.seed(11)
        for _ in range(2):
            inference.run(Y=nd(DATA, "float32"), max_iter=20, learning_rate=0.05)
    assert [parameter.data() for parameter in inference.params.param_dict.values()] == arrays
    host = GradBasedInference(variational(), grad_loop=BatchInferenceLoop())
    mx.random.seed(11)
    for _ in range(2):
        host.run(Y=nd(DATA, "float32"), max_iter=20, learning_rate=0.05)
    assert_close_parameters(inference, host, 1e-6)


def test_data_of_another_shape_and_data_changed_in_place():
    inference = GradBasedInference(vectors(), grad_loop=CompiledLoop())
    host = GradBasedInference(vectors(), grad_loop=BatchInferenceLoop())
    data = nd(ROWS, "float32")
    for change in (lambda: data, lambda: data[:10], lambda: data.__setitem__(slice(None), data * 3) or data):
        values = change()
        for each in (inference, host):
            each.run(Y=values, max_iter=10, learning_rate=0.05)
        assert inference._grad_loop.record.compiled
        assert_close_parameters(inference, host, 1e-6)


def test_what_is_not_finite_ends_a_compiled_run():
    loop = CompiledLoop()
    inference = map_inference(loop, "float64", variance_model(0.2))
    with stopped():
        inference.run(X=nd(np.zeros((4, 1)), "float64"), optimizer="sgd", learning_rate=0.002, max_iter=200)
    plain = map_inference(BatchLoop(), "float64", variance_model(0.2))
    with stopped():
        plain.run(X=nd(np.zeros((4, 1)), "float64"), optimizer="sgd", learning_rate=0.002, max_iter=200)
    assert loop.record.reason == "not finite"
    assert loop.record.iterations == plain._grad_loop.record.iterations > 4
    assert_close_parameters(inference, plain, 1e-12)


def test_a_run_of_two_iterations_is_not_compiled():
    record = fitted(CompiledLoop(), max_iter=1).record
    assert not record.compiled
    assert "over before it was compiled" in record.fallback_reason


def test_gradients_are_left_to_mxnet_where_those_derived_differ(monkeypatch):
    def without_gradients(rewriter, graph):
        return differentiated(rewriter, graph)._replace(results={})

    monkeypatch.setattr(passes, "differentiated", without_gradients)
    loop = CompiledLoop()
    compiled = fitted(loop)
    assert compiled.record.compiled
    assert "Gradients: found by MXNet" in loop.explain()
    assert_close_parameters(compiled, fitted(BatchInferenceLoop()), 1e-6)


# What it says of itself


def test_explain(engine):
    loop = CompiledLoop()
    fitted(loop, max_iter=5)
    text = loop.explain()
    assert "Evaluated once" in text
    assert "Gradients: part of these operators" in text
    assert ("Run by: the native engine" if engine == "native" else "MXFUSION_MVN_NATIVE is 0") in text
    assert ("  log(a)" if engine == "native" else "_random_normal") in text
    assert "us per step" in text


def test_explain_shows_the_graph():
    loop = CompiledLoop()
    fitted(loop, algorithm=vectors(), data=np.random.RandomState(0).normal(size=(9, 2)), max_iter=5)
    lines = loop.explain(graph=True).splitlines()
    assert "   p0 : parameter mean (2,)" in lines
    assert any(line.startswith("result of mean -> %") for line in lines)
    assert not any(line.startswith("loss ->") for line in loop.explain().splitlines())


def test_explain_without_a_program():
    loop = CompiledLoop()
    with pytest.raises(InferenceError, match="`CompiledLoop.explain`: got no run"):
        loop.explain()
    fitted(loop, max_iter=1)
    assert loop.explain().startswith("Not compiled: ")


def test_explain_changes_no_parameter():
    loop = CompiledLoop()
    inference = fitted(loop, max_iter=5)
    before = parameters(inference)
    loop.explain()
    for was, now in zip(before, parameters(inference)):
        np.testing.assert_array_equal(was, now)


def test_explain_touches_no_file(monkeypatch, tmp_path):
    """MXNet's profiler deletes what it is to write to, which may be the null device."""
    for device in (tmp_path / "null", tmp_path / "profile.json"):
        device.write_text("untouched")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "devnull", str(tmp_path / "null"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loop = CompiledLoop()
    fitted(loop, max_iter=5)
    assert "us per step" in loop.explain()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ["null", "profile.json"], "untouched"
    )
