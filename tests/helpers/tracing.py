# SPDX-License-Identifier: Apache-2.0
"""An expression of arrays as a graph of the compiler."""

from mxfusion_mvn.compiler.graph import PARAMETER, leaf
from mxfusion_mvn.compiler.tracing import tracing

from mxnet import autograd


def traced(compute, arrays):
    """The value of an expression, whose gradients are left with the arrays, and its graph."""
    for array in arrays.values():
        array.attach_grad()
    with autograd.record(), tracing([leaf(PARAMETER, array, key) for key, array in arrays.items()]) as trace:
        loss = compute()
    loss.backward()
    graph = trace.graph(loss, loss)
    assert trace.reason is None
    return loss, graph
