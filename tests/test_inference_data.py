# SPDX-License-Identifier: Apache-2.0
"""Finished inferences in ArviZ, against closed forms."""

import sys
import warnings

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import MAP, BatchLoop, create_Gaussian_fullrank, to_arviz

import matplotlib
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import Normal
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.components.functions.operators import dot
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import MAP as HostMAP
from mxfusion.inference import GradBasedInference, StochasticVariationalInference
from mxfusion.modules.gp_modules import GPRegression

from helpers import oracles
from helpers.conjugate import assert_moments, conjugate_model, exact_inference, exact_posterior
from helpers.host import nd
from helpers.tolerances import TOLERANCE, assert_close

matplotlib.use("Agg")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its next release at import
    import arviz


def values(dataset, name):
    return dataset[name].values


def test_all_groups_are_there_with_the_names_of_the_model(rng):
    exact = exact_inference(rng)
    idata = to_arviz(exact.inference, 50, X=exact.data)
    assert sorted(idata.groups()) == [
        "log_likelihood",
        "observed_data",
        "posterior",
        "posterior_predictive",
        "prior",
        "prior_predictive",
        "sample_stats",
    ]
    axes = {
        "log_likelihood": ("chain", "draw", "N"),
        "observed_data": ("N", "X_dim_1"),
        "posterior_predictive": ("chain", "draw", "N", "X_dim_1"),
        "prior_predictive": ("chain", "draw", "N", "X_dim_1"),
    }
    assert {group: idata[group].X.dims for group in axes} == axes
    assert idata.posterior.mu.dims == idata.prior.mu.dims == ("chain", "draw", "mu_dim_0")
    assert idata.posterior.attrs["inference_library"] == "mxfusion_mvn"
    assert_close(values(idata.observed_data, "X"), exact.data, rtol=0)


def test_posterior_and_prior_have_the_exact_moments(rng):
    exact = exact_inference(rng)
    idata = to_arviz(exact.inference, 8000, X=exact.data)
    assert_moments(values(idata.posterior, "mu")[0], exact.mean, exact.posterior)
    assert_moments(values(idata.prior, "mu")[0], [0, 0], exact.prior)
    predicted = values(idata.posterior_predictive, "X")[0]
    assert_moments(predicted[:, 0], exact.mean, exact.posterior + exact.covariance)
    assert_moments(values(idata.prior_predictive, "X")[0, :, 0], [0, 0], exact.prior + exact.covariance)


@pytest.mark.parametrize("num_samples", [5, 12], ids=["S", "S = N"])
def test_densities_are_those_of_scipy(rng, num_samples):
    exact = exact_inference(rng)
    idata = to_arviz(exact.inference, num_samples, X=exact.data)
    mu = values(idata.posterior, "mu")[0]
    expected = oracles.log_pdf(exact.data, mu[:, None], exact.covariance)
    assert_close(values(idata.log_likelihood, "X"), expected[None], **TOLERANCE["float64"])
    log_joint = expected.sum(axis=1) + oracles.log_pdf(mu, np.zeros(2), exact.prior)
    assert_close(values(idata.sample_stats, "lp"), log_joint[None], **TOLERANCE["float64"])


def test_at_the_exact_posterior_every_draw_weighs_as_much_as_the_evidence(rng):
    exact = exact_inference(rng)
    weights = values(to_arviz(exact.inference, 20, X=exact.data).sample_stats, "log_weight")
    assert_close(weights, np.full((1, 20), exact.log_evidence), rtol=1e-10)


def test_weights_of_a_joint_posterior_count_all_its_parts(rng):
    # At the mean of q in its own coordinates, with deviations that are known: log q in closed form.
    model = conjugate_model(np.eye(2), np.eye(2))
    posterior = create_Gaussian_fullrank(model, [model.X], dtype="float64", initial_scale=0.5)
    inference = GradBasedInference(StochasticVariationalInference(2, model, posterior, [model.X]), dtype="float64")
    inference.initialize(X=(3, 2))
    x = rng.normal(size=(3, 2))
    idata = to_arviz(inference, 4, X=x)
    assert list(idata.posterior) == ["mu"]
    mean = inference.params[posterior.joint_0.factor.mean].asnumpy()
    log_q = oracles.log_pdf(values(idata.posterior, "mu")[0], mean, 0.25 * np.eye(2))
    assert_close(values(idata.sample_stats, "lp") - values(idata.sample_stats, "log_weight"), log_q[None], rtol=1e-6)


def test_loo_agrees_with_the_exact_predictive_densities(rng):
    exact = exact_inference(rng)
    result = arviz.loo(to_arviz(exact.inference, 4000, X=exact.data))
    left_out = []
    for n in range(len(exact.data)):
        mean, covariance = exact_posterior(np.delete(exact.data, n, axis=0), exact.prior, exact.covariance)
        left_out.append(oracles.log_pdf(exact.data[n], mean, covariance + exact.covariance))
    assert abs(result.elpd_loo - np.sum(left_out)) < 0.1


def test_pareto_k_tells_a_good_posterior_from_a_bad_one(rng):
    exact = exact_inference(rng)
    q = exact.inference.inference_algorithm.posterior.mu.factor
    factor = np.linalg.cholesky(exact.posterior)

    def k_of(scale):
        exact.inference.params[q.scale_tril] = nd(scale * factor)
        log_weight = values(to_arviz(exact.inference, 2000, X=exact.data).sample_stats, "log_weight")
        return float(arviz.psislw(log_weight.ravel())[1])

    assert k_of(1.2) < 0.3
    assert k_of(0.1) > 0.5


def test_the_table_and_the_plot_of_arviz_work(rng):
    exact = exact_inference(rng)
    idata = to_arviz(exact.inference, 1000, X=exact.data)
    table = arviz.summary(idata)
    assert list(table.index) == ["mu[0]", "mu[1]"]
    assert_close(table["mean"].values, exact.mean, rtol=0, atol=0.05)
    assert_close(table["sd"].values, np.sqrt(np.diag(exact.posterior)), rtol=0.15)
    axes = arviz.plot_pair(idata, var_names=["mu"], kind="scatter")
    points = axes.collections or axes.lines
    assert len(points) == 1
    matplotlib.pyplot.close("all")


def test_other_observed_variables_are_constant_data(rng):
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 2))
    model.w = Normal.define_variable(mean=nd([0.0]), variance=nd([1.0]), shape=(2, 1), dtype="float64")
    model.Y = Normal.define_variable(
        mean=dot(model.X, model.w), variance=nd([1.0]), shape=(model.N, 1), dtype="float64"
    )
    inference = GradBasedInference(MAP(model, [model.X, model.Y]), dtype="float64")
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 1))
    inference.initialize(X=x.shape, Y=y.shape)
    idata = to_arviz(inference, 3, X=x, Y=y)
    assert list(idata.constant_data) == ["X"]
    assert list(idata.observed_data) == list(idata.posterior_predictive) == list(idata.log_likelihood) == ["Y"]
    assert idata.log_likelihood.Y.dims == ("chain", "draw", "N", "Y_dim_1")


def test_after_map_all_draws_are_the_mode_and_have_no_weight(rng):
    model = conjugate_model(np.eye(2), np.eye(2))
    algorithm = MAP(model, [model.X])
    inference = GradBasedInference(algorithm, dtype="float64")
    x = rng.normal(size=(5, 2))
    inference.initialize(X=x.shape)
    idata = to_arviz(inference, 4, X=x)
    mode = inference.params[algorithm.location(model.mu)].asnumpy()
    assert_close(values(idata.posterior, "mu"), np.tile(mode, (1, 4, 1)), rtol=0)
    assert list(idata.sample_stats) == ["lp"]
    assert len(np.unique(values(idata.posterior_predictive, "X"))) == 40


def test_a_model_without_latent_variables_has_no_posterior(rng):
    model = Model()
    model.mu = Variable(shape=(2,), initial_value=nd([1.0, 2.0]))
    model.X = MultivariateNormal(mean=model.mu, shape=(4, 2), dtype="float64")
    inference = GradBasedInference(HostMAP(model, [model.X]), dtype="float64")
    inference.initialize(X=(4, 2))
    idata = to_arviz(inference, 3, X=rng.normal(size=(4, 2)))
    assert "posterior" not in idata.groups()
    assert "prior" not in idata.groups()
    assert values(idata.prior_predictive, "X").shape == (1, 3, 4, 2)
    assert list(idata.sample_stats) == ["lp"]


def test_two_axes_of_one_size_have_two_names(rng):
    model = Model()
    model.N = Variable()
    model.X = Normal.define_variable(mean=nd([0.0]), variance=nd([1.0]), shape=(model.N, model.N), dtype="float64")
    inference = GradBasedInference(HostMAP(model, [model.X]), dtype="float64")
    inference.initialize(X=(3, 3))
    idata = to_arviz(inference, 2, X=rng.normal(size=(3, 3)))
    assert idata.observed_data.X.dims == ("N", "X_dim_1")


def test_a_gaussian_process_is_drawn_from(rng):
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 1))
    model.noise_var = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=0.5)
    kernel = RBF(input_dim=1, variance=2.0, lengthscale=0.3, dtype="float64")
    model.Y = GPRegression.define_variable(
        X=model.X, kernel=kernel, noise_var=model.noise_var, shape=(model.N, 1), dtype="float64"
    )
    inference = GradBasedInference(HostMAP(model, [model.X, model.Y]), dtype="float64")
    x, y = np.linspace(0, 1, 3)[:, None], rng.normal(size=(3, 1))
    inference.initialize(X=x.shape, Y=y.shape)
    idata = to_arviz(inference, 400, X=x, Y=y)
    covariance = 2 * np.exp(-0.5 * ((x - x.T) / 0.3) ** 2) + 0.5 * np.eye(3)
    assert_close(values(idata.log_likelihood, "Y")[0, 0], oracles.log_pdf(y[:, 0], np.zeros(3), covariance), rtol=1e-6)
    assert_moments(values(idata.prior_predictive, "Y")[0, :, :, 0], np.zeros(3), covariance)


def test_the_data_of_a_loop_that_keeps_it_need_not_be_passed(rng):
    exact = exact_inference(rng, grad_loop=BatchLoop())
    exact.inference.run(X=nd(exact.data), max_iter=1)
    assert_close(values(to_arviz(exact.inference, 2).observed_data, "X"), exact.data, rtol=0)


def test_without_data_there_is_a_posterior_and_a_word_about_it(rng):
    exact = exact_inference(rng)
    with pytest.warns(UserWarning, match="has no data, and so makes a posterior only. Pass the observed variables"):
        idata = to_arviz(exact.inference, 3)
    assert idata.groups() == ["posterior"]


class Undrawable(MultivariateNormal):
    """A law with a density and no draws."""

    def draw_samples_impl(self, **arrays):
        """Nothing."""
        raise NotImplementedError("no draws from Undrawable")


# Of MXNet's, at its conversion of arrays; pytest.warns gives it again, and then it no longer comes from MXNet.
@pytest.mark.filterwarnings("ignore:Please (import|use) `csr_matrix`:DeprecationWarning")
def test_what_cannot_be_drawn_is_left_out_with_the_reason(rng):
    model = Model()
    model.mu = Undrawable(covariance=np.eye(2), shape=(2,), dtype="float64")
    model.X = MultivariateNormal(mean=model.mu, shape=(4, 2), dtype="float64")
    inference = GradBasedInference(MAP(model, [model.X]), dtype="float64")
    inference.initialize(X=(4, 2))
    with pytest.warns(UserWarning, match="leaves out prior_predictive and prior: no draws from Undrawable"):
        idata = to_arviz(inference, 3, X=rng.normal(size=(4, 2)))
    assert "prior" not in idata.groups()
    assert "posterior_predictive" in idata.groups()


def test_the_seed_of_mxnet_makes_it_reproducible(rng):
    exact = exact_inference(rng)
    draws = []
    for _ in range(2):
        mx.random.seed(5)
        idata = to_arviz(exact.inference, 3, X=exact.data)
        draws.append([values(idata[group], name) for group in idata.groups() for name in idata[group]])
    for first, second in zip(*draws):
        assert_close(first, second, rtol=0)


def test_without_arviz_it_says_what_to_install(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install 'mxfusion-mvn\[arviz\]'"):
        to_arviz(exact_inference(rng).inference)


def test_data_that_does_not_fit_is_refused(rng):
    with pytest.raises(InferenceError, match="`data`: got Y; expected the observed variables X"):
        to_arviz(exact_inference(rng).inference, 3, Y=np.zeros((12, 2)))
