# SPDX-License-Identifier: Apache-2.0
"""The adjoints of elementwise functions; see :mod:`~mxfusion_mvn.compiler.derivatives.reverse`.

Where several entries compete for a maximum, and where a function has no derivative, the values are those of MXNet's
autograd.
"""

import math

from mxfusion_mvn.compiler.derivatives.arithmetic import adjoint, binary, times, unary, unbroadcast, with_scalar
from mxfusion_mvn.compiler.operators import OPERATORS, having

import numpy as np

# From here on the derivative of log(1 + exp(x)) is 1 in float64.
_LARGE = 38.0


@adjoint(*(name for name, row in OPERATORS.items() if row.backward_takes))
def _with_backward_operator(rewriter, node, gradient):
    """By MXNet's own backward operator, which multiplies a gradient by the derivative."""
    known = node.inputs[0] if OPERATORS[node.operator].backward_takes == "input" else node.entry()
    operator = f"_backward_{node.operator.lstrip('_')}"
    return [rewriter.call(operator, [gradient, known], node.shape, node.attributes)]


@adjoint("negative", "_rminus_scalar", "_mul_scalar", "_div_scalar")
def _linear(rewriter, node, gradient):
    if node.operator in ("negative", "_rminus_scalar"):
        slope = -1.0
    elif node.operator == "_mul_scalar":
        slope = node["scalar"]
    else:
        slope = 1 / node["scalar"] if node["scalar"] else math.inf
    return [times(rewriter, gradient, slope)]


@adjoint("clip")
def _clip(rewriter, node, gradient):
    bounds = (("_greater_equal_scalar", "a_min"), ("_lesser_equal_scalar", "a_max"))
    for comparison, bound in bounds:
        inside = with_scalar(rewriter, comparison, node.inputs[0], node[bound])
        gradient = _chosen(rewriter, inside, gradient)[0]
    return [gradient]


@adjoint("exp")
def _exponential(rewriter, node, gradient):
    return [times(rewriter, gradient, node.entry())]


@adjoint(*having("zero_derivative"))
def _none(rewriter, node, gradient):
    return [None] * len(node.inputs)


@adjoint("_plus_scalar", "_minus_scalar", "add_n", "_copy")
def _same(rewriter, node, gradient):
    return [gradient] * len(node.inputs)


@adjoint("Activation")
def _activation(rewriter, node, gradient):
    kind = node["act_type"]
    if kind == "softrelu":
        return [times(rewriter, gradient, unary(rewriter, "sigmoid", node.inputs[0]))]
    if kind in ("tanh", "sigmoid", "relu"):
        return [rewriter.call(f"_backward_{kind}", [gradient, node.entry()], node.shape)]
    return None


def _binary(*operators):
    """Declare the adjoint of a function of two arrays: the decorated function gives both gradients, broadcast."""

    def declare(gradients):
        def broadcasting(rewriter, node, gradient):
            parts = gradients(rewriter, *node.inputs, node.entry(), gradient)
            return [unbroadcast(rewriter, part, entry.shape) for part, entry in zip(parts, node.inputs)]

        adjoint(*operators)(broadcasting)
        return gradients

    return declare


@_binary("broadcast_add", "elemwise_add")
def _addition(r, a, b, y, g):
    return g, g


@_binary("broadcast_sub", "elemwise_sub")
def _subtraction(r, a, b, y, g):
    return g, times(r, g, -1.0)


@_binary("broadcast_mul", "elemwise_mul")
def _multiplication(r, a, b, y, g):
    return times(r, g, b), times(r, g, a)


@_binary("broadcast_div", "elemwise_div")
def _division(r, a, b, y, g):
    quotient = binary(r, "div", g, b)
    return quotient, times(r, times(r, quotient, y), -1.0)


@_binary("broadcast_power", "_power")
def _power(r, a, b, y, g):
    base = times(r, times(r, g, b), binary(r, "power", a, with_scalar(r, "_minus_scalar", b, 1)))
    return base, times(r, times(r, g, y), unary(r, "log", a))


@_binary("broadcast_maximum", "_maximum")
def _maximum(r, a, b, y, g):
    return times(r, g, binary(r, "greater_equal", a, b)), times(r, g, binary(r, "lesser", a, b))


@_binary("broadcast_minimum", "_minimum")
def _minimum(r, a, b, y, g):
    return times(r, g, binary(r, "lesser_equal", a, b)), times(r, g, binary(r, "greater", a, b))


@adjoint("where")
def _where(rewriter, node, gradient):
    condition, first, _ = node.inputs
    if _is_softplus(node):
        return [None, times(rewriter, gradient, unary(rewriter, "sigmoid", first)), None]
    if condition.shape != node.shape:
        return None
    return [None, *_chosen(rewriter, condition, gradient)]


def _chosen(rewriter, condition, gradient):
    """The gradient where a condition holds, and where it does not; zero elsewhere, even where it is infinite."""
    shape, dtype = gradient.shape, gradient.dtype
    zeros = rewriter.constant(np.zeros(shape, dtype), dtype)
    pairs = (gradient, zeros), (zeros, gradient)
    return [rewriter.call("where", [condition, *values], shape, dtype=dtype) for values in pairs]


def _is_softplus(node):
    """Whether a choice is softplus: x where x > c, else log(1 + exp(min(x, c))), c so large that its slope is 1."""
    condition, first, other = node.inputs
    chain = [condition]
    for name in ("log1p", "exp", "_minimum_scalar"):
        if other.node.operator != name:
            return False
        chain.append(other)
        other = other.inputs[0]
    bounds = [entry.node.attributes.get("scalar") for entry in (condition, chain[-1])]
    is_choice = condition.node.operator == "_greater_scalar" and condition.inputs[0] == first == other
    return is_choice and bounds[0] == bounds[1] and float(bounds[0]) >= _LARGE


@adjoint("Cast")
def _cast(rewriter, node, gradient):
    before = node.inputs[0].dtype
    if before.kind != "f" or node.dtype.kind != "f":
        return None
    return [rewriter.call("Cast", [gradient], node.shape, {"dtype": before.name}, before)]
