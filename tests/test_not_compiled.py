# SPDX-License-Identifier: Apache-2.0
"""Objectives that a trace of one evaluation does not tell the truth about: they are not compiled, and are trained."""

import math
import pickle
import random
import threading

from mxfusion_mvn.inference import BatchLoop, CompiledLoop, CompiledMinibatchLoop, MinibatchLoop
from mxfusion_mvn.inference.loops import verification

import mxnet as mx
import mxnet.ndarray.register as register
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.components.distributions import Normal
from mxfusion.components.distributions.random_gen import MXNetRandomGenerator
from mxfusion.components.functions import MXFusionFunction
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.inference import MAP, GradBasedInference, StochasticVariationalInference
from mxnet import autograd
from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray

from helpers.compiled_runs import (
    DATA,
    ROWS,
    Peeking,
    assert_close_parameters,
    assert_falls_back,
    fitted,
    not_compiled,
    variational,
    vectors,
)
from helpers.host import nd
from helpers.runs import map_inference


def overridden(change):
    """SVI whose loss a function changes."""

    class Changed(StochasticVariationalInference):
        def compute(self, F, variables):
            loss = change(super().compute(F, variables)[0], variables)
            return loss, loss

    return lambda: variational(Changed)


class NumPyGenerator(MXNetRandomGenerator):
    """Draws that MXNet does not know of."""

    @staticmethod
    def sample_normal(loc=0, scale=1, shape=None, dtype=None, out=None, ctx=None, F=None):
        return nd(np.random.normal(loc, scale, size=shape), dtype)


class NumPyNoise(MXFusionFunction):
    """A function of a model that adds noise of NumPy."""

    parameters = {}
    input_names = ["x"]
    output_names = ["y"]
    parameter_names = []

    def eval(self, F, x):
        return x + nd(np.random.normal(size=x.shape), "float32")


def with_noisy_function():
    model = Model()
    model.N = Variable()
    model.mu = Normal.define_variable(mean=nd([0.0], "float32"), variance=nd([1.0], "float32"), shape=(1,))
    model.noisy = NumPyNoise("noise", broadcastable=True)(model.mu)
    model.Y = Normal.define_variable(
        mean=broadcast_to(model.noisy, (model.N, 1)), variance=nd(np.ones((1, 1)), "float32"), shape=(model.N, 1)
    )
    return MAP(model, [model.Y])


def counting(use):
    """A Python counter that moves with each evaluation."""
    count = [0]

    def change(loss, variables):
        count[0] += 1
        return use(loss, float(count[0]))

    return change


def refilled():
    """An array that Python fills anew for each evaluation."""
    buffer = nd([0.0], "float32")

    def change(loss, variables):
        buffer[:] = np.random.normal(size=1)
        return loss * buffer

    return change


def seeded(loss, variables):
    mx.random.seed(3)
    return loss


def changed_after_use(loss, variables):
    array = nd([2.0], "float32")
    loss = loss * array
    with autograd.pause():
        array[:] = 7
    return loss


def coin_of_numpy():
    """Random numbers that may well be the same twice: these are, in the first two evaluations."""
    count = [0]

    def change(loss, variables):
        count[0] += 1
        coin = np.random.randint(2)
        return loss * float(coin + 1 if count[0] > 2 else 1)

    return change


def own_slope(loss, variables):
    """The gradient of |loss|, which does not change as long as the loss has the same sign."""
    value, slope = loss.detach(), nd([0.0], "float32")
    autograd.mark_variables([value], [slope])
    with autograd.record():
        size = value.abs()
    autograd.backward([size], retain_graph=True)
    return loss * slope


class Doubled(autograd.Function):
    """An operator written in Python."""

    def forward(self, x):
        return x * 2

    def backward(self, gradient):
        return gradient * 2


TREACHEROUS = {
    "numpy draws": ("changes from one evaluation to the next", lambda: variational(rand_gen=NumPyGenerator())),
    "numpy noise in a function": ("changes from one evaluation to the next", with_noisy_function),
    "counter as a number": ("`scalar` of operator", lambda: overridden(counting(lambda loss, n: loss * n))()),
    "counter as an array": (
        "changes from one evaluation",
        lambda: overridden(counting(lambda loss, n: loss * nd([n], "float32")))(),
    ),
    "counter in a branch": (
        "operators in one evaluation",
        lambda: overridden(counting(lambda loss, n: loss if n > 1 else loss.sin().exp()))(),
    ),
    "array filled by Python": ("changes from one evaluation", lambda: overridden(refilled())()),
    "value read": (
        "reads the value of an array that depends on parameters or noise",
        overridden(lambda loss, variables: loss * float(loss.asscalar() > 0) + loss),
    ),
    "value read through NumPy": (
        "reads the value",
        overridden(lambda loss, variables: loss * nd(loss.asnumpy(), "float32")),
    ),
    "value pickled": ("reads the value", overridden(lambda loss, variables: loss * pickle.loads(pickle.dumps(loss)))),
    "value through DLPack": (
        "reads the value",
        overridden(lambda loss, variables: loss * mx.nd.from_dlpack(loss.detach().to_dlpack_for_read()).copy()),
    ),
    "coin of NumPy": ("Python or NumPy draws", lambda: overridden(coin_of_numpy())()),
    "coin of Python": ("Python or NumPy draws", overridden(lambda loss, variables: random.random() and loss)),
    "slope of its own": ("computes gradients of its own", overridden(own_slope)),
    "mirrored image": (
        "returns random numbers together with other results",
        overridden(
            lambda loss, variables: loss * mx.nd.image.random_flip_left_right(nd([[[1.0], [2.0]]], "float32"))[0, 0]
        ),
    ),
    "own gradient": (
        "attaches a gradient",
        overridden(lambda loss, variables: (loss * 1.5).attach_grad() or loss),
    ),
    "seeded draws": ("seeds the random streams", overridden(seeded)),
    "constant changed in place": ("changed in place", overridden(changed_after_use)),
    "autograd.Function": ("`Doubled` is an autograd.Function", overridden(lambda loss, variables: Doubled()(loss))),
}


@pytest.mark.parametrize("name", sorted(TREACHEROUS))
def test_treacherous_objectives_are_not_compiled(name):
    assert_falls_back(*TREACHEROUS[name])


def test_evaluations_at_the_same_parameters_say_nothing_of_others():
    """A warm-up may begin with learning rates of 0."""

    def schedule(iteration):
        return 0.0 if iteration < 3 else 0.05

    model = vectors().model
    with not_compiled("`scalar` of operator"):
        compiled = fitted(CompiledLoop(schedule=schedule), Peeking(model, [model.Y]), data=ROWS, max_iter=10)
    plain = fitted(BatchLoop(schedule=schedule), Peeking(model, [model.Y]), data=ROWS, max_iter=10)
    assert_close_parameters(compiled, plain, 1e-6)


# What changes after it was compiled


@pytest.mark.parametrize("last", [2, 3, 4, 5])
def test_an_objective_that_changes_later(last, monkeypatch):
    """It has changed when a program is verified, or at the end."""
    monkeypatch.setattr(verification, "_SHARE", math.inf)
    create = overridden(counting(lambda loss, n: loss * (1.0 if n <= last else 2.0)))
    with not_compiled("the objective is not the same computation each time"):
        record = fitted(CompiledLoop(), create(), max_iter=400).record
    assert (record.compiled, record.iterations, record.reason) == (False, 400, "max_iter")
    assert "The run goes on from the parameters of iteration" in record.fallback_reason


@pytest.mark.parametrize("loop", [CompiledLoop, lambda **options: CompiledMinibatchLoop(26, **options)])
def test_data_changed_in_place_during_a_run(loop):
    def change(record):
        if not changes:
            data[:] = data * 3
            changes.append(record.iterations)

    data, changes = nd(ROWS, "float32"), []
    inference = GradBasedInference(vectors(), grad_loop=loop(checkpoint=change, check_every=5))
    with not_compiled("data changed in place"):
        record = inference.run(Y=data, max_iter=12)
    assert (record.compiled, record.iterations, changes) == (False, 12, [5])


def test_a_gradient_that_is_added_up():
    inference = GradBasedInference(variational(), grad_loop=CompiledLoop())
    inference.initialize(Y=DATA.shape)
    next(iter(inference.params.param_dict.values())).grad_req = "add"
    with not_compiled("a sparse or added gradient"):
        inference.run(Y=nd(DATA, "float32"), max_iter=5)


def test_errors_of_the_objective_are_raised_and_leave_no_hooks():
    def fail(loss, variables):
        raise ValueError("mine")

    before = register._imperative_invoke, NDArray.reshape, NDArray.asnumpy, HybridBlock._call_cached_op
    with pytest.raises(ValueError, match="mine"):
        fitted(CompiledLoop(), overridden(fail)())
    assert (register._imperative_invoke, NDArray.reshape, NDArray.asnumpy, HybridBlock._call_cached_op) == before


def test_other_threads_are_not_traced():
    def compute_elsewhere(loss, variables):
        thread = threading.Thread(target=lambda: results.append((nd([2.0], "float32") * 3).asscalar()))
        thread.start()
        thread.join()
        return loss

    results = []
    compiled = fitted(CompiledLoop(), overridden(compute_elsewhere)(), max_iter=10)
    assert compiled.record.compiled
    assert results[:2] == [6.0, 6.0]
    assert_close_parameters(compiled, fitted(BatchLoop(), max_iter=10), 1e-6)


def test_two_threads_train_at_once():
    """Without draws, which the threads would take from each other: MAP."""
    expected = [map_inference(BatchLoop()) for _ in range(2)]
    compiled = [map_inference(CompiledLoop()) for _ in range(2)]
    data = [nd(np.random.RandomState(seed).normal(size=(20, 3)), "float32") for seed in range(2)]
    threads = [
        threading.Thread(target=lambda i=i: compiled[i].run(X=data[i], max_iter=30, learning_rate=0.01))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        expected[i].run(X=data[i], max_iter=30, learning_rate=0.01)
        assert compiled[i]._grad_loop.record.compiled
        assert_close_parameters(compiled[i], expected[i], 1e-6)


def test_minibatches_of_what_cannot_be_compiled():
    reason, create = TREACHEROUS["numpy draws"]
    with not_compiled(reason):
        compiled = fitted(CompiledMinibatchLoop(10), create(), max_iter=4)
    assert_close_parameters(compiled, fitted(MinibatchLoop(10), create(), max_iter=4), 0)
