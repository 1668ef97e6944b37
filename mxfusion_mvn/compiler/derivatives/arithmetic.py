# SPDX-License-Identifier: Apache-2.0
"""Helpers for adjoints: arithmetic on the entries of a graph, broadcasting and its reverse."""

from typing import Callable, Dict

import numpy as np

ADJOINTS: Dict[str, Callable] = {}  # by the name of the operator


def adjoint(*operators):
    """
    Declare an adjoint, see :mod:`~mxfusion_mvn.compiler.derivatives.reverse`.

    :param operators: names of the operators whose adjoint it is.
    :returns: a decorator.
    """

    def declare(function):
        ADJOINTS.update(dict.fromkeys(operators, function))
        return function

    return declare


def binary(rewriter, operator, left, right):
    """
    A function of two arrays, broadcast to each other.

    :param rewriter: :class:`~mxfusion_mvn.compiler.rewriter.Rewriter`.
    :param operator: its name without ``broadcast_``.
    :param left: entry.
    :param right: entry.
    :returns: an entry.
    """
    shape = np.broadcast_shapes(left.shape, right.shape)
    return rewriter.call(f"broadcast_{operator}", [left, right], shape)


def times(rewriter, left, right):
    """
    A product of two arrays, broadcast to each other.

    :param rewriter: :class:`~mxfusion_mvn.compiler.rewriter.Rewriter`.
    :param left: entry.
    :param right: entry, or a float.
    :returns: an entry.
    """
    if isinstance(right, float):
        return with_scalar(rewriter, "_mul_scalar", left, right)
    return binary(rewriter, "mul", left, right)


def unary(rewriter, operator, entry):
    """
    A function of each entry.

    :param rewriter: :class:`~mxfusion_mvn.compiler.rewriter.Rewriter`.
    :param operator: its name.
    :param entry: entry.
    :returns: an entry.
    """
    return rewriter.call(operator, [entry], entry.shape)


def with_scalar(rewriter, operator, entry, number):
    """
    A function of an array and a scalar.

    :param rewriter: :class:`~mxfusion_mvn.compiler.rewriter.Rewriter`.
    :param operator: its name.
    :param entry: entry.
    :param number: a float.
    :returns: an entry.
    """
    return rewriter.call(operator, [entry], entry.shape, {"scalar": repr(float(number))})


def unbroadcast(rewriter, gradient, shape):
    """
    The gradient of an array that was broadcast.

    :param rewriter: :class:`~mxfusion_mvn.compiler.rewriter.Rewriter`.
    :param gradient: entry, the gradient of the broadcast array.
    :param shape: the shape before the broadcast, aligned to the right.
    :returns: an entry of that shape.
    """
    full = gradient.shape
    padded = (1,) * (len(full) - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, (own, size) in enumerate(zip(padded, full)) if own != size)
    if axes:
        rest = tuple(size for axis, size in enumerate(full) if axis not in axes) or (1,)
        gradient = rewriter.call("sum", [gradient], rest, {"axis": axes})
    return rewriter.reshaped(gradient, shape)
