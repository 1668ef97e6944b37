# SPDX-License-Identifier: Apache-2.0
"""Rules for numbers that multiply arrays: they move outward, where they meet others, and are multiplied once.

Gradients are full of them::

    f(c x) = c f(x) for linear f        <c x, y> = c <x, y>        c x + c y = c (x + y)        x + x = 2 x

At last they go into constants, and into the numbers that products of matrices are multiplied by anyway.
"""

import functools
from collections import Counter

from mxfusion_mvn.inference.compiler.graph import CONSTANT, leaf, live_graph
from mxfusion_mvn.inference.compiler.rewriter import is_operator, shape_of, size_of
from mxfusion_mvn.inference.compiler.rules.lowering import reduced_axes

import numpy as np

# Not through a reshape: that itself moves outward through a multiplication, and is looked through.
_LINEAR = {"transpose", "sum", "mean", "slice_axis", "add_n", "_copy"} | {
    f"_linalg_{name}" for name in ("maketrian", "extracttrian", "makediag", "extractdiag")
}
# Which inputs a product is linear in.
_PRODUCTS = {
    "elemwise_mul": (0, 1),
    "broadcast_mul": (0, 1),
    "elemwise_div": (0,),
    "broadcast_div": (0,),
    "dot": (0, 1),
    "batch_dot": (0, 1),
    "_linalg_gemm2": (0, 1),
    "_linalg_trsm": (1,),
    "_linalg_trmm": (0, 1),
}
_ON_MATRICES = ("batch_dot", "_linalg_gemm2", "_linalg_trsm", "_linalg_trmm")
_ADDITIONS = ("elemwise_add", "broadcast_add")
_SUBTRACTIONS = ("elemwise_sub", "broadcast_sub")
_SCALED = ("_linalg_gemm2", "_linalg_trsm", "_linalg_trmm", "_linalg_syrk")
# An array of up to so many numbers takes no longer to multiply than one of a few.
_SMALL = 500


def _split(entry):
    """A number and an array whose product is an entry."""
    node = entry[0]
    if node.operator == "negative":
        return -1.0, node.inputs[0]
    if node.operator == "_mul_scalar":
        return float(node.attributes["scalar"]), node.inputs[0]
    return 1.0, entry


def _factored(rewriter, entry):
    """The same, also behind a reshape."""
    number, array = _split(entry[0].inputs[0] if is_operator(entry, "Reshape") else entry)
    return number, entry if number == 1 else rewriter.reshaped(array, shape_of(entry))


def scaled(rewriter, entry, number):
    """
    An array times a number.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param entry: entry.
    :param number: a float.
    :returns: an entry.
    """
    if number == 1:
        return entry
    return rewriter.call("_mul_scalar", [entry], shape_of(entry), {"scalar": repr(float(number))})


def _merged(rewriter, node):
    """a (b x) is (ab) x."""
    number, source = _split((node, 0))
    inner, array = _split(source)
    product = number * inner
    if number == -1 and is_operator(source, *_SUBTRACTIONS):
        return rewriter.call(source[0].operator, source[0].inputs[::-1], node.shapes[0])
    if source == (node, 0) or inner == 1 or not np.isfinite(product):
        return None
    return scaled(rewriter, array, product)


def _outward(rewriter, node):
    inputs, number = list(node.inputs), 1.0
    for position in _positions(node):
        own, array = _factored(rewriter, inputs[position])
        if own != 1 and size_of((node, 0)) <= max(size_of(array), _SMALL):
            number, inputs[position] = number * own, array
    if number == 1 or not np.isfinite(number) or number == 0:
        return None
    return scaled(rewriter, rewriter.add(node.with_inputs(inputs)), number)


def _outward_entry(rewriter, node):
    """The same for large arrays that are multiplied by one number, or one number for each matrix of a batch."""
    # Of two such factors neither is to move out of the other; and matrices may lie along other axes.
    if node.operator in ("broadcast_mul", "broadcast_div") or "axis" in node.attributes and node.operator != "sum":
        return None
    for position in _positions(node):
        number, array = _few_numbers(node.inputs[position])
        shape = number and _shape_outside(node, shape_of(number))
        if shape and size_of((node, 0)) <= size_of(array):
            inputs = [array if index == position else entry for index, entry in enumerate(node.inputs)]
            result = rewriter.add(node.with_inputs(inputs))
            return rewriter.call("broadcast_mul", [result, rewriter.reshaped(number, shape)], node.shapes[0])
    return None


def _positions(node):
    """Of the inputs that a node is linear in."""
    if node.operator in _LINEAR and len(node.inputs) == 1 and len(node.shapes) == 1:
        return (0,)
    return (0,) if node.operator.startswith("_backward_") else _PRODUCTS.get(node.operator, ())


def _few_numbers(entry):
    """One number, or one for each matrix, and a large array whose product is an entry; or None and the entry."""
    if is_operator(entry, "broadcast_mul") and size_of(entry) > _SMALL:
        for number, array in (entry[0].inputs, entry[0].inputs[::-1]):
            is_small = len(shape_of(number)) == len(shape_of(entry)) and set(shape_of(number)[-2:]) == {1}
            if is_small and shape_of(array) == shape_of(entry):
                return number, array
    return None, entry


def _shape_outside(node, shape):
    """The shape in which numbers that multiplied an input multiply the output, None if they cannot."""
    if set(shape) == {1}:
        return (1,) * len(node.shapes[0])
    if node.operator in ("elemwise_mul", "elemwise_div") or node.operator in _ON_MATRICES:
        return shape
    if node.operator != "sum" or any(shape[axis] > 1 for axis in reduced_axes(node)):
        return None
    if len(node.shapes[0]) == len(shape):
        return shape
    return tuple(size for axis, size in enumerate(shape) if axis not in reduced_axes(node))


def _square(rewriter, node):
    if node.operator != "square":
        return None
    number, array = _split(node.inputs[0])
    if number == 1 or not np.isfinite(number**2):
        return None
    return scaled(rewriter, rewriter.call("square", [array], node.shapes[0]), number**2)


def _addition(rewriter, node):
    if node.operator not in _ADDITIONS + _SUBTRACTIONS:
        return None
    (first, x), (second, y) = map(_split, node.inputs)
    sign = 1 if node.operator in _ADDITIONS else -1
    if x == y and shape_of(x) == node.shapes[0]:
        return scaled(rewriter, x, first + sign * second) if first + sign * second else None
    if first != 1 and abs(first) == abs(second):
        operator = "broadcast_add" if first == sign * second else "broadcast_sub"
        return scaled(rewriter, rewriter.call(operator, [x, y], node.shapes[0]), first)
    if sign == 1 and -1 in (first, second):
        positive, negative = (node.inputs[0], y) if second == -1 else (node.inputs[1], x)
        return rewriter.call("broadcast_sub", [positive, negative], node.shapes[0])
    if sign == -1 and second == -1:
        return rewriter.call("broadcast_add", [node.inputs[0], y], node.shapes[0])
    return None


def _of_floats(rule):
    """A rule for arrays of real numbers: products of integers are rounded one by one."""

    @functools.wraps(rule)
    def guarded(rewriter, node):
        return rule(rewriter, node) if all(np.dtype(dtype).kind == "f" for dtype in node.dtypes) else None

    return guarded


SCALARS = tuple(map(_of_floats, (_merged, _outward, _outward_entry, _square, _addition)))


def absorbed(graph):
    """
    The graph with numbers in the products that they multiply, where nothing else uses these.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph`.
    :returns: a graph that computes the same; the one given must not be used any more.
    """
    uses = Counter((id(source), index) for node in graph.nodes for source, index in node.inputs)
    uses.update((id(node), index) for node, index in graph.heads())
    nodes, standing = [], {}
    for node in graph.nodes:
        node.inputs = [standing.get(id(source), (source, index)) for source, index in node.inputs]
        number, (source, index) = _split((node, 0))
        if number != 1 and uses[id(source), index] == 1 and _multiply(source, number, nodes):
            standing[id(node)] = source, index
        else:
            nodes.append(node)
    return live_graph(nodes, *graph.mapped(lambda entry: standing.get(id(entry[0]), entry)))


def _multiply(node, number, nodes):
    """Have a product multiplied by a number; whether that can be. New constants are put before all nodes."""
    if node.operator in _SCALED:
        node.attributes = {**node.attributes, "alpha": repr(float(node.attributes.get("alpha", "1.0")) * number)}
        return True
    if node.operator not in ("dot", "elemwise_mul", "broadcast_mul"):
        return False
    for position, (source, _) in enumerate(node.inputs):
        if source.operator == CONSTANT:
            constant = leaf(CONSTANT, source.array * number)
            nodes.insert(0, constant)
            node.inputs[position] = constant, 0
            return True
    return False
