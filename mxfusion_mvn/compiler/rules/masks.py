# SPDX-License-Identifier: Apache-2.0
"""Rules for matrices that gradients mask, by ``where`` or by a product with zeros and ones."""

from mxfusion_mvn.compiler.graph import CONSTANT
from mxfusion_mvn.compiler.rewriter import rule

import numpy as np


@rule("where")
def mask_of_mask(rewriter, node):
    """Two constant masks become one: where(c, where(d, x, 0), 0) is where(c and d, x, 0)."""
    condition, inner, zeros = node.inputs
    if not (condition.is_a(CONSTANT) and inner.is_a("where") and is_zero(zeros)):
        return None
    inner_condition, first, second = inner.inputs
    if not inner_condition.is_a(CONSTANT) or inner_condition.shape != condition.shape:
        return None
    outer_mask, inner_mask = _values(condition) != 0, _values(inner_condition) != 0
    if is_zero(second):
        mask, kept = outer_mask & inner_mask, first
    elif is_zero(first):
        mask, kept = outer_mask & ~inner_mask, second
    else:
        return None
    mask = rewriter.constant(mask.astype(condition.dtype), condition.dtype)
    return rewriter.call("where", [mask, kept, zeros], node.shape, dtype=node.dtype)


@rule("_linalg_extractdiag")
def diagonal_of_mask(rewriter, node):
    """If only the diagonal of a matrix is read, a mask that is constant along the diagonal is not needed."""
    (matrix,) = node.inputs
    if not matrix.is_a("where") or not matrix.inputs[0].is_a(CONSTANT) or node["offset"] != 0:
        return None
    condition, first, second = matrix.inputs
    if condition.shape != matrix.shape:
        return None
    diagonal = np.diagonal(_values(condition), axis1=-2, axis2=-1) != 0
    if diagonal.all() or not diagonal.any():
        return rewriter.call(node.operator, [first if diagonal.all() else second], node.shape, node.attributes)
    return None


@rule("_linalg_extracttrian")
def triangle_of_product(rewriter, node):
    """If only a triangle of a matrix is read, a mask that is one in that triangle is not needed."""
    offset = node["offset"]
    if not node.inputs[0].is_a("elemwise_mul", "broadcast_mul") or offset > 0 or not node["lower"]:
        return None
    for mask, matrix in (node.inputs[0].inputs, node.inputs[0].inputs[::-1]):
        if mask.is_a(CONSTANT) and matrix.shape == node.inputs[0].shape:
            values = mask.node.array.asnumpy()
            size = matrix.shape[-1]
            square = np.broadcast_to(values, np.broadcast_shapes(values.shape, (size, size)))
            if (square[(..., *np.tril_indices(size, offset))] == 1).all():
                return rewriter.call(node.operator, [matrix], node.shape, node.attributes)
    return None


def _values(entry):
    return entry.node.array.asnumpy()


def is_zero(entry):
    """
    Whether an entry is a constant of zeros.

    :param entry: an entry.
    :returns: a bool.
    """
    if entry.is_a("broadcast_to"):
        (entry,) = entry.inputs
    return entry.is_a(CONSTANT) and not _values(entry).any()
