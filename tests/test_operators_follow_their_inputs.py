# SPDX-License-Identifier: Apache-2.0
"""A bound program computes with its present inputs, whatever MXNet keeps from the run before.

Each operator that a compiled program may hold, and chains that libraries fuse, at a size at which they take their own
ways: run several times while the inputs change in place, and compared with NumPy and SciPy in float64 each time.
"""

import re
from pathlib import Path

import mxfusion_mvn.compiler
from mxfusion_mvn.compiler.derivatives.reverse import ADJOINTS
from mxfusion_mvn.compiler.graph import PARAMETER, Graph, Node, leaf
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.symbols import call

import mxnet as mx
import numpy as np
import pytest
from scipy import special

from helpers.host import nd
from helpers.tolerances import assert_close

RUNS = 5
TOLERANCE = {"float32": 5e-5, "float64": 1e-10}  # relative to the largest number
# What MXNet computes in float32 even of float64: a constant of erf, the digamma function, and the rates of Adam.
FLOAT32_INSIDE = ("_backward_erf", "_backward_gamma", "_backward_gammaln", "adam_update")
SLOPE_TOLERANCE = {"float32": 1e-3, "float64": 1e-5}
BIG = (400, 64)
ANY, POSITIVE = (-0.9, 0.9), (0.2, 0.9)


def chain(steps, inputs):
    """
    Nodes of operators, each on the output of the one before.

    :param steps: list of (operator, how many of the further inputs it takes, attributes).
    :param inputs: dict from name to NDArray.
    :returns: list of nodes.
    """
    nodes = [leaf(PARAMETER, array, name) for name, array in inputs.items()]
    values = {node: node.array for node in nodes}
    present, *rest = nodes
    for operator, count, attributes in steps:
        sources, rest = [present, *rest[:count]], rest[count:]
        outputs = _outputs(operator, [values[node] for node in sources], attributes)
        shapes, dtypes = [array.shape for array in outputs], [array.dtype for array in outputs]
        attributes = {name: str(value) for name, value in attributes.items()}
        present = Node(operator, [node.entry() for node in sources], attributes, shapes, dtypes)
        nodes.append(present)
        values[present] = outputs[0]
    return nodes


def _outputs(operator, values, attributes):
    names = [f"x{i}" for i in range(len(values))]
    text = {name: str(value) for name, value in attributes.items()}
    symbol = call(operator, [mx.sym.var(name) for name in names], text, "only")
    arrays = {name: value.copy() for name, value in zip(names, values)}
    states = {name: arrays.pop(name) for name in symbol.list_auxiliary_states()}
    return symbol.bind(mx.cpu(), arrays, aux_states=states).forward(is_train=True)


def assert_follows(steps, inputs, expected, dtype):
    """Run a chain of operators several times, with other inputs each time: functions of a generator."""
    random = np.random.RandomState(0)
    arrays = {f"input{i}": nd(make(random), dtype) for i, make in enumerate(inputs)}
    nodes = chain(steps, arrays)
    last = nodes[-1]
    results = [mx.nd.zeros(shape, dtype=kind) for shape, kind in zip(last.shapes, last.dtypes)]
    wanted = {f"output{i}": array for i, array in enumerate(results)}
    loss = Node("sum", [nodes[0].entry()], {}, [(1,)], [dtype])
    entries = {name: last.entry(i) for i, name in enumerate(wanted)}
    program = Program(Graph([*nodes, loss], loss.entry(), loss.entry(), entries), arrays, wanted, mx.cpu())
    tolerance = max(TOLERANCE[dtype], 1e-6 if last.operator in FLOAT32_INSIDE else 0)
    for _ in range(RUNS):
        for array, make in zip(arrays.values(), inputs):
            array[:] = nd(make(random), dtype)
        values = expected(*(array.asnumpy().astype("float64") for array in arrays.values()))
        program.run()
        program.deliver()
        for got, value in zip(results, values if isinstance(values, list) else [values]):
            assert_close(got, value, 0, tolerance * max(1, np.abs(value).max()))


def uniform(low, high, shape=BIG):
    return lambda random: random.uniform(low, high, size=shape)


def normal(*shape):
    return lambda random: random.normal(size=shape)


def integers(count, *shape):
    return lambda random: random.randint(0, count, size=shape)


def spd(*shape):
    """Positive definite matrices."""

    def make(random):
        root = random.normal(size=shape)
        return root @ root.swapaxes(-1, -2) / shape[-1] + np.eye(shape[-1])

    return make


def lower(*shape):
    """Lower triangular matrices that are well conditioned."""
    return lambda random: np.tril(random.normal(size=shape), -1) / shape[-1] + np.eye(shape[-1])


# Functions of each number: domain, attributes, value, and the derivative where a program may hold it as an operator: a
# function of the argument, or of the value for those that are named.

TAKE_THE_VALUE = ("sqrt", "cbrt", "tan", "tanh", "sigmoid", "relu", "_rpower_scalar")
SCALAR = {"scalar": 0.3}
UNARY = {
    "abs": (ANY, {}, np.abs, np.sign),
    "sign": (ANY, {}, np.sign, None),
    "floor": (ANY, {}, np.floor, None),
    "ceil": (ANY, {}, np.ceil, None),
    "round": (ANY, {}, lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5), None),
    "negative": (ANY, {}, np.negative, None),
    "reciprocal": (POSITIVE, {}, np.reciprocal, lambda x: -1 / x**2),
    "square": (ANY, {}, np.square, lambda x: 2 * x),
    "sqrt": (POSITIVE, {}, np.sqrt, lambda y: 0.5 / y),
    "rsqrt": (POSITIVE, {}, lambda x: x**-0.5, lambda x: -0.5 * x**-1.5),
    "cbrt": (POSITIVE, {}, np.cbrt, lambda y: 1 / (3 * y**2)),
    "rcbrt": (POSITIVE, {}, lambda x: x ** (-1 / 3), lambda x: -(x ** (-4 / 3)) / 3),
    "exp": (ANY, {}, np.exp, None),
    "expm1": (ANY, {}, np.expm1, np.exp),
    "log": (POSITIVE, {}, np.log, np.reciprocal),
    "log1p": (POSITIVE, {}, np.log1p, lambda x: 1 / (1 + x)),
    "log2": (POSITIVE, {}, np.log2, lambda x: 1 / (x * np.log(2))),
    "log10": (POSITIVE, {}, np.log10, lambda x: 1 / (x * np.log(10))),
    "sin": (ANY, {}, np.sin, np.cos),
    "cos": (ANY, {}, np.cos, lambda x: -np.sin(x)),
    "tan": (ANY, {}, np.tan, lambda y: 1 + y**2),
    "sinh": (ANY, {}, np.sinh, np.cosh),
    "tanh": (ANY, {}, np.tanh, lambda y: 1 - y**2),
    "arcsin": (ANY, {}, np.arcsin, lambda x: 1 / np.sqrt(1 - x**2)),
    "arctan": (ANY, {}, np.arctan, lambda x: 1 / (1 + x**2)),
    "relu": (ANY, {}, lambda x: np.maximum(x, 0), lambda y: 1.0 * (y > 0)),
    "sigmoid": (ANY, {}, special.expit, lambda y: y * (1 - y)),
    "softsign": (ANY, {}, lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
    "erf": (ANY, {}, special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
    "gamma": (POSITIVE, {}, special.gamma, lambda x: special.gamma(x) * special.digamma(x)),
    "gammaln": (POSITIVE, {}, special.gammaln, special.digamma),
    "smooth_l1": (ANY, {"scalar": 1.0}, lambda x: x**2 / 2, lambda x: x),
    "clip": (ANY, {"a_min": -0.5, "a_max": 0.5}, lambda x: np.clip(x, -0.5, 0.5), None),
    "logical_not": (ANY, {}, lambda x: 1.0 * (x == 0), None),
    "_copy": (ANY, {}, lambda x: x, None),
    "identity": (ANY, {}, lambda x: x, None),
    "ones_like": (ANY, {}, np.ones_like, None),
    "zeros_like": (ANY, {}, np.zeros_like, None),
    "_plus_scalar": (ANY, SCALAR, lambda x: x + 0.3, None),
    "_minus_scalar": (ANY, SCALAR, lambda x: x - 0.3, None),
    "_rminus_scalar": (ANY, SCALAR, lambda x: 0.3 - x, None),
    "_mul_scalar": (ANY, SCALAR, lambda x: x * 0.3, None),
    "_div_scalar": (ANY, SCALAR, lambda x: x / 0.3, None),
    "_rdiv_scalar": (POSITIVE, SCALAR, lambda x: 0.3 / x, lambda x: -0.3 / x**2),
    "_power_scalar": (POSITIVE, {"scalar": 1.7}, lambda x: x**1.7, lambda x: 1.7 * x**0.7),
    "_rpower_scalar": (ANY, SCALAR, lambda x: 0.3**x, lambda y: np.log(0.3) * y),
    "_maximum_scalar": (ANY, SCALAR, lambda x: np.maximum(x, 0.3), lambda x: 1.0 * (x > 0.3)),
    "_minimum_scalar": (ANY, SCALAR, lambda x: np.minimum(x, 0.3), lambda x: 1.0 * (x < 0.3)),
    "_greater_scalar": (ANY, SCALAR, lambda x: 1.0 * (x > 0.3), None),
    "_greater_equal_scalar": (ANY, SCALAR, lambda x: 1.0 * (x >= 0.3), None),
    "_lesser_scalar": (ANY, SCALAR, lambda x: 1.0 * (x < 0.3), None),
    "_lesser_equal_scalar": (ANY, SCALAR, lambda x: 1.0 * (x <= 0.3), None),
    "_equal_scalar": (ANY, SCALAR, lambda x: 1.0 * (x == 0.3), None),
    "_not_equal_scalar": (ANY, SCALAR, lambda x: 1.0 * (x != 0.3), None),
}
ACTIVATIONS = {
    "relu": UNARY["relu"][2],
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "softrelu": lambda x: np.logaddexp(0, x),
}


@pytest.mark.parametrize("operator", UNARY)
def test_functions_of_each_number(operator, dtype):
    domain, attributes, function, _ = UNARY[operator]
    assert_follows([(operator, 0, attributes)], [uniform(*domain)], function, dtype)


@pytest.mark.parametrize("operator", [name for name, row in UNARY.items() if row[3]])
def test_their_derivatives(operator, dtype):
    domain, attributes, function, derivative = UNARY[operator]
    known = (lambda random: function(uniform(*domain)(random))) if operator in TAKE_THE_VALUE else uniform(*domain)
    name = f"_backward_{operator.lstrip('_')}"
    assert_follows([(name, 1, attributes)], [uniform(*ANY), known], lambda g, x: g * derivative(x), dtype)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind, dtype):
    assert_follows([("Activation", 0, {"act_type": kind})], [uniform(*ANY)], ACTIVATIONS[kind], dtype)


BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "lesser": np.less,
    "lesser_equal": np.less_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
}
ARITHMETIC = ("add", "sub", "mul", "div")
OF_EQUAL_SHAPES = {name: f"elemwise_{name}" if name in ARITHMETIC else f"_{name}" for name in BINARY}


@pytest.mark.parametrize("shape", [BIG, (1, BIG[1]), (BIG[0], 1)])
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_numbers(name, shape, dtype):
    inputs = [uniform(*POSITIVE), uniform(*POSITIVE, shape)]
    assert_follows([(f"broadcast_{name}", 1, {})], inputs, lambda x, y: 1.0 * BINARY[name](x, y), dtype)


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_arrays(name, dtype):
    inputs = [uniform(*POSITIVE), uniform(*POSITIVE)]
    assert_follows([(OF_EQUAL_SHAPES[name], 1, {})], inputs, lambda x, y: 1.0 * BINARY[name](x, y), dtype)


# All else: inputs, attributes, value

M, V = normal(400, 64), normal(64)
ROWS, COLUMNS = np.tril_indices(64)


def _lower_triangle(x):
    made = np.zeros((len(x), 64, 64))
    made[:, ROWS, COLUMNS] = x
    return made


def _adam(weight, gradient, mean, variance):
    mean, variance = 0.9 * mean + 0.1 * gradient, 0.999 * variance + 0.001 * gradient**2
    return weight - 0.1 * mean / (np.sqrt(variance) + 1e-8)


def _layer_norm(x, scale, shift):
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt(x.var(1, keepdims=True) + 1e-5) * scale + shift


OTHERS = {
    "FullyConnected": ([M, normal(32, 64), normal(32)], {"num_hidden": 32}, lambda x, w, b: x @ w.T + b),
    "FullyConnected, wide": (
        [normal(2000, 256), normal(256, 256)],
        {"num_hidden": 256, "no_bias": True},
        lambda x, w: x @ w.T,
    ),
    "FullyConnected, one row": ([normal(1, 64), normal(64, 64), V], {"num_hidden": 64}, lambda x, w, b: x @ w.T + b),
    "dot": ([M, normal(64, 200)], {}, np.matmul),
    "dot, transposed": ([M, normal(200, 64)], {"transpose_b": True}, lambda x, y: x @ y.T),
    "dot, with a vector": ([M, V], {}, np.matmul),
    "batch_dot": ([normal(5, 50, 64), normal(5, 64, 30)], {}, np.matmul),
    "batch_dot, transposed": (
        [normal(5, 64, 50), normal(5, 64, 30)],
        {"transpose_a": True},
        lambda x, y: x.swapaxes(1, 2) @ y,
    ),
    "_linalg_gemm2": ([M, normal(64, 200)], {}, np.matmul),
    "_linalg_syrk": ([M], {}, lambda x: x @ x.T),
    "_linalg_trmm": ([lower(64, 64), normal(64, 200)], {}, np.matmul),
    "_linalg_trsm": ([lower(64, 64), normal(64, 200)], {}, np.linalg.solve),
    "_linalg_potrf": ([spd(200, 200)], {}, np.linalg.cholesky),
    "_linalg_sumlogdiag": ([spd(3, 64, 64)], {}, lambda x: np.log(np.diagonal(x, axis1=1, axis2=2)).sum(-1)),
    "_linalg_extractdiag": ([normal(3, 64, 64)], {}, lambda x: np.diagonal(x, axis1=1, axis2=2)),
    "_linalg_makediag": ([normal(3, 64)], {}, lambda x: x[..., None] * np.eye(64)),
    "_linalg_extracttrian": ([normal(3, 64, 64)], {}, lambda x: x[:, ROWS, COLUMNS]),
    "_linalg_maketrian": ([normal(3, len(ROWS))], {}, _lower_triangle),
    "sum": ([M], {"axis": 0}, lambda x: x.sum(0)),
    "sum, of all": ([M], {}, lambda x: x.sum().reshape(1)),
    "mean": ([M], {"axis": 1}, lambda x: x.mean(1)),
    "add_n": ([M] * 8, {}, lambda *arrays: sum(arrays)),
    "Concat": ([M, M], {"dim": 1}, lambda x, y: np.concatenate([x, y], 1)),
    "_npi_concatenate": ([M, M], {"axis": 1}, lambda x, y: np.concatenate([x, y], 1)),
    "stack": ([M, M], {"axis": 0}, lambda x, y: np.stack([x, y])),
    "Reshape": ([M], {"shape": (64, 400)}, lambda x: x.reshape(64, 400)),
    "_np_reshape": ([M], {"newshape": (64, 400)}, lambda x: x.reshape(64, 400)),
    "reshape_like": ([M, normal(64, 400)], {}, lambda x, y: x.reshape(64, 400)),
    "transpose": ([normal(8, 50, 64)], {"axes": (2, 0, 1)}, lambda x: x.transpose(2, 0, 1)),
    "broadcast_to": ([normal(1, 64)], {"shape": BIG}, lambda x: np.broadcast_to(x, BIG)),
    "slice": ([M], {"begin": (10, 3), "end": (390, 60)}, lambda x: x[10:390, 3:60]),
    "slice_axis": ([M], {"axis": 0, "begin": 7, "end": 300}, lambda x: x[7:300]),
    "SliceChannel": ([M], {"num_outputs": 4, "axis": 1}, lambda x: np.split(x, 4, 1)),
    "Cast": ([integers(9, *BIG)], {"dtype": "float32"}, lambda x: x),
    "where": ([integers(2, *BIG), M, M], {}, lambda c, x, y: np.where(c, x, y)),
    "take": ([M, integers(400, 70)], {"mode": "clip"}, lambda x, positions: x[positions.astype(int)]),
    "pick": ([M, integers(64, 400)], {}, lambda x, index: x[np.arange(400), index.astype(int)]),
    "norm": ([M], {"axis": 1}, lambda x: np.linalg.norm(x, axis=1)),
    "norm, absolute": ([M], {"ord": 1, "axis": 0}, lambda x: np.abs(x).sum(0)),
    "adam_update": ([M, M, M, uniform(0.1, 1)], {"lr": 0.1}, _adam),
    "softmax": ([M], {}, lambda x: special.softmax(x, -1)),
    "log_softmax": ([M], {}, lambda x: special.log_softmax(x, -1)),
    "LayerNorm": ([M, V, V], {}, _layer_norm),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operators(name, dtype):
    inputs, attributes, function = OTHERS[name]
    assert_follows([(name.split(",")[0], len(inputs) - 1, attributes)], inputs, function, dtype)


def test_every_operator_that_a_program_may_hold_is_here():
    folder = Path(mxfusion_mvn.compiler.__file__).parent
    text = "".join(path.read_text() for path in folder.rglob("*.py"))
    emitted = set(re.findall(r'\b(?:call|self\.add|builder\.add)\(\s*"(\w+)"', text))
    tested = {*UNARY, "Activation", *OF_EQUAL_SHAPES.values(), *(f"broadcast_{name}" for name in BINARY)}
    tested |= {name.split(",")[0] for name in OTHERS}
    assert "FullyConnected" in emitted
    assert (set(ADJOINTS) | emitted) - tested == set()


# What libraries fuse

DENSE, WEIGHT = ("FullyConnected", 2, {"num_hidden": 64}), normal(64, 64)
RELU, TANH = (("Activation", 0, {"act_type": kind}) for kind in ("relu", "tanh"))
TRANSPOSED = ("transpose", 0, {"axes": (1, 0)})


def _convolved(x, weight, bias):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias[:, None, None]


def _pooled(x):
    """The maxima of 2 x 2 entries."""
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).max((3, 5))


CONVOLUTION = ("Convolution", 2, {"kernel": (3, 3), "num_filter": 16})
FILTERS = [normal(4, 8, 14, 14), normal(16, 8, 3, 3), normal(16)]
CHAINS = {
    "dense, relu": ([DENSE, RELU], [M, WEIGHT, V], lambda x, w, b: np.maximum(x @ w.T + b, 0)),
    "dense, tanh, dense": (
        [DENSE, TANH, DENSE],
        [M, WEIGHT, V, WEIGHT, V],
        lambda x, w, b, u, c: np.tanh(x @ w.T + b) @ u.T + c,
    ),
    "dense, sum": ([DENSE, ("elemwise_add", 1, {})], [M, WEIGHT, V, M], lambda x, w, b, y: x @ w.T + b + y),
    "product, dense": (
        [("dot", 1, {"transpose_b": True}), ("FullyConnected", 2, {"num_hidden": 40})],
        [M, normal(32, 64), normal(40, 32), normal(40)],
        lambda x, y, w, b: x @ y.T @ w.T + b,
    ),
    "numbers": (
        [("broadcast_mul", 1, {}), ("tanh", 0, {}), ("exp", 0, {}), ("_mul_scalar", 0, SCALAR), ("square", 0, {})],
        [M, M],
        lambda x, y: (0.3 * np.exp(np.tanh(x * y))) ** 2,
    ),
    "copies": ([("_copy", 0, {}), ("_np_reshape", 0, {"newshape": BIG}), ("_copy", 0, {})], [M], lambda x: x),
    "transposed twice": ([TRANSPOSED, TRANSPOSED], [M], lambda x: x),
    "softmax of a product": (
        [("dot", 1, {}), ("softmax", 0, {})],
        [M, WEIGHT],
        lambda x, y: special.softmax(x @ y, -1),
    ),
    "factor and solve": (
        [("_linalg_potrf", 0, {}), ("_linalg_trsm", 1, {})],
        [spd(64, 64), normal(64, 200)],
        lambda a, x: np.linalg.solve(np.linalg.cholesky((a + a.T) / 2), x),
    ),
    "convolution": ([CONVOLUTION], FILTERS, _convolved),
    "convolution, tanh, pooling": (
        [CONVOLUTION, TANH, ("Pooling", 0, {"kernel": (2, 2), "stride": (2, 2), "pool_type": "max"})],
        FILTERS,
        lambda *inputs: _pooled(np.tanh(_convolved(*inputs))),
    ),
    "convolution, flattened": (
        [CONVOLUTION, ("_np_reshape", 0, {"newshape": (4, -1)})],
        FILTERS,
        lambda *inputs: _convolved(*inputs).reshape(4, -1),
    ),
    "deconvolution": (
        [("Deconvolution", 1, {"kernel": (3, 3), "num_filter": 16, "no_bias": True})],
        [normal(4, 8, 10, 10), normal(8, 16, 3, 3)],
        lambda x, w: _convolved(
            np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2))), w.swapaxes(0, 1)[..., ::-1, ::-1], np.zeros(16)
        ),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_may_be_fused(name, dtype):
    steps, inputs, function = CHAINS[name]
    assert_follows(steps, inputs, function, dtype)


@pytest.mark.parametrize("name", ["dense, tanh, dense", "softmax of a product", "factor and solve", "convolution"])
def test_gradients_that_mxnet_finds(name, dtype):
    """Those of the sum of squares, against central differences along a random direction."""
    steps, inputs, function = CHAINS[name]
    random = np.random.RandomState(0)
    arrays = {f"input{i}": nd(make(random), dtype) for i, make in enumerate(inputs)}
    nodes = chain([*steps, ("square", 0, {}), ("sum", 0, {})], arrays)
    gradients = {key: mx.nd.zeros_like(array) for key, array in arrays.items()}
    loss = nodes[-1], 0
    program = Program(Graph(nodes, loss, loss), arrays, gradients, mx.cpu())
    for _ in range(RUNS):
        for array, make in zip(arrays.values(), inputs):
            array[:] = nd(make(random), dtype)
        program.run()
        values = [array.asnumpy().astype("float64") for array in arrays.values()]
        directions = [random.normal(size=value.shape) for value in values]
        if name == "factor and solve":  # whose gradient is that of symmetric matrices
            directions[0] = directions[0] + directions[0].T
        below, above = (
            np.sum(function(*(v + step * d for v, d in zip(values, directions))) ** 2) for step in (-1e-6, 1e-6)
        )
        found = [gradient.asnumpy().astype("float64") for gradient in gradients.values()]
        slope = sum(np.vdot(gradient, direction) for gradient, direction in zip(found, directions))
        size = np.sqrt(sum(np.sum(gradient**2) for gradient in found))
        assert np.abs(slope - (above - below) / 2e-6) <= SLOPE_TOLERANCE[dtype] * size
