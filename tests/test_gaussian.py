# SPDX-License-Identifier: Apache-2.0
"""The Gaussian on arrays: every structure x method x dtype x mode x leading axes, against dense float64 references."""

import sys

from mxfusion_mvn import Gaussian, NotPositiveDefiniteError, OnFailure, structures
from mxfusion_mvn import gaussian as functions

import mxnet as mx
import numpy as np
import pytest
from scipy.stats import chi2

from helpers import oracles
from helpers.dense_gaussian import DenseGaussian
from helpers.host import nd
from helpers.structure_cases import CASES, LOW_RANK, REGULAR
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

pytestmark = pytest.mark.filterwarnings("ignore:.*input to HybridBlock is not used:UserWarning")

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
    return functions.linalg.take(value, TAKEN, axis=-1)


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


@pytest.mark.parametrize(("mode", "leading", "dtype"), MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_method(name, method, mode, leading, dtype, rng):
    mean, parameters, others = inputs(name, LEADING[leading], dtype, rng)
    ours, theirs = METHODS[method]

    def function(mean, value, matrix, offset, mean2, covariance2, **parameters):
        others = {"value": value, "matrix": matrix, "offset": offset, "mean2": mean2, "covariance2": covariance2}
        return ours(Gaussian(mean, CASES[name].build(**parameters)), **others)

    got = evaluate(function, mode, dtype, mean=mean, **others, **parameters)
    expected = expect(theirs(reference(name, mean, parameters), **others))
    assert len(got) == len(expected)
    for result, value in zip(got, expected):
        assert result.dtype == np.dtype(dtype)
        assert_close(result, value, **TOLERANCE[dtype])


@pytest.mark.parametrize("leading", EQUAL)
@pytest.mark.parametrize("name", REGULAR)
def test_log_pdf_equals_scipy(name, leading, dtype, rng):
    mean, parameters, others = inputs(name, LEADING[leading], dtype, rng)
    parameters = {key: nd(value, dtype) for key, value in parameters.items()}
    got = Gaussian(nd(mean, dtype), CASES[name].build(**parameters)).log_pdf(nd(others["value"], dtype))
    covariance = CASES[name].dense(**{key: value.asnumpy().astype("float64") for key, value in parameters.items()})
    assert_close(got, np.atleast_1d(oracles.log_pdf(others["value"], mean, covariance)), **TOLERANCE[dtype])


@pytest.mark.parametrize("name", CASES)
def test_a_single_entry(name, dtype, rng):
    """D = 1, where every product of shapes could go the wrong way."""
    mean, parameters, others = inputs(name, ((3,), (3,)), dtype, rng, dim=1)
    p = Gaussian(nd(mean, dtype), CASES[name].build(**{key: nd(value, dtype) for key, value in parameters.items()}))
    exact = reference(name, mean, parameters)
    assert_close(p.log_pdf(nd(others["value"], dtype)), exact.log_pdf(others["value"]), **TOLERANCE[dtype])
    assert_close(p.entropy(), exact.entropy(), **TOLERANCE[dtype])
    assert_close(p.marginal([0]).covariance, exact.covariance, **TOLERANCE[dtype])
    assert_close(p.kl_divergence(p), np.zeros(3), **TOLERANCE[dtype])


@pytest.mark.parametrize(("mode", "leading", "dtype"), MODES)
@pytest.mark.parametrize("name", CASES)
def test_draws_have_the_covariance_exactly(name, mode, leading, dtype, rng):
    """Draws are mean + A noise: the rows of the identity as noise give A, and A A^T has to be the covariance."""
    mean, parameters, _ = inputs(name, LEADING[leading], dtype, rng)
    size = DIM + LOW_RANK if name == "low rank" else DIM
    covariance = CASES[name].dense(**parameters)
    both = np.broadcast_shapes(mean.shape[:-1], covariance.shape[:-2])

    def function(mean, noise, **parameters):
        return Gaussian(mean, CASES[name].build(**parameters)).draw_samples(noise=noise)

    total = 0
    for row in np.eye(size):
        noise = np.broadcast_to(row, both + (size,))
        draw = evaluate(function, mode, dtype, mean=mean, noise=noise, **parameters)[0]
        assert draw.shape == both + (DIM,)
        assert draw.dtype == np.dtype(dtype)
        column = draw.asnumpy() - mean
        total = total + column[..., :, None] * column[..., None, :]
    assert_close(total, np.broadcast_to(covariance, total.shape), **TOLERANCE[dtype])


@pytest.mark.parametrize("name", CASES)
def test_fresh_draws(name, dtype, rng):
    mean, parameters, _ = inputs(name, ((2, 1), (3,)), dtype, rng)
    p = Gaussian(nd(mean, dtype), CASES[name].build(**{key: nd(value, dtype) for key, value in parameters.items()}))
    mx.random.seed(1)
    draws = p.draw_samples(5)
    assert draws.shape == (5, 2, 3, DIM)
    assert draws.dtype == np.dtype(dtype)
    mx.random.seed(1)
    noise = mx.nd.random.normal(shape=(5, 2, 3, p.structure.noise_size(DIM)), dtype=dtype)
    assert_close(p.draw_samples(noise=noise), draws.asnumpy(), rtol=0)
    assert p.draw_samples().shape == (2, 3, DIM)


# KL of every ordered pair


def gaussian_pair(first, second, leading, dtype, rng):
    arrays = {}
    for side, name, own in (("p", first, leading[0]), ("q", second, leading[1])):
        mean, parameters, _ = inputs(name, (own, own), dtype, rng)
        arrays[side] = mean, parameters
    return arrays["p"], arrays["q"]


def divergence(first, second, mode, dtype, p, q):
    def function(mean_p, mean_q, **parameters):
        sides = {"p": {}, "q": {}}
        for key, value in parameters.items():
            sides[key[0]][key[2:]] = value
        p = Gaussian(mean_p, CASES[first].build(**sides["p"]))
        return p.kl_divergence(Gaussian(mean_q, CASES[second].build(**sides["q"])))

    arrays = {f"{side}_{key}": value for side, (_, given) in (("p", p), ("q", q)) for key, value in given.items()}
    return evaluate(function, mode, dtype, mean_p=p[0], mean_q=q[0], **arrays)[0]


@pytest.mark.parametrize("second", CASES)
@pytest.mark.parametrize("first", CASES)
def test_kl_divergence_of_every_pair(first, second, dtype, rng):
    for leading in [((), ()), ((3,), ()), ((2, 1), (3,))]:
        p, q = gaussian_pair(first, second, leading, dtype, rng)
        got = divergence(first, second, "nd", dtype, p, q)
        expected = reference(first, *p).kl_divergence(reference(second, *q))
        assert np.isfinite(expected).all() or CASES[first].singular or CASES[second].singular
        assert_close(got, np.atleast_1d(expected), **TOLERANCE[dtype])


@pytest.mark.parametrize("second", CASES)
@pytest.mark.parametrize("first", CASES)
def test_kl_divergence_of_symbols(first, second, rng):
    p, q = gaussian_pair(first, second, ((3,), (3,)), "float64", rng)
    got = divergence(first, second, "sym", "float64", p, q)
    assert_close(got, reference(first, *p).kl_divergence(reference(second, *q)), **TOLERANCE["float64"])


@pytest.mark.parametrize("mode", ["nd", "sym"])
def test_kl_divergence_on_a_common_support(mode, dtype, rng):
    """Finite on the same subspace; infinite in a larger, a smaller and another one, and for a mean off it."""
    basis = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    plane, line, other = basis[:, :2], basis[:, :1], basis[:, 1:3]

    def within(subspace):
        return subspace @ oracles.random_spd(rng, (), subspace.shape[1], condition=5.0) @ subspace.T

    mean = rng.normal(size=DIM)
    p = np.stack([mean] * 5), np.stack([within(plane)] * 5)
    means = np.stack([mean + plane @ [0.5, 2.0]] + [mean] * 3 + [mean + basis[:, 3]])
    q = means, np.stack([within(plane), within(line), within(basis[:, :3]), within(other), within(plane)])
    arrays = round_to(dtype, {"mean_p": p[0], "p": p[1], "mean_q": q[0], "q": q[1]})

    def function(mean_p, p, mean_q, q):
        p = Gaussian(mean_p, structures.Singular(p, tolerance=1e-4))
        return p.kl_divergence(Gaussian(mean_q, structures.Singular(q, tolerance=1e-4)))

    got = evaluate(function, mode, dtype, **arrays)[0]
    exact = DenseGaussian(arrays["mean_p"], arrays["p"], 1e-4).kl_divergence(
        DenseGaussian(arrays["mean_q"], arrays["q"], 1e-4)
    )
    assert np.isfinite(exact).tolist() == [True, False, False, False, False]
    assert_close(got, exact, **TOLERANCE[dtype])


def test_no_density_off_the_support(dtype, rng):
    mean, parameters, others = inputs("singular", ((3,), (3,)), dtype, rng)
    p = Gaussian(nd(mean, dtype), CASES["singular"].build(**{k: nd(v, dtype) for k, v in parameters.items()}))
    value = others["value"].copy()
    value[1] += 1.0
    got = p.log_pdf(nd(value, dtype)).asnumpy()
    assert np.isneginf(got).tolist() == [False, True, False]


# Gradients


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
    return functions.linalg.outer_square(mx.nd.stack(*rows, axis=-1))


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


# What a user sees

# structure: (its marginal, its conditional)
KINDS = {
    "dense": (structures.Dense, structures.Cholesky),
    "cholesky": (structures.Cholesky, structures.Cholesky),
    "precision": (structures.Precision, structures.Precision),
    "diagonal": (structures.Diagonal, structures.Diagonal),
    "low rank": (structures.LowRank, structures.LowRank),
    "kronecker": (structures.Dense, structures.Cholesky),
    "correlation": (structures.ScaledCorrelation, structures.Cholesky),
    "correlation factor": (structures.ScaledCorrelation, structures.Cholesky),
    "singular": (structures.Singular, structures.Singular),
}


@pytest.mark.parametrize("name", CASES)
def test_marginals_and_conditionals_keep_their_structure(name, rng):
    mean, parameters, others = inputs(name, ((), ()), "float64", rng)
    p = Gaussian(nd(mean), CASES[name].build(**{key: nd(value) for key, value in parameters.items()}))
    value = nd(others["value"][TAKEN])
    kinds = KINDS[name.split(" of ")[0]]
    assert (type(p.marginal(TAKEN).structure), type(p.condition(TAKEN, value).structure)) == kinds


FORMS = {
    "covariance": lambda rng: {"covariance": oracles.random_spd(rng, (), 3)},
    "precision": lambda rng: {"precision": oracles.random_spd(rng, (), 3)},
    "scale_tril": lambda rng: {"scale_tril": np.linalg.cholesky(oracles.random_spd(rng, (), 3))},
    "variance": lambda rng: {"variance": rng.uniform(1, 2, size=3)},
    "factor": lambda rng: {"factor": rng.normal(size=(3, 1)), "diagonal": rng.uniform(1, 2, size=3)},
}
DENSE = {
    "covariance": lambda covariance: covariance,
    "precision": lambda precision: np.linalg.inv(precision),
    "scale_tril": lambda scale_tril: scale_tril @ scale_tril.T,
    "variance": lambda variance: np.diag(variance),
    "factor": lambda factor, diagonal: factor @ factor.T + np.diag(diagonal),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_and_plain_functions(form, dtype, rng):
    given = round_to(dtype, FORMS[form](rng))
    arrays = {name: nd(value, dtype) for name, value in given.items()}
    mean, value = round_to(dtype, {"mean": rng.normal(size=3), "value": rng.normal(size=(5, 3))}).values()
    exact = DenseGaussian(mean, DENSE[form](**given))
    p = Gaussian(nd(mean, dtype), **arrays)
    assert_close(p.log_pdf(nd(value, dtype)), exact.log_pdf(value), **TOLERANCE[dtype])
    assert_close(
        functions.log_pdf(nd(value, dtype), nd(mean, dtype), **arrays), exact.log_pdf(value), **TOLERANCE[dtype]
    )
    noise = mx.nd.ones((2, p.structure.noise_size(3)), dtype=dtype)
    assert_close(
        functions.draw_samples(noise, nd(mean, dtype), **arrays), p.draw_samples(noise=noise).asnumpy(), rtol=0
    )
    assert_close(functions.entropy(**arrays), [exact.entropy()], **TOLERANCE[dtype])
    q = Gaussian(nd(value[0], dtype), **arrays)
    expected = exact.kl_divergence(DenseGaussian(value[0], exact.covariance))
    assert_close(functions.kl_divergence(p, q), [expected], **TOLERANCE[dtype])


@pytest.mark.parametrize("form", FORMS)
def test_numbers_lists_and_numpy_arrays_take_the_dtype_of_the_covariance(form, dtype, rng):
    arrays = {name: nd(value, dtype) for name, value in FORMS[form](rng).items()}
    for mean, same in [(2, [2.0] * 3), ([1, 2, 3], [1.0, 2.0, 3.0]), (np.arange(3), [0.0, 1.0, 2.0])]:
        p, q = Gaussian(mean, **arrays), Gaussian(nd(same, dtype), **arrays)
        assert p.mean.dtype == np.dtype(dtype)
        assert_close(p.mean, same, rtol=0)
        value = nd([[0.5, 1.0, -1.0]], dtype)
        expected = q.log_pdf(value).asnumpy()
        assert_close(p.log_pdf(value), expected, rtol=0)
        assert_close(p.log_pdf([[0.5, 1, -1]]), expected, rtol=0)
        assert_close(p.log_pdf(value.asnumpy()), expected, rtol=0)
    assert p.condition([0], 1.5).mean.dtype == np.dtype(dtype)
    assert p.affine(np.ones((1, 3)), [1.0]).mean.dtype == np.dtype(dtype)
    assert p.draw_samples(noise=np.ones((2, p.structure.noise_size(3)))).shape == (2, 3)


def test_a_mean_for_all_entries(rng):
    covariance = nd(oracles.random_spd(rng, (), 3))
    p = Gaussian(nd([[1.0], [2.0]]), covariance)
    q = Gaussian(nd([[1.0] * 3, [2.0] * 3]), covariance)
    value = nd(rng.normal(size=3))
    assert_close(p.log_pdf(value), q.log_pdf(value).asnumpy(), rtol=1e-14)
    assert_close(p.condition([1], 0.5).mean, q.condition([1], 0.5).mean.asnumpy(), rtol=1e-14)
    assert_close(p.marginal([2, 0]).mean, [[1.0, 1.0], [2.0, 2.0]], rtol=0)
    assert_close(p.kl_divergence(q), [0.0, 0.0], atol=1e-14, rtol=0)


def test_a_number_for_the_mean_of_symbols(rng):
    covariance = oracles.random_spd(rng, (3,), 3)
    value = rng.normal(size=(3, 3))
    got = evaluate(
        lambda value, covariance: Gaussian(2.0, covariance).log_pdf(value),
        "sym",
        "float64",
        value=value,
        covariance=covariance,
    )[0]
    assert_close(got, oracles.log_pdf(value, np.full(3, 2.0), covariance), **TOLERANCE["float64"])


def test_condition_in_a_given_order(rng):
    covariance, value = oracles.random_spd(rng, (), 4), nd([0.5])
    p = Gaussian(0.0, nd(covariance))
    forward, backward = p.condition([1], value), p.condition([1], value, rest=[3, 2, 0])
    assert_close(backward.mean, forward.mean.asnumpy()[::-1], rtol=1e-12)
    assert_close(backward.covariance, forward.covariance.asnumpy()[::-1, ::-1], rtol=1e-12)


def test_affine_to_more_entries_is_singular(dtype, rng):
    covariance, matrix = oracles.random_spd(rng, (), 2), rng.normal(size=(4, 2))
    low_rank = Gaussian(nd([1.0, 2.0], dtype), factor=nd(np.eye(2), dtype), diagonal=nd([1.0, 1.0], dtype))
    for p in (low_rank, Gaussian(nd([1.0, 2.0], dtype), nd(covariance, dtype))):
        image = p.affine(nd(matrix, dtype))
        assert isinstance(image.structure, structures.Singular)
        assert image.structure.rank().asnumpy() == 2
        value = p.draw_samples(noise=nd(np.ones((1, p.structure.noise_size(2))), dtype))
        there = image.log_pdf(mx.nd.dot(value, nd(matrix.T, dtype)))
        log_stretch = 0.5 * np.linalg.slogdet(matrix.T @ matrix)[1]
        assert_close(there, p.log_pdf(value).asnumpy() - log_stretch, **TOLERANCE[dtype])


def test_affine_of_a_singular_covariance_is_singular(rng):
    root = rng.normal(size=(4, 1))
    p = Gaussian(0.0, structures.Singular(nd(root @ root.T)))
    image = p.affine(nd(rng.normal(size=(3, 4))))
    assert isinstance(image.structure, structures.Singular)
    assert image.structure.rank().asnumpy() == 1


PRODUCTS = {"precision": structures.Precision, "diagonal": structures.Diagonal}


@pytest.mark.parametrize("name", [name for name in CASES if "singular" not in name])
def test_the_product_keeps_its_structure_and_commutes(name, rng):
    mean, parameters, others = inputs(name, ((3,), (3,)), "float64", rng)
    structure = CASES[name].build(**{key: nd(value) for key, value in parameters.items()})
    p, q = Gaussian(nd(mean), structure), Gaussian(nd(others["mean2"]), structure)
    both, log_constant = p.product(q)
    assert isinstance(both.structure, PRODUCTS.get(name, structures.Dense))
    expected, expected_constant = reference(name, mean, parameters).product(
        reference(name, others["mean2"], parameters)
    )
    assert_close(both.mean, expected.mean, **TOLERANCE["float64"])
    assert_close(both.covariance, expected.covariance, **TOLERANCE["float64"])
    assert_close(log_constant, expected_constant, **TOLERANCE["float64"])


def test_the_product_with_a_singular_density(rng):
    mean, parameters, others = inputs("singular", ((3,), (3,)), "float64", rng)
    p = Gaussian(nd(mean), structures.Singular(nd(parameters["covariance"])))
    q = Gaussian(nd(others["mean2"]), nd(others["covariance2"]))
    (forward, constant), (backward, same) = p.product(q), q.product(p)
    assert isinstance(forward.structure, structures.Singular)
    assert_close(backward.mean, forward.mean.asnumpy(), rtol=1e-12)
    assert_close(same, constant.asnumpy(), rtol=1e-12)
    value = nd(others["value"])
    assert_close(forward.log_pdf(value) + constant, (p.log_pdf(value) + q.log_pdf(value)).asnumpy(), rtol=1e-9)
    with pytest.raises(ValueError, match="`other`: got a second singular covariance; expected at most one"):
        p.product(p)


@pytest.mark.parametrize("dim", [1, 2, 3, 7])
@pytest.mark.parametrize("probability", [0.01, 0.5, 0.95])
def test_credible_radius(dim, probability):
    radius = Gaussian(0.0, variance=mx.nd.ones(dim)).credible_radius(probability)
    assert isinstance(radius, float)
    assert_close(chi2.cdf(radius**2, dim), probability, rtol=1e-12)


def test_credible_radius_of_a_singular_covariance():
    covariance = nd([np.diag([1.0, 1.0, 0.0]), np.diag([1.0, 0.0, 0.0])])
    radius = Gaussian(0.0, structures.Singular(covariance)).credible_radius(0.9)
    assert_close(chi2.cdf(radius**2, [2, 1]), [0.9, 0.9], rtol=1e-12)


def test_credible_radius_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    assert Gaussian(0.0, variance=mx.nd.ones(2)).credible_radius(0.95) == pytest.approx(2.4477468)
    with pytest.raises(ImportError, match="`credible_radius` .* from SciPy, .* Run pip install scipy"):
        Gaussian(0.0, variance=mx.nd.ones(3)).credible_radius(0.95)


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("name", REGULAR)
def test_ellipse(name, leading, rng):
    mean, parameters, _ = inputs(name, LEADING[leading], "float64", rng, dim=2)
    p = Gaussian(nd(mean), CASES[name].build(**{key: nd(value) for key, value in parameters.items()}))
    outline = p.ellipse(0.9, num_points=7)
    both = np.broadcast_shapes(*LEADING[leading])
    assert outline.shape == (7,) + both + (2,)
    assert_close(outline[0], outline[-1], rtol=1e-12, atol=1e-14)
    assert_close(p.mahalanobis(nd(outline)), np.full((7,) + both, p.credible_radius(0.9) ** 2), rtol=1e-9)
    assert np.ptp(outline, axis=0).min() > 0


def test_repr():
    assert repr(Gaussian(mx.nd.zeros((2, 3)), mx.nd.eye(3))) == "Gaussian(mean: (2, 3), covariance: Dense)"
    assert repr(Gaussian(0.0, variance=mx.sym.var("v"))) == "Gaussian(mean: Symbol, covariance: Diagonal)"


# Bad input

EYE, ZEROS = mx.nd.eye(3), mx.nd.zeros(3)
P = Gaussian(ZEROS, EYE)
S = Gaussian(mx.sym.var("m"), mx.sym.var("C"))


def lower(diagonal):
    return nd([[1.0, 0.0], [2.0, diagonal]])


ERRORS = [
    (lambda: Gaussian(ZEROS), "`covariance`: got nothing; expected exactly one of covariance, .* keep the one"),
    (lambda: Gaussian(ZEROS, EYE, scale_tril=EYE), "`covariance`: got covariance, scale_tril; expected exactly one"),
    (lambda: Gaussian(ZEROS, factor=EYE), "`covariance`: got factor; expected .* factor with diagonal"),
    (lambda: Gaussian(ZEROS, diagonal=ZEROS), "`covariance`: got diagonal; expected"),
    (lambda: Gaussian(ZEROS, EYE, diagonal=ZEROS), "`covariance`: got covariance, diagonal; expected"),
    (lambda: Gaussian(ZEROS, np.eye(3)), "`covariance`: got a ndarray; expected an NDArray or a Symbol. Convert it"),
    (lambda: Gaussian(ZEROS, 2.0), "`covariance`: got a float; expected an NDArray"),
    (lambda: Gaussian(ZEROS, EYE.as_np_ndarray()), "`covariance`: got an mx.np array; .* with .as_nd_ndarray"),
    (lambda: Gaussian(ZEROS, EYE.astype("float16")), "`covariance`: got dtype float16; expected float32 or float64"),
    (lambda: Gaussian(ZEROS, EYE.astype("int32")), "`covariance`: got dtype int32; expected float32 or float64"),
    (lambda: Gaussian(ZEROS, mx.nd.ones((3, 2))), r"`covariance`: got shape \(3, 2\); expected \(..., D, D\)"),
    (lambda: Gaussian(ZEROS, precision=ZEROS), r"`precision`: got shape \(3,\); expected .* as `variance`"),
    (
        lambda: Gaussian(ZEROS, factor=ZEROS, diagonal=mx.nd.ones(3)),
        r"`factor`: got shape \(3,\); expected \(..., D, r\)",
    ),
    (
        lambda: Gaussian(ZEROS, factor=EYE, diagonal=mx.nd.ones(2)),
        r"`diagonal`: got shape \(2,\); expected \(..., 3\)",
    ),
    (
        lambda: Gaussian(ZEROS, factor=EYE, diagonal=mx.nd.ones(3, dtype="float64")),
        "`diagonal`: got dtype float64; expected float32, as the other arrays. Convert it with .astype",
    ),
    (
        lambda: Gaussian(ZEROS, structures.Dense(EYE), on_failure=OnFailure("jitter")),
        "`on_failure`: got a policy beside a structure; .* Give the policy to the structure",
    ),
    (lambda: Gaussian(mx.nd.zeros(4), EYE), r"`mean`: got shape \(4,\); expected \(..., 3\)"),
    (lambda: Gaussian([0.0, 0.0], EYE), r"`mean`: got shape \(2,\); expected \(..., 3\)"),
    (lambda: Gaussian("zero", EYE), "`mean`: got a str; expected an NDArray, a NumPy array or a number"),
    (lambda: Gaussian(np.zeros(3), mx.sym.var("C")), "`mean`: got a ndarray; expected a Symbol"),
    (lambda: P.log_pdf(mx.nd.zeros((5, 2))), r"`value`: got shape \(5, 2\); expected \(..., 3\). The last axis"),
    (lambda: P.log_pdf(mx.nd.zeros((5, 1))), r"`value`: got shape \(5, 1\); expected \(..., 3\)"),
    (lambda: P.log_pdf(0.0), r"`value`: got shape \(1,\); expected \(..., 3\)"),
    (lambda: P.log_pdf(None), "`value`: got a NoneType; expected an NDArray, a NumPy array or a number"),
    (lambda: P.log_pdf(ZEROS.astype("float64")), "`value`: got dtype float64; expected float32"),
    (lambda: P.log_pdf(mx.sym.var("x")), "`value`: got a Symbol beside a NDArray; expected one kind of array"),
    (lambda: S.log_pdf(ZEROS), "`value`: got a NDArray beside a Symbol; expected one kind .* as an input"),
    (lambda: S.log_pdf(np.zeros(3)), "`value`: got a ndarray; expected a Symbol"),
    (lambda: P.mahalanobis(mx.nd.zeros(4)), r"`value`: got shape \(4,\); expected \(..., 3\)"),
    (lambda: P.draw_samples(2, noise=ZEROS), "`num_samples`: got both it and noise; expected one of them"),
    (lambda: P.draw_samples(0), "`num_samples`: got 0; expected a positive integer or None"),
    (lambda: P.draw_samples(2.5), "`num_samples`: got 2.5; expected a positive integer"),
    (lambda: P.draw_samples(noise=mx.nd.zeros(4)), r"`noise`: got shape \(4,\); expected \(..., 3\)"),
    (
        lambda: Gaussian(0.0, factor=EYE, diagonal=mx.nd.ones(3)).draw_samples(noise=ZEROS),
        r"`noise`: got shape \(3,\); expected \(..., 6\)",
    ),
    (lambda: S.draw_samples(2), "`noise`: got None for Symbols, which have no shape; expected standard normals"),
    (lambda: P.kl_divergence(EYE), "`other`: got a NDArray; expected a Gaussian"),
    (
        lambda: P.kl_divergence(Gaussian(0.0, mx.nd.eye(2))),
        "`other`: got D = 2; expected D = 3. Take a marginal of the larger one",
    ),
    (lambda: P.kl_divergence(S), "`other`: got a Symbol beside a NDArray"),
    (lambda: P.product(Gaussian(0.0, mx.nd.eye(3, dtype="float64"))), "`other`: got dtype float64; expected float32"),
    (lambda: P.marginal([]), r"`index`: got \[\]; expected distinct positions from 0 to 2"),
    (lambda: P.marginal([0, 0]), r"`index`: got \[0, 0\]; expected distinct positions"),
    (lambda: P.marginal([3]), r"`index`: got \[3\]; expected distinct positions from 0 to 2"),
    (lambda: P.marginal([-1]), r"`index`: got \[-1\]; expected distinct positions from 0 to 2"),
    (lambda: P.marginal(0), r"`index`: got 0; expected a list of integers. Write \[2\] for one position"),
    (lambda: P.marginal([True, False, True]), r"`index`: got \[True, .* np.flatnonzero\(mask\) for a mask"),
    (lambda: P.marginal([0.5]), r"`index`: got \[0.5\]; expected a list of integers"),
    (lambda: P.marginal([0], rest=[1]), r"`rest`: got \[1\]; expected the positions \[1, 2\] in any order"),
    (lambda: S.marginal([0.5]), r"`index`: got \[0.5\]; expected a list of integers"),
    (
        lambda: Gaussian(mx.sym.var("m"), precision=mx.sym.var("P")).marginal([0]),
        "`rest`: got None for Symbols, which have no shape; expected the list of all other positions",
    ),
    (lambda: P.condition([0, 1, 2], ZEROS), "`index`: got all 3 positions; expected fewer. Nothing would be left"),
    (lambda: P.condition([0, 1], ZEROS), r"`value`: got shape \(3,\); expected \(..., 2\)"),
    (lambda: S.condition([0], mx.sym.var("x")), "`rest`: got None for Symbols"),
    (lambda: P.affine(mx.nd.ones((2, 4))), r"`matrix`: got shape \(2, 4\); expected \(..., 3\)"),
    (lambda: P.affine(mx.nd.ones(3)), r"`matrix`: got shape \(3,\); expected \(..., K, 3\). Write \[a\]"),
    (lambda: P.affine(mx.nd.ones((2, 3)), ZEROS), r"`offset`: got shape \(3,\); expected \(..., 2\)"),
    (lambda: P.credible_radius(95), "`probability`: got 95; expected a number between 0 and 1. Write 0.95"),
    (lambda: P.ellipse(0.95), "`ellipse`: got a Gaussian of D = 3; expected D = 2. Take a marginal"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    mx.nd.waitall()


NOT_POSITIVE = [
    ({"variance": nd([1.0, 0.0])}, "`variance` has an entry of 0; expected positive numbers"),
    ({"variance": nd([1.0, -2.0])}, "`variance` has an entry of -2; expected positive numbers"),
    ({"variance": nd([1.0, np.nan])}, r"`variance` is nan at index \(1,\); expected finite numbers"),
    ({"factor": nd([[1.0], [1.0]]), "diagonal": nd([1.0, -2.0])}, "`diagonal` has an entry of -2"),
    ({"factor": nd([[1.0], [np.inf]]), "diagonal": nd([1.0, 2.0])}, r"`factor` is inf at index \(1, 0\)"),
    ({"scale_tril": lower(0.0)}, "`scale_tril` is singular: its diagonal is 0 at position 1; expected a non-zero"),
    ({"scale_tril": lower(np.nan)}, r"`scale_tril` is nan at index \(1, 1\); expected finite numbers"),
]


@pytest.mark.parametrize(("given", "message"), NOT_POSITIVE, ids=[message[:40] for _, message in NOT_POSITIVE])
def test_values_that_are_no_covariance_are_refused_unless_not_looked_at(given, message):
    with pytest.raises(NotPositiveDefiniteError, match=message):
        Gaussian(0.0, **given)
    assert not np.isfinite(Gaussian(0.0, **given, on_failure=None).log_pdf(nd([[1.0, 1.0]])).asnumpy()).all()


@pytest.mark.parametrize("form", ["covariance", "precision"])
def test_a_trained_matrix_is_factored_once_in_one_density(form, monkeypatch):
    factored = []
    potrf = mx.nd.linalg.potrf
    monkeypatch.setattr(mx.nd.linalg, "potrf", lambda a, **kwargs: factored.append(a.shape) or potrf(a, **kwargs))
    matrix = mx.nd.eye(3)
    matrix.attach_grad()
    gaussian = Gaussian(0.0, **{form: matrix})
    for _ in range(2):  # a second step, after the graph of the first is gone
        with mx.autograd.record():
            gaussian.log_pdf(mx.nd.ones((5, 3))).sum().backward()
    assert factored == [(3, 3)] * 2
