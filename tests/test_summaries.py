# SPDX-License-Identifier: Apache-2.0
"""The table of what was inferred."""

from mxfusion_mvn import InverseWishart, MultivariateNormal
from mxfusion_mvn.inference import MAP, create_Gaussian_fullrank, create_Gaussian_meanfield, summary
from mxfusion_mvn.inference.results.summaries import Row, Summary
from mxfusion_mvn.transformations import PositiveDefinite

import mxfusion.inference as host
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import Gamma, Normal
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import GradBasedInference, StochasticVariationalInference
from mxfusion.modules.gp_modules import GPRegression
from scipy.stats import norm

from helpers.conjugate import conjugate_model, exact_inference
from helpers.host import nd
from helpers.tolerances import assert_close


def scales_model(covariance=None):
    """X ~ N(mu, covariance): mu a parameter of one row, the covariance a parameter without a name."""
    covariance = np.eye(2) if covariance is None else covariance
    model = Model()
    model.N = Variable()
    model.mu = Variable(shape=(1, 2), initial_value=nd([[1.0, 2.0]]))
    parameter = Variable(shape=(2, 2), transformation=PositiveDefinite(), initial_value=nd(covariance))
    model.X = MultivariateNormal(mean=model.mu, covariance=parameter, shape=(model.N, 2), dtype="float64")
    return model


def initialised(algorithm, dtype="float64", **shapes):
    inference = GradBasedInference(algorithm, dtype=dtype)
    inference.initialize(**shapes)
    return inference


def variational(model, posterior, observed, **shapes):
    return initialised(StochasticVariationalInference(2, model, posterior, observed), **shapes)


def test_a_latent_variable_has_the_moments_and_quantiles_of_its_posterior(rng, dtype):
    exact = exact_inference(rng, dtype=dtype)
    table = summary(exact.inference, num_samples=20000)
    assert [row.name for row in table.rows] == ["mu[0]", "mu[1]"]
    sd = np.sqrt(np.diag(exact.posterior))
    for row, mean, deviation in zip(table, exact.mean, sd):
        # 5 standard errors; those of the 5 % quantile are sqrt(0.05 * 0.95) / density.
        assert abs(row.mean - mean) < 5 * deviation / np.sqrt(20000)
        assert abs(row.sd / deviation - 1) < 5 / np.sqrt(2 * 20000)
        for got, level in zip(row[3:], (0.05, 0.5, 0.95)):
            expected = norm.ppf(level, mean, deviation)
            error = np.sqrt(level * (1 - level) / 20000) / norm.pdf(expected, mean, deviation)
            assert abs(got - expected) < 5 * error


def test_of_two_draws_the_deviation_is_that_of_a_sample(rng):
    for row in summary(exact_inference(rng).inference, num_samples=2):
        distance = (row.upper - row.lower) / 0.9
        assert_close(row.sd, distance / np.sqrt(2), rtol=1e-12)


def test_the_seed_of_mxnet_makes_it_reproducible(rng):
    exact = exact_inference(rng)
    mx.random.seed(3)
    first = summary(exact.inference, num_samples=10)
    mx.random.seed(3)
    assert summary(exact.inference, num_samples=10).rows == first.rows
    assert summary(exact.inference, num_samples=10).rows != first.rows


def test_parameters_are_shown_in_their_own_space_and_without_a_name_by_what_they_feed():
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    model = scales_model(covariance)
    table = summary(initialised(host.MAP(model, [model.X]), X=(5, 2)))
    names = [row.name for row in table.rows]
    lower = ["covariance of X[0, 0]", "covariance of X[1, 0]", "covariance of X[1, 1]"]
    assert sorted(names) == sorted(["mu[0, 0]", "mu[0, 1]"] + lower)
    assert table["mu[0, 1]"] == Row("mu[0, 1]", 2.0)
    assert_close([table[name].mean for name in lower], [2.0, 0.5, 1.0], rtol=1e-12)


def test_an_asymmetric_matrix_keeps_all_its_entries():
    model = Model()
    model.W = Variable(shape=(2, 2), initial_value=nd([[1.0, 2.0], [3.0, 4.0]]))
    model.X = MultivariateNormal(mean=model.W, shape=(2, 2), dtype="float64")
    table = summary(initialised(host.MAP(model, [model.X]), X=(2, 2)))
    assert [row.mean for row in table] == [1.0, 2.0, 3.0, 4.0]


def test_after_map_a_latent_variable_has_a_value_only(rng):
    model = Model()
    model.s = Gamma.define_variable(alpha=nd([3.0]), beta=nd([2.0]), shape=(1,), dtype="float64")
    model.Sigma = InverseWishart(5.0, np.eye(2), shape=(2, 2), dtype="float64")
    model.X = MultivariateNormal(covariance=model.Sigma, shape=(4, 2), dtype="float64")
    model.y = Normal.define_variable(mean=nd([0.0]), variance=model.s, shape=(1,), dtype="float64")
    algorithm = MAP(model, [model.X, model.y])
    inference = initialised(algorithm, X=(4, 2), y=(1,))
    table = summary(inference)
    assert all(row.sd is None and row.median is None for row in table)
    assert table["s"].mean == inference.params[algorithm.location(model.s)].asscalar() > 0
    value = inference.params[algorithm.location(model.Sigma)].asnumpy()
    assert table["Sigma[1, 0]"].mean == value[1, 0]
    assert len(table) == 4


def test_of_a_joint_posterior_only_the_latent_variables_are_shown(rng):
    model = conjugate_model(np.eye(2), np.eye(2))
    posterior = create_Gaussian_fullrank(model, [model.X], dtype="float64")
    table = summary(variational(model, posterior, [model.X], X=(3, 2)), num_samples=5)
    assert [row.name for row in table] == ["mu[0]", "mu[1]"]


def test_a_positive_latent_variable_is_summarised_in_its_own_units(rng):
    model = Model()
    model.s = Gamma.define_variable(alpha=nd([3.0]), beta=nd([2.0]), shape=(1,), dtype="float64")
    model.y = Normal.define_variable(mean=nd([0.0]), variance=model.s, shape=(1,), dtype="float64")
    posterior = create_Gaussian_meanfield(model, [model.y], dtype="float64")
    inference = variational(model, posterior, [model.y], y=(1,))
    q = posterior.s.factor
    inference.params[q.mean], inference.params[q.scale] = nd([0.3]), nd([0.5])
    row = summary(inference, num_samples=20000)["s"]
    assert abs(row.median - np.exp(0.3)) < 0.05
    assert abs(row.mean - np.exp(0.3 + 0.5**2 / 2)) < 0.05
    assert row.lower > 0


def test_the_parameters_inside_a_module_are_shown():
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 1))
    model.noise_var = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=0.5)
    kernel = RBF(input_dim=1, variance=1.5, lengthscale=2.0, dtype="float64")
    model.Y = GPRegression.define_variable(
        X=model.X, kernel=kernel, noise_var=model.noise_var, shape=(model.N, 1), dtype="float64"
    )
    table = summary(initialised(host.MAP(model, [model.X, model.Y]), X=(4, 1), Y=(4, 1)))
    assert {row.name: round(row.mean, 6) for row in table} == {
        "noise_var": 0.5,
        "rbf_variance of F": 1.5,
        "rbf_lengthscale of F": 2.0,
    }


@pytest.mark.parametrize("name", ["mu", "N"])
def test_asking_the_host_for_what_is_no_parameter_does_no_harm(rng, name):
    exact = exact_inference(rng)
    model = exact.inference.inference_algorithm.model
    with pytest.raises(RuntimeError, match="has not been initialized"):
        exact.inference.params[getattr(model, name)]
    assert len(summary(exact.inference, num_samples=2)) == 2


def test_it_prints_a_table():
    table = Summary(
        [[Row("beta[0]", 1.25, 0.5, 0.4, 1.2, 12.0), Row("beta[1]", -1e-5, 2.0, -3.0, 0.0, 3.0)], [Row("s", 2)]]
    )
    assert (
        str(table)
        == repr(table)
        == "\n".join(
            [
                "           mean   sd  5 %  50 %  95 %",
                "beta[0]    1.25  0.5  0.4   1.2    12",
                "beta[1]  -1e-05    2   -3     0     3",
                "s             2",
            ]
        )
    )


def test_values_alone_make_a_narrow_table():
    assert str(Summary([[Row("mu", 1.5)], [Row("variance", 0.25)]])) == "\n".join(
        ["          value", "mu          1.5", "variance   0.25"]
    )


def test_of_many_entries_the_first_are_printed():
    table = Summary([[Row(f"z[{i}]", i) for i in range(100)], [Row("s", 2)]])
    lines = [line.split() for line in str(table).splitlines()]
    assert lines[40:] == [["z[39]", "39"], ["...", "60", "more", "in", ".rows"], ["s", "2"]]
    assert table["z[99]"].mean == 99


def test_a_wrong_name_is_refused_with_those_that_are_close():
    table = Summary([[Row("beta[0]", 1.0), Row("beta[1]", 1.0)]])
    with pytest.raises(KeyError, match=r"`beta` is not in the summary; close to it: beta\[1\], beta\[0\]"):
        table["beta"]
    with pytest.raises(KeyError, match="`q` is not in the summary"):
        table["q"]


def test_an_inference_without_values_is_refused():
    model = scales_model()
    with pytest.raises(InferenceError, match="`inference`: got one without values; expected a finished one"):
        summary(GradBasedInference(host.MAP(model, [model.X])))


def test_an_algorithm_without_a_posterior_is_refused():
    model = conjugate_model(np.eye(2), np.eye(2))
    sampling = host.Inference(host.ForwardSamplingAlgorithm(model, observed=[]), dtype="float64")
    sampling.initialize()
    with pytest.raises(InferenceError, match="ForwardSamplingAlgorithm, which has no posterior for `mu`"):
        summary(sampling)


def test_no_draws_are_refused(rng):
    with pytest.raises(InferenceError, match="`num_samples`: got 0; expected an integer of at least 2"):
        summary(exact_inference(rng).inference, num_samples=0)
