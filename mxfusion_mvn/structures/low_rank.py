# SPDX-License-Identifier: Apache-2.0
"""Low rank plus diagonal: Sigma = W W^T + diag(d), in O(D r^2), never forming D x D.

With V = diag(d)^-1/2 W, C = I + V^T V = L L^T and y = diag(d)^-1/2 r::

    a = C^-1 V^T y        r^T Sigma^-1 r = |y - V a|^2 + |a|^2        log det Sigma = sum log d + 2 sum log L_ii

Both squares are positive. The usual |y|^2 - |L^-1 V^T y|^2 is the same number as a difference, and in float32 comes out
negative for small d. One step of refinement makes a good to the last digits.
"""

from mxfusion_mvn import linalg
from mxfusion_mvn.axes import add, broadcast_leading, multiply, namespace
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once


class LowRank(Structure):
    """
    Sigma = W W^T + diag(d).

    :param factor: W (B'..., D, r).
    :param diagonal: d (B'..., D), positive.
    :param rank: r; needed only for draws from Symbols, which have no shape.
    """

    def __init__(self, factor, diagonal, rank=None):
        self.factor = factor
        self.diagonal = diagonal
        self._rank = rank

    @computed_once
    def _scaled(self):
        """sqrt(d) as a row (B'..., 1, D), V (B'..., D, r) and the factor L of C (B'..., r, r)."""
        F = namespace(self.factor)
        deviations = F.sqrt(self.diagonal)
        scaled = linalg.scale_rows(self.factor, 1 / deviations)
        return F.expand_dims(deviations, axis=-2), scaled, linalg.ridge_factor(scaled)

    def root(self):
        """[W, diag(sqrt d)], (B'..., D, r + D)."""
        F = namespace(self.factor)
        deviations = linalg.from_diagonal(F.sqrt(self.diagonal))
        return F.concat(*broadcast_leading(self.factor, deviations), dim=-1)

    def dense(self):
        """W W^T + diag(d), (B'..., D, D)."""
        return add(linalg.outer_square(self.factor), linalg.from_diagonal(self.diagonal))

    def whitening(self):
        """r -> [y - V a, a]."""
        return RowMap(_whiten, *self._scaled())

    def coloring(self):
        """[noise_r, noise_D] -> W noise_r + sqrt(d) noise_D."""
        return RowMap(self._color, self._scaled()[0], self.factor)

    @computed_once
    def log_det(self):
        """Sum of log d, plus 2 sum log L_ii, (B'...)."""
        F = namespace(self.factor)
        return add(F.sum(F.log(self.diagonal), axis=-1), 2 * linalg.log_abs_det(self._scaled()[2]))

    def variance(self):
        """Sum of W^2 over its columns, plus d, (B'..., D)."""
        F = namespace(self.factor)
        return add(F.sum(F.square(self.factor), axis=-1), self.diagonal)

    def inverse_diagonal(self):
        """(1 - |L^-1 V_i|^2) / d_i, with V_i the rows of V, (B'..., D)."""
        _, scaled, ridge = self._scaled()
        F = namespace(scaled)
        leverage = F.sum(F.square(linalg.solve_lower(ridge, scaled)), axis=-1)
        return multiply(1 - leverage, 1 / self.diagonal)

    def diagonal_and_root(self):
        """(d, W)."""
        return self.diagonal, self.factor

    def marginal(self, index, rest=None):
        """A LowRank: the rows of W and d."""
        return LowRank(linalg.take(self.factor, index, axis=-2), linalg.take(self.diagonal, index, axis=-1), self._rank)

    def condition(self, given, rest):
        """A LowRank: the same d_b, and W_b L^-T with L the factor of I + V_a^T V_a."""
        deviations, scaled, ridge = self.marginal(given)._scaled()
        loadings = linalg.take(self.factor, rest, axis=-2)
        remaining = LowRank(
            RowMap(linalg.solve_lower, ridge).on_rows(loadings), linalg.take(self.diagonal, rest, axis=-1), self._rank
        )
        return RowMap(_regress, deviations, scaled, ridge, loadings), remaining

    def noise_size(self, dim):
        """r + D."""
        return self._columns() + dim

    def _columns(self):
        return self.factor.shape[-1] if self._rank is None else self._rank

    def _color(self, deviations, factor, rows):
        F = namespace(rows)
        common = F.slice_axis(rows, axis=-1, begin=0, end=self._columns())
        own = F.slice_axis(rows, axis=-1, begin=self._columns(), end=None)
        return F.broadcast_add(linalg.multiply(factor, common), F.broadcast_mul(own, deviations))


def _whiten(deviations, scaled, ridge, rows):
    F = namespace(rows)
    standardised = F.broadcast_div(rows, deviations)
    coefficients, remainder = linalg.ridge_split(scaled, ridge, standardised)
    return F.concat(remainder, coefficients, dim=-1)


def _regress(deviations, scaled, ridge, loadings, rows):
    coefficients, _ = linalg.ridge_split(scaled, ridge, namespace(rows).broadcast_div(rows, deviations))
    return linalg.multiply(loadings, coefficients)
