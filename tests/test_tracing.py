# SPDX-License-Identifier: Apache-2.0
"""A trace lets go of the arrays of an evaluation as soon as the evaluation does."""

import gc

from mxfusion_mvn.compiler.graph import CONSTANT, PARAMETER, leaf
from mxfusion_mvn.compiler.tracing import tracing

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.ndarray.ndarray import NDArrayBase

from helpers.host import nd


def test_a_handle_that_another_array_gets_is_not_taken_for_the_one_before(dtype):
    """Temporaries and their views die, and constants that Python fills get their handles."""
    x = nd([1.0, 2.0, 3.0], dtype)
    x.attach_grad()
    freed, got, total = set(), set(), 0.0
    with tracing([leaf(PARAMETER, x, "x")]) as trace, autograd.record():
        for number in range(50):
            temporary = x * 2.0
            view = temporary.reshape((1, 3))
            freed |= {temporary.handle.value, view.handle.value}
            del temporary, view
            constant = mx.nd.empty((3,), dtype=dtype)
            got.add(constant.handle.value)
            constant[:] = number
            total = total + x * constant
        loss = total.sum()
        graph = trace.graph(loss, loss)
    assert freed & got
    assert trace.reason is None
    constants = [node.array for node in graph.nodes if node.operator == CONSTANT]
    assert len(constants) == 50
    assert constants[0].shape == (3,)
    np.testing.assert_array_equal([array.asnumpy()[0] for array in constants], range(50))
    loss.backward()
    np.testing.assert_array_equal(x.grad.asnumpy(), [sum(range(50))] * 3)


def test_arrays_are_freed_during_a_trace(monkeypatch):
    """All products but the last."""
    freed, free = [], NDArrayBase.__del__
    monkeypatch.setattr(NDArrayBase, "__del__", lambda array: (freed.append(array.handle.value), free(array)))
    x = nd(np.ones(3), "float32")
    gc.collect()
    freed.clear()
    with tracing([leaf(PARAMETER, x, "x")]) as trace:
        y = x
        for _ in range(100):
            y = y * 1.5
        count = len(freed)
    assert trace.reason is None
    assert count == 99


def test_what_frees_arrays_is_as_it_was_after_a_trace():
    before = NDArrayBase.__del__
    with tracing([]):
        assert NDArrayBase.__del__ is not before
    assert NDArrayBase.__del__ is before
