# SPDX-License-Identifier: Apache-2.0
"""Rules for parts of arrays: gradients of slices, and products with parts that are not there.

The gradient of a slice is an array of zeros with a piece in it. The sum of several is one array of all pieces.
"""

from mxfusion_mvn.inference.compiler.graph import CONSTANT
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, is_operator, shape_of, size_of

import numpy as np


def _within_reshape(rewriter, node):
    """What is computed of each number is computed in the shape with the fewest axes, where reshapes cancel."""
    is_elementwise = node.operator.startswith(("_backward_", "elemwise_", "broadcast_")) and len(node.inputs) == 2
    if not is_elementwise or any(shape_of(entry) != node.shapes[0] for entry in node.inputs):
        return None
    shapes = [shape_of(entry[0].inputs[0]) for entry in node.inputs if is_operator(entry, "Reshape")]
    shape = min(shapes, key=len, default=node.shapes[0])
    if len(shape) >= len(node.shapes[0]):
        return None
    inputs = [rewriter.reshaped(entry, shape) for entry in node.inputs]
    return rewriter.reshaped(rewriter.call(node.operator, inputs, shape, node.attributes), node.shapes[0])


def _slice_of_reshape(rewriter, node):
    """A slice along a last axis that a reshape keeps can be taken before."""
    if node.operator != "slice_axis" or not is_operator(node.inputs[0], "Reshape"):
        return None
    reshaped, inner = node.inputs[0], node.inputs[0][0].inputs[0]
    last = shape_of(reshaped)[-1]
    is_last = int(node.attributes["axis"]) in (-1, len(shape_of(reshaped)) - 1)
    if not is_last or shape_of(inner)[-1] != last:
        return None
    shape = shape_of(inner)[:-1] + node.shapes[0][-1:]
    attributes = {**node.attributes, "axis": -1}
    return rewriter.reshaped(rewriter.call("slice_axis", [inner], shape, attributes), node.shapes[0])


def _sum_of_pieces(rewriter, node):
    if node.operator not in ("elemwise_add", "broadcast_add"):
        return None
    if not all(is_operator(entry, "Concat") and shape_of(entry) == node.shapes[0] for entry in node.inputs):
        return None
    (axis, first), (other, second) = (_pieces(entry[0]) for entry in node.inputs)
    pieces = sorted(first + second, key=lambda piece: piece[0])
    if not pieces:
        return node.inputs[0]
    ends = [begin + shape_of(entry)[axis] for begin, entry in pieces]
    if axis != other or any(end > begin for end, (begin, _) in zip(ends, pieces[1:])):
        return None
    parts, at = [], 0
    for begin, entry in pieces:
        parts += _gap(rewriter, entry, axis, begin - at) + [entry]
        at = begin + shape_of(entry)[axis]
    parts += _gap(rewriter, pieces[-1][1], axis, node.shapes[0][axis] - at)
    return parts[0] if len(parts) == 1 else rewriter.call("Concat", parts, node.shapes[0], {"dim": axis})


def _pieces(node):
    """The axis along which a node joins arrays, and pairs (begin, entry) of those that are not zero."""
    axis = int(node.attributes.get("dim", "1")) % len(node.shapes[0])
    pieces, at = [], 0
    for entry in node.inputs:
        if not _is_zero(entry):
            pieces.append((at, entry))
        at += shape_of(entry)[axis]
    return axis, pieces


def _is_zero(entry):
    if is_operator(entry, "broadcast_to"):
        entry = entry[0].inputs[0]
    return is_operator(entry, CONSTANT) and not entry[0].array.asnumpy().any()


def _gap(rewriter, like, axis, size):
    shape = shape_of(like)[:axis] + (size,) + shape_of(like)[axis + 1 :]
    return [rewriter.constant(np.zeros(shape, dtype_of(like)), dtype_of(like))] if size else []


def _product_with_number(rewriter, node):
    """Products of (B..., m, 1) and (B..., 1, n), one of m and n being 1."""
    if node.operator != "_linalg_gemm2" or "axis" in node.attributes:
        return None
    rows, columns = node.shapes[0][-2:]
    if min(rows, columns) > 1 or size_of(node.inputs[0]) != size_of((node, 0)) // columns:
        return None
    batch = node.shapes[0][:-2]
    left, right = node.inputs
    factors = [rewriter.reshaped(left, batch + (rows, 1)), rewriter.reshaped(right, batch + (1, columns))]
    product = rewriter.call("broadcast_mul", factors, node.shapes[0])
    return rewriter.call("_mul_scalar", [product], node.shapes[0], {"scalar": node.attributes.get("alpha", "1.0")})


def _masked_triangle(rewriter, node):
    """What is taken out of a matrix need not be masked, if the mask is one there."""
    if node.operator != "_linalg_extracttrian" or not is_operator(node.inputs[0], "elemwise_mul", "broadcast_mul"):
        return None
    offset = int(node.attributes.get("offset", "0"))
    if offset > 0 or node.attributes.get("lower", "True") not in ("True", "1"):
        return None
    for mask, matrix in (node.inputs[0][0].inputs, node.inputs[0][0].inputs[::-1]):
        if is_operator(mask, CONSTANT) and shape_of(matrix) == shape_of(node.inputs[0]):
            values = mask[0].array.asnumpy()
            size = shape_of(matrix)[-1]
            square = np.broadcast_to(values, np.broadcast_shapes(values.shape, (size, size)))
            if (square[(..., *np.tril_indices(size, offset))] == 1).all():
                return rewriter.call(node.operator, [matrix], node.shapes[0], node.attributes)
    return None


PIECES = (_within_reshape, _slice_of_reshape, _sum_of_pieces, _product_with_number, _masked_triangle)
