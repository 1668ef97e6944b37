# SPDX-License-Identifier: Apache-2.0
"""Standard deviations and a correlation: Sigma = diag(s) R diag(s)."""

from mxfusion_mvn import linalg
from mxfusion_mvn.failure import RAISE, factor
from mxfusion_mvn.structures.cholesky import Cholesky
from mxfusion_mvn.structures.structure import Structure, computed_once


class ScaledCorrelation(Structure):
    """
    Sigma = diag(s) R diag(s), R given itself or by its Cholesky factor.

    :param standard_deviations: s (B'..., D), positive.
    :param correlation: R (B'..., D, D), symmetric positive definite with a unit diagonal.
    :param correlation_tril: L with L L^T = R, instead of R.
    :param on_failure: what to do if R is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :param name: what to call R in messages.
    :raises ValueError: unless exactly one of correlation and correlation_tril is given.
    """

    def __init__(
        self, standard_deviations, correlation=None, correlation_tril=None, on_failure=RAISE, name="correlation"
    ):
        if (correlation is None) == (correlation_tril is None):
            raise ValueError(
                "`correlation` and `correlation_tril`: expected exactly one of them. Pass the one you have."
            )
        self.standard_deviations = standard_deviations
        self.correlation = correlation
        self.correlation_tril = correlation_tril
        self.on_failure = on_failure
        self.name = name

    @computed_once
    def factored(self):
        """The same covariance by its Cholesky factor diag(s) L, a :class:`Cholesky`."""
        tril = self.correlation_tril
        if tril is None:
            tril = factor(self.correlation, self.on_failure, self.name)
        return Cholesky(linalg.scale_rows(tril, self.standard_deviations))

    def root(self):
        """diag(s) L, (B'..., D, D)."""
        return self.factored().root()

    def whitening(self):
        """L^-1 diag(s)^-1, by substitution."""
        return self.factored().whitening()

    def coloring(self):
        """diag(s) L."""
        return self.factored().coloring()

    def log_det(self):
        """2 sum log s_i + 2 sum log L_ii, (B'...)."""
        return self.factored().log_det()

    def marginal(self, index, rest=None):
        """A ScaledCorrelation."""
        correlation = self.correlation
        if correlation is None:
            correlation = linalg.outer_square(linalg.lower_triangle(self.correlation_tril))
        block = linalg.take(linalg.take(correlation, index, axis=-1), index, axis=-2)
        return ScaledCorrelation(linalg.take(self.standard_deviations, index, axis=-1), block)
