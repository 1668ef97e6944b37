# SPDX-License-Identifier: Apache-2.0
"""References in float64 by NumPy and SciPy, one matrix at a time. Imports nothing from the package."""

import numpy as np
from scipy.stats import multivariate_normal

TO_COVARIANCE = {
    "covariance": lambda matrix: matrix,
    "precision": np.linalg.inv,
    "scale_tril": lambda matrix: np.tril(matrix) @ np.swapaxes(np.tril(matrix), -1, -2),
}

FROM_COVARIANCE = {
    "covariance": lambda covariance: covariance,
    "precision": lambda covariance: symmetric(np.linalg.inv(covariance)),
    "scale_tril": np.linalg.cholesky,
}

COLOR = {
    "covariance": np.linalg.cholesky,
    "precision": lambda precision: np.swapaxes(np.linalg.inv(np.linalg.cholesky(precision)), -1, -2),
    "scale_tril": np.tril,
}


def symmetric(matrix):
    """The symmetric part."""
    return (matrix + np.swapaxes(matrix, -1, -2)) / 2


def random_spd(rng, leading, dim, condition=100.0):
    """Symmetric positive definite matrices (leading..., dim, dim) of a given condition number."""
    basis = np.linalg.qr(rng.normal(size=leading + (dim, dim)))[0]
    eigenvalues = np.geomspace(1.0, condition, dim) / np.sqrt(condition)
    return symmetric((basis * eigenvalues) @ np.swapaxes(basis, -1, -2))


def log_pdf(value, mean, covariance):
    """Log density (B...) of value (B..., D) by SciPy; all leading axes broadcast from the right."""
    residual = value - mean
    leading = np.broadcast_shapes(residual.shape[:-1], covariance.shape[:-2])
    residual = np.broadcast_to(residual, leading + residual.shape[-1:])
    covariance = covariance.reshape((1,) * (len(leading) + 2 - covariance.ndim) + covariance.shape)
    result = np.empty(leading)
    for index in np.ndindex(covariance.shape[:-2]):
        # The vectors of one matrix: all along the axes that it does not have.
        own = tuple(i if size > 1 else slice(None) for i, size in zip(index, covariance.shape))
        densities = multivariate_normal.logpdf(residual[own], cov=covariance[index])
        result[own] = np.reshape(densities, result[own].shape)
    return result


def central_difference(function, array, step=1e-4, symmetrical=False):
    """
    Gradient of a scalar function, by the five-point formula, whose error is of order step^4.

    With symmetrical, entries (i, j) and (j, i) move together, as half each.
    """
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        change = np.zeros_like(array)
        change[index] += step
        if symmetrical:
            change = symmetric(change)
        near = function(array + change) - function(array - change)
        far = function(array + 2 * change) - function(array - 2 * change)
        gradient[index] = (8 * near - far) / (12 * step)
    return gradient
