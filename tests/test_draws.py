# SPDX-License-Identifier: Apache-2.0
"""Draws and densities of a finished inference, in the library's dicts by uuid."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import BatchLoop, create_Gaussian_fullrank
from mxfusion_mvn.inference.results import draws
from mxfusion_mvn.inference.results.draws import FinishedInference
from mxfusion_mvn.inference.results.host_draws import draw

import mxfusion.inference as host_inference
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components import distributions as host
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.components.functions.operators import dot
from mxfusion.inference import GradBasedInference, MinibatchInferenceLoop, StochasticVariationalInference
from mxfusion.models import Posterior
from scipy.stats import beta, gamma, multivariate_normal, norm

from helpers import oracles
from helpers.conjugate import assert_moments, exact_inference
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close


def initialised(model, observed, shapes, num_samples=2):
    posterior = create_Gaussian_fullrank(model, observed, dtype="float64", initial_scale=0.5)
    algorithm = StochasticVariationalInference(num_samples, model, posterior, observed)
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize(**shapes)
    return inference


def regression_model():
    """Y ~ N(X w, s), in which neither the prior of w nor s has as many axes as what it is broadcast to."""
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 2))
    model.w = host.Normal.define_variable(mean=nd([1.0]), variance=nd([4.0]), shape=(2, 1), dtype="float64")
    model.s = host.Gamma.define_variable(alpha=nd([3.0]), beta=nd([2.0]), shape=(1,), dtype="float64")
    model.Y = host.Normal.define_variable(
        mean=dot(model.X, model.w), variance=model.s, shape=(model.N, 1), dtype="float64"
    )
    return model


@pytest.mark.parametrize("num_samples", [1, 7, 130])
def test_log_densities_are_those_of_scipy_draw_by_draw(rng, num_samples):
    # 7 rows and 7 draws: the host's alignment from the right would go unnoticed.
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(7, 1))
    model = regression_model()
    inference = initialised(model, [model.X, model.Y], {"X": (7, 2), "Y": (7, 1)})
    finished = FinishedInference(inference, X=x, Y=y)
    w, s = rng.normal(size=(num_samples, 2, 1)), rng.gamma(3.0, size=(num_samples, 1))
    terms = finished.log_pdf(model, {model.w.uuid: w, model.s.uuid: s}, num_samples)
    assert_close(terms[model.Y.uuid], norm.logpdf(y, x @ w, np.sqrt(s[:, None])), **TOLERANCE["float64"])
    assert_close(terms[model.w.uuid], norm.logpdf(w, 1.0, 2.0), **TOLERANCE["float64"])
    assert_close(terms[model.s.uuid], gamma.logpdf(s, 3.0, scale=0.5), **TOLERANCE["float64"])


class Scale(mx.gluon.HybridBlock):
    """Rows times one vector; of many samples at once, aligned from the right, other rows times other vectors."""

    def hybrid_forward(self, F, rows, vector):
        return F.broadcast_mul(rows, vector)


def test_a_function_that_takes_all_samples_at_once_is_given_them_one_by_one(rng):
    size = 7
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 2))
    model.w = MultivariateNormal(covariance=np.eye(2), shape=(2,), dtype="float64")
    scale = MXFusionGluonFunction(Scale(), num_outputs=1, broadcastable=True)
    model.Y = MultivariateNormal(mean=scale(model.X, model.w), shape=(model.N, 2), dtype="float64")
    x, y, w = rng.normal(size=(3, size, 2))
    finished = FinishedInference(initialised(model, [model.X, model.Y], {"X": (size, 2), "Y": (size, 2)}), X=x, Y=y)
    terms = finished.log_pdf(model, {model.w.uuid: w}, size)[model.Y.uuid]
    assert_close(terms, oracles.log_pdf(y, x * w[:, None], np.eye(2)), **TOLERANCE["float64"])


def test_a_mean_for_each_draw_is_not_taken_for_one_of_each_row(rng):
    size = 6
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=np.eye(3), shape=(3,), dtype="float64")
    model.X = host.Normal.define_variable(mean=model.mu, variance=nd([2.0]), shape=(model.N, 3), dtype="float64")
    x, mu = rng.normal(size=(size, 3)), rng.normal(size=(size, 3))
    finished = FinishedInference(initialised(model, [model.X], {"X": (size, 3)}), X=x)
    terms = finished.log_pdf(model, {model.mu.uuid: mu}, size)
    expected = norm.logpdf(x, mu[:, None], np.sqrt(2.0))
    assert_close(terms[model.X.uuid], expected, **TOLERANCE["float64"])
    drawn = finished.draw_model({model.mu.uuid: 1e6 * mu}, size)[model.X.uuid]
    assert_close(drawn / 1e6, np.broadcast_to(mu[:, None], (size, size, 3)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("most", "sizes"), [(60, [10, 4, 4, 4, 3]), (5, [10] + [1] * 15), (2**20, [10, 15])])
def test_as_many_draws_are_evaluated_at_once_as_keep_arrays_small(rng, monkeypatch, most, sizes):
    """The largest array of a draw is the design of 14 entries; the values are the same however many go together."""
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(7, 1))
    model = regression_model()
    inference = initialised(model, [model.X, model.Y], {"X": (7, 2), "Y": (7, 1)})
    finished = FinishedInference(inference, X=x, Y=y)
    found, terms_of = [], draws.log_pdf_terms

    def counted(graph, variables):
        found.append(variables[model.w.uuid].shape[0])
        return terms_of(graph, variables)

    monkeypatch.setattr(draws, "log_pdf_terms", counted)
    monkeypatch.setattr(draws, "_MOST_ENTRIES", most)
    w, s = rng.normal(size=(25, 2, 1)), rng.gamma(3.0, size=(25, 1))
    terms = finished.log_pdf(model, {model.w.uuid: w, model.s.uuid: s}, 25)
    assert found == sizes
    assert_close(terms[model.Y.uuid], norm.logpdf(y, x @ w, np.sqrt(s[:, None])), **TOLERANCE["float64"])


def test_large_outputs_of_functions_count(rng, monkeypatch):
    """A column of 40 predictions is larger than data, weights and scale."""
    model = Model()
    model.w = host.Normal.define_variable(mean=nd([1.0]), variance=nd([4.0]), shape=(1,), dtype="float64")
    model.f = linear(np.ones((40, 1)), model.w, dtype="float64")
    model.y = MultivariateNormal(mean=model.w, shape=(1,), dtype="float64")
    inference = initialised(model, [model.y], {"y": (1,)})
    finished = FinishedInference(inference, y=np.ones(1))
    found, draw_all = [], draws._draw

    def counted(graph, variables, num_samples):
        found.append(num_samples)
        return draw_all(graph, variables, num_samples)

    monkeypatch.setattr(draws, "_draw", counted)
    monkeypatch.setattr(draws, "_MOST_ENTRIES", 200)
    assert finished.draw_model({}, 22)[model.w.uuid].shape == (22, 1)
    assert found == [10, 5, 5, 2]


def test_posterior_draws_have_the_exact_moments(rng, dtype):
    exact = exact_inference(rng, dtype=dtype)
    finished = FinishedInference(exact.inference)
    draws = finished.draw_posterior(20000)[finished.latents[0].uuid]
    assert draws.dtype == dtype
    assert_moments(draws, exact.mean, exact.posterior)


def test_draws_in_parts_are_independent(rng):
    finished = FinishedInference(exact_inference(rng).inference)
    draws = finished.draw_posterior(250)[finished.latents[0].uuid]
    assert draws.shape == (250, 2)
    assert len(np.unique(draws)) == 500


def test_predictive_draws_have_the_exact_moments(rng):
    exact = exact_inference(rng)
    finished = FinishedInference(exact.inference, X=exact.data)
    mu, x = finished.latents[0], finished.observed[0]
    posterior = finished.draw_posterior(20000)
    predicted = finished.draw_model(posterior, 20000)
    assert list(predicted) == [x.uuid]
    assert predicted[x.uuid].shape == (20000,) + exact.data.shape
    assert_moments(predicted[x.uuid][:, 3], exact.mean, exact.posterior + exact.covariance)
    prior = finished.draw_model({}, 20000)
    assert_moments(prior[mu.uuid], [0, 0], exact.prior)
    assert_moments(prior[x.uuid][:, 3], [0, 0], exact.prior + exact.covariance)
    # Rows share their mean.
    cross = np.cov(prior[x.uuid][:, 3].T, prior[x.uuid][:, 4].T)[:2, 2:]
    assert_close(cross, exact.prior, rtol=0, atol=0.15)


def test_densities_of_the_posterior_are_those_of_scipy(rng):
    exact = exact_inference(rng)
    finished = FinishedInference(exact.inference, X=exact.data)
    draws = finished.draw_posterior(5)
    (terms,) = finished.log_pdf(finished.posterior, draws, 5).values()
    value = draws[finished.latents[0].uuid]
    assert_close(terms, multivariate_normal.logpdf(value, exact.mean, exact.posterior), **TOLERANCE["float64"])


def test_a_model_without_latent_variables_has_the_same_terms_for_all_draws(rng):
    model = Model()
    model.mu = Variable(shape=(2,), initial_value=nd([1.0, 2.0]))
    model.X = MultivariateNormal(mean=model.mu, shape=(4, 2), dtype="float64")
    x = rng.normal(size=(4, 2))
    inference = GradBasedInference(host_inference.MAP(model, [model.X]), dtype="float64")
    inference.initialize(X=(4, 2))
    finished = FinishedInference(inference, X=x)
    terms = finished.log_pdf(model, finished.draw_posterior(3), 3)[model.X.uuid]
    expected = oracles.log_pdf(x, np.array([1.0, 2.0]), np.eye(2))
    assert_close(terms, np.tile(expected, (3, 1)), **TOLERANCE["float64"])


def test_a_loop_over_minibatches_scales_no_term_and_is_left_as_it_was(rng):
    exact = exact_inference(rng)
    model = exact.inference.inference_algorithm.model
    loop = MinibatchInferenceLoop(batch_size=4, rv_scaling={model.X: 3.0})
    inference = GradBasedInference(exact.inference.inference_algorithm, grad_loop=loop, dtype="float64")
    inference.run(X=nd(exact.data), max_iter=1)
    finished = FinishedInference(inference, X=exact.data)
    mu = rng.normal(size=(2, 2))
    terms = finished.log_pdf(model, {model.mu.uuid: mu}, 2)[model.X.uuid]
    assert_close(terms, oracles.log_pdf(exact.data, mu[:, None], exact.covariance), **TOLERANCE["float64"])
    assert model.X.factor.log_pdf_scaling == 3.0
    # The host's N is the size of the last batch; predictions are for all rows.
    assert finished.draw_model({}, 2)[model.X.uuid].shape == (2, 12, 2)


def test_the_data_of_the_last_run_is_taken_from_a_loop_that_keeps_it(rng):
    exact = exact_inference(rng, grad_loop=BatchLoop())
    assert FinishedInference(exact.inference).data == {}
    exact.inference.run(X=nd(exact.data), max_iter=1)
    (array,) = FinishedInference(exact.inference).data.values()
    assert_close(array, exact.data, rtol=0)
    (array,) = FinishedInference(exact.inference, X=exact.data[:3]).data.values()
    assert array.shape == (3, 2)


def test_a_posterior_that_depends_on_data_needs_it(rng):
    """q(z_n | x_n) = N(slope x_n, 0.5)."""
    model = Model()
    model.N = Variable()
    model.z = MultivariateNormal(shape=(model.N, 1), dtype="float64")
    model.x = MultivariateNormal(mean=model.z, shape=(model.N, 1), dtype="float64")
    posterior = Posterior(model)
    posterior.slope = Variable(shape=(1,), initial_value=nd([3.0]))
    predicted = linear(posterior.x, posterior.slope)
    posterior.z.set_prior(MultivariateNormal(mean=predicted, covariance=0.5, dtype="float64"))
    algorithm = StochasticVariationalInference(2, model, posterior, [model.x])
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize(x=(4, 1))
    x = np.array([[-1.0], [0.0], [2.0], [5.0]])
    draws = FinishedInference(inference, x=x).draw_posterior(20000)[model.z.uuid]
    assert_moments(draws[..., 0], 3 * x[:, 0], 0.5 * np.eye(4))
    with pytest.raises(InferenceError, match=r"`data`: got none; expected x, which the posterior depends on\. Pass"):
        FinishedInference(inference).draw_posterior(2)


def test_data_that_does_not_fit_is_refused(rng):
    exact = exact_inference(rng)
    with pytest.raises(InferenceError, match="`data`: got Z; expected the observed variables X"):
        FinishedInference(exact.inference, Z=exact.data)
    with pytest.raises(InferenceError, match=r"`X`: got shape \(12, 1\); expected \(N, 2\)"):
        FinishedInference(exact.inference, X=exact.data[:, :1])


def factor_of(variable):
    model = Model()
    model.y = variable
    return model.y.factor


def constants_of(factor):
    return {variable.uuid: variable.constant.expand_dims(0) for _, variable in factor.inputs}


PROBABILITY = np.array([0.1, 0.6, 0.3])
ONE_HOT_COVARIANCE = np.diag(PROBABILITY) - np.outer(PROBABILITY, PROBABILITY)
PRECISION = np.array([[2.0, 0.5], [0.5, 1.0]])
SHARES = np.array([1.0, 2.0, 3.0]) / 6  # the mean of a Dirichlet(1, 2, 3)

# Where the host draws from another law than that of its log_pdf; each for two entries or a vector, and their moments.
WRONG_IN_THE_HOST = {
    "Bernoulli": (lambda: host.Bernoulli.define_variable(nd([0.2]), shape=(2,)), [0.2] * 2, 0.16 * np.eye(2)),
    "Beta": (
        lambda: host.Beta.define_variable(nd([3.0]), nd([2.0]), shape=(2,)),
        [beta.mean(3, 2)] * 2,
        beta.var(3, 2) * np.eye(2),
    ),
    "Categorical": (
        lambda: host.Categorical.define_variable(
            nd(np.log(PROBABILITY)), num_classes=3, one_hot_encoding=True, normalization=False, shape=(3,)
        ),
        PROBABILITY,
        ONE_HOT_COVARIANCE,
    ),
    "Categorical, normalised": (
        lambda: host.Categorical.define_variable(
            nd(2 + np.log(PROBABILITY)), num_classes=3, one_hot_encoding=True, shape=(3,)
        ),
        PROBABILITY,
        ONE_HOT_COVARIANCE,
    ),
    "Categorical, numbers": (
        lambda: host.Categorical.define_variable(nd(np.log(PROBABILITY)), num_classes=3, shape=(1,)),
        [1.2],
        [[0.6 + 4 * 0.3 - 1.2**2]],
    ),
    "Dirichlet": (
        lambda: host.Dirichlet.define_variable(nd([1.0, 2.0, 3.0]), shape=(3,)),
        SHARES,
        (np.diag(SHARES) - np.outer(SHARES, SHARES)) / (6 + 1),
    ),
    "Gamma": (
        lambda: host.Gamma.define_variable(nd([3.0]), nd([2.0]), shape=(2,)),
        [1.5] * 2,
        0.75 * np.eye(2),
    ),
    "GammaMeanVariance": (
        lambda: host.GammaMeanVariance.define_variable(nd([3.0]), nd([2.0]), shape=(2,)),
        [3.0] * 2,
        2.0 * np.eye(2),
    ),
    "MultivariateNormalMeanPrecision": (
        lambda: host.MultivariateNormalMeanPrecision.define_variable(
            mean=nd([1.0, 2.0]), precision=nd(PRECISION), shape=(2,)
        ),
        [1.0, 2.0],
        np.linalg.inv(PRECISION),
    ),
}


@pytest.mark.parametrize("name", sorted(WRONG_IN_THE_HOST))
def test_draws_that_are_wrong_in_the_host_have_the_right_moments(rng, name):
    define, mean, covariance = WRONG_IN_THE_HOST[name]
    factor = factor_of(define())
    drawn = draw(factor, constants_of(factor), 20000).asnumpy()
    assert drawn.shape == (20000, len(mean))
    # A Gaussian's errors of a covariance are too small for skewed laws, hence more of them.
    covariance = np.asarray(covariance)
    assert_moments(drawn, mean, covariance, errors=8.0)


def test_rows_of_a_dirichlet_each_sum_to_one(rng):
    factor = factor_of(host.Dirichlet.define_variable(nd([1.0, 2.0, 3.0]), shape=(4, 3)))
    drawn = draw(factor, constants_of(factor), 5).asnumpy()
    assert_close(drawn.sum(axis=-1), np.ones((5, 4)), rtol=1e-12)


def test_parameters_with_samples_are_aligned_after_the_samples(rng):
    factor = factor_of(host.Gamma.define_variable(nd([1.0]), nd([1.0]), shape=(4, 3), dtype="float64"))
    (_, alpha), (_, rate) = factor.inputs
    rates = np.arange(1, 5)[:, None] * 1e8  # with alpha = 1e16, nearly constant
    drawn = draw(factor, {alpha.uuid: nd([[1e16]]), rate.uuid: nd(rates)}, 4).asnumpy()
    assert_close(drawn, np.broadcast_to(1e8 / np.arange(1, 5)[:, None, None], (4, 4, 3)), rtol=1e-6)
