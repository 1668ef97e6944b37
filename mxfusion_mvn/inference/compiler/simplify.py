# SPDX-License-Identifier: Apache-2.0
"""Rewriting a traced graph into one that computes the same, and the gradients, with fewer and cheaper operators.

The objective, a sum of sums, is taken apart term by term. Then it is derived; where that cannot be done, gradients are
left to MXNet. Last, operators of MXNet that are slow give way to fast ones.
"""

from mxfusion_mvn.inference.compiler.derivatives.reverse import differentiated
from mxfusion_mvn.inference.compiler.graph import live_graph
from mxfusion_mvn.inference.compiler.rewriter import Rewriter
from mxfusion_mvn.inference.compiler.rules.basic import BASIC
from mxfusion_mvn.inference.compiler.rules.lowering import LOWERING, LOWERING_WITHOUT_GRADIENTS, with_few_uses
from mxfusion_mvn.inference.compiler.rules.pieces import PIECES
from mxfusion_mvn.inference.compiler.rules.products import row
from mxfusion_mvn.inference.compiler.rules.scalars import SCALARS, absorbed
from mxfusion_mvn.inference.compiler.rules.splits import with_splits
from mxfusion_mvn.inference.compiler.rules.sums import summed


def simplify(graph, is_derived=True):
    """
    The simplified graph.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph`.
    :param is_derived: whether gradients are to be part of it, if all of its operators have a known adjoint.
    :returns: a graph of the same loss and objective.
    """
    ctx = next(node for node in graph.nodes if node.is_leaf).array.context
    graph = with_splits(_summed(Rewriter(BASIC, ctx), graph))
    derived = differentiated(Rewriter(BASIC, ctx), graph) if is_derived else None
    if derived is None:
        return with_few_uses(_live(Rewriter(LOWERING_WITHOUT_GRADIENTS, ctx).rewrite(graph)))
    derived = _summed(Rewriter((_unblocked, row, *PIECES, *SCALARS, *BASIC), ctx), _live(derived))
    return _live(Rewriter(LOWERING, ctx).rewrite(absorbed(derived)))


def _summed(rewriter, graph):
    graph = rewriter.rewrite(graph)
    heads = [summed(rewriter, entry, graph.results is not None) for entry in (graph.loss, graph.objective)]
    return _live(graph._replace(loss=heads[0], objective=heads[1]))


def _live(graph):
    return live_graph(*graph)


def _unblocked(rewriter, node):
    """When gradients are part of a graph, nothing has to be kept from them."""
    return node.inputs[0] if node.operator == "BlockGrad" else None
