# SPDX-License-Identifier: Apache-2.0
"""Operators of MXNet that are slow on CPUs, replaced by fast ones that do the same.

A sum takes 6 ns per number, a dot product with ones 0.7; a row is copied to many at 5 ns per number, by a dot product
with ones at 0.4. So sums and broadcasts are dot products where there are enough numbers for that to pay. The gradient
that MXNet finds of a broadcasting product takes 30 ns per number, that of a product of equal shapes 1 ns. So what is
broadcast is broadcast first, if gradients are left to MXNet.
"""

import ast

from mxfusion_mvn.inference.compiler.graph import Node, live_graph
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, evaluated, is_operator, shape_of, size_of
from mxfusion_mvn.inference.compiler.rules.products import PRODUCTS

import numpy as np

_ELEMENTWISE = {
    "broadcast_add": "broadcast_add",
    "broadcast_sub": "elemwise_sub",
    "broadcast_mul": "elemwise_mul",
    "broadcast_div": "elemwise_div",
    "broadcast_power": "_power",
    "broadcast_maximum": "_maximum",
    "broadcast_minimum": "_minimum",
}
# How many numbers make it worth while; measured.
_MANY = 128
_MANY_TO_SUM = 64
_FEW = 6
_FEW_USES = 6


def _equal_shapes(rewriter, node):
    if node.operator not in _ELEMENTWISE or size_of((node, 0)) < _MANY:
        return None
    if all(shape_of(entry) == node.shapes[0] for entry in node.inputs):
        return None
    inputs = [rewriter.broadcast(entry, node.shapes[0]) for entry in node.inputs]
    return rewriter.call(_ELEMENTWISE[node.operator], inputs, node.shapes[0])


def _broadcast(rewriter, node):
    """A broadcast by a dot product, and so is its gradient."""
    if node.operator != "broadcast_to" or size_of((node, 0)) < _MANY:
        return None
    source = node.inputs[0]
    runs = _runs(node.shapes[0], [own != size for own, size in zip(shape_of(source), node.shapes[0])])
    if runs is None:
        return None
    batch, before, kept, after = runs
    if after > 1:
        column = rewriter.reshaped(source, (1, batch * kept, 1))
        source = _dot(rewriter, column, rewriter.ones((1, 1, after), source))
    if before > 1:
        row = rewriter.reshaped(source, (batch, 1, kept * after))
        source = _dot(rewriter, rewriter.ones((batch, before, 1), source), row)
    return rewriter.reshaped(source, node.shapes[0])


def _sum(rewriter, node):
    if node.operator not in ("sum", "mean") or len(node.shapes) > 1 or size_of(node.inputs[0]) < _MANY_TO_SUM:
        return None
    source, axes = node.inputs[0], reduced_axes(node)
    if node.operator == "sum" and is_operator(source, "elemwise_mul") and size_of((node, 0)) == 1:
        flat = [rewriter.reshaped(entry, (size_of(entry),)) for entry in source[0].inputs]
        return rewriter.reshaped(rewriter.call("dot", flat, (1,)), node.shapes[0])
    runs = _runs(shape_of(source), [axis in axes for axis in range(len(shape_of(source)))])
    if runs is None:
        return None
    total = rewriter.reshaped(_sum_of_runs(rewriter, source, *runs), node.shapes[0])
    if node.operator == "sum":
        return total
    scale = {"scalar": repr(size_of((node, 0)) / size_of(source))}
    return rewriter.call("_mul_scalar", [total], node.shapes[0], scale)


def _sum_of_runs(rewriter, source, batch, before, kept, after):
    """The sums of an array (batch, before, kept, after), an entry with as many numbers as batch and kept."""
    if batch * kept == 1:
        flat = rewriter.reshaped(source, (before * after,))
        return rewriter.call("dot", [flat, rewriter.ones(shape_of(flat), flat)], (1,))
    if after > 1:
        rows = rewriter.reshaped(source, (1, batch * before * kept, after))
        source = _dot(rewriter, rows, rewriter.ones((1, after, 1), source))
    if before > 1:
        columns = rewriter.reshaped(source, (batch, before, kept))
        source = _dot(rewriter, rewriter.ones((batch, 1, before), source), columns)
    return source


def _dot(rewriter, left, right):
    """The product of matrices (batch, N, M) and (batch, M, D)."""
    batch, rows, inner = shape_of(left)
    columns = shape_of(right)[2]
    if batch > 1:
        return rewriter.call("batch_dot", [left, right], (batch, rows, columns))
    left = rewriter.reshaped(left, (inner,) if rows == 1 else (rows, inner))
    right = rewriter.reshaped(right, (inner,) if columns == 1 and rows > 1 else (inner, columns))
    shape = tuple(size for size in (rows, columns) if size > 1) or (1,)
    return rewriter.call("dot", [left, right], shape)


def _runs(shape, is_summed):
    """
    Sizes of runs of axes: first that are not summed over, then that are, then not, then again.

    :param shape: tuple of int.
    :param is_summed: list of bool, one for each axis.
    :returns: tuple of four int, the first above 1 only if the second is; None if there are more runs, or many sums of
        few numbers.
    """
    runs = []
    for size, flag in zip(shape, is_summed):
        if size > 1 and runs and runs[-1][1] == flag:
            runs[-1][0] *= size
        elif size > 1:
            runs.append([size, flag])
    sizes, flags = [size for size, _ in runs], tuple(flag for _, flag in runs)
    if flags[:1] == (False,) and len(flags) < 3:
        sizes = [1, 1, *sizes]
    elif flags[:1] == (True,):
        sizes = [1, *sizes]
    if True not in flags or len(sizes) > 4 or (sizes[0] > 1 and np.prod(sizes[1:]) < _MANY):
        return None
    return tuple(sizes) + (1,) * (4 - len(sizes))


def reduced_axes(node):
    """
    The axes that a reduction sums over.

    :param node: a node of ``sum`` or ``mean``.
    :returns: set of int.
    """
    ndim = len(shape_of(node.inputs[0]))
    axes = ast.literal_eval(node.attributes.get("axis", "()"))
    axes = (axes,) if isinstance(axes, int) else tuple(axes or ())
    axes = {axis % ndim for axis in axes} or set(range(ndim))
    return set(range(ndim)) - axes if node.attributes.get("exclude") in ("1", "True") else axes


def _addition(rewriter, node):
    """MKLDNN takes longer to set up its addition of few arrays than to add them."""
    if node.operator == "elemwise_add":
        return rewriter.call("broadcast_add", node.inputs, node.shapes[0])
    if node.operator != "add_n" or not 1 < len(node.inputs) <= _FEW:
        return None
    total = node.inputs[0]
    for entry in node.inputs[1:]:
        total = rewriter.call("broadcast_add", [total, entry], node.shapes[0])
    return total


def _reshape(rewriter, node):
    """Where Reshape copies, the one of mx.np does not."""
    if node.operator != "Reshape":
        return None
    return rewriter.call("_np_reshape", node.inputs, node.shapes[0], {"newshape": node.shapes[0]})


def _concatenation(rewriter, node):
    """MKLDNN takes longer to set up than to join few numbers, and mx.np does without."""
    if node.operator != "Concat":
        return None
    axis = int(node.attributes.get("dim", "1"))
    return rewriter.call("_npi_concatenate", node.inputs, node.shapes[0], {"axis": axis})


def _taken_triangle(rewriter, node):
    """To pick numbers by their positions takes half as long as to find out where the triangle is."""
    if node.operator != "_linalg_extracttrian" or size_of((node, 0)) != node.shapes[0][-1]:
        return None
    offset, size = int(node.attributes.get("offset", "0")), shape_of(node.inputs[0])[-1]
    if offset > 0 or node.attributes.get("lower", "True") not in ("True", "1") or size_of((node, 0)) < _MANY:
        return None
    rows, columns = np.tril_indices(size, offset)
    positions = rewriter.constant((rows * size + columns).astype("int32"), "int32")
    flat = rewriter.reshaped(node.inputs[0], (size * size,))
    taken = rewriter.call("take", [flat, positions], positions[0].shapes[0], {"mode": "clip"})
    return rewriter.reshaped(taken, node.shapes[0])


def _leading_axes(rewriter, node):
    """What is broadcast needs no leading axes of size 1."""
    if not node.operator.startswith("broadcast_") or len(node.inputs) != 2:
        return None
    inputs = [_without_leading_axes(entry) for entry in node.inputs]
    if inputs == node.inputs or np.broadcast_shapes(*map(shape_of, inputs)) != node.shapes[0]:
        return None
    return rewriter.add(node.with_inputs(inputs))


def _without_leading_axes(entry):
    if not is_operator(entry, "_np_reshape"):
        return entry
    source, shape = entry[0].inputs[0], shape_of(entry)
    ones = len(shape) - len(shape_of(source))
    return source if ones > 0 and shape == (1,) * ones + shape_of(source) else entry


def _triangle(rewriter, node):
    """To take the lower triangle out and put it in again takes 25 ns per number, to choose its entries 1."""
    if node.operator != "_linalg_maketrian" or not is_operator(node.inputs[0], "_linalg_extracttrian"):
        return None
    source = node.inputs[0][0].inputs[0]
    if node.attributes or node.inputs[0][0].attributes:
        return None
    dtype = dtype_of(source)
    below = rewriter.constant(np.tril(np.ones(node.shapes[0], dtype)), dtype)
    above = rewriter.constant(np.zeros(node.shapes[0], dtype), dtype)
    return rewriter.call("where", [below, source, above], node.shapes[0], dtype=dtype.type)


def _function(rewriter, node):
    """MKLDNN computes several numbers at once."""
    if node.operator in ("tanh", "sigmoid", "relu") and dtype_of((node, 0)) == "float32" and size_of((node, 0)) > _MANY:
        return rewriter.call("Activation", node.inputs, node.shapes[0], {"act_type": node.operator})
    return None


def with_few_uses(graph):
    """
    The graph with copies of what more than seven nodes use: from eight on MXNet adds up gradients in place, wrongly.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph`.
    :returns: a graph that computes the same.
    """
    nodes, present = [], {}  # from the entry to what stands for it now, and how often that was used

    def use(entry):
        key = id(entry[0]), entry[1]
        standing, uses = present.get(key, (entry, 0))
        if uses == _FEW_USES:
            copy = Node("_copy", [standing], {}, [shape_of(entry)], [dtype_of(entry).type])
            nodes.append(copy)
            standing, uses = (copy, 0), 0
        present[key] = standing, uses + 1
        return standing

    for node in graph.nodes:
        node.inputs = [use(entry) for entry in node.inputs]
        nodes.append(node)
    return live_graph(nodes, graph.loss, graph.objective)


_LOWERING = (*PRODUCTS, _broadcast, _sum, _addition, _reshape, _triangle, _function, evaluated)
LOWERING = (_concatenation, _taken_triangle, _leading_axes, *_LOWERING)
# What MXNet is to find the gradients of.
LOWERING_WITHOUT_GRADIENTS = (_equal_shapes, *_LOWERING)
