# SPDX-License-Identifier: Apache-2.0
"""Structures at the limits of their digits, and arguments that do not fit each other."""

from mxfusion_mvn import Gaussian, structures

import mpmath
import mxnet as mx
import numpy as np
import pytest

from helpers.host import nd
from helpers.tolerances import assert_close

DEPENDENT = np.repeat(np.array([[0.1], [-0.4], [2.0], [0.3]], "float32"), 2, axis=1)
WIDE = np.array([[0.1, -0.4, 2.0], [0.3, 1.0, -0.7]], "float32")


def exact_entropy(factor, diagonal):
    with mpmath.workdps(60):
        factor = mpmath.matrix(factor.astype("float64").tolist())
        covariance = factor * factor.T + mpmath.diag([float(d) for d in diagonal])
        constant = len(diagonal) * (1 + mpmath.log(2 * mpmath.pi))
        return float((mpmath.log(mpmath.det(covariance)) + constant) / 2)


@pytest.mark.parametrize("size", [1e-2, 1e-7, 1e-10, 1e-12])
@pytest.mark.parametrize("factor", [DEPENDENT, WIDE], ids=["dependent columns", "more columns than rows"])
def test_entropy_of_low_rank_keeps_its_digits_at_every_reading(factor, size, dtype):
    diagonal = np.full(len(factor), size, dtype)
    p = Gaussian(0.0, factor=nd(factor, dtype), diagonal=nd(diagonal, dtype))
    expected = exact_entropy(factor, diagonal)
    rtol = 1e-9 if dtype == "float64" else 3e-5
    for _ in range(2):
        assert_close(p.entropy(), [expected], rtol=rtol)
    assert p.kl_divergence(Gaussian(0.0, scale_tril=mx.nd.eye(len(factor), dtype=dtype))).asscalar() > 0
    assert (p.mahalanobis(mx.nd.ones(len(factor), dtype=dtype)).asnumpy() > 0).all()


@pytest.mark.parametrize("scale", [1e6, 1e8, 1e10])
def test_products_of_different_scales(scale, dtype, rng):
    factor = (rng.normal(size=(4, 2)) * scale).astype(dtype)
    p = Gaussian(0.0, factor=nd(factor, dtype), diagonal=nd(np.full(4, scale**2), dtype))
    q = Gaussian(1.0, nd(np.eye(4), dtype))
    total = factor.astype("float64") @ factor.T.astype("float64") + (scale**2 + 1) * np.eye(4)
    expected = -0.5 * (np.ones(4) @ np.linalg.solve(total, np.ones(4)) + np.linalg.slogdet(2 * np.pi * total)[1])
    for first, second in ((p, q), (q, p)):
        both, log_constant = first.product(second)
        assert_close(log_constant, [expected], rtol=1e-6 if dtype == "float32" else 1e-13)
        assert_close(both.covariance, np.eye(4), rtol=1e-6, atol=1e-6)


def test_product_of_a_narrow_factor():
    p, q = Gaussian(0.0, nd(np.eye(2))), Gaussian(0.0, scale_tril=nd(1e-20 * np.eye(2)))
    for first, second in ((p, q), (q, p)):
        assert_close(first.product(second)[1], [-np.log(2 * np.pi)], rtol=1e-13)


@pytest.mark.parametrize("given", [[0], [1], [2], [2, 0], [1, 2]])
def test_conditionals_of_a_factor_are_its_own_rows(given, dtype, rng):
    tril = np.tril(rng.normal(size=(3, 3))) + 2 * np.eye(3)
    tril[2] *= 1e-3  # an entry that the others nearly explain
    tril[2, :2] *= 1e3
    tril = tril.astype(dtype)
    rest = [i for i in range(3) if i not in given]
    remaining = Gaussian(0.0, scale_tril=nd(tril, dtype)).condition(given, nd(np.ones(len(given)), dtype))
    with mpmath.workdps(50):
        root = mpmath.matrix(tril.astype("float64").tolist())
        precision = (root * root.T) ** -1
        block = mpmath.matrix([[precision[i, j] for j in rest] for i in rest]) ** -1
        expected = [[float(block[i, j]) for j in range(len(rest))] for i in range(len(rest))]
    assert isinstance(remaining.structure, structures.Cholesky)
    # The condition number of the factor is about 1e3, that of its square would cost six digits.
    assert_close(remaining.covariance, expected, rtol=1e-3 if dtype == "float32" else 1e-11)
    if given == [0]:
        assert_close(remaining.structure.scale_tril, tril[1:, 1:], rtol=0)


# Leading axes.

P = Gaussian(mx.nd.zeros((3, 2)), mx.nd.eye(2))
Q = Gaussian(mx.nd.zeros((4, 2)), mx.nd.eye(2))
MANY = mx.nd.broadcast_to(mx.nd.eye(2).expand_dims(0), (4, 2, 2))
BESIDE = [
    (lambda: P.log_pdf(mx.nd.zeros((4, 2))), r"`value`: got shape \(4, 2\) beside `mean` of shape \(3, 2\)"),
    (lambda: P.mahalanobis(mx.nd.zeros((4, 2))), r"`value`: got shape \(4, 2\) beside `mean` of shape \(3, 2\)"),
    (
        lambda: Gaussian(mx.nd.zeros(2), MANY).log_pdf(mx.nd.zeros((3, 2))),
        r"`value`: .* beside `covariance` of shape \(4, 2, 2\)",
    ),
    (lambda: P.kl_divergence(Q), r"`other`: got shape \(4, 2\) beside `mean` of shape \(3, 2\)"),
    (lambda: P.kl_divergence(Gaussian(mx.nd.zeros(2), MANY)), r"`other`: got shape \(4, 2, 2\) beside `mean`"),
    (lambda: P.product(Q), r"`other`: got shape \(4, 2\) beside `mean` of shape \(3, 2\)"),
    (lambda: P.condition([0], mx.nd.zeros((4, 1))), r"`value`: got shape \(4, 1\) beside `mean` of shape \(3, 2\)"),
    (lambda: P.affine(mx.nd.ones((1, 2)), mx.nd.zeros((4, 1))), r"`offset`: got shape \(4, 1\) beside `mean`"),
    (lambda: P.affine(mx.nd.ones((4, 1, 2))), r"`matrix`: got shape \(4, 1, 2\) beside `mean` of shape \(3, 2\)"),
    (lambda: P.draw_samples(noise=mx.nd.ones((4, 2))), r"`noise`: got shape \(4, 2\) beside `mean`"),
    (
        lambda: Gaussian(mx.nd.zeros((3, 2)), MANY),
        r"`mean`: got shape \(3, 2\) beside `covariance` of shape \(4, 2, 2\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), BESIDE, ids=[message[:50] for _, message in BESIDE])
def test_leading_axes_that_do_not_broadcast_are_named(call, message):
    with pytest.raises(ValueError, match=message + ".*expected leading axes that are equal or 1"):
        call()
    mx.nd.waitall()


# Indices.

INDICES = {
    "csr": lambda: mx.nd.array([[1.0, 0.0]]).tostype("csr"),
    "row sparse": lambda: mx.nd.array([[1.0, 0.0]]).tostype("row_sparse"),
    "NDArray": lambda: mx.nd.array([0]),
    "text": lambda: "01",
    "dict": lambda: {0: 1},
    "set": lambda: {0},
    "endless": lambda: iter(int, 1),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("kind", INDICES)
@pytest.mark.parametrize("method", ["marginal", "condition", "rest"])
def test_what_is_no_list_of_positions_is_refused(method, kind):
    calls = {
        "marginal": lambda index: P.marginal(index),
        "condition": lambda index: P.condition(index, 1.0),
        "rest": lambda index: P.marginal([0], rest=index),
    }
    if (method, kind) == ("rest", "nothing"):
        assert P.marginal([0], rest=None).mean.shape == (3, 1)
        return
    with pytest.raises(ValueError, match=f"`{'rest' if method == 'rest' else 'index'}`: got .*expected a list of int"):
        calls[method](INDICES[kind]())


def test_a_range_that_is_too_long_is_refused_at_once():
    with pytest.raises(ValueError, match=r"`index`: got range\(0, 1000000000000\); expected distinct positions"):
        P.marginal(range(10**12))
