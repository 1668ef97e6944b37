# SPDX-License-Identifier: Apache-2.0
"""The table of operators: everything that the compiler knows about an operator of MXNet, except its adjoint.

To add an operator, add a row here and an adjoint in ``derivatives``. An operator without a row is traced and run like
any other; but no rule applies to it, and without an adjoint MXNet finds the gradients of the whole graph.
"""

import ast
from typing import Any, Dict, List, NamedTuple, Optional, Tuple


class Operator(NamedTuple):
    """
    One row of the table.

    ``attributes`` are those that rules and adjoints read, with MXNet's defaults. The other columns are properties of
    the operator; positions are those of its inputs.
    """

    attributes: Dict[str, Any] = {}
    elementwise: bool = False  # a function of each entry of its one array
    backward_takes: Optional[str] = None  # what `_backward_x` takes beside a gradient: the "input" or the "output" of x
    zero_derivative: bool = False
    neutral: Optional[float] = None  # with this scalar the operator copies its array
    changes_shape_only: bool = False
    broadcasts_only: bool = False
    copies: bool = False  # if the shape stays the same
    reorders: bool = False  # entries only change places, so that their sum stays the same
    reduction: bool = False
    linear: Tuple[int, ...] = ()  # in these positions: scalars that multiply such an input multiply the output
    sign: int = 0  # the operator is a sum of two arrays, the second with this sign
    multiplication: bool = False  # entry by entry
    division: bool = False  # entry by entry
    product: bool = False  # the sum of its entries is a dot product, or one divided by a scalar
    event_axes: Optional[int] = None  # a function of each matrix of a batch: how many axes its value has
    matrix_product: bool = False  # of two batches of matrices, or a triangular solve
    factorisation: bool = False  # of a matrix, by LAPACK
    layer: bool = False  # a layer of a neural network, which MXNet divides among threads
    own_layout: bool = False  # oneDNN chooses the layout of its output, and other operators pass the layout on
    states: Tuple[int, ...] = ()  # in these positions: inputs that the operator updates in place
    training_only: bool = False  # it behaves differently in training, where an executor always is
    few_values: bool = False  # its draws have few values, so that two of them may be equal
    formula: Optional[str] = None  # of an entry of the output, for the native engine
    is_single: bool = False  # MXNet's results in float64 have the digits of float32


class Binary(NamedTuple):
    """Forms of a function of two arrays that are broadcast to each other."""

    equal_shapes: str
    scalar_right: Optional[str]
    scalar_left: Optional[str]
    fast_equal_shapes: Optional[str] = None  # if the fastest form is a different one

    @property
    def fastest(self):
        """The fastest form for equal shapes."""
        return self.fast_equal_shapes or self.equal_shapes


BINARY = {
    # MKLDNN takes long to set up elemwise_add.
    "broadcast_add": Binary("elemwise_add", "_plus_scalar", "_plus_scalar", "broadcast_add"),
    "broadcast_sub": Binary("elemwise_sub", "_minus_scalar", "_rminus_scalar"),
    "broadcast_mul": Binary("elemwise_mul", "_mul_scalar", "_mul_scalar"),
    "broadcast_div": Binary("elemwise_div", "_div_scalar", "_rdiv_scalar"),
    "broadcast_power": Binary("_power", "_power_scalar", "_rpower_scalar"),
    # With the scalar on the left MXNet gives the gradient of a tie to the scalar.
    "broadcast_maximum": Binary("_maximum", "_maximum_scalar", None),
    "broadcast_minimum": Binary("_minimum", "_minimum_scalar", None),
}
BROADCASTING = {forms.equal_shapes: name for name, forms in BINARY.items()}

OPERATORS: Dict[str, Operator] = {}


def _rows(names, **columns):
    for name in names.split():
        OPERATORS[name] = Operator(**columns)


_SCALAR = {"scalar": float("nan")}
_AXES = {"axis": None, "exclude": False, "keepdims": False}
_TRIANGLE = {"offset": 0, "lower": True}
_FACTOR = {"transpose": False, "rightside": False, "lower": True, "alpha": 1.0}

# Functions of each entry.
_rows(
    "abs rsqrt rcbrt reciprocal log log10 log2 log1p expm1 sin cos sinh arcsin arctan softsign erf gamma "
    "gammaln smooth_l1",
    elementwise=True,
    backward_takes="input",
)
_rows("square", elementwise=True, backward_takes="input", product=True)
_rows("sqrt cbrt tan tanh sigmoid relu", elementwise=True, backward_takes="output")
_rows("negative exp cosh arccos arcsinh arccosh arctanh hard_sigmoid erfinv digamma", elementwise=True)
_rows("BlockGrad Cast", elementwise=True)
_rows("sign floor ceil round logical_not", elementwise=True, zero_derivative=True)
_rows("ones_like zeros_like", zero_derivative=True)
_rows("Activation", attributes={"act_type": ""}, elementwise=True)
_rows("clip", attributes={"a_min": float("-inf"), "a_max": float("inf")}, elementwise=True)
# Functions of each entry and a scalar.
_rows("_rdiv_scalar _maximum_scalar _minimum_scalar", attributes=_SCALAR, elementwise=True, backward_takes="input")
_rows("_rpower_scalar", attributes=_SCALAR, elementwise=True, backward_takes="output")
_rows("_power_scalar", attributes=_SCALAR, elementwise=True, backward_takes="input", neutral=1.0)
_rows("_mul_scalar _div_scalar", attributes=_SCALAR, elementwise=True, neutral=1.0)
_rows("_plus_scalar _minus_scalar", attributes=_SCALAR, elementwise=True, neutral=0.0)
_rows("_rminus_scalar", attributes=_SCALAR, elementwise=True)
_COMPARISONS = "greater lesser greater_equal lesser_equal equal not_equal".split()
_rows(" ".join(f"_{name}_scalar" for name in _COMPARISONS), attributes=_SCALAR, elementwise=True, zero_derivative=True)
# Functions of two arrays, entry by entry.
_rows("elemwise_add broadcast_add", sign=1)
_rows("elemwise_sub broadcast_sub", sign=-1)
_rows("elemwise_mul broadcast_mul", multiplication=True, product=True, linear=(0, 1))
_rows("elemwise_div broadcast_div", division=True, product=True, linear=(0,))
_rows(" ".join(f"broadcast_{name} _{name}" for name in _COMPARISONS), zero_derivative=True)
# Functions of two arrays that MXNet broadcasts to each other.
BROADCASTING_BINARY = [*BINARY, *(f"broadcast_{name}" for name in _COMPARISONS)]
# Functions of axes.
_rows("expand_dims squeeze Flatten", changes_shape_only=True)
# Scalars do not move outward through a reshape: that itself moves outward through a multiplication.
_rows("Reshape", attributes={"shape": ()}, reorders=True)
_rows("_np_reshape", attributes={"newshape": ()})
_rows("transpose", attributes={"axes": ()}, reorders=True, linear=(0,))
_rows("SwapAxis", attributes={"dim1": 0, "dim2": 0}, reorders=True)
_rows("reverse", reorders=True)
_rows("_copy", copies=True, reorders=True, linear=(0,))
_rows("broadcast_axis broadcast_like", broadcasts_only=True)
_rows("broadcast_to", attributes={"shape": ()})
_rows("sum mean", attributes=_AXES, reduction=True, linear=(0,))
_rows("max min prod", attributes=_AXES, reduction=True)
_rows("slice_axis", attributes={"axis": 0, "begin": 0, "end": None}, copies=True, linear=(0,))
_rows("slice", attributes={"begin": (), "end": (), "step": ()})
_rows("SliceChannel", attributes={"num_outputs": 0, "axis": 1, "squeeze_axis": False})
_rows("Concat", attributes={"dim": 1})
_rows("stack", attributes={"axis": 0})
_rows("take", attributes={"axis": 0, "mode": "clip"})
_rows("pick", attributes={"axis": -1, "mode": "clip"})
_rows("norm", attributes={**_AXES, "ord": 2})
_rows("softmax log_softmax", attributes={"axis": -1, "temperature": None})
# Functions of matrices.
_SIDES = {"transpose_a": False, "transpose_b": False}
_rows("dot", attributes=_SIDES, linear=(0, 1))
_rows("batch_dot", attributes=_SIDES, linear=(0, 1), matrix_product=True)
_rows("_linalg_gemm2", attributes={**_SIDES, "alpha": 1.0, "axis": -2}, linear=(0, 1), matrix_product=True)
_rows("_linalg_gemm", matrix_product=True)
_rows("_linalg_syrk", attributes={"transpose": False, "alpha": 1.0}, matrix_product=True)
_rows("_linalg_trsm", attributes=_FACTOR, linear=(1,), matrix_product=True)
_rows("_linalg_trmm", attributes=_FACTOR, linear=(0, 1), matrix_product=True)
_rows("_linalg_potrf _linalg_potri", attributes={"lower": True}, event_axes=2, factorisation=True)
_rows("_linalg_syevd _linalg_gelqf _linalg_inverse", factorisation=True)
_rows("_linalg_sumlogdiag", event_axes=0)
_rows("_linalg_extractdiag", attributes={"offset": 0}, event_axes=1, linear=(0,))
_rows("_linalg_makediag", attributes={"offset": 0}, linear=(0,))
_rows("_linalg_extracttrian _linalg_maketrian", attributes=_TRIANGLE, linear=(0,))
_rows("FullyConnected", attributes={"num_hidden": 0, "no_bias": False, "flatten": True})
_rows("Convolution Deconvolution", layer=True, own_layout=True)
# Operators with states, or that behave differently in training.
_rows("BatchNorm", states=(3, 4), training_only=True)
_rows("_contrib_SyncBatchNorm", states=(3, 4))
_rows("RNN", layer=True, training_only=True)
_rows("Dropout", training_only=True, few_values=True)

# Formulas in C, of the entries `a`, `b` and `c` of the inputs and of the attribute `scalar`, `s`; those of clip are `s`
# and `t`. `one`, `half` and `zero` have the type of the entries; pick(condition, yes, no) becomes a vector instruction.
# A nan stays one, as in MXNet.
_FORMULAS = """
identity _copy: a
elemwise_add broadcast_add _plus: a + b
elemwise_sub broadcast_sub _minus: a - b
elemwise_mul broadcast_mul _mul: a * b
elemwise_div broadcast_div _div _backward_log: a / b
_maximum broadcast_maximum: pick(a > b, a, pick(a == a, b, a))
_minimum broadcast_minimum: pick(a < b, a, pick(a == a, b, a))
_power broadcast_power: pow(a, b)
_greater broadcast_greater: pick(a > b, one, zero)
_lesser broadcast_lesser: pick(a < b, one, zero)
_greater_equal broadcast_greater_equal: pick(a >= b, one, zero)
_lesser_equal broadcast_lesser_equal: pick(a <= b, one, zero)
_equal broadcast_equal: pick(a == b, one, zero)
_not_equal broadcast_not_equal: pick(a != b, one, zero)
_plus_scalar: a + s
_minus_scalar: a - s
_rminus_scalar: s - a
_mul_scalar: a * s
_div_scalar: a / s
_rdiv_scalar: s / a
_maximum_scalar: pick(a <= s, s, a)
_minimum_scalar: pick(a >= s, s, a)
_power_scalar: pow(a, s)
_rpower_scalar: pow(s, a)
_greater_scalar: pick(a > s, one, zero)
_lesser_scalar: pick(a < s, one, zero)
_greater_equal_scalar: pick(a >= s, one, zero)
_lesser_equal_scalar: pick(a <= s, one, zero)
_equal_scalar: pick(a == s, one, zero)
_not_equal_scalar: pick(a != s, one, zero)
clip: pick(a < s, s, pick(a > t, t, a))
where: pick(a != zero, b, c)
negative: -a
abs: fabs(a)
sign: pick(a > zero, one, pick(a < zero, -one, zero))
floor: floor(a)
ceil: ceil(a)
square: a * a
sqrt: sqrt(a)
rsqrt: one / sqrt(a)
reciprocal: one / a
exp: exp(a)
expm1: expm1(a)
log: log(a)
log1p: log1p(a)
sin: sin(a)
cos: cos(a)
tanh: tanh(a)
arctan: atan(a)
sigmoid: one / (one + exp(-a))
relu: pick(a <= zero, zero, a)
softrelu: pick(a > zero, a + log1p(exp(-a)), log1p(exp(a)))
softsign: a / (one + fabs(a))
erf: erf(a)
gamma: tgamma(a)
gammaln: log_gamma(a)
digamma: digamma(a)
_backward_log1p: a / (one + b)
_backward_expm1: a * exp(b)
_backward_abs: a * pick(b > zero, one, pick(b < zero, -one, zero))
_backward_square: (a + a) * b
_backward_sqrt: a * (half / b)
_backward_rsqrt: -half * a / (b * sqrt(b))
_backward_reciprocal: -a / (b * b)
_backward_sin: a * cos(b)
_backward_cos: -a * sin(b)
_backward_arctan: a / (one + b * b)
_backward_softsign: a / ((one + fabs(b)) * (one + fabs(b)))
_backward_erf: a * (T)1.1283791670955126 * exp(-b * b)
_backward_gammaln: a * digamma(b)
_backward_gamma: a * (tgamma(b) * digamma(b))
_backward_relu: pick(b > zero, a, zero)
_backward_tanh: a * ((one - b) * (one + b))
_backward_sigmoid: a * (b * (one - b))
_backward_maximum_scalar: pick(b >= s, a, zero)
_backward_minimum_scalar: pick(b <= s, a, zero)
_backward_rdiv_scalar: -a * s / (b * b)
_backward_rpower_scalar: a * (b * log(s))
_backward_power_scalar: a * s * pow(b, s - one)
"""
for _line in _FORMULAS.strip().splitlines():
    _names, _formula = _line.split(": ")
    for _name in _names.split():
        OPERATORS[_name] = OPERATORS.get(_name, Operator())._replace(formula=_formula)
for _name in ("_backward_gammaln", "_backward_gamma"):
    OPERATORS[_name] = OPERATORS[_name]._replace(is_single=True)
# Each formula has a number, its position here; the native engine is built from this list.
FORMULAS = list(dict.fromkeys(row.formula for row in OPERATORS.values() if row.formula))

# Operators that MXFusion wrote in Python, and those of MXNet that compute the same.
NATIVE = {"make_diagonal": "_linalg_makediag"}
COMMUTATIVE = ("elemwise_add", "elemwise_mul", "broadcast_add", "broadcast_mul")

_UNKNOWN = Operator()
_RANDOM = ("_random_", "random_", "_sample_", "sample_", "_shuffle", "Dropout")
_DENSITIES = ("_random_pdf_", "random_pdf_")
_FEW_VALUES = ("poisson", "binomial", "multinomial", "bernoulli", "randint", "shuffle")


def traits(name):
    """
    The row of an operator.

    :param name: its registered name.
    :returns: :class:`Operator`, one with nothing in it if the table has none.
    """
    return OPERATORS.get(name, _UNKNOWN)


def having(*columns) -> List[str]:
    """
    Names of the operators for which one of some columns is set.

    :param columns: names of columns.
    :returns: list of strings.
    """
    return [name for name, row in OPERATORS.items() if any(getattr(row, column) for column in columns)]


def is_random(name):
    """
    Whether an operator draws random numbers.

    :param name: its name.
    :returns: a bool.
    """
    return name.startswith(_RANDOM) and not name.startswith(_DENSITIES)


def has_few_values(name):
    """
    Whether the draws of a random operator have so few values that two draws may be equal.

    :param name: its name.
    :returns: a bool.
    """
    return traits(name).few_values or any(few in name for few in _FEW_VALUES)


def decoded(operator, name, attributes):
    """
    The value of an attribute.

    :param operator: the name of the operator.
    :param name: the name of the attribute, one of the operator's row.
    :param attributes: dict from name to string.
    :returns: a value of the type of MXNet's default; that default if the attribute is not set.
    """
    default = traits(operator).attributes[name]
    text = attributes.get(name)
    if text is None:
        return default
    if isinstance(default, bool):
        return text in ("True", "1")
    return type(default)(text) if isinstance(default, (str, int, float)) else ast.literal_eval(text)


def reduced_axes(node):
    """
    The axes that a reduction goes over.

    :param node: a :class:`~mxfusion_mvn.compiler.graph.Node` of ``sum`` or another reduction.
    :returns: set of int.
    """
    ndim = len(node.inputs[0].shape)
    axes = (node["axis"],) if isinstance(node["axis"], int) else node["axis"] or ()
    if not axes:
        return set(range(ndim))  # with `exclude`, too
    axes = {axis % ndim for axis in axes}
    return set(range(ndim)) - axes if node["exclude"] else axes
