# SPDX-License-Identifier: Apache-2.0
"""Slices that together make up an array, as loops over samples take them, become one split.

The gradient of each slice is an array of the full size, and all of them are added up; that of a split is made at once.
"""

from mxfusion_mvn.inference.compiler.graph import Node, live_graph


def with_splits(graph):
    """
    The graph with splits in place of slices.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph`.
    :returns: a graph that computes the same; the one given must not be used any more.
    """
    groups = {}
    for node in graph.nodes:
        if node.operator == "slice_axis":
            groups.setdefault(_source(node), []).append(node)
    parts = {id(node): part for group in groups.values() for node, part in _parts(group).items()}
    nodes, placed = [], set()
    for node in graph.nodes:
        split = parts.get(id(node), (node, 0))[0]
        if id(split) not in placed:
            # Also those of a split: slices are taken of slices.
            split.inputs = [parts.get(id(source), (source, index)) for source, index in split.inputs]
            placed.add(id(split))
            nodes.append(split)
    return live_graph(nodes, *graph.mapped(lambda entry: parts.get(id(entry[0]), entry)))


def _source(node):
    source, index = node.inputs[0]
    return id(source), index, node.attributes["axis"]


def _parts(slices):
    """Dict from slice to the output of a split that is the same, empty if the slices do not make up an array."""
    begins = {int(node.attributes["begin"]): node for node in slices}
    axis, first = int(slices[0].attributes["axis"]), slices[0]
    source, index = first.inputs[0]
    size, width = source.shapes[index][axis], first.shapes[0][axis]
    whole = len(slices) > 1 and sorted(begins) == list(range(0, size, width))
    if not whole or len(begins) < len(slices) or any(node.shapes[0] != first.shapes[0] for node in slices):
        return {}
    attributes = {"num_outputs": str(size // width), "axis": str(axis)}
    split = Node("SliceChannel", [first.inputs[0]], attributes, first.shapes * len(slices), first.dtypes * len(slices))
    return {node: (split, begin // width) for begin, node in begins.items()}
