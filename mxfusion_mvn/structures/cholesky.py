# SPDX-License-Identifier: Apache-2.0
"""A covariance held by a triangular factor: Sigma = L L^T."""

from mxfusion_mvn import arrays, linalg
from mxfusion_mvn.axes import namespace
from mxfusion_mvn.failure import check_triangular_factor
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once, regress


class Cholesky(Structure):
    """
    Sigma = L L^T.

    :param scale_tril: L (B'..., D, D). Only its lower triangle is read; its diagonal may have any sign but not be 0.
    :param refine: function without arguments that gives K of :mod:`mxfusion_mvn.refinement` or None, called when
        Sigma = L K K^T L^T is needed to more digits than L L^T has.
    :param name: what to call it in messages.
    :raises ValueError: for another type, dtype or shape.
    """

    def __init__(self, scale_tril, refine=None, name="scale_tril"):
        arrays.check_parameter(name, scale_tril, "DD")
        self.scale_tril = scale_tril
        self._refine = refine
        self.name = name

    def check(self):
        """Refuse a lower triangle that is not finite, and a zero on the diagonal."""
        check_triangular_factor(self.scale_tril, self.name)

    @computed_once
    def _second(self):
        return self._refine() if self._refine else None

    @computed_once
    def root(self):
        """L with zeros above the diagonal, (B'..., D, D)."""
        return linalg.lower_triangle(self.scale_tril)

    def whitening(self):
        """L^-1, by substitution; where there is a K, K^-1 L^-1."""
        first, second = RowMap(linalg.solve_lower, self.scale_tril), self._second()
        return first if second is None else first.then(RowMap(linalg.solve_lower, second))

    def coloring(self):
        """L."""
        return RowMap(linalg.multiply_lower, self.scale_tril)

    @computed_once
    def log_det(self):
        """2 sum log |L_ii|, (B'...), and as much of K."""
        log_det, second = linalg.log_abs_det(self.scale_tril), self._second()
        return 2 * (log_det if second is None else log_det + linalg.log_abs_det(second))

    def cast(self, dtype):
        """The refinement, of the digits of what was factored, is left out."""
        copied = super().cast(dtype)
        copied._refine = None
        return copied

    def marginal(self, index, rest=None):
        """A Cholesky, by a rotation of the rows of L, as in :meth:`condition`."""
        return Cholesky(_rotated(linalg.take(self.root(), index, axis=-2), index))

    def condition(self, given, rest):
        """A Cholesky, by a rotation of the rows of L: its product, which would lose digits, is not formed."""
        order = list(given) + list(rest)
        factor = _rotated(linalg.take(self.root(), order, axis=-2), order)
        aa, ba, bb = linalg.blocks(factor, len(given))
        return RowMap(regress, aa, ba), Cholesky(bb)

    def template(self):
        """The diagonal of L, (B'..., D)."""
        return linalg.diagonal(self.scale_tril)

    def leading(self):
        """B'."""
        return self.scale_tril.shape[:-2]

    def dim(self):
        """D."""
        return linalg.size(self.scale_tril)


def _rotated(rows, order):
    """Rows of a lower triangular factor as such a factor: themselves, if they are its first ones."""
    if list(order) == list(range(len(order))):
        return namespace(rows).slice_axis(rows, axis=-1, begin=0, end=len(order))
    return linalg.triangular_factor(rows)
