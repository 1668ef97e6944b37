# SPDX-License-Identifier: Apache-2.0
"""A covariance held by its inverse: Sigma = P^-1, which is never formed to evaluate a density or to draw.

With the Cholesky factor P = L L^T::

    r^T P r = |L^T r|^2        log det Sigma = -2 sum_i log L_ii        Cov[L^-T noise] = L^-T L^-1 = P^-1

Conditionals are blocks of P: b given a has precision P_bb and mean shift -P_bb^-1 P_ba r_a.
"""

from __future__ import annotations

from mxfusion_mvn import linalg
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import RAISE, OnFailure, factor
from mxfusion_mvn.linalg.axes import Array, complement
from mxfusion_mvn.linalg.refinement import refinement
from mxfusion_mvn.structures.array_holder import computed_once
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.structure import SquareMatrix


class Precision(SquareMatrix):
    """
    Sigma = P^-1.

    :param precision: P (B'..., D, D), symmetric positive definite; the factorisation reads its lower triangle.
    :param on_failure: what to do if it is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :param name: what to call it in messages.
    :raises ValueError: for another type, dtype or shape.
    """

    def __init__(self, precision: Array, on_failure: OnFailure | None = RAISE, name: str = "precision") -> None:
        arguments.check_parameter(name, precision, "DD")
        arguments.check_policy(on_failure)
        self.precision = precision
        self.on_failure = on_failure
        self.name = name

    @computed_once
    def factor(self):
        """L with L L^T = P, (B'..., D, D)."""
        return factor(self.precision, self.on_failure, self.name)

    @computed_once
    def root(self):
        """L^-T, (B'..., D, D)."""
        identity = linalg.identity_like(self.template())
        return linalg.transpose(linalg.solve_upper(self.factor(), identity))

    @computed_once
    def _second(self):
        return refinement(self.precision, self.factor()) if self.on_failure and self.refine else None

    def whitening(self):
        """L^T; where there is a K of :mod:`mxfusion_mvn.linalg.refinement`, K^T L^T."""
        first, second = RowMap(linalg.multiply_upper, self.factor()), self._second()
        return first if second is None else first.then(RowMap(linalg.multiply_upper, second))

    def coloring(self):
        """L^-T, by substitution."""
        return RowMap(linalg.solve_upper, self.factor())

    @computed_once
    def log_det(self):
        """-2 sum log L_ii, (B'...), and as much of K."""
        log_det, second = linalg.log_abs_det(self.factor()), self._second()
        return -2 * (log_det if second is None else log_det + linalg.log_abs_det(second))

    def _matrix(self):
        return self.precision

    def inverse_diagonal(self):
        """The diagonal of P, (B'..., D)."""
        return linalg.diagonal(self.precision)

    def marginal(self, index, rest=None):
        """A Precision: the Schur complement of P."""
        if rest is None:
            rest = complement(index, self.dim())
        if not rest:
            return self._block(index)
        # The last block of the factor of P, in the order rest, index, is the factor of the Schur complement.
        kept = linalg.blocks(self._block(list(rest) + list(index)).factor(), len(rest))[2]
        return Precision(linalg.outer_square(kept), self.on_failure, self.name)

    def condition(self, given, rest):
        """A Precision: the block P_bb."""
        remaining = self._block(rest)
        cross = linalg.submatrix(self.precision, rest, given)
        return RowMap(_regress, remaining.factor(), cross), remaining

    def _block(self, index):
        return Precision(linalg.submatrix(self.precision, index, index), self.on_failure, self.name)


def _regress(factor, cross, rows):
    return -linalg.solve_upper(factor, linalg.solve_lower(factor, linalg.multiply(cross, rows)))
