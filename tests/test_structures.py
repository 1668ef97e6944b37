# SPDX-License-Identifier: Apache-2.0
"""What is particular to one structure or another; what all have in common is in ``test_testing.py``."""

from mxfusion_mvn import Gaussian, NotPositiveDefiniteError, structures
from mxfusion_mvn.structures import Cholesky, Dense, Diagonal, LowRank, Precision, ScaledCorrelation, Shared, Singular

import mpmath
import mxnet as mx
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from helpers import oracles
from helpers.host import nd
from helpers.structure_cases import CASES
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

KEPT = {
    "cholesky": (Cholesky, Cholesky),
    "correlation": (ScaledCorrelation, Cholesky),
    "correlation factor": (ScaledCorrelation, Cholesky),
    "dense": (Dense, Cholesky),
    "diagonal": (Diagonal, Diagonal),
    "kronecker": (Dense, Cholesky),
    "low rank": (LowRank, LowRank),
    "precision": (Precision, Precision),
    "singular": (Singular, Singular),
}


def build(name, rng, leading=(), dim=6):
    case = CASES[name]
    return case.build(**{key: nd(array) for key, array in case.arrays(rng, leading, dim).items()})


@pytest.mark.parametrize("name", KEPT)
def test_marginals_and_conditionals_keep_the_kind_where_it_exists(name, rng):
    structure = build(name, rng)
    marginal, (_, conditional) = structure.marginal([4, 1]), structure.condition([4, 1], [0, 2, 3, 5])
    assert (type(marginal), type(conditional)) == KEPT[name]


@pytest.mark.parametrize("structure", [Dense, Precision])
def test_policy_and_name_pass_to_marginals(structure):
    part = structure(nd(np.eye(3)), None, "of mine").marginal([0, 1])
    assert (part.on_failure, part.name) == (None, "of mine")


@pytest.mark.parametrize("structure", [Dense, Precision])
def test_a_marginal_or_conditional_that_does_not_exist_is_refused_by_name(structure):
    indefinite = structure(nd(-np.eye(3)), name="of mine")
    for evaluate in (
        lambda: indefinite.condition([0], [1, 2])[1].log_det(),
        lambda: indefinite.marginal([0]).log_det(),
    ):
        with pytest.raises(NotPositiveDefiniteError, match="`of mine` is not positive definite"):
            evaluate()


# Kept factors.


@pytest.mark.parametrize("name", ["dense", "precision", "low rank", "correlation", "kronecker", "singular"])
def test_a_structure_made_once_serves_a_whole_training(name, rng):
    case = CASES[name]
    arrays = {key: nd(array) for key, array in case.arrays(rng, (), 4).items()}
    for array in arrays.values():
        array.attach_grad()
    structure = case.build(**arrays)
    gaussian = Gaussian(nd(np.zeros(4)), structure)
    value = structure.color(nd(rng.normal(size=structure.noise_size(4)))).detach()
    for _ in range(3):
        gaussian.log_pdf(value)
        with mx.autograd.record():
            once = gaussian.log_pdf(value)
        once.backward()
        kept = {key: array.grad.asnumpy() for key, array in arrays.items()}
        with mx.autograd.record():
            anew = Gaussian(nd(np.zeros(4)), case.build(**arrays)).log_pdf(value)
        anew.backward()
        assert_close(once, anew.asnumpy(), **TOLERANCE["float64"])
        for key, array in arrays.items():
            assert_close(kept[key], array.grad.asnumpy(), **TOLERANCE["float64"])
            array *= 1.1  # as a trainer does, in place


def count_calls(monkeypatch, names):
    seen = []
    for name in names:
        kernel = getattr(mx.nd.linalg, name)
        monkeypatch.setattr(
            mx.nd.linalg, name, lambda a, *rest, kernel=kernel, **kw: seen.append(a.shape) or kernel(a, *rest, **kw)
        )
    return seen


def test_a_constant_is_factored_once(rng, monkeypatch):
    seen = count_calls(monkeypatch, ["potrf"])
    gaussian = Gaussian(nd(np.zeros(3)), covariance=nd(np.eye(3)))
    gaussian.log_pdf(nd(np.ones((5, 3)))), gaussian.draw_samples(2), gaussian.entropy()
    assert seen == [(3, 3)]


@pytest.mark.parametrize("method", ["whiten", "color"])
def test_one_correlation_serves_any_number_of_deviations(method, rng, monkeypatch):
    seen = count_calls(monkeypatch, ["potrf", "trsm", "trmm"])
    structure = ScaledCorrelation(nd(rng.uniform(1, 2, (50, 3))), nd(np.eye(3)))
    getattr(structure, method)(nd(np.ones((50, 3))))
    assert sum(np.prod(shape) for shape in seen) == 2 * 9


def test_low_rank_never_has_anything_of_size_d_by_d():
    dim = 100_000  # 10^10 entries would be 40 GB
    gaussian = Gaussian(mx.nd.zeros(dim), factor=mx.nd.ones((dim, 2)), diagonal=mx.nd.ones(dim))
    other = Gaussian(mx.nd.ones(dim), factor=mx.nd.ones((dim, 1)), diagonal=2 * mx.nd.ones(dim))
    gaussian.condition([0], mx.nd.ones(1))
    for result in (gaussian.log_pdf(mx.nd.ones(dim)), gaussian.draw_samples(1), gaussian.kl_divergence(other)):
        assert np.isfinite(result.asnumpy()).all()


# Symbols.


def test_symbols_are_told_what_cannot_be_read():
    symbol = mx.sym.Variable("a")
    with pytest.raises(ValueError, match="`rank`: got None for Symbols.*Pass LowRank"):
        LowRank(symbol, symbol).color(symbol)
    with pytest.raises(ValueError, match="`tolerance`: got None for a Symbol.*Pass 1.2e-4"):
        Singular(symbol).log_det()


@pytest.mark.parametrize("name", CASES)
def test_sharing_declared_is_sharing_seen(name, rng):
    structure = build(name, rng, (2,))
    shared = Shared(structure)
    case = CASES[name]
    arrays = case.arrays(np.random.default_rng(20240229), (2,), 6)
    natural = case.build(**{key: nd(array[:, None]) for key, array in arrays.items()})
    noise = nd(rng.normal(size=(2, 5, structure.noise_size(6))))
    mean = nd(np.zeros((2, 1, 6)))
    drawn = natural.color(noise)
    assert_close(shared.color(noise), drawn.asnumpy(), **TOLERANCE["float64"])
    for method in ("entropy", "log_pdf", "mahalanobis"):
        arguments = () if method == "entropy" else (drawn,)
        got, expected = (getattr(Gaussian(mean, which), method)(*arguments) for which in (shared, natural))
        assert_close(got, expected.asnumpy(), **TOLERANCE["float64"])
    got, expected = (Gaussian(mean, which).condition([3, 0], drawn[:, :, :2]) for which in (shared, natural))
    assert_close(got.mean, expected.mean.asnumpy(), **TOLERANCE["float64"])
    assert_close(got.covariance, expected.covariance.asnumpy(), **TOLERANCE["float64"])
    assert_close(Gaussian(mean, shared).marginal([2]).variance, natural.marginal([2]).variance().asnumpy(), rtol=1e-12)
    if not case.singular:
        got, expected = (
            Gaussian(mean, which).kl_divergence(Gaussian(mean + 1, Shared(Dense(structure.dense()))))
            for which in (shared, natural)
        )
        assert_close(got, expected.asnumpy(), **TOLERANCE["float64"])


# Low rank.


@pytest.mark.parametrize("diagonal", [1e-4, 1e-6, 1e-8])
def test_low_rank_in_float32_has_four_digits(diagonal, rng):
    dim, rank = 50, 5
    factor = rng.normal(size=(dim, rank)).astype("float32")
    variances = np.full(dim, diagonal, "float32")
    far = rng.normal(size=(2, dim))
    near = rng.normal(size=(2, rank)) @ factor.T + np.sqrt(diagonal) * rng.normal(size=(2, dim))
    values = np.concatenate([far, near]).astype("float32")
    gaussian = Gaussian(mx.nd.zeros(dim), factor=nd(factor, "float32"), diagonal=nd(variances, "float32"))
    squared_norms, log_pdfs = with_fifty_digits(values, factor, variances)
    assert_close(gaussian.mahalanobis(nd(values, "float32")), squared_norms, rtol=1e-4)
    assert_close(gaussian.log_pdf(nd(values, "float32")), log_pdfs, rtol=1e-4)


def with_fifty_digits(values, factor, variances):
    with mpmath.workdps(50):
        factor = mpmath.matrix(factor.tolist())
        root = mpmath.cholesky(factor * factor.T + mpmath.diag(variances.tolist()))
        constant = 2 * mpmath.fsum(mpmath.log(root[i, i]) for i in range(root.rows))
        constant += root.rows * mpmath.log(2 * mpmath.pi)
        squared_norms = []
        for value in values:
            z = []
            for i, entry in enumerate(value.tolist()):
                z.append((entry - mpmath.fdot((root[i, j], z[j]) for j in range(i))) / root[i, i])
            squared_norms.append(mpmath.fdot(z, z))
        return [float(s) for s in squared_norms], [float(-(s + constant) / 2) for s in squared_norms]


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_inverse_diagonal_where_the_factor_explains_everything(dim, rng):
    factor = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :2].astype("float32")
    diagonal = np.full(dim, 1e-6, "float32")
    exact = factor.astype("float64") @ factor.T.astype("float64") + 1e-6 * np.eye(dim)
    got = LowRank(nd(factor, "float32"), nd(diagonal, "float32")).inverse_diagonal()
    assert_close(got, np.diag(np.linalg.inv(exact)), rtol=1e-3)


def test_correlation_needs_one_of_its_forms():
    for given, word in (({}, "neither"), ({"correlation": 1, "correlation_tril": 1}, "both")):
        with pytest.raises(ValueError, match=f"`correlation` and `correlation_tril`: got {word}; expected exactly one"):
            ScaledCorrelation(nd(np.ones(2)), **given)


# Singular.


def projection(rng, dim, rank, eigenvalues=None):
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :rank]
    return basis, oracles.symmetric((basis * (np.ones(rank) if eigenvalues is None else eigenvalues)) @ basis.T)


SINGULAR = {
    "distinct": (6, 4, [5.0, 2.0, 1.0, 0.5]),
    "repeated": (6, 4, [2.0, 2.0, 2.0, 1.0]),
    "a multiple of a projection": (6, 3, [3.0, 3.0, 3.0]),
    "rank 1": (5, 1, [4.0]),
    "wide": (5, 3, [1e3, 1.0, 0.1]),
    "full": (3, 3, [2.0, 2.0, 1.0]),
    "1 x 1": (1, 1, [2.0]),
}


@pytest.mark.parametrize("given_rank", [False, True], ids=["detected", "given"])
@pytest.mark.parametrize("name", SINGULAR)
def test_singular_log_pdf_is_scipy_s(name, given_rank, rng):
    dim, rank, eigenvalues = SINGULAR[name]
    basis, covariance = projection(rng, dim, rank, eigenvalues)
    mean = rng.normal(size=dim)
    values = mean + (rng.normal(size=(4, rank)) * np.sqrt(eigenvalues)) @ basis.T
    gaussian = Gaussian(nd(mean), Singular(nd(covariance), rank=rank if given_rank else None))
    expected = multivariate_normal(mean, covariance, allow_singular=True).logpdf(values)
    assert_close(gaussian.log_pdf(nd(values)), expected, rtol=1e-10)
    if rank < dim:
        off = values + 1e-3 * (np.eye(dim) - basis @ basis.T) @ rng.normal(size=dim)
        assert np.isneginf(gaussian.log_pdf(nd(off)).asnumpy()).all()
        assert np.isneginf(multivariate_normal(mean, covariance, allow_singular=True).logpdf(off)).all()


@pytest.mark.parametrize("name", SINGULAR)
def test_singular_gradients_are_differences_within_the_support(name, rng):
    dim, rank, eigenvalues = SINGULAR[name]
    basis, covariance = projection(rng, dim, rank, eigenvalues)
    inner = basis.T @ covariance @ basis
    coordinates = rng.normal(size=rank) * np.sqrt(eigenvalues)
    value, matrix = nd(basis @ coordinates), nd(covariance)
    value.attach_grad(), matrix.attach_grad()
    with mx.autograd.record():
        log_pdf = Gaussian(nd(np.zeros(dim)), Singular(matrix)).log_pdf(value)
    log_pdf.backward()

    def density(coordinates, inner):
        return multivariate_normal(np.zeros(rank), inner).logpdf(coordinates)

    step = 1e-5 * min(eigenvalues)
    along_matrix = oracles.central_difference(lambda m: density(coordinates, m), inner, step, symmetrical=True)
    along_value = oracles.central_difference(lambda x: density(x, inner), coordinates, step)
    assert_close(basis.T @ matrix.grad.asnumpy() @ basis, along_matrix, **GRADIENT_TOLERANCE)
    assert_close(basis.T @ value.grad.asnumpy(), along_value, **GRADIENT_TOLERANCE)
    outside = np.eye(dim) - basis @ basis.T
    assert_close(outside @ matrix.grad.asnumpy(), np.zeros((dim, dim)), rtol=0, atol=1e-8 * np.abs(along_matrix).max())


def test_singular_draws_lie_in_the_support_of_each_matrix_of_a_batch(dtype, rng):
    parts = [projection(rng, 5, rank) for rank in (1, 3, 5)]
    singular = Singular(nd(np.stack([covariance for _, covariance in parts]), dtype))
    assert singular.rank().asnumpy().tolist() == [1, 3, 5]
    gaussian = Gaussian(nd(np.ones((3, 5)), dtype), singular)
    draws = gaussian.draw_samples(100)
    assert np.isfinite(gaussian.log_pdf(draws).asnumpy()).all()
    for position, (basis, _) in enumerate(parts):
        offset = draws.asnumpy()[:, position] - 1
        outside = offset - offset @ basis @ basis.T
        assert np.abs(outside).max() < (1e-5 if dtype == "float32" else 1e-13)


def test_a_given_rank_drops_the_rest(rng):
    basis, covariance = projection(rng, 4, 2, [2.0, 1.0])
    noisy = covariance + 1e-3 * oracles.random_spd(rng, (), 4)
    assert Singular(nd(noisy)).rank().asnumpy() == [4]
    truncated = Singular(nd(noisy), rank=2)
    values, vectors = np.linalg.eigh(noisy)
    expected = (vectors[:, 2:] * values[2:]) @ vectors[:, 2:].T
    for got in (truncated.dense(), mx.nd.linalg.syrk(truncated.root())):
        assert_close(got, expected, **TOLERANCE["float64"])
    assert_close(truncated.variance(), np.diag(expected), **TOLERANCE["float64"])


def test_a_zero_matrix_is_a_point(rng):
    gaussian = Gaussian(nd(np.ones(2)), Singular(nd(np.zeros((2, 2)))))
    assert gaussian.log_pdf(nd(np.array([[1.0, 1.0], [1.0, 1.1]]))).asnumpy().tolist() == [0, -np.inf]
    assert (gaussian.draw_samples(3).asnumpy() == 1).all()


@pytest.mark.parametrize(
    ("matrix", "rank", "error", "message"),
    [
        ([[1, np.nan], [np.nan, 1]], None, NotPositiveDefiniteError, r"`S` is nan at index \(0, 1\); expected finite"),
        ([[np.inf, 0], [0, 1]], None, NotPositiveDefiniteError, r"`S` is inf at index \(0, 0\); expected finite"),
        (
            [[1, 2], [2, 1]],
            None,
            NotPositiveDefiniteError,
            r"`S` is not positive semi-definite: its smallest .* is -1;",
        ),
        ([[1, 2], [2, 1]], 1, NotPositiveDefiniteError, r"`S` is not positive semi-definite: .*Clip the eigenvalues"),
        ([[[1, 1], [1, 1]], [[1, 2], [2, 1]]], None, NotPositiveDefiniteError, r"at batch index \(1,\): its smallest"),
        ([[1, 1], [1, 1]], 2, NotPositiveDefiniteError, r"`rank`: got 2, but `S` has 1 positive eigenvalues; expected"),
        ([[1, 1], [1, 1]], 0, ValueError, r"`rank`: got 0; expected a positive integer"),
        ([[1, 1], [1, 1]], 1.0, ValueError, r"`rank`: got 1.0; expected a positive integer"),
    ],
)
def test_what_singular_refuses(matrix, rank, error, message, dtype):
    with pytest.raises(error, match=message):
        Singular(nd(np.array(matrix, dtype="float64"), dtype), rank=rank, name="S").log_det()


def test_the_table_of_the_module_names_every_structure():
    public = set(structures.__all__) - {"RowMap", "Structure"}
    assert public == {word.strip("`") for word in structures.__doc__.split() if word.startswith("``")}


@pytest.mark.parametrize("sides", [("row", 0), ("column", 1)])
def test_a_singular_side_of_a_kronecker_product_is_refused(sides):
    name, place = sides
    parts = [structures.Dense(mx.nd.eye(2)), structures.Dense(mx.nd.eye(2))]
    parts[place] = structures.Singular(mx.nd.ones((2, 2)))
    with pytest.raises(
        ValueError, match=f"`{name}`: got a singular covariance; expected a regular one. Form the whole"
    ):
        structures.Kronecker(*parts)
