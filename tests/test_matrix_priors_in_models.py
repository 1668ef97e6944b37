# SPDX-License-Identifier: Apache-2.0
"""Wishart, inverse Wishart and LKJ priors in models: MAP and variational inference reach what is known exactly."""

import copy
import pickle

from mxfusion_mvn import InverseWishart, LKJCholesky, MultivariateNormal, NotPositiveDefiniteError, Wishart
from mxfusion_mvn.inference import CompiledLoop
from mxfusion_mvn.transformations import CorrelationCholesky, LowerCholesky, Positive, PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import MAP, GradBasedInference, Inference, StochasticVariationalInference
from mxfusion.inference.forward_sampling import ForwardSamplingAlgorithm
from mxfusion.models import Posterior
from scipy import stats
from scipy.optimize import minimize_scalar

from helpers import oracles
from helpers.fitting import fit_at_rates
from helpers.host import declare, nd
from helpers.matrix_prior_cases import CASES, lkj_log_pdf, make, spd, square
from helpers.tolerances import assert_close


@pytest.mark.parametrize("copied", [lambda m: m.clone(), copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", CASES)
def test_copies_have_the_same_density(name, copied, rng):
    case = CASES[name]
    arrays = make(rng, case, (2, 3), 2, [(False, False)] * len(case.parameters) + [(True, True)])
    model = declare(case.distribution, (3, 2, 2), **{k: arrays[k].shape[1:] for k in case.parameters})
    twin = copied(model)
    values = []
    for each in (model, twin):
        variables = {getattr(each, key).uuid: nd(arrays[key]) for key in case.parameters}
        variables[each.X.uuid] = nd(arrays["random_variable"])
        values.append(each.X.factor.log_pdf(mx.nd, variables))
        with mx.autograd.record():
            each.X.factor.draw_samples(mx.nd, variables, num_samples=2)
    assert_close(values[1], values[0].asnumpy(), rtol=0)


@pytest.mark.parametrize("name", ["Wishart", "inverse Wishart"])
def test_a_number_is_a_multiple_of_the_identity(name, rng):
    case = CASES[name]
    value = spd(rng, (1, 4), 3)
    results = []
    for scale in (2.0, 2 * np.eye(3)):
        model = Model()
        model.X = case.distribution.define_variable((4, 3, 3), 5.0, scale, dtype="float64")
        variables = {variable.uuid: variable.constant.expand_dims(0) for variable in model.get_constants()}
        mx.random.seed(1)
        draw = model.X.factor.draw_samples(mx.nd, variables, num_samples=2)
        results.append((model.X.factor.log_pdf(mx.nd, {**variables, model.X.uuid: nd(value)}), draw))
    assert_close(results[0][0], results[1][0].asnumpy(), rtol=1e-14)
    assert_close(results[0][1], results[1][1].asnumpy(), rtol=1e-12)


def in_support(inference, variable, transformation, initial):
    """Keep the point estimate of a variable in its support; the host starts it anywhere."""
    location = inference.inference_algorithm.posterior[variable].factor.location
    location._transformation = transformation
    location._initial_value = nd(initial)
    return inference


ROWS, DIM = 30, 3
BUDGET = (0.2, 0.05, 0.01, 0.002), 50  # rates, and iterations at each
PRIORS = {  # prior, the form in which the likelihood takes it, and the mode of its law by degrees of freedom and scale
    "Wishart": (Wishart, "precision", lambda nu, scale: (nu - DIM - 1) * scale),
    "inverse Wishart": (InverseWishart, "covariance", lambda nu, scale: scale / (nu + DIM + 1)),
}


def conjugate(name, rng):
    """A model of centred data with its prior, the data, and degrees of freedom and scale of the exact posterior."""
    prior, form, _ = PRIORS[name]
    scale = oracles.random_spd(rng, (), DIM, condition=5)
    model = Model()
    model.C = prior(6.0, nd(scale), shape=(DIM, DIM), dtype="float64")
    model.X = MultivariateNormal(**{form: model.C}, shape=(ROWS, DIM), dtype="float64")
    data = rng.multivariate_normal(np.zeros(DIM), oracles.random_spd(rng, (), DIM, condition=5), size=ROWS)
    updated = scale + data.T @ data
    if form == "precision":
        updated = np.linalg.inv(np.linalg.inv(scale) + data.T @ data)
    return model, data, 6.0 + ROWS, oracles.symmetric(updated)


@pytest.mark.parametrize("name", PRIORS)
def test_map_reaches_the_analytic_mode(name, rng, tmp_path):
    model, data, nu, scale = conjugate(name, rng)
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64")
    fit_at_rates(in_support(inference, model.C, PositiveDefinite(), np.eye(DIM)), nd(data), *BUDGET)
    location = inference.inference_algorithm.posterior.C.factor.location
    mode = PRIORS[name][2](nu, scale)
    assert_close(inference.params[location], mode, rtol=1e-4, atol=1e-4 * np.abs(mode).max())
    inference.save(str(tmp_path / "fit.zip"))
    twin = conjugate(name, np.random.default_rng(20240229))[0]
    loaded = GradBasedInference(MAP(twin, [twin.X]), dtype="float64")
    in_support(loaded, twin.C, PositiveDefinite(), np.eye(DIM)).initialize(X=data.shape)
    loaded.load(str(tmp_path / "fit.zip"))
    location = loaded.inference_algorithm.posterior.C.factor.location
    assert_close(loaded.params[location], inference_value(inference), rtol=1e-12)


def inference_value(inference):
    return inference.params[inference.inference_algorithm.posterior.C.factor.location].asnumpy()


def test_map_outside_the_support_is_reported(rng):
    """The host's own point estimate is not kept positive definite."""
    model, _, _, _ = conjugate("Wishart", rng)
    algorithm = MAP(model, [model.X])
    inference = GradBasedInference(algorithm, dtype="float64")
    in_support(inference, model.C, None, -np.eye(DIM)).initialize(X=(ROWS, DIM))
    with pytest.raises(NotPositiveDefiniteError, match="`random_variable` of variable `C` is not positive definite"):
        inference.create_executor()(mx.nd.zeros(1), mx.nd.zeros((ROWS, DIM), dtype="float64"))


def test_map_learns_the_degrees_of_freedom(rng):
    """By the density, which has their gradient; the oracle maximises SciPy's."""
    draws = stats.wishart.rvs(7.0, np.eye(2), size=300, random_state=1)
    model = Model()
    model.nu = Variable(shape=(1,), transformation=Positive(), initial_value=nd([3.0]))
    model.X = Wishart(model.nu, 1.0, shape=(300, 2, 2), dtype="float64")
    inference = fit_at_rates(
        GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64"), nd(draws), *BUDGET
    )

    def loss(nu):
        return -stats.wishart.logpdf(draws.transpose(1, 2, 0), nu, np.eye(2)).sum()

    best = minimize_scalar(loss, bounds=(2, 20), method="bounded", options={"xatol": 1e-8})
    assert_close(inference.params[model.nu], [best.x], rtol=1e-4)


def test_map_of_a_correlation_factor(rng):
    data = rng.multivariate_normal(np.zeros(2), [[1.0, 0.7], [0.7, 1.0]], size=40)
    model = Model()
    model.C = LKJCholesky(2.0, shape=(2, 2), dtype="float64")
    model.X = MultivariateNormal(scale_tril=model.C, shape=(40, 2), dtype="float64")
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64")
    fit_at_rates(in_support(inference, model.C, CorrelationCholesky(), np.eye(2)), nd(data), *BUDGET)

    def loss(r):
        lower = np.array([[1.0, 0.0], [r, np.sqrt(1 - r**2)]])
        return -lkj_log_pdf(lower, 2.0) - oracles.log_pdf(data, np.zeros(2), square(lower)).sum()

    best = minimize_scalar(loss, bounds=(-0.99, 0.99), method="bounded", options={"xatol": 1e-9}).x
    assert_close(inference_value(inference), [[1.0, 0.0], [best, np.sqrt(1 - best**2)]], rtol=0, atol=1e-4)


def variational(name, model, nu, initial, num_samples=4):
    """SVI with a posterior of the prior's kind, of which the factor of the scale is learned."""
    posterior = Posterior(model)
    factor = Variable(shape=(DIM, DIM), transformation=LowerCholesky(), initial_value=nd(initial))
    posterior.C.set_prior(PRIORS[name][0](nu, scale_tril=factor, dtype="float64"))
    algorithm = StochasticVariationalInference(num_samples, model, posterior, [model.X])
    return GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype="float64"), factor


def negative_bound(inference, data, seed=3):
    mx.random.seed(seed)
    executor = inference.create_executor()
    with mx.autograd.record():
        loss, _ = executor(mx.nd.zeros(1), nd(data))
    return loss


def log_evidence(name, model, data, nu, scale):
    """Prior times likelihood over posterior, at any one point."""
    law = {"Wishart": stats.wishart, "inverse Wishart": stats.invwishart}[name]
    point = np.eye(DIM)
    prior_scale = next(v.constant for v in model.get_constants() if v.shape == (DIM, DIM)).asnumpy()
    likelihood = stats.multivariate_normal.logpdf(data, np.zeros(DIM), point).sum()
    return likelihood + law.logpdf(point, 6.0, prior_scale) - law.logpdf(point, nu, scale)


@pytest.mark.parametrize("name", PRIORS)
def test_the_bound_at_the_exact_posterior_is_the_evidence(name, rng):
    """Whatever is drawn: prior times likelihood over posterior is constant there."""
    model, data, nu, scale = conjugate(name, rng)
    inference, _ = variational(name, model, nu, np.linalg.cholesky(scale))
    inference.initialize(X=nd(data))
    expected = log_evidence(name, model, data, nu, scale)
    for seed in range(3):
        assert_close(-negative_bound(inference, data, seed), [expected], rtol=1e-10)


@pytest.mark.parametrize("name", PRIORS)
def test_the_gradient_of_the_bound_equals_differences(name, rng):
    model, data, nu, scale = conjugate(name, rng)
    start = np.linalg.cholesky(1.5 * scale)
    inference, factor = variational(name, model, nu, start)
    inference.initialize(X=nd(data))
    raw = inference.params.param_dict[factor.uuid]
    negative_bound(inference, data).backward()
    got, at = raw.grad().asnumpy(), raw.data().asnumpy()

    def bound(value):
        raw.set_data(nd(value))
        return negative_bound(inference, data).asscalar()

    assert_close(got, oracles.central_difference(bound, at, step=1e-3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PRIORS)
def test_svi_finds_the_exact_posterior(name, rng):
    model, data, nu, scale = conjugate(name, rng)
    inference, factor = variational(name, model, nu, np.linalg.cholesky(1.5 * scale), num_samples=100)
    fit_at_rates(inference, nd(data), rates=(0.1, 0.03, 0.01), max_iter=50)
    fitted = square(inference.params[factor].asnumpy())
    assert_close(fitted, scale, rtol=0, atol=0.03 * np.abs(scale).max())


def test_svi_refuses_to_learn_the_degrees_of_freedom(rng):
    model, data, nu, scale = conjugate("Wishart", rng)
    learned = Variable(shape=(1,), transformation=Positive(), initial_value=nd([nu]))
    inference, _ = variational("Wishart", model, learned, np.linalg.cholesky(scale))
    with pytest.raises(InferenceError, match="`degrees_of_freedom` of variable `C`: its gradient was asked for"):
        inference.run(X=nd(data), max_iter=1)


def test_svi_draws_correlation_factors(rng):
    """Beside a latent correlation, of which the posterior is given, the mean is learned."""
    data = rng.multivariate_normal([1.0, -1.0], [[1.0, 0.5], [0.5, 1.0]], size=200)
    model = Model()
    model.mean = Variable(shape=(2,))
    model.C = LKJCholesky(1.0, shape=(2, 2), dtype="float64")
    model.X = MultivariateNormal(model.mean, scale_tril=model.C, shape=(200, 2), dtype="float64")
    posterior = Posterior(model)
    posterior.C.set_prior(LKJCholesky(5.0, dtype="float64"))
    algorithm = StochasticVariationalInference(5, model, posterior, [model.X])
    inference = fit_at_rates(
        GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype="float64"),
        nd(data),
        rates=(0.05, 0.01),
        max_iter=50,
    )
    assert_close(inference.params[model.mean], data.mean(0), rtol=0, atol=0.05)


def test_forward_sampling_of_a_hierarchy(rng):
    model = Model()
    model.C = InverseWishart(8.0, 5.0, shape=(2, 2))
    model.X = MultivariateNormal(covariance=model.C, shape=(4, 2))
    algorithm = ForwardSamplingAlgorithm(model=model, observed=[], num_samples=20000, target_variables=[model.X])
    (draws,) = Inference(algorithm).run()
    draws = draws.asnumpy()
    assert draws.shape == (20000, 4, 2)
    covariance = np.einsum("sni,snj->ij", draws, draws) / draws[..., 0].size
    assert_close(covariance, np.eye(2), rtol=0, atol=0.05)  # Psi / (nu - D - 1)
