# SPDX-License-Identifier: Apache-2.0
"""What float32 arrays determine, float32 results have: every operation against fifty digits of the same numbers."""

from mxfusion_mvn import Gaussian, structures

import mpmath
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from helpers.host import nd
from helpers.tolerances import assert_close

DIGITS = {"float32": 1e-5, "float64": 1e-6}
D = 5
GIVEN, REST = [3, 1], [0, 2, 4]


def exactly(array):
    return mpmath.matrix(np.asarray(array, "float64").tolist())


def numbers(matrix):
    return np.array(matrix.tolist(), "float64").reshape(matrix.rows, matrix.cols)


def part(matrix, rows, columns):
    return mpmath.matrix([[matrix[i, j] for j in columns] for i in rows])


def log_det(matrix):
    return mpmath.log(mpmath.det(matrix))


def distance(matrix, vector):
    return (vector.T * matrix**-1 * vector)[0]


def ill_conditioned(rng, condition, size=D):
    """A covariance with eigenvalues from 1 to 1/condition."""
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return (basis * np.geomspace(1, 1 / condition, size)) @ basis.T


def make_dense(rng, dtype):
    matrix = nd(ill_conditioned(rng, 1e5), dtype)
    value = matrix.asnumpy()
    matrix = nd(np.tril(value) + np.tril(value, -1).T, dtype)
    return structures.Dense(matrix), exactly(matrix.asnumpy())


def make_precision(rng, dtype):
    structure, matrix = make_dense(rng, dtype)
    return structures.Precision(structure.covariance), matrix**-1


def make_cholesky(rng, dtype):
    factor = nd(np.linalg.cholesky(ill_conditioned(rng, 1e7)), dtype)
    exact = exactly(factor.asnumpy())
    return structures.Cholesky(factor), exact * exact.T


def make_low_rank(rng, dtype):
    factor, diagonal = nd(rng.normal(size=(D, 2)), dtype), nd(1e-6 * rng.uniform(1, 2, size=D), dtype)
    exact = exactly(factor.asnumpy())
    return structures.LowRank(factor, diagonal), exact * exact.T + mpmath.diag(list(exactly(diagonal.asnumpy())))


def make_correlation(rng, dtype):
    structure, matrix = make_dense(rng, dtype)
    deviations = nd(rng.uniform(1, 2, size=D), dtype)
    exact = mpmath.diag(list(exactly(deviations.asnumpy())))
    return structures.ScaledCorrelation(deviations, structure.covariance), exact * matrix * exact


MAKE = {
    "dense": make_dense,
    "precision": make_precision,
    "scale_tril": make_cholesky,
    "low rank": make_low_rank,
    "correlation": make_correlation,
}


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


@pytest.fixture(params=MAKE)
def case(request, rng):
    return MAKE[request.param]


@pytest.mark.parametrize("dtype", DIGITS)
def test_density_distance_and_entropy(case, dtype, rng):
    structure, matrix = case(rng, dtype)
    value = nd(rng.normal(size=D), dtype)
    gaussian, square = Gaussian(covariance=structure), distance(matrix, exactly(value.asnumpy()))
    determinant, constant = log_det(matrix), D * mpmath.log(2 * mpmath.pi)
    expected = {
        "log_pdf": (gaussian.log_pdf(value), -(square + determinant + constant) / 2),
        "mahalanobis": (gaussian.mahalanobis(value), square),
        "entropy": (gaussian.entropy(), (determinant + constant + D) / 2),
    }
    for got, wanted in expected.values():
        assert got.dtype == np.dtype(dtype)
        assert_close(got, [float(wanted)], rtol=DIGITS[dtype])


@pytest.mark.parametrize("dtype", DIGITS)
def test_divergences(case, dtype, rng):
    (structure, matrix), (other, wide) = case(rng, dtype), make_cholesky(rng, dtype)
    mean = nd(rng.normal(size=D), dtype)
    p, q = Gaussian(covariance=structure), Gaussian(mean, other)
    for first, second, one, two in ((p, q, matrix, wide), (q, p, wide, matrix)):
        product = two**-1 * one
        trace = mpmath.fsum(product[i, i] for i in range(D))
        expected = (trace - D + distance(two, exactly(mean.asnumpy())) + log_det(two) - log_det(one)) / 2
        assert_close(first.kl_divergence(second), [float(expected)], rtol=DIGITS[dtype])


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize(("given", "rest"), [(GIVEN, REST), ([0, 1], [2, 3, 4]), ([4], [0, 1, 2, 3])])
def test_conditionals(case, given, rest, dtype, rng):
    structure, matrix = case(rng, dtype)
    value = nd(1e-2 * rng.normal(size=len(given)), dtype)
    conditional = Gaussian(covariance=structure).condition(given, value)
    regression = part(matrix, rest, given) * part(matrix, given, given) ** -1
    covariance = part(matrix, rest, rest) - regression * part(matrix, given, rest)
    mean = numbers(regression * exactly(value.asnumpy())).reshape(-1)
    variance = np.diagonal(numbers(covariance))
    assert conditional.mean.dtype == conditional.variance.dtype == np.dtype(dtype)
    assert_close(conditional.variance, variance, rtol=DIGITS[dtype])
    assert_close(conditional.mean, mean, rtol=DIGITS[dtype], atol=DIGITS[dtype] * np.abs(mean).max())


@pytest.mark.parametrize("dtype", DIGITS)
def test_marginals_and_affine_maps(case, dtype, rng):
    structure, matrix = case(rng, dtype)
    gaussian = Gaussian(nd(rng.normal(size=D), dtype), structure)
    marginal = numbers(part(matrix, GIVEN, GIVEN))
    size = np.sqrt(np.outer(*[np.diagonal(marginal)] * 2))
    assert_close(gaussian.marginal(GIVEN).covariance / nd(size, dtype), marginal / size, rtol=0, atol=DIGITS[dtype])
    rows = nd(rng.normal(size=(2, D)), dtype)
    image = numbers(exactly(rows.asnumpy()) * matrix * exactly(rows.asnumpy()).T)
    mapped = gaussian.affine(rows, 1.0)
    mean = rows.asnumpy().astype("float64") @ gaussian.mean.asnumpy().astype("float64") + 1
    assert_close(mapped.covariance, image, rtol=0, atol=DIGITS[dtype] * np.abs(image).max())
    assert_close(mapped.mean, mean, rtol=0, atol=DIGITS[dtype] * np.abs(mean).max())


@pytest.mark.parametrize("dtype", DIGITS)
def test_products(case, dtype, rng):
    (structure, matrix), (other, wide) = case(rng, dtype), make_cholesky(rng, dtype)
    mean = nd(1e-3 * rng.normal(size=D), dtype)
    p, q = Gaussian(covariance=structure), Gaussian(mean, other)
    both, constant = p.product(q)
    sum_of_both = matrix + wide
    expected = distance(sum_of_both, exactly(mean.asnumpy())) + log_det(sum_of_both) + D * mpmath.log(2 * mpmath.pi)
    covariance = numbers((matrix**-1 + wide**-1) ** -1)
    assert_close(constant, [float(-expected / 2)], rtol=DIGITS[dtype])
    assert_close(both.covariance, covariance, rtol=0, atol=DIGITS[dtype] * np.abs(covariance).max())
    centre = numbers(matrix * sum_of_both**-1 * exactly(mean.asnumpy())).reshape(-1)
    assert_close(both.mean, centre, rtol=0, atol=DIGITS[dtype] * np.abs(centre).max())


SMALLEST = [1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10]


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("smallest", SMALLEST)
@pytest.mark.parametrize("dtype", DIGITS)
def test_low_rank_gradients_with_a_unique_variance_near_zero(dtype, smallest, rank, rows, rng):
    """The gradient of a sum of log densities is 1/2 (A - N Sigma^-1), A the scatter of Sigma^-1 y."""
    factor = nd(rng.normal(size=(6, rank)), dtype)
    diagonal = np.ones(6)
    diagonal[1] = smallest
    diagonal = nd(diagonal, dtype)
    values = rng.normal(size=(rows, rank)) @ factor.asnumpy().T + rng.normal(size=(rows, 6)) * np.sqrt(
        diagonal.asnumpy()
    )
    values = nd(values, dtype)
    leaves = [factor, diagonal, values]
    for leaf in leaves:
        leaf.attach_grad()
    with autograd.record():
        total = Gaussian(factor=factor, diagonal=diagonal, on_failure=None).log_pdf(values).sum()
    total.backward()
    w, d, y = (exactly(leaf.asnumpy()) for leaf in leaves)
    inverse = (w * w.T + mpmath.diag(list(d))) ** -1
    scaled = inverse * y.T
    of_covariance = (scaled * scaled.T - rows * inverse) / 2
    expected = [2 * of_covariance * w, mpmath.matrix([of_covariance[i, i] for i in range(6)]), -scaled.T]
    for leaf, wanted in zip(leaves, expected):
        wanted = numbers(wanted).reshape(leaf.shape)
        assert leaf.grad.dtype == np.dtype(dtype)
        assert_close(leaf.grad, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_low_rank_divergence_is_differentiated_to_the_digits_of_float64(rng):
    """Two in float32 whose derivative by the unique variances is the same as that of the dense form in float64."""
    factor, diagonal = nd(rng.normal(size=(6, 2)), "float32"), nd([1.0, 1e-6, 1, 1, 1, 1], "float32")
    other = nd(np.linalg.cholesky(ill_conditioned(rng, 10, 6)), "float32")
    gradients = []
    for dtype in ("float32", "float64"):
        w, d, tril = (array.astype(dtype) for array in (factor, diagonal, other))
        d.attach_grad()
        with autograd.record():
            covariance = {"factor": w, "diagonal": d}
            if dtype == "float64":
                covariance = {"covariance": mx.nd.linalg.syrk(w) + mx.nd.linalg.makediag(d)}
            p, q = Gaussian(**covariance, on_failure=None), Gaussian(scale_tril=tril, on_failure=None)
            divergence = q.kl_divergence(p)
        divergence.backward()
        gradients.append(d.grad.asnumpy())
    assert_close(gradients[0], gradients[1], rtol=1e-4)
