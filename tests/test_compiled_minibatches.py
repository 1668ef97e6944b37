# SPDX-License-Identifier: Apache-2.0
"""The compiled minibatch loop: batches and parameters are those of the loop that does not compile."""

from mxfusion_mvn.inference.loops.compiled_minibatch import CompiledMinibatchLoop
from mxfusion_mvn.inference.loops.imperative import MinibatchLoop

import numpy as np
import pytest
from compiled_runs import ROWS, assert_close_parameters, fitted, variational, vectors
from host import nd
from mxfusion.common.exceptions import InferenceError
from runs import map_inference, parameters, stopped, variance_model


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
