# SPDX-License-Identifier: Apache-2.0
"""A Gaussian by its dense covariance in float64 NumPy: what every structure is compared with.

Eigenvalues below ``tolerance`` times the largest count as zero: log density and divergence are then those within the
range, by the pseudo-determinant, and infinite off it. Imports nothing from the package.
"""

import numpy as np

LOG_2PI = np.log(2 * np.pi)


class DenseGaussian:
    """N(mean, covariance), of shapes (B..., D) and (B'..., D, D); leading axes broadcast from the right."""

    def __init__(self, mean, covariance, tolerance=0.0):
        self.mean = mean
        self.covariance = covariance
        self.tolerance = tolerance
        self.values, self.vectors = np.linalg.eigh(covariance)
        self.inside = self.values > tolerance * self.values[..., -1:]
        self.rank = self.inside.sum(-1)
        self.log_det = np.where(self.inside, np.log(np.where(self.inside, self.values, 1.0)), 0.0).sum(-1)

    def mahalanobis(self, value):
        squares = _map(np.swapaxes(self.vectors, -1, -2), value - self.mean) ** 2
        return np.where(self.inside, squares / np.where(self.inside, self.values, 1.0), 0.0).sum(-1)

    def log_pdf(self, value):
        log_pdf = -0.5 * (self.mahalanobis(value) + self.rank * LOG_2PI + self.log_det)
        return np.where(self.off_support(value - self.mean), -np.inf, log_pdf)

    def off_support(self, residual):
        outside = _map(np.swapaxes(self.vectors, -1, -2), residual) * ~self.inside
        return np.abs(outside).max(-1) > 1e-3 * np.sqrt(self.values[..., -1])

    def entropy(self):
        return 0.5 * (self.rank * (1 + LOG_2PI) + self.log_det)

    def kl_divergence(self, other):
        trace = np.einsum("...ij,...ji->...", other.precision(), self.covariance)
        quadratic = other.mahalanobis(self.mean)
        divergence = 0.5 * (trace - self.rank + quadratic + other.log_det - self.log_det)
        columns = np.moveaxis(self.vectors * np.sqrt(np.where(self.inside, self.values, 0.0))[..., None, :], -1, 0)
        axes = max(columns.ndim, other.mean.ndim + 1, other.covariance.ndim) - columns.ndim
        columns = columns.reshape(columns.shape[:1] + (1,) * axes + columns.shape[1:])
        same = (self.rank == other.rank) & ~other.off_support(self.mean - other.mean)
        return np.where(same & ~other.off_support(columns).any(0), divergence, np.inf)

    def precision(self):
        inverse = np.where(self.inside, 1 / np.where(self.inside, self.values, 1.0), 0.0)
        return (self.vectors * inverse[..., None, :]) @ np.swapaxes(self.vectors, -1, -2)

    def marginal(self, index):
        return DenseGaussian(self.mean[..., index], self.block(index, index), self.tolerance)

    def condition(self, index, value, rest):
        gain = self.block(rest, index) @ self.marginal(index).precision()
        covariance = self.block(rest, rest) - gain @ self.block(index, rest)
        mean = self.mean[..., rest] + _map(gain, value - self.mean[..., index])
        return DenseGaussian(mean, covariance, self.tolerance)

    def affine(self, matrix, offset):
        covariance = matrix @ self.covariance @ np.swapaxes(matrix, -1, -2)
        return DenseGaussian(_map(matrix, self.mean) + offset, covariance, self.tolerance)

    def product(self, other):
        """The factor of the product that is a density, for a regular sum, and the log of the constant."""
        total = DenseGaussian(other.mean, self.covariance + other.covariance)
        gain = self.covariance @ total.precision()
        mean = self.mean + _map(gain, other.mean - self.mean)
        return DenseGaussian(mean, self.covariance - gain @ self.covariance, self.tolerance), total.log_pdf(self.mean)

    def block(self, rows, columns):
        return self.covariance[..., rows, :][..., columns]


def _map(matrix, vectors):
    return np.einsum("...ij,...j->...i", matrix, vectors)
