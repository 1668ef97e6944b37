# SPDX-License-Identifier: Apache-2.0
"""A covariance held by a triangular factor: Sigma = L L^T."""

from mxfusion_mvn import linalg
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once


class Cholesky(Structure):
    """
    Sigma = L L^T.

    :param scale_tril: L (B'..., D, D). Only its lower triangle is read; its diagonal may have any sign but not be 0.
    """

    def __init__(self, scale_tril):
        self.scale_tril = scale_tril

    def root(self):
        """L with zeros above the diagonal, (B'..., D, D)."""
        return linalg.lower_triangle(self.scale_tril)

    def whitening(self):
        """L^-1, by substitution."""
        return RowMap(linalg.solve_lower, self.scale_tril)

    def coloring(self):
        """L."""
        return RowMap(linalg.multiply_lower, self.scale_tril)

    @computed_once
    def log_det(self):
        """2 sum log |L_ii|, (B'...)."""
        return 2 * linalg.log_abs_det(self.scale_tril)
