# SPDX-License-Identifier: Apache-2.0
"""Laplace's approximation where there is no mode, or Newton's method has a long way to it."""

import re
import warnings

from mxfusion_mvn import GaussianMixture, InverseWishart, LKJCholesky, MultivariateNormal, OnFailure
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import MAP, BatchLoop, LaplaceApproximation, ModeNotFoundWarning, SingularHessianWarning
from mxfusion_mvn.inference.laplace import newton
from mxfusion_mvn.inference.laplace.density import UnconstrainedDensity

import mxfusion.inference as host_inference
import numpy as np
import pytest
from mxfusion import Model
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.inference import GradBasedInference
from scipy import stats
from scipy.optimize import minimize_scalar

from helpers.conjugate import assert_moments
from helpers.host import nd
from helpers.laplace import SCALE, laplace_of, raw_draws, roughly
from helpers.tolerances import assert_close


def over_parametrised(rows=20, prior=1e12):
    """Data about a sum of which nothing tells the two parts apart, and a third variable."""
    model = Model()
    model.a = MultivariateNormal(covariance=prior, shape=(1,), dtype="float64")
    model.b = MultivariateNormal(covariance=prior, shape=(1,), dtype="float64")
    model.c = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (1,), dtype="float64")
    model.x = MultivariateNormal(mean=model.a + model.b + model.b, shape=(rows, 1), dtype="float64")
    return model


def warned(inference, match="Neither data nor prior", category=SingularHessianWarning, **options):
    """An approximation that warns, once, at the line that asked for it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", category)
        laplace = LaplaceApproximation(inference, **options)
    (warning,) = caught
    assert re.search(match, str(warning.message))
    assert warning.filename == __file__
    return laplace


def test_a_singular_hessian_is_reported(rng):
    x = 3 + rng.normal(size=(20, 1))
    model = over_parametrised()
    message = r"Neither data nor prior determine 1 of 3 directions: .*0\.894 a .*0\.447 b\. They are held at the mode"
    laplace = warned(roughly(MAP(model, [model.x]), x=nd(x)), message)
    assert laplace.rank == 2
    (direction,) = laplace.null_directions
    assert list(direction) == ["a", "b"]
    assert abs(direction["a"]) == pytest.approx(2 / np.sqrt(5), abs=1e-6)
    assert direction["a"] / direction["b"] == pytest.approx(-2.0, abs=1e-6)
    assert np.isnan(laplace.log_evidence)
    assert "rank 2" in laplace.report()
    assert "Mode found" in repr(laplace)
    assert "Neither data nor prior" in repr(laplace)


def test_what_the_data_tell_is_kept_and_the_rest_is_held(rng):
    x = 3 + rng.normal(size=(20, 1))
    model = over_parametrised()
    laplace = warned(roughly(MAP(model, [model.x]), x=nd(x)))
    draws = raw_draws(laplace, 4000)
    a, b, c = (draws[:, laplace.coordinates.index(name)] for name in ("a", "b", "raw c"))
    assert (a + 2 * b).mean() == pytest.approx(x.mean(), abs=0.02)
    assert np.var(a + 2 * b) == pytest.approx(1 / 20, rel=0.1)
    # Of what may be added along (2, -1), nothing; in units of how well each is known by itself a and b then vary alike.
    assert np.std(a - 2 * b) < 1e-3 * np.std(a + 2 * b)
    assert np.var(c) == pytest.approx(1 / 3, rel=0.1)
    assert_moments(draws, laplace.mean, laplace.covariance)


def flat_variable():
    """The data are about one of two variables; the other's prior does not tell more."""
    model = Model()
    model.a = MultivariateNormal(shape=(2,), dtype="float64")
    model.b = MultivariateNormal(covariance=1e20, shape=(2,), dtype="float64")
    return model


def test_a_direction_without_any_curvature(rng):
    """Its draws stay where they are; the others' do not."""
    laplace = warned(roughly(MAP(flat_variable(), [])))
    assert laplace.rank == 2
    assert [list(direction) for direction in laplace.null_directions] == [["b[0]"], ["b[1]"]]
    draws = dict(zip(laplace.coordinates, raw_draws(laplace, 2000).T))
    assert draws["b[0]"].std() < 1e-3
    assert draws["a[0]"].std() == pytest.approx(1.0, rel=0.1)


def mixture(beside=False):
    model = Model()
    model.v = GaussianMixture(
        weights=nd([0.5, 0.5]), mean=nd([[-3.0], [3.0]]), covariance=1.0, shape=(1,), dtype="float64"
    )
    if beside:
        model.w = MultivariateNormal(shape=(2,), dtype="float64")
    return model


@pytest.mark.parametrize("beside", [False, True])
def test_a_saddle_is_no_mode(beside, rng):
    """Between two hills, where the gradient is zero: also where no direction at all is left."""
    model = mixture(beside)
    inference = GradBasedInference(MAP(model, []), grad_loop=BatchLoop(), dtype="float64")
    inference.initialize()
    inference.params[inference.inference_algorithm.location(model.v)] = nd([0.0])
    laplace = warned(inference, r"curves the wrong way, or not at all, in 1 of . directions: \S+ v")
    assert laplace.rank == (2 if beside else 0)
    assert "Mode NOT found" in laplace.report()
    assert "a saddle. Begin MAP at other values" in laplace.report()
    draws = raw_draws(laplace, 100)
    assert draws[:, laplace.coordinates.index("v")].std() < 1e-3


def test_beside_a_saddle_newtons_method_goes_down(rng):
    model = mixture()
    inference = roughly(MAP(model, []), begin={model.v: [0.3]})
    laplace = LaplaceApproximation(inference)
    assert_close(laplace.mean, [3.0], rtol=1e-5)
    assert laplace.mode.converged


def group_effects(groups):
    """Their variance is learned: where it goes to zero, and the effects with it, the density rises without bound."""
    model = Model()
    model.t = host.Gamma.define_variable(nd([[1.0]]), nd([[1.0]]), (1, 1), dtype="float64")
    model.m = host.Normal.define_variable(nd([[0.0]]), nd([[10.0]]), (1, 1), dtype="float64")
    model.z = MultivariateNormal(covariance=model.t, shape=(groups, 1), dtype="float64")
    model.x = MultivariateNormal(mean=model.z + model.m, shape=(groups, 1), dtype="float64")
    return model


@pytest.mark.parametrize(("groups", "spread"), [(8, 0.1), (8, 1.0), (201, 0.1)])
def test_a_density_without_a_mode_is_said_to_have_none(groups, spread, rng, monkeypatch):
    """Soon: the search does not go on to where numbers end, which takes some 40 Hessians."""
    evaluated = []
    evaluate = UnconstrainedDensity.evaluate

    def counted(self, points):
        evaluated.append(len(points))
        return evaluate(self, points)

    monkeypatch.setattr(UnconstrainedDensity, "evaluate", counted)
    model = group_effects(groups)
    inference = roughly(MAP(model, [model.x]), x=nd(spread * rng.normal(size=(groups, 1))))
    size = groups + 2
    message = rf"no curvature in 1 of {size} directions: \S+ raw t\. It may have no mode, as where the dev"
    laplace = warned(inference, message)
    assert sum(evaluated) < 15 * 2 * size
    assert laplace.mode.slope > 1
    assert not laplace.mode.converged
    assert np.isnan(laplace.log_evidence)
    assert "Mode NOT found" in laplace.report()


@pytest.mark.parametrize("prior", [1e-3, 1e-6, 1e-10])
def test_a_mode_at_a_small_variance_of_group_effects_is_found(prior, rng):
    """A prior keeps it from zero; on the way the density rises and curves the wrong way. The mode is SciPy's."""
    x = 0.1 * rng.normal(size=(20, 1))
    model = Model()
    model.t = InverseWishart(3.0, prior, shape=(1, 1), dtype="float64")
    model.z = MultivariateNormal(covariance=model.t, shape=(20, 1), dtype="float64")
    model.x = MultivariateNormal(mean=model.z, shape=(20, 1), dtype="float64")
    laplace = laplace_of(model, [model.x], begin={model.t: [[1.0]]}, x=nd(x))

    def value(log_t):  # at the best effects, x t / (1 + t)
        return 0.5 * ((20 + 3) * log_t + prior * np.exp(-log_t) + np.sum(x**2) / (1 + np.exp(log_t)))

    bounds = (np.log(prior) - 10, np.log(prior) + 5)
    mode = minimize_scalar(value, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
    assert laplace.mode.converged
    assert laplace.rank == 21
    # The raw number of a matrix of one entry is the log of its root.
    assert laplace.mean[laplace.coordinates.index("raw t")] == pytest.approx(0.5 * mode, abs=1e-4)


def test_a_search_that_ends_elsewhere_is_reported(rng, monkeypatch):
    """For want of steps."""
    monkeypatch.setattr(newton, "_MAX_STEPS", 3)
    monkeypatch.setattr(newton, "_MAX_COLUMNS", 3)
    model = Model()
    model.g = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (1,), dtype="float64")
    inference = roughly(MAP(model, []), begin={model.g: [5e4]})
    laplace = warned(inference, "found no mode, .* Run MAP on before, or begin it at other", ModeNotFoundWarning)
    assert laplace.mean[0] > np.log(6.0) + 1  # the mode is log 6
    assert np.isnan(laplace.log_evidence)
    assert "Mode NOT found" in laplace.report()
    assert "means nothing" in laplace.report()


@pytest.mark.parametrize("on_failure", [OnFailure("raise"), None])
def test_a_step_to_where_a_matrix_is_not_positive_definite_is_halved(on_failure, engine, rng):
    """Also if its variable raises at once, and from where the density curves the wrong way. The mode is SciPy's."""
    x = rng.normal(size=(5, 1))
    model = Model()
    model.v = MultivariateNormal(mean=nd([[1.0]]), covariance=100.0, shape=(1, 1), dtype="float64")
    model.x = MultivariateNormal(covariance=model.v, shape=(5, 1), on_failure=on_failure, dtype="float64")
    laplace = laplace_of(model, [model.x], begin={model.v: [[6.0]]}, x=nd(x))
    assert laplace._density.failure is not None

    def value(v):
        return -stats.norm.logpdf(x, 0, np.sqrt(v)).sum() - stats.norm.logpdf(v, 1.0, 10.0)

    mode = minimize_scalar(value, bounds=(0.01, 20), method="bounded", options={"xatol": 1e-10}).x
    assert_close(laplace.mean, [mode], rtol=1e-5)


@pytest.mark.parametrize("prior_sd", [3.0, 100.0])
@pytest.mark.parametrize("rows", [100, 10000])
def test_the_curvature_of_a_weak_prior_is_kept(rows, prior_sd, rng):
    """Two equal predictors: along their difference the posterior is the prior, a 1e-8 of the largest curvature."""
    x = rng.normal(size=rows)
    predictors = np.stack([x, x], axis=1)
    response = predictors @ [1.0, 1.0] + rng.normal(size=rows)
    model = Model()
    model.w = MultivariateNormal(0.0, prior_sd**2, shape=(2,), dtype="float64")
    model.y = MultivariateNormal(linear(predictors, model.w, dtype="float64"), 1.0, shape=(rows, 1), dtype="float64")
    laplace = LaplaceApproximation(roughly(MAP(model, [model.y]), y=nd(response[:, None])))
    precision = predictors.T @ predictors + np.eye(2) / prior_sd**2
    fitted = predictors.T @ response
    log_det = np.linalg.slogdet(np.eye(2) + prior_sd**2 * predictors.T @ predictors)[1]
    squares = response @ response - fitted @ np.linalg.solve(precision, fitted)
    evidence = -0.5 * (rows * np.log(2 * np.pi) + log_det + squares)
    assert laplace.rank == 2
    assert laplace.log_evidence == pytest.approx(evidence, abs=1e-4 * abs(evidence) if rows > 1000 else 1e-3)
    assert_close(laplace.covariance, np.linalg.inv(precision), rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_the_mode_of_a_nearly_singular_covariance_is_found(scale, rng):
    """The fourth column is the sum of two others; in these coordinates the mode is P / (nu + N)."""
    data = rng.normal(size=(50, 3))
    data = np.concatenate([data, data[:, :1] + data[:, 1:2]], axis=1)
    model = Model()
    model.cov = InverseWishart(6.0, scale, shape=(4, 4), dtype="float64")
    model.X = MultivariateNormal(0.0, model.cov, shape=(50, 4), dtype="float64")
    algorithm = MAP(model, [model.X])
    laplace = LaplaceApproximation(roughly(algorithm, X=nd(data)))
    mode = algorithm.bijections[model.cov].transform(nd(laplace.mean)).asnumpy()
    expected = (scale * np.eye(4) + data.T @ data) / 56
    assert laplace.mode.converged
    assert laplace.rank == 10
    deviations = np.sqrt(np.diagonal(expected))
    assert_close(
        mode / np.outer(deviations, deviations), expected / np.outer(deviations, deviations), rtol=0, atol=1e-5
    )
    assert_close(np.linalg.eigvalsh(mode)[0], np.linalg.eigvalsh(expected)[0], rtol=1e-4)


@pytest.mark.parametrize("kind", ["shares", "factor of correlations", "covariance"])
@pytest.mark.parametrize("host_map", [False, True])
def test_what_map_found_in_float32_is_accepted(kind, host_map, rng):
    """Values rounded in float32 satisfy their constraint to float32 only."""
    model = Model()
    if kind == "shares":
        model.v = host.Dirichlet.define_variable(alpha=nd([[4.0, 2.0, 3.0]], "float32"), shape=(1, 3))
        value = rng.dirichlet([3.0, 2.0, 4.0], size=1)
    elif kind == "covariance":
        model.v = InverseWishart(9.0, np.eye(3, dtype="float32"), shape=(3, 3))
        value = np.array([[1.0, 0.999, 0.1], [0.999, 1.0, 0.1], [0.1, 0.1, 1.0]])
    else:
        model.v = LKJCholesky(3.0, shape=(3, 3))
        value = np.linalg.cholesky([[1.0, 0.6, 0.2], [0.6, 1.0, 0.3], [0.2, 0.3, 1.0]])
    algorithm = (host_inference.MAP if host_map else MAP)(model, [])
    inference = GradBasedInference(algorithm, grad_loop=BatchLoop())
    inference.initialize()
    inference.params[algorithm.posterior.v.factor.location] = nd(value, "float32")
    laplace = LaplaceApproximation(inference)
    assert laplace.mode.converged
    assert laplace.rank == len(laplace.mean)


def test_what_map_found_on_the_edge_of_a_support_is_accepted():
    """In float32 this matrix is singular, its raw array, where the search begins, like any other."""
    model = Model()
    model.v = InverseWishart(7.0, SCALE, shape=(2, 2))
    inference = roughly(MAP(model, []), dtype="float32")
    location = inference.inference_algorithm.location(model.v)
    inference.params.param_dict[location.uuid].set_data(nd([0.0, 1e4, -8.0], "float32"))
    with pytest.raises(ModelSpecificationError, match=r"PositiveDefinite\(\)`: got .*; expected a positive definite m"):
        location.transformation.inverseTransform(inference.params[location])
    laplace = warned(inference, "It may have no mode")  # from so far away it is not found
    assert_close(laplace._density.begin, [0.0, 1e4, -8.0], rtol=0)


def test_the_tolerance_says_what_counts_as_zero(rng):
    """With a prior of variance 100 the ratio of the two eigenvalues is about 1e-3."""
    model = over_parametrised(prior=100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SingularHessianWarning)
        inference = roughly(MAP(model, [model.x]), x=nd(rng.normal(size=(20, 1))))
        assert LaplaceApproximation(inference).rank == 3
    assert warned(inference, "1 of 3 directions", tolerance=0.01).rank == 2
