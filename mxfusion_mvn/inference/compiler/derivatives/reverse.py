# SPDX-License-Identifier: Apache-2.0
"""Reverse-mode differentiation: a graph with the gradients of its objective as part of it.

MXNet could find them as well, but what it finds cannot be simplified, and adds a pass of its own to each step.

An adjoint says how the gradient of an operator's output becomes those of its inputs. It is a function of the rewriter
that makes the nodes, the node, and the entry of the gradient of its output (a list of them, or None, for a node of
several outputs). It returns a list of entries of the shapes of the inputs, None where no gradient passes; or None, if
there is something about the node that it does not know.
"""

from mxfusion_mvn.inference.compiler.derivatives.arithmetic import binary
from mxfusion_mvn.inference.compiler.derivatives.axes import AXES
from mxfusion_mvn.inference.compiler.derivatives.matrices import MATRICES
from mxfusion_mvn.inference.compiler.derivatives.numbers import NUMBERS
from mxfusion_mvn.inference.compiler.graph import PARAMETER
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, shape_of

import numpy as np

KNOWN_ADJOINTS = {**NUMBERS, **AXES, **MATRICES}


def differentiated(rewriter, graph):
    """
    The graph with gradients.

    :param rewriter: the :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter` to make it with.
    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph` without gradients.
    :returns: a graph, None if it holds an operator whose adjoint is not known.
    """
    graph = rewriter.rewrite(graph)
    adjoints = {}  # by output, of what the objective depends on
    _receive(rewriter, adjoints, graph.objective, _ones(rewriter, graph.objective))
    for node in reversed(list(rewriter.nodes)):
        gradients = [adjoints.get((id(node), index)) for index in range(len(node.shapes))]
        if node.is_leaf or not rewriter.has_gradient((node, 0)) or not any(gradients):
            continue
        adjoint = KNOWN_ADJOINTS.get(node.operator)
        parts = adjoint and adjoint(rewriter, node, gradients if len(gradients) > 1 else gradients[0])
        if parts is None:
            return None
        for entry, part in zip(node.inputs, parts):
            if part is not None and rewriter.has_gradient(entry):
                _receive(rewriter, adjoints, entry, part)
    parameters = [node for node in rewriter.nodes if node.operator == PARAMETER and (id(node), 0) in adjoints]
    gradients = {node.key: adjoints[id(node), 0] for node in parameters}
    return graph._replace(objective=graph.loss, results=gradients)


def _ones(rewriter, entry):
    shape = shape_of(entry)
    one = rewriter.constant(np.ones((1,) * len(shape), dtype_of(entry)), dtype_of(entry))
    return rewriter.broadcast(one, shape)


def _receive(rewriter, adjoints, entry, part):
    key = id(entry[0]), entry[1]
    adjoints[key] = part if key not in adjoints else binary(rewriter, "add", adjoints[key], part)
