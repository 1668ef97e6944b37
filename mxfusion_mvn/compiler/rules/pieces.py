# SPDX-License-Identifier: Apache-2.0
"""Rules for parts of arrays: gradients of slices, and products with zeros.

The gradient of a slice is an array of zeros with a piece in it. The sum of several is one array of all pieces.
"""

from mxfusion_mvn.compiler.graph import CONSTANT
from mxfusion_mvn.compiler.rewriter import rule
from mxfusion_mvn.compiler.rules.masks import is_zero

import numpy as np


@rule()
def _within_reshape(rewriter, node):
    """Functions of entries are computed in the shape with the fewest axes, where reshapes cancel."""
    is_elementwise = node.operator.startswith(("_backward_", "elemwise_", "broadcast_")) and len(node.inputs) == 2
    if not is_elementwise or any(entry.shape != node.shape for entry in node.inputs):
        return None
    shapes = [entry.inputs[0].shape for entry in node.inputs if entry.is_a("Reshape")]
    shape = min(shapes, key=len, default=node.shape)
    if len(shape) >= len(node.shape):
        return None
    inputs = [rewriter.reshaped(entry, shape) for entry in node.inputs]
    return rewriter.reshaped(rewriter.call(node.operator, inputs, shape, node.attributes), node.shape)


@rule("slice_axis")
def _slice_of_reshape(rewriter, node):
    """A slice along a last axis that a reshape keeps can be taken before."""
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


@rule("elemwise_add", "broadcast_add")
def _sum_of_pieces(rewriter, node):
    """A sum of arrays of zeros with a piece in each is one array of all pieces."""
    if not all(entry.is_a("Concat") and entry.shape == node.shape for entry in node.inputs):
        return None
    (axis, first), (other, second) = (_pieces(entry.node) for entry in node.inputs)
    pieces = sorted(first + second, key=lambda piece: piece[0])
    if not pieces:
        return node.inputs[0]
    ends = [begin + entry.shape[axis] for begin, entry in pieces]
    if axis != other or any(end > begin for end, (begin, _) in zip(ends, pieces[1:])):
        return None
    parts, at = [], 0
    for begin, entry in pieces:
        parts += _gap(rewriter, entry, axis, begin - at) + [entry]
        at = begin + entry.shape[axis]
    parts += _gap(rewriter, pieces[-1][1], axis, node.shape[axis] - at)
    return parts[0] if len(parts) == 1 else rewriter.call("Concat", parts, node.shape, {"dim": axis})


def _pieces(node):
    """The axis along which a node joins arrays, and pairs (begin, entry) of those that are not zero."""
    axis = node["dim"] % len(node.shape)
    pieces, at = [], 0
    for entry in node.inputs:
        if not is_zero(entry):
            pieces.append((at, entry))
        at += entry.shape[axis]
    return axis, pieces


def _gap(rewriter, like, axis, size):
    shape = like.shape[:axis] + (size,) + like.shape[axis + 1 :]
    return [rewriter.constant(np.zeros(shape, like.dtype), like.dtype)] if size else []


@rule("_linalg_gemm2")
def _product_with_scalar(rewriter, node):
    """Products of (B..., m, 1) and (B..., 1, n), one of m and n being 1."""
    if "axis" in node.attributes:
        return None
    rows, columns = node.shape[-2:]
    if min(rows, columns) > 1 or node.inputs[0].size != node.size // columns:
        return None
    batch = node.shape[:-2]
    left, right = node.inputs
    factors = [rewriter.reshaped(left, batch + (rows, 1)), rewriter.reshaped(right, batch + (1, columns))]
    product = rewriter.call("broadcast_mul", factors, node.shape)
    return rewriter.call("_mul_scalar", [product], node.shape, {"scalar": repr(node["alpha"])})


@rule("_linalg_extracttrian")
def _masked_triangle(rewriter, node):
    """A triangle that is taken out of a matrix need not be masked, if the mask is one there."""
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


PIECES = (_within_reshape, _slice_of_reshape, _sum_of_pieces, _product_with_scalar, _masked_triangle)
