# SPDX-License-Identifier: Apache-2.0
"""Independent entries: Sigma = diag(v). Nothing of size D x D is formed unless asked for."""

from __future__ import annotations

from mxfusion_mvn import linalg
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import check_positive
from mxfusion_mvn.linalg.axes import Array, namespace
from mxfusion_mvn.structures.array_holder import computed_once
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.structure import Structure

import mxnet as mx


class Diagonal(Structure):
    """
    Sigma = diag(v).

    :param variances: v (B'..., D), positive.
    :param name: what to call them in messages.
    :raises ValueError: for another type, dtype or shape.
    """

    def __init__(self, variances: Array, name: str = "variances") -> None:
        arguments.check_parameter(name, variances, "D")
        self.variances = variances
        self.name = name

    def check(self):
        """Refuse variances that are not positive and finite."""
        check_positive(self.variances, self.name)

    @computed_once
    def _deviations(self):
        return namespace(self.variances).sqrt(self.variances)

    def root(self):
        """diag(sqrt v), (B'..., D, D)."""
        return linalg.from_diagonal(self._deviations())

    def dense(self):
        """diag(v), (B'..., D, D)."""
        return linalg.from_diagonal(self.variances)

    def whitening(self):
        """Division by sqrt v."""
        return RowMap(linalg.divide_entries, linalg.as_row(self._deviations()))

    def coloring(self):
        """Multiplication by sqrt v."""
        return RowMap(linalg.multiply_entries, linalg.as_row(self._deviations()))

    @computed_once
    def log_det(self):
        """Sum of log v, (B'...)."""
        F = namespace(self.variances)
        return F.sum(F.log(self.variances), axis=-1)

    def variance(self):
        """v, (B'..., D)."""
        return self.variances

    def inverse_diagonal(self):
        """1 / v, (B'..., D)."""
        return 1 / self.variances

    def diagonal_and_root(self):
        """v alone."""
        return self.variances, None

    def leading(self):
        """B'."""
        return self.variances.shape[:-1]

    def marginal(self, index, rest=None):
        """A Diagonal."""
        return Diagonal(linalg.take(self.variances, index, axis=-1))

    def condition(self, given, rest):
        """The marginal of the rest; the regression is zero."""
        if namespace(self.variances) is mx.nd:
            linalg.check_positions(given, self.dim())
        variances = linalg.take(self.variances, rest, axis=-1)
        return RowMap(_zero, linalg.as_row(variances)), Diagonal(variances)


def _zero(example, rows):
    F = namespace(rows)
    return F.broadcast_mul(F.zeros_like(F.sum(rows, axis=-1, keepdims=True)), F.ones_like(example))
