# SPDX-License-Identifier: Apache-2.0
"""Gradients of the methods of a Gaussian equal central differences, for every structure."""

from mxfusion_mvn import Gaussian, linalg, structures

import mxnet as mx
import numpy as np
import pytest

from helpers import oracles
from helpers.gaussian_cases import DIM, LEADING, METHODS, gaussian_pair, inputs, moments
from helpers.host import nd
from helpers.structure_cases import CASES, LOW_RANK, REGULAR
from helpers.tolerances import GRADIENT_TOLERANCE, assert_close

pytestmark = pytest.mark.filterwarnings("ignore:.*input to HybridBlock is not used:UserWarning")


def assert_gradient(function, arrays, rng):
    """
    The gradient of sum(weights * function) along a random direction, against the five-point difference.

    Symmetric matrices change symmetrically, and a singular one within its range, where the derivative exists. Factors
    stay triangular; the gradient above their diagonal is zero.
    """
    weights = {}

    def total(arrays):
        results = function(**arrays)
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        for i, result in enumerate(results):
            weights.setdefault(i, nd(rng.normal(size=result.shape)))
        return mx.nd.concat(*((weights[i] * x).reshape(-1) for i, x in enumerate(results)), dim=0).sum()

    def value(step):
        moved = {name: nd(array + step * directions[name]) for name, array in arrays.items()}
        return total(moved).asscalar()

    given = {name: nd(array) for name, array in arrays.items()}
    for array in given.values():
        array.attach_grad()
    with mx.autograd.record():
        loss = total(given)
    loss.backward()
    directions = {name: direction(name, array, rng) for name, array in arrays.items()}
    for name in filter(is_triangular, arrays):
        assert not np.triu(given[name].grad.asnumpy(), 1).any(), name
    got = sum((given[name].grad.asnumpy() * directions[name]).sum() for name in arrays)
    step = 1e-3
    expected = (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)
    assert_close(got, expected, **GRADIENT_TOLERANCE)


def direction(name, array, rng):
    change = rng.normal(size=array.shape)
    if name.split("_")[-1] in ("covariance", "precision", "correlation", "row", "column", "covariance2"):
        change = oracles.symmetric(change)
        values, vectors = np.linalg.eigh(array)
        inside = vectors * (values > 1e-4 * values[..., -1:])[..., None, :]
        projector = inside @ np.swapaxes(inside, -1, -2)
        change = projector @ change @ projector
    if is_triangular(name):
        change = np.tril(change)
    size = np.sqrt((change**2).sum())
    return 0.1 * change / size


def is_triangular(name):
    return name.split("_")[-1] == "tril"


GRADIENTS = {
    **{name: METHODS[name][0] for name in METHODS if name != "product"},
    "draw_samples": lambda p, noise, **_: draws(p, noise),
    "product": lambda p, mean2, covariance2, **_: [p.product(Gaussian(mean2, covariance2))[1]],
}


def draws(p, noise):
    """
    Draws, or for a singular covariance what is formed of them.

    Its eigenvectors, on which single draws depend, are held constant; the second moment of draws is still right.
    """
    if not isinstance(p.structure, structures.Singular):
        return p.draw_samples(noise=noise)
    rows = [p.draw_samples(noise=nd(row)) - p.mean for row in np.eye(DIM)]
    return linalg.outer_square(mx.nd.stack(*rows, axis=-1))


@pytest.mark.parametrize("leading", ["shared matrix", "shared mean"])
@pytest.mark.parametrize("method", GRADIENTS)
@pytest.mark.parametrize("name", CASES)
def test_gradient(name, method, leading, rng):
    mean, parameters, others = inputs(name, LEADING[leading], "float64", rng)
    if CASES[name].singular:  # constants: to change them would leave the support, on which alone there is a density
        mean, value = nd(mean), nd(others.pop("value"))
        given = {**parameters, **others}
    else:
        value = None
        given = {"mean": mean, **parameters, **others}
    given["noise"] = rng.normal(size=(5, 3, DIM + LOW_RANK if name == "low rank" else DIM))

    def function(mean=mean, value=value, noise=None, matrix=None, offset=None, mean2=None, covariance2=None, **rest):
        others = {"matrix": matrix, "offset": offset, "mean2": mean2, "covariance2": covariance2}
        return GRADIENTS[method](Gaussian(mean, CASES[name].build(**rest)), value=value, noise=noise, **others)

    assert_gradient(function, given, rng)


@pytest.mark.parametrize("name", REGULAR)
def test_gradient_of_the_product(name, rng):
    """Mean and covariance of the product, whose constant is a row of the table above."""
    mean, parameters, others = inputs(name, ((3,), (3,)), "float64", rng)

    def function(mean, mean2, covariance2, **parameters):
        p = Gaussian(mean, CASES[name].build(**parameters))
        return moments(p.product(Gaussian(mean2, covariance2))[0])

    given = {"mean": mean, "mean2": others["mean2"], "covariance2": others["covariance2"], **parameters}
    assert_gradient(function, given, rng)


@pytest.mark.parametrize("second", REGULAR)
@pytest.mark.parametrize("first", REGULAR)
def test_gradient_of_kl_divergence(first, second, rng):
    p, q = gaussian_pair(first, second, ((3,), ()), "float64", rng)

    def function(mean_p, mean_q, **parameters):
        sides = {"p": {}, "q": {}}
        for key, value in parameters.items():
            sides[key[0]][key[2:]] = value
        p = Gaussian(mean_p, CASES[first].build(**sides["p"]))
        return p.kl_divergence(Gaussian(mean_q, CASES[second].build(**sides["q"])))

    arrays = {f"{side}_{key}": value for side, (_, given) in (("p", p), ("q", q)) for key, value in given.items()}
    assert_gradient(function, {"mean_p": p[0], "mean_q": q[0], **arrays}, rng)
