# SPDX-License-Identifier: Apache-2.0
"""THE table of the vector distributions beside the multivariate normal, each with its oracles in float64."""

from typing import Callable, Dict, NamedTuple, Tuple

from mxfusion_mvn import (
    GaussianMixture,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateStudentT,
)

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_t

from helpers import oracles
from helpers.host import declare, nd
from helpers.structure_cases import kron

SIZES = [(1, 4), (4, 4), (3, 1), (5, 3)]  # (S, N)
ROWS, COLUMNS = 2, 3
DIM, RANK = 6, 2


def spd(dim):
    return lambda rng, leading: oracles.random_spd(rng, leading, dim, condition=20)


def factor(dim):
    return lambda rng, leading: np.linalg.cholesky(oracles.random_spd(rng, leading, dim, condition=20))


def normal(*event):
    return lambda rng, leading: rng.normal(size=leading + event)


def positive(dim):
    return lambda rng, leading: rng.uniform(0.2, 2.0, size=leading + (dim,))


def square(tril):
    return np.tril(tril) @ np.swapaxes(np.tril(tril), -1, -2)


class Case(NamedTuple):
    """
    A distribution and its oracles.

    ``parameters`` holds, by name, a maker and the number of event axes. ``log_pdf(value, **parameters)`` takes arrays
    (S, N, event) and gives (S, N); ``moments(**parameters)`` takes single events and gives mean and covariance of the
    flattened vector. ``color(noise, **parameters)`` is the affine map of a draw, for laws that are one.
    """

    distribution: type
    event: Tuple[int, ...]
    parameters: Dict[str, Tuple[Callable, int]]
    log_pdf: Callable
    moments: Callable
    color: Callable = None
    noise: int = 0


def flat(array):
    return array.reshape(array.shape[:2] + (DIM,))


def gaussian(event, parameters, covariance, color, distribution, noise):
    """A case whose law is a Gaussian vector of a given dense covariance."""
    return Case(
        distribution,
        event,
        parameters,
        lambda value, mean, **matrices: oracles.log_pdf(flat(value), flat(mean), covariance(**matrices)),
        lambda mean, **matrices: (mean.ravel(), covariance(**matrices)),
        color,
        noise,
    )


def _low_rank_color(noise, factor, diagonal):
    common, own = noise[..., :RANK], noise[..., RANK:]
    return np.einsum("...dr,...r->...d", factor, common) + np.sqrt(diagonal) * own


def _matrix_color(noise, row, column):
    noise = noise.reshape(noise.shape[:-1] + (ROWS, COLUMNS))
    return row @ noise @ np.swapaxes(column, -1, -2)


def _student_log_pdf(value, degrees_of_freedom, mean, precision):
    leading = np.broadcast_shapes(*(a.shape[:2] for a in (value, degrees_of_freedom, mean, precision)))
    arrays = [value, mean, np.linalg.inv(precision), degrees_of_freedom]
    arrays = [np.broadcast_to(a, leading + a.shape[2:]) for a in arrays]
    result = np.empty(leading)
    for index in np.ndindex(leading):
        x, loc, shape, freedom = (a[index] for a in arrays)
        result[index] = multivariate_t.logpdf(x, loc, shape, df=freedom[0])
    return result


def _mixture_log_pdf(value, weights, mean, scale_tril):
    terms = [
        np.log(weights[..., k]) + oracles.log_pdf(value, mean[..., k, :], square(scale_tril[..., k, :, :]))
        for k in range(COMPONENTS)
    ]
    return logsumexp(np.stack(terms), axis=0)


def _mixture_moments(weights, mean, scale_tril):
    center = weights @ mean
    second = sum(w * (square(tril) + np.outer(m, m)) for w, m, tril in zip(weights, mean, scale_tril))
    return center, second - np.outer(center, center)


COMPONENTS = 3
CASES = {
    "low rank": gaussian(
        (DIM,),
        {"mean": (normal(DIM), 1), "factor": (normal(DIM, RANK), 2), "diagonal": (positive(DIM), 1)},
        lambda factor, diagonal: factor @ np.swapaxes(factor, -1, -2) + diagonal[..., None] * np.eye(DIM),
        _low_rank_color,
        LowRankMultivariateNormal,
        RANK + DIM,
    ),
    "matrix normal": gaussian(
        (ROWS, COLUMNS),
        {
            "mean": (normal(ROWS, COLUMNS), 2),
            "row_covariance": (spd(ROWS), 2),
            "column_covariance": (spd(COLUMNS), 2),
        },
        lambda row_covariance, column_covariance: kron(row_covariance, column_covariance),
        lambda noise, row_covariance, column_covariance: _matrix_color(
            noise, np.linalg.cholesky(row_covariance), np.linalg.cholesky(column_covariance)
        ),
        MatrixNormal,
        DIM,
    ),
    "matrix normal by factors": gaussian(
        (ROWS, COLUMNS),
        {
            "mean": (normal(ROWS, COLUMNS), 2),
            "row_scale_tril": (factor(ROWS), 2),
            "column_scale_tril": (factor(COLUMNS), 2),
        },
        lambda row_scale_tril, column_scale_tril: kron(square(row_scale_tril), square(column_scale_tril)),
        lambda noise, row_scale_tril, column_scale_tril: _matrix_color(noise, row_scale_tril, column_scale_tril),
        MatrixNormal,
        DIM,
    ),
    "student t": Case(
        MultivariateStudentT,
        (DIM,),
        {
            "degrees_of_freedom": (lambda rng, leading: rng.uniform(9, 12, size=leading + (1,)), 1),
            "mean": (normal(DIM), 1),
            "precision": (spd(DIM), 2),
        },
        _student_log_pdf,
        lambda degrees_of_freedom, mean, precision: (
            mean,
            degrees_of_freedom / (degrees_of_freedom - 2) * np.linalg.inv(precision),
        ),
    ),
    "mixture": Case(
        GaussianMixture,
        (DIM,),
        {
            "weights": (lambda rng, leading: rng.dirichlet(np.full(COMPONENTS, 2.0), size=leading), 1),
            "mean": (normal(COMPONENTS, DIM), 2),
            "scale_tril": (
                lambda rng, leading: np.linalg.cholesky(oracles.random_spd(rng, leading + (COMPONENTS,), DIM, 20)),
                3,
            ),
        },
        _mixture_log_pdf,
        _mixture_moments,
    ),
}
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]  # sample axis, batch axis


def leading(layout, sizes):
    return (sizes[0] if layout[0] else 1,) + ((sizes[1],) if layout[1] else ())


def make(rng, case, sizes, layouts):
    """Parameters and a value as the host hands them over."""
    names = list(case.parameters)
    arrays = {name: case.parameters[name][0](rng, leading(layout, sizes)) for name, layout in zip(names, layouts)}
    arrays["random_variable"] = rng.normal(size=leading(layouts[-1], sizes) + case.event)
    return arrays


def with_batch(case, arrays):
    """Missing batch axes inserted after the sample axis."""
    axes = {"random_variable": len(case.event), **{name: event for name, (_, event) in case.parameters.items()}}
    return {name: a if a.ndim == 2 + axes[name] else a[:, None] for name, a in arrays.items()}


def expected_log_pdf(case, arrays):
    arrays = with_batch(case, arrays)
    return case.log_pdf(arrays.pop("random_variable"), **arrays)


def runtime(case, arrays, sizes, dtype):
    shapes = {name: tuple(arrays[name].shape[1:]) for name in case.parameters}
    model = declare(case.distribution, (sizes[1],) + case.event, dtype, **shapes)
    variables = {getattr(model, name).uuid: nd(arrays[name], dtype) for name in case.parameters}
    variables[model.X.uuid] = nd(arrays["random_variable"], dtype)
    return model.X.factor, variables


def layouts_of(case):
    """All parameters alike, and each one different from the rest."""
    count = len(case.parameters) + 1
    for one in LAYOUTS:
        for other in LAYOUTS:
            for place in range(count):
                yield [one if i == place else other for i in range(count)]
