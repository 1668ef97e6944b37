# SPDX-License-Identifier: Apache-2.0
"""THE table of structures: what each is made of, how it is built, and which matrix it means.

A new structure is one more row here, and every test of structures and of the Gaussian covers it.
"""

from typing import Callable, Dict, NamedTuple, Optional

from mxfusion_mvn import structures

import numpy as np

from helpers import oracles

LOW_RANK = 2


class Case(NamedTuple):
    """
    One structure: the arguments of ``mxfusion_mvn.testing.check_structure``, where they are explained.

    ``arrays(rng, leading, dim)`` gives float64 NumPy parameters by name, ``build(**parameters)`` the structure from
    NDArrays or Symbols, and ``dense(**parameters)`` the covariance from NumPy arrays.
    """

    arrays: Callable
    build: Callable
    dense: Callable
    degrees: Dict[str, float]
    invalid: Callable
    singular: bool = False
    tangent: Optional[Callable] = None


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
    return {"covariance": _square(root)}


def _one_direction(rng, leading, dim):
    return {"covariance": _square(rng.normal(size=leading + (dim, 1)))}


def _mixed_ranks(rng, leading, dim):
    """Of different rank within a batch, with only one distinct positive eigenvalue."""
    basis = np.linalg.qr(rng.normal(size=leading + (dim, dim)))[0]
    ranks = 1 + np.arange(np.prod(leading, dtype=int)).reshape(leading + (1,)) % dim
    return {"covariance": oracles.symmetric(_square(basis * (np.arange(dim) < ranks)[..., None, :]))}


def _within_support(rng, covariance):
    """A symmetric direction that leaves the range of a covariance as it is."""
    values, vectors = np.linalg.eigh(covariance)
    projector = _square(vectors * (values > 1e-6 * values[..., -1:])[..., None, :])
    return {"covariance": projector @ oracles.symmetric(rng.normal(size=covariance.shape)) @ projector}


def _negative(*names):
    return lambda **arrays: {name: -array if name in names else array for name, array in arrays.items()}


def _square(matrix):
    return matrix @ np.swapaxes(matrix, -1, -2)


def _diag(variances):
    return variances[..., None] * np.eye(variances.shape[-1])


def kron(left, right):
    """Kronecker product of the last two axes."""
    product = left[..., :, None, :, None] * right[..., None, :, None, :]
    rows, columns = left.shape[-2] * right.shape[-2], left.shape[-1] * right.shape[-1]
    return product.reshape(product.shape[:-4] + (rows, columns))


CASES = {
    "dense": Case(
        _matrix("covariance"),
        structures.Dense,
        lambda covariance: covariance,
        {"covariance": 1},
        _negative("covariance"),
    ),
    "cholesky": Case(
        _factor,
        structures.Cholesky,
        lambda scale_tril: _square(np.tril(scale_tril)),
        {"scale_tril": 0.5},
        lambda scale_tril: {"scale_tril": 0 * scale_tril},
    ),
    "precision": Case(
        _matrix("precision"),
        structures.Precision,
        lambda precision: np.linalg.inv(precision),
        {"precision": -1},
        _negative("precision"),
    ),
    "diagonal": Case(_variances, structures.Diagonal, _diag, {"variances": 1}, _negative("variances")),
    "low rank": Case(
        _low_rank,
        lambda factor, diagonal: structures.LowRank(factor, diagonal, rank=LOW_RANK),
        lambda factor, diagonal: _square(factor) + _diag(diagonal),
        {"factor": 0.5, "diagonal": 1},
        _negative("diagonal"),
    ),
    "kronecker": Case(
        _two_sides,
        lambda row, column: structures.Kronecker(structures.Dense(row), structures.Precision(column)),
        lambda row, column: kron(row, np.linalg.inv(column)),
        {"row": 1, "column": 0},
        _negative("column"),
    ),
    "correlation": Case(
        _correlation,
        structures.ScaledCorrelation,
        lambda standard_deviations, correlation: _diag(standard_deviations) @ correlation @ _diag(standard_deviations),
        {"standard_deviations": 0.5, "correlation": 0},
        _negative("correlation"),
    ),
    "correlation factor": Case(
        _correlation_tril,
        lambda standard_deviations, correlation_tril: structures.ScaledCorrelation(
            standard_deviations, correlation_tril=correlation_tril
        ),
        lambda standard_deviations, correlation_tril: _square(_diag(standard_deviations) @ np.tril(correlation_tril)),
        {"standard_deviations": 0.5, "correlation_tril": 0},
        _negative("standard_deviations"),
    ),
    "singular": Case(
        _deficient,
        lambda covariance: structures.Singular(covariance, tolerance=1e-4),
        lambda covariance: covariance,
        {"covariance": 1},
        _negative("covariance"),
        singular=True,
        tangent=_within_support,
    ),
    "singular of rank 1": Case(
        _one_direction,
        lambda covariance: structures.Singular(covariance, rank=1, tolerance=1e-4),
        lambda covariance: covariance,
        {"covariance": 1},
        _negative("covariance"),
        singular=True,
        tangent=_within_support,
    ),
    "singular of mixed ranks": Case(
        _mixed_ranks,
        lambda covariance: structures.Singular(covariance, tolerance=1e-4),
        lambda covariance: covariance,
        {"covariance": 1},
        _negative("covariance"),
        singular=True,
        tangent=_within_support,
    ),
    "singular of full rank": Case(
        _matrix("covariance"),
        lambda covariance: structures.Singular(covariance, tolerance=1e-4),
        lambda covariance: covariance,
        {"covariance": 1},
        _negative("covariance"),
    ),
}
REGULAR = [name for name, case in CASES.items() if not case.singular]
