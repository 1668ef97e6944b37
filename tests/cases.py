# SPDX-License-Identifier: Apache-2.0
"""THE table of structures: what each is made of, how it is built, and which matrix it means.

A new structure is one more row here, and every test of structures and of the Gaussian covers it.
"""

from typing import Callable, NamedTuple

from mxfusion_mvn import structures

import numpy as np
import oracles

LOW_RANK = 2


class Case(NamedTuple):
    """
    One structure.

    ``arrays(rng, leading, dim)`` gives float64 NumPy parameters by name, ``build(**parameters)`` the structure from
    NDArrays or Symbols, and ``dense(**parameters)`` the covariance from NumPy arrays.
    """

    arrays: Callable
    build: Callable
    dense: Callable
    singular: bool = False


def _matrix(name):
    return lambda rng, leading, dim: {name: oracles.random_spd(rng, leading, dim)}


def _factor(rng, leading, dim):
    return {"scale_tril": np.linalg.cholesky(oracles.random_spd(rng, leading, dim))}


def _variances(rng, leading, dim):
    return {"variances": rng.uniform(0.2, 3.0, size=leading + (dim,))}


def _low_rank(rng, leading, dim):
    return {
        "factor": rng.normal(size=leading + (dim, LOW_RANK)),
        "diagonal": rng.uniform(0.2, 3.0, size=leading + (dim,)),
    }


def _two_sides(rng, leading, dim):
    rows = 2 if dim % 2 == 0 else 1
    return {
        "row": oracles.random_spd(rng, leading, rows, condition=5),
        "column": oracles.random_spd(rng, leading, dim // rows, condition=20),
    }


def _correlation(rng, leading, dim):
    covariance = oracles.random_spd(rng, leading, dim)
    deviations = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    correlation = covariance / (deviations[..., :, None] * deviations[..., None, :])
    return {"standard_deviations": rng.uniform(0.2, 3.0, size=leading + (dim,)), "correlation": correlation}


def _correlation_tril(rng, leading, dim):
    arrays = _correlation(rng, leading, dim)
    return {
        "standard_deviations": arrays["standard_deviations"],
        "correlation_tril": np.linalg.cholesky(arrays["correlation"]),
    }


def _deficient(rng, leading, dim):
    root = rng.normal(size=leading + (dim, max(1, dim - 2)))
    return {"covariance": root @ np.swapaxes(root, -1, -2)}


def _square(matrix):
    return matrix @ np.swapaxes(matrix, -1, -2)


def _diag(vector):
    return vector[..., None] * np.eye(vector.shape[-1])


def kron(left, right):
    """Kronecker product of the last two axes."""
    product = left[..., :, None, :, None] * right[..., None, :, None, :]
    rows, columns = left.shape[-2] * right.shape[-2], left.shape[-1] * right.shape[-1]
    return product.reshape(product.shape[:-4] + (rows, columns))


CASES = {
    "dense": Case(_matrix("covariance"), structures.Dense, lambda covariance: covariance),
    "cholesky": Case(_factor, structures.Cholesky, lambda scale_tril: _square(np.tril(scale_tril))),
    "precision": Case(_matrix("precision"), structures.Precision, lambda precision: np.linalg.inv(precision)),
    "diagonal": Case(_variances, structures.Diagonal, lambda variances: _diag(variances)),
    "low rank": Case(
        _low_rank,
        lambda factor, diagonal: structures.LowRank(factor, diagonal, rank=LOW_RANK),
        lambda factor, diagonal: _square(factor) + _diag(diagonal),
    ),
    "kronecker": Case(
        _two_sides,
        lambda row, column: structures.Kronecker(structures.Dense(row), structures.Precision(column)),
        lambda row, column: kron(row, np.linalg.inv(column)),
    ),
    "correlation": Case(
        _correlation,
        structures.ScaledCorrelation,
        lambda standard_deviations, correlation: _diag(standard_deviations) @ correlation @ _diag(standard_deviations),
    ),
    "correlation factor": Case(
        _correlation_tril,
        lambda standard_deviations, correlation_tril: structures.ScaledCorrelation(
            standard_deviations, correlation_tril=correlation_tril
        ),
        lambda standard_deviations, correlation_tril: _square(_diag(standard_deviations) @ np.tril(correlation_tril)),
    ),
    "singular": Case(
        _deficient,
        lambda covariance: structures.Singular(covariance, tolerance=1e-4),
        lambda covariance: covariance,
        singular=True,
    ),
    "singular of full rank": Case(
        _matrix("covariance"),
        lambda covariance: structures.Singular(covariance, tolerance=1e-4),
        lambda covariance: covariance,
    ),
}
REGULAR = [name for name, case in CASES.items() if not case.singular]
