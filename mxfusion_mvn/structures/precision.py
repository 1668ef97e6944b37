# SPDX-License-Identifier: Apache-2.0
"""A covariance held by its inverse: Sigma = P^-1, which is never formed to evaluate a density or to draw.

With the Cholesky factor P = L L^T::

    r^T P r = |L^T r|^2        log det Sigma = -2 sum_i log L_ii        Cov[L^-T noise] = L^-T L^-1 = P^-1

Conditionals are blocks of P: b given a has precision P_bb and mean shift -P_bb^-1 P_ba r_a.
"""

from mxfusion_mvn import linalg
from mxfusion_mvn.axes import complement, size_of_last
from mxfusion_mvn.failure import RAISE, factor
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once


class Precision(Structure):
    """
    Sigma = P^-1.

    :param precision: P (B'..., D, D), symmetric positive definite; the factorisation reads its lower triangle.
    :param on_failure: what to do if it is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :param name: what to call it in messages.
    """

    def __init__(self, precision, on_failure=RAISE, name="precision"):
        self.precision = precision
        self.on_failure = on_failure
        self.name = name

    @computed_once
    def factor(self):
        """L with L L^T = P, (B'..., D, D)."""
        return factor(self.precision, self.on_failure, self.name)

    def root(self):
        """L^-T, (B'..., D, D)."""
        identity = linalg.identity_like(linalg.diagonal(self.precision))
        return linalg.transpose(linalg.solve_upper(self.factor(), identity))

    def whitening(self):
        """L^T."""
        return RowMap(linalg.multiply_upper, self.factor())

    def coloring(self):
        """L^-T, by substitution."""
        return RowMap(linalg.solve_upper, self.factor())

    @computed_once
    def log_det(self):
        """-2 sum log L_ii, (B'...)."""
        return -2 * linalg.log_abs_det(self.factor())

    def rank(self):
        """D, as an integer for NDArrays and (B'...) for Symbols."""
        return size_of_last(linalg.diagonal(self.precision))

    def dim(self):
        """D, an integer, for NDArrays."""
        return self.precision.shape[-1]

    def inverse_diagonal(self):
        """The diagonal of P, (B'..., D)."""
        return linalg.diagonal(self.precision)

    def marginal(self, index, rest=None):
        """A Precision: the Schur complement of P, from the factor of P in the order rest, index."""
        if rest is None:
            rest = complement(index, self.dim())
        if not rest:
            return Precision(self._block(index, index))
        order = list(rest) + list(index)
        kept = linalg.blocks(linalg.cholesky(self._block(order, order)), len(rest))[2]
        return Precision(linalg.outer_square(kept))

    def condition(self, given, rest):
        """A Precision: the block P_bb."""
        block = self._block(rest, rest)
        return RowMap(_regress, linalg.cholesky(block), self._block(rest, given)), Precision(block)

    def _block(self, rows, columns):
        return linalg.take(linalg.take(self.precision, rows, axis=-2), columns, axis=-1)


def _regress(factor, cross, rows):
    return -linalg.solve_upper(factor, linalg.solve_lower(factor, linalg.multiply(cross, rows)))
