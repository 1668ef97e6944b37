# SPDX-License-Identifier: Apache-2.0
"""The compiled loops: the parameters are the host's, and what cannot be compiled is not."""

import contextlib
import threading
import warnings
from pathlib import Path

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference.compiled import CompiledLoop, NotCompiledWarning
from mxfusion_mvn.inference.loops import BatchLoop, MinibatchLoop
from mxfusion_mvn.inference.minibatch import CompiledMinibatchLoop
from mxfusion_mvn.transformations import LowerCholesky

import mxnet as mx
import mxnet.ndarray.register as register
import numpy as np
import pytest
from host import nd
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import Normal
from mxfusion.components.distributions.random_gen import MXNetRandomGenerator
from mxfusion.components.functions import MXFusionFunction
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import MAP, BatchInferenceLoop, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from mxnet import autograd
from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray
from runs import map_inference, parameters, stopped, variance_model

DATA = np.random.RandomState(3).normal(1.0, 2.0, size=(24, 1))


def variational(algorithm=StochasticVariationalInference, dtype="float32", rand_gen=None):
    """Y ~ N(mu, variance), mu ~ N(0, 1), with q(mu) normal and the variance learned."""
    model = Model()
    model.N = Variable()
    zero, one = nd([0.0], dtype), nd([1.0], dtype)
    model.mu = Normal.define_variable(mean=zero, variance=one, shape=(1,), dtype=dtype)
    model.variance = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=nd([2.0], dtype))
    model.Y = Normal.define_variable(
        mean=broadcast_to(model.mu, (model.N, 1)),
        variance=broadcast_to(model.variance, (model.N, 1)),
        shape=(model.N, 1),
        dtype=dtype,
    )
    posterior = Posterior(model)
    posterior.mean = Variable(shape=(1,), initial_value=nd([0.1], dtype))
    posterior.variance = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=nd([0.5], dtype))
    posterior.mu.set_prior(Normal(posterior.mean, posterior.variance, rand_gen=rand_gen, dtype=dtype))
    return algorithm(5, model, posterior, [model.Y])


def fitted(loop, algorithm=None, dtype="float32", data=DATA, **options):
    """An inference after a run from fixed seeds; `inference.record` is what the run returned."""
    algorithm = variational(dtype=dtype) if algorithm is None else algorithm
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=dtype)
    mx.random.seed(11)
    np.random.seed(11)
    options = {"max_iter": 40, "learning_rate": 0.05, **options}
    inference.record = inference.run(Y=nd(data, dtype), **options)
    return inference


@contextlib.contextmanager
def not_compiled(reason):
    """There has to be one warning that the objective is not compiled, at a line of a test, with a reason in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotCompiledWarning)
        yield
    caught = [warning for warning in caught if warning.category is NotCompiledWarning]
    assert len(caught) == 1
    assert Path(caught[0].filename).name.startswith("test_")
    assert reason in str(caught[0].message)


def assert_close_parameters(one, other, atol):
    for mine, yours in zip(parameters(one), parameters(other)):
        assert mine.dtype == yours.dtype
        np.testing.assert_allclose(mine, yours, rtol=0, atol=atol)


def assert_falls_back(reason, create):
    """A loop that cannot compile says so, and trains as the loop that does not try."""
    with not_compiled(reason):
        compiled = fitted(CompiledLoop(), create(), max_iter=10)
    assert not compiled.record.compiled
    assert reason in compiled.record.fallback_reason
    plain = fitted(BatchLoop(), create(), max_iter=10)
    assert_close_parameters(compiled, plain, atol=0)
    np.testing.assert_array_equal(compiled.record.loss, plain.record.loss)


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


# What must not be compiled


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
    algorithm = variational()
    model = Model()
    model.N = Variable()
    model.mu = Normal.define_variable(mean=nd([0.0], "float32"), variance=nd([1.0], "float32"), shape=(1,))
    model.noisy = NumPyNoise("noise", broadcastable=True)(model.mu)
    model.Y = Normal.define_variable(
        mean=broadcast_to(model.noisy, (model.N, 1)), variance=nd(np.ones((1, 1)), "float32"), shape=(model.N, 1)
    )
    return MAP(model, [model.Y]) if algorithm is None else MAP(model, [model.Y])


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
    "value read": ("reads the value", overridden(lambda loss, variables: loss * float(loss.asscalar() > 0) + loss)),
    "value read through NumPy": (
        "reads the value",
        overridden(lambda loss, variables: loss * nd(loss.asnumpy(), "float32")),
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


def test_no_parameter_to_train():
    inference = GradBasedInference(variational(), grad_loop=CompiledLoop())
    inference.initialize(Y=DATA.shape)
    inference.params.fix_all()
    with not_compiled("no parameter is trained"), pytest.raises(mx.base.MXNetError):
        inference.run(Y=nd(DATA, "float32"), max_iter=5)


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


# What it says of itself


def test_explain():
    loop = CompiledLoop()
    fitted(loop, max_iter=5)
    text = loop.explain()
    assert "Evaluated once" in text
    assert "_random_normal" in text
    assert "us per step" in text


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


# Minibatches


def vectors(dtype="float32"):
    """Y ~ N(mean, L L^T) with both learned."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(2,), initial_value=nd([0.0, 0.5], dtype))
    model.factor = Variable(shape=(2, 2), transformation=LowerCholesky(), initial_value=nd(np.eye(2), dtype))
    model.Y = MultivariateNormal(model.mean, scale_tril=model.factor, shape=(model.N, 2), dtype=dtype)
    return MAP(model, [model.Y])


ROWS = np.random.RandomState(4).normal(size=(26, 2))


@pytest.mark.parametrize("create", [variational, vectors])
@pytest.mark.parametrize("batch_size", [5, 12, 26])
def test_minibatches_are_those_of_the_loop_that_does_not_compile(create, batch_size):
    data = ROWS if create is vectors else ROWS[:, :1]
    compiled = fitted(CompiledMinibatchLoop(batch_size), create(), data=data, max_iter=8)
    plain = fitted(MinibatchLoop(batch_size), create(), data=data, max_iter=8)
    assert compiled.record.compiled
    assert compiled.record.iterations == 8 * -(-26 // batch_size)
    np.testing.assert_allclose(compiled.record.loss, plain.record.loss, rtol=1e-5)
    assert_close_parameters(compiled, plain, 1e-6)


def test_minibatches_can_be_repeated():
    runs = [fitted(CompiledMinibatchLoop(7), vectors(), data=ROWS, max_iter=5) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].record.loss, runs[1].record.loss)
    assert_close_parameters(*runs, 0)


def test_explain_tells_batches_apart():
    loop = CompiledMinibatchLoop(10)
    fitted(loop, vectors(), data=ROWS, max_iter=4)
    assert "Batches of 10 rows" in loop.explain()
    assert "Batches of 6 rows" in loop.explain()


def test_minibatches_of_what_cannot_be_compiled():
    reason, create = TREACHEROUS["numpy draws"]
    with not_compiled(reason):
        compiled = fitted(CompiledMinibatchLoop(10), create(), max_iter=4)
    assert_close_parameters(compiled, fitted(MinibatchLoop(10), create(), max_iter=4), 0)


def test_a_batch_larger_than_the_data_and_a_wrong_scaling():
    with pytest.raises(InferenceError, match="`batch_size`: got 30 for data of 26 rows"):
        fitted(CompiledMinibatchLoop(30), vectors(), data=ROWS)
    algorithm = vectors()
    with pytest.raises(InferenceError, match="`rv_scaling`: got 3 for `Y`"):
        fitted(CompiledMinibatchLoop(13, rv_scaling={algorithm.model.Y: 3.0}), algorithm, data=ROWS)


def test_a_compiled_minibatch_run_that_is_not_finite():
    loop = CompiledMinibatchLoop(2)
    inference = map_inference(loop, "float64", variance_model(0.2))
    with stopped():
        inference.run(X=nd(np.zeros((4, 1)), "float64"), optimizer="sgd", learning_rate=0.02, max_iter=200)
    assert loop.record.reason == "not finite"
    assert all(np.isfinite(value).all() for value in parameters(inference))
