# SPDX-License-Identifier: Apache-2.0
"""Gaussian posteriors: densities of draws, entropies, gradients, exact posteriors, prediction, files, refusals."""

from typing import NamedTuple

from mxfusion_mvn import InverseWishart, LKJCholesky, MultivariateNormal, Wishart
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
    unconstrained_gaussian,
)
from mxfusion_mvn.inference.loops.compiled import CompiledLoop
from mxfusion_mvn.inference.loops.imperative import BatchLoop
from mxfusion_mvn.inference.supports import latent_variables
from mxfusion_mvn.inference.variational.gaussians import TransformedGaussian
from mxfusion_mvn.transformations import PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.components.functions.operators import add, reshape
from mxfusion.inference import (
    GradBasedInference,
    MinibatchInferenceLoop,
    StochasticVariationalInference,
    VariationalPosteriorForwardSampling,
)
from scipy import stats

from helpers import oracles
from helpers.conjugate import assert_moments, conjugate_model, exact_posterior
from helpers.fitting import fit, last_losses
from helpers.host import nd
from helpers.tolerances import assert_close

# A model with a latent variable of every kind, some with batch axes, and posteriors at random parameters


def every_kind(dtype="float64"):
    model = Model()
    counts = nd(np.full((4, 2), 3.0), dtype)  # of the full shape: the host takes samples for rows
    model.rate = host.Gamma.define_variable(counts, 0.2 * counts, (4, 2), dtype=dtype)
    model.mean = MultivariateNormal(shape=(3,), dtype=dtype)
    model.shares = host.Dirichlet.define_variable(nd([[2.0, 3.0, 5.0]], dtype), (1, 3), dtype=dtype)
    model.precision = Wishart(4.0, 1.0, shape=(2, 2), dtype=dtype)
    model.factor = LKJCholesky(2.0, shape=(3, 3), dtype=dtype)
    model.covariances = InverseWishart(5.0, 1.0, shape=(2, 2, 2), dtype=dtype)
    return model


CREATE = {
    "mean field": create_Gaussian_meanfield,
    "full rank": create_Gaussian_fullrank,
    "low rank": create_Gaussian_lowrank,
    "blocks": lambda m, o, **options: create_Gaussian_fullrank(
        m, o, blocks=[[m.precision, m.mean], [m.factor]], **options
    ),
}


def random_parameters(posterior, rng):
    """Values of the parameters of a posterior, NumPy arrays by uuid."""
    values = {}
    for parameter in posterior.get_parameters(excluded=set()):
        scale = 0.3 if parameter.transformation is None else 0.0
        values[parameter.uuid] = scale * rng.normal(size=parameter.shape)
        if parameter.transformation is not None:
            values[parameter.uuid] = rng.uniform(0.1, 0.5, size=parameter.shape)
    return values


def draw(posterior, values, num_samples, dtype="float64"):
    """Parameters and draws, NDArrays by uuid."""
    variables = {uuid: nd(value[None], dtype) for uuid, value in values.items()}
    variables.update(posterior.draw_samples(F=mx.nd, variables=variables, num_samples=num_samples))
    return variables


def log_pdf_per_sample(posterior, variables, num_samples):
    """The log density of all variables together, (S,), the terms of its factors added up."""
    total = np.zeros(num_samples)
    for factor in posterior.ordered_factors:
        term = factor.log_pdf(F=mx.nd, variables=variables).asnumpy()
        total = total + term.reshape(len(term), -1).sum(axis=1)
    return total


class Law(NamedTuple):
    """A Gaussian over the coordinates of some variables: factor of the posterior, and its latent variables."""

    factor: object
    latents: list


def laws(posterior, latent):
    """The independent Gaussians of a posterior, each with its variables in the order of its coordinates."""
    found = {}
    for variable in sorted(latent, key=lambda v: getattr(posterior[v].factor, "start", 0)):
        factor = posterior[variable].factor
        joint = dict(factor.inputs).get("joint")
        found.setdefault(factor if joint is None else joint.factor, []).append(variable)
    return [Law(factor, latents) for factor, latents in found.items()]


def covariance(values, factor):
    """Mean (B..., n) and covariance (B..., n, n) of z from the parameters of its law."""
    given = {name: values[variable.uuid] for name, variable in factor.inputs}
    mean, scale = given["mean"], given["scale"]
    root = np.eye(mean.shape[-1])
    if "below" in given:
        root[np.tril_indices(len(root), -1)] = given["below"]
    if "factor" in given:
        root = np.concatenate([root, given["factor"]], axis=1)
        root /= np.linalg.norm(root, axis=1, keepdims=True)
    colored = scale[..., None] * root
    return mean, colored @ np.swapaxes(colored, -1, -2)


def expected_terms(posterior, values, variables, latent):
    """By SciPy at the raw coordinates of the draws: log N(z) and the log volume, (S,) each; and the entropy of z."""
    log_pdf, volume, entropy = 0.0, 0.0, 0.0
    for law in laws(posterior, latent):
        mean, cov = covariance(values, law.factor)
        raws = []
        for variable in law.latents:
            bijection = posterior[variable].factor.bijection
            raw = bijection.inverseTransform(variables[variable.uuid])
            log_det = bijection.log_det_jacobian(raw).asnumpy()
            volume = volume + log_det.reshape(len(log_det), -1).sum(axis=1)
            raws.append(raw.asnumpy())
        z = raws[0] if mean.ndim > 1 else np.concatenate([raw.reshape(len(raw), -1) for raw in raws], axis=1)
        for index in np.ndindex(mean.shape[:-1]):
            normal = stats.multivariate_normal(mean[index], cov[index])
            log_pdf = log_pdf + normal.logpdf(z[(slice(None),) + index]).reshape(-1)
            entropy = entropy + normal.entropy()
    return log_pdf, volume, entropy


@pytest.mark.parametrize("entropy", ["sampled", "closed_form", "sticking_the_landing"])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(CREATE))
def test_the_log_density_of_a_draw(name, samples, entropy, dtype, rng):
    """Where the number of samples equals that of rows, a misplaced axis would go unnoticed elsewhere."""
    model = every_kind(dtype)
    posterior = CREATE[name](model, [], entropy=entropy)
    values = random_parameters(posterior, rng)
    with mx.autograd.record():
        variables = draw(posterior, values, samples, dtype)
        got = log_pdf_per_sample(posterior, variables, samples)
    latent = model.get_latent_variables([])
    assert all(variables[v.uuid].shape == (samples,) + v.shape for v in latent)
    assert all(variables[v.uuid].dtype == np.dtype(dtype) for v in latent)
    log_pdf, volume, exact = expected_terms(posterior, values, variables, latent)
    expected = (-exact if entropy == "closed_form" else log_pdf) - volume
    rounding = {"float32": 2e-3, "float64": 1e-8}[dtype]
    assert_close(got, np.broadcast_to(expected, (samples,)), rtol=rounding, atol=rounding)


def test_the_density_of_other_values_than_the_last_draw(rng):
    """By a solve; without recording the last draw is such a value, too."""
    model = every_kind()
    posterior = create_Gaussian_meanfield(model, [])
    values = random_parameters(posterior, rng)
    with mx.autograd.record():
        draw(posterior, values, 3)
        other = {**draw(posterior, values, 3)}
        other = {uuid: array.copy() for uuid, array in other.items()}
        got = log_pdf_per_sample(posterior, other, 3)
    log_pdf, volume, _ = expected_terms(posterior, values, other, model.get_latent_variables([]))
    assert_close(got, log_pdf - volume, rtol=1e-8)
    unrecorded = draw(posterior, values, 3)
    log_pdf, volume, _ = expected_terms(posterior, values, unrecorded, model.get_latent_variables([]))
    assert_close(log_pdf_per_sample(posterior, unrecorded, 3), log_pdf - volume, rtol=1e-8)


@pytest.mark.parametrize("name", sorted(CREATE))
def test_a_clone_of_a_posterior_has_the_same_law(name, rng):
    model = every_kind()
    posterior = CREATE[name](model, [])
    values = random_parameters(posterior, rng)
    copied = model.clone()
    clone = posterior.clone(copied)
    drawn = []
    for q in (posterior, clone):
        mx.random.seed(3)
        with mx.autograd.record():
            variables = draw(q, values, 3)
            drawn.append((log_pdf_per_sample(q, variables, 3), variables))
    assert_close(drawn[0][0], drawn[1][0], rtol=1e-14)
    for variable in model.get_latent_variables([]):
        assert_close(drawn[0][1][variable.uuid], drawn[1][1][variable.uuid].asnumpy(), rtol=1e-14)


# Gradients of the evidence lower bound, which for a latent variable without data is -KL(q || p)


TARGET_MEAN = np.array([1.0, -0.5, 2.0])
TARGETS = {
    "mean field": np.diag([0.5, 2.0, 1.0]),
    "full rank": np.array([[1.0, 0.7, 0.2], [0.7, 2.0, -0.4], [0.2, -0.4, 0.5]]),
    "low rank": np.diag([0.3, 0.5, 0.2]) + np.outer([1.0, -0.5, 0.7], [1.0, -0.5, 0.7]),
}
ENTROPIES = ["sampled", "closed_form", "sticking_the_landing"]


def target(name, entropy):
    model = Model()
    model.v = MultivariateNormal(mean=nd(TARGET_MEAN), covariance=nd(TARGETS[name]), shape=(3,), dtype="float64")
    create = {"low rank": lambda m, o, **options: create_Gaussian_lowrank(m, o, rank=1, **options)}.get(name)
    return model, (create or CREATE[name])(model, [], entropy=entropy)


def law_of(posterior, variable):
    """The factor of the Gaussian, and its parameters by name."""
    (law,) = laws(posterior, [variable])
    return law.factor, {name: parameter.uuid for name, parameter in law.factor.inputs}


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


# Exact posteriors


def learned(inference, posterior, variable):
    """Mean and covariance of the law of a latent variable's coordinates, as learned."""
    factor, _ = law_of(posterior, variable)
    values = {parameter.uuid: inference.params[parameter].asnumpy() for _, parameter in factor.inputs}
    return covariance(values, factor)


def assert_same_gaussian(got, expected):
    """Means within 0.02 standard deviations; standard deviations and correlations within 2 percent."""
    (mean, cov), (exact_mean, exact_cov) = got, expected
    sd, exact_sd = np.sqrt(np.diag(cov)), np.sqrt(np.diag(exact_cov))
    assert (np.abs(mean - exact_mean) < 0.02 * exact_sd).all()
    assert_close(sd, exact_sd, rtol=0.02)
    assert_close(cov / np.outer(sd, sd), exact_cov / np.outer(exact_sd, exact_sd), rtol=0, atol=0.02)


def infer(model, observed, posterior, num_samples=5, max_iter=1000, **options):
    algorithm = StochasticVariationalInference(num_samples, model, posterior, observed)
    return fit(algorithm, max_iter, rate=0.1, factor=0.994, **options)


def regression(rng, rows=40, dim=10, dtype="float64"):
    """A regression with correlated predictors, its data, the exact posterior of the weights, and the log evidence."""
    predictors = rng.normal(size=(rows, dim)) + 1.5 * rng.normal(size=(rows, 1))
    response = predictors @ rng.normal(size=dim) + 0.7 * rng.normal(size=rows)
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, dim))
    model.w = MultivariateNormal(covariance=4.0, shape=(dim,), dtype=dtype)
    model.Y = MultivariateNormal(mean=linear(model.X, model.w), covariance=0.49, shape=(model.N, 1), dtype=dtype)
    data = {"X": nd(predictors, dtype), "Y": nd(response[:, None], dtype)}
    cov = np.linalg.inv(predictors.T @ predictors / 0.49 + np.eye(dim) / 4)
    mean = cov @ predictors.T @ response / 0.49
    marginal = 4 * predictors @ predictors.T + 0.49 * np.eye(rows)
    return model, data, (mean, cov), stats.multivariate_normal.logpdf(response, np.zeros(rows), marginal)


def test_full_rank_is_exact_for_a_linear_regression(rng):
    model, data, exact, log_evidence = regression(rng)
    posterior = create_Gaussian_fullrank(model, [model.X, model.Y], entropy="sticking_the_landing")
    inference = infer(model, [model.X, model.Y], posterior, **data)
    assert_same_gaussian(learned(inference, posterior, model.w), exact)
    assert -last_losses(inference) == pytest.approx(log_evidence, abs=0.01)


@pytest.mark.parametrize(
    ("dim", "loop", "dtype"),
    [(100, CompiledLoop, "float32"), (100, CompiledLoop, "float64"), (60, BatchLoop, "float32")],
)
def test_many_coordinates_at_a_large_rate(dim, loop, dtype, rng):
    """An optimizer's random moves give the triangle an inverse that grows as a power of their number."""
    predictors = rng.normal(size=(dim + 50, dim)) / np.sqrt(dim)
    response = predictors @ rng.normal(size=dim) + 0.1 * rng.normal(size=dim + 50)
    precision = np.eye(dim) + predictors.T @ predictors / 0.01
    mean, sd = np.linalg.solve(precision, predictors.T @ response / 0.01), np.sqrt(np.diag(np.linalg.inv(precision)))
    marginal = predictors @ predictors.T + 0.01 * np.eye(dim + 50)
    log_evidence = stats.multivariate_normal.logpdf(response, np.zeros(dim + 50), marginal)
    model = Model()
    model.w = MultivariateNormal(0.0, 1.0, shape=(dim,), dtype=dtype)
    model.y = MultivariateNormal(linear(predictors, model.w, dtype=dtype), 0.01, shape=(dim + 50, 1), dtype=dtype)
    posterior = create_Gaussian_fullrank(model, [model.y], entropy="sticking_the_landing")
    algorithm = StochasticVariationalInference(10, model, posterior, [model.y])
    inference = GradBasedInference(algorithm, grad_loop=loop(), dtype=dtype)
    mx.random.seed(0)
    for rate in (0.05, 0.01, 0.002):
        record = inference.run(y=nd(response[:, None], dtype), learning_rate=rate, max_iter=300)
    learned_mean = inference.params[posterior.joint_0.factor.mean].asnumpy()
    assert (np.abs(learned_mean - mean) < 0.2 * sd).all()
    assert -1 < record.loss[-20:].mean() + log_evidence < 5


def test_full_rank_is_exact_for_a_mean_with_known_covariance(rng):
    prior, noise = oracles.random_spd(rng, (), 4, condition=10), oracles.random_spd(rng, (), 4, condition=50)
    data = rng.multivariate_normal([1.0, 0.0, -2.0, 0.5], noise, size=12)
    model = conjugate_model(prior, noise)
    posterior = create_Gaussian_fullrank(model, [model.X], entropy="sticking_the_landing")
    inference = infer(model, [model.X], posterior, X=nd(data))
    assert_same_gaussian(learned(inference, posterior, model.mu), exact_posterior(data, prior, noise))
    joint = np.kron(np.eye(12), noise) + np.kron(np.ones((12, 12)), prior)
    log_evidence = stats.multivariate_normal.logpdf(data.ravel(), np.zeros(48), joint)
    assert -last_losses(inference) == pytest.approx(log_evidence, abs=0.01)


def test_low_rank_is_exact_where_the_posterior_is_of_low_rank(rng):
    """Of six coordinates with two directions they share, in two variables."""
    loadings, variances = rng.normal(size=(6, 2)), rng.uniform(0.2, 2.0, size=6)
    cov, mean = loadings @ loadings.T + np.diag(variances), rng.normal(size=6)
    model = Model()
    model.a = MultivariateNormal(mean=nd(mean[:4]), covariance=nd(cov[:4, :4]), shape=(4,), dtype="float64")
    regression = cov[4:, :4] @ np.linalg.inv(cov[:4, :4])
    model.shift = linear(nd(regression), model.a)
    model.b = MultivariateNormal(
        mean=reshape(model.shift, (2,)),
        covariance=nd(cov[4:, 4:] - regression @ cov[:4, 4:]),
        shape=(2,),
        dtype="float64",
    )
    offset = mean[4:] - regression @ mean[:4]
    for rank in (2, 3):
        posterior = create_Gaussian_lowrank(model, [], rank=rank, entropy="sticking_the_landing")
        inference = infer(model, [], posterior, 10)
        assert_same_gaussian(learned(inference, posterior, model.a), (mean - np.append(np.zeros(4), offset), cov))
        assert last_losses(inference) == pytest.approx(0.0, abs=0.01)


def test_a_mean_field_has_the_variances_given_the_others(rng):
    """Its optimum for a Gaussian posterior; its bound is lower by what the correlations tell."""
    cov = TARGETS["full rank"]
    model, posterior = target("full rank", "closed_form")
    posterior = create_Gaussian_meanfield(model, [], entropy="sticking_the_landing")
    inference = infer(model, [], posterior, 400)
    mean, found = learned(inference, posterior, model.v)
    expected = 1 / np.diag(np.linalg.inv(cov))
    assert_close(mean, TARGET_MEAN, rtol=0.02)
    assert_close(found, np.apply_along_axis(np.diag, -1, expected), rtol=0.02)
    bound = 0.5 * (np.log(expected).sum() - np.linalg.slogdet(cov)[1])
    assert -last_losses(inference, 100) == pytest.approx(bound, abs=0.05)


def test_a_positive_variable_in_the_mean_field(rng):
    """Log v ~ N(m, s^2) is nearest to Gamma(a, b) with s^2 = 1/a and exp(m + s^2/2) = a/b."""
    model = Model()
    model.v = host.Gamma.define_variable(nd([3.0, 8.0]), nd([0.5, 2.0]), (2,), dtype="float64")
    posterior = create_Gaussian_meanfield(model, [], entropy="sticking_the_landing")
    inference = infer(model, [], posterior, 100)
    mean, cov = learned(inference, posterior, model.v)
    shape, rate = np.array([3.0, 8.0]), np.array([0.5, 2.0])
    assert_close(np.diag(cov), 1 / shape, rtol=0.05)
    assert_close(mean, np.log(shape / rate) - 0.5 / shape, rtol=0.02)


def test_float32_arrives_too(rng):
    model, data, exact, log_evidence = regression(rng, dtype="float32")
    posterior = create_Gaussian_fullrank(model, [model.X, model.Y], entropy="sticking_the_landing")
    inference = infer(model, [model.X, model.Y], posterior, dtype="float32", **data)
    assert inference.params[posterior.joint_0.factor.mean].dtype == np.float32
    assert_same_gaussian(learned(inference, posterior, model.w), exact)
    assert -last_losses(inference) == pytest.approx(log_evidence, abs=0.01)


@pytest.mark.parametrize("entropy", ENTROPIES)
@pytest.mark.parametrize("name", sorted(CREATE))
def test_they_can_be_compiled(name, entropy, rng):
    """With the same noise the compiled loop and one in Python have the same losses."""
    losses = []
    for loop in (BatchLoop(), CompiledLoop()):
        mx.random.seed(7)
        model = every_kind()
        algorithm = StochasticVariationalInference(3, model, CREATE[name](model, [], entropy=entropy), [])
        record = GradBasedInference(algorithm, grad_loop=loop, dtype="float64").run(learning_rate=0.01, max_iter=6)
        losses.append(record.loss)
    assert record.compiled
    assert_close(losses[1], losses[0], rtol=1e-9)


# Blocks, and what is left out


def chain(dtype="float64"):
    """Four variables in a row, each about the one before: all are correlated."""
    model = Model()
    model.a = MultivariateNormal(covariance=2.0, shape=(1,), dtype=dtype)
    model.b = MultivariateNormal(mean=model.a, covariance=0.5, shape=(1,), dtype=dtype)
    model.c = MultivariateNormal(mean=model.b, covariance=0.5, shape=(1,), dtype=dtype)
    model.d = MultivariateNormal(mean=model.c, covariance=0.5, shape=(1,), dtype=dtype)
    return model


CHAIN_PRECISION = np.array([[2.5, -2, 0, 0], [-2, 4, -2, 0], [0, -2, 4, -2], [0, 0, -2, 2]])


def test_blocks_are_independent_of_each_other(rng):
    """The covariance of a block is then the inverse of its part of the precision."""
    model = chain()
    posterior = create_Gaussian_fullrank(
        model, [], blocks=[[model.a, model.b], [model.d]], entropy="sticking_the_landing"
    )
    assert posterior.joint_0.shape == (2,)
    assert posterior.joint_1.shape == (1,)
    inference = infer(model, [], posterior, 200)
    for variable, index in ((model.a, [0, 1]), (model.d, [3]), (model.c, [2])):
        mean, cov = learned(inference, posterior, variable)
        expected = np.linalg.inv(CHAIN_PRECISION[np.ix_(index, index)])
        assert_close(mean, np.zeros(len(index)), rtol=0, atol=0.03)
        assert_close(cov, expected, rtol=0.03)


def test_a_posterior_without_blocks_is_a_mean_field(rng):
    model = chain()
    posterior = create_Gaussian_fullrank(model, [], blocks=[])
    assert {v.name for v in model.get_latent_variables([])} == {"a", "b", "c", "d"}
    assert all("below" not in dict(posterior[v].factor.inputs) for v in model.get_latent_variables([]))
    assert_close(infer(model, [], posterior, max_iter=2).params[posterior.c.factor.scale], [0.1], rtol=1)


def latent_pairs():
    """A common mean w, a latent z for each row about it, and x about z."""
    model = Model()
    model.N = Variable()
    model.w = MultivariateNormal(covariance=4.0, shape=(1,), dtype="float64")
    model.z = MultivariateNormal(mean=model.w, shape=(model.N, 1), dtype="float64")
    model.x = MultivariateNormal(mean=model.z, covariance=0.5, shape=(model.N, 1), dtype="float64")
    return model


def independent_optimum(x):
    """Of q(w) prod q(z_n): mean and variance of w, means and variance of the z_n."""
    precision = 0.25 + len(x)
    w, z = 0.0, x
    for _ in range(200):
        w = z.sum() / precision
        z = (w + 2 * x) / 3
    return w, 1 / precision, z, 1 / 3


def test_local_latent_variables_in_a_mean_field(rng):
    """Whose number only the data tell, beside a variable in a block."""
    x = 1 + 1.2 * rng.normal(size=9)
    model = latent_pairs()
    posterior = create_Gaussian_fullrank(model, [model.x], blocks=[[model.w]], entropy="sticking_the_landing")
    inference = infer(model, [model.x], posterior, 30, x=nd(x[:, None]))
    w, w_variance, z, z_variance = independent_optimum(x)
    mean, cov = learned(inference, posterior, model.w)
    assert_close(mean, [w], rtol=0.02)
    assert_close(cov, [[w_variance]], rtol=0.03)
    mean, cov = learned(inference, posterior, model.z)
    assert_close(mean, z[:, None], rtol=0, atol=0.03)
    assert_close(cov, np.full((9, 1, 1), z_variance), rtol=0.04)


# The host evaluates a function in a posterior twice, and says so at each step.
@pytest.mark.filterwarnings("ignore:Function evaluation in FactorGraph:UserWarning")
def test_an_amortised_posterior_of_the_users_own_in_minibatches(rng):
    """q(z | x) = N(slope x + offset, variance) beside a Gaussian of w, in the host's minibatch loop."""
    x = 1 + 1.2 * rng.normal(size=60)
    model = latent_pairs()
    posterior = create_Gaussian_fullrank(model, [model.x], excluded=[model.z], entropy="closed_form")
    assert [v.name for v in laws(posterior, [model.w])[0].latents] == ["w"]
    posterior.slope = Variable(shape=(1,), initial_value=nd([0.5]))
    posterior.offset = Variable(shape=(1,), initial_value=nd([0.5]))
    posterior.variance = Variable(shape=(1, 1), transformation=PositiveDefinite(), initial_value=nd([[0.5]]))
    posterior.predicted = add(linear(posterior.x, posterior.slope), posterior.offset)
    posterior.z.set_prior(MultivariateNormal(mean=posterior.predicted, covariance=posterior.variance, dtype="float64"))
    loop = MinibatchInferenceLoop(batch_size=20, rv_scaling={model.x: 3.0, model.z: 3.0})
    algorithm = StochasticVariationalInference(10, model, posterior, [model.x])
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype="float64")
    for rate in (0.05, 0.01):
        inference.run(x=nd(x[:, None]), learning_rate=rate, max_iter=30)
    w, w_variance, _, z_variance = independent_optimum(x)
    mean, cov = learned(inference, posterior, model.w)
    assert_close(mean, [w], rtol=0, atol=0.1)
    assert_close(cov, [[w_variance]], rtol=0.2)
    assert_close(inference.params[posterior.slope], [2 / 3], rtol=0.1)
    assert_close(inference.params[posterior.offset], [w / 3], rtol=0, atol=0.1)
    assert_close(inference.params[posterior.variance], [[z_variance]], rtol=0.2)


# Prediction by the host


def correlated_pair(dtype="float64"):
    """Two variables, one of them positive, a function of both, and data about that."""
    model = Model()
    model.a = MultivariateNormal(shape=(1,), dtype=dtype)
    model.b = host.Gamma.define_variable(nd([2.0], dtype), nd([1.0], dtype), (1,), dtype=dtype)
    model.total = model.a + model.b
    model.x = MultivariateNormal(mean=model.total, covariance=0.01, shape=(1,), dtype=dtype)
    return model


def initialised(model, posterior, observed, values, dtype="float64", num_samples=2):
    """An inference with given parameters of the joint Gaussian."""
    algorithm = StochasticVariationalInference(num_samples, model, posterior, observed)
    inference = GradBasedInference(algorithm, grad_loop=BatchLoop(), dtype=dtype)
    inference.initialize(**{v.name: v.shape for v in observed})
    for name, value in values.items():
        inference.params[getattr(posterior.joint_0.factor, name)] = nd(value, dtype)
    return inference


PAIR = {"mean": [0.3, -0.2], "scale": [1.0, 0.4], "below": [-2.0]}


def test_predictions_keep_the_correlation(dtype, rng):
    """Between latent variables, in a function of both, and in data about that; several predictions in a row."""
    model = correlated_pair(dtype)
    posterior = create_Gaussian_fullrank(model, [model.x])
    inference = initialised(model, posterior, [model.x], PAIR, dtype)
    for _ in range(3):
        predict = VariationalPosteriorForwardSampling(
            5000, [], inference, target_variables=[model.a, model.b, model.total, model.x], dtype=dtype
        )
        a, b, total, x = (array.asnumpy()[:, 0] for array in predict.run())
        assert a.dtype == np.dtype(dtype)
        assert_close(total, a + b, rtol=1e-5)
        moments = np.cov(a, np.log(b))
        assert_close(moments, [[1.0, -0.8], [-0.8, 0.8]], rtol=0.1)
        assert np.var(x - total) == pytest.approx(0.01, rel=0.1)
        assert np.var(total) < 0.8 * (np.var(a) + np.var(b))
    again = inference.run(x=nd([0.5], dtype), max_iter=5)  # predictions leave the inference as it was
    assert np.isfinite(again.loss).all()


def test_functions_of_joint_draws_can_be_compiled(rng):
    """The host evaluates them sample by sample; the samples share their parts of the joint variable."""
    model = correlated_pair()
    posterior = create_Gaussian_fullrank(model, [model.x])
    inference = infer(model, [model.x], posterior, 2, max_iter=5, x=nd([0.5]))
    assert inference._grad_loop.record.compiled


def test_predictions_at_new_predictors(rng):
    """The rows of a prediction share the draw of the weights: their covariance is that of the exact predictive law."""
    model, data, (mean, cov), _ = regression(rng, dim=3)
    posterior = create_Gaussian_fullrank(model, [model.X, model.Y])
    root = np.linalg.cholesky(cov)
    scale = np.diag(root)
    algorithm = StochasticVariationalInference(2, model, posterior, [model.X, model.Y])
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize(**data)
    below = (root / scale[:, None])[np.tril_indices(3, -1)]
    for name, value in {"mean": mean, "scale": scale, "below": below}.items():
        inference.params[getattr(posterior.joint_0.factor, name)] = nd(value)
    new = 3 * rng.normal(size=(2, 3))
    predict = VariationalPosteriorForwardSampling(
        20000, [model.X], inference, target_variables=[model.Y], dtype="float64"
    )
    draws = predict.run(X=nd(new))[0].asnumpy()
    assert draws.shape == (20000, 2, 1)
    assert_moments(draws[:, :, 0], new @ mean, new @ cov @ new.T + 0.49 * np.eye(2))


def test_predictions_of_a_model_with_every_kind_of_variable(rng):
    """The draws that the host makes for prediction are those of the posterior, each in its own space."""
    model = every_kind()
    for name in sorted(CREATE):
        posterior = CREATE[name](model, [])
        algorithm = StochasticVariationalInference(2, model, posterior, [])
        inference = GradBasedInference(algorithm, dtype="float64")
        inference.initialize()
        latent = model.get_latent_variables([])
        predict = VariationalPosteriorForwardSampling(3, [], inference, target_variables=latent, dtype="float64")
        mx.random.seed(3)
        drawn = dict(zip([v.name for v in latent], predict.run()))
        assert all(drawn[v.name].shape == (3,) + v.shape for v in latent)
        assert (drawn["rate"].asnumpy() > 0).all()
        assert_close(drawn["shares"].asnumpy().sum(axis=-1), np.ones((3, 1)), rtol=1e-12)
        assert_close(np.square(drawn["factor"].asnumpy()).sum(axis=-1), np.ones((3, 3)), rtol=1e-12)
        assert (np.linalg.eigvalsh(drawn["covariances"].asnumpy()) > 0).all()


def test_a_latent_variable_without_a_name(rng):
    model = Model()
    model.x = MultivariateNormal(mean=MultivariateNormal(shape=(2,), dtype="float64"), shape=(2,), dtype="float64")
    posterior = create_Gaussian_fullrank(model, [model.x], entropy="sticking_the_landing")
    (latent,) = model.get_latent_variables([model.x.uuid])
    inference = infer(model, [model.x], posterior, x=nd([1.0, -2.0]))
    assert_same_gaussian(learned(inference, posterior, latent), (np.array([0.5, -1.0]), 0.5 * np.eye(2)))


# The Gaussian in unconstrained coordinates


@pytest.mark.parametrize("name", sorted(CREATE))
def test_the_gaussian_of_each_block_and_of_each_variable_in_none(name, dtype, rng):
    """Its mean and covariance are those of the parameters."""
    model = every_kind(dtype)
    posterior = CREATE[name](model, [])
    inference = GradBasedInference(StochasticVariationalInference(2, model, posterior, []), dtype=dtype)
    inference.initialize()
    values = random_parameters(posterior, rng)
    for parameter in posterior.get_parameters(excluded=set()):
        inference.params[parameter] = nd(values[parameter.uuid], dtype)
    for law in laws(posterior, model.get_latent_variables([])):
        joint = dict(posterior[law.latents[0]].factor.inputs).get("joint")
        block = law.latents[0] if joint is None else int(joint.name[len("joint_") :])
        found = unconstrained_gaussian(inference, block)
        mean, cov = covariance(values, law.factor)
        assert_close(found.mean, mean, rtol=1e-6)
        rounding = {"float32": 1e-5, "float64": 1e-10}[dtype]
        got = found.covariance.asnumpy()
        assert_close(got, np.broadcast_to(cov, got.shape), rtol=rounding, atol=rounding)


def test_what_has_no_gaussian_of_its_own_is_refused():
    model = every_kind()
    posterior = create_Gaussian_fullrank(model, [])
    inference = GradBasedInference(StochasticVariationalInference(2, model, posterior, []), dtype="float64")
    with pytest.raises(
        InferenceError, match=r"`inference`: got one without values; expected a finished one\. Call its"
    ):
        unconstrained_gaussian(inference)
    inference.initialize()
    for block in (1, model.mean):
        with pytest.raises(InferenceError, match=r"`block`: got .*, for which the posterior has no Gaussian; expected"):
            unconstrained_gaussian(inference, block)


# Files


@pytest.mark.parametrize("name", sorted(CREATE))
def test_save_and_load_are_bit_identical(name, rng, tmp_path):
    def inference():
        model = every_kind()
        posterior = CREATE[name](model, [])
        algorithm = StochasticVariationalInference(2, model, posterior, [])
        return GradBasedInference(algorithm, dtype="float64"), model, posterior

    trained, model, posterior = inference()
    trained.run(learning_rate=0.05, max_iter=3)
    path = str(tmp_path / "inference")
    trained.save(path)
    loaded, again, posterior_again = inference()
    loaded.initialize()
    loaded.load(path)
    for variable in model.get_latent_variables([]):
        factor = law_of(posterior, variable)[0]
        copied = law_of(posterior_again, getattr(again, variable.name))[0]
        for (_, before), (_, after) in zip(factor.inputs, copied.inputs):
            np.testing.assert_array_equal(trained.params[before].asnumpy(), loaded.params[after].asnumpy())


# What is refused


def two_sizes():
    model = latent_pairs()
    model.y = MultivariateNormal(shape=(3,), dtype="float64")
    return model


REFUSED = [
    (
        lambda m: create_Gaussian_meanfield(m, [m.x], entropy="exact"),
        r"`entropy`: got 'exact'; expected one of sampled, clo",
    ),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x]),
        r"`z`: got shape \(N, 1\), a size that only the data will tell; expect",
    ),
    (lambda m: create_Gaussian_lowrank(m, [m.x], blocks=[[m.z]]), r"`z`: got shape .*name the others in blocks="),
    (lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[m.w, m.y]), r"`blocks`: got .*w.*; expected a list of lists"),
    (lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[]]), r"`blocks`: got \[\]; expected a list of lists of Var"),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[m.w], [m.y, m.w]]),
        r"`blocks`: got .*w.*, twice; expected ea",
    ),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[m.x]]),
        r"`blocks`: got .*x.*, which is not a latent variable",
    ),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[m.y, m.z]], excluded=[m.y]),
        r"`blocks`: got .*y.*, which is n",
    ),
    (
        lambda m: create_Gaussian_lowrank(m, [m.x], rank=0),
        r"`rank`: got 0; expected a positive integer or None\. Start",
    ),
    (lambda m: create_Gaussian_lowrank(m, [m.x], rank=1.5), r"`rank`: got 1\.5; expected a positive integer"),
    (
        lambda m: create_Gaussian_meanfield(m, [m.x], initial_scale=0.0),
        r"`initial_scale`: got 0\.0; expected a positive",
    ),
]


@pytest.mark.parametrize(("create", "message"), REFUSED)
def test_refused(create, message):
    with pytest.raises(ModelSpecificationError, match=message):
        create(two_sizes())


@pytest.mark.parametrize("create", [create_Gaussian_fullrank, create_Gaussian_lowrank, create_Gaussian_meanfield])
def test_a_model_without_latent_variables(create, rng):
    """Its parameters alone are learned, as with the host's mean field."""
    model = Model()
    model.mean = Variable(shape=(2,))
    model.x = MultivariateNormal(mean=model.mean, shape=(2,), dtype="float64")
    inference = infer(model, [model.x], create(model, [model.x]), x=nd([1.0, -2.0]))
    assert_close(inference.params[model.mean], [1.0, -2.0], rtol=0, atol=0.01)


def test_a_law_has_one_root():
    sizes = {"mean": Variable(shape=(2,)), "scale": Variable(shape=(2,))}
    with pytest.raises(ModelSpecificationError, match=r"`below` and `factor`: got both; expected at most one"):
        TransformedGaussian(below=Variable(shape=(1,)), factor=Variable(shape=(2, 1)), **sizes)
    with pytest.raises(ModelSpecificationError, match=r"`bijection`: got 'log' as its support; expected a Bijection"):
        TransformedGaussian(bijection="log", **sizes)


def test_ranks_are_at_most_the_number_of_coordinates():
    model = every_kind()
    sizes = [b.raw_shape(v.shape) for v, b in latent_variables(model, []).items()]
    count = sum(int(np.prod(shape)) for shape in sizes)
    for rank, expected in ((None, int(np.ceil(np.sqrt(count)))), (2, 2), (np.int64(3), 3), (count + 3, count)):
        posterior = create_Gaussian_lowrank(model, [], rank=rank)
        assert posterior.joint_0.factor.factor.shape == (count, expected)
    alone = Model()
    alone.v = MultivariateNormal(shape=(1,))
    assert "factor" not in dict(create_Gaussian_lowrank(alone, []).joint_0.factor.inputs)


def test_the_initial_scale(rng):
    model = every_kind()
    posterior = create_Gaussian_fullrank(model, [], initial_scale=0.03)
    inference = GradBasedInference(StochasticVariationalInference(1, model, posterior, []), dtype="float64")
    inference.initialize()
    mean, cov = learned(inference, posterior, model.mean)
    assert_close(cov, 0.03**2 * np.eye(len(mean)), rtol=1e-10, atol=1e-14)
