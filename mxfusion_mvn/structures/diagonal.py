# SPDX-License-Identifier: Apache-2.0
"""Independent entries: Sigma = diag(v). Nothing of size D x D is formed unless asked for."""

from mxfusion_mvn import linalg
from mxfusion_mvn.axes import namespace
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once


class Diagonal(Structure):
    """
    Sigma = diag(v).

    :param variances: v (B'..., D), positive.
    """

    def __init__(self, variances):
        self.variances = variances

    @computed_once
    def _deviations(self):
        F = namespace(self.variances)
        return F.expand_dims(F.sqrt(self.variances), axis=-2)

    def root(self):
        """diag(sqrt v), (B'..., D, D)."""
        return linalg.from_diagonal(namespace(self.variances).sqrt(self.variances))

    def dense(self):
        """diag(v), (B'..., D, D)."""
        return linalg.from_diagonal(self.variances)

    def whitening(self):
        """Division by sqrt v."""
        return RowMap(lambda deviations, rows: namespace(rows).broadcast_div(rows, deviations), self._deviations())

    def coloring(self):
        """Multiplication by sqrt v."""
        return RowMap(lambda deviations, rows: namespace(rows).broadcast_mul(rows, deviations), self._deviations())

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

    def marginal(self, index, rest=None):
        """A Diagonal."""
        return Diagonal(linalg.take(self.variances, index, axis=-1))

    def condition(self, given, rest):
        """The marginal of the rest; the regression is zero."""
        rest_of = linalg.take(self.variances, rest, axis=-1)
        given_of = linalg.take(self.variances, given, axis=-1)
        zero = linalg.outer(rest_of, given_of) * 0
        return RowMap(linalg.multiply, zero), Diagonal(rest_of)
