# SPDX-License-Identifier: Apache-2.0
"""THE table of bijections, each with its value and its coordinates in NumPy float64."""

from typing import Callable, NamedTuple

from mxfusion_mvn import bijections
from mxfusion_mvn.bijections import (
    CorrelationCholesky,
    Interval,
    LowerCholesky,
    Ordered,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
)

import mxnet as mx
import numpy as np
import pytest
from scipy import special
from scipy.linalg import helmert

from helpers.host import nd

BOUNDS = np.array([-1.0, 2.5])


# Oracles: one raw vector at a time, in NumPy float64.


def tangent_exp(x):
    return np.where(x <= 20, np.exp(np.minimum(x, 20)), np.exp(20.0) * (x - 19))


def lower(x, dim):
    matrix = np.zeros((dim, dim))
    matrix[np.tril_indices(dim)] = x
    scales = tangent_exp(np.diag(matrix))
    return scales[:, None] * (np.tril(matrix, -1) + np.eye(dim))


def correlation_factor(x, dim):
    factor, angles = np.zeros((dim, dim)), np.zeros((dim, dim))
    angles[np.tril_indices(dim, -1)] = x
    for i in range(dim):
        left = 1.0
        for j in range(i):
            factor[i, j] = np.tanh(angles[i, j]) * left
            left /= np.cosh(angles[i, j])
        factor[i, i] = left
    return factor


def increasing(x, dim):
    return np.cumsum(np.concatenate([x[:1], tangent_exp(x[1:])]))


class Case(NamedTuple):
    """``value(raw, dim)`` by NumPy, ``free`` the coordinates of a value that densities use, ``count`` their number."""

    bijection: bijections.Bijection
    value: Callable
    free: Callable
    count: Callable
    event_axes: int


def entries(value):
    return value


def lower_triangle(value):
    rows, columns = np.tril_indices(value.shape[-1])
    return value[..., rows, columns]


def strict_triangle(value):
    rows, columns = np.tril_indices(value.shape[-1], -1)
    return value[..., rows, columns]


CASES = {
    "Real": Case(Real(), lambda x, dim: x, entries, lambda dim: dim, 0),
    "Positive": Case(Positive(), lambda x, dim: tangent_exp(x), entries, lambda dim: dim, 0),
    "Interval": Case(Interval(*BOUNDS), lambda x, dim: -1.0 + 3.5 * special.expit(x), entries, lambda dim: dim, 0),
    "Simplex": Case(
        Simplex(), lambda x, dim: special.softmax(helmert(dim).T @ x), lambda y: y[..., :-1], lambda dim: dim - 1, 1
    ),
    "Ordered": Case(Ordered(), increasing, entries, lambda dim: dim, 1),
    "LowerCholesky": Case(LowerCholesky(), lower, lower_triangle, lambda dim: dim * (dim + 1) // 2, 2),
    "PositiveDefinite": Case(
        PositiveDefinite(),
        lambda x, dim: lower(x, dim) @ lower(x, dim).T,
        lower_triangle,
        lambda dim: dim * (dim + 1) // 2,
        2,
    ),
    "CorrelationCholesky": Case(
        CorrelationCholesky(), correlation_factor, strict_triangle, lambda dim: dim * (dim - 1) // 2, 2
    ),
}
DIMENSIONS = [1, 2, 5, 20]
SIZES = [
    pytest.param(name, dim, id=f"{name}-{dim}") for name, case in CASES.items() for dim in DIMENSIONS if case.count(dim)
]


def event_shape(case, dim):
    return (dim,) * max(1, case.event_axes)


def random_raw(rng, case, leading, dim):
    """About as spread as raw numbers are; matrices of size 20 stay well conditioned."""
    size = case.count(dim)
    return rng.normal(size=leading + (size,)) / np.sqrt(1 + size / 10)


def jacobian(function, point, step=1e-3):
    """By the five-point formula, all points in one call: (n, m) of a function from (K, n) to (K, m)."""
    moves = step * np.eye(len(point))
    values = function(point + np.concatenate([moves, -moves, 2 * moves, -2 * moves])).reshape(4, len(point), -1)
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)


def gradient_of(function, raw, dtype="float64"):
    array = nd(raw, dtype)
    array.attach_grad()
    with mx.autograd.record():
        out = mx.nd.sum(function(array))
    out.backward()
    return array.grad.asnumpy()


def host_softplus(offset):
    from mxfusion.components.variables.var_trans import Softplus

    return Softplus(offset)
