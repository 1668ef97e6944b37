# SPDX-License-Identifier: Apache-2.0
"""Laplace's approximation: exact posteriors, second derivatives, independent groups, and what it refuses."""

from mxfusion_mvn import InverseWishart, MultivariateNormal
from mxfusion_mvn.inference import MAP, LaplaceApproximation
from mxfusion_mvn.inference.laplace.density import UnconstrainedDensity, independent_groups
from mxfusion_mvn.inference.loops import compiled_function
from mxfusion_mvn.transformations import Positive

import mxfusion.inference as host_inference
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.inference import GradBasedInference, StochasticVariationalInference, VariationalPosteriorForwardSampling
from scipy import special, stats
from scipy.linalg import helmert
from scipy.optimize import minimize

from helpers import oracles
from helpers.conjugate import assert_moments, conjugate_model, exact_posterior, regression
from helpers.host import nd
from helpers.laplace import SCALE, laplace_of, raw_draws, roughly
from helpers.tolerances import assert_close


@pytest.mark.parametrize("jacobian", [False, True])
def test_it_is_exact_for_a_linear_regression(jacobian, dtype, engine, rng):
    """In float32 it is limited by the data and constants alone: it is computed in float64."""
    model, data, (mean, cov), log_evidence = regression(rng, dtype=dtype)
    laplace = laplace_of(model, [model.X, model.Y], jacobian, dtype=dtype, **data)
    rounding = {"float32": 1e-4, "float64": 1e-7}[dtype]
    assert laplace.mode.converged
    assert laplace.rank == 10
    assert_close(laplace.mean, mean, rtol=0, atol=rounding)
    assert_close(laplace.covariance, cov, rtol=rounding, atol=rounding * cov.max())
    assert laplace.log_evidence == pytest.approx(log_evidence, abs=100 * rounding)
    assert laplace.coordinates == [f"w[{i}]" for i in range(10)]


def test_it_is_exact_for_a_mean_with_known_covariance(rng):
    prior, noise = oracles.random_spd(rng, (), 3, condition=10), oracles.random_spd(rng, (), 3, condition=50)
    data = rng.multivariate_normal([1.0, 0.0, -2.0], noise, size=12)
    model = conjugate_model(prior, noise)
    laplace = laplace_of(model, [model.X], X=nd(data))
    mean, cov = exact_posterior(data, prior, noise)
    assert_close(laplace.mean, mean, rtol=0, atol=1e-7)
    assert_close(laplace.covariance, cov, rtol=1e-7)
    joint = np.kron(np.eye(12), noise) + np.kron(np.ones((12, 12)), prior)
    assert laplace.log_evidence == pytest.approx(stats.multivariate_normal.logpdf(data.ravel(), cov=joint), abs=1e-6)


# Second derivatives in closed form


def test_of_a_gamma_and_a_beta_variable(rng):
    """In log v the curvature of Gamma(a, b) is a, and in the logit that of Beta(a, b) is ab / (a + b)."""
    model = Model()
    model.g = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (1,), dtype="float64")
    model.b = host.Beta.define_variable(nd([4.0]), nd([2.0]), (1,), dtype="float64")
    laplace = laplace_of(model, begin={model.g: [1.0], model.b: [0.5]})
    expected = {
        "raw g": (np.log(6.0), 1 / 3.0, 3 * np.log(3) - 3 - special.gammaln(3.0) + 0.5 * np.log(2 * np.pi / 3)),
        "raw b": (
            special.logit(2 / 3),
            6 / 8,
            4 * np.log(2 / 3) + 2 * np.log(1 / 3) - special.betaln(4, 2) + 0.5 * np.log(2 * np.pi * 6 / 8),
        ),
    }
    assert sorted(laplace.coordinates) == sorted(expected)
    mean, variance, evidence = np.array([expected[name] for name in laplace.coordinates]).T
    assert_close(laplace.mean, mean, rtol=1e-6)
    assert_close(laplace.covariance, np.diag(variance), rtol=1e-6, atol=1e-12)
    assert laplace.log_evidence == pytest.approx(evidence.sum(), abs=1e-6)


def mean_and_precision(dtype="float64"):
    model = Model()
    model.m = host.Normal.define_variable(nd([0.0], dtype), nd([10.0], dtype), (1,), dtype=dtype)
    model.t = host.Gamma.define_variable(nd([2.0], dtype), nd([1.0], dtype), (1,), dtype=dtype)
    model.x = host.NormalMeanPrecision.define_variable(model.m, model.t, (4, 1), dtype=dtype)
    return model


def mean_and_precision_curvature(x):
    """Mode and Hessian of -log p(x, m, t) - log t in (m, log t)."""

    def value(raw):
        m, t = raw[0], np.exp(raw[1])
        log_pdf = stats.norm.logpdf(x, m, t**-0.5).sum() + stats.norm.logpdf(m, 0, np.sqrt(10))
        return -log_pdf - stats.gamma.logpdf(t, 2.0) - raw[1]

    m, s = minimize(value, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14}).x
    t, residual = np.exp(s), x - m
    cross = -t * residual.sum()
    hessian = [[len(x) * t + 0.1, cross], [cross, t + 0.5 * t * np.sum(residual**2)]]
    return np.array([m, s]), np.array(hessian), value([m, s])


@pytest.mark.parametrize("model_dtype", ["float32", "float64"])
def test_of_a_mean_and_a_precision(model_dtype, engine, rng):
    x = 1 + 2 * rng.normal(size=4)  # as many rows as points at which the gradient is taken
    model = mean_and_precision(model_dtype)
    laplace = laplace_of(model, [model.x], dtype=model_dtype, x=nd(x[:, None], model_dtype))
    order = [laplace.coordinates.index(name) for name in ("m", "raw t")]
    mode, hessian, value = mean_and_precision_curvature(nd(x, model_dtype).asnumpy().astype("float64"))
    assert_close(laplace.mean[order], mode, rtol=1e-5, atol=2e-5)  # Newton ends within 1e-10 nats of the mode
    assert_close(laplace.covariance[np.ix_(order, order)], np.linalg.inv(hessian), rtol=1e-4, atol=1e-5)
    evidence = -value + np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(hessian)[1]
    assert laplace.log_evidence == pytest.approx(evidence, abs=1e-5)


ALPHA = np.array([2.0, 3.0, 5.0])


def negative_log_pdf_of_matrix(raw):
    """Of an inverse Wishart matrix at d_1, the entry below the diagonal, and d_2."""
    d = np.exp(raw[[0, 2]])
    factor = np.diag(d) @ np.array([[1.0, 0.0], [raw[1], 1.0]])
    volume = 2 * np.log(2) + 3 * np.log(d).sum()
    return -stats.invwishart.logpdf(factor @ factor.T, 7.0, SCALE) - volume


def negative_log_pdf_of_shares(raw):
    log_shares = special.log_softmax(helmert(3).T @ raw)
    return special.gammaln(ALPHA).sum() - special.gammaln(ALPHA.sum()) - ALPHA @ log_shares - 0.5 * np.log(3)


def matrices(model):
    model.v = InverseWishart(7.0, SCALE, shape=(2, 2, 2), dtype="float64")
    root = np.linalg.cholesky(SCALE / 7.0)
    return negative_log_pdf_of_matrix, [np.log(root[0, 0]), root[1, 0] / root[1, 1], np.log(root[1, 1])]


def shares(model):
    model.v = host.Dirichlet.define_variable(nd(np.tile(ALPHA, (2, 1))), (2, 3), dtype="float64")
    return negative_log_pdf_of_shares, helmert(3) @ np.log(ALPHA)


@pytest.mark.parametrize("declare", [matrices, shares])
def test_of_two_variables_alike_against_differences_of_differences(declare, rng):
    """The mode and the Hessian of each row of a variable, the latter by second differences of a density in NumPy."""
    model = Model()
    value, mode = declare(model)
    laplace = laplace_of(model)

    def gradient(raw):
        return oracles.central_difference(value, raw, step=1e-3)

    mode, size = np.array(mode), len(mode)
    hessian = [oracles.central_difference(lambda r, i=i: gradient(r)[i], mode, step=1e-3) for i in range(size)]
    assert laplace.coordinates == [f"raw v[{i}, {j}]" for i in range(2) for j in range(size)]
    assert_close(laplace.mean, np.tile(mode, 2), rtol=1e-5)
    assert_close(laplace.covariance, np.kron(np.eye(2), np.linalg.inv(hessian)), rtol=1e-4, atol=1e-6)
    evidence = -value(mode) + 0.5 * (size * np.log(2 * np.pi) - np.linalg.slogdet(hessian)[1])
    assert laplace.log_evidence == pytest.approx(2 * evidence, abs=1e-5)


def test_it_goes_on_to_the_mode_from_a_map_without_jacobian(rng):
    """Which ended at another point, or nowhere near."""
    model = Model()
    model.g = host.Gamma.define_variable(nd([1.5]), nd([0.01]), (1,), dtype="float64")
    for begin in (50.0, 1e-3, 5e4):
        laplace = laplace_of(model, begin={model.g: [begin]})
        assert_close(laplace.mean, [np.log(150.0)], rtol=1e-5)
        assert laplace.mode.converged


@pytest.mark.parametrize("first_comparison", [1, 7, 12, 100])
def test_it_does_without_a_program_that_turns_out_wrong(first_comparison, engine, rng, monkeypatch):
    """Of a density that changes after it was traced: the mode is that of the density as it is in the end."""
    monkeypatch.setattr(compiled_function, "_FIRST_COMPARISON", first_comparison)
    calls = []
    evaluate = UnconstrainedDensity._negative_log_density

    def changing(self, x):
        calls.append(x)
        away = mx.nd.sum(mx.nd.square(x - 5), axis=-1)
        return evaluate(self, x) + (0 if len(calls) <= 2 else 0.5) * away

    monkeypatch.setattr(UnconstrainedDensity, "_negative_log_density", changing)
    model = Model()
    model.m = MultivariateNormal(shape=(2,), dtype="float64")
    laplace = laplace_of(model)
    assert_close(laplace.mean, [2.5, 2.5], rtol=1e-6)
    assert_close(laplace.covariance, np.eye(2) / 2, rtol=1e-6, atol=1e-9)


def test_parameters_without_a_prior_are_held(rng):
    """At what MAP found, also in the inference that is handed out."""
    x = rng.normal(size=(9, 1))
    model = Model()
    model.s = Variable(shape=(1,), transformation=Positive(), initial_value=nd([0.3]))
    model.m = host.Normal.define_variable(nd([0.0]), nd([2.0]), (1,), dtype="float64")
    model.x = host.Normal.define_variable(model.m, model.s, (9, 1), dtype="float64")
    inference = roughly(MAP(model, [model.x]), x=nd(x))
    learned = inference.params[model.s].asnumpy()
    laplace = LaplaceApproximation(inference)
    assert_close(laplace.covariance, 1 / (9 / learned + 0.5).reshape(1, 1), rtol=1e-7)
    np.testing.assert_array_equal(laplace.inference.params[model.s].asnumpy(), learned)


def test_of_latent_variables_whose_number_the_data_tell(rng):
    """One for each row, about a common mean; also the draws that the host makes of them."""
    x = 1 + rng.normal(size=(5, 1))
    model = Model()
    model.N = Variable()
    model.w = MultivariateNormal(covariance=4.0, shape=(1,), dtype="float64")
    model.z = MultivariateNormal(mean=model.w, shape=(model.N, 1), dtype="float64")
    model.x = MultivariateNormal(mean=model.z, covariance=0.5, shape=(model.N, 1), dtype="float64")
    laplace = laplace_of(model, [model.x], x=nd(x))
    precision = np.diag([5.25] + [3.0] * 5)
    precision[0, 1:] = precision[1:, 0] = -1.0
    order = [laplace.coordinates.index(name) for name in ["w"] + [f"z[{i}, 0]" for i in range(5)]]
    cov = np.linalg.inv(precision)
    mean = cov @ np.append(0.0, 2 * x)
    assert_close(laplace.mean[order], mean, rtol=1e-6)
    assert_close(laplace.covariance[np.ix_(order, order)], cov, rtol=1e-6)
    predict = VariationalPosteriorForwardSampling(
        20000, [], laplace.inference, target_variables=[model.w, model.z], constants={model.N: 5}, dtype="float64"
    )
    w, z = (array.asnumpy().reshape(20000, -1) for array in predict.run())
    assert_moments(np.concatenate([w, z], axis=1), mean, cov)


# Independent groups


def pairs():
    """Two pairs of variables that meet in a factor each, one of them by way of functions; and a fifth."""
    model = Model()
    model.a = MultivariateNormal(covariance=2.0, shape=(2,), dtype="float64")
    model.b = MultivariateNormal(shape=(2,), dtype="float64")
    model.c = MultivariateNormal(mean=model.a, shape=(2,), dtype="float64")
    model.d = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (1,), dtype="float64")
    model.e = MultivariateNormal(shape=(2,), dtype="float64")
    model.x = MultivariateNormal(mean=model.b + model.e + model.b, shape=(2,), dtype="float64")
    return model


def test_variables_that_no_factor_joins_are_independent():
    model = pairs()
    latents = [model.a, model.b, model.c, model.d, model.e]
    groups = independent_groups(model, latents)
    assert [[v.name for v in group] for group in groups] == [["a", "c"], ["b", "e"], ["d"]]


def test_groups_that_meet_later_are_joined():
    model = Model()
    names = ["a", "b", "c"]
    for name in names:
        setattr(model, name, MultivariateNormal(shape=(2,)))
    model.ab = MultivariateNormal(mean=model.a + model.b, shape=(2,))
    model.bc = MultivariateNormal(mean=model.b + model.c, shape=(2,))
    (group,) = independent_groups(model, [model.a, model.b, model.c])
    assert [v.name for v in group] == names


def test_groups_have_blocks_of_their_own(rng):
    """The covariance is that of the whole, and each group has one joint Gaussian."""
    model = pairs()
    laplace = laplace_of(model, [model.x], begin={model.d: [1.0]}, x=nd([1.0, -1.0]))
    index = {name: i for i, name in enumerate(laplace.coordinates)}
    precision = np.zeros((9, 9))

    def add(names, matrix):
        for entry in range(2):
            at = [index[f"{name}[{entry}]"] for name in names]
            precision[np.ix_(at, at)] += matrix

    add(["a", "c"], [[1.5, -1.0], [-1.0, 1.0]])
    add(["b", "e"], [[5.0, 2.0], [2.0, 2.0]])
    precision[index["raw d"], index["raw d"]] = 3.0
    assert_close(laplace.covariance, np.linalg.inv(precision), rtol=1e-6, atol=1e-9)
    assert {v.name: v.shape for v in laplace.posterior.variables.values() if str(v.name).startswith("joint")} == {
        "joint_0": (4,),
        "joint_1": (4,),
        "joint_2": (1,),
    }
    draws = dict(zip(laplace.coordinates, raw_draws(laplace, 20000).T))
    order = laplace.coordinates
    assert_moments(np.stack([draws[name] for name in order], axis=1), laplace.mean, laplace.covariance)


# The inference that is handed out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions(dtype, rng):
    """By the host, with the exact predictive law; several in a row."""
    model, data, (mean, cov), _ = regression(rng, dim=3, dtype=dtype)
    laplace = laplace_of(model, [model.X, model.Y], dtype=dtype, **data)
    new = 3 * rng.normal(size=(2, 3))
    for _ in range(2):
        predict = VariationalPosteriorForwardSampling(
            20000, [model.X], laplace.inference, target_variables=[model.Y], dtype=dtype
        )
        draws = predict.run(X=nd(new, dtype))[0].asnumpy()
        assert draws.dtype == np.dtype(dtype)
        assert_moments(draws[:, :, 0].astype("float64"), new @ mean, new @ cov @ new.T + 0.49 * np.eye(2))


def test_the_inference_can_go_on(rng):
    """As variational inference, which finds nothing to improve on a Gaussian posterior."""
    model, data, (mean, cov), log_evidence = regression(rng, dim=3)
    laplace = laplace_of(model, [model.X, model.Y], **data)
    inference = laplace.inference
    assert isinstance(inference.inference_algorithm, StochasticVariationalInference)
    record = inference.run(learning_rate=1e-5, max_iter=5, **data)
    assert_close(-record.loss, np.full(5, log_evidence), rtol=0, atol=0.01)
    assert -record.loss[0] == pytest.approx(log_evidence, abs=1e-5)


# What it accepts and refuses


def test_the_hosts_map_is_accepted(rng):
    """With data by name, for its loop keeps none."""
    model, data, (mean, cov), _ = regression(rng, dim=3)
    inference = GradBasedInference(host_inference.MAP(model, [model.X, model.Y]), dtype="float64")
    inference.run(max_iter=2, **data)
    with pytest.raises(
        InferenceError, match=r"`data`: got none; expected the observed variables\. Pass each by its name"
    ):
        LaplaceApproximation(inference)
    for given in (data, {name: array.asnumpy() for name, array in data.items()}):
        laplace = LaplaceApproximation(inference, **given)
        assert_close(laplace.mean, mean, rtol=0, atol=1e-6)
        assert_close(laplace.covariance, cov, rtol=1e-6, atol=1e-9)


def test_other_data_may_be_given(rng):
    model = conjugate_model(np.eye(2), np.eye(2))
    inference = roughly(MAP(model, [model.X]), X=nd(np.zeros((3, 2))))
    data = rng.normal(size=(5, 2))
    assert_close(LaplaceApproximation(inference, X=nd(data)).mean, data.sum(axis=0) / 6, rtol=0, atol=1e-7)


def test_a_host_map_outside_the_support_is_refused(rng):
    model = Model()
    model.g = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (1,), dtype="float64")
    algorithm = host_inference.MAP(model, [])
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize()
    inference.params[algorithm.posterior.g.factor.location] = nd([-1.0])
    with pytest.raises(ModelSpecificationError, match=r"Positive\(\)`: got -1\.0 at index \(0,\).*expected positive"):
        LaplaceApproximation(inference)


def test_refused(rng):
    model, data, *_ = regression(rng, dim=3)
    algorithm = MAP(model, [model.X, model.Y])
    inference = GradBasedInference(algorithm, dtype="float64")
    with pytest.raises(InferenceError, match=r"`map_inference`: got one without values; expected a finished one"):
        LaplaceApproximation(inference, **data)
    inference = roughly(algorithm, **data)
    with pytest.raises(InferenceError, match=r"`data`: got X; expected the observed variables X, Y\. Pass each by its"):
        LaplaceApproximation(inference, X=data["X"])
    laplace = LaplaceApproximation(inference)
    with pytest.raises(
        InferenceError, match=r"`map_inference`: got the algorithm StochasticVariationalInference; expected MAP\. Write"
    ):
        LaplaceApproximation(laplace.inference)
    with pytest.raises(
        InferenceError, match=r"`map_inference`: its log density is not finite where it ended; expected"
    ):
        LaplaceApproximation(inference, X=data["X"], Y=data["Y"] * np.inf)


def test_the_reason_why_a_density_cannot_be_computed_is_given(rng):
    """The host's Wishart cannot be computed in float64."""
    model = Model()
    scale = nd(np.eye(2)[None], "float32")
    model.v = host.Wishart.define_variable((1, 2, 2), nd([5], "int32"), scale)
    inference = roughly(MAP(model, []), dtype="float32")
    with pytest.raises(InferenceError, match="its log density is not finite where it ended") as caught:
        LaplaceApproximation(inference)
    assert "expected float32, got float64" in str(caught.value.__cause__)


def test_a_model_without_latent_variables_is_refused(rng):
    model = Model()
    model.m = Variable(shape=(2,))
    model.x = MultivariateNormal(mean=model.m, shape=(2,), dtype="float64")
    with pytest.raises(
        InferenceError, match=r"`map_inference`: its model has no latent variables; expected some\. Give"
    ):
        laplace_of(model, [model.x], x=nd([0.0, 1.0]))
