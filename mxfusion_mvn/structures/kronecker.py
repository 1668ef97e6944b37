# SPDX-License-Identifier: Apache-2.0
"""A Kronecker product: Sigma = R x C over the entries of an n x m matrix X, read row by row.

Cov[X_ij, X_kl] = R_ik C_jl, so maps A of rows and B of columns act as A X B^T, and nothing of size nm x nm is formed::

    whiten: W_R X W_C^T        log det Sigma = m log det R + n log det C
"""

from mxfusion_mvn import linalg
from mxfusion_mvn.axes import add, namespace, size_of_last
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once

import mxnet as mx


class Kronecker(Structure):
    """
    Sigma = R x C, over vectors of size D = n m.

    :param row: the structure of R, n x n, between the rows of X.
    :param column: the structure of C, m x m, between its columns.
    """

    def __init__(self, row, column):
        self.row = row
        self.column = column

    def root(self):
        """Kronecker product of the roots, (B'..., D, E)."""
        return linalg.kronecker(self.row.root(), self.column.root())

    def dense(self):
        """R x C, (B'..., D, D)."""
        return linalg.kronecker(self.row.dense(), self.column.dense())

    def whitening(self):
        """X -> W_R X W_C^T."""
        return self._both(self.row.whitening(), self.column.whitening(), self._template())

    def coloring(self):
        """noise -> A_R noise A_C^T."""
        return self._both(self.row.coloring(), self.column.coloring(), self._noise_template())

    @computed_once
    def log_det(self):
        """m log det R + n log det C, (B'...)."""
        rows, columns = size_of_last(self.row.variance()), size_of_last(self.column.variance())
        return add(self.row.log_det() * columns, self.column.log_det() * rows)

    def variance(self):
        """Products of the variances, (B'..., D)."""
        return linalg.flatten(self._template())

    def inverse_diagonal(self):
        """Products of the diagonals of the inverses, (B'..., D)."""
        return linalg.flatten(linalg.outer(self.row.inverse_diagonal(), self.column.inverse_diagonal()))

    def noise_size(self, dim):
        """The product of what the two sides take."""
        rows, columns = self.row.variance().shape[-1], self.column.variance().shape[-1]
        return self.row.noise_size(rows) * self.column.noise_size(columns)

    def _template(self):
        """An array (B'..., n, m): Symbols can only be given a shape by example."""
        return linalg.outer(self.row.variance(), self.column.variance())

    def _noise_template(self):
        """An array (..., E_R, E_C), the sizes of the noise of both sides; on Symbols n and m."""
        template = self._template()
        if namespace(template) is mx.sym:
            return template
        sizes = (side.noise_size(side.variance().shape[-1]) for side in (self.row, self.column))
        return mx.nd.zeros((1,) * (template.ndim - 2) + tuple(sizes), ctx=template.context, dtype=template.dtype)

    def _both(self, row, column, template):
        split = len(row.arrays)

        def kernel(*arguments):
            arrays, example, rows = arguments[:-2], arguments[-2], arguments[-1]
            matrices = linalg.unflatten(rows, example)
            matrices = linalg.on_last_axis(lambda x: column.kernel(*arrays[split:], x), matrices)
            matrices = linalg.on_last_axis(lambda x: row.kernel(*arrays[:split], x), linalg.transpose(matrices))
            return linalg.flatten(linalg.transpose(matrices))

        return RowMap(kernel, *row.arrays, *column.arrays, template)
