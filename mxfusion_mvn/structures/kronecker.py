# SPDX-License-Identifier: Apache-2.0
"""A Kronecker product: Sigma = R x C over the entries of an n x m matrix X, read row by row.

Cov[X_ij, X_kl] = R_ik C_jl, so maps A of rows and B of columns act as A X B^T, and nothing of size nm x nm is formed::

    whiten: W_R X W_C^T        log det Sigma = m log det R + n log det C
"""

from __future__ import annotations

from mxfusion_mvn import linalg
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import may_repair
from mxfusion_mvn.linalg.axes import add, broadcast_shapes, namespace
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.singular import Singular
from mxfusion_mvn.structures.structure import Structure, check_structure

import mxnet as mx


class Kronecker(Structure):
    """
    Sigma = R x C, over vectors of size D = n m.

    :param row: the structure of R, n x n, between the rows of X.
    :param column: the structure of C, m x m, between its columns.
    :raises ValueError: if a side is no structure or singular, and for two dtypes.
    """

    def __init__(self, row: Structure, column: Structure) -> None:
        for name, side in (("row", row), ("column", column)):
            check_structure(name, side)
            if isinstance(side, Singular):
                raise ValueError(
                    f"`{name}`: got a singular covariance; expected a regular one. "
                    "Form the whole matrix and pass it to Singular."
                )
        for left, right in zip(row.parameters(), column.parameters()):
            arguments.check_alike("column", right, left)
        self.row = row
        self.column = column
        # A marginal, for example, has no Kronecker form and is factored as a dense matrix: under the policy of a side.
        self.on_failure = row.on_failure if row.on_failure is None or may_repair(row.on_failure) else column.on_failure

    def root(self):
        """Kronecker product of the roots, (B'..., D, E)."""
        return linalg.kronecker(self.row.root(), self.column.root())

    def dense(self):
        """R x C, (B'..., D, D)."""
        return linalg.kronecker(self.row.dense(), self.column.dense())

    def whitening(self):
        """X -> W_R X W_C^T."""
        return self._both(self.row.whitening(), self.column.whitening(), self._example())

    def coloring(self):
        """noise -> A_R noise A_C^T."""
        return self._both(self.row.coloring(), self.column.coloring(), self._noise_example())

    def log_det(self):
        """m log det R + n log det C, (B'...)."""
        return add(self.row.log_det() * self.column.dim(), self.column.log_det() * self.row.dim())

    def variance(self):
        """Products of the variances, (B'..., D)."""
        return linalg.flatten(linalg.outer(self.row.variance(), self.column.variance()))

    def inverse_diagonal(self):
        """Products of the diagonals of the inverses, (B'..., D)."""
        return linalg.flatten(linalg.outer(self.row.inverse_diagonal(), self.column.inverse_diagonal()))

    def template(self):
        """Outer products of the templates of the sides, (..., D)."""
        return linalg.flatten(self._example())

    def leading(self):
        """B'."""
        return broadcast_shapes(self.row.leading(), self.column.leading())

    def dim(self):
        """n m."""
        return self.row.dim() * self.column.dim()

    def noise_size(self, dim):
        """The product of what the two sides take."""
        return self.row.noise_size(self.row.dim()) * self.column.noise_size(self.column.dim())

    def _example(self):
        """An array (..., n, m): Symbols can only be given a shape by example."""
        return linalg.outer(self.row.template(), self.column.template())

    def _noise_example(self):
        """An array (..., E_R, E_C), the sizes of the noise of both sides; on Symbols n and m."""
        example = self._example()
        if namespace(example) is mx.sym:
            return example
        sizes = tuple(side.noise_size(side.dim()) for side in (self.row, self.column))
        return mx.nd.zeros(sizes, ctx=example.context, dtype=example.dtype)

    def _both(self, row, column, example):
        split = len(row.arrays)

        def kernel(*arguments):
            arrays, example, rows = arguments[:-2], arguments[-2], arguments[-1]
            matrices = linalg.unflatten(rows, example)
            matrices = linalg.on_last_axis(lambda x: column.kernel(*arrays[split:], x), matrices)
            matrices = linalg.on_last_axis(lambda x: row.kernel(*arrays[:split], x), linalg.transpose(matrices))
            return linalg.flatten(linalg.transpose(matrices))

        return RowMap(kernel, *row.arrays, *column.arrays, example)
