# SPDX-License-Identifier: Apache-2.0
"""From a traced graph to one that computes the same, and the gradients, with fewer and cheaper operators.

The passes, in their order, and the form that each leaves:

``canonical``
    Operators that do nothing are gone. Broadcasts and reshapes come as late as possible, arrays of equal shapes are
    added by ``elemwise_add`` (and so on), constants are folded. The objective, a sum of sums, is summed term by term.
``splits``
    Slices that together make up an array are outputs of one split.
``gradients``
    The gradients are results of the graph. If an operator has no known adjoint, ``mxnet_gradients`` follows instead,
    as the last pass.
``scalars``
    Scalars that multiply arrays are moved outward, and multiplied with each other.
``absorbed``
    Scalars are part of the products that they multiply.
``lowered``
    Slow operators of MXNet are replaced by fast ones: sums and broadcasts are dot products, ``elemwise_add`` is
    ``broadcast_add`` again.
``mxnet_gradients``
    As ``lowered``, for gradients that are left to MXNet, whose backward operators are fastest for equal shapes. Entries
    that many nodes use are copied.

The rules of ``canonical`` and of ``lowered`` undo each other, so they must not be in one Rewriter.
"""

from mxfusion_mvn.compiler.derivatives.reverse import differentiated
from mxfusion_mvn.compiler.graph import live_graph
from mxfusion_mvn.compiler.rewriter import Rewriter, rule
from mxfusion_mvn.compiler.rules.basic import BASIC
from mxfusion_mvn.compiler.rules.lowering import LOWERING, LOWERING_WITHOUT_GRADIENTS, split_heavily_used_entries
from mxfusion_mvn.compiler.rules.masks import diagonal_of_mask, triangle_of_product
from mxfusion_mvn.compiler.rules.products import product_with_scalar, row
from mxfusion_mvn.compiler.rules.scalars import SCALARS, absorbed
from mxfusion_mvn.compiler.rules.splits import slice_of_reshape, with_splits
from mxfusion_mvn.compiler.rules.sums import summed


def simplify(graph, is_derived=True):
    """
    The simplified graph.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :param is_derived: whether gradients are to be part of it, if all of its operators have a known adjoint.
    :returns: a graph of the same loss and objective.
    """
    return both_forms(graph, is_derived)[0]


def both_forms(graph, is_derived=True):
    """
    The simplified graph for MXNet's operators, and for the native engine.

    :param graph: as in :func:`simplify`.
    :param is_derived: as in :func:`simplify`.
    :returns: two graphs, the second before the pass ``lowered``; it is None if MXNet finds the gradients.
    """
    found = dict(passes(graph, is_derived))
    return list(found.values())[-1], found.get("absorbed")


def passes(graph, is_derived=True):
    """
    Simplify, pass by pass.

    :param graph: as in :func:`simplify`.
    :param is_derived: as in :func:`simplify`.
    :returns: iterator of pairs: the name of a pass, and the graph after it.
    """
    ctx = next(node for node in graph.nodes if node.is_leaf).array.context
    graph = _summed(Rewriter(BASIC, ctx), graph)
    yield "canonical", graph
    graph = with_splits(graph)
    yield "splits", graph
    derived = differentiated(Rewriter(BASIC, ctx), graph) if is_derived else None
    if derived is None:
        yield "mxnet_gradients", split_heavily_used_entries(_rewritten(LOWERING_WITHOUT_GRADIENTS, ctx, graph))
        return
    graph = live_graph(*derived)
    yield "gradients", graph
    graph = _summed(Rewriter((*_DERIVED, *SCALARS, *BASIC), ctx), graph)
    yield "scalars", graph
    graph = absorbed(graph)
    yield "absorbed", graph
    yield "lowered", _rewritten(LOWERING, ctx, graph)


def _rewritten(rules, ctx, graph):
    return live_graph(*Rewriter(rules, ctx).rewrite(graph))


def _summed(rewriter, graph):
    graph = rewriter.rewrite(graph)
    heads = [summed(rewriter, entry, graph.results is not None) for entry in (graph.loss, graph.objective)]
    return live_graph(*graph._replace(loss=heads[0], objective=heads[1]))


@rule("BlockGrad")
def _unblocked(rewriter, node):
    """A graph whose gradients are part of it needs no BlockGrad any more."""
    return node.inputs[0]


# Rules for operators that occur in gradients.
_DERIVED = (_unblocked, row, diagonal_of_mask, triangle_of_product, product_with_scalar, slice_of_reshape)
