# SPDX-License-Identifier: Apache-2.0
"""The adjoints of operators on axes; see :mod:`~mxfusion_mvn.compiler.derivatives.reverse`."""

from functools import partial

from mxfusion_mvn.compiler.derivatives.arithmetic import adjoint, binary, times, unary, unbroadcast
from mxfusion_mvn.compiler.graph import Node
from mxfusion_mvn.compiler.operators import reduced_axes
from mxfusion_mvn.compiler.rewriter import constant_array
from mxfusion_mvn.compiler.thresholds import SMALL_TABLE

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
    if node.operator == "mean":
        gradient = times(rewriter, gradient, node.size / node.inputs[0].size)
    return [rewriter.broadcast(_kept(rewriter, node, gradient), node.inputs[0].shape)]


def _kept(rewriter, node, entry):
    """An array of the shape of a reduction with the axes that it goes over, of size 1."""
    axes = reduced_axes(node)
    return rewriter.reshaped(entry, tuple(1 if k in axes else n for k, n in enumerate(node.inputs[0].shape)))


@adjoint("norm")
def _norm(rewriter, node, gradient):
    """Where all entries are zero, the gradient of the Euclidean norm is nan, as in MXNet."""
    (array,) = node.inputs
    if node["ord"] == 1:
        return [times(rewriter, _kept(rewriter, node, gradient), unary(rewriter, "sign", array))]
    return [times(rewriter, _kept(rewriter, node, binary(rewriter, "div", gradient, node.entry())), array)]


@adjoint("softmax", "log_softmax")
def _softmax(rewriter, node, gradient):
    """Of y = softmax(x), y (g - sum(g y)); of its logarithm, g - y sum(g)."""
    if len(node.inputs) > 1 or node["temperature"] not in (None, 1) or node.dtype != node.inputs[0].dtype:
        return None
    total = partial(_total, rewriter, node["axis"] % len(node.shape))
    value = node.entry()
    if node.operator == "softmax":
        mean = total(times(rewriter, gradient, value))
        return [times(rewriter, value, binary(rewriter, "sub", gradient, mean))]
    probabilities = unary(rewriter, "exp", value)
    return [binary(rewriter, "sub", gradient, times(rewriter, probabilities, total(gradient)))]


def _total(rewriter, axis, entry):
    kept = entry.shape[:axis] + (1,) + entry.shape[axis + 1 :]
    return rewriter.call("sum", [entry], kept, {"axis": (axis,), "keepdims": True})


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


@adjoint("take")
def _take(rewriter, node, gradient):
    """Each entry gets the sum of the gradients of its copies, which a second ``take`` brings together."""
    array, index = node.inputs
    axis, positions = node["axis"] % len(array.shape), _positions(node, array, index)
    if positions is None:
        return None
    before, size, after = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
    table = _places_of_copies(positions, size)
    if table is None:
        return None
    copies = rewriter.reshaped(gradient, before + (positions.size,) + after)
    if (table == positions.size).any():
        copies = _joined(rewriter, [copies, _zeros(rewriter, gradient, before + (1,) + after)], axis)
    table = rewriter.constant(table, "int32")
    attributes = {"axis": axis, "mode": "clip"}
    groups = rewriter.call("take", [copies, table], before + table.shape + after, attributes)
    return [rewriter.call("sum", [groups], array.shape, {"axis": (axis,)}), None]


def _positions(node, array, index):
    """Constant positions along an axis, as MXNet reads them: an array of int; None if they are not constant."""
    positions = constant_array(index)
    if positions is None or node["mode"] not in ("clip", "wrap"):
        return None
    positions, size = positions.asnumpy().astype("int64"), array.shape[node["axis"]]
    return positions % size if node["mode"] == "wrap" else positions.clip(0, size - 1)


def _places_of_copies(positions, size):
    """
    Where each entry was copied to, and ``positions.size`` where it has fewer copies than another one.

    :param positions: array of int, the entry that each copy is of.
    :param size: how many entries there are.
    :returns: array (copies, entries) of int; None if most of a large one would be such gaps.
    """
    positions = positions.ravel()
    counts = np.bincount(positions, minlength=size)
    if counts.max() * size > max(SMALL_TABLE, 4 * (positions.size + size)):
        return None
    order = np.argsort(positions, kind="stable")
    rank = np.arange(positions.size) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((counts.max(), size), positions.size)
    table[rank, positions[order]] = order
    return table


@adjoint("pick")
def _pick(rewriter, node, gradient):
    array, index = node.inputs
    positions = _positions(node, array, index)
    if positions is None:
        return None
    shape, axis = array.shape, node["axis"] % len(array.shape)
    kept = shape[:axis] + (1,) + shape[axis + 1 :]
    numbers = np.arange(shape[axis]).reshape([-1] + [1] * (len(shape) - 1 - axis))
    is_picked = rewriter.constant((positions.reshape(kept) == numbers).astype(array.dtype), array.dtype)
    spread = rewriter.broadcast(rewriter.reshaped(gradient, kept), shape)
    zeros = rewriter.broadcast(rewriter.constant(np.zeros((1,) * len(shape)), array.dtype), shape)
    return [rewriter.call("where", [is_picked, spread, zeros], shape, dtype=array.dtype), None]


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
