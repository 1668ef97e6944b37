# SPDX-License-Identifier: Apache-2.0
"""Rules that move scalars that multiply arrays outward, where they are multiplied with each other.

Gradients have many such scalars::

    f(c x) = c f(x) for linear f        <c x, y> = c <x, y>        c x + c y = c (x + y)        x + x = 2 x

In the end they are absorbed by constants, and by the products of matrices that take a scalar anyway.
"""

from collections import Counter
from typing import Dict, List

from mxfusion_mvn.compiler.graph import CONSTANT, Node, leaf, live_graph
from mxfusion_mvn.compiler.operators import having, reduced_axes, traits
from mxfusion_mvn.compiler.rewriter import rule
from mxfusion_mvn.compiler.rules.masks import is_zero
from mxfusion_mvn.compiler.thresholds import CHEAP_TO_SCALE

import numpy as np


def _split(entry):
    """A float and an array whose product is an entry."""
    node = entry.node
    if node.operator == "negative":
        return -1.0, node.inputs[0]
    if node.operator == "_mul_scalar":
        return node["scalar"], node.inputs[0]
    return 1.0, entry


def _factored(rewriter, entry):
    """The same, also for a product that is reshaped."""
    number, array = _split(entry.inputs[0] if entry.is_a("Reshape") else entry)
    return number, entry if number == 1 else rewriter.reshaped(array, entry.shape)


def scaled(rewriter, entry, number):
    """
    An array times a float.

    :param rewriter: :class:`~mxfusion_mvn.compiler.rewriter.Rewriter`.
    :param entry: entry.
    :param number: a float.
    :returns: an entry.
    """
    if number == 1:
        return entry
    return rewriter.call("_mul_scalar", [entry], entry.shape, {"scalar": repr(float(number))})


@rule("negative", "_mul_scalar")
def _merged(rewriter, node):
    """a (b x) is (ab) x."""
    number, source = _split(node.entry())
    inner, array = _split(source)
    product = number * inner
    if node.dtype.kind != "f":  # each product of integers is rounded
        return None
    if number == -1 and traits(source.node.operator).sign == -1:
        return rewriter.call(source.node.operator, source.inputs[::-1], node.shape)
    if inner == 1 or not np.isfinite(product):
        return None
    return scaled(rewriter, array, product)


@rule()
def _outward(rewriter, node):
    """f(c x) is c f(x) if f is linear in x."""
    if any(dtype.kind != "f" for dtype in node.dtypes):
        return None
    inputs, number = list(node.inputs), 1.0
    for position in _positions(node):
        own, array = _factored(rewriter, inputs[position])
        if own != 1 and node.size <= max(array.size, CHEAP_TO_SCALE):
            number, inputs[position] = number * own, array
    if number == 1 or not np.isfinite(number) or number == 0:
        return None
    return scaled(rewriter, rewriter.add(node.with_inputs(inputs)), number)


@rule()
def _outward_entry(rewriter, node):
    """The same for a large array times an array of one entry, or of one entry for each matrix of a batch."""
    if any(dtype.kind != "f" for dtype in node.dtypes):
        return None
    # Otherwise the rule would swap two such factors for ever; and with an `axis` matrices lie along other axes.
    if node.operator in ("broadcast_mul", "broadcast_div") or "axis" in node.attributes and node.operator != "sum":
        return None
    for position in _positions(node):
        number, array = _few_scalars(node.inputs[position])
        shape = number and _shape_outside(node, number.shape)
        if shape and node.size <= array.size:
            inputs = [array if index == position else entry for index, entry in enumerate(node.inputs)]
            result = rewriter.add(node.with_inputs(inputs))
            return rewriter.call("broadcast_mul", [result, rewriter.reshaped(number, shape)], node.shape)
    return None


def _positions(node):
    """Positions of the inputs in which an operator is linear."""
    if node.operator.startswith("_backward_"):
        return (0,)
    return traits(node.operator).linear if len(node.shapes) == 1 else ()


def _few_scalars(entry):
    """An array of one entry, or of one for each matrix, and a large array whose product is an entry; or None and it."""
    if entry.is_a("broadcast_mul") and entry.size > CHEAP_TO_SCALE:
        for number, array in (entry.inputs, entry.inputs[::-1]):
            is_small = len(number.shape) == len(entry.shape) and set(number.shape[-2:]) == {1}
            if is_small and array.shape == entry.shape:
                return number, array
    return None, entry


def _shape_outside(node, shape):
    """The shape in which an array of few entries multiplies the output instead of an input; None if it cannot."""
    if set(shape) == {1}:
        return (1,) * len(node.shape)
    if node.operator in ("elemwise_mul", "elemwise_div") or traits(node.operator).matrix_product:
        return shape
    if node.operator != "sum" or any(shape[axis] > 1 for axis in reduced_axes(node)):
        return None
    if len(node.shape) == len(shape):
        return shape
    return tuple(size for axis, size in enumerate(shape) if axis not in reduced_axes(node))


@rule("square")
def _square(rewriter, node):
    """(c x)^2 is c^2 x^2."""
    number, array = _split(node.inputs[0])
    if number == 1 or node.dtype.kind != "f" or not np.isfinite(number**2):
        return None
    return scaled(rewriter, rewriter.call("square", [array], node.shape), number**2)


@rule(*having("sign"))
def _addition(rewriter, node):
    """c x + c y is c (x + y), also in (a + c x) + c y; x + x is 2 x, and x + (-1) y is x - y."""
    if node.dtype.kind != "f":
        return None
    (first, x), (second, y) = map(_split, node.inputs)
    sign = traits(node.operator).sign
    if x == y and x.shape == node.shape:
        return scaled(rewriter, x, first + sign * second) if first + sign * second else None
    if first != 1 and abs(first) == abs(second):
        operator = "broadcast_add" if first == sign * second else "broadcast_sub"
        return scaled(rewriter, rewriter.call(operator, [x, y], node.shape), first)
    if sign == 1 and -1 in (first, second):
        positive, negative = (node.inputs[0], y) if second == -1 else (node.inputs[1], x)
        return rewriter.call("broadcast_sub", [positive, negative], node.shape)
    if sign == -1 and second == -1:
        return rewriter.call("broadcast_add", [node.inputs[0], y], node.shape)
    return _added_to_scaled(rewriter, node, second, y) if sign == 1 else None


def _added_to_scaled(rewriter, node, number, y):
    """(c x + b) + c y is c (x + y) + b, for a scalar c other than 1 and arrays of one shape; also with - b."""
    left = node.inputs[0].node
    if number == 1 or not traits(left.operator).sign:
        return None
    for position in (0, 1) if traits(left.operator).sign == 1 else (0,):
        own, x = _split(left.inputs[position])
        other = left.inputs[1 - position]
        if own == number and {other.shape, x.shape, y.shape} == {node.shape}:
            total = scaled(rewriter, rewriter.call("elemwise_add", [x, y], node.shape), number)
            return rewriter.call(left.operator, [total, other], node.shape)
    return None


@rule("where")
def _masked(rewriter, node):
    """where(m, c x, 0) is c where(m, x, 0)."""
    condition, first, second = node.inputs
    for position, (entry, other) in enumerate(((first, second), (second, first))):
        number, array = _split(entry)
        if number != 1 and np.isfinite(number) and is_zero(other):
            arrays = (array, other) if position == 0 else (other, array)
            masked = rewriter.call("where", [condition, *arrays], node.shape, dtype=node.dtype)
            return scaled(rewriter, masked, number)
    return None


SCALARS = (_merged, _outward, _outward_entry, _square, _addition, _masked)


def absorbed(graph):
    """
    Move scalars into the products that they multiply, if nothing else uses these products.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :returns: a graph that computes the same.
    """
    uses = Counter(entry for node in graph.nodes for entry in node.inputs)
    uses.update(graph.heads())
    factors = {}  # from the products that absorb a scalar to the scalar
    for node in graph.nodes:
        number, source = _split(node.entry())
        if number != 1 and uses[source] == 1 and _takes_scalar(source.node) and source.node not in factors:
            factors[source.node] = number
    constants: List[Node] = []
    nodes: List[Node] = []
    made: Dict[Node, Node] = {}
    for node in graph.nodes:
        number, source = _split(node.entry())
        if number != 1 and source.node in factors and uses[source] == 1:
            made[node.entry()] = made[source]
            continue
        new = node.with_inputs([made[entry] for entry in node.inputs])
        if node in factors:
            new = _multiplied(new, factors[node], constants)
        nodes.append(new)
        made.update((node.entry(index), new.entry(index)) for index in range(len(node.shapes)))
    return live_graph(constants + nodes, *graph.mapped(made.get))


def _takes_scalar(node):
    is_product = node.operator in ("dot", "elemwise_mul", "broadcast_mul")
    return "alpha" in traits(node.operator).attributes or is_product and any(e.is_a(CONSTANT) for e in node.inputs)


def _multiplied(node, number, constants):
    """A product that has absorbed a scalar; new constants are appended to a list."""
    if "alpha" in traits(node.operator).attributes:
        node.attributes = {**node.attributes, "alpha": repr(node["alpha"] * number)}
        return node
    position = next(position for position, entry in enumerate(node.inputs) if entry.is_a(CONSTANT))
    constants.append(leaf(CONSTANT, node.inputs[position].node.array * number))
    node.inputs[position] = constants[-1].entry()
    return node
