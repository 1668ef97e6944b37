# SPDX-License-Identifier: Apache-2.0
"""The reference of a covariance structure: its dense matrix, in NumPy and float64."""

import math

from mxfusion_mvn.testing._compare import diagonals

import numpy as np

_LOG_2PI = math.log(2 * math.pi)  # not the constant under test


class Reference:
    """
    A covariance, and all results for it by dense arithmetic in float64.

    :param covariance: Sigma (B'..., D, D), NumPy array.
    """

    def __init__(self, covariance):
        self.covariance = (covariance + np.swapaxes(covariance, -1, -2)) / 2
        self.deviations = np.sqrt(diagonals(self.covariance))
        values, vectors = np.linalg.eigh(self.covariance)
        self.kept = values > 1e-4 * values[..., -1:]
        safe = np.where(self.kept, values, 1)
        self.rank = self.kept.sum(-1)
        self.log_det = np.where(self.kept, np.log(safe), 0).sum(-1)
        self.log_size = np.where(self.kept, np.abs(np.log(safe)), 0).sum(-1) + values.shape[-1]
        self.inverse = (vectors * np.where(self.kept, 1 / safe, 0)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
        self.root = vectors * np.where(self.kept, np.sqrt(safe), 0)[..., None, :]
        self.outside = vectors * np.where(self.kept, 0, 1)[..., None, :]

    def squared_norm(self, vectors):
        """r^T Sigma^-1 r."""
        return np.einsum("...i,...ij,...j->...", vectors, self.inverse, vectors)

    def log_pdf(self, vectors):
        """Log density of N(0, Sigma)."""
        return -0.5 * (self.squared_norm(vectors) + self.log_det + self.rank * _LOG_2PI)

    def sizes(self):
        """Products of standard deviations, (B'..., D, D): the sizes of the entries of Sigma, for relative errors."""
        return self.deviations[..., :, None] * self.deviations[..., None, :]

    def marginal(self, index):
        """Sigma_aa."""
        return self.covariance[..., index, :][..., :, index]

    def condition(self, given, rest, vectors):
        """The mean of b given a, and Sigma_b|a."""
        own = Reference(self.marginal(given))
        cross = self.covariance[..., rest, :][..., :, given]
        mean = np.einsum("...ij,...jk,...k->...i", cross, own.inverse, vectors)
        return mean, self.marginal(rest) - cross @ own.inverse @ np.swapaxes(cross, -1, -2)


def divergence(p, q, difference):
    """KL(p || q) of two references with a common support."""
    trace = np.einsum("...ij,...ji->...", q.inverse, p.covariance)
    return 0.5 * (trace + q.squared_norm(difference) - p.rank + q.log_det - p.log_det)


def expected_results(reference, residual):
    """The results of a structure by the reference: dict from name to (value, size for relative errors)."""
    sizes, dim = reference.sizes(), residual.shape[-1]
    log_det = np.atleast_1d(reference.log_det)
    log_size = np.atleast_1d(reference.log_size)
    squared = np.atleast_1d(reference.squared_norm(residual))
    expected = {
        "dense": (reference.covariance, sizes),
        "root": (reference.covariance, sizes),
        "coloring": (reference.covariance, sizes),
        "diagonal_and_root": (reference.covariance, sizes),
        "variance": (diagonals(reference.covariance), 0),
        "inverse_diagonal": (diagonals(reference.inverse), 0),
        "log_det": (log_det, log_size),
        "entropy": (0.5 * (log_det + reference.rank * (1 + _LOG_2PI)), log_size),
        "whiten": (squared, dim),
        "distance": (squared, dim),
        "log_pdf": (np.atleast_1d(reference.log_pdf(residual)), squared + log_size),
    }
    if dim > 1:
        given, rest = some_and_rest(dim)
        mean, covariance = reference.condition(given, rest, residual[..., given])
        expected["marginal"] = reference.marginal(given), sizes[..., given, :][..., :, given]
        expected["condition"] = covariance, sizes[..., rest, :][..., :, rest]
        expected["regression"] = (
            mean,
            np.sqrt(reference.squared_norm(residual) + dim)[..., None] * reference.deviations[..., rest],
        )
    return expected


def some_and_rest(dim):
    """Some positions, not in order, and the rest."""
    return [dim - 1, *range(dim // 2 - 1)], list(range(dim // 2 - 1, dim - 1))
