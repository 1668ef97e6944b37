# SPDX-License-Identifier: Apache-2.0
"""Gaussians of every structure, their leading axes, and what their methods give in float64."""

from mxfusion_mvn import Gaussian, linalg

import mxnet as mx
import numpy as np

from helpers import oracles
from helpers.dense_gaussian import DenseGaussian
from helpers.host import nd
from helpers.structure_cases import CASES

DIM = 4
TAKEN, REST = [3, 0], [1, 2]
# The leading axes of mean and matrix. Those of Symbols must be equal.
EQUAL = {"single": ((), ()), "batch": ((3,), (3,)), "two axes": ((2, 3), (2, 3))}
LEADING = {
    **EQUAL,
    "shared matrix": ((3,), ()),
    "shared mean": ((), (3,)),
    "longer mean": ((2, 3), (3,)),
    "longer matrix": ((3,), (2, 3)),
    "crossed": ((2, 1), (3,)),
}
MODES = [("nd", leading, "float64") for leading in LEADING]
MODES += [("nd", leading, "float32") for leading in ["single", "two axes", "shared matrix", "shared mean", "crossed"]]
MODES += [("sym", leading, "float64") for leading in EQUAL] + [("sym", "batch", "float32")]


def round_to(dtype, arrays):
    """What remains of float64 numbers in a dtype, in float64: the reference starts from the same numbers."""
    return {name: array.astype(dtype).astype("float64") for name, array in arrays.items()}


def reference(name, mean, parameters):
    case = CASES[name]
    return DenseGaussian(mean, case.dense(**parameters), tolerance=1e-4 if case.singular else 0.0)


def on_support(name, mean, parameters, rng):
    """Vectors that have a density: singular covariances have a subspace of them."""
    covariance = CASES[name].dense(**parameters)
    leading = np.broadcast_shapes(mean.shape[:-1], covariance.shape[:-2])
    vectors = rng.normal(size=leading + mean.shape[-1:])
    return mean + np.einsum("...ij,...j->...i", covariance, vectors) / np.sqrt(np.trace(covariance.T).max())


class Block(mx.gluon.HybridBlock):
    """A function of named arrays."""

    def __init__(self, function, names):
        super().__init__()
        self.function = function
        self.names = names

    def hybrid_forward(self, F, *arrays):
        return self.function(**dict(zip(self.names, arrays)))


def evaluate(function, mode, dtype, **arrays):
    """The results of a function of NDArrays or, inside a hybridized block, of Symbols, as a list of NDArrays."""
    arrays = {name: nd(array, dtype) for name, array in arrays.items()}
    if mode == "sym":
        block = Block(function, list(arrays))
        block.hybridize()
        result = block(*arrays.values())
    else:
        result = function(**arrays)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def moments(gaussian):
    return [gaussian.mean, gaussian.covariance]


# name: (what a Gaussian gives, what the reference gives), both of the arrays in `others`
METHODS = {
    "mean and covariance": (lambda p, **_: moments(p), lambda p, **_: moments(p)),
    "variance": (lambda p, **_: p.variance, lambda p, **_: np.diagonal(p.covariance, axis1=-2, axis2=-1)),
    "log_pdf": (lambda p, value, **_: p.log_pdf(value), lambda p, value, **_: p.log_pdf(value)),
    "mahalanobis": (lambda p, value, **_: p.mahalanobis(value), lambda p, value, **_: p.mahalanobis(value)),
    "entropy": (lambda p, **_: p.entropy(), lambda p, **_: p.entropy()),
    "marginal": (
        lambda p, **_: moments(p.marginal(TAKEN, rest=REST)),
        lambda p, **_: moments(p.marginal(TAKEN)),
    ),
    "condition": (
        lambda p, value, **_: moments(p.condition(TAKEN, take(value), rest=REST)),
        lambda p, value, **_: moments(p.condition(TAKEN, value[..., TAKEN], rest=REST)),
    ),
    "affine": (
        lambda p, matrix, offset, **_: moments(p.affine(matrix, offset)),
        lambda p, matrix, offset, **_: moments(p.affine(matrix, offset)),
    ),
    "product": (
        lambda p, mean2, covariance2, **_: product(p, Gaussian(mean2, covariance2)),
        lambda p, mean2, covariance2, **_: product(p, DenseGaussian(mean2, covariance2)),
    ),
}


def take(value):
    return linalg.take(value, TAKEN, axis=-1)


def product(p, q):
    density, log_constant = p.product(q)
    return moments(density) + [log_constant]


def inputs(name, leading, dtype, rng, dim=DIM):
    """Mean, parameters of the structure, and the other arguments of the methods."""
    of_mean, of_matrix = leading
    parameters = round_to(dtype, CASES[name].arrays(rng, of_matrix, dim))
    mean = round_to(dtype, {"mean": rng.normal(size=of_mean + (dim,))})["mean"]
    value = on_support(name, mean, parameters, rng)
    others = {
        "value": value,
        "matrix": rng.normal(size=of_mean + (2, dim)),
        "offset": rng.normal(size=of_mean + (2,)),
        "mean2": rng.normal(size=of_mean + (dim,)),
        "covariance2": oracles.random_spd(rng, of_mean, dim),
    }
    return mean, parameters, round_to(dtype, others)


def expect(result):
    """MXNet has no arrays without axes."""
    return [np.atleast_1d(x) for x in (result if isinstance(result, list) else [result])]


def gaussian_pair(first, second, leading, dtype, rng):
    arrays = {}
    for side, name, own in (("p", first, leading[0]), ("q", second, leading[1])):
        mean, parameters, _ = inputs(name, (own, own), dtype, rng)
        arrays[side] = mean, parameters
    return arrays["p"], arrays["q"]
