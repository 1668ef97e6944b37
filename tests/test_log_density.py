# SPDX-License-Identifier: Apache-2.0
"""The log density that samplers take: closed forms, gradients, many points, threads, and where there is no density."""

import threading
from concurrent.futures import ThreadPoolExecutor

from mxfusion_mvn import MultivariateNormal, OnFailure
from mxfusion_mvn.bijections import Ordered
from mxfusion_mvn.inference import MAP, BatchLoop, LaplaceApproximation, log_density
from mxfusion_mvn.inference.laplace.density import UnconstrainedDensity
from mxfusion_mvn.transformations import Positive

import mxfusion.inference as host_inference
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.components.distributions.gp.kernels import RBF, White
from mxfusion.inference import GradBasedInference
from scipy import integrate, stats

from helpers import oracles
from helpers.conjugate import regression
from helpers.host import nd
from helpers.laplace import roughly
from helpers.log_joints import CASES
from helpers.tolerances import assert_close


def near(density, rng, count=6):
    """Points about the start, some of them far."""
    return density.begin + rng.normal(size=(count, density.dim)) * np.linspace(0.1, 1.5, count)[:, None]


@pytest.mark.parametrize("name", CASES)
def test_against_closed_forms(name, dtype, engine, rng):
    """In float64 whatever the model is declared in; their gradients by central differences."""
    case = CASES[name](dtype, rng)
    density = log_density(case.model, **case.data)
    assert density.fallback_reason is None
    for point in near(density, rng):
        value, gradient = density(point)
        assert isinstance(value, float)
        assert gradient.shape == (density.dim,)
        assert gradient.dtype == np.float64
        assert value == pytest.approx(case.log_density(density, point), rel=1e-9, abs=1e-9)
        expected = oracles.central_difference(lambda x: case.log_density(density, x), point, step=1e-4)
        assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_its_values(name, engine, rng):
    case = CASES[name]("float64", rng)
    density = log_density(case.model, **case.data)
    for point in near(density, rng):
        expected = oracles.central_difference(lambda x: density(x)[0], point, step=1e-5)
        assert_close(density(point)[1], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_many_points_at_once(name, engine, rng):
    """As many as a variable has rows, and others; the points are left as they are."""
    case = CASES[name]("float64", rng)
    density = log_density(case.model, **case.data)
    for count in (1, 2, 5, 150):
        points = near(density, rng, count)
        before = points.copy()
        values, gradients = density(points)
        assert values.shape == (count,)
        assert gradients.shape == points.shape
        np.testing.assert_array_equal(points, before)
        for point, value, gradient in zip(points, values, gradients):
            one_value, one_gradient = density(point)
            assert value == pytest.approx(one_value, rel=1e-14)
            assert_close(gradient, one_gradient, rtol=1e-12, atol=1e-12)


def test_points_may_lie_anyhow_in_memory(engine, rng):
    case = CASES["regression"]("float64", rng)
    density = log_density(case.model, **case.data)
    points = near(density, rng, 8)
    values, gradients = density(points)
    for other in (np.asfortranarray(points), np.repeat(points, 2, axis=1)[:, ::2], points[::-1][::-1]):
        got, got_gradients = density(other)
        np.testing.assert_array_equal(got, values)
        np.testing.assert_array_equal(got_gradients, gradients)


@pytest.mark.parametrize("name", CASES)
def test_expand(name, dtype, rng):
    case = CASES[name](dtype, rng)
    density = log_density(case.model, **case.data)
    points = near(density, rng, 4)
    expanded = density.expand(points)
    assert list(expanded) == list(density.bijections)
    for name, values in expanded.items():
        expected = np.stack([case.values(density, point)[name] for point in points])
        assert values.dtype == np.float64
        assert_close(values, expected, rtol=1e-12, atol=1e-14)
        assert_close(density.expand(points[1])[name], expected[1], rtol=1e-12, atol=1e-14)


def test_names_and_the_start(rng):
    case = CASES["regression"]("float64", rng)
    density = log_density(case.model, **case.data)
    assert sorted(density.names) == ["raw variance", "w[0]", "w[1]", "w[2]"]
    assert density.dim == 4
    assert density.begin.shape == (4,)
    assert np.isfinite(density(density.begin)[0])
    density.begin[:] = np.nan  # a copy
    assert np.isfinite(density.begin).all()
    mean = density.expand(density.begin)["variance"]
    assert_close(mean, [[1.5]], rtol=0.2)  # of the prior
    assert type(density.bijections["variance"]).__name__ == "Positive"


def test_its_integral_is_the_evidence(engine, rng):
    """Constants and the Jacobian included: rows of unknown precision are a multivariate Student t."""
    x = rng.normal(size=(3, 1))
    model = Model()
    model.precision = host.Gamma.define_variable(nd([2.0]), nd([1.0]), (1,), dtype="float64")
    model.x = host.NormalMeanPrecision.define_variable(nd([[0.0]]), model.precision, (3, 1), dtype="float64")
    density = log_density(model, x=x)
    grid = np.linspace(-12, 6, 4001)
    evidence = integrate.trapezoid(np.exp(density(grid[:, None])[0]), grid)
    assert evidence == pytest.approx(stats.multivariate_t.pdf(x[:, 0], np.zeros(3), np.eye(3) / 2, df=4), rel=1e-9)


# Of an inference


def test_of_an_inference_it_is_what_laplace_approximates(engine, rng):
    """It begins where MAP ended, on the data of the run, and the mode is that of Laplace's approximation."""
    model, data, (mean, cov), log_evidence = regression(rng, dim=3)
    inference = roughly(MAP(model, [model.X, model.Y]), begin={model.w: [1.0, 2.0, 3.0]}, **data)
    laplace = LaplaceApproximation(inference)
    density = log_density(inference)
    assert density.names == laplace.coordinates
    np.testing.assert_array_equal(
        density.begin, inference.params[inference.inference_algorithm.location(model.w)].asnumpy()
    )
    value, gradient = density(laplace.mean)
    assert value == pytest.approx(log_evidence + stats.multivariate_normal.logpdf(mean, mean, cov), abs=1e-9)
    assert_close(gradient * np.sqrt(np.diag(cov)), np.zeros(3), rtol=0, atol=1e-5)
    for other in (log_density(inference, **data), log_density(model, **{k: v.asnumpy() for k, v in data.items()})):
        assert other(laplace.mean)[0] == pytest.approx(value, abs=1e-9)


@pytest.mark.filterwarnings("ignore:`supports`")
def test_parameters_of_an_inference_are_held_and_supports_are_its_own(engine, rng):
    x = rng.normal(size=(4, 2))
    model = Model()
    model.s = Variable(shape=(1, 1), transformation=Positive(), initial_value=nd([[0.3]]))
    model.m = MultivariateNormal(covariance=2.0, shape=(2,), dtype="float64")
    model.x = MultivariateNormal(mean=model.m, covariance=model.s, shape=(4, 2), dtype="float64")
    inference = roughly(MAP(model, [model.x], supports={model.m: Ordered()}), x=nd(x))
    variance = inference.params[model.s].asnumpy().item()
    density = log_density(inference)
    point = np.array([0.4, -0.7])
    m = np.array([0.4, 0.4 + np.exp(-0.7)])
    expected = stats.norm.logpdf(m, 0, np.sqrt(2)).sum() + stats.norm.logpdf(x, m, np.sqrt(variance)).sum() - 0.7
    assert density(point)[0] == pytest.approx(expected, abs=1e-9)
    assert_close(density.expand(point)["m"], m, rtol=1e-12)
    with pytest.raises(
        InferenceError, match=r"`source`: got a model in which s has neither data nor a prior; expected .* Pass data by"
    ):
        log_density(model, x=x)


def test_of_mxfusions_map(engine, rng):
    case = CASES["matrices"]("float64", rng)
    inference = GradBasedInference(host_inference.MAP(case.model, [case.model.x]), dtype="float64")
    data = {"x": nd(case.data["x"])}
    inference.initialize(**data)
    algorithm = inference.inference_algorithm
    inference.params[algorithm.posterior.covariance.factor.location] = nd(np.eye(2))
    inference.params[algorithm.posterior.factor.factor.location] = nd(np.eye(2))
    density = log_density(inference, **data)
    assert_close(density.begin, np.zeros(4), rtol=0, atol=1e-12)
    point = near(density, rng, 1)[0]
    assert density(point)[0] == pytest.approx(case.log_density(density, point), abs=1e-9)


# Where there is no density


def variance_of_normals(on_failure=None):
    """A variance that may be negative."""
    model = Model()
    model.v = MultivariateNormal(mean=nd([[4.0]]), covariance=4.0, shape=(1, 1), dtype="float64")
    model.x = MultivariateNormal(covariance=model.v, shape=(3, 1), on_failure=on_failure, dtype="float64")
    return model


def assert_none(value, gradient):
    assert value == -np.inf
    assert np.isnan(gradient).all()


@pytest.mark.parametrize("on_failure", [None, OnFailure("raise")])
def test_where_a_factorisation_fails(on_failure, engine, rng):
    """A rejected step, and no exception: between points that are right, one by one and at once."""
    x = rng.normal(size=(3, 1))
    density = log_density(variance_of_normals(on_failure), x=x)
    assert (density.fallback_reason is None) == (on_failure is None)
    points = np.array([[2.0], [-1.0], [3.0], [-2.0], [-3.0], [0.5]])
    values, gradients = density(points)
    assert gradients.shape == (6, 1)
    for point, value, gradient in zip(points, values, gradients):
        one_value, one_gradient = density(point)
        if point[0] < 0:
            assert_none(one_value, one_gradient)
            assert_none(value, gradient)
            continue
        expected = stats.norm.logpdf(point, 4, 2).item() + stats.norm.logpdf(x, 0, np.sqrt(point)).sum()
        assert one_value == pytest.approx(expected, abs=1e-9)
        assert np.isfinite(one_gradient).all()
        assert value == pytest.approx(one_value, rel=1e-14)
    mx.nd.waitall()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_where_numbers_end(bad, engine, rng):
    """A sampler that diverges asks for such points."""
    case = CASES["regression"]("float64", rng)
    density = log_density(case.model, **case.data)
    value, gradient = density(density.begin)
    for position in range(density.dim):
        if bad == 1e200 and density.names[position] == "raw variance":
            continue  # its log density is finite
        point = density.begin
        point[position] = bad
        assert_none(*density(point))
    again, gradient_again = density(density.begin)
    assert again == value
    np.testing.assert_array_equal(gradient_again, gradient)


def test_what_is_not_compiled_is_evaluated_as_mxfusion_does(engine, rng):
    """A policy that repairs matrices reads them."""
    x = rng.normal(size=(3, 1))
    density = log_density(variance_of_normals(OnFailure("jitter")), x=x)
    assert "reads the value of an array" in density.fallback_reason
    points = rng.uniform(1, 5, size=(7, 1))
    expected = stats.norm.logpdf(points[:, 0], 4, 2) + stats.norm.logpdf(x, 0, np.sqrt(points[:, 0])).sum(axis=0)
    values, gradients = density(points)
    assert_close(values, expected, rtol=1e-12)
    for point, value, gradient in zip(points, values, gradients):
        assert density(point)[0] == pytest.approx(value, rel=1e-14)
        assert_close(gradient, oracles.central_difference(lambda p: density(p)[0], point, step=1e-5), rtol=1e-7)


def test_a_program_that_turns_out_wrong_is_used_no_more(engine, rng, monkeypatch):
    """Where that shows among many points, all of them are evaluated as MXFusion does."""
    calls = []
    evaluate = UnconstrainedDensity._negative_log_density

    def changing(self, x):
        calls.append(x)
        return evaluate(self, x) * (1 if len(calls) <= 2 else 3)

    monkeypatch.setattr(UnconstrainedDensity, "_negative_log_density", changing)
    case = CASES["normal_mean"]("float64", rng)
    density = log_density(case.model, **case.data)
    points = near(density, rng, 150)
    expected = [3 * case.log_density(density, point) for point in points]
    values, gradients = density(points)
    assert "not the same computation each time" in density.fallback_reason
    assert_close(values, expected, rtol=1e-9)
    slope = oracles.central_difference(lambda x: 3 * case.log_density(density, x), points[0], step=1e-4)
    assert_close(gradients[0], slope, rtol=1e-6)


# Threads


@pytest.mark.parametrize("compiled", [True, False])
def test_ten_threads_at_once(compiled, engine, rng):
    """Each gets the values of its own points, at comparisons of the program, too."""
    x = rng.normal(size=(3, 1))
    density = log_density(variance_of_normals(None if compiled else OnFailure("jitter")), x=x)
    count = 60 if compiled else 8
    points = rng.uniform(1, 5, size=(10, count, 1))
    points[:, 3] = -1.0 if compiled else 2.0
    expected = [density(each) for each in points]
    barrier = threading.Barrier(10)

    def evaluate(each):
        barrier.wait()
        return [density(point) for point in each], density.expand(each)

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(evaluate, points))
    for each, (values, gradients), (got, expanded) in zip(points, expected, found):
        assert_close(np.array([value for value, _ in got]), values, rtol=1e-14)
        assert_close(np.array([gradient for _, gradient in got]), gradients, rtol=1e-12)
        assert_close(expanded["v"], each.reshape(count, 1, 1), rtol=0)
    assert (density.fallback_reason is None) == compiled


# What is refused


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([0.0, 0.0], r"`points`: got a list; expected a NumPy array of float64\. Write np\.asarray\(points, dtype="),
        (1.0, r"`points`: got 1\.0; expected a NumPy array of float64"),
        (np.zeros(2, "float32"), r"`points`: got dtype float32; expected float64\. Write points\.astype\('float64'\)"),
        (np.zeros(2, "int64"), r"`points`: got dtype int64; expected float64"),
        (np.zeros(3), r"`points`: got shape \(3,\); expected \(2,\), or \(K, 2\) for K points\. names has the"),
        (np.zeros((2, 3)), r"`points`: got shape \(2, 3\); expected \(2,\), or \(K, 2\)"),
        (np.zeros((1, 1, 2)), r"`points`: got shape \(1, 1, 2\); expected"),
        (np.zeros((0, 2)), r"`points`: got shape \(0, 2\); expected"),
        (np.zeros(()), r"`points`: got shape \(\); expected"),
    ],
)
def test_points_that_are_none(points, message, rng):
    case = CASES["normal_mean"]("float64", rng)
    density = log_density(case.model, **case.data)
    for function in (density, density.expand):
        with pytest.raises(InferenceError, match=message):
            function(points)


def test_sources_and_data_that_do_not_fit(rng):
    case = CASES["regression"]("float64", rng)
    model, data = case.model, case.data
    with pytest.raises(InferenceError, match=r"`source`: got 3; expected a Model or an Inference\. Write log_density"):
        log_density(3, **data)
    with pytest.raises(
        InferenceError, match=r"`Y`: got data for what is not in the model; expected .*Did you mean y\?"
    ):
        log_density(model, X=data["X"], Y=data["y"])
    with pytest.raises(InferenceError, match=r"`source`: got a model in which X has neither data nor a prior"):
        log_density(model, y=data["y"])
    with pytest.raises(
        InferenceError, match=r"`other`: got data for what is not in the model; expected .* Leave it out"
    ):
        log_density(model, other=data["X"], **data)
    with pytest.raises(InferenceError, match=r"`X`: got shape \(6, 2\); expected \(N, 3\)"):
        log_density(model, X=data["X"][:, :2], y=data["y"])
    with pytest.raises(InferenceError, match=r"`source`: its log density is not finite at the means of its priors; .*"):
        log_density(model, X=data["X"], y=np.inf * data["y"])
    inference = GradBasedInference(MAP(model, [model.X, model.y]), grad_loop=BatchLoop(), dtype="float64")
    with pytest.raises(InferenceError, match=r"`source`: got one without values; expected a finished one"):
        log_density(inference)


def test_models_without_a_density(rng):
    model = Model()
    model.m = Variable(shape=(2,))
    model.x = MultivariateNormal(mean=model.m, shape=(2,), dtype="float64")
    with pytest.raises(InferenceError, match=r"`source`: its model has no latent variables; expected some\. Give one"):
        log_density(model, x=np.zeros(2))
    model = Model()
    model.z = host.Bernoulli.define_variable(nd([0.5]), (1,), dtype="float64")
    with pytest.raises(ModelSpecificationError, match=r"`z` is discrete \(Bernoulli\)"):
        log_density(model)


def test_a_kernel_in_float32_is_named_as_the_reason(rng):
    """MXFusion's kernels are declared in float32 unless one says otherwise; in float64 there is a density."""
    inputs = np.linspace(0, 1, 4)[:, None]

    def process(dtype):
        model = Model()
        model.noise = host.Gamma.define_variable(nd([2.0]), nd([2.0]), (1,), dtype="float64")
        one = Variable(value=nd([1.0]))
        kernel = RBF(1, variance=one, lengthscale=one, dtype=dtype) + White(1, variance=model.noise, dtype=dtype)
        covariance = kernel(Variable(value=nd(inputs)))
        model.y = MultivariateNormal(covariance=covariance, shape=(4,), dtype="float64")
        return model

    y = rng.normal(size=4)
    with pytest.raises(InferenceError, match=r"not finite at the means .* computes in float32 only, as a kernel does"):
        log_density(process("float32"), y=y)
    model = process("float32")
    initialized = GradBasedInference(MAP(model, [model.y]))
    initialized.initialize(y=nd(y))
    with pytest.raises(InferenceError, match=r"not finite where it ended; .* computes in float32 only"):
        log_density(initialized, y=y)
    density = log_density(process("float64"), y=y)
    noise = np.exp(-0.3)
    covariance = np.exp(-0.5 * (inputs - inputs.T) ** 2) + noise * np.eye(4)
    expected = stats.multivariate_normal.logpdf(y, np.zeros(4), covariance) + stats.gamma.logpdf(noise, 2, scale=0.5)
    assert density(np.array([-0.3]))[0] == pytest.approx(expected - 0.3, abs=1e-9)
