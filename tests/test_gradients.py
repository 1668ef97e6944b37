# SPDX-License-Identifier: Apache-2.0
"""Gradients that the compiler derives itself: they are those of autograd and of finite differences."""

from types import SimpleNamespace

from mxfusion_mvn.compiler import passes
from mxfusion_mvn.compiler.derivatives.reverse import ADJOINTS
from mxfusion_mvn.compiler.graph import PARAMETER, leaf
from mxfusion_mvn.compiler.passes import simplify
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.tracing import tracing

import mxnet as mx
import numpy as np
import pytest

from helpers.gradient_cases import ALL, CASES, FLAGS, SHAPES, F, arguments, la
from helpers.host import nd
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close
from helpers.tracing import traced

# What has an adjoint and is never differentiated: the first two are left out or not made before, the others constants.
ALWAYS_REWRITTEN = {"_copy", "_np_reshape", "ones_like", "zeros_like"}


def _weighted(values, weights):
    """A number that depends on each entry of some arrays in its own way, and not linearly."""
    terms = []
    for value in values if isinstance(values, list) else [values]:
        flat, weights = value.reshape((-1,)), weights.astype(value.dtype)
        terms += [F.sum(flat * weights[: value.size]), F.mean(flat.square())]
        weights = weights[value.size :]
    return F.add_n(*terms)


def run(graph, arrays):
    """The loss and the gradients of a graph."""
    fill = 0.0 if graph.results is None else np.nan  # MXNet writes only gradients of what is in the graph
    gradients = {key: F.full(array.shape, fill, dtype=array.dtype) for key, array in arrays.items()}
    program = Program(graph, arrays, gradients, mx.cpu())
    program.run()
    program.deliver()
    return program.loss, gradients


def check(compute, arrays, dtype, is_derived=True):
    """The simplified graph of an expression and its gradients, which are those of autograd."""
    loss, graph = traced(compute, arrays)
    graph = simplify(graph)
    assert (graph.results is not None) == is_derived
    got, gradients = run(graph, arrays)
    assert_close(got, loss.asnumpy(), **TOLERANCE[dtype])
    for key, array in arrays.items():
        expected = array.grad.asnumpy()
        assert np.isfinite(expected).all()
        scale = max(1.0, np.abs(expected).max())
        assert_close(gradients[key] / scale, expected / scale, **TOLERANCE[dtype])
    return graph, gradients


@pytest.mark.parametrize(("name", "shape"), ALL, ids=str)
def test_gradients_are_those_of_autograd_and_of_differences(name, shape, rng, dtype):
    parameters, constants = arguments(rng, shape, dtype)
    weights = nd(rng.normal(size=40000), dtype)

    def compute(**arrays):
        return _weighted(CASES[name](SimpleNamespace(**arrays, **constants)), weights)

    _, gradients = check(lambda: compute(**parameters), parameters, dtype)
    if dtype == "float32" or shape != SHAPES[0] or name == "cast":  # which is rounded to float32 on its way
        return
    for key, array in parameters.items():
        step = nd(1e-5 * rng.normal(size=array.shape))
        ahead, back = (compute(**{**parameters, key: array + sign * step}).asscalar() for sign in (1, -1))
        scale = 1e-5 * max(1.0, np.abs(gradients[key].asnumpy()).max())
        expected = (gradients[key] * step).sum().asscalar() / scale
        assert_close((ahead - back) / 2 / scale, expected, **GRADIENT_TOLERANCE)


def test_every_operator_with_an_adjoint_has_a_case(rng, monkeypatch):
    parameters, constants = arguments(rng, SHAPES[0], "float32")
    names, weights, met = SimpleNamespace(**parameters, **constants), nd(rng.normal(size=40000), "float32"), set()
    monkeypatch.setattr(passes, "differentiated", lambda rewriter, graph: met.update(graph.operators()))
    for case in CASES.values():
        simplify(traced(lambda: _weighted(case(names), weights), parameters)[1])  # noqa: B023
    assert set(ADJOINTS) - met == ALWAYS_REWRITTEN


# Of x and y: where functions have kinks, and where numbers are extreme.
TIED = [-1.0, 0.0, 1.0, 2.0], [-1.0, 0.0, 2.0, 1.0]
TINY = [1e-30, 1e-20, 1e-5, 1.0], [1.0] * 4
EXTREME = [-100.0, -20.0, 0.0, 39.9, 40.0, 41.0, 100.0], [1.0] * 7
POINTS = {
    "abs": (TIED, lambda x, y: [x.abs(), (x - y).abs(), F.sign(x) * y]),
    "two": (TIED, lambda x, y: [F.maximum(x, y), F.minimum(x, y), F.maximum(x, x) * y, F.minimum(y, y)]),
    "pairs": (TIED, lambda x, y: [f(x, y.reshape((4, 1))) for f in (F.broadcast_maximum, F.broadcast_minimum)]),
    "number": (TIED, lambda x, y: [F.maximum(x, 0), F.maximum(1, y), F.minimum(x, 1), F.minimum(0, y)]),
    "and constant": (TIED, lambda x, y: [F.maximum(x, F.zeros_like(x)) * y, F.minimum(x, F.ones_like(x))]),
    "constant and": (TIED, lambda x, y: [F.maximum(F.zeros_like(x), x) * y, F.minimum(F.ones_like(x), x)]),
    "chosen": (TIED, lambda x, y: [F.where(x > y, x.square(), y), F.relu(x), F.Activation(y, "relu")]),
    "clip": (TIED, lambda x, y: [x.clip(-1, 1), y.clip(0, 2), F.sqrt(x.clip(0.5, 5) - 0.5)]),
    "smooth": (TIED, lambda x, y: [F.smooth_l1(x, scalar=1.0) * y, F.softsign(x) * y, x**2 + y**3 + x**1]),
    "power": (TIED, lambda x, y: F.broadcast_power(x, F.full((4,), 2.0, dtype=x.dtype)) * y),
    "tiny": (TINY, lambda x, y: [F.sqrt(x) * y, F.cbrt(x), F.sqrt(x * y), F.log(x) * y, F.log2(x), F.log1p(x)]),
    "softplus": (EXTREME, lambda x, y: [F.where(x > b, x, F.log1p(F.exp(F.minimum(x, b)))) * y for b in (40, 20)]),
    "sigmoid": (EXTREME, lambda x, y: F.sigmoid(x) * F.tanh(y) + F.tanh(x) + F.Activation(x, "softrelu") * y),
}


@pytest.mark.parametrize("name", POINTS)
def test_special_points(name, rng, dtype):
    values, case = POINTS[name]
    arrays = {key: nd(numbers, dtype) for key, numbers in zip("xy", values)}
    weights = nd(rng.normal(size=100), dtype)
    _, gradients = check(lambda: _weighted(case(**arrays), weights), arrays, dtype)
    for key, array in arrays.items():
        assert_close(gradients[key], array.grad.asnumpy(), **TOLERANCE[dtype])


def _other(array):
    return "float32" if array.dtype == np.float64 else "float64"


NOT_DERIVED = {
    "max": lambda p: F.max(p.x, axis=1),
    "take by what changes": lambda p: F.take(p.x, p.row[0, 0].abs() * 2, axis=0),
    "take with a check": lambda p: F.take(p.x, nd([1, 0, 1], "int32"), axis=0, mode="raise"),
    "take of one of many": lambda p: F.take(p.wide[0], nd([3] * 10_000, "int32")),
    "pick by what changes": lambda p: F.pick(p.x, p.y[:, :, 0]),
    "softmax of another temperature": lambda p: F.softmax(p.x, temperature=2.0),
    "softmax in another type": lambda p: F.softmax(p.x, dtype=_other(p.x)).astype(p.x.dtype),
    "BatchNorm": lambda p: F.BatchNorm(p.x, *[F.full((p.x.shape[1],), v, dtype=p.x.dtype) for v in (2, 0, 0, 1)]),
    "step": lambda p: F.slice(p.x, begin=(None, None, 0), end=(None, None, 4), step=(None, None, 2)),
    "where rows": lambda p: F.where(nd([1] + [0] * (len(p.x) - 1), "int32"), p.x, p.y),
    "squeezed split": lambda p: F.split(p.x, p.x.shape[1], 1, squeeze_axis=True)[0],
    "dot of tensors": lambda p: F.dot(p.x, p.y.T),
    "integers": lambda p: (p.x * 3).astype("int32").astype(p.x.dtype),
    "upper factor": lambda p: la.potrf(la.syrk(p.factor), lower=False),
    "upper system": lambda p: la.trsm(p.factor, p.x, rightside=True, lower=False),
}


@pytest.mark.parametrize("name", NOT_DERIVED)
def test_what_has_no_adjoint_is_left_to_mxnet(name, rng, dtype):
    parameters, constants = arguments(rng, SHAPES[0], dtype)
    names, weights = SimpleNamespace(**parameters, **constants), nd(rng.normal(size=40000), dtype)
    check(lambda: _weighted([NOT_DERIVED[name](names), names.y.sin()], weights), parameters, dtype, is_derived=False)


@pytest.mark.parametrize("size", range(1, 8))
def test_the_gradient_of_a_product_is_right_where_entries_are_zero(size, rng, dtype):
    """The product of the other entries, where MXNet divides the product by zero."""
    values = rng.uniform(0.5, 2, size=(4, size, 2))
    for line, zeros in enumerate([[], [0], [size - 1], [0, size // 2]]):
        values[line, zeros] = 0
    x = nd(values, dtype)
    loss, graph = traced(lambda: F.prod(x, axis=1).sum(), {"x": x})
    got, gradients = run(simplify(graph), {"x": x})
    others = [np.delete(values, index, axis=1).prod(axis=1) for index in range(size)]
    assert_close(got, loss.asnumpy(), **TOLERANCE[dtype])
    assert_close(gradients["x"], np.stack(others, axis=1), **TOLERANCE[dtype])


OBJECTIVES = {
    "terms": (lambda a, b, n: (a * b).sum() + a.sin().sum() + n, lambda a, b, n: {"a": b + np.cos(a), "b": a, "n": 1}),
    "one of three": (lambda a, b, n: a.square().sum(), lambda a, b, n: {"a": 2 * a}),
    "blocked": (lambda a, b, n: (F.BlockGrad(a) * b).sum(), lambda a, b, n: {"b": a}),
    "blocked in part": (lambda a, b, n: (F.BlockGrad(a.sin()) * a * 3).sum(), lambda a, b, n: {"a": 3 * np.sin(a)}),
    "constant in one": (lambda a, b, n: (a + b - b + 0 * n).sum(), lambda a, b, n: {"a": 1}),
    "constant in all": (lambda a, b, n: (a - a).sum() + (0 * b).sum(), lambda a, b, n: {}),
    "the same": (lambda a, b, n: (a + b).sin().sum(), lambda a, b, n: dict.fromkeys("ab", np.cos(a + b))),
    "numbers": (lambda a, b, n: (3 * a).sum() - F.mean(b) + n / 4, lambda a, b, n: {"a": 3, "b": -1 / 6, "n": 0.25}),
    "each other": (lambda a, b, n: (a * b).sum(), lambda a, b, n: {"a": b, "b": a}),
    "a parameter": (lambda a, b, n: n, lambda a, b, n: {"n": 1}),
    "zeros": (lambda a, b, n: sum(F.dot(a[:, i], F.zeros_like(a[:, i])) for i in (0, 2)) + n, lambda a, b, n: {"n": 1}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parameters_of_objectives(name, rng, dtype):
    compute, expected = OBJECTIVES[name]
    arrays = {key: nd(rng.normal(size=shape), dtype) for key, shape in {"a": (2, 3), "b": (2, 3), "n": 1}.items()}
    _, gradients = check(lambda: compute(**arrays), arrays, dtype)
    expected = expected(**{key: array.asnumpy() for key, array in arrays.items()})
    for key, array in arrays.items():
        assert_close(gradients[key], np.broadcast_to(expected.get(key, 0), array.shape), **TOLERANCE[dtype])


def test_gradients_are_of_the_objective_and_not_of_the_loss(rng, dtype):
    x, y = nd(rng.normal(size=(3, 4)), dtype), nd(rng.normal(size=(1, 4)), dtype)
    with tracing([leaf(PARAMETER, x, "x"), leaf(PARAMETER, y, "y")]) as trace, mx.autograd.record():
        loss, objective = (x - y).square().sum(), (x * y).sin().sum()
    got, gradients = run(simplify(trace.graph(loss, objective)), {"x": x, "y": y})
    slope = np.cos((x * y).asnumpy())
    assert_close(got, loss.asnumpy(), **TOLERANCE[dtype])
    assert_close(gradients["x"], slope * y.asnumpy(), **TOLERANCE[dtype])
    assert_close(gradients["y"], (slope * x.asnumpy()).sum(axis=0, keepdims=True), **TOLERANCE[dtype])


def test_many_gradients(rng, dtype):
    arrays = {"x": nd(rng.normal(size=(300, 100)), dtype), "y": nd(rng.normal(size=100), dtype), "z": nd([1.0], dtype)}
    graph, _ = check(lambda: F.dot(arrays["x"], arrays["y"]).sin().sum(), arrays, dtype)
    assert Program(graph, arrays, arrays, mx.cpu()).results is None


SLICE, TIMES, PRODUCT = "slice_axis", "_mul_scalar", "broadcast_mul"
PLUS, MINUS = "broadcast_add", "elemwise_sub"
# How many operators of some names are left, or of which shapes they are: by rule, some where it does not apply.
RULES = {
    "slices": (lambda p: p.x[:, :, :1].sin() * p.x[:, :, 2:3].cos() + p.x[:, :, 3:].tanh(), {}),
    "slices along two axes": (lambda p: p.x[:, :, :1].sin() * p.x[:1].cos(), {}),
    "slice of a reshape": (lambda p: la.syrk(F.concat(p.w, p.wide).expand_dims(0)), {SLICE: [(1, 5, 10), (1, 5, 200)]}),
    "product with a number": (lambda p: la.gemm2(p.row, p.number, True), {"_linalg_gemm2": 1}),
    "merged": (lambda p: (2 * (3 * p.x)).sin(), {TIMES: 2}),
    "merged with a difference": (lambda p: (-(p.x - p.y)).sin(), {TIMES: 1, MINUS: 1}),
    "outward": (lambda p: F.dot(2 * p.w, (3 * p.w).T).sin(), {TIMES: 2}),
    "one number": (lambda p: F.sum(p.x.sin() * F.BlockGrad(p.number), axis=1), {PRODUCT: [(3, 10), (3, 1, 10)]}),
    "numbers": (lambda p: la.gemm2(p.x * F.BlockGrad(p.each), p.c, True), {PRODUCT: [(3, 10, 10), (3, 20, 10)]}),
    "two numbers": (lambda p: F.broadcast_mul(p.x * p.number, p.each[:1]), {}),
    "other axes": (lambda p: F.BlockGrad(la.gemm2(p.x, p.y.T * p.v.reshape((10, 1, 1)), axis=0)) * p.number, {}),
    "square": (lambda p: (F.BlockGrad(2 * p.x).square() * (3 * p.y)).sin(), {TIMES: 2}),
    "twice": (lambda p: (p.x + p.x).sin(), {TIMES: 2, PLUS: 0}),
    "sum of multiples": (lambda p: (3 * p.x - 2 * p.x).sin(), {TIMES: 0, PLUS: 0, MINUS: 0}),
    "equal multiples": (lambda p: (2 * p.x - 2 * p.y).sin(), {TIMES: 3, MINUS: 1}),
    "minus a negative": (lambda p: (p.x - -1 * p.y).sin(), {TIMES: 0, PLUS: 1, MINUS: 0}),
    "plus a negative": (lambda p: (-1 * p.x + p.y).sin(), {TIMES: 1, MINUS: 1}),
    "in a product": (lambda p: (2 * la.syrk(p.x)).sin(), {TIMES: 0}),
    "in a constant": (lambda p: (2 * (p.x * p.c)).sin(), {TIMES: 0}),
}


@pytest.mark.parametrize("name", RULES)
def test_rule(name, rng, dtype):
    case, expected = RULES[name]
    parameters, constants = arguments(rng, SHAPES[1], dtype)
    names = SimpleNamespace(**parameters, **constants)
    graph, _ = check(lambda: case(names).sin().sum(), parameters, dtype)
    for operator, wanted in expected.items():
        shapes = [node.shapes[0] for node in graph.nodes if node.operator == operator]
        assert (shapes if isinstance(wanted, list) else len(shapes)) == wanted


LOWER, HALF, ROW = np.tril(np.ones((4, 4))), np.tril(np.ones((4, 4))) - np.eye(4) / 2, np.array([[1.0, 1.0, 1.0, 2.0]])
KEPT = [([LOWER, HALF], {}), ([LOWER], {"offset": 1}), ([LOWER], {"lower": False}), ([ROW], {})]
DROPPED = [([LOWER], {}), ([LOWER, np.ones((4, 4))], {}), ([HALF], {"offset": -1}), ([ROW], {"offset": -1})]


@pytest.mark.parametrize(("masks", "attributes"), [*KEPT, *DROPPED])
def test_mask_before_a_triangle_is_dropped_only_where_it_is_one(masks, attributes, rng, dtype):
    mask, x = nd(np.stack(masks), dtype), nd(rng.normal(size=(2, 4, 4)), dtype)
    graph, _ = check(lambda: la.extracttrian(x.sin() * mask, **attributes).cos().sum(), {"x": x}, dtype)
    (taken,) = [node.inputs[0][0].operator for node in graph.nodes if node.operator == "_linalg_extracttrian"]
    assert (taken == "sin") == any(masks is dropped for dropped, _ in DROPPED)


def _slice(rng, x):
    axis = int(rng.integers(x.ndim))
    begin, end = np.sort(rng.choice(x.shape[axis] + 1, 2, replace=False))
    return F.slice_axis(x, axis=axis, begin=int(begin) - x.shape[axis] * int(rng.integers(2)), end=int(end))


def _factor(rng, x):
    size = x.shape[-2]
    eye = F.broadcast_to(F.eye(size, dtype=x.dtype).reshape((1,) * (x.ndim - 2) + (size, size)), x.shape[:-1] + (size,))
    if rng.integers(2):
        return la.potrf(la.syrk(F.sin(x), alpha=1 / x.shape[-1]) + eye)
    return eye * 2 + nd(rng.normal(size=eye.shape), x.dtype) / (10 * size)


# Of arrays x and y that can be broadcast to each other; the last ones are of matrices.
FUZZ = [
    lambda rng, x, y: x + y,
    lambda rng, x, y: F.sin(x) - 2 * y,
    lambda rng, x, y: x * y / (y.square() + 1.5),
    lambda rng, x, y: F.broadcast_minimum(F.broadcast_maximum(x, y), x + 0.5),
    lambda rng, x, y: F.exp(F.sin(x)) + F.sqrt(x.square() + 1) - F.BlockGrad(x) * x,
    lambda rng, x, y: -(2 * (x * -1.5)) / 4 - (x + x).square() / 8 - 3 * x,
    lambda rng, x, y: F.where(nd(rng.integers(2, size=x.shape), x.dtype), x, F.tanh(x) * 2),
    lambda rng, x, y: _slice(rng, x),
    lambda rng, x, y: F.add_n(*[F.mean(_slice(rng, x)).reshape((1,)) for _ in range(3)]) * x,
    lambda rng, x, y: F.concat(x[-1:] * 2, -x, F.sin(x[:1]), dim=0),
    lambda rng, x, y: F.stack(x, -x, F.sin(x), axis=int(rng.integers(-1, x.ndim))),
    lambda rng, x, y: F.split(x, x.shape[-1], -1)[-1] * x if x.shape[-1] > 1 else x,
    lambda rng, x, y: x.transpose(tuple(int(axis) for axis in rng.permutation(x.ndim))),
    lambda rng, x, y: x.reshape((1, -1)) if rng.integers(2) else x.expand_dims(int(rng.integers(x.ndim + 1))),
    lambda rng, x, y: F.sum(x, axis=int(rng.integers(x.ndim)), keepdims=bool(rng.integers(2))) / 4,
    lambda rng, x, y: F.mean(x, axis=int(rng.integers(x.ndim))) + F.mean(x * x).reshape((1,)),
    lambda rng, x, y: F.broadcast_mul(x, F.mean(F.sin(y)).reshape((1,) * x.ndim)),
    lambda rng, x, y: F.dot(x.reshape((-1, x.shape[-1])), x.reshape((-1, x.shape[-1])), transpose_b=True) / x.shape[-1],
    lambda rng, x, y: F.broadcast_mul(x, F.mean(x.square(), axis=(-2, -1), keepdims=True)),
    lambda rng, x, y: la.gemm2(x, F.sin(x), *FLAGS[rng.integers(1, 3)], alpha=1 / max(x.shape[-2:])),
    lambda rng, x, y: la.trsm(_factor(rng, x), x * 2, transpose=bool(rng.integers(2)), alpha=1.5),
    lambda rng, x, y: la.trmm(_factor(rng, x), x, transpose=bool(rng.integers(2)), alpha=-0.5),
    lambda rng, x, y: la.maketrian(la.extracttrian(la.syrk(x, alpha=1 / x.shape[-1]))),
]
OF_MATRICES = 5
POOL = [(1,), (3,), (3, 1), (1, 3), (2, 1, 3), (3, 20, 10), (3, 1, 1), (3, 20, 1), (1, 1, 10)]


def _random_arrays(rng, pool):
    for _ in range(14):
        x = pool[rng.integers(len(pool))]
        fitting = [y for y in pool if all(a == b or 1 in (a, b) for a, b in zip(x.shape[::-1], y.shape[::-1]))]
        case = FUZZ[rng.integers(len(FUZZ) - (OF_MATRICES if x.ndim < 2 else 0))]
        value = case(rng, x, fitting[rng.integers(len(fitting))])
        if value.ndim <= 4 and value.size < 3000:
            pool.append(value)
    return [F.sin(value) for value in pool[-5:]]


@pytest.mark.parametrize("seed", range(60))
def test_random_expressions(seed):
    rng = np.random.default_rng(seed)
    shapes = [POOL[rng.integers(len(POOL))] for _ in range(3)] + [(3, 20, 10)]
    arrays = {key: nd(rng.normal(size=shape), "float64") for key, shape in zip("abcd", shapes)}
    weights = nd(rng.normal(size=15000), "float64")
    check(lambda: _weighted(_random_arrays(rng, [*arrays.values()]), weights), arrays, "float64")
