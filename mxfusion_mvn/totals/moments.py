# SPDX-License-Identifier: Apache-2.0
"""Count, mean and scatter of rows, of chunks that are seen once and joined in any order, in float64.

The moments of two parts are those of the whole (Chan, Golub and LeVeque, The American Statistician 37, 1983)::

    n = n_1 + n_2        d = mean_2 - mean_1        mean = mean_1 + n_2 / n d
    C^T C = C_1^T C_1 + C_2^T C_2 + n_1 n_2 / n d d^T

Parts are joined by a QR factorisation of C_1, C_2 and the row sqrt(n_1 n_2 / n) d, so that the scatter C^T C itself,
whose condition number is the square of that of C, is never formed. Of a chunk it is, where that loses no digits: the
Cholesky factor of a product takes a sixth of the time of a QR factorisation of the rows, and is as good as long as no
combination of the columns, scaled to one size, nearly vanishes.

Means of chunks far from zero differ by less than their last digits, so a mean is kept as the sum of two numbers.
"""

from dataclasses import dataclass
from typing import Any

from mxfusion_mvn.totals.statistics import compress

import numpy as np

# The least eigenvalue of the correlations from which on a product of rows serves: its error is 1e-16 divided by it.
_WELL_CONDITIONED = 1e-3
# Entries of what is computed at once, so few that they stay in a cache,
_BLOCK = 2**16
# how many rows are centred as one, because NumPy spends its time on the beginnings of short rows,
_JOINED_ROWS = 128
# and of how many rows one enters the centre. It differs from the mean by at most the root of this standard deviations.
_STRIDE = 64


@dataclass(frozen=True)
class Moments:
    """
    What is kept of rows (n, D).

    ``count`` is n; ``mean`` + ``rest`` is their mean, (D,) each; ``factor`` is C (at most D, D) with the scatter C^T C.
    """

    count: int
    mean: np.ndarray
    rest: np.ndarray
    factor: np.ndarray

    @property
    def covariance(self):
        """The scatter over n, (D, D)."""
        root = self.factor / np.sqrt(self.count)
        return root.T @ root


def of_rows(rows):
    """
    The moments of rows.

    :param rows: NumPy array (n, D) of numbers, n of at least 1.
    :returns: :class:`Moments`; None if an entry is not finite.
    """
    with np.errstate(all="ignore"):
        centre = rows[::_STRIDE].mean(axis=0, dtype="float64")
        if not np.isfinite(centre).all():
            return None
        total, scatter = _sums(rows, centre)
        if not np.isfinite(total).all():
            return None
        factor = _factor(scatter - total[:, None] * (total / len(rows)), len(rows))
    if factor is not None:
        return Moments(len(rows), centre, total / len(rows), factor)
    triangle: Any = np.linalg.qr(compress(_with_ones(rows), np.append(0.0, centre)), mode="r")
    return Moments(len(rows), centre, triangle[0, 1:] / triangle[0, 0], triangle[1:, 1:])


def joined(one, other):
    """
    The moments of two sets of rows together.

    :param one: :class:`Moments`.
    :param other: :class:`Moments`.
    :returns: :class:`Moments`.
    """
    count = one.count + other.count
    difference = (other.mean - one.mean) + (other.rest - one.rest)
    step = other.count / count * difference
    mean = one.mean + (step + one.rest)
    rest = (one.mean - mean) + (step + one.rest)
    between = np.sqrt(one.count * (other.count / count)) * difference
    factor: Any = np.linalg.qr(np.concatenate([one.factor, other.factor, between[None]]), mode="r")
    return Moments(count, mean, rest, factor)


def _sums(rows, centre):
    """Sum (D,), and sums of products (D, D), of the rows less a centre."""
    dim = len(centre)
    size = max(_BLOCK // dim, _JOINED_ROWS)
    buffer = np.empty((min(size, len(rows)), dim))
    centres = np.broadcast_to(centre, (_JOINED_ROWS, dim)).ravel()
    total: Any = 0.0
    scatter: Any = 0.0
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        centred = buffer[: len(block)]
        centred[...] = block
        many = len(block) // _JOINED_ROWS * _JOINED_ROWS
        long, rest = centred[:many].reshape(-1, _JOINED_ROWS * dim), centred[many:]
        long -= centres
        rest -= centre
        total = total + np.add.reduce(np.add.reduce(long).reshape(-1, dim)) + np.add.reduce(rest)
        scatter = scatter + centred.T @ centred
    return total, scatter


def _factor(scatter, count):
    """The Cholesky factor C (D, D) of a scatter, None where it would be worse than that of a QR factorisation."""
    inverse = 1 / np.sqrt(scatter.diagonal())
    if count <= len(scatter) or not 0 < inverse.min() <= inverse.max() < np.inf:
        return None
    if np.linalg.eigvalsh(scatter * (inverse[:, None] * inverse))[0] < _WELL_CONDITIONED:
        return None
    return np.linalg.cholesky(scatter).T


def _with_ones(rows):
    return np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
