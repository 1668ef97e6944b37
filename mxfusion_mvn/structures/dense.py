# SPDX-License-Identifier: Apache-2.0
"""A covariance held as it is: Sigma, factored once, when the factor is first needed."""

from functools import partial

from mxfusion_mvn import arrays, linalg
from mxfusion_mvn.failure import RAISE, factor
from mxfusion_mvn.refinement import refinement
from mxfusion_mvn.structures.cholesky import Cholesky
from mxfusion_mvn.structures.structure import Structure, computed_once


class Dense(Structure):
    """
    Sigma, symmetric positive definite.

    :param covariance: Sigma (B'..., D, D), of which the factorisation reads the lower triangle.
    :param on_failure: what to do if it is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :param name: what to call it in messages.
    :raises ValueError: for another type, dtype or shape.
    """

    def __init__(self, covariance, on_failure=RAISE, name="covariance"):
        arrays.check_parameter(name, covariance, "DD")
        arrays.check_policy(on_failure)
        self.covariance = covariance
        self.on_failure = on_failure
        self.name = name

    @computed_once
    def factored(self):
        """The same covariance by its Cholesky factor, a :class:`Cholesky`."""
        tril = factor(self.covariance, self.on_failure, self.name)
        return Cholesky(tril, partial(refinement, self.covariance, tril) if self.on_failure and self.refine else None)

    def check(self):
        """Refuse an asymmetric Sigma, unless nothing is to be looked at."""
        if self.on_failure is not None:
            arrays.check_symmetric(self.name, self.covariance)

    def root(self):
        """L with L L^T = Sigma, (B'..., D, D)."""
        return self.factored().scale_tril

    def whitening(self):
        """L^-1, by substitution."""
        return self.factored().whitening()

    def coloring(self):
        """L."""
        return self.factored().coloring()

    def log_det(self):
        """2 sum log L_ii, (B'...)."""
        return self.factored().log_det()

    def dense(self):
        """Sigma, (B'..., D, D)."""
        return self.covariance

    def variance(self):
        """The diagonal, (B'..., D)."""
        return linalg.diagonal(self.covariance)

    def leading(self):
        """B'."""
        return self.covariance.shape[:-2]

    def dim(self):
        """D."""
        return linalg.size(self.covariance)
