# SPDX-License-Identifier: Apache-2.0
"""Standard deviations and a correlation: Sigma = diag(s) R diag(s).

The two stay apart, so that one correlation, factored once, serves any number of rows of standard deviations.
"""

from __future__ import annotations

from mxfusion_mvn import linalg
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import RAISE, OnFailure, check_positive
from mxfusion_mvn.linalg.axes import Array, add, broadcast_shapes, multiply, namespace
from mxfusion_mvn.structures.array_holder import computed_once
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.structure import Cholesky, Dense, Structure


class ScaledCorrelation(Structure):
    """
    Sigma = diag(s) R diag(s), R given itself or by its Cholesky factor.

    :param standard_deviations: s (B'..., D), positive.
    :param correlation: R (B'..., D, D), symmetric positive definite with a unit diagonal.
    :param correlation_tril: L with L L^T = R, instead of R.
    :param on_failure: what to do if R is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :param name: what to call R in messages.
    :raises ValueError: unless exactly one of correlation and correlation_tril is given; for another type, dtype or
        shape.
    """

    def __init__(
        self,
        standard_deviations: Array,
        correlation: Array | None = None,
        correlation_tril: Array | None = None,
        on_failure: OnFailure | None = RAISE,
        name: str = "correlation",
    ) -> None:
        if (correlation is None) == (correlation_tril is None):
            raise ValueError(
                f"`correlation` and `correlation_tril`: got {'neither' if correlation is None else 'both'}; expected "
                "exactly one of them. Pass the one you have."
            )
        if correlation is None:
            self.correlation: Structure = Cholesky(correlation_tril, name="correlation_tril")
        else:
            self.correlation = Dense(correlation, on_failure, name)
        arguments.check_policy(on_failure)
        arguments.check_parameter("standard_deviations", standard_deviations, "D")
        matrix = correlation_tril if correlation is None else correlation
        arguments.check_scaling("standard_deviations", standard_deviations, self.correlation.name, matrix)
        self.standard_deviations = standard_deviations
        self.on_failure = on_failure
        self.name = name

    def check(self):
        """Refuse standard deviations that are not positive and finite, and what R or L is refused for."""
        check_positive(self.standard_deviations, "standard_deviations")
        super().check()

    def root(self):
        """diag(s) L, (B'..., D, D)."""
        return linalg.scale_rows(self.correlation.root(), self.standard_deviations)

    def dense(self):
        """diag(s) R diag(s), (B'..., D, D)."""
        scaled = linalg.scale_rows(self.correlation.dense(), self.standard_deviations)
        return multiply(scaled, linalg.as_row(self.standard_deviations))

    def variance(self):
        """The squares of s times the diagonal of R, which should be one, (B'..., D)."""
        return multiply(
            namespace(self.standard_deviations).square(self.standard_deviations), self.correlation.variance()
        )

    def whitening(self):
        """L^-1 diag(s)^-1, by substitution."""
        return RowMap(linalg.divide_entries, linalg.as_row(self.standard_deviations)).then(self.correlation.whitening())

    def coloring(self):
        """diag(s) L."""
        return self.correlation.coloring().then(
            RowMap(linalg.multiply_entries, linalg.as_row(self.standard_deviations))
        )

    @computed_once
    def log_det(self):
        """2 sum log s_i + 2 sum log L_ii, (B'...)."""
        F = namespace(self.standard_deviations)
        return add(2 * F.sum(F.log(self.standard_deviations), axis=-1), self.correlation.log_det())

    def leading(self):
        """B'."""
        return broadcast_shapes(self.standard_deviations.shape[:-1], self.correlation.leading())

    def template(self):
        """s, (B'..., D)."""
        return self.standard_deviations

    def marginal(self, index, rest=None):
        """A ScaledCorrelation."""
        deviations = linalg.take(self.standard_deviations, index, axis=-1)
        correlation = linalg.submatrix(self.correlation.dense(), index, index)
        return ScaledCorrelation(deviations, correlation, on_failure=self.on_failure, name=self.name)
