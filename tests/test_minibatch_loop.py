# SPDX-License-Identifier: Apache-2.0
"""Minibatches: every row counts as it should, in batches of any size, and what cannot be subsampled is refused."""

import warnings

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import BatchLoop, MinibatchLoop
from mxfusion_mvn.inference.loops.batches import Batches

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import GaussianProcess, Normal
from mxfusion.components.distributions import MultivariateNormal as HostMultivariateNormal
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.components.functions import MXFusionGluonFunction
from mxfusion.inference import MAP, BatchInferenceLoop, GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from mxfusion.modules.gp_modules import SVGPRegression
from scipy.stats import multivariate_normal

from helpers.host import nd
from helpers.runs import stopped
from helpers.tolerances import assert_close

N, D = 60, 3
COVARIANCE = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 0.8]])


@pytest.fixture
def data(rng):
    return rng.multivariate_normal([1.0, 2.0, 3.0], COVARIANCE, size=N)


def still(iteration):
    """A learning rate at which nothing moves."""
    return 0.0


def conjugate_model():
    """X ~ N(mu, COVARIANCE), mu ~ N(0, I)."""
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=nd(np.eye(D)), shape=(D,), dtype="float64")
    model.X = MultivariateNormal(model.mu, nd(COVARIANCE), shape=(model.N, D), dtype="float64")
    return model


def map_inference(loop, model=None, observed=("X",), dtype="float64"):
    model = conjugate_model() if model is None else model
    return GradBasedInference(MAP(model, [getattr(model, name) for name in observed]), grad_loop=loop, dtype=dtype)


def location(inference):
    return next(iter(inference.params.param_dict.values()))


def oracle_loss(mu, rows, scaling=1.0):
    likelihood = multivariate_normal(mu, COVARIANCE).logpdf(rows).sum()
    return -scaling * likelihood - multivariate_normal(np.zeros(D), np.eye(D)).logpdf(mu)


def oracle_gradient(mu, rows, scaling=1.0):
    return mu - scaling * np.linalg.solve(COVARIANCE, (rows - mu).sum(0))


# Every row counts


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"), [(60, 25, [25, 25, 10]), (60, 20, [20] * 3), (7, 3, [3, 3, 1])]
)
def test_an_epoch_sees_every_row_once_in_a_new_order(rows, batch_size, sizes):
    batches = Batches(rows, batch_size, seed=5)
    assert batches.steps_per_epoch == len(sizes)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * len(sizes), (epoch + 1) * len(sizes))
        chosen = [batches.rows_of(step).asnumpy() for step in steps]
        assert [len(c) for c in chosen] == sizes
        epochs.append(np.concatenate(chosen))
        np.testing.assert_array_equal(np.sort(epochs[-1]), np.arange(rows))
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(batches.rows_of(0).asnumpy(), epochs[0][: sizes[0]])


def test_every_row_is_in_the_last_batch_as_often():
    batches = Batches(12, 5, seed=3)
    counts = np.bincount(np.concatenate([batches.rows_of(3 * epoch + 2).asnumpy() for epoch in range(1000)]))
    # Each is a binomial count with p = 2 / 12; the largest of twelve deviations.
    assert np.abs(counts - 1000 / 6).max() < 4 * np.sqrt(1000 * 1 / 6 * 5 / 6)


@pytest.mark.parametrize("batch_size", [20, 25, 59, 1])
def test_losses_and_gradients_of_an_epoch(batch_size, data):
    """Each batch counts N over its own size, so that weighted by their sizes they give the whole exactly."""
    gradients = []
    loop = MinibatchLoop(
        batch_size,
        schedule=still,
        check_every=1,
        checkpoint=lambda record: gradients.append(location(inference).grad().asnumpy()),
    )
    inference = map_inference(loop)
    record = inference.run(X=nd(data), max_iter=1)
    sizes = [min(batch_size, N - start) for start in range(0, N, batch_size)]
    mu = location(inference).data().asnumpy()
    assert record.iterations == len(sizes)
    assert_close(np.dot(sizes, record.loss) / N, oracle_loss(mu, data), rtol=1e-11)
    assert_close(np.dot(sizes, gradients) / N, oracle_gradient(mu, data), rtol=1e-10)


def test_the_gradient_is_unbiased_though_the_last_batch_is_smaller(data):
    gradients = []
    loop = MinibatchLoop(
        25,
        schedule=still,
        check_every=1,
        checkpoint=lambda record: gradients.append(location(inference).grad().asnumpy()),
    )
    inference = map_inference(loop)
    inference.run(X=nd(data), max_iter=100)
    epochs = np.array(gradients).reshape(100, 3, D).mean(axis=1)
    error = epochs.mean(axis=0) - oracle_gradient(location(inference).data().asnumpy(), data)
    assert (np.abs(error) < 3.5 * epochs.std(axis=0) / 10).all()
    assert (epochs.std(axis=0) > 0).all()


def test_one_batch_of_all_rows_is_the_whole(data):
    model = conjugate_model()
    inferences = [map_inference(loop, model) for loop in (BatchInferenceLoop(), MinibatchLoop(N))]
    for inference in inferences:
        mx.random.seed(3)
        inference.initialize(X=(N, D))
        location(inference).set_data(nd([0.3, -0.2, 0.1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host's, of initializing twice
        for inference in inferences:
            inference.run(X=nd(data), max_iter=30, learning_rate=0.1)
    one, other = (location(inference).data().asnumpy() for inference in inferences)
    np.testing.assert_array_equal(one, other)


def test_modules_of_the_host_are_scaled(rng):
    """The bound of a sparse variational Gaussian process: its batches average to the bound of the whole."""
    inputs = rng.uniform(-3, 3, size=(12, 1))
    model = Model()
    model.N = Variable()
    model.X = Variable(shape=(model.N, 1))
    model.noise = Variable(shape=(1,), initial_value=nd([0.1]))
    kernel = RBF(input_dim=1, variance=1.0, lengthscale=1.0, dtype="float64")
    model.Y = SVGPRegression.define_variable(
        X=model.X, kernel=kernel, noise_var=model.noise, shape=(model.N, 1), num_inducing=3, dtype="float64"
    )
    model.Y.factor.svgp_log_pdf.jitter = 1e-6
    algorithm = MAP(model, [model.X, model.Y])
    whole = GradBasedInference(algorithm, grad_loop=BatchLoop(schedule=still), dtype="float64")
    expected = whole.run(X=nd(inputs), Y=nd(np.sin(inputs)), max_iter=1).loss
    parts = GradBasedInference(algorithm, grad_loop=MinibatchLoop(4, schedule=still), dtype="float64")
    parts.initialize(X=(12, 1), Y=(12, 1))
    for uuid, parameter in parts.params.param_dict.items():
        parameter.set_data(whole.params.param_dict[uuid].data())
    record = parts.run(X=nd(inputs), Y=nd(np.sin(inputs)), max_iter=1)
    assert_close(record.loss.mean(), expected[0], rtol=1e-10)


# The host warns of any function in a posterior.
@pytest.mark.filterwarnings("ignore:Function evaluation in FactorGraph:UserWarning")
def test_local_latent_variables_are_scaled_in_model_and_posterior(rng):
    model = Model()
    model.N = Variable()
    model.z = MultivariateNormal(covariance=mx.nd.ones((1, 1)), shape=(model.N, 1))
    model.w = MultivariateNormal(covariance=mx.nd.ones((1, 1)), shape=(1,))
    model.X = MultivariateNormal(model.z, mx.nd.ones((1, 1)), shape=(model.N, 1))
    posterior = Posterior(model)
    encoder = mx.gluon.nn.Dense(1, in_units=1, flatten=False)
    encoder.initialize()
    posterior.encoded = MXFusionGluonFunction(encoder, num_outputs=1, broadcastable=True)(posterior.X)
    posterior.encoded.shape = (model.N, 1)
    posterior.z.set_prior(MultivariateNormal(posterior.encoded, mx.nd.ones((1, 1))))
    posterior.w.set_prior(MultivariateNormal(Variable(shape=(1,)), mx.nd.ones((1, 1))))
    seen = []

    def look(record):
        factors = [graph[v.uuid].factor for v in (model.z, model.w) for graph in (model, posterior)]
        seen.append([factor.log_pdf_scaling for factor in [*factors, model.X.factor]])

    loop = MinibatchLoop(25, checkpoint=look, check_every=1)
    algorithm = StochasticVariationalInference(2, model, posterior, [model.X])
    record = GradBasedInference(algorithm, grad_loop=loop).run(X=nd(rng.normal(size=(N, 1)), "float32"), max_iter=1)
    assert record.reason == "max_iter"
    assert_close(seen, [[s, s, 1, 1, s] for s in (60 / 25, 60 / 25, 60 / 10)], rtol=1e-12)


def test_data_without_rows_are_passed_on_whole(data):
    model = Model()
    model.N = Variable()
    model.shift = Variable(shape=(D,))
    model.mu = Variable(shape=(D,), initial_value=nd(np.zeros(D)))
    model.X = MultivariateNormal(model.mu + model.shift, nd(COVARIANCE), shape=(model.N, D), dtype="float64")
    inference = map_inference(MinibatchLoop(20, schedule=still), model, observed=("X", "shift"))
    shift = np.array([0.1, 0.2, 0.3])
    record = inference.run(X=nd(data), shift=nd(shift), max_iter=1)
    expected = -multivariate_normal(shift, COVARIANCE).logpdf(data).sum()
    assert_close(record.loss.mean(), expected, rtol=1e-11)


# The run


def test_the_run_is_recorded_by_batches(data):
    rates = []
    loop = MinibatchLoop(25, schedule=lambda iteration: rates.append(iteration) or 0.1)
    inference = map_inference(loop)
    record = inference.run(X=nd(data), max_iter=7)
    assert record.iterations == 21
    assert rates == list(range(21))


def test_the_model_is_left_with_the_whole_data(data):
    inference = map_inference(MinibatchLoop(25))
    inference.run(X=nd(data), max_iter=2)
    model = inference.inference_algorithm.model
    assert inference.params.constants[model.N.uuid] == N
    assert model.X.factor.log_pdf_scaling == 1


def test_it_converges_to_the_posterior_mode(data):
    loop = MinibatchLoop(20, schedule=lambda iteration: 0.3 * 0.97**iteration)
    inference = map_inference(loop)
    inference.run(X=nd(data), max_iter=70)
    precision = np.linalg.inv(COVARIANCE)
    mode = np.linalg.solve(np.eye(D) + N * precision, N * precision @ data.mean(0))
    deviations = np.sqrt(np.diag(np.linalg.inv(np.eye(D) + N * precision)))
    assert (np.abs(location(inference).data().asnumpy() - mode) < 0.3 * deviations).all()


def test_the_seed_of_mxnet_alone_makes_it_reproducible(data):
    results, model = [], conjugate_model()
    for seed, other in ((3, 1), (3, 2), (4, 1)):
        mx.random.seed(seed)
        np.random.seed(other)
        before = np.random.get_state()[1].copy()
        inference = map_inference(MinibatchLoop(25), model)
        inference.initialize(X=(N, D))
        location(inference).set_data(nd(np.zeros(D)))
        results.append(inference.run(X=nd(data), max_iter=3, learning_rate=0.1).loss)
        np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_a_failure_is_met_again_in_the_same_batches():
    """The steps that are repeated see the rows they saw, over the end of an epoch, wherever the checks fall."""
    rows = np.linspace(-2.0, 2.0, 20)[:, None]
    model = Model()
    model.N = Variable()
    model.variance = Variable(shape=(1,), initial_value=nd([40.0]))
    model.X = Normal.define_variable(mean=nd([0.0]), variance=model.variance, shape=(model.N, 1), dtype="float64")
    outcomes = []
    for check_every in (1, 11, 1000):
        mx.random.seed(2)
        inference = map_inference(MinibatchLoop(7, check_every=check_every), model)
        with stopped():
            record = inference.run(X=nd(rows), max_iter=100, learning_rate=3.0, optimizer="sgd")
        outcomes.append((record.message, record.loss.tolist(), location(inference).data().asscalar()))
    assert 10 < len(outcomes[0][1])
    assert outcomes[0][0].startswith(
        f"The loss of iteration {len(outcomes[0][1])} is nan: the log density of `X` is nan"
    )
    assert outcomes[0] == outcomes[1] == outcomes[2]


# What is refused


def test_a_batch_larger_than_the_data(data):
    with pytest.raises(
        InferenceError, match="`batch_size`: got 100 for data of 60 rows; expected at most 60. Use a sma"
    ):
        map_inference(MinibatchLoop()).run(X=nd(data))


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, None])
def test_a_batch_size_that_is_none(batch_size):
    with pytest.raises(InferenceError, match="`batch_size`: got .*; expected an integer of at least 1"):
        MinibatchLoop(batch_size)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (lambda m: {m.X: 2.0}, "`rv_scaling`: got 2 for `X`; expected 3, that is 60 rows / a batch of 20. Leave"),
        (lambda m: {}, "`rv_scaling`: got 1 for `X`; expected 3, that is 60 rows / a batch of 20"),
        (lambda m: {m.X: 3.0, m.mu: 3.0}, "`rv_scaling`: got 3 for `mu`; expected 1, for it has no row for each row"),
        (lambda m: {m.X: 3.0, Variable(): 2.0}, "`rv_scaling`: got 2 for a variable of another model; expected 1"),
    ],
)
def test_a_scaling_that_is_wrong(scaling, message, data):
    model = conjugate_model()
    with pytest.raises(InferenceError, match=message):
        map_inference(MinibatchLoop(20, scaling(model)), model).run(X=nd(data))


def test_a_scaling_that_is_right(data):
    model = conjugate_model()
    record = map_inference(MinibatchLoop(20, {model.X: 60 / 20}, schedule=still), model).run(X=nd(data), max_iter=1)
    assert record.reason == "max_iter"


@pytest.mark.parametrize("kind", ["MultivariateNormal", "host", "GaussianProcess"])
def test_rows_that_depend_on_each_other(kind, data):
    model = Model()
    model.N = Variable()
    if kind == "GaussianProcess":
        model.inputs = Variable(shape=(model.N, 1))
        model.X = GaussianProcess.define_variable(X=model.inputs, kernel=RBF(input_dim=1), shape=(model.N, 1))
        observed, given = ("X", "inputs"), {"X": data[:, :1], "inputs": data[:, 1:2]}
    else:
        distribution = HostMultivariateNormal if kind == "host" else MultivariateNormal
        model.X = distribution.define_variable(mean=mx.nd.zeros(N), covariance=nd(np.eye(N)), shape=(model.N,))
        observed, given = ("X",), {"X": data[:, 0]}
    with pytest.raises(InferenceError, match="`X`: got a .*, whose rows depend on each other; expected independent"):
        map_inference(MinibatchLoop(20), model, observed).run(**{name: nd(value) for name, value in given.items()})


def test_a_parameter_for_each_row(data):
    model = Model()
    model.N = Variable()
    model.z = MultivariateNormal(shape=(model.N, D), covariance=nd(np.eye(D)), dtype="float64")
    model.X = MultivariateNormal(model.z, nd(COVARIANCE), shape=(model.N, D), dtype="float64")
    message = (
        "The parameter `location of z` has a row for each of the 60 rows of the data; expected parameters that all"
    )
    with pytest.raises(InferenceError, match=message):
        map_inference(MinibatchLoop(20), model).run(X=nd(data))


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        (True, r"`inputs`: got shape \(59, 3\); expected \(N, 3\) with N = 60 as in `X`"),
        (False, "got 60 rows of `X`, 59 rows of `inputs`; expected as many of each"),
    ],
)
def test_data_of_different_lengths(shared, message, data):
    model = Model()
    model.N = Variable()
    model.M = Variable()
    model.inputs = Variable(shape=(model.N if shared else model.M, D))
    model.X = MultivariateNormal(model.inputs, nd(COVARIANCE), shape=(model.N, D), dtype="float64")
    with pytest.raises(InferenceError, match=message):
        map_inference(MinibatchLoop(20), model, ("X", "inputs")).run(X=nd(data), inputs=nd(data[1:]))


def test_a_model_without_rows(data):
    model = Model()
    model.X = MultivariateNormal(Variable(shape=(D,)), nd(COVARIANCE), shape=(N, D), dtype="float64")
    with pytest.raises(
        InferenceError, match="The model has no rows to choose from; expected an observed variable whose"
    ):
        map_inference(MinibatchLoop(20), model).run(X=nd(data))
