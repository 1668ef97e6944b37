# SPDX-License-Identifier: Apache-2.0
"""Arrays that many operators use have right gradients, also where MXNet finds them.

From eight uses on MXNet lets operators add to one gradient in place, which some of them cannot do: without copies in
between the first two of these expressions have wrong gradients.
"""

from mxfusion_mvn.compiler.passes import simplify
from mxfusion_mvn.compiler.program import Program

import mxnet as mx
import numpy as np
import pytest

from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close
from helpers.tracing import traced


def _times_sum(array, other):
    return mx.nd.broadcast_mul(array, mx.nd.sum(other).reshape((1,)))


def _of_a_parameter(x):
    return [
        _times_sum(mx.nd.add_n(x, x, x), mx.nd.SwapAxis(x, dim1=0, dim2=1)),
        mx.nd.Activation(x, act_type="softrelu"),
        _times_sum(x.reshape((1, 4, 4)).broadcast_to((3, 4, 4)), mx.nd.reverse(x, axis=0)),
        mx.nd.linalg.gemm2(x, x, transpose_a=True),
        _times_sum(mx.nd.max(x, axis=1), mx.nd.mean(x, axis=1)),
        mx.nd.tile(x, reps=(2, 1)),
    ]


def _of_an_operator(x):
    factor = mx.nd.linalg.potrf(mx.nd.linalg.syrk(x))
    product = mx.nd.linalg.gemm2(factor, factor, transpose_b=True)
    first, second = mx.nd.SliceChannel(product, num_outputs=2, axis=1)
    return [
        _times_sum(mx.nd.dot(product, product, transpose_b=True), (product * product + 1) ** 1.5),
        _times_sum(first * second, mx.nd.exp(0.01 * product)),
        _times_sum(mx.nd.clip(product, -1, 1), mx.nd.clip(product, -1, 1)),
        _times_sum(product * product, mx.nd.linalg.potrf(product)),
    ]


def _of_the_same_kind(x):
    return [mx.nd.sin((k + 1.0) * x) for k in range(40)]


@pytest.mark.parametrize("terms", [_of_a_parameter, _of_an_operator, _of_the_same_kind])
def test_gradients_of_an_array_that_many_operators_use(terms, rng, dtype):
    x = nd(2 * np.eye(4) + 0.3 * rng.normal(size=(4, 4)), dtype)
    weights = rng.normal(size=40)

    def compute():
        return mx.nd.add_n(*(mx.nd.sum(term).reshape((1,)) * w for term, w in zip(terms(x), weights)))

    _, graph = traced(compute, {"x": x})
    scale = np.abs(x.grad.asnumpy()).max()
    for is_derived in (False, True):
        gradients = {"x": mx.nd.zeros_like(x)}
        program = Program(simplify(graph, is_derived), {"x": x}, gradients, mx.cpu())
        program.run()
        program.deliver()
        assert_close(gradients["x"] / scale, x.grad.asnumpy() / scale, **TOLERANCE[dtype])
