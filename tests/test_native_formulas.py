# SPDX-License-Identifier: Apache-2.0
"""Each formula of the table of operators, as the native engine computes it, against NumPy and SciPy in float64."""

import re

from mxfusion_mvn.compiler.graph import Node
from mxfusion_mvn.compiler.native.views import Unknown
from mxfusion_mvn.compiler.operators import OPERATORS

import numpy as np
import pytest
from scipy import special

from helpers.native_graphs import Calls, applied, edges, ulps


@pytest.fixture(autouse=True)
def single(monkeypatch):
    """What MXNet computes in single precision is asked of the engine in float64, too; the rows of these operators."""
    rows = {name: row for name, row in OPERATORS.items() if row.is_single}
    for name, row in rows.items():
        monkeypatch.setitem(OPERATORS, name, row._replace(is_single=False))
    return rows


def test_what_mxnet_computes_in_single_precision_is_left_to_it(single, monkeypatch):
    for name, row in single.items():
        monkeypatch.setitem(OPERATORS, name, row)
        applied(name, [np.ones(3), np.ones(3)], "float32")
        with pytest.raises(Unknown, match=f"`{name}` in float64, because MXNet computes it in single precision"):
            applied(name, [np.ones(3), np.ones(3)], "float64")


ANY = (-100.0, 100.0)
DTYPES = ["float32", "float64"]
# Functions of one array: the right values, where they are compared, and the largest error in float32, in units of the
# last digit: the largest of 1.5 million arguments (a third of them of all sizes that there are), rounded up.
FUNCTIONS = {
    "_copy": (lambda a: a, ANY, 0),
    "negative": (np.negative, ANY, 0),
    "abs": (np.abs, ANY, 0),
    "sign": (lambda a: np.sign(a) + 0.0, ANY, 0),
    "floor": (np.floor, ANY, 0),
    "ceil": (np.ceil, ANY, 0),
    "square": (np.square, ANY, 0.5),
    "sqrt": (np.sqrt, (0.0, 100.0), 0.5),
    "rsqrt": (lambda a: 1 / np.sqrt(a), (0.0, 100.0), 1.5),
    "reciprocal": (np.reciprocal, ANY, 0.5),
    "exp": (np.exp, (-104.0, 89.0), 1.0),
    "expm1": (np.expm1, (-104.0, 89.0), 1.7),
    "log": (np.log, (0.0, 100.0), 0.8),
    "log1p": (np.log1p, (-1.0, 100.0), 2.3),
    "sin": (np.sin, ANY, 0.6),
    "cos": (np.cos, ANY, 0.6),
    "tanh": (np.tanh, ANY, 1.4),
    "arctan": (np.arctan, ANY, 0.6),
    "sigmoid": (special.expit, (-87.0, 100.0), 2.5),
    "relu": (lambda a: np.where(a > 0, a, 0), ANY, 0),
    "softrelu": (lambda a: np.logaddexp(0, a), (-87.0, 100.0), 3.0),
    "softsign": (lambda a: a / (1 + np.abs(a)), ANY, 1.5),
    "erf": (special.erf, ANY, 0.6),
    "gamma": (special.gamma, (0.1, 30.0), 0.6),
    "gammaln": (special.gammaln, (0.0, 100.0), 0.6),
    "digamma": (special.psi, (0.0, 100.0), 0.6),
}
# In float64 they are those of the C library; NumPy's and SciPy's have errors of their own.
FLOAT64_ULPS = {"sin": 4, "cos": 4, "erf": 4, "gamma": 20, "softrelu": 4, "tanh": 4}
_TWO = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "power": lambda a, b: np.abs(a) ** b,
}
_COMPARED = "greater less greater_equal less_equal equal not_equal".split()
_COMPARISONS = {name.replace("less", "lesser"): getattr(np, name) for name in _COMPARED}
_OLD = {"add": "_plus", "sub": "_minus"}
# Functions of two arrays.
BINARY = {f"broadcast_{name}": function for name, function in {**_TWO, **_COMPARISONS}.items()}
BINARY.update({_OLD.get(name, f"_{name}"): function for name, function in {**_TWO, **_COMPARISONS}.items()})
BINARY.update({f"elemwise_{name}": _TWO[name] for name in ("add", "sub", "mul", "div")})
# Functions of an array and a scalar.
SCALAR = {f"_{name}_scalar": function for name, function in {**_TWO, **_COMPARISONS}.items()}
SCALAR["_plus_scalar"], SCALAR["_minus_scalar"] = SCALAR.pop("_add_scalar"), SCALAR.pop("_sub_scalar")
SCALAR.update(
    _rminus_scalar=lambda a, s: s - a, _rdiv_scalar=lambda a, s: s / a, _rpower_scalar=lambda a, s: np.abs(s) ** a
)
# Derivatives times `a`, at an input or an output `b`.
BACKWARD = {
    "log": lambda a, b: a / b,
    "log1p": lambda a, b: a / (1 + b),
    "expm1": lambda a, b: a * np.exp(b),
    "abs": lambda a, b: a * np.sign(b),
    "square": lambda a, b: 2 * a * b,
    "sqrt": lambda a, b: a / (2 * b),
    "rsqrt": lambda a, b: -0.5 * a * b**-1.5,
    "reciprocal": lambda a, b: -a / b**2,
    "sin": lambda a, b: a * np.cos(b),
    "cos": lambda a, b: -a * np.sin(b),
    "arctan": lambda a, b: a / (1 + b**2),
    "softsign": lambda a, b: a / (1 + np.abs(b)) ** 2,
    "erf": lambda a, b: a * 2 / np.sqrt(np.pi) * np.exp(-(b**2)),
    "gamma": lambda a, b: a * special.gamma(b) * special.psi(b),
    "gammaln": lambda a, b: a * special.psi(b),
    "relu": lambda a, b: np.where(b > 0, a, 0),
    "tanh": lambda a, b: a * (1 - b**2),
    "sigmoid": lambda a, b: a * b * (1 - b),
}
BACKWARD_SCALAR = {
    "maximum": lambda a, b, s: np.where(b >= s, a, 0),
    "minimum": lambda a, b, s: np.where(b <= s, a, 0),
    "rdiv": lambda a, b, s: -a * s / b**2,
    "rpower": lambda a, b, s: a * b * np.log(s),
    "power": lambda a, b, s: a * s * b ** (s - 1),
}
OTHERS = ["identity", "clip", "where"]


def named(name):
    """The operator whose derivative a name stands for."""
    return f"_backward_{name}" if name in BACKWARD else f"_backward_{name}_scalar"


def computed(name, arrays, dtype, **attributes):
    if name != "digamma":  # which is a node of derivatives only, not an operator of MXNet
        kind = {"act_type": name} if name == "softrelu" else {}
        return applied("Activation" if kind else name, arrays, dtype, **kind, **attributes)[0]
    calls = Calls(dtype)
    source = calls.parameter(arrays[0])
    node = Node(name, [source], {}, [source.shape], [source.dtype])
    calls.nodes.append(node)
    return calls.run(node.entry())[0]


def arguments(rng, dtype, low, high):
    """Arguments of all sizes in a range, many of them near zero, one and the ends."""
    sizes = 10.0 ** rng.uniform(-37, 2, 5000)
    found = [
        rng.uniform(low, high, 20000),
        rng.uniform(-1.5, 1.5, 20000),
        sizes,
        -sizes,
        1 + rng.normal(size=5000) / 1e3,
    ]
    values = np.concatenate([*found, low + sizes, high - sizes]).astype(dtype)
    return values[(values >= low) & (values <= high) & (values != 0)]


def test_each_formula_is_tested():
    tested = {*FUNCTIONS, *BINARY, *SCALAR, *map(named, [*BACKWARD, *BACKWARD_SCALAR]), *OTHERS}
    assert tested == {name for name, row in OPERATORS.items() if row.formula}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_exact_to_a_few_units_of_the_last_digit(name, dtype, rng):
    function, (low, high), largest = FUNCTIONS[name]
    values = arguments(rng, dtype, low, high)
    got = computed(name, [values], dtype)
    with np.errstate(all="ignore"):
        distance = ulps(got, function(values.astype("float64")))
    if dtype == "float64" and largest:
        largest = FLOAT64_ULPS.get(name, 3)
    if name in ("gammaln", "digamma"):  # near their zeros, where SciPy's digits are few, relative to 1
        expected = function(values.astype("float64"))
        distance = np.abs(got - expected) / np.maximum(np.abs(expected), 1) / np.finfo(dtype).eps
        largest = max(largest, 12 * (dtype == "float64"))  # sums of ten terms
    assert distance.max() <= largest, values[np.argmax(distance)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*BINARY, *SCALAR])
def test_functions_of_two_numbers(name, dtype, rng):
    function = {**BINARY, **SCALAR}[name]
    a, b = rng.uniform(0.01, 9, (2, 3000)) * rng.choice([-1, 1], (2, 3000))
    a[::3] = b[::3]
    if "power" in name:
        a = np.abs(a)
    a, b = a.astype(dtype), b.astype(dtype)
    if name in SCALAR:
        scalar = 2.5
        a[::3] = scalar
        got = computed(name, [a], dtype, scalar=scalar)
        b = np.full_like(a, scalar)
    else:
        got = computed(name, [a, b], dtype)
    expected = np.asarray(function(a.astype("float64"), b.astype("float64")), "float64")
    exact = any(part in name for part in ("imum", "greater", "lesser", "equal"))
    assert ulps(got, expected).max() <= (0 if exact else 2 if "power" in name else 0.51 if dtype == "float32" else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*BACKWARD, *BACKWARD_SCALAR])
def test_derivatives(name, dtype, rng):
    a, b = rng.normal(size=3000), rng.uniform(0.1, 3, 3000) * rng.choice([-1, 1], 3000)
    if name in ("log", "sqrt", "rsqrt", "gamma", "gammaln", "power", "log1p"):
        b = np.abs(b)
    if name in ("tanh", "sigmoid"):
        b = rng.uniform(0, 1, 3000)
    a, b = a.astype(dtype), b.astype(dtype)
    attributes = {} if name in BACKWARD else {"scalar": 1.5}
    got = computed(named(name), [a, b], dtype, **attributes)
    a, b = a.astype("float64"), b.astype("float64")
    expected = BACKWARD[name](a, b) if name in BACKWARD else BACKWARD_SCALAR[name](a, b, 1.5)
    np.testing.assert_allclose(got, expected, rtol=1e-6 if dtype == "float32" else 2e-14, atol=1e-6 * 1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_where_and_copies(dtype):
    values = edges(dtype)
    a, b = np.repeat(values, len(values)), np.tile(values, len(values))
    assert np.array_equal(computed("identity", [a], dtype), a, equal_nan=True)
    for attributes in ({"a_min": -1.5, "a_max": 2.5}, {"a_min": 0.0, "a_max": 0.0}):
        got, expected = applied("clip", [a], dtype, **attributes)
        assert np.array_equal(got, expected, equal_nan=True)
    for condition in (0.0, -0.0, 1.0, np.nan):
        got, expected = applied("where", [np.full_like(a, condition), a, b], dtype)
        assert np.array_equal(got, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FUNCTIONS, *BINARY, *SCALAR])
def test_edges_are_those_of_mxnet(name, dtype):
    """Where it gives nan, infinities and zeros, of which sign, and within what is subnormal."""
    if name in ("digamma", "softrelu"):  # the one is no operator of MXNet, of the other it overflows
        assert np.isnan(computed(name, [[np.nan]], dtype)).all()
        assert computed(name, [[np.inf]], dtype) == np.inf
        return
    values = edges(dtype)
    a, b = np.repeat(values, len(values)), np.tile(values, len(values))
    scalars = [0.0, -0.0, 1.0, -2.0, 0.5, 3.7] if name in SCALAR else [None]
    for scalar in scalars:
        attributes = {} if scalar is None else {"scalar": scalar}
        got, expected = applied(name, [a] if name not in BINARY else [a, b], dtype, **attributes)
        for view in (np.isnan, np.isinf):
            assert np.array_equal(view(got), view(expected)), (scalar, a[view(got) != view(expected)])
        kept = ~np.isnan(got)
        differ = np.signbit(got) != np.signbit(expected)
        assert not differ[kept].any(), (scalar, a[kept & differ])
        finite = np.isfinite(got) & (np.abs(expected) >= 10 * np.finfo(dtype).tiny)
        np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_numbers_are_kept(dtype):
    tiny = np.finfo(dtype).tiny * np.array([0.75, -0.75, 1e-3, -1e-3])
    tiny = tiny.astype(dtype)
    for name in ("expm1", "log1p", "tanh", "sin", "arctan", "softsign", "_copy", "negative", "abs"):
        expected = FUNCTIONS[name][0](tiny.astype("float64")).astype(dtype)
        assert np.array_equal(computed(name, [tiny], dtype), expected), name
    assert np.array_equal(computed("exp", [np.array([-88.0, -95.0, -100.0])], "float32") > 0, [True] * 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [1, 2, 7, 9, 64])
def test_maps_of_all_strides(inner, dtype, rng):
    """Formulas of one, two and three arrays, of which each lies as it is, transposed, or is broadcast."""
    shape = (3, 5, inner)
    makes = [
        lambda calls, x: calls.parameter(x),
        lambda calls, x: calls.call("transpose", calls.parameter(x.transpose(2, 0, 1)), axes=(1, 2, 0)),
        lambda calls, x: calls.call("broadcast_to", calls.parameter(x[:1]), shape=shape),
        lambda calls, x: calls.call("broadcast_to", calls.parameter(x[..., :1]), shape=shape),
        lambda calls, x: calls.call("slice_axis", calls.parameter(np.concatenate([x, x])), axis=0, begin=3, end=6),
    ]
    calls, wanted = Calls(dtype), []
    for operator in ("sin", "elemwise_add", "where"):
        count = len(set(re.findall(r"\b[abc]\b", OPERATORS[operator].formula)))
        for chosen in np.ndindex(*[len(makes)] * count):
            wanted.append(calls.call(operator, *(makes[i](calls, rng.normal(size=shape)) for i in chosen)))
    for out, got in zip(wanted, calls.run(*wanted)):
        np.testing.assert_allclose(got, calls.values[out].asnumpy(), rtol=1e-6)
