# SPDX-License-Identifier: Apache-2.0
"""Slices that together make up an array, as a loop over samples takes them, become one split.

The gradient of each slice would be an array of the full size, and all would be added; that of a split is made at once.
"""

from typing import Any, Dict, List

from mxfusion_mvn.compiler.graph import Node, live_graph
from mxfusion_mvn.compiler.rewriter import rule


def with_splits(graph):
    """
    The graph with splits in place of slices.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :returns: a graph that computes the same.
    """
    groups: Dict[Any, List[Node]] = {}
    for node in graph.nodes:
        if node.operator == "slice_axis":
            groups.setdefault((node.inputs[0], node["axis"]), []).append(node)
    splits = {node: part for group in groups.values() for node, part in _parts(group).items()}
    nodes: List[Node] = []
    made: Dict[Node, Node] = {}
    for node in graph.nodes:
        split, index = splits.get(node, (node, 0))
        if split not in made:
            made[split] = split.with_inputs([made[entry] for entry in split.inputs])
            nodes.append(made[split])
        if node in splits:
            made[node.entry()] = made[split].entry(index)
        else:
            made.update((node.entry(index), made[split].entry(index)) for index in range(len(node.shapes)))
    return live_graph(nodes, *graph.mapped(made.get))


def _parts(slices):
    """Dict from each slice to the equal output of a split; empty if the slices do not make up an array."""
    begins = {node["begin"]: node for node in slices}
    (source,), axis, shape = slices[0].inputs, slices[0]["axis"], slices[0].shape
    size, width = source.shape[axis], shape[axis]
    whole = len(slices) > 1 and sorted(begins) == list(range(0, size, width))
    if not whole or len(begins) < len(slices) or any(node.shape != shape for node in slices):
        return {}
    attributes = {"num_outputs": str(size // width), "axis": str(axis)}
    split = Node("SliceChannel", [source], attributes, [shape] * len(slices), [source.dtype] * len(slices))
    return {node: (split, begin // width) for begin, node in begins.items()}


@rule("slice_axis")
def slice_of_reshape(rewriter, node):
    """A slice along the last axis is taken before a reshape that keeps this axis."""
    if not node.inputs[0].is_a("Reshape"):
        return None
    reshaped, inner = node.inputs[0], node.inputs[0].inputs[0]
    last = reshaped.shape[-1]
    is_last = node["axis"] in (-1, len(reshaped.shape) - 1)
    if not is_last or inner.shape[-1] != last:
        return None
    shape = inner.shape[:-1] + node.shape[-1:]
    attributes = {**node.attributes, "axis": -1}
    return rewriter.reshaped(rewriter.call("slice_axis", [inner], shape, attributes), node.shape)
