# SPDX-License-Identifier: Apache-2.0
"""Low rank plus diagonal: Sigma = W W^T + diag(d), in O(D r^2), never forming D x D.

With V = diag(d)^-1/2 W, C = I + V^T V = L L^T and y = diag(d)^-1/2 r::

    a = C^-1 V^T y        r^T Sigma^-1 r = |y - V a|^2 + |a|^2        log det Sigma = sum log d + 2 sum log L_ii

Both squares are positive. The usual |y|^2 - |L^-1 V^T y|^2 is the same value as a difference, and in float32 comes
out negative for small d. One step of refinement makes a good to the last digits. With d far below W W^T the remainder
y - V a = d^-1/2 (r - W a) would still be mostly rounding, so in float32 W a is subtracted in parts whose products are
exact.

The derivatives of L and a are differences of terms as large as 1/d. Gradients do without them: a minimises the sum of
the two squares, so that it may be held constant, and the gradient of log det Sigma is computed as what it is, Sigma^-1.
"""

from __future__ import annotations

from mxfusion_mvn import linalg
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import check_finite, check_positive
from mxfusion_mvn.linalg.axes import Array, add, broadcast_leading, broadcast_shapes, multiply, namespace
from mxfusion_mvn.linalg.exact import split, subtract_product
from mxfusion_mvn.linalg.ridge import ridge_coefficients, ridge_factor
from mxfusion_mvn.structures.array_holder import computed_once
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.structure import Structure

import mxnet as mx
import numpy as np
from mxnet import autograd


class LowRank(Structure):
    """
    Sigma = W W^T + diag(d).

    :param factor: W (B'..., D, r).
    :param diagonal: d (B'..., D), positive.
    :param rank: r; needed only for draws from Symbols, which have no shape.
    :raises ValueError: for another type, dtype or shape, and for a rank other than the factor's.
    """

    def __init__(self, factor: Array, diagonal: Array, rank: int | None = None) -> None:
        arguments.check_parameter("factor", factor, "Dr")
        arguments.check_parameter("diagonal", diagonal, "D")
        arguments.check_scaling("diagonal", diagonal, "factor", factor)
        if rank is not None:
            arguments.check_count("rank", rank)
            if namespace(factor) is mx.nd and rank != factor.shape[-1]:
                arguments.refuse("rank", rank, f"{factor.shape[-1]}, the columns of the factor", "Leave it out.")
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
        """W, in float32 as a sum, each (B'..., D, r)."""
        if namespace(self.factor) is mx.nd and self.factor.dtype == np.float64:
            return (self.factor,)
        return split(self.factor)

    @computed_once
    def _held(self):
        """The same of arrays that pass no gradient on."""
        return LowRank(linalg.constant(self.factor), linalg.constant(self.diagonal), self._rank)

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
        return RowMap(_whiten, *self._scaled(), *self._parts())

    def measuring(self):
        """r -> [y - V a, a], with a held constant in gradients."""
        if not self._is_recorded():
            return self.whitening()
        return RowMap(_measure, *self._held()._scaled(), self._deviations(), *self._parts())

    def coloring(self):
        """[noise_r, noise_D] -> W noise_r + sqrt(d) noise_D."""
        return RowMap(self._color, self._deviations(), self.factor)

    @computed_once
    def log_det(self):
        """Sum of log d, plus 2 sum log L_ii, (B'...). Its gradient is Sigma^-1."""
        if not self._is_recorded():
            return self._log_det()
        F, held = namespace(self.factor), self._held()
        of_factor = multiply(self.factor, 2 * held._inverse_times_factor())
        of_diagonal = multiply(self.diagonal, linalg.constant(held.inverse_diagonal()))
        surrogate = add(F.sum(of_factor, axis=(-2, -1)), F.sum(of_diagonal, axis=-1))
        return held._log_det() + (surrogate - linalg.constant(surrogate))

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

    def _is_recorded(self):
        """Whether a gradient may be wanted; of Symbols it is not known."""
        return namespace(self.factor) is mx.sym or autograd.is_recording()

    def _deviations(self):
        """sqrt(d) as a row, (B'..., 1, D)."""
        return linalg.as_row(namespace(self.diagonal).sqrt(self.diagonal))

    def _log_det(self):
        F = namespace(self.factor)
        return add(F.sum(F.log(self.diagonal), axis=-1), 2 * linalg.log_abs_det(self._scaled()[2]))

    def _inverse_times_factor(self):
        """Sigma^-1 W = diag(d)^-1/2 V C^-1, (B'..., D, r)."""
        deviations, scaled, ridge = self._scaled()
        solved = linalg.solve_upper(ridge, linalg.solve_lower(ridge, scaled))
        return linalg.scale_rows(solved, 1 / namespace(self.diagonal).sqrt(self.diagonal))

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


def _whiten(deviations, scaled, ridge, *parts_and_rows):
    *parts, rows = parts_and_rows
    coefficients = ridge_coefficients(scaled, ridge, linalg.divide_entries(deviations, rows))
    remainder = linalg.divide_entries(deviations, subtract_product(parts, coefficients, rows))
    return namespace(rows).concat(remainder, coefficients, dim=-1)


def _measure(held_deviations, scaled, ridge, deviations, *parts_and_rows):
    *parts, rows = parts_and_rows
    held = linalg.divide_entries(held_deviations, linalg.constant(rows))
    coefficients = ridge_coefficients(scaled, ridge, held)
    remainder = linalg.divide_entries(deviations, subtract_product(parts, coefficients, rows))
    return namespace(rows).concat(remainder, coefficients, dim=-1)


def _regress(deviations, scaled, ridge, loadings, rows):
    coefficients = ridge_coefficients(scaled, ridge, linalg.divide_entries(deviations, rows))
    return linalg.multiply(loadings, coefficients)
