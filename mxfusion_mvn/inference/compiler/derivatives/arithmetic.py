# SPDX-License-Identifier: Apache-2.0
"""What adjoints are written with: arithmetic on the entries of a graph, broadcasting and its reverse."""

from mxfusion_mvn.inference.compiler.rewriter import shape_of

import numpy as np

_TRUE = ("True", "1")


def binary(rewriter, operator, left, right):
    """
    A function of two arrays, broadcast to each other.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param operator: its name without ``broadcast_``.
    :param left: entry.
    :param right: entry.
    :returns: an entry.
    """
    shape = np.broadcast_shapes(shape_of(left), shape_of(right))
    return rewriter.call(f"broadcast_{operator}", [left, right], shape)


def times(rewriter, left, right):
    """
    A product of two arrays, broadcast to each other.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param left: entry.
    :param right: entry, or a number.
    :returns: an entry.
    """
    if isinstance(right, float):
        return with_number(rewriter, "_mul_scalar", left, right)
    return binary(rewriter, "mul", left, right)


def unary(rewriter, operator, entry):
    """
    A function of each number.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param operator: its name.
    :param entry: entry.
    :returns: an entry.
    """
    return rewriter.call(operator, [entry], shape_of(entry))


def with_number(rewriter, operator, entry, number):
    """
    A function of an array and a number.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param operator: its name.
    :param entry: entry.
    :param number: a float.
    :returns: an entry.
    """
    return rewriter.call(operator, [entry], shape_of(entry), {"scalar": repr(float(number))})


def unbroadcast(rewriter, gradient, shape):
    """
    The gradient of what was broadcast.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param gradient: entry: that of the broadcast array.
    :param shape: the shape before, aligned to the right.
    :returns: an entry of that shape.
    """
    full = shape_of(gradient)
    padded = (1,) * (len(full) - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, (own, size) in enumerate(zip(padded, full)) if own != size)
    if axes:
        rest = tuple(size for axis, size in enumerate(full) if axis not in axes) or (1,)
        gradient = rewriter.call("sum", [gradient], rest, {"axis": axes})
    return rewriter.reshaped(gradient, shape)


def is_true(node, name):
    """
    Whether an attribute of a node is set.

    :param node: :class:`~mxfusion_mvn.inference.compiler.graph.Node`.
    :param name: the name of the attribute.
    :returns: a bool.
    """
    return node.attributes.get(name, "False") in _TRUE
