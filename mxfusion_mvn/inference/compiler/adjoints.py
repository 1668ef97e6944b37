# SPDX-License-Identifier: Apache-2.0
"""The adjoints of operators on numbers and axes: how the gradient of an output becomes those of the inputs.

An adjoint is a function of the rewriter that makes the nodes, the node, and the entry of the gradient of its output (a
list of them, or None, for a node of several outputs). It returns a list of entries, one for each input: None where no
gradient passes. Each gradient has the shape of its input. Where several numbers compete for a maximum, and where a
function has no derivative, the values are those of MXNet's autograd.
"""

import ast
import math

from mxfusion_mvn.inference.compiler.graph import Node
from mxfusion_mvn.inference.compiler.lowering import reduced_axes
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, shape_of, size_of

import numpy as np

_TRUE = ("True", "1")
# From here on the derivative of log(1 + exp(x)) is 1 in float64.
_LARGE = 38.0


def binary(rewriter, operator, left, right):
    """
    A function of two arrays, broadcast to each other.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param operator: its name without ``broadcast_``.
    :param left: entry.
    :param right: entry.
    :returns: an entry.
    """
    shape = np.broadcast_shapes(shape_of(left), shape_of(right))
    return rewriter.call(f"broadcast_{operator}", [left, right], shape)


def times(rewriter, left, right):
    """
    A product of two arrays, broadcast to each other.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param left: entry.
    :param right: entry, or a number.
    :returns: an entry.
    """
    if isinstance(right, float):
        return with_number(rewriter, "_mul_scalar", left, right)
    return binary(rewriter, "mul", left, right)


def unary(rewriter, operator, entry):
    """
    A function of each number.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param operator: its name.
    :param entry: entry.
    :returns: an entry.
    """
    return rewriter.call(operator, [entry], shape_of(entry))


def with_number(rewriter, operator, entry, number):
    """
    A function of an array and a number.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param operator: its name.
    :param entry: entry.
    :param number: a float.
    :returns: an entry.
    """
    return rewriter.call(operator, [entry], shape_of(entry), {"scalar": repr(float(number))})


def unbroadcast(rewriter, gradient, shape):
    """
    The gradient of what was broadcast.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param gradient: entry: that of the broadcast array.
    :param shape: the shape before, aligned to the right.
    :returns: an entry of that shape.
    """
    full = shape_of(gradient)
    padded = (1,) * (len(full) - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, (own, size) in enumerate(zip(padded, full)) if own != size)
    if axes:
        rest = tuple(size for axis, size in enumerate(full) if axis not in axes) or (1,)
        gradient = rewriter.call("sum", [gradient], rest, {"axis": axes})
    return rewriter.reshaped(gradient, shape)


def scalar_of(node):
    """
    The number of an operator with a number.

    :param node: :class:`~mxfusion_mvn.inference.compiler.graph.Node`.
    :returns: a float.
    """
    return float(node.attributes["scalar"])


def is_true(node, name):
    """
    Whether an attribute of a node is set.

    :param node: :class:`~mxfusion_mvn.inference.compiler.graph.Node`.
    :param name: the name of the attribute.
    :returns: a bool.
    """
    return node.attributes.get(name, "False") in _TRUE


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


def _reshape(rewriter, node, gradient):
    return [rewriter.reshaped(gradient, shape_of(node.inputs[0])), *[None] * (len(node.inputs) - 1)]


def _transpose(rewriter, node, gradient):
    axes = ast.literal_eval(node.attributes.get("axes", "()")) or range(len(node.shapes[0]))[::-1]
    back = tuple(int(axis) for axis in np.argsort([axis % len(node.shapes[0]) for axis in axes]))
    return [rewriter.call("transpose", [gradient], shape_of(node.inputs[0]), {"axes": back})]


def _broadcast(rewriter, node, gradient):
    return [unbroadcast(rewriter, gradient, shape_of(node.inputs[0]))]


def _sum(rewriter, node, gradient):
    shape, axes = shape_of(node.inputs[0]), reduced_axes(node)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if node.operator == "mean":
        gradient = times(rewriter, gradient, size_of((node, 0)) / size_of(node.inputs[0]))
    return [rewriter.broadcast(rewriter.reshaped(gradient, kept), shape)]


def _slice_axis(rewriter, node, gradient):
    shape, axis = shape_of(node.inputs[0]), int(node.attributes["axis"])
    begin = int(node.attributes["begin"])
    return [_padded(rewriter, gradient, axis % len(shape), begin % shape[axis], shape)]


def _slice(rewriter, node, gradient):
    shape = shape_of(node.inputs[0])
    begins, steps = (ast.literal_eval(node.attributes.get(name, "()")) for name in ("begin", "step"))
    if any(step not in (None, 1) for step in steps):
        return None
    for axis, begin in enumerate(begins):
        begin = begin or 0
        gradient = _padded(rewriter, gradient, axis, begin if begin >= 0 else max(begin + shape[axis], 0), shape)
    return [gradient]


def _padded(rewriter, gradient, axis, begin, shape):
    """Zeros on both sides, up to the size of an axis."""
    own = shape_of(gradient)
    parts = [_zeros(rewriter, gradient, own[:axis] + (begin,) + own[axis + 1 :]), gradient]
    parts.append(_zeros(rewriter, gradient, own[:axis] + (shape[axis] - begin - own[axis],) + own[axis + 1 :]))
    return _joined(rewriter, [part for part in parts if part is not None], axis)


def _zeros(rewriter, like, shape):
    return rewriter.constant(np.zeros(shape, dtype_of(like)), dtype_of(like)) if 0 not in shape else None


def _joined(rewriter, parts, axis):
    if len(parts) == 1:
        return parts[0]
    first = shape_of(parts[0])
    size = sum(shape_of(part)[axis] for part in parts)
    return rewriter.call("Concat", parts, first[:axis] + (size,) + first[axis + 1 :], {"dim": axis})


def _split(rewriter, node, gradients):
    if is_true(node, "squeeze_axis"):
        return None
    axis = int(node.attributes.get("axis", "1")) % len(node.shapes[0])
    gradients = gradients if isinstance(gradients, list) else [gradients]
    parts = [
        _zeros(rewriter, node.inputs[0], shape) if gradient is None else gradient
        for gradient, shape in zip(gradients, node.shapes)
    ]
    return [_joined(rewriter, parts, axis)]


def _concat(rewriter, node, gradient):
    axis = int(node.attributes.get("dim", "1")) % len(node.shapes[0])
    return _pieces(rewriter, gradient, axis, [shape_of(entry) for entry in node.inputs])


def _stack(rewriter, node, gradient):
    axis = int(node.attributes.get("axis", "0")) % len(node.shapes[0])
    shape = shape_of(node.inputs[0])
    kept = shape[:axis] + (1,) + shape[axis:]
    pieces = _pieces(rewriter, gradient, axis, [kept] * len(node.inputs))
    return [rewriter.reshaped(piece, shape) for piece in pieces]


def _pieces(rewriter, gradient, axis, shapes):
    if len(set(shapes)) == 1 and len(shapes) > 1:
        attributes = {"num_outputs": str(len(shapes)), "axis": str(axis)}
        node = Node("SliceChannel", [gradient], attributes, shapes, [dtype_of(gradient).type] * len(shapes))
        split = rewriter.add(node)[0]
        return [(split, index) for index in range(len(shapes))]
    pieces, begin = [], 0
    for shape in shapes:
        attributes = {"axis": axis, "begin": begin, "end": begin + shape[axis]}
        pieces.append(rewriter.call("slice_axis", [gradient], shape, attributes))
        begin += shape[axis]
    return pieces


_COMPARISONS = "greater lesser greater_equal lesser_equal equal not_equal".split()

ADJOINTS = {
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
    **dict.fromkeys(("Reshape", "_np_reshape", "reshape_like"), _reshape),
    "transpose": _transpose,
    "broadcast_to": _broadcast,
    **dict.fromkeys(("sum", "mean"), _sum),
    "slice_axis": _slice_axis,
    "slice": _slice,
    "SliceChannel": _split,
    "Concat": _concat,
    "stack": _stack,
}
