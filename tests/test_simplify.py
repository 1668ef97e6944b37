# SPDX-License-Identifier: Apache-2.0
"""Tracing and simplifying single expressions: the program gives the numbers and gradients of autograd."""

from mxfusion_mvn.compiler.graph import PARAMETER, leaf
from mxfusion_mvn.compiler.passes import simplify
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.tracing import tracing

import mxnet as mx
import numpy as np
import pytest
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close
from mxnet import autograd

# Expressions of x (S, N, D), a row (1, 1, D), a column (1, N, 1), one number and a constant of the shape of x. All are
# summed in a way that gives each entry a gradient of its own.
EXPRESSIONS = {
    "add_row": lambda x, row, column, number, constant: x + row,
    "subtract_from_row": lambda x, row, column, number, constant: row - x,
    "multiply_by_column": lambda x, row, column, number, constant: x * column,
    "divide_by_row": lambda x, row, column, number, constant: x / (row.square() + 1),
    "outer": lambda x, row, column, number, constant: column * row,
    "number": lambda x, row, column, number, constant: x * number - number,
    "power_of_number": lambda x, row, column, number, constant: mx.nd.broadcast_power(x.abs() + 0.1, number),
    "maximum_with_row": lambda x, row, column, number, constant: mx.nd.broadcast_maximum(x, row),
    "constant": lambda x, row, column, number, constant: x * constant + constant - constant * row,
    "neutral": lambda x, row, column, number, constant: (x * 1 + 0) / 1 * mx.nd.ones((1, 1, 1), dtype=x.dtype),
    "number_as_array": lambda x, row, column, number, constant: (
        mx.nd.full((1, 1, 1), 3.0, dtype=x.dtype) - x * mx.nd.full((1, 1, 1), 2.0, dtype=x.dtype)
    ),
    "repeated_constant": lambda x, row, column, number, constant: x - constant[:1].broadcast_to(constant.shape),
    "square": lambda x, row, column, number, constant: (x - row) ** 2 / number.square(),
    "same_twice": lambda x, row, column, number, constant: (x + row).square() + (x + row).square(),
    "functions_of_broadcast": lambda x, row, column, number, constant: (
        x * mx.nd.log(mx.nd.sqrt(row.square() + 2).broadcast_to(x.shape)).exp()
    ),
    "tanh": lambda x, row, column, number, constant: mx.nd.tanh(x) + mx.nd.sigmoid(x) * mx.nd.relu(x),
    "broadcast_of_broadcast": lambda x, row, column, number, constant: (
        row.broadcast_to((1,) + x.shape[1:]).expand_dims(0).reshape((1,) + x.shape[1:]).broadcast_to(x.shape)
    ),
    "broadcast_axis": lambda x, row, column, number, constant: mx.nd.broadcast_axis(row, axis=(0, 1), size=x.shape[:2]),
    "broadcast_like": lambda x, row, column, number, constant: mx.nd.broadcast_like(column, x) * row,
    "reshapes": lambda x, row, column, number, constant: x.reshape((-1,)).expand_dims(0).reshape(x.shape),
    "reshape_of_broadcast": lambda x, row, column, number, constant: row.broadcast_to(x.shape).reshape((-1,)).square(),
    "sum_last": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=-1).square(),
    "sum_first": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=0).square(),
    "sum_middle": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=1).square(),
    "sum_outer": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=(0, 2), keepdims=True).square(),
    "sum_exclude": lambda x, row, column, number, constant: mx.nd.sum(x, axis=1, exclude=True).square(),
    "mean_first": lambda x, row, column, number, constant: mx.nd.mean(x - row, axis=0).exp(),
    "mean_all": lambda x, row, column, number, constant: mx.nd.mean(x * column).square(),
    "sum_of_one": lambda x, row, column, number, constant: mx.nd.sum(row, axis=(0, 1)) * mx.nd.mean(number),
    "sum_of_outer_axes": lambda x, row, column, number, constant: mx.nd.sum(
        mx.nd.stack(x, x * row, x - row, axis=2), axis=(1, 3)
    ).square(),
    "sum_of_every_other_axis": lambda x, row, column, number, constant: mx.nd.sum(
        mx.nd.stack(x, x * row, x - row, axis=3), axis=(0, 2)
    ).square(),
    "broadcast_of_middle": lambda x, row, column, number, constant: (
        (x[:, :1] * row).broadcast_to(x.shape) * x * x[:, :, :1].broadcast_to(x.shape)
    ),
    "broadcast_of_every_other_axis": lambda x, row, column, number, constant: (
        mx.nd.expand_dims(x[:, :, :1], axis=1).broadcast_to((len(x), 8) + x.shape[1:]).square()
    ),
    "swapped": lambda x, row, column, number, constant: x.swapaxes(0, 2) * row.swapaxes(-1, 0) + column.swapaxes(0, -3),
    "transposed": lambda x, row, column, number, constant: (x * row).transpose() + x.transpose((2, 1, 0)).square(),
    "like_another": lambda x, row, column, number, constant: (
        mx.nd.linalg.makediag(mx.nd.ones_like(x)).sum(axis=-2) * x - mx.nd.zeros_like(row) * x
    ),
    "triangle": lambda x, row, column, number, constant: mx.nd.linalg.maketrian(
        mx.nd.linalg.extracttrian(mx.nd.linalg.gemm2(x, constant, transpose_b=True))
    ).square(),
    "strict_triangle": lambda x, row, column, number, constant: mx.nd.linalg.maketrian(
        mx.nd.linalg.extracttrian(mx.nd.linalg.syrk(x), offset=-1), offset=-1
    ).square(),
    "max": lambda x, row, column, number, constant: mx.nd.max(x, axis=1).square(),
    "sum_of_sums": lambda x, row, column, number, constant: (
        -mx.nd.sum(mx.nd.mean((x - row).square() / -2 - column, axis=0)) + 3 - mx.nd.sum(row) / 4
    ),
    "sum_over_number": lambda x, row, column, number, constant: mx.nd.sum((x - row) / number.square()),
    "number_times_sum": lambda x, row, column, number, constant: mx.nd.sum(number * x),
    "add_n": lambda x, row, column, number, constant: mx.nd.add_n(x, constant, x * row, x, x, x, x.square()),
    "used_often": lambda x, row, column, number, constant: sum(mx.nd.sin(row * k).square() for k in range(20)) * x,
    "outer_of_reshapes": lambda x, row, column, number, constant: (
        (x[0, 0] * 2).reshape((-1, 1)) * (x[1, 0] * 3).reshape((1, -1))
        - x[0, 1].reshape((-1, 1)) * number.reshape((1,))
    ),
    "own_draw": lambda x, row, column, number, constant: (x + row) - row + ((x * 2) + number - number) * (row - row),
    "slices": lambda x, row, column, number, constant: x[0] * x[1:2, 1:, :-1].sum() + x[:, 1, 0].sum() * x[1][0][0],
    "advanced_index": lambda x, row, column, number, constant: mx.nd.take(x, mx.nd.array([1, 0, 1]), axis=0),
    "stop_gradient": lambda x, row, column, number, constant: mx.nd.BlockGrad(x * row) * x - x.detach() * row,
    "cast": lambda x, row, column, number, constant: x.astype("float64").astype(x.dtype) * x.astype(x.dtype),
    "concat": lambda x, row, column, number, constant: mx.nd.concat(x, x * 2, dim=1).square(),
    "stack": lambda x, row, column, number, constant: mx.nd.stack(x, x.square(), axis=0),
    "dot": lambda x, row, column, number, constant: mx.nd.dot(x[0], x[1], transpose_b=True).square(),
    "factor": lambda x, row, column, number, constant: mx.nd.linalg.sumlogdiag(
        mx.nd.linalg.potrf(
            mx.nd.linalg.syrk(x)
            + 3 * mx.nd.eye(x.shape[1], dtype=x.dtype).expand_dims(0).broadcast_to((len(x), x.shape[1], x.shape[1]))
        )
    ),
    "large_product": lambda x, row, column, number, constant: mx.nd.linalg.syrk(x, alpha=0.5),
    "large_product_transposed": lambda x, row, column, number, constant: mx.nd.linalg.syrk(
        mx.nd.transpose(x, axes=(0, 2, 1)), transpose=True
    ),
    "shared_factor": lambda x, row, column, number, constant: _solved(x, row, mx.nd.linalg.trsm),
    "shared_factor_transposed": lambda x, row, column, number, constant: _solved(x, row, mx.nd.linalg.trsm, True),
    "shared_product": lambda x, row, column, number, constant: _solved(x, row, mx.nd.linalg.trmm),
    "factor_of_each_sample": lambda x, row, column, number, constant: _solved(
        x, mx.nd.sum(x, axis=1, keepdims=True), mx.nd.linalg.trsm
    ),
    "paused": lambda x, row, column, number, constant: x * _paused(lambda: (x * row).sum(axis=2, keepdims=True)),
}
SHAPES = [(2, 3, 4), (2, 40, 5)]


def _solved(x, rows, operator, transpose=False):
    """What an operator makes of a factor for all columns, that of I + r r^T, as the host would have it computed."""
    rows = rows.expand_dims(-1)
    product = mx.nd.broadcast_mul(rows, rows.swapaxes(-1, -2))
    matrix = mx.nd.broadcast_add(product, mx.nd.eye(x.shape[2], dtype=x.dtype).reshape((1, 1) + x.shape[2:] * 2))
    factor = mx.nd.linalg.potrf(matrix.broadcast_to(x.shape + x.shape[2:]))
    solution = operator(factor, x.expand_dims(-1), transpose=transpose)
    return mx.nd.broadcast_add(solution[:, :, :, 0], mx.nd.linalg.sumlogdiag(factor).expand_dims(-1))


def _paused(compute):
    with autograd.pause():
        return compute()


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
    loss, graph = traced(lambda: _weighted(EXPRESSIONS[name](*arrays.values(), constant), weights), arrays)
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
        return mx.nd.add_n(*[_weighted(mx.nd.sin(term), weights) + mx.nd.mean(term).reshape((1,)) for term in terms])

    loss, graph = traced(compute, arrays)
    gradients = {key: mx.nd.zeros_like(array) for key, array in arrays.items()}
    program = Program(simplify(graph), arrays, gradients, mx.cpu())
    program.run()
    program.deliver()
    assert_close(program.loss, loss.asnumpy(), **TOLERANCE["float64"])
    for key, array in arrays.items():
        scale = max(1.0, np.abs(array.grad.asnumpy()).max())
        assert_close(gradients[key] / scale, array.grad.asnumpy() / scale, **TOLERANCE["float64"])


def _weighted(value, weights):
    """A number that depends on each entry of an array in its own way."""
    if value.size == 1:
        return value.reshape((1,))
    return mx.nd.sum(value * nd(weights[: value.size], value.dtype).reshape(value.shape))


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
