# SPDX-License-Identifier: Apache-2.0
"""Ellipsoids around the mean of a Gaussian that hold a given probability, on NumPy arrays."""

from __future__ import annotations

import math
import numbers

import numpy as np


def radius_of(probability, rank):
    """
    The square root of a quantile of the chi-squared distribution.

    :param probability: between 0 and 1.
    :param rank: the degrees of freedom, an integer or a NumPy array (B...).
    :returns: a float, or a NumPy array (B...).
    :raises ImportError: without SciPy, unless the rank is 2.
    """
    if isinstance(rank, numbers.Integral) and rank == 2:
        return math.sqrt(-2 * math.log1p(-probability))
    try:
        from scipy.stats import chi2
    except ImportError as error:
        raise ImportError(
            "`credible_radius` takes a quantile of the chi-squared distribution from SciPy, except for D = 2; "
            "expected SciPy to be installed. Run pip install scipy."
        ) from error
    radius = np.sqrt(chi2.ppf(probability, rank))
    return float(radius) if np.ndim(radius) == 0 else radius


def outline(mean, covariance, radius, num_points):
    """
    The outline of an ellipse.

    :param mean: NumPy array (B..., 2).
    :param covariance: NumPy array (B'..., 2, 2).
    :param radius: a float or a NumPy array (B'...), in standard deviations.
    :param num_points: P.
    :returns: NumPy array (P, broadcast of B... and B'..., 2), a closed curve along its first axis.
    """
    angle = np.linspace(0, 2 * np.pi, num_points)
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    circle = circle.reshape((num_points,) + (1,) * (max(axes.ndim - 1, mean.ndim) - 1) + (2, 1))
    return mean + (axes @ (np.asarray(radius)[..., None, None] * circle))[..., 0]
