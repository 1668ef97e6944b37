# SPDX-License-Identifier: Apache-2.0
"""Reverse-mode differentiation: a graph with the gradients of its objective as part of it.

MXNet could find the gradients as well, but those cannot be simplified, and they take a pass of their own in each step.

An adjoint turns the gradient of an operator's output into the gradients of its inputs. It is a function of the rewriter
that makes the nodes, the node, and the entry of the gradient of its output (for a node of several outputs a list of
entries, None for an output without gradient). It returns a list of entries of the shapes of the inputs, None where no
gradient passes. It returns None in place of the list if it does not know the node's attributes.
"""

from typing import Dict

from mxfusion_mvn.compiler.derivatives import axes, elementwise, matrices  # noqa: F401 (they declare the adjoints)
from mxfusion_mvn.compiler.derivatives.arithmetic import ADJOINTS, binary
from mxfusion_mvn.compiler.graph import PARAMETER, Entry
from mxfusion_mvn.compiler.rewriter import RewriteError, applied

import numpy as np


def differentiated(rewriter, graph):
    """
    The graph with gradients.

    :param rewriter: the :class:`~mxfusion_mvn.compiler.rewriter.Rewriter` to make it with.
    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph` without gradients.
    :returns: a graph, None if it holds an operator whose adjoint is not known.
    """
    graph = rewriter.rewrite(graph)
    gradients: Dict[Entry, Entry] = {}  # of the entries that the objective depends on
    _receive(rewriter, gradients, graph.objective, _ones(rewriter, graph.objective))
    for node in reversed(list(rewriter.nodes)):
        own = [gradients.get(node.entry(index)) for index in range(len(node.shapes))]
        if node.is_leaf or not rewriter.has_gradient(node.entry()) or not any(own):
            continue
        parts = _parts(rewriter, node, own)
        if parts is None:
            return None
        for entry, part in zip(node.inputs, parts):
            if part is not None and rewriter.has_gradient(entry):
                _receive(rewriter, gradients, entry, part)
    parameters = [node for node in rewriter.nodes if node.operator == PARAMETER and node.entry() in gradients]
    results = {node.key: gradients[node.entry()] for node in parameters}
    return graph._replace(objective=graph.loss, results=results)


def _parts(rewriter, node, gradients):
    """The gradients of the inputs of a node, None if its adjoint is not known."""
    adjoint = ADJOINTS.get(node.operator)
    if adjoint is None:
        return None
    parts = applied("the adjoint", adjoint, rewriter, node, gradients if len(gradients) > 1 else gradients[0])
    if parts is None:
        return None
    got = [part if part is None else part.shape for part in parts]
    if len(got) != len(node.inputs) or any(s not in (None, e.shape) for s, e in zip(got, node.inputs)):
        wanted = [entry.shape for entry in node.inputs]
        raise RewriteError(f"the adjoint of `{node.operator}` gives gradients of shapes {got} for inputs {wanted}")
    return parts


def _ones(rewriter, entry):
    one = rewriter.constant(np.ones((1,) * len(entry.shape), entry.dtype), entry.dtype)
    return rewriter.broadcast(one, entry.shape)


def _receive(rewriter, gradients, entry, part):
    gradients[entry] = part if entry not in gradients else binary(rewriter, "add", gradients[entry], part)
