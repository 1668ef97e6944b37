# SPDX-License-Identifier: Apache-2.0
"""Gradients of the evidence lower bound under Gaussian posteriors: unbiased, and without noise at the optimum."""

import mxnet as mx
import numpy as np
import pytest

from helpers import oracles
from helpers.gaussian_posteriors import ENTROPIES, TARGET_MEAN, TARGETS, covariance, law_of, random_parameters, target
from helpers.host import nd
from helpers.tolerances import assert_close


def exact_parameters(name, posterior, variable):
    """Values by uuid with which the posterior is the target."""
    _, uuids = law_of(posterior, variable)
    root = np.linalg.cholesky(TARGETS[name])
    if name == "low rank":
        own = np.sqrt([0.3, 0.5, 0.2])
        factor = (np.array([1.0, -0.5, 0.7]) / own)[:, None]
        scale = own * np.sqrt(1 + factor[:, 0] ** 2)
        more = {"factor": factor}
    else:
        scale = np.diag(root)
        more = {"below": (root / scale[:, None])[np.tril_indices(3, -1)]}
    given = {"mean": TARGET_MEAN, "scale": scale, **more}
    return {uuid: given[parameter] for parameter, uuid in uuids.items()}


def bound_and_gradients(model, posterior, values, num_samples):
    variables = {uuid: nd(value[None]) for uuid, value in values.items()}
    for array in variables.values():
        array.attach_grad()
    gradients = {uuid: array for uuid, array in variables.items()}
    variables.update({v.uuid: v.constant.expand_dims(0) for v in model.get_constants()})
    with mx.autograd.record():
        variables.update(posterior.draw_samples(F=mx.nd, variables=variables, num_samples=num_samples))
        bound = model.log_pdf(F=mx.nd, variables=variables) - posterior.log_pdf(F=mx.nd, variables=variables)
    bound.backward()
    return bound.asscalar(), {uuid: array.grad.asnumpy()[0] for uuid, array in gradients.items()}


def negative_kl(name, values, factor):
    mean, cov = covariance(values, factor)
    difference, precision = TARGET_MEAN - mean, np.linalg.inv(TARGETS[name])
    inner = np.trace(precision @ cov) + difference @ precision @ difference - 3
    return -0.5 * (inner + np.linalg.slogdet(TARGETS[name])[1] - np.linalg.slogdet(cov)[1])


@pytest.mark.parametrize("entropy", ENTROPIES)
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_bound_and_its_gradients_are_unbiased(name, entropy, rng):
    """Within six standard errors of the closed form, whose gradients are by differences."""
    model, posterior = target(name, entropy)
    factor, _ = law_of(posterior, model.v)
    values = random_parameters(posterior, rng)
    runs = [bound_and_gradients(model, posterior, values, 400) for _ in range(40)]
    bounds = np.array([bound for bound, _ in runs])
    assert_within_errors(bounds, negative_kl(name, values, factor))
    for uuid, value in values.items():

        def bound(array, uuid=uuid):
            return negative_kl(name, {**values, uuid: array}, factor)

        estimates = np.array([gradients[uuid] for _, gradients in runs])
        assert_within_errors(estimates, oracles.central_difference(bound, value))


def assert_within_errors(estimates, expected, errors=6.0):
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    assert (np.abs(estimates.mean(axis=0) - expected) <= errors * error + 1e-9).all()


@pytest.mark.parametrize("name", ["mean field", "full rank"])
def test_sampled_and_closed_form_have_the_same_gradient(name, rng):
    gradients = []
    for entropy in ("sampled", "closed_form"):
        model, posterior = target(name, entropy)
        _, uuids = law_of(posterior, model.v)
        values = random_parameters(posterior, np.random.default_rng(1))
        mx.random.seed(5)
        _, found = bound_and_gradients(model, posterior, values, 3)
        gradients.append({parameter: found[uuid] for parameter, uuid in uuids.items()})
    for parameter, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][parameter], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_at_the_exact_posterior_nothing_varies(name, rng):
    """Each single draw gives the log evidence, 0, and with the path gradient alone no gradient."""
    model, posterior = target(name, "sticking_the_landing")
    exact = exact_parameters(name, posterior, model.v)
    for _ in range(3):
        bound, gradients = bound_and_gradients(model, posterior, exact, 1)
        assert abs(bound) < 1e-12
        assert all(np.abs(gradient).max() < 1e-12 for gradient in gradients.values())
    model, posterior = target(name, "sampled")
    bound, gradients = bound_and_gradients(model, posterior, exact_parameters(name, posterior, model.v), 1)
    assert abs(bound) < 1e-12
    assert max(np.abs(gradient).max() for gradient in gradients.values()) > 0.1
