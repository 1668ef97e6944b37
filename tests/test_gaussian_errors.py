# SPDX-License-Identifier: Apache-2.0
"""What a Gaussian refuses, and what it says."""

from mxfusion_mvn import Gaussian, NotPositiveDefiniteError, OnFailure, structures

import mxnet as mx
import numpy as np
import pytest

from helpers.gaussian_cases import DIM
from helpers.host import nd
from helpers.structure_cases import CASES, REGULAR

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
    (lambda: P.affine(np.ones((0, 3))), r"`matrix`: got shape \(0, 3\); expected \(..., K, 3\)"),
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


@pytest.mark.parametrize("policy", [None, OnFailure(), OnFailure("raise")], ids=["none", "default", "raise"])
@pytest.mark.parametrize("case", REGULAR)
def test_policy_that_repairs_nothing_beside_a_structure(case, policy, rng):
    structure = CASES[case].build(**{name: nd(array) for name, array in CASES[case].arrays(rng, (), DIM).items()})
    assert Gaussian(covariance=structure, on_failure=policy).structure is structure


@pytest.mark.parametrize("action", ["jitter", "project"])
def test_policy_that_repairs_beside_a_structure_is_refused(action):
    with pytest.raises(ValueError, match="`on_failure`: got a policy beside a structure; .* Give the policy to the st"):
        Gaussian(ZEROS, structures.Dense(EYE), on_failure=OnFailure(action))


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
