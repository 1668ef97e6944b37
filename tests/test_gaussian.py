# SPDX-License-Identifier: Apache-2.0
"""The Gaussian on arrays: every method over the table of structures and leading axes, and what a user sees."""

import sys

from mxfusion_mvn import Gaussian, structures

import mxnet as mx
import numpy as np
import pytest
from scipy.stats import chi2

from helpers import oracles
from helpers.dense_gaussian import DenseGaussian
from helpers.gaussian_cases import (
    DIM,
    EQUAL,
    LEADING,
    METHODS,
    MODES,
    TAKEN,
    evaluate,
    expect,
    inputs,
    reference,
    round_to,
)
from helpers.host import nd
from helpers.structure_cases import CASES, LOW_RANK, REGULAR
from helpers.tolerances import TOLERANCE, assert_close

pytestmark = pytest.mark.filterwarnings("ignore:.*input to HybridBlock is not used:UserWarning")


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
def test_forms(form, dtype, rng):
    given = round_to(dtype, FORMS[form](rng))
    arrays = {name: nd(value, dtype) for name, value in given.items()}
    mean, value = round_to(dtype, {"mean": rng.normal(size=3), "value": rng.normal(size=(5, 3))}).values()
    exact = DenseGaussian(mean, DENSE[form](**given))
    p = Gaussian(nd(mean, dtype), **arrays)
    assert_close(p.log_pdf(nd(value, dtype)), exact.log_pdf(value), **TOLERANCE[dtype])
    assert_close(p.entropy(), [exact.entropy()], **TOLERANCE[dtype])
    q = Gaussian(nd(value[0], dtype), **arrays)
    expected = exact.kl_divergence(DenseGaussian(value[0], exact.covariance))
    assert_close(p.kl_divergence(q), [expected], **TOLERANCE[dtype])


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


@pytest.mark.parametrize("leading", [(), (3,)])
@pytest.mark.parametrize("name", [name for name in REGULAR if "singular" not in name])
def test_two_means_of_one_entry_each(name, leading, dtype, rng):
    """The same mean in all entries, of both: their difference has one entry, too."""
    case = CASES[name]
    parameters = round_to(dtype, case.arrays(rng, (), DIM))
    means = round_to(dtype, {of: rng.normal(size=leading + (1,)) for of in "pq"})
    p, q = (
        Gaussian(nd(m, dtype), case.build(**{k: nd(a, dtype) for k, a in parameters.items()})) for m in means.values()
    )
    covariance = case.dense(**parameters)
    full = [np.broadcast_to(mean, leading + (DIM,)).reshape(-1, DIM) for mean in means.values()]
    pairs = [(DenseGaussian(a, covariance), DenseGaussian(b, covariance)) for a, b in zip(*full)]
    expected = np.array([a.kl_divergence(b) for a, b in pairs]).reshape(leading or (1,))
    assert_close(p.kl_divergence(q), expected, **TOLERANCE[dtype])
    both, log_constant = p.product(q)
    constants = [oracles.log_pdf(a.mean, b.mean, a.covariance + b.covariance) for a, b in pairs]
    assert_close(log_constant, np.reshape(constants, leading or (1,)), **TOLERANCE[dtype])
    assert_close(both.mean, ((full[0] + full[1]) / 2).reshape(leading + (DIM,)), **TOLERANCE[dtype])
