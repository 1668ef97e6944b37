# SPDX-License-Identifier: Apache-2.0
"""Kronecker products, and the vectors that they act on as matrices, read row by row."""

from mxfusion_mvn.linalg import axes
from mxfusion_mvn.linalg.axes import namespace

import mxnet as mx


def kronecker(left, right):
    """
    Kronecker products; leading axes broadcast.

    :param left: (B..., N, E).
    :param right: (B..., M, G).
    :returns: (B..., N M, E G).
    """
    F = namespace(left)
    if F is mx.nd and max(left.ndim, right.ndim) > 3:  # MXNet broadcasts along five axes at most
        left, right = axes.broadcast_leading(left, right)
        leading = left.shape[:-2]
        flat = kronecker(left.reshape((-1, *left.shape[-2:])), right.reshape((-1, *right.shape[-2:])))
        return flat.reshape((*leading, *flat.shape[-2:]))
    left = F.expand_dims(F.expand_dims(left, axis=-1), axis=-3)  # N, 1, E, 1
    right = F.expand_dims(F.expand_dims(right, axis=-2), axis=-4)  # 1, M, 1, G
    return F.reshape(axes.multiply(left, right), shape=(-2, -3, -3), reverse=True)


def flatten(matrices):
    """
    The last two axes as one, row by row.

    :param matrices: (B..., N, M).
    :returns: (B..., N M).
    """
    return namespace(matrices).reshape(matrices, shape=(-2, -3), reverse=True)


def unflatten(vectors, example):
    """
    The last axis as two.

    :param vectors: (B..., N M).
    :param example: (..., N, M); its shape alone matters.
    :returns: (B..., N, M).
    """
    F = namespace(vectors)
    return F.reshape_like(vectors, example, lhs_begin=-1, lhs_end=None, rhs_begin=-2, rhs_end=None)


def on_last_axis(kernel, matrices):
    """
    Apply a kernel on rows to the rows of many matrices.

    :param kernel: function from (K, P, M) to (K, P, G).
    :param matrices: (K, R, N, M).
    :returns: (K, R, N, G).
    """
    F = namespace(matrices)
    rows = kernel(F.reshape(matrices, shape=(-2, -3, 0), reverse=True))
    return F.reshape_like(rows, matrices, lhs_begin=-2, lhs_end=-1, rhs_begin=-3, rhs_end=-1)
