# SPDX-License-Identifier: Apache-2.0
"""The compiled minibatch loop: batches and parameters are those of the loop that does not compile."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import CompiledMinibatchLoop, MinibatchLoop, create_Gaussian_meanfield

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import MAP, GradBasedInference, StochasticVariationalInference

from helpers.compiled_runs import ROWS, assert_close_parameters, fitted, not_compiled, variational, vectors
from helpers.host import nd
from helpers.runs import map_inference, parameters, stopped, variance_model


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


class Partial(MAP):
    """Batches of some sizes say nothing of the covariance."""

    def compute(self, F, variables):
        if self.is_silent(variables[self.model.Y.uuid].shape[1]):
            loss = F.sum(F.square(variables[self.model.mean.uuid])).reshape((1,))
            return loss, loss
        return super().compute(F, variables)


@pytest.mark.parametrize("is_silent", [lambda rows: rows < 10, lambda rows: rows == 10], ids=["last", "others"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_parameters_without_a_gradient_in_batches_of_some_size(optimizer, is_silent):
    model = vectors("float64").model
    algorithm = Partial(model, [model.Y])
    algorithm.is_silent = is_silent
    options = {"data": ROWS, "max_iter": 6, "optimizer": optimizer, "dtype": "float64"}
    with not_compiled("a batch of another size has other parameters"):
        compiled = fitted(CompiledMinibatchLoop(10), algorithm, **options)
    assert_close_parameters(compiled, fitted(MinibatchLoop(10), algorithm, **options), 1e-11)


class Reading(MAP):
    """Small batches read the loss."""

    def compute(self, F, variables):
        loss = super().compute(F, variables)[0]
        if variables[self.model.Y.uuid].shape[1] < 10:
            loss = loss * float(loss.asscalar() > 0) + loss
        return loss, loss


def test_the_optimizer_goes_on_where_only_the_last_batch_cannot_be_compiled():
    model = vectors().model
    with not_compiled("reads the value of an array that depends on parameters or noise"):
        compiled = fitted(CompiledMinibatchLoop(10), Reading(model, [model.Y]), data=ROWS, max_iter=6)
    assert_close_parameters(compiled, fitted(MinibatchLoop(10), Reading(model, [model.Y]), data=ROWS, max_iter=6), 1e-6)


@pytest.mark.parametrize("latent", [False, True])
def test_missing_entries_are_read_from_the_rows_of_a_batch(latent):
    """They are not compiled, and the reason is the batch, also after something was drawn."""
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(shape=(2,)) if latent else Variable(shape=(2,))
    model.Y = MultivariateNormal(model.mu, shape=(model.N, 2), missing=True)
    algorithm = MAP(model, [model.Y])
    if latent:
        posterior = create_Gaussian_meanfield(model, [model.Y])
        algorithm = StochasticVariationalInference(3, model, posterior, [model.Y])
    data = np.where(np.arange(52).reshape(26, 2) % 5 == 0, np.nan, ROWS[:, :2])
    with not_compiled(
        r"reads the value of an array that depends on the rows of a batch, which are others in each step"
    ):
        compiled = fitted(CompiledMinibatchLoop(13), algorithm, data=data, max_iter=6)
    assert_close_parameters(compiled, fitted(MinibatchLoop(13), algorithm, data=data, max_iter=6), 1e-6)


def test_a_failed_factorisation_is_said_to_be_of_its_own_iteration():
    """Nobody waits for a compiled step: here the smaller batch at the end of the epoch runs into the failure."""

    def run(loop):
        model = Model()
        model.N = Variable()
        model.covariance = Variable(shape=(2, 2), initial_value=nd(np.eye(2), "float32"))
        model.Y = MultivariateNormal(nd([0.0, 0.5], "float32"), model.covariance, shape=(model.N, 2))
        inference = GradBasedInference(MAP(model, [model.Y]), grad_loop=loop(5))
        mx.random.seed(1)
        with stopped():
            return inference.run(Y=nd(0.05 * ROWS, "float32"), max_iter=30, optimizer="sgd", learning_rate=0.02)

    compiled, plain = run(CompiledMinibatchLoop), run(MinibatchLoop)
    assert compiled.iterations == plain.iterations < 5
    assert f"teration {plain.iterations} " in compiled.message.split("`covariance`")[0]
    np.testing.assert_allclose(compiled.loss, plain.loss, rtol=1e-5)
