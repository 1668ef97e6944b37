# SPDX-License-Identifier: Apache-2.0
"""The adjoints of functions of each number; see :mod:`~mxfusion_mvn.inference.compiler.derivatives.reverse`.

Where several numbers compete for a maximum, and where a function has no derivative, the values are those of MXNet's
autograd.
"""

import math

from mxfusion_mvn.inference.compiler.derivatives.arithmetic import binary, times, unary, unbroadcast, with_number
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, shape_of

import numpy as np

# From here on the derivative of log(1 + exp(x)) is 1 in float64.
_LARGE = 38.0
# Functions of each number of which MXNet has an operator that multiplies a gradient by the derivative; some take it
# from the function's argument, others from its value.
_OF_ARGUMENT = (
    "log log1p log2 log10 expm1 abs square rsqrt rcbrt reciprocal sin cos sinh arcsin arctan softsign erf gammaln "
    "gamma smooth_l1 _rdiv_scalar _power_scalar _maximum_scalar _minimum_scalar"
)
_OF_VALUE = "sqrt cbrt tan tanh sigmoid relu _rpower_scalar"


def _with_backward_operator(position):
    """The adjoint of a function of each number, by the position of what MXNet wants to know: argument or value."""

    def adjoint(rewriter, node, gradient):
        known = [node.inputs[0], (node, 0)][position]
        operator = f"_backward_{node.operator.lstrip('_')}"
        return [rewriter.call(operator, [gradient, known], node.shapes[0], node.attributes)]

    return adjoint


def _linear(slope):
    """The adjoint of a linear function of each number, by a function from its attribute to its slope."""

    def adjoint(rewriter, node, gradient):
        factor = slope(float(node.attributes.get("scalar", "nan")))
        return [times(rewriter, gradient, factor)]

    return adjoint


def _clip(rewriter, node, gradient):
    bounds = (("_greater_equal_scalar", "a_min"), ("_lesser_equal_scalar", "a_max"))
    for comparison, bound in bounds:
        inside = with_number(rewriter, comparison, node.inputs[0], float(node.attributes[bound]))
        gradient = _chosen(rewriter, inside, gradient)[0]
    return [gradient]


def _exponential(rewriter, node, gradient):
    return [times(rewriter, gradient, (node, 0))]


def _none(rewriter, node, gradient):
    return [None] * len(node.inputs)


def _same(rewriter, node, gradient):
    return [gradient] * len(node.inputs)


def _activation(rewriter, node, gradient):
    kind = node.attributes["act_type"]
    if kind == "softrelu":
        return [times(rewriter, gradient, unary(rewriter, "sigmoid", node.inputs[0]))]
    if kind in ("tanh", "sigmoid", "relu"):
        return [rewriter.call(f"_backward_{kind}", [gradient, (node, 0)], node.shapes[0])]
    return None


def _binary(adjoint):
    """The adjoint of a function of two arrays, from one that does not know of broadcasting."""

    def broadcasting(rewriter, node, gradient):
        parts = adjoint(rewriter, *node.inputs, (node, 0), gradient)
        return [unbroadcast(rewriter, part, shape_of(entry)) for part, entry in zip(parts, node.inputs)]

    return broadcasting


def _division(r, a, b, y, g):
    quotient = binary(r, "div", g, b)
    return quotient, times(r, times(r, quotient, y), -1.0)


def _power(r, a, b, y, g):
    base = times(r, times(r, g, b), binary(r, "power", a, with_number(r, "_minus_scalar", b, 1)))
    return base, times(r, times(r, g, y), unary(r, "log", a))


def _choice(first, second):
    """Of a maximum or minimum, by the comparisons that hold where the first and where the second of two is taken."""

    def adjoint(r, a, b, y, g):
        return [times(r, g, binary(r, comparison, a, b)) for comparison in (first, second)]

    return adjoint


_ADDITION = _binary(lambda r, a, b, y, g: (g, g))
_SUBTRACTION = _binary(lambda r, a, b, y, g: (g, times(r, g, -1.0)))
_MULTIPLICATION = _binary(lambda r, a, b, y, g: (times(r, g, b), times(r, g, a)))
_MAXIMUM = _binary(_choice("greater_equal", "lesser"))
_MINIMUM = _binary(_choice("lesser_equal", "greater"))


def _where(rewriter, node, gradient):
    condition, first, _ = node.inputs
    if _is_softplus(node):
        return [None, times(rewriter, gradient, unary(rewriter, "sigmoid", first)), None]
    if shape_of(condition) != node.shapes[0]:
        return None
    return [None, *_chosen(rewriter, condition, gradient)]


def _chosen(rewriter, condition, gradient):
    """The gradient where a condition holds, and where it does not, elsewhere zero, even if the gradient is infinite."""
    shape, dtype = shape_of(gradient), dtype_of(gradient)
    zeros = rewriter.constant(np.zeros(shape, dtype), dtype)
    pairs = (gradient, zeros), (zeros, gradient)
    return [rewriter.call("where", [condition, *values], shape, dtype=dtype.type) for values in pairs]


def _is_softplus(node):
    """Whether a choice is x where x > c, else log(1 + exp(min(x, c))), for a c so large that the slope is a sigmoid."""
    condition, first, other = node.inputs
    chain = [condition]
    for name in ("log1p", "exp", "_minimum_scalar"):
        if other[0].operator != name:
            return False
        chain.append(other)
        other = other[0].inputs[0]
    bounds = [entry[0].attributes.get("scalar") for entry in (condition, chain[-1])]
    is_choice = condition[0].operator == "_greater_scalar" and condition[0].inputs[0] == first == other
    return is_choice and bounds[0] == bounds[1] and float(bounds[0]) >= _LARGE


def _cast(rewriter, node, gradient):
    before = dtype_of(node.inputs[0])
    if before.kind != "f" or np.dtype(node.dtypes[0]).kind != "f":
        return None
    return [rewriter.call("Cast", [gradient], node.shapes[0], {"dtype": before.name}, before.type)]


_COMPARISONS = "greater lesser greater_equal lesser_equal equal not_equal".split()

NUMBERS = {
    **dict.fromkeys(_OF_ARGUMENT.split(), _with_backward_operator(0)),
    **dict.fromkeys(_OF_VALUE.split(), _with_backward_operator(1)),
    "exp": _exponential,
    "clip": _clip,
    "negative": _linear(lambda _: -1.0),
    "_mul_scalar": _linear(lambda number: number),
    "_div_scalar": _linear(lambda number: 1 / number if number else math.inf),
    "_plus_scalar": _same,
    "_minus_scalar": _same,
    "_rminus_scalar": _linear(lambda _: -1.0),
    **{f"_{name}_scalar": _none for name in _COMPARISONS},
    **{f"broadcast_{name}": _none for name in _COMPARISONS},
    **{f"_{name}": _none for name in _COMPARISONS},
    **dict.fromkeys(("sign", "floor", "ceil", "round", "logical_not", "ones_like", "zeros_like"), _none),
    "Activation": _activation,
    **dict.fromkeys(("broadcast_add", "elemwise_add"), _ADDITION),
    **dict.fromkeys(("broadcast_sub", "elemwise_sub"), _SUBTRACTION),
    **dict.fromkeys(("broadcast_mul", "elemwise_mul"), _MULTIPLICATION),
    **dict.fromkeys(("broadcast_div", "elemwise_div"), _binary(_division)),
    **dict.fromkeys(("broadcast_power", "_power"), _binary(_power)),
    **dict.fromkeys(("broadcast_maximum", "_maximum"), _MAXIMUM),
    **dict.fromkeys(("broadcast_minimum", "_minimum"), _MINIMUM),
    "add_n": _same,
    "_copy": _same,
    "where": _where,
    "Cast": _cast,
}
