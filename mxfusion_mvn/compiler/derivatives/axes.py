# SPDX-License-Identifier: Apache-2.0
"""The adjoints of operators on axes; see :mod:`~mxfusion_mvn.compiler.derivatives.reverse`."""

from mxfusion_mvn.compiler.derivatives.arithmetic import adjoint, times, unbroadcast
from mxfusion_mvn.compiler.graph import Node
from mxfusion_mvn.compiler.operators import reduced_axes

import numpy as np


@adjoint("Reshape", "_np_reshape", "reshape_like")
def _reshape(rewriter, node, gradient):
    return [rewriter.reshaped(gradient, node.inputs[0].shape), *[None] * (len(node.inputs) - 1)]


@adjoint("transpose")
def _transpose(rewriter, node, gradient):
    axes = node["axes"] or range(len(node.shape))[::-1]
    back = tuple(int(axis) for axis in np.argsort([axis % len(node.shape) for axis in axes]))
    return [rewriter.call("transpose", [gradient], node.inputs[0].shape, {"axes": back})]


@adjoint("broadcast_to")
def _broadcast(rewriter, node, gradient):
    return [unbroadcast(rewriter, gradient, node.inputs[0].shape)]


@adjoint("sum", "mean")
def _sum(rewriter, node, gradient):
    shape, axes = node.inputs[0].shape, reduced_axes(node)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if node.operator == "mean":
        gradient = times(rewriter, gradient, node.size / node.inputs[0].size)
    return [rewriter.broadcast(rewriter.reshaped(gradient, kept), shape)]


@adjoint("slice_axis")
def _slice_axis(rewriter, node, gradient):
    shape, axis = node.inputs[0].shape, node["axis"]
    return [_padded(rewriter, gradient, axis % len(shape), node["begin"] % shape[axis], shape)]


@adjoint("slice")
def _slice(rewriter, node, gradient):
    shape = node.inputs[0].shape
    if any(step not in (None, 1) for step in node["step"]):
        return None
    for axis, begin in enumerate(node["begin"]):
        begin = begin or 0
        gradient = _padded(rewriter, gradient, axis, begin if begin >= 0 else max(begin + shape[axis], 0), shape)
    return [gradient]


def _padded(rewriter, gradient, axis, begin, shape):
    """Pad with zeros on both sides, up to the size of an axis."""
    own = gradient.shape
    parts = [_zeros(rewriter, gradient, own[:axis] + (begin,) + own[axis + 1 :]), gradient]
    parts.append(_zeros(rewriter, gradient, own[:axis] + (shape[axis] - begin - own[axis],) + own[axis + 1 :]))
    return _joined(rewriter, [part for part in parts if part is not None], axis)


def _zeros(rewriter, like, shape):
    return rewriter.constant(np.zeros(shape, like.dtype), like.dtype) if 0 not in shape else None


def _joined(rewriter, parts, axis):
    if len(parts) == 1:
        return parts[0]
    first = parts[0].shape
    size = sum(part.shape[axis] for part in parts)
    return rewriter.call("Concat", parts, first[:axis] + (size,) + first[axis + 1 :], {"dim": axis})


@adjoint("SliceChannel")
def _split(rewriter, node, gradients):
    if node["squeeze_axis"]:
        return None
    axis = node["axis"] % len(node.shape)
    gradients = gradients if isinstance(gradients, list) else [gradients]
    parts = [
        _zeros(rewriter, node.inputs[0], shape) if gradient is None else gradient
        for gradient, shape in zip(gradients, node.shapes)
    ]
    return [_joined(rewriter, parts, axis)]


@adjoint("Concat")
def _concat(rewriter, node, gradient):
    axis = node["dim"] % len(node.shape)
    return _pieces(rewriter, gradient, axis, [entry.shape for entry in node.inputs])


@adjoint("stack")
def _stack(rewriter, node, gradient):
    axis = node["axis"] % len(node.shape)
    shape = node.inputs[0].shape
    kept = shape[:axis] + (1,) + shape[axis:]
    pieces = _pieces(rewriter, gradient, axis, [kept] * len(node.inputs))
    return [rewriter.reshaped(piece, shape) for piece in pieces]


def _pieces(rewriter, gradient, axis, shapes):
    if len(set(shapes)) == 1 and len(shapes) > 1:
        parts = {"num_outputs": str(len(shapes)), "axis": str(axis)}
        node = Node("SliceChannel", [gradient], parts, shapes, [gradient.dtype] * len(shapes))
        split = rewriter.add(node).node
        return [split.entry(index) for index in range(len(shapes))]
    pieces, begin = [], 0
    for shape in shapes:
        attributes = {"axis": axis, "begin": begin, "end": begin + shape[axis]}
        pieces.append(rewriter.call("slice_axis", [gradient], shape, attributes))
        begin += shape[axis]
    return pieces
