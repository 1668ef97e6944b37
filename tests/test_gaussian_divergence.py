# SPDX-License-Identifier: Apache-2.0
"""The Kullback-Leibler divergence of every pair of structures, and where there is no density."""

from mxfusion_mvn import Gaussian, structures

import numpy as np
import pytest

from helpers import oracles
from helpers.dense_gaussian import DenseGaussian
from helpers.gaussian_cases import DIM, evaluate, gaussian_pair, inputs, reference, round_to
from helpers.host import nd
from helpers.structure_cases import CASES
from helpers.tolerances import TOLERANCE, assert_close

pytestmark = pytest.mark.filterwarnings("ignore:.*input to HybridBlock is not used:UserWarning")


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
