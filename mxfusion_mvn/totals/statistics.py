# SPDX-License-Identifier: Apache-2.0
"""Sufficient statistics of Gaussian rows, computed once, in float64: a few rows that stand for many.

Rows that share a mean and a covariance have a density that sees them only through their mean and their scatter::

    sum_n |A (x_n - mean)|^2 = N |A (x_mean - mean)|^2 + |A C^T|^2        C^T C = sum_n (x_n - x_mean) (x_n - x_mean)^T

The rows of C are made of the data by a QR factorisation, D of them at most. The scatter itself is never formed: its
condition number is the square of the condition number of C. The same holds for the residuals of a regression on a
constant design, whose means differ from row to row::

    sum_n |A (y_n - W x_n)|^2 = sum_j |A (v_j - W u_j)|^2                 [U V] = R,  [X Y] = Q R

Here A is any linear map, so all this holds for every structure of the covariance.
"""

from typing import Any, NamedTuple, Optional

from mxfusion_mvn.linalg.axes import size_of

import mxnet as mx
import numpy as np

# Rows that are factored at once: few enough to stay in a cache, and the memory needed does not grow with the data.
_CHUNK = 8192


class Rows(NamedTuple):
    """
    The arrays of the quadratic part of a total, with leading axes (S or 1, B...).

    It is the sum over rows of weight |A (value - mean)|^2, and of |A c|^2 for the rows c of the scatter.

    ``value`` NDArray (S or 1, B..., D); ``mean`` NDArray (S or 1, B..., D) or (S or 1, B..., 1); ``vectors`` how many
    vectors there are in each total; ``weight`` a number; ``scatter`` NDArray (R, 1, B..., D), each batch axis 1 unless
    the matrix varies along it, or None.
    """

    value: mx.nd.NDArray
    mean: mx.nd.NDArray
    vectors: int
    weight: float = 1.0
    scatter: Optional[mx.nd.NDArray] = None


def all_rows(value, mean, matrix_axes):
    """
    The rows as they are.

    :param value: NDArray (S or 1, B..., D).
    :param mean: NDArray (S or 1, B..., D).
    :param matrix_axes: the leading axes of the covariance, a tuple as long as the leading axes of the others.
    :returns: :class:`Rows`.
    """
    leading = np.broadcast_shapes(value.shape[:-1], mean.shape[:-1], matrix_axes)
    return Rows(value, mean, size_of(leading[1:]))


def standing_for_all(value, mean, counts):
    """
    The rows that stand for all, without missing entries.

    :param value: NDArray (1, M, D): the mean of the data, and below it a factor of their scatter.
    :param mean: NDArray (S or 1, 1, D).
    :param counts: NumPy array (M,), how many rows the data are, and zeros.
    :returns: :class:`Rows`.
    """
    count, dim = int(counts[0]), value.shape[-1]
    scatter = None if value.shape[1] == 1 else value.slice_axis(axis=1, begin=1, end=None).reshape((-1, 1, 1, dim))
    return Rows(value.slice_axis(axis=1, begin=0, end=1), mean, count, float(count), scatter)


def mean_and_scatter(value, mean, matrix_axes):
    """
    Mean and scatter over the axes along which neither the mean nor the covariance varies.

    :param value: constant NDArray (1, B..., D).
    :param mean: NDArray (S or 1, B..., D).
    :param matrix_axes: the leading axes of the covariance, a tuple as long as the leading axes of the others.
    :returns: :class:`Rows`; the rows as they are where there are too few of them for that to pay.
    """
    rows = all_rows(value, mean, matrix_axes)
    axes = range(1, value.ndim - 1)
    shared = tuple(i for i in axes if value.shape[i] > 1 and mean.shape[i] == matrix_axes[i] == 1)
    grouped = tuple(i for i in axes if value.shape[i] > 1 and matrix_axes[i] > 1)
    pooled = tuple(i for i in axes if value.shape[i] > 1 and i not in grouped)
    size = _size(value.shape, pooled)
    samples = max(mean.shape[0], matrix_axes[0])
    if not shared or (samples == 1 and size <= value.shape[-1]):
        return rows
    data = value.asnumpy()
    centre = data.mean(axis=shared, dtype="float64", keepdims=True)
    scatter = [
        compress(*_centred(block, middle))
        for block, middle in zip(_blocks(data, grouped, pooled, shared), _blocks(centre, grouped, pooled, shared))
    ]
    batch = tuple(value.shape[i] if i in grouped else 1 for i in axes)
    # Means may vary where the data do not: then each meets all of them.
    repeats = _size(mean.shape, (i for i in axes if value.shape[i] == matrix_axes[i] == 1))
    scatter = np.sqrt(repeats) * np.stack(scatter, axis=1).reshape((-1, 1) + batch + data.shape[-1:])
    return rows._replace(
        value=_like(centre, value), weight=float(_size(value.shape, shared)), scatter=_like(scatter, value)
    )


def design_and_response(design, value, groups=None, isotropic=False):
    """
    Rows of a regression with the same residual sums of squares and products, whatever the coefficients.

    :param design: NumPy array X (N, P).
    :param value: NumPy array Y (N, D).
    :param groups: NumPy array (N,) of integers, which coefficients belong to each row; None if all have the same.
    :param isotropic: whether the covariance is a multiple of the identity, so that only the sum of all squares matters.
    :returns: U (M, P), V (M, D) and groups (M,) or None, NumPy arrays with M <= N.
    """
    joined = np.concatenate([design, value], axis=1)
    parts, owners = [], []
    for group, members in _members(np.zeros(len(value), int) if groups is None else groups):
        rows = compress(joined[members])
        if isotropic and len(rows) > design.shape[1] + 1:
            rows = _merged(np.linalg.qr(rows, mode="r"), design.shape[1])
        parts.append(rows)
        owners.append(np.full(len(rows), group))
    rows = np.concatenate(parts)
    return rows[:, : design.shape[1]], rows[:, design.shape[1] :], None if groups is None else np.concatenate(owners)


def rows_of_patterns(value, index):
    """
    For each pattern of missing entries a few rows that stand for all of it.

    :param value: NumPy array (N, D), NaN where an entry is missing.
    :param index: NumPy array (N,) of integers, the pattern of each row.
    :returns: (rows, scale, count): the residual of row m is rows[m] - scale[m] mean; rows (M, D) has NaN where the
        pattern has, and scale is (M,). The rows of a pattern have a total count of the vectors that they stand for,
        count (M,).
    """
    rows, scale, count = [], [], []
    for _, members in _members(index):
        part = compress(np.concatenate([np.ones((len(members), 1)), np.nan_to_num(value[members])], axis=1))
        rows.append(np.where(np.isnan(value[members[0]]), np.nan, part[:, 1:]))
        scale.append(part[:, 0])
        count.append(np.where(np.arange(len(part)) == 0, len(members), 0))
    return np.concatenate(rows), np.concatenate(scale), np.concatenate(count)


def standing_for_patterns(value, counts):
    """
    As :func:`rows_of_patterns`, of rows that stand for all.

    :param value: NumPy array (M, D): for each pattern the mean, and below it a factor of the scatter.
    :param counts: NumPy array (M,), how many rows each mean is of, 0 for the rows of a factor.
    :returns: (rows, scale, count) as of that function.
    """
    scale = np.sqrt(counts)
    return np.where(counts > 0, scale, 1.0)[:, None] * value, scale, counts


def compress(rows, centre=0.0):
    """
    At most E rows with the same sums of squares and products.

    :param rows: NumPy array (N, E).
    :param centre: what is subtracted from each row, (E,) or a number.
    :returns: NumPy array (M, E) in float64: the rows if N <= E, else the factor R of their QR factorisation.
    """
    if len(rows) <= rows.shape[1]:
        return rows.astype("float64") - centre
    kept: Any = np.zeros((0, rows.shape[1]))
    with np.errstate(invalid="ignore"):  # of infinity comes NaN, which is told of where the loss is read
        for start in range(0, len(rows), _CHUNK):
            kept = np.linalg.qr(np.concatenate([kept, rows[start : start + _CHUNK] - centre]), mode="r")
    return kept


def _merged(rows, size):
    """The residual of the regression, as one row of the same norm."""
    left = np.zeros((1, rows.shape[1]))
    left[0, size] = np.linalg.norm(rows[size:, size:])
    return np.concatenate([rows[:size], left])


def _blocks(data, grouped, pooled, shared):
    """Views (the axes of means, the shared axes, D) of the rows of each group."""
    distinct = tuple(i for i in pooled if i not in shared)
    rest = tuple(i for i in range(data.ndim - 1) if i not in grouped + distinct + shared)
    ordered = data.transpose(grouped + rest + distinct + shared + (data.ndim - 1,))
    sizes = [_size(data.shape, axes) for axes in (grouped, distinct, shared)]
    return ordered.reshape(tuple(sizes) + data.shape[-1:])


def _centred(block, middle):
    if len(block) == 1:
        return block[0], middle[0, 0]
    return ((block - middle).reshape(-1, block.shape[-1]),)


def _members(index):
    """The positions of each value of an index, in ascending order of the values."""
    order = np.argsort(index, kind="stable")
    values, starts = np.unique(index[order], return_index=True)
    return zip(values, np.split(order, starts[1:]))


def _size(shape, axes):
    return size_of([shape[i] for i in axes])


def _like(array, example):
    return mx.nd.array(array, dtype=example.dtype, ctx=example.context)
