# SPDX-License-Identifier: Apache-2.0
"""Operators of MXNet that are slow on CPUs, replaced by fast ones that do the same.

A sum takes 6 ns per number, a dot product with ones 0.7; a row is copied to many at 5 ns per number, by a dot product
with ones at 0.4. So sums and broadcasts are dot products where there are enough numbers for that to pay. The gradient
that MXNet finds of a broadcasting product takes 30 ns per number, that of a product of equal shapes 1 ns. So what is
broadcast is broadcast first, if gradients are left to MXNet.
"""

from typing import Any, Dict, List

from mxfusion_mvn.compiler.graph import Node, live_graph
from mxfusion_mvn.compiler.operators import BINARY, BROADCASTING_BINARY, reduced_axes
from mxfusion_mvn.compiler.rewriter import evaluated, rule
from mxfusion_mvn.compiler.rules.masks import mask_of_mask
from mxfusion_mvn.compiler.rules.products import PRODUCTS
from mxfusion_mvn.compiler.thresholds import DOT_TO_BROADCAST, DOT_TO_SUM, FEW_SUMMANDS, MANY_ENTRIES

import numpy as np

# From eight uses of an array on MXNet adds up its gradients in place, wrongly.
_FEW_USES = 6


@rule(*BINARY)
def _equal_shapes(rewriter, node):
    """What is broadcast is broadcast first: MXNet's gradient of a product is faster for equal shapes."""
    if node.size < MANY_ENTRIES or all(entry.shape == node.shape for entry in node.inputs):
        return None
    inputs = [rewriter.broadcast(entry, node.shape) for entry in node.inputs]
    return rewriter.call(BINARY[node.operator].fastest, inputs, node.shape)


@rule("broadcast_to")
def _broadcast(rewriter, node):
    """A broadcast by a dot product, and so is its gradient."""
    if node.size < DOT_TO_BROADCAST:
        return None
    source = node.inputs[0]
    runs = _runs(node.shape, [own != size for own, size in zip(source.shape, node.shape)])
    if runs is None:
        return None
    batch, before, kept, after = runs
    if after > 1:
        column = rewriter.reshaped(source, (1, batch * kept, 1))
        source = _dot(rewriter, column, rewriter.ones((1, 1, after), source))
    if before > 1:
        row = rewriter.reshaped(source, (batch, 1, kept * after))
        source = _dot(rewriter, rewriter.ones((batch, before, 1), source), row)
    return rewriter.reshaped(source, node.shape)


@rule("sum", "mean")
def _sum(rewriter, node):
    """A sum by a dot product."""
    if len(node.shapes) > 1 or node.inputs[0].size < DOT_TO_SUM:
        return None
    source, axes = node.inputs[0], reduced_axes(node)
    if node.operator == "sum" and source.is_a("elemwise_mul") and node.size == 1:
        flat = [rewriter.reshaped(entry, (entry.size,)) for entry in source.inputs]
        return rewriter.reshaped(rewriter.call("dot", flat, (1,)), node.shape)
    runs = _runs(source.shape, [axis in axes for axis in range(len(source.shape))])
    if runs is None:
        return None
    total = rewriter.reshaped(_sum_of_runs(rewriter, source, *runs), node.shape)
    if node.operator == "sum":
        return total
    scale = {"scalar": repr(node.size / source.size)}
    return rewriter.call("_mul_scalar", [total], node.shape, scale)


def _sum_of_runs(rewriter, source, batch, before, kept, after):
    """The sums of an array (batch, before, kept, after), an entry with as many numbers as batch and kept."""
    if batch * kept == 1:
        flat = rewriter.reshaped(source, (before * after,))
        return rewriter.call("dot", [flat, rewriter.ones(flat.shape, flat)], (1,))
    if after > 1:
        rows = rewriter.reshaped(source, (1, batch * before * kept, after))
        source = _dot(rewriter, rows, rewriter.ones((1, after, 1), source))
    if before > 1:
        columns = rewriter.reshaped(source, (batch, before, kept))
        source = _dot(rewriter, rewriter.ones((batch, 1, before), source), columns)
    return source


def _dot(rewriter, left, right):
    """The product of matrices (batch, N, M) and (batch, M, D)."""
    batch, rows, inner = left.shape
    columns = right.shape[2]
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
    runs: List[List[int]] = []
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
    if True not in flags or len(sizes) > 4 or (sizes[0] > 1 and np.prod(sizes[1:]) < MANY_ENTRIES):
        return None
    return tuple(sizes) + (1,) * (4 - len(sizes))


@rule("elemwise_add", "add_n")
def _addition(rewriter, node):
    """MKLDNN takes longer to set up its addition of few arrays than to add them."""
    if not 1 < len(node.inputs) <= FEW_SUMMANDS:
        return None
    total = node.inputs[0]
    for entry in node.inputs[1:]:
        total = rewriter.call("broadcast_add", [total, entry], node.shape)
    return total


@rule("Reshape")
def _reshape(rewriter, node):
    """Reshape copies, and the one of mx.np does not."""
    return rewriter.call("_np_reshape", node.inputs, node.shape, {"newshape": node.shape})


@rule("Concat")
def _concatenation(rewriter, node):
    """MKLDNN takes longer to set up than to join few entries, and mx.np does without."""
    return rewriter.call("_npi_concatenate", node.inputs, node.shape, {"axis": node["dim"]})


@rule("_linalg_extracttrian")
def _taken_triangle(rewriter, node):
    """To pick entries by their positions takes half as long as to find out where the triangle is."""
    offset, size = node["offset"], node.inputs[0].shape[-1]
    if node.size != node.shape[-1] or offset > 0 or not node["lower"] or node.size < MANY_ENTRIES:
        return None
    rows, columns = np.tril_indices(size, offset)
    positions = rewriter.constant((rows * size + columns).astype("int32"), "int32")
    flat = rewriter.reshaped(node.inputs[0], (size * size,))
    taken = rewriter.call("take", [flat, positions], positions.shape, {"mode": "clip"})
    return rewriter.reshaped(taken, node.shape)


@rule(*BROADCASTING_BINARY)
def _leading_axes(rewriter, node):
    """What is broadcast needs no leading axes of size 1."""
    inputs = [_without_leading_axes(entry) for entry in node.inputs]
    if inputs == node.inputs or np.broadcast_shapes(*(entry.shape for entry in inputs)) != node.shape:
        return None
    return rewriter.add(node.with_inputs(inputs))


def _without_leading_axes(entry):
    if not entry.is_a("_np_reshape"):
        return entry
    source, shape = entry.inputs[0], entry.shape
    ones = len(shape) - len(source.shape)
    return source if ones > 0 and shape == (1,) * ones + source.shape else entry


@rule("_linalg_maketrian")
def _triangle(rewriter, node):
    """To take the lower triangle out and put it in again takes 25 ns an entry, to choose its entries 1."""
    (taken,) = node.inputs
    if not taken.is_a("_linalg_extracttrian") or node.attributes or taken.node.attributes:
        return None
    (source,) = taken.inputs
    dtype = source.dtype
    below = rewriter.constant(np.tril(np.ones(node.shape, dtype)), dtype)
    above = rewriter.constant(np.zeros(node.shape, dtype), dtype)
    return rewriter.call("where", [below, source, above], node.shape, dtype=dtype.type)


@rule("tanh", "sigmoid", "relu")
def _function(rewriter, node):
    """MKLDNN computes several entries at once."""
    if node.dtype == "float32" and node.size > MANY_ENTRIES:
        return rewriter.call("Activation", node.inputs, node.shape, {"act_type": node.operator})
    return None


def with_few_uses(graph):
    """
    The graph with copies of entries that more than seven nodes use, because of a fault of MXNet's.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :returns: a graph that computes the same.
    """
    nodes: List[Node] = []
    present: Dict[Any, Any] = {}  # from the entry to what stands for it now, and how often that was used
    made: Dict[Node, Node] = {}

    def use(entry):
        entry = made[entry.node].entry(entry.output)
        standing, uses = present.get(entry, (entry, 0))
        if uses == _FEW_USES:
            copy = Node("_copy", [standing], {}, [entry.shape], [entry.dtype])
            nodes.append(copy)
            standing, uses = copy.entry(), 0
        present[entry] = standing, uses + 1
        return standing

    for node in graph.nodes:
        made[node] = node.with_inputs([use(entry) for entry in node.inputs])
        nodes.append(made[node])
    loss, objective, _ = graph.mapped(lambda entry: made[entry.node].entry(entry.output))
    return live_graph(nodes, loss, objective)


_LOWERING = (*PRODUCTS, _broadcast, _sum, _addition, _reshape, _triangle, mask_of_mask, _function, evaluated)
LOWERING = (_concatenation, _taken_triangle, _leading_axes, *_LOWERING)
# What MXNet is to find the gradients of.
LOWERING_WITHOUT_GRADIENTS = (_equal_shapes, *_LOWERING)
