# SPDX-License-Identifier: Apache-2.0
"""The log pdf of a Gaussian to 50 digits by mpmath, and inputs of a given condition number to try it on."""

import mpmath
import numpy as np

from helpers.oracles import random_spd, symmetric

FORMS = ("covariance", "precision", "scale_tril")
# From the law: x = mean + L noise, whose terms in the exponent are all of size 1. Generic: x = mean + noise, which the
# narrowest direction of the Gaussian dominates.
DRAWS = ("from the distribution", "generic")


def inputs(rng, form, draw, dtype, dim, condition, replicates):
    """
    Means, matrices and values, rounded to a dtype; the reference is that of the rounded numbers.

    The covariance has a random orthogonal basis and a geometric spectrum around 1, so that log det Sigma is about 0.

    :param rng: NumPy generator.
    :param form: one of FORMS, what the matrix is.
    :param draw: one of DRAWS.
    :param dtype: name of a NumPy dtype.
    :param dim: D.
    :param condition: ratio of the largest to the smallest eigenvalue of the covariance.
    :param replicates: R.
    :returns: mean (R, D), matrix (R, D, D) and value (R, D).
    """
    shape = (replicates, dim)
    mean, noise = rng.normal(size=(2,) + shape)
    # A precision has such a spectrum if its inverse has.
    matrix = random_spd(rng, shape[:1], dim, condition)
    root = np.linalg.cholesky(matrix)
    if form == "precision":
        color = np.swapaxes(np.linalg.inv(root), -1, -2)
    else:
        color = root
    residual = np.einsum("rij,rj->ri", color, noise) if draw == "from the distribution" else noise
    matrix = root if form == "scale_tril" else symmetric(matrix)
    return tuple(array.astype(dtype) for array in (mean, matrix, mean + residual))


def log_pdf(value, mean, matrix, form):
    """
    Log density of one vector, its inputs taken as exact.

    :param value: NumPy array (D,).
    :param mean: NumPy array (D,).
    :param matrix: NumPy array (D, D), what `form` says.
    :param form: one of FORMS.
    :returns: an mpmath number of 50 digits.
    """
    with mpmath.workdps(50):
        residual = [mpmath.mpf(float(x)) - mpmath.mpf(float(m)) for x, m in zip(value, mean)]
        factor = [[mpmath.mpf(float(entry)) for entry in row] for row in matrix]
        if form != "scale_tril":
            factor = _cholesky(factor)
        if form == "precision":
            whitened = [mpmath.fdot(zip([row[i] for row in factor[i:]], residual[i:])) for i in range(len(factor))]
        else:
            whitened = _solve_lower(factor, residual)
        log_det = 2 * mpmath.fsum(mpmath.log(row[i]) for i, row in enumerate(factor))
        normaliser = len(factor) * mpmath.log(2 * mpmath.pi) + (-log_det if form == "precision" else log_det)
        return -(mpmath.fsum(whitened, squared=True) + normaliser) / 2


def relative_error(got, reference):
    """
    |got - reference| / |reference|.

    :param got: a float.
    :param reference: an mpmath number.
    :returns: a float; infinite if got is not finite.
    """
    if not np.isfinite(got):
        return float("inf")
    with mpmath.workdps(50):
        return float(abs((mpmath.mpf(float(got)) - reference) / reference))


def _cholesky(matrix):
    factor = []
    for i, row in enumerate(matrix):
        new = []
        for j in range(i):
            new.append((row[j] - mpmath.fdot(zip(new, factor[j]))) / factor[j][j])
        new.append(mpmath.sqrt(row[i] - mpmath.fsum(new, squared=True)))
        factor.append(new)
    return factor


def _solve_lower(factor, vector):
    solution = []
    for row, entry in zip(factor, vector):
        solution.append((entry - mpmath.fdot(zip(row, solution))) / row[len(solution)])
    return solution
