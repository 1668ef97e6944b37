# SPDX-License-Identifier: Apache-2.0
"""The adjoints of operators on axes; see :mod:`~mxfusion_mvn.inference.compiler.derivatives.reverse`."""

import ast

from mxfusion_mvn.inference.compiler.derivatives.arithmetic import is_true, times, unbroadcast
from mxfusion_mvn.inference.compiler.graph import Node
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, shape_of, size_of
from mxfusion_mvn.inference.compiler.rules.lowering import reduced_axes

import numpy as np


def _reshape(rewriter, node, gradient):
    return [rewriter.reshaped(gradient, shape_of(node.inputs[0])), *[None] * (len(node.inputs) - 1)]


def _transpose(rewriter, node, gradient):
    axes = ast.literal_eval(node.attributes.get("axes", "()")) or range(len(node.shapes[0]))[::-1]
    back = tuple(int(axis) for axis in np.argsort([axis % len(node.shapes[0]) for axis in axes]))
    return [rewriter.call("transpose", [gradient], shape_of(node.inputs[0]), {"axes": back})]


def _broadcast(rewriter, node, gradient):
    return [unbroadcast(rewriter, gradient, shape_of(node.inputs[0]))]


def _sum(rewriter, node, gradient):
    shape, axes = shape_of(node.inputs[0]), reduced_axes(node)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if node.operator == "mean":
        gradient = times(rewriter, gradient, size_of((node, 0)) / size_of(node.inputs[0]))
    return [rewriter.broadcast(rewriter.reshaped(gradient, kept), shape)]


def _slice_axis(rewriter, node, gradient):
    shape, axis = shape_of(node.inputs[0]), int(node.attributes["axis"])
    begin = int(node.attributes["begin"])
    return [_padded(rewriter, gradient, axis % len(shape), begin % shape[axis], shape)]


def _slice(rewriter, node, gradient):
    shape = shape_of(node.inputs[0])
    begins, steps = (ast.literal_eval(node.attributes.get(name, "()")) for name in ("begin", "step"))
    if any(step not in (None, 1) for step in steps):
        return None
    for axis, begin in enumerate(begins):
        begin = begin or 0
        gradient = _padded(rewriter, gradient, axis, begin if begin >= 0 else max(begin + shape[axis], 0), shape)
    return [gradient]


def _padded(rewriter, gradient, axis, begin, shape):
    """Zeros on both sides, up to the size of an axis."""
    own = shape_of(gradient)
    parts = [_zeros(rewriter, gradient, own[:axis] + (begin,) + own[axis + 1 :]), gradient]
    parts.append(_zeros(rewriter, gradient, own[:axis] + (shape[axis] - begin - own[axis],) + own[axis + 1 :]))
    return _joined(rewriter, [part for part in parts if part is not None], axis)


def _zeros(rewriter, like, shape):
    return rewriter.constant(np.zeros(shape, dtype_of(like)), dtype_of(like)) if 0 not in shape else None


def _joined(rewriter, parts, axis):
    if len(parts) == 1:
        return parts[0]
    first = shape_of(parts[0])
    size = sum(shape_of(part)[axis] for part in parts)
    return rewriter.call("Concat", parts, first[:axis] + (size,) + first[axis + 1 :], {"dim": axis})


def _split(rewriter, node, gradients):
    if is_true(node, "squeeze_axis"):
        return None
    axis = int(node.attributes.get("axis", "1")) % len(node.shapes[0])
    gradients = gradients if isinstance(gradients, list) else [gradients]
    parts = [
        _zeros(rewriter, node.inputs[0], shape) if gradient is None else gradient
        for gradient, shape in zip(gradients, node.shapes)
    ]
    return [_joined(rewriter, parts, axis)]


def _concat(rewriter, node, gradient):
    axis = int(node.attributes.get("dim", "1")) % len(node.shapes[0])
    return _pieces(rewriter, gradient, axis, [shape_of(entry) for entry in node.inputs])


def _stack(rewriter, node, gradient):
    axis = int(node.attributes.get("axis", "0")) % len(node.shapes[0])
    shape = shape_of(node.inputs[0])
    kept = shape[:axis] + (1,) + shape[axis:]
    pieces = _pieces(rewriter, gradient, axis, [kept] * len(node.inputs))
    return [rewriter.reshaped(piece, shape) for piece in pieces]


def _pieces(rewriter, gradient, axis, shapes):
    if len(set(shapes)) == 1 and len(shapes) > 1:
        attributes = {"num_outputs": str(len(shapes)), "axis": str(axis)}
        node = Node("SliceChannel", [gradient], attributes, shapes, [dtype_of(gradient).type] * len(shapes))
        split = rewriter.add(node)[0]
        return [(split, index) for index in range(len(shapes))]
    pieces, begin = [], 0
    for shape in shapes:
        attributes = {"axis": axis, "begin": begin, "end": begin + shape[axis]}
        pieces.append(rewriter.call("slice_axis", [gradient], shape, attributes))
        begin += shape[axis]
    return pieces


AXES = {
    **dict.fromkeys(("Reshape", "_np_reshape", "reshape_like"), _reshape),
    "transpose": _transpose,
    "broadcast_to": _broadcast,
    **dict.fromkeys(("sum", "mean"), _sum),
    "slice_axis": _slice_axis,
    "slice": _slice,
    "SliceChannel": _split,
    "Concat": _concat,
    "stack": _stack,
}
