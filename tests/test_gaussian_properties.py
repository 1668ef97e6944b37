# SPDX-License-Identifier: Apache-2.0
"""What has to hold for every Gaussian of every structure, on examples that hypothesis chooses."""

from mxfusion_mvn import Gaussian

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import oracles
from helpers.host import nd
from helpers.structure_cases import CASES, REGULAR
from helpers.tolerances import TOLERANCE, assert_close

# The same examples in every run; no deadline, for other work on the machine would make it fail.
EXAMPLES = settings(max_examples=12, deadline=None, derandomize=True)
EXACT = TOLERANCE["float64"]

seeds = st.integers(0, 2**32 - 1)
dims = st.integers(2, 5)
leadings = st.sampled_from([(), (1,), (3,), (2, 2)])


def draw(name, seed, dim, leading=()):
    """A Gaussian of a structure, and a value with a density under it."""
    rng = np.random.default_rng(seed)
    parameters = {key: nd(array) for key, array in CASES[name].arrays(rng, leading, dim).items()}
    structure = CASES[name].build(**parameters)
    p = Gaussian(nd(rng.normal(size=leading + (dim,))), structure)
    value = p.draw_samples(noise=nd(rng.normal(size=leading + (structure.noise_size(dim),))))
    return p, value, rng


def split(rng, dim):
    """A random part of the positions, and the rest, each in random order."""
    order = [int(i) for i in rng.permutation(dim)]
    count = int(rng.integers(1, dim))
    return order[:count], order[count:]


def moments_equal(p, q, **tolerance):
    assert_close(p.mean, q.mean.asnumpy(), **tolerance)
    assert_close(p.covariance, q.covariance.asnumpy(), **tolerance)


every_structure = pytest.mark.parametrize("name", CASES)
every_regular_structure = pytest.mark.parametrize("name", REGULAR)


@every_structure
@EXAMPLES
@given(seeds, dims, leadings)
def test_permutation_changes_nothing(name, seed, dim, leading):
    p, value, rng = draw(name, seed, dim, leading)
    order = [int(i) for i in rng.permutation(dim)]
    permuted = p.marginal(order)
    assert_close(permuted.log_pdf(value.asnumpy()[..., order]), p.log_pdf(value).asnumpy(), **EXACT)
    assert_close(permuted.entropy(), p.entropy().asnumpy(), **EXACT)


@every_regular_structure
@EXAMPLES
@given(seeds, dims, leadings)
def test_affine_maps_scale_densities_by_their_determinant(name, seed, dim, leading):
    p, value, rng = draw(name, seed, dim, leading)
    matrix = oracles.random_spd(rng, (), dim, condition=10.0) @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    offset = rng.normal(size=dim)
    image = p.affine(matrix, offset)
    stretch = np.linalg.slogdet(matrix)[1]
    there = value.asnumpy() @ matrix.T + offset
    assert_close(image.log_pdf(there) + stretch, p.log_pdf(value).asnumpy(), **EXACT)
    assert_close(image.entropy() - stretch, p.entropy().asnumpy(), **EXACT)
    assert_close(image.mahalanobis(there), p.mahalanobis(value).asnumpy(), **EXACT)


@every_regular_structure
@EXAMPLES
@given(seeds, dims)
def test_divergence_is_the_same_in_all_coordinates(name, seed, dim):
    p, _, rng = draw(name, seed, dim)
    q, _, _ = draw(name, seed + 1, dim)
    matrix = oracles.random_spd(rng, (), dim, condition=10.0) @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    expected = p.kl_divergence(q).asnumpy()
    assert_close(p.affine(matrix, 1.0).kl_divergence(q.affine(matrix, 1.0)), expected, **EXACT)


# The density of a singular covariance is one along its support, whose volume is not a product of volumes.
@every_regular_structure
@EXAMPLES
@given(seeds, dims, leadings)
def test_a_joint_density_is_a_marginal_times_a_conditional(name, seed, dim, leading):
    p, value, rng = draw(name, seed, dim, leading)
    index, rest = split(rng, dim)
    known, others = value.asnumpy()[..., index], value.asnumpy()[..., rest]
    parts = p.marginal(index).log_pdf(known) + p.condition(index, known, rest=rest).log_pdf(others)
    assert_close(parts, p.log_pdf(value).asnumpy(), **EXACT)


@every_structure
@EXAMPLES
@given(seeds, st.integers(3, 5), leadings)
def test_a_marginal_of_a_conditional_is_a_conditional_of_a_marginal(name, seed, dim, leading):
    p, value, rng = draw(name, seed, dim, leading)
    index, rest = split(rng, dim)
    assume(len(rest) > 1)
    known = value.asnumpy()[..., index]
    kept = list(range(len(rest) - 1))
    first = p.condition(index, known, rest=rest).marginal(kept)
    q = p.marginal(index + rest[:-1])
    second = q.condition(list(range(len(index))), known)
    moments_equal(first, second, **EXACT)


@every_structure
@EXAMPLES
@given(seeds, st.integers(3, 5))
def test_conditioning_in_two_steps_or_in_one(name, seed, dim):
    p, value, rng = draw(name, seed, dim)
    first, second, *rest = (int(i) for i in rng.permutation(dim))
    numbers = value.asnumpy()
    once = p.condition([first, second], numbers[[first, second]], rest=rest)
    left = [second, *rest]
    twice = p.condition([first], numbers[[first]], rest=left).condition([0], numbers[[second]])
    moments_equal(once, twice, **EXACT)


def parametrisations(rng, dim):
    covariance = oracles.random_spd(rng, (), dim)
    deviations = np.sqrt(np.diagonal(covariance))
    return [
        Gaussian(0.0, covariance=nd(covariance)),
        Gaussian(0.0, precision=nd(oracles.symmetric(np.linalg.inv(covariance)))),
        Gaussian(0.0, scale_tril=nd(np.linalg.cholesky(covariance))),
        Gaussian(
            0.0,
            CASES["correlation"].build(
                standard_deviations=nd(deviations), correlation=nd(covariance / np.outer(deviations, deviations))
            ),
        ),
        Gaussian(0.0, CASES["singular"].build(covariance=nd(covariance))),
    ]


@EXAMPLES
@given(seeds, st.integers(1, 6))
def test_parametrisations_of_one_covariance_agree(seed, dim):
    rng = np.random.default_rng(seed)
    one, *others = parametrisations(rng, dim)
    value, matrix = nd(rng.normal(size=(3, dim))), rng.normal(size=(1, dim))
    for other in others:
        moments_equal(other, one, **EXACT)
        assert_close(other.log_pdf(value), one.log_pdf(value).asnumpy(), **EXACT)
        assert_close(other.entropy(), one.entropy().asnumpy(), **EXACT)
        assert_close(other.kl_divergence(one), [0.0], **EXACT)
        moments_equal(other.affine(matrix), one.affine(matrix), **EXACT)


@EXAMPLES
@given(seeds, dims, st.integers(1, 3))
def test_low_rank_and_kronecker_agree_with_their_dense_form(seed, dim, leading):
    for name in ["low rank", "kronecker", "diagonal"]:
        p, value, _ = draw(name, seed, dim, (leading,))
        q = Gaussian(p.mean, p.covariance)
        assert_close(p.log_pdf(value), q.log_pdf(value).asnumpy(), **EXACT)
        assert_close(p.kl_divergence(q), np.zeros(leading), **EXACT)
        assert_close(q.kl_divergence(p), np.zeros(leading), **EXACT)


@every_regular_structure
@EXAMPLES
@given(seeds, dims, leadings, st.sampled_from(REGULAR))
def test_divergence_is_positive_and_zero_only_at_equality(name, seed, dim, leading, other):
    p, _, rng = draw(name, seed, dim, leading)
    q, _, _ = draw(other, seed + 1, dim, leading)
    assert (p.kl_divergence(q).asnumpy() > 1e-3).all()
    same, _, _ = draw(name, seed, dim, leading)
    assert_close(p.kl_divergence(same), np.zeros(leading or (1,)), **EXACT)
    moved = Gaussian(p.mean + 1e-3, p.structure)
    expected = 0.5 * p.mahalanobis(moved.mean).asnumpy()
    assert_close(p.kl_divergence(moved), expected, **EXACT)
    assert (expected > 0).all()


@every_regular_structure
@EXAMPLES
@given(seeds, dims, leadings)
def test_a_product_of_densities_is_the_product(name, seed, dim, leading):
    p, value, _ = draw(name, seed, dim, leading)
    q, _, _ = draw("low rank", seed + 1, dim, leading)
    both, log_constant = p.product(q)
    expected = (p.log_pdf(value) + q.log_pdf(value)).asnumpy()
    assert_close(both.log_pdf(value) + log_constant, expected, **EXACT)


@every_regular_structure
@EXAMPLES
@given(seeds, dims)
def test_divergence_of_a_joint_is_at_least_that_of_its_parts(name, seed, dim):
    """It is the marginal's plus the mean of the conditionals' over what is given, which is least at the mean."""
    p, _, rng = draw(name, seed, dim)
    q, _, _ = draw(name, seed + 1, dim)
    index, rest = split(rng, dim)
    joint = p.kl_divergence(q).asnumpy()
    marginal = p.marginal(index).kl_divergence(q.marginal(index)).asnumpy()
    centre = p.marginal(index).mean
    at_centre = p.condition(index, centre, rest=rest).kl_divergence(q.condition(index, centre, rest=rest)).asnumpy()
    assert (at_centre >= 0).all()
    assert (joint - marginal >= at_centre - 1e-9 * joint).all()
