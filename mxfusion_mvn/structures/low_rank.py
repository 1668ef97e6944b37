# SPDX-License-Identifier: Apache-2.0
"""Low rank plus diagonal: Sigma = W W^T + diag(d), in O(D r^2), never forming D x D.

With V = diag(d)^-1/2 W, C = I + V^T V = L L^T and y = diag(d)^-1/2 r::

    a = C^-1 V^T y        r^T Sigma^-1 r = |y - V a|^2 + |a|^2        log det Sigma = sum log d + 2 sum log L_ii

Both squares are positive. The usual |y|^2 - |L^-1 V^T y|^2 is the same number as a difference, and in float32 comes
out negative for small d. One step of refinement makes a good to the last digits. With d far below W W^T the remainder
y - V a = d^-1/2 (r - W a) would still be mostly rounding, so W a is subtracted in parts whose products are exact.
"""

from mxfusion_mvn import arrays, linalg
from mxfusion_mvn.axes import add, broadcast_leading, broadcast_shapes, multiply, namespace
from mxfusion_mvn.failure import check_finite, check_positive
from mxfusion_mvn.ridge import ridge_coefficients, ridge_factor, ridge_split, split, subtract_product
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once

import mxnet as mx


class LowRank(Structure):
    """
    Sigma = W W^T + diag(d).

    :param factor: W (B'..., D, r).
    :param diagonal: d (B'..., D), positive.
    :param rank: r; needed only for draws from Symbols, which have no shape.
    :raises ValueError: for another type, dtype or shape, and for another rank than that of the factor.
    """

    def __init__(self, factor, diagonal, rank=None):
        arrays.check_parameter("factor", factor, "Dr")
        arrays.check_parameter("diagonal", diagonal, "D")
        arrays.check_scaling("diagonal", diagonal, "factor", factor)
        if rank is not None:
            arrays.check_count("rank", rank)
            if namespace(factor) is mx.nd and rank != factor.shape[-1]:
                arrays.refuse("rank", rank, f"{factor.shape[-1]}, the columns of the factor", "Leave it out.")
        self.factor = factor
        self.diagonal = diagonal
        self._rank = rank

    def check(self):
        """Refuse a W that is not finite, and a d that is not positive and finite."""
        check_finite(self.factor, "factor")
        check_positive(self.diagonal, "diagonal")

    @computed_once
    def _scaled(self):
        """sqrt(d) as a row (B'..., 1, D), V (B'..., D, r) and the factor L of C (B'..., r, r)."""
        F = namespace(self.factor)
        deviations = F.sqrt(self.diagonal)
        scaled = linalg.scale_rows(self.factor, 1 / deviations)
        return linalg.as_row(deviations), scaled, ridge_factor(scaled)

    @computed_once
    def _parts(self):
        """W as a sum, twice (B'..., D, r)."""
        return split(self.factor)

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
        if not self.refine:
            return RowMap(_whiten_in_float64, *self._scaled())
        return RowMap(_whiten, *self._scaled(), *self._parts())

    def coloring(self):
        """[noise_r, noise_D] -> W noise_r + sqrt(d) noise_D."""
        deviations = namespace(self.diagonal).sqrt(self.diagonal)
        return RowMap(self._color, linalg.as_row(deviations), self.factor)

    @computed_once
    def log_det(self):
        """Sum of log d, plus 2 sum log L_ii, (B'...)."""
        F = namespace(self.factor)
        return add(F.sum(F.log(self.diagonal), axis=-1), 2 * linalg.log_abs_det(self._scaled()[2]))

    def variance(self):
        """Sum of W^2 over its columns, plus d, (B'..., D)."""
        F = namespace(self.factor)
        return add(F.sum(F.square(self.factor), axis=-1), self.diagonal)

    def trains_in_float64(self):
        """True: with d far below W W^T, gradients in float32 would be rounding."""
        return True

    def inverse_diagonal(self):
        """
        (1 - |L^-1 V_i|^2) / d_i, with V_i the rows of V, (B'..., D).

        It loses digits in an entry that W alone explains, with a leverage |L^-1 V_i|^2 near one. There are at most r
        of them; where they could be most of the entries, whitened unit vectors cost no more and lose nothing.
        """
        _, scaled, ridge = self._scaled()
        if namespace(scaled) is mx.nd and scaled.shape[-2] <= 4 * scaled.shape[-1]:
            return super().inverse_diagonal()
        F = namespace(scaled)
        leverage = F.sum(F.square(linalg.solve_lower(ridge, scaled)), axis=-1)
        return multiply(1 - leverage, 1 / self.diagonal)

    def leading(self):
        """B'."""
        return broadcast_shapes(self.factor.shape[:-2], self.diagonal.shape[:-1])

    def template(self):
        """d, (B'..., D)."""
        return self.diagonal

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
        if self._rank is not None:
            return self._rank
        if namespace(self.factor) is mx.sym:
            raise ValueError(
                "`rank`: got None for Symbols, which have no shape; expected the number of columns of the factor. "
                "Pass LowRank(factor, diagonal, rank=...)."
            )
        return self.factor.shape[-1]

    def _color(self, deviations, factor, rows):
        F = namespace(rows)
        common = F.slice_axis(rows, axis=-1, begin=0, end=self._columns())
        own = F.slice_axis(rows, axis=-1, begin=self._columns(), end=None)
        return linalg.multiply(factor, common) + linalg.multiply_entries(deviations, own)


def _whiten(deviations, scaled, ridge, leading, rest, rows):
    coefficients = ridge_coefficients(scaled, ridge, linalg.divide_entries(deviations, rows))
    remainder = linalg.divide_entries(deviations, subtract_product(leading, rest, coefficients, rows))
    return namespace(rows).concat(remainder, coefficients, dim=-1)


def _whiten_in_float64(deviations, scaled, ridge, rows):
    coefficients, remainder = ridge_split(scaled, ridge, linalg.divide_entries(deviations, rows))
    return namespace(rows).concat(remainder, coefficients, dim=-1)


def _regress(deviations, scaled, ridge, loadings, rows):
    coefficients = ridge_coefficients(scaled, ridge, linalg.divide_entries(deviations, rows))
    return linalg.multiply(loadings, coefficients)
