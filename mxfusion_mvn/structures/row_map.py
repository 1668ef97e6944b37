# SPDX-License-Identifier: Apache-2.0
"""Linear maps of vectors, held by arrays: the same kernel serves vectors of any batch shape and rows of matrices."""

from typing import Callable

from mxfusion_mvn import linalg
from mxfusion_mvn.linalg.axes import Array, broadcast_shapes, namespace, per_row

import mxnet as mx


class RowMap:
    """
    A linear map x -> A x, held by arrays with leading axes of their own.

    :param kernel: function of the arrays, each (K, ., .), and of rows (K, R, D), that returns A x for every row x.
    :param arrays: NDArrays or Symbols (B'..., ., .).
    """

    def __init__(self, kernel: Callable, *arrays: Array) -> None:
        self.kernel = kernel
        self.arrays = arrays

    def __call__(self, vectors):
        """
        Map vectors; leading axes broadcast.

        :param vectors: (B..., D).
        :returns: A x, (broadcast of B' and B..., E).
        """
        return per_row(self.kernel, self.arrays, vectors)

    def on_rows(self, rows):
        """
        Map the rows of matrices; leading axes broadcast.

        :param rows: (B..., R, D).
        :returns: A x for every row x, (broadcast of B' and B..., R, E).
        """
        if namespace(rows) is mx.sym or all(array.shape[:-2] == rows.shape[:-2] for array in self.arrays):
            return self.kernel(*self.arrays, rows)
        # Rows first: there they do not meet the arrays' leading axes.
        axes = len(broadcast_shapes(rows.shape[:-2], *(array.shape[:-2] for array in self.arrays)))
        rows = rows.reshape((1,) * (axes + 2 - rows.ndim) + rows.shape)
        mapped = self(rows.transpose([axes] + list(range(axes)) + [axes + 1]))
        return mapped.transpose(list(range(1, axes + 1)) + [0, axes + 1])

    def then(self, following):
        """
        The composition x -> B A x. Neither map's arrays are broadcast to the leading axes of the other's.

        :param following: the :class:`RowMap` of B.
        :returns: a :class:`RowMap`.
        """
        return _Chain(self, following)


class _Chain(RowMap):
    def __init__(self, first, second):
        split = len(first.arrays)
        super().__init__(
            lambda *arguments: second.kernel(*arguments[split:-1], first.kernel(*arguments[:split], arguments[-1])),
            *first.arrays,
            *second.arrays,
        )
        self._first = first
        self._second = second

    def __call__(self, vectors):
        return self._second(self._first(vectors))

    def on_rows(self, rows):
        return self._second.on_rows(self._first.on_rows(rows))


def regress(aa, ba, rows):
    """L_ba L_aa^-1 r for every row r, of the blocks of a lower triangular factor."""
    return linalg.multiply(ba, linalg.solve_lower(aa, rows))
