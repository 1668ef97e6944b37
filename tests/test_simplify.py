# SPDX-License-Identifier: Apache-2.0
"""Tracing and simplifying single expressions: the program gives the numbers and gradients of autograd."""

from mxfusion_mvn.compiler.passes import simplify
from mxfusion_mvn.compiler.program import Program

import mxnet as mx
import numpy as np
import pytest

from helpers.expressions import EXPRESSIONS, SHAPES, weighted
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close
from helpers.tracing import traced


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(EXPRESSIONS))
def test_program_gives_what_autograd_gives(name, shape, rng, dtype):
    arrays = {
        "x": nd(rng.normal(size=shape), dtype),
        "row": nd(rng.normal(size=(1, 1, shape[2])), dtype),
        "column": nd(rng.normal(size=(1, shape[1], 1)), dtype),
        "number": nd(rng.uniform(0.5, 2.0, size=(1, 1, 1)), dtype),
    }
    constant = nd(rng.normal(size=shape), dtype)
    weights = rng.normal(size=int(np.prod(shape)) * 10)
    loss, graph = traced(lambda: weighted(EXPRESSIONS[name](*arrays.values(), constant), weights), arrays)
    for program_graph in (graph, simplify(graph)):
        gradients = {key: mx.nd.zeros_like(array) for key, array in arrays.items()}
        program = Program(program_graph, arrays, gradients, mx.cpu())
        program.run()
        program.deliver()
        assert_close(program.loss, loss.asnumpy(), **TOLERANCE[dtype])
        for key, array in arrays.items():
            scale = max(1.0, np.abs(array.grad.asnumpy()).max())
            assert_close(gradients[key] / scale, array.grad.asnumpy() / scale, **TOLERANCE[dtype])


FUNCTIONS = [
    lambda rng, x, y: x + y,
    lambda rng, x, y: x - y,
    lambda rng, x, y: x * y,
    lambda rng, x, y: x / (y.square() + 1.5),
    lambda rng, x, y: mx.nd.broadcast_maximum(x, y),
    lambda rng, x, y: mx.nd.sin(x),
    lambda rng, x, y: mx.nd.BlockGrad(x),
    lambda rng, x, y: 1.5 - x * -2.5,
    lambda rng, x, y: x**2 / 4.0,
    lambda rng, x, y: x.reshape(_arranged(rng, x.shape)),
    lambda rng, x, y: x.broadcast_to(tuple(size if size > 1 else rng.choice([1, 2, 3]) for size in x.shape)),
    lambda rng, x, y: x.expand_dims(rng.integers(x.ndim + 1)),
    lambda rng, x, y: mx.nd.sum(x, axis=rng.integers(x.ndim), keepdims=bool(rng.integers(2))),
    lambda rng, x, y: mx.nd.mean(x, axis=rng.integers(x.ndim)),
    lambda rng, x, y: mx.nd.stack(*[x[i] * (i + 1.0) for i in range(len(x))], axis=0),
]
ARRAYS = [(1,), (3,), (3, 1), (1, 3), (3, 3), (2, 1, 3), (1, 1, 1), (2, 5, 20), (1, 5, 1), (1, 1, 20)]


def _arranged(rng, shape):
    """Another shape of as many numbers: sizes permuted, and an axis of size 1 put in or left out."""
    sizes = [int(size) for size in rng.permutation([size for size in shape if size > 1])]
    return tuple(sizes[:1] + [1] + sizes[1:]) if rng.integers(2) else tuple(sizes or [1])


def _random_arrays(rng, pool):
    """Arrays that are computed from others at random, equal sizes being frequent."""
    for _ in range(12):
        x = pool[rng.integers(len(pool))]
        fitting = [y for y in pool if _fit(x.shape, y.shape)]
        value = FUNCTIONS[rng.integers(len(FUNCTIONS))](rng, x, fitting[rng.integers(len(fitting))])
        if value.ndim <= 4 and value.size < 2000:
            pool.append(value)
    return pool


def _fit(one, other):
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other)))


@pytest.mark.parametrize("seed", range(60))
def test_random_expressions(seed):
    rng = np.random.default_rng(seed)
    arrays = {key: nd(rng.normal(size=ARRAYS[rng.integers(len(ARRAYS))]), "float64") for key in "abc"}
    constants = [nd(rng.normal(size=(1, 3)), "float64"), nd(np.full((2, 1, 3), 0.5), "float64")]
    weights = rng.normal(size=2000)

    def compute():
        # The parameters belong to the sum so that there is something to compute.
        terms = [*arrays.values(), *_random_arrays(rng, [*arrays.values(), *constants])[-4:]]
        return mx.nd.add_n(*[weighted(mx.nd.sin(term), weights) + mx.nd.mean(term).reshape((1,)) for term in terms])

    loss, graph = traced(compute, arrays)
    gradients = {key: mx.nd.zeros_like(array) for key, array in arrays.items()}
    program = Program(simplify(graph), arrays, gradients, mx.cpu())
    program.run()
    program.deliver()
    assert_close(program.loss, loss.asnumpy(), **TOLERANCE["float64"])
    for key, array in arrays.items():
        scale = max(1.0, np.abs(array.grad.asnumpy()).max())
        assert_close(gradients[key] / scale, array.grad.asnumpy() / scale, **TOLERANCE["float64"])


def operators_after(compute, **arrays):
    """Names of the operators that are left of an expression."""
    return simplify(traced(compute, arrays)[1]).operators()


def test_what_does_nothing_is_left_out(rng):
    x = nd(rng.normal(size=(3,)), "float32")
    operators = operators_after(lambda: ((x * 1 + 0) / 1).reshape((3, 1)).expand_dims(0).sum(axis=0).sin().max(), x=x)
    assert operators == ["sin", "_np_reshape", "max"]


def test_what_is_broadcast_where_gradients_are_left_to_mxnet(rng):
    x, row = nd(rng.normal(size=(3, 20, 10)), "float32"), nd(rng.normal(size=(10,)), "float32")
    operators = operators_after(lambda: (x * row.reshape((1, 1, 10))).max(), x=x, row=row)
    assert operators.count("elemwise_mul") == 1


def test_what_two_have_in_common_is_computed_once(rng):
    x = nd(rng.normal(size=(3,)), "float32")
    assert operators_after(lambda: (mx.nd.sin(x) * mx.nd.sin(x)).max(), x=x).count("sin") == 1


def test_triangle_that_is_taken_out_and_put_in_again_is_chosen(rng):
    x = nd([[1.0, np.inf], [2.0, 3.0]], "float32")
    loss, graph = traced(lambda: mx.nd.linalg.maketrian(mx.nd.linalg.extracttrian(x)).sum(), {"x": x})
    graph = simplify(graph)
    assert not {"_linalg_maketrian", "_linalg_extracttrian"} & set(graph.operators())
    program = Program(graph, {"x": x}, {"x": mx.nd.zeros_like(x)}, mx.cpu())
    program.run()
    program.deliver()
    assert_close(program.loss, [6.0], rtol=0)


def test_functions_are_computed_before_what_is_broadcast(rng):
    x = nd(rng.normal(size=(1, 3)), "float32")
    graph = simplify(traced(lambda: mx.nd.exp(x.broadcast_to((100, 3))).sum(), {"x": x})[1])
    assert [node.shapes[0] for node in graph.nodes if node.operator == "exp"] == [(1, 3)]
    assert max(np.prod(node.shapes[0]) for node in graph.nodes) == 3


def test_random_operators_are_not_merged_and_stay_though_nothing_needs_them(rng):
    x = nd(rng.normal(size=(1,)), "float32")

    def compute():
        mx.nd.random.normal(shape=(1,))
        return x * mx.nd.random.normal(shape=(1,)) + mx.nd.random.normal(shape=(1,))

    assert operators_after(compute, x=x).count("_random_normal") == 3


def test_random_numbers_come_in_the_order_of_the_trace(rng):
    x = nd([1.0], "float32")

    def compute():
        first, second, unused = (mx.nd.random.normal(shape=(1,)) for _ in range(3))
        return x * (second * 10 + first)  # the graph meets the second one first

    graph = simplify(traced(compute, {"x": x})[1])
    program = Program(graph, {"x": x}, {"x": mx.nd.zeros_like(x)}, mx.cpu())
    mx.random.seed(5)
    first, second, unused, fourth = (mx.nd.random.normal(shape=(1,)).asscalar() for _ in range(4))
    mx.random.seed(5)
    program.run()
    program.deliver()
    np.testing.assert_allclose(program.loss.asscalar(), second * 10 + first, rtol=1e-6)
    assert mx.nd.random.normal(shape=(1,)).asscalar() == fourth
