# SPDX-License-Identifier: Apache-2.0
"""Rules that replace operators of MXNet that are slow on CPUs by fast ones that compute the same.

A sum takes 6 ns an entry, a dot product with ones 0.7 ns. Copying a row to many rows takes 5 ns an entry, a dot product
with ones 0.4 ns. So sums and broadcasts of large enough arrays become dot products. MXNet's gradient of a product that
broadcasts takes 30 ns an entry, its gradient of a product of equal shapes 1 ns. So if gradients are left to MXNet,
arrays are broadcast before they are multiplied.
"""

from typing import Any, Dict, List

from mxfusion_mvn.compiler.graph import Node, live_graph
from mxfusion_mvn.compiler.operators import BINARY, BROADCASTING_BINARY, reduced_axes
from mxfusion_mvn.compiler.rewriter import evaluated, rule
from mxfusion_mvn.compiler.rules.masks import mask_of_mask
from mxfusion_mvn.compiler.rules.products import PRODUCTS
from mxfusion_mvn.compiler.thresholds import DOT_TO_BROADCAST, DOT_TO_SUM, FEW_SUMMANDS, MANY_ENTRIES

import numpy as np

# From eight uses of an array on, MXNet lets operators add to its gradient in place, which some of them cannot do.
_FEW_USES = 6


@rule(*BINARY)
def _equal_shapes(rewriter, node):
    """Inputs are broadcast first, because MXNet's gradient of a product is faster for equal shapes."""
    if node.size < MANY_ENTRIES or all(entry.shape == node.shape for entry in node.inputs):
        return None
    inputs = [rewriter.broadcast(entry, node.shape) for entry in node.inputs]
    return rewriter.call(BINARY[node.operator].fastest, inputs, node.shape)


@rule("broadcast_to")
def _broadcast(rewriter, node):
    """A large broadcast is a dot product with ones."""
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
    """A large sum is a dot product."""
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
    """The sums of an array (batch, before, kept, after) over `before` and `after`, an entry of size batch * kept."""
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
    Merge axes into four: (kept, summed, kept, summed).

    A sum over the first axis of (5, 3) gives (1, 5, 3, 1), over the last (1, 1, 5, 3), over the middle one of (2, 4, 3)
    gives (2, 4, 3, 1).

    :param shape: tuple of int.
    :param is_summed: list of bool, one for each axis.
    :returns: tuple of four int, the first above 1 only if the second is; None if four are too few, or for many sums of
        few entries.
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
    """Few arrays are added one by one, because MKLDNN takes longer to set up its addition."""
    if not 1 < len(node.inputs) <= FEW_SUMMANDS:
        return None
    total = node.inputs[0]
    for entry in node.inputs[1:]:
        total = rewriter.call("broadcast_add", [total, entry], node.shape)
    return total


@rule("Reshape")
def _reshape(rewriter, node):
    """The reshape of mx.np does not copy."""
    return rewriter.call("_np_reshape", node.inputs, node.shape, {"newshape": node.shape})


@rule("Concat")
def _concatenation(rewriter, node):
    """The concatenation of mx.np needs no set-up by MKLDNN, which takes longer than joining few entries."""
    return rewriter.call("_npi_concatenate", node.inputs, node.shape, {"axis": node["dim"]})


@rule("_linalg_extracttrian")
def _taken_triangle(rewriter, node):
    """Taking the entries of a triangle by their positions takes half as long as extracttrian."""
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
    """An array that is broadcast needs no leading axes of size 1."""
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
    """Taking the lower triangle out and putting it back takes 25 ns an entry; choosing its entries takes 1 ns."""
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
    """Functions of many entries are computed by MKLDNN, several entries at once."""
    if node.dtype == "float32" and node.size > MANY_ENTRIES:
        return rewriter.call("Activation", node.inputs, node.shape, {"act_type": node.operator})
    return None


def split_heavily_used_entries(graph):
    """
    Copy entries that more than seven nodes use, because MXNet finds wrong gradients of those.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :returns: a graph that computes the same.
    """
    nodes: List[Node] = []
    present: Dict[Any, Any] = {}  # from an entry to the copy that stands for it now, and the number of its uses
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
# For graphs whose gradients MXNet finds.
LOWERING_WITHOUT_GRADIENTS = (_equal_shapes, *_LOWERING)
