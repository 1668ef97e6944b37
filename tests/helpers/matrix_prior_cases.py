# SPDX-License-Identifier: Apache-2.0
"""THE table of matrix priors: Wishart, inverse Wishart and LKJ, each with its oracles in float64."""

from typing import Callable, Dict, NamedTuple

from mxfusion_mvn import InverseWishart, LKJCholesky, Wishart

import numpy as np
from scipy import special, stats

from helpers import oracles
from helpers.host import FixedNoise, declare, nd

SIZES = [(1, 4), (4, 4), (3, 1), (5, 3)]  # (S, N)
DIMENSIONS = [1, 2, 4]


# Makers, (rng, leading, dim) -> array, and oracles in float64


def spd(rng, leading, dim):
    return oracles.random_spd(rng, leading, dim, condition=20)


def factor(rng, leading, dim):
    """With a negative pivot: only L L^T counts."""
    lower = np.linalg.cholesky(spd(rng, leading, dim))
    return lower * np.where(np.arange(dim) == dim - 1, -1.0, 1.0)


def freedom(rng, leading, dim):
    return dim - 1 + rng.uniform(0.3, 6.0, size=leading + (1,))


def concentration(rng, leading, dim):
    return rng.uniform(0.3, 4.0, size=leading + (1,))


def correlation_factor(rng, leading, dim):
    lower = np.linalg.cholesky(spd(rng, leading, dim))
    return lower / np.linalg.norm(lower, axis=-1, keepdims=True)


def transposed(matrix):
    return np.swapaxes(matrix, -1, -2)


def square(lower):
    return np.tril(lower) @ transposed(np.tril(lower))


def lkj_log_pdf(value, concentration):
    """
    Of a factor, with the constant by the vine: Lewandowski, Kurowicka and Joe (2009), page 1999, the first form.

    The package uses the second, by the onion.
    """
    dim, eta = len(value), concentration
    k = np.arange(1, dim)
    shapes = eta + (dim - k - 1) / 2
    log_constant = np.sum((2 * eta - 2 + dim - k) * (dim - k)) * np.log(2)
    log_constant += np.sum((dim - k) * special.betaln(shapes, shapes))
    return np.sum((dim - k - 1 + 2 * eta - 2) * np.log(np.diag(value)[1:])) - log_constant


def bartlett(degrees, gammas, normals):
    """The steps are those between the degrees of freedom of the gammas, which the test compares itself."""
    dim = gammas.shape[-1]
    return np.tril(normals, -1) + np.sqrt(2 * gammas)[..., None] * np.eye(dim)


def wishart_draw(noise, degrees_of_freedom, scale):
    return square_of(np.linalg.cholesky(scale) @ noise)


def inverse_wishart_draw(noise, degrees_of_freedom, scale):
    return square_of(np.linalg.cholesky(scale) @ np.linalg.inv(noise))


def square_of(matrix):
    return matrix @ transposed(matrix)


class Case(NamedTuple):
    """
    A distribution and its oracles.

    ``log_pdf(value, **parameters)`` takes one event, ``draw(noise, **parameters)`` a stack of Bartlett's matrices, and
    ``halves(dim, parameter)`` gives the shapes of the gamma noise from the first parameter.
    """

    distribution: type
    parameters: Dict[str, Callable]
    value: Callable
    log_pdf: Callable
    draw: Callable
    halves: Callable


def _ascending(dim, nu):
    return (nu - dim + 1 + np.arange(dim)) / 2


CASES = {
    "Wishart": Case(
        Wishart,
        {"degrees_of_freedom": freedom, "scale": spd},
        spd,
        lambda value, degrees_of_freedom, scale: stats.wishart.logpdf(value, degrees_of_freedom, scale),
        wishart_draw,
        lambda dim, nu: (nu - np.arange(dim)) / 2,
    ),
    "Wishart by factor": Case(
        Wishart,
        {"degrees_of_freedom": freedom, "scale_tril": factor},
        spd,
        lambda value, degrees_of_freedom, scale_tril: stats.wishart.logpdf(
            value, degrees_of_freedom, square(scale_tril)
        ),
        lambda noise, degrees_of_freedom, scale_tril: square_of(np.tril(scale_tril) @ noise),
        lambda dim, nu: (nu - np.arange(dim)) / 2,
    ),
    "inverse Wishart": Case(
        InverseWishart,
        {"degrees_of_freedom": freedom, "scale": spd},
        spd,
        lambda value, degrees_of_freedom, scale: stats.invwishart.logpdf(value, degrees_of_freedom, scale),
        inverse_wishart_draw,
        _ascending,
    ),
    "inverse Wishart by factor": Case(
        InverseWishart,
        {"degrees_of_freedom": freedom, "scale_tril": factor},
        spd,
        lambda value, degrees_of_freedom, scale_tril: stats.invwishart.logpdf(
            value, degrees_of_freedom, square(scale_tril)
        ),
        lambda noise, degrees_of_freedom, scale_tril: square_of(np.tril(scale_tril) @ np.linalg.inv(noise)),
        _ascending,
    ),
    "LKJ": Case(
        LKJCholesky,
        {"concentration": concentration},
        correlation_factor,
        lkj_log_pdf,
        lambda noise, concentration: noise / np.linalg.norm(noise, axis=-1, keepdims=True),
        lambda dim, eta: eta + (dim - 1 - np.arange(dim)) / 2,
    ),
}
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]  # sample axis, batch axis


def layouts_of(case):
    """For the parameters and the value, which has the batch axis always: one in each layout, the rest alike."""
    count = len(case.parameters) + 1
    seen = set()
    for rest in (LAYOUTS[0], LAYOUTS[-1]):
        for one in LAYOUTS:
            for place in range(count):
                layouts = tuple(one if i == place else rest for i in range(count))
                seen.add(layouts[:-1] + ((layouts[-1][0], True),))
    return sorted(seen)


def make(rng, case, sizes, dim, layouts, dtype="float64"):
    """Parameters and a value as the host hands them over, and rounded as the dtype does."""

    def leading(layout):
        return (sizes[0] if layout[0] else 1,) + ((sizes[1],) if layout[1] else ())

    makers = {**case.parameters, "random_variable": case.value}
    arrays = {name: makers[name](rng, leading(layout), dim) for name, layout in zip(makers, layouts)}
    return {name: array.astype(dtype).astype("float64") for name, array in arrays.items()}


def event_axes(name):
    return 1 if name in ("degrees_of_freedom", "concentration") else 2


def aligned(arrays):
    """Missing batch axes inserted after the sample axis."""
    return {name: a if a.ndim == 2 + event_axes(name) else a[:, None] for name, a in arrays.items()}


def broadcast(arrays, sizes):
    return {name: np.broadcast_to(a, sizes + a.shape[2:]) for name, a in aligned(arrays).items()}


def expected_log_pdf(case, arrays):
    leading = np.broadcast_shapes(*(a.shape[:2] for a in aligned(arrays).values()))
    full = broadcast(arrays, leading)
    result = np.empty(leading)
    for index in np.ndindex(leading):
        each = {name: a[index].item() if event_axes(name) == 1 else a[index] for name, a in full.items()}
        result[index] = case.log_pdf(each.pop("random_variable"), **each)
    return result


def runtime(case, arrays, rows, dim, dtype="float64"):
    """The factor of a model and its arrays by uuid."""
    shapes = {name: tuple(arrays[name].shape[1:]) for name in case.parameters}
    model = declare(case.distribution, (rows, dim, dim), dtype, **shapes)
    variables = {getattr(model, name).uuid: nd(arrays[name], dtype) for name in case.parameters}
    variables[model.X.uuid] = nd(arrays["random_variable"], dtype)
    return model.X.factor, variables


class FixedGamma(FixedNoise):
    """Gamma noise beside the normal one, which must be asked for with the right shapes."""

    def __init__(self, normals, gammas, halves):
        super().__init__(normals)
        self.gammas, self.halves = gammas, halves

    def sample_gamma(self, alpha=1, beta=1, shape=None, dtype=None, out=None, ctx=None, F=None):
        np.testing.assert_allclose(alpha.asnumpy(), self.halves, rtol=1e-5)
        assert (beta.asnumpy() == 1).all()
        return nd(self.gammas, dtype)


def fixed_noise(rng, case, arrays, sizes, dim):
    first = next(iter(case.parameters))
    halves = case.halves(dim, broadcast({first: arrays[first]}, sizes)[first])
    gammas, normals = rng.uniform(0.2, 3.0, size=sizes + (dim,)), rng.normal(size=sizes + (dim, dim))
    return FixedGamma(normals, gammas, halves), bartlett(halves, gammas, normals)


GRADIENT_LAYOUTS = {
    "shared": ((False, False), (False, True)),
    "full": ((True, True), (True, True)),
    "per sample": ((True, False), (False, True)),
}
