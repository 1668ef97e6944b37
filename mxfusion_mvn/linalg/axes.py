# SPDX-License-Identifier: Apache-2.0
"""Leading axes: how means, matrices and vectors of different batch shapes meet.

MXNet's triangular kernels want equal leading axes, and would factor and copy a shared matrix once per row. Here the
rows that share a matrix are folded into the right-hand sides of one solve instead, so a matrix is never copied::

    matrix (K, D, D), K its own leading axes        vectors -> rows (K, R, D), R everything that shares the matrix

On NDArrays leading axes broadcast from the right, as in NumPy. A Symbol has no shape to look at: there the leading
axes of all arguments must be equal.
"""

from typing import Union

import mxnet as mx
import numpy as np

Array = Union[mx.nd.NDArray, mx.sym.Symbol]
# Arguments that become an array of the kind, dtype and context of another one.
ArrayLike = Union[mx.nd.NDArray, mx.sym.Symbol, np.ndarray, list, tuple, float]


def namespace(array):
    """
    The MXNet operators that go with an array.

    :param array: NDArray or Symbol.
    :returns: ``mx.sym`` for a Symbol, else ``mx.nd``.
    """
    return mx.sym if isinstance(array, mx.sym.Symbol) else mx.nd


def add(a, b):
    """Sum of two NDArrays of shapes (A..., ) and (B..., ), broadcast from the right; of Symbols with equal ndim."""
    return namespace(a).broadcast_add(*_same_ndim(a, b))


def subtract(a, b):
    """Difference of two arrays, broadcast as in :func:`add`."""
    return namespace(a).broadcast_sub(*_same_ndim(a, b))


def multiply(a, b):
    """Product entry by entry of two arrays, broadcast as in :func:`add`."""
    return namespace(a).broadcast_mul(*_same_ndim(a, b))


def size_of_last(array):
    """
    The size of the last axis, as a factor of a sum over the other axes.

    :param array: NDArray or Symbol (B..., D).
    :returns: the integer D for an NDArray; for a Symbol an expression of shape (B...) with that value.
    """
    if namespace(array) is mx.nd:
        return array.shape[-1]
    return mx.sym.sum(mx.sym.ones_like(array), axis=-1)


def per_row(kernel, arrays, vectors):
    """
    Apply a kernel to vectors, folding the leading axes along which its arrays do not vary into one call.

    :param kernel: function of the arrays, each (K, ., .), and of rows (K, R, D), that returns (K, R, E).
    :param arrays: tuple of NDArrays or Symbols (B'..., ., .).
    :param vectors: NDArray or Symbol (B..., D).
    :returns: the kernel's rows, (broadcast of B' and B..., E).
    :raises ValueError: if the leading axes of NDArrays do not broadcast.
    """
    if namespace(vectors) is mx.sym:
        return mx.sym.squeeze(kernel(*arrays, mx.sym.expand_dims(vectors, axis=-2)), axis=-2)
    own = broadcast_shapes(*(array.shape[:-2] for array in arrays))
    leading = broadcast_shapes(own, vectors.shape[:-1])
    own = (1,) * (len(leading) - len(own)) + own
    order = [i for i, size in enumerate(own) if size > 1] + [i for i, size in enumerate(own) if size == 1]
    in_order = order == sorted(order)
    vectors = _spread(vectors, tuple(n if m > 1 else 0 for n, m in zip(leading, own)), event_axes=1)
    if not in_order:
        vectors = vectors.transpose(order + [len(order)])
    ordered = vectors.shape[:-1]
    count = size_of(own)
    rows = kernel(
        *(_fold(array, own) for array in arrays),
        _reshape(vectors, (count, size_of(ordered) // count, vectors.shape[-1])),
    )
    rows = _reshape(rows, ordered + rows.shape[-1:])
    if not in_order:
        rows = rows.transpose([int(i) for i in np.argsort(order)] + [len(order)])
    return rows


def broadcast_leading(*matrices):
    """
    Matrices with the same leading axes; copies only what differs.

    :param matrices: NDArrays or Symbols (B..., ., .).
    :returns: a list of them; of Symbols as they are.
    """
    if namespace(matrices[0]) is mx.sym:
        return list(matrices)
    leading = broadcast_shapes(*(matrix.shape[:-2] for matrix in matrices))
    return [_spread(matrix, leading, event_axes=2) for matrix in matrices]


def size_of(shape):
    """
    How many entries there are.

    :param shape: tuple of integers.
    :returns: an integer, 1 for no axes.
    """
    return int(np.prod(shape, dtype=int))


def complement(index, size):
    """
    The positions that are not in an index.

    :param index: list of integers.
    :param size: D.
    :returns: list of integers, ascending.
    """
    taken = set(index)
    return [i for i in range(size) if i not in taken]


def broadcast_shapes(*shapes):
    """
    The common shape of leading axes.

    :param shapes: tuples of integers.
    :returns: a tuple, as long as the longest.
    :raises ValueError: if they do not broadcast from the right.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"leading axes {' and '.join(str(shape) for shape in shapes)} do not broadcast; expected sizes that are "
            "equal or 1, aligned from the right. Vectors are (B..., D) and matrices (B..., D, D)."
        ) from None


def do_broadcast(first, second):
    """
    Whether two shapes broadcast from the right.

    :param first: tuple of integers.
    :param second: tuple of integers.
    :returns: a bool.
    """
    return all(a == b or a == 1 or b == 1 for a, b in zip(reversed(first), reversed(second)))


def align_samples(arrays, event_axes, batch_axes=0):
    """
    Give arrays of MXFusion, (S or 1, B..., event), the same number of batch axes.

    Missing batch axes are inserted *after* the sample axis: aligning whole shapes from the right would take the
    samples of a mean (S, D) for the rows of a variable (S, N, D), and go unnoticed when S equals N.

    :param arrays: dict of NDArrays, axis 0 of each being the samples.
    :param event_axes: dict from the same names to the number of trailing axes that belong to one event.
    :param batch_axes: how many batch axes there are at least, for noise that is yet to be drawn.
    :returns: dict of NDArrays, each (S or 1, 1..., B..., event).
    """
    batch_axes = max([batch_axes] + [array.ndim - 1 - event_axes[name] for name, array in arrays.items()])
    aligned = {}
    for name, array in arrays.items():
        missing = batch_axes - (array.ndim - 1 - event_axes[name])
        aligned[name] = _reshape(array, array.shape[:1] + (1,) * missing + array.shape[1:])
    return aligned


def _spread(array, leading, event_axes):
    """Broadcast leading axes to given sizes, 0 meaning as they are; no copy where nothing changes."""
    own = array.shape[: array.ndim - event_axes]
    own = (1,) * (len(leading) - len(own)) + own
    array = _reshape(array, own + array.shape[array.ndim - event_axes :])
    wanted = tuple(size or mine for size, mine in zip(leading, own))
    return array if wanted == own else array.broadcast_to(wanted + array.shape[len(leading) :])


def _fold(matrix, leading):
    """A matrix (., ., .) with its leading axes, broadcast to given sizes, as one."""
    if size_of(matrix.shape[:-2]) != size_of(leading):
        matrix = _spread(matrix, leading, event_axes=2)
    return _reshape(matrix, (size_of(leading),) + matrix.shape[-2:])


def _reshape(array, shape):
    return array if array.shape == shape else array.reshape(shape)


def _same_ndim(a, b):
    if namespace(a) is mx.sym:
        return a, b
    ndim = max(a.ndim, b.ndim)
    return tuple(_reshape(x, (1,) * (ndim - x.ndim) + x.shape) for x in (a, b))
