# SPDX-License-Identifier: Apache-2.0
"""Expressions of arrays that broadcast, of which the compiler makes the same value and the same gradients."""

import mxnet as mx
from mxnet import autograd

from helpers.host import nd

# Expressions of x (S, N, D), a row (1, 1, D), a column (1, N, 1), one number and a constant of the shape of x. All are
# summed in a way that gives each entry a gradient of its own.
EXPRESSIONS = {
    "add_row": lambda x, row, column, number, constant: x + row,
    "subtract_from_row": lambda x, row, column, number, constant: row - x,
    "multiply_by_column": lambda x, row, column, number, constant: x * column,
    "divide_by_row": lambda x, row, column, number, constant: x / (row.square() + 1),
    "outer": lambda x, row, column, number, constant: column * row,
    "number": lambda x, row, column, number, constant: x * number - number,
    "power_of_number": lambda x, row, column, number, constant: mx.nd.broadcast_power(x.abs() + 0.1, number),
    "maximum_with_row": lambda x, row, column, number, constant: mx.nd.broadcast_maximum(x, row),
    "constant": lambda x, row, column, number, constant: x * constant + constant - constant * row,
    "neutral": lambda x, row, column, number, constant: (x * 1 + 0) / 1 * mx.nd.ones((1, 1, 1), dtype=x.dtype),
    "number_as_array": lambda x, row, column, number, constant: (
        mx.nd.full((1, 1, 1), 3.0, dtype=x.dtype) - x * mx.nd.full((1, 1, 1), 2.0, dtype=x.dtype)
    ),
    "repeated_constant": lambda x, row, column, number, constant: x - constant[:1].broadcast_to(constant.shape),
    "square": lambda x, row, column, number, constant: (x - row) ** 2 / number.square(),
    "same_twice": lambda x, row, column, number, constant: (x + row).square() + (x + row).square(),
    "functions_of_broadcast": lambda x, row, column, number, constant: (
        x * mx.nd.log(mx.nd.sqrt(row.square() + 2).broadcast_to(x.shape)).exp()
    ),
    "tanh": lambda x, row, column, number, constant: mx.nd.tanh(x) + mx.nd.sigmoid(x) * mx.nd.relu(x),
    "broadcast_of_broadcast": lambda x, row, column, number, constant: (
        row.broadcast_to((1,) + x.shape[1:]).expand_dims(0).reshape((1,) + x.shape[1:]).broadcast_to(x.shape)
    ),
    "broadcast_axis": lambda x, row, column, number, constant: mx.nd.broadcast_axis(row, axis=(0, 1), size=x.shape[:2]),
    "broadcast_like": lambda x, row, column, number, constant: mx.nd.broadcast_like(column, x) * row,
    "reshapes": lambda x, row, column, number, constant: x.reshape((-1,)).expand_dims(0).reshape(x.shape),
    "reshape_of_broadcast": lambda x, row, column, number, constant: row.broadcast_to(x.shape).reshape((-1,)).square(),
    "sum_last": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=-1).square(),
    "sum_first": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=0).square(),
    "sum_middle": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=1).square(),
    "sum_outer": lambda x, row, column, number, constant: mx.nd.sum(x * row, axis=(0, 2), keepdims=True).square(),
    "sum_exclude": lambda x, row, column, number, constant: mx.nd.sum(x, axis=1, exclude=True).square(),
    "mean_first": lambda x, row, column, number, constant: mx.nd.mean(x - row, axis=0).exp(),
    "mean_all": lambda x, row, column, number, constant: mx.nd.mean(x * column).square(),
    "sum_of_one": lambda x, row, column, number, constant: mx.nd.sum(row, axis=(0, 1)) * mx.nd.mean(number),
    "sum_of_outer_axes": lambda x, row, column, number, constant: mx.nd.sum(
        mx.nd.stack(x, x * row, x - row, axis=2), axis=(1, 3)
    ).square(),
    "sum_of_every_other_axis": lambda x, row, column, number, constant: mx.nd.sum(
        mx.nd.stack(x, x * row, x - row, axis=3), axis=(0, 2)
    ).square(),
    "broadcast_of_middle": lambda x, row, column, number, constant: (
        (x[:, :1] * row).broadcast_to(x.shape) * x * x[:, :, :1].broadcast_to(x.shape)
    ),
    "broadcast_of_every_other_axis": lambda x, row, column, number, constant: (
        mx.nd.expand_dims(x[:, :, :1], axis=1).broadcast_to((len(x), 8) + x.shape[1:]).square()
    ),
    "swapped": lambda x, row, column, number, constant: x.swapaxes(0, 2) * row.swapaxes(-1, 0) + column.swapaxes(0, -3),
    "transposed": lambda x, row, column, number, constant: (x * row).transpose() + x.transpose((2, 1, 0)).square(),
    "like_another": lambda x, row, column, number, constant: (
        mx.nd.linalg.makediag(mx.nd.ones_like(x)).sum(axis=-2) * x - mx.nd.zeros_like(row) * x
    ),
    "triangle": lambda x, row, column, number, constant: mx.nd.linalg.maketrian(
        mx.nd.linalg.extracttrian(mx.nd.linalg.gemm2(x, constant, transpose_b=True))
    ).square(),
    "strict_triangle": lambda x, row, column, number, constant: mx.nd.linalg.maketrian(
        mx.nd.linalg.extracttrian(mx.nd.linalg.syrk(x), offset=-1), offset=-1
    ).square(),
    "max": lambda x, row, column, number, constant: mx.nd.max(x, axis=1).square(),
    "sum_of_sums": lambda x, row, column, number, constant: (
        -mx.nd.sum(mx.nd.mean((x - row).square() / -2 - column, axis=0)) + 3 - mx.nd.sum(row) / 4
    ),
    "sum_over_number": lambda x, row, column, number, constant: mx.nd.sum((x - row) / number.square()),
    "number_times_sum": lambda x, row, column, number, constant: mx.nd.sum(number * x),
    "add_n": lambda x, row, column, number, constant: mx.nd.add_n(x, constant, x * row, x, x, x, x.square()),
    "used_often": lambda x, row, column, number, constant: sum(mx.nd.sin(row * k).square() for k in range(20)) * x,
    "outer_of_reshapes": lambda x, row, column, number, constant: (
        (x[0, 0] * 2).reshape((-1, 1)) * (x[1, 0] * 3).reshape((1, -1))
        - x[0, 1].reshape((-1, 1)) * number.reshape((1,))
    ),
    "own_draw": lambda x, row, column, number, constant: (x + row) - row + ((x * 2) + number - number) * (row - row),
    "slices": lambda x, row, column, number, constant: x[0] * x[1:2, 1:, :-1].sum() + x[:, 1, 0].sum() * x[1][0][0],
    "advanced_index": lambda x, row, column, number, constant: mx.nd.take(x, mx.nd.array([1, 0, 1]), axis=0),
    "stop_gradient": lambda x, row, column, number, constant: mx.nd.BlockGrad(x * row) * x - x.detach() * row,
    "cast": lambda x, row, column, number, constant: x.astype("float64").astype(x.dtype) * x.astype(x.dtype),
    "concat": lambda x, row, column, number, constant: mx.nd.concat(x, x * 2, dim=1).square(),
    "stack": lambda x, row, column, number, constant: mx.nd.stack(x, x.square(), axis=0),
    "dot": lambda x, row, column, number, constant: mx.nd.dot(x[0], x[1], transpose_b=True).square(),
    "factor": lambda x, row, column, number, constant: mx.nd.linalg.sumlogdiag(
        mx.nd.linalg.potrf(
            mx.nd.linalg.syrk(x)
            + 3 * mx.nd.eye(x.shape[1], dtype=x.dtype).expand_dims(0).broadcast_to((len(x), x.shape[1], x.shape[1]))
        )
    ),
    "large_product": lambda x, row, column, number, constant: mx.nd.linalg.syrk(x, alpha=0.5),
    "large_product_transposed": lambda x, row, column, number, constant: mx.nd.linalg.syrk(
        mx.nd.transpose(x, axes=(0, 2, 1)), transpose=True
    ),
    "shared_factor": lambda x, row, column, number, constant: _solved(x, row, mx.nd.linalg.trsm),
    "shared_factor_transposed": lambda x, row, column, number, constant: _solved(x, row, mx.nd.linalg.trsm, True),
    "shared_product": lambda x, row, column, number, constant: _solved(x, row, mx.nd.linalg.trmm),
    "factor_of_each_sample": lambda x, row, column, number, constant: _solved(
        x, mx.nd.sum(x, axis=1, keepdims=True), mx.nd.linalg.trsm
    ),
    "paused": lambda x, row, column, number, constant: x * _paused(lambda: (x * row).sum(axis=2, keepdims=True)),
}
SHAPES = [(2, 3, 4), (2, 40, 5)]


def _solved(x, rows, operator, transpose=False):
    """What an operator makes of a factor for all columns, that of I + r r^T, as the host would have it computed."""
    rows = rows.expand_dims(-1)
    product = mx.nd.broadcast_mul(rows, rows.swapaxes(-1, -2))
    matrix = mx.nd.broadcast_add(product, mx.nd.eye(x.shape[2], dtype=x.dtype).reshape((1, 1) + x.shape[2:] * 2))
    factor = mx.nd.linalg.potrf(matrix.broadcast_to(x.shape + x.shape[2:]))
    solution = operator(factor, x.expand_dims(-1), transpose=transpose)
    return mx.nd.broadcast_add(solution[:, :, :, 0], mx.nd.linalg.sumlogdiag(factor).expand_dims(-1))


def _paused(compute):
    with autograd.pause():
        return compute()


def weighted(value, weights):
    """A number that depends on each entry of an array in its own way."""
    if value.size == 1:
        return value.reshape((1,))
    return mx.nd.sum(value * nd(weights[: value.size], value.dtype).reshape(value.shape))
