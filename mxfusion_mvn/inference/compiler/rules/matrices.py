# SPDX-License-Identifier: Apache-2.0
"""Rules for matrices that are broadcast along batch axes: what many share is factored, and solved with, once.

With one factor L for the vectors r_1, ..., r_M of a batch::

    L^-1 r_m for all m    is    R L^-T    for the matrix R with the rows r_m
"""

from mxfusion_mvn.inference.compiler.rewriter import is_operator, shape_of

import numpy as np

# Functions of a matrix, and how many axes of their result belong to it.
_OF_MATRIX = {"_linalg_potrf": 2, "_linalg_potri": 2, "_linalg_sumlogdiag": 0, "_linalg_extractdiag": 1}
_OF_FACTOR_AND_VECTOR = ("_linalg_trsm", "_linalg_trmm")


def factor_once(rewriter, node):
    """
    A rule: a function of a matrix that is broadcast is computed before it is broadcast.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param node: the node that is to be made.
    :returns: an entry, or None.
    """
    if node.operator not in _OF_MATRIX or len(node.shapes) > 1 or not _is_batch(node.inputs[0]):
        return None
    source = node.inputs[0][0].inputs[0]
    batch, event = shape_of(source)[:-2], node.shapes[0][len(node.shapes[0]) - _OF_MATRIX[node.operator] :]
    value = rewriter.call(node.operator, [source], (batch + event) or (1,), node.attributes)
    return rewriter.broadcast(value, node.shapes[0])


def solve_together(rewriter, node):
    """
    A rule: triangular systems of vectors that share a factor are one system.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param node: the node that is to be made.
    :returns: an entry, or None.
    """
    if node.operator not in _OF_FACTOR_AND_VECTOR or not _is_batch(node.inputs[0]) or _flag(node, "rightside"):
        return None
    (factor, _), vectors = node.inputs
    shape, own = node.shapes[0], shape_of(factor.inputs[0])[:-2]
    kept = max([axis + 1 for axis, size in enumerate(own) if size > 1], default=0)
    if shape[-1] != 1 or own[:kept] != shape[:kept]:
        return None
    groups, size = int(np.prod(shape[:kept], dtype="int64")), shape[-2]
    batch = (groups,) if groups > 1 else ()
    matrix = rewriter.reshaped(factor.inputs[0], batch + (size, size))
    rows = rewriter.reshaped(vectors, batch + (int(np.prod(shape[kept:-2], dtype="int64")), size))
    attributes = {**node.attributes, "rightside": "True", "transpose": str(not _flag(node, "transpose"))}
    return rewriter.reshaped(rewriter.call(node.operator, [matrix, rows], shape_of(rows), attributes), shape)


def _is_batch(entry):
    """Whether an entry is a matrix that is broadcast along its leading axes."""
    return is_operator(entry, "broadcast_to") and shape_of(entry[0].inputs[0])[-2:] == shape_of(entry)[-2:]


def _flag(node, name):
    return node.attributes.get(name, "False") in ("True", "1")
