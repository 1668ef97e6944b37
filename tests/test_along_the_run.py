# SPDX-License-Identifier: Apache-2.0
"""Compiled runs are the imperative ones at every iteration, not only where they are compiled.

All objectives, all examples and all models of the benchmark; and sizes at which libraries compute by other algorithms.
"""

import importlib
from pathlib import Path

from mxfusion_mvn.inference import BatchLoop, CompiledLoop, CompiledMinibatchLoop, MinibatchLoop

import mxfusion.common.config
import mxnet as mx
import numpy as np
import pytest
from mxfusion.inference import GradBasedInference

from helpers import objectives, sized_models
from helpers.along_the_run import assert_same, distance, run
from helpers.examples_runner import EXAMPLES

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BATCH = CompiledLoop, BatchLoop
MINIBATCH = (lambda: CompiledMinibatchLoop(32), lambda: MinibatchLoop(32))


@pytest.fixture
def float64_objectives(monkeypatch):
    """The objectives are written in float32; here all their arrays are made in float64."""
    make = objectives.nd
    monkeypatch.setattr(objectives, "nd", lambda array, dtype="float64": make(array, "float64"))
    monkeypatch.setattr(mxfusion.common.config, "DEFAULT_DTYPE", "float64")


@pytest.mark.parametrize("name", sorted(set(objectives.COMPILED) - set(objectives.IN_FLOAT64)))
def test_objectives(name):
    assert_same(*BATCH, *objectives.COMPILED[name](), "float32")


@pytest.mark.parametrize("name", sorted(objectives.COMPILED))
@pytest.mark.usefixtures("float64_objectives")
def test_objectives_in_float64(name):
    assert_same(*BATCH, *objectives.COMPILED[name](), "float64")


# Sizes


SIZES = {
    "net, small": lambda dtype: sized_models.net(16, 10, dtype),
    "net, many rows": lambda dtype: sized_models.net(16, 2000, dtype),
    "net, middling": lambda dtype: sized_models.net(64, 50, dtype),
    "net, middling, more rows": lambda dtype: sized_models.net(64, 400, dtype),
    "net, wide, few rows": lambda dtype: sized_models.net(256, 10, dtype),
    "net, wide": lambda dtype: sized_models.net(256, 400, dtype),
    "covariance, 64": lambda dtype: sized_models.covariance(64, 400, dtype),
    "covariance, 200": lambda dtype: sized_models.covariance(200, 400, dtype),
    "precision, 200": lambda dtype: sized_models.precision(200, 50, dtype),
    "correlations, 64": lambda dtype: sized_models.correlation(64, 50, dtype),
    "low rank": lambda dtype: sized_models.low_rank(400, 20, 50, dtype),
    "posterior, 64": lambda dtype: sized_models.posterior(64, 400, dtype),
    "posterior, 300": lambda dtype: sized_models.posterior(300, 10, dtype),
    "process, ARD": lambda dtype: sized_models.process(5, 50, dtype),
    "process, ARD, more rows": lambda dtype: sized_models.process(3, 200, dtype),
    "dropout": lambda dtype: sized_models.net(64, 400, dtype, lambda: mx.gluon.nn.Dropout(0.4)),
    "batch norm": lambda dtype: sized_models.net(64, 400, dtype, lambda: mx.gluon.nn.BatchNorm(in_channels=64)),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name, dtype):
    assert_same(*BATCH, *SIZES[name](dtype), dtype)


def test_largest_covariances():
    """In float32 only, where MXNet leaves more to oneDNN."""
    for make in (sized_models.covariance, sized_models.correlation):
        assert_same(*BATCH, *make(300, 400, "float32"), "float32", steps=30)
    assert_same(*BATCH, *sized_models.low_rank(400, 20, 2000, "float32"), "float32", steps=30)


ROWS = {
    "net": lambda dtype: sized_models.net(64, 100, dtype),
    "covariance": lambda dtype: sized_models.covariance(64, 100, dtype),
    "low rank": lambda dtype: sized_models.low_rank(64, 5, 100, dtype),
    "posterior": lambda dtype: sized_models.posterior(16, 100, dtype),
}


@pytest.mark.parametrize("name", ROWS)
def test_minibatches(name, dtype):
    """Batches of 32, 32, 32 and 4 rows in each epoch."""
    assert_same(*MINIBATCH, *ROWS[name](dtype), dtype, steps=9)


@pytest.mark.parametrize("name", ["covariance", "posterior"])
def test_several_steps_at_once(name, dtype):
    algorithm, data = getattr(sized_models, name)(6, 50, dtype)
    assert_same(*BATCH, algorithm, data, dtype, steps=200)


@pytest.mark.parametrize("optimizer", "sgd nag adamax nadam ftml signum lamb".split())
def test_optimizers(optimizer, dtype):
    algorithm, data = sized_models.covariance(64, 50, dtype)
    assert_same(*BATCH, algorithm, data, dtype, optimizer=optimizer, learning_rate=1e-3)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adagrad", "adadelta"])
def test_optimizers_that_mxnet_has_in_float32_only(optimizer):
    algorithm, data = sized_models.net(64, 50, "float32")
    assert_same(*BATCH, algorithm, data, "float32", optimizer=optimizer, learning_rate=1e-3)


# Examples


@pytest.fixture
def fits(monkeypatch):
    """The algorithm, the data and the dtype of every inference that was run, by the inference; each is run but once."""
    found, original = {}, GradBasedInference.run

    def note(inference, **options):
        names = inference.observed_variable_names
        if inference not in found:
            data = {name: options[name].asnumpy() for name in names}
            found[inference] = inference._inference_algorithm, data, np.dtype(inference.dtype).name
        return original(inference, **options)

    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(EXAMPLES))
        patched.setattr(GradBasedInference, "run", note)
        yield found


def _standardised(table):
    return (table - np.nanmean(table, axis=0)) / np.nanstd(table, axis=0)


def _columns(module, name, columns):
    return _standardised(module.read_table(f"{name}.csv", columns))


def _process(module):
    time = np.arange(40)[:, np.newaxis] / module.DAYS_A_WEEK
    return module.fit_process(time, _standardised(module.read_temperatures()[1][:40]), 1)


def _quickstart(module):
    species = list(module.read_penguins(module.DATA).values())
    everyone = np.concatenate(species)
    return module.fit((species[0] - everyone.mean(axis=0)) / everyone.std(axis=0), 2)


def _returns(module):
    returns = 100 * np.diff(np.log(module.read_table("eustockmarkets.csv", module.MARKETS)), axis=0)
    return [module.learn(student, returns[:400], returns[:5], 1) for student in (False, True)]


def _random_effects(module):
    days, _, reaction = module.read_reaction_times()
    return module.approximate_posterior(days, reaction, 1)


def _regression(module):
    x, y = module.read_patients()
    return module.approximations(x, y, module.residual_variance(x, y), 50)


# How each example fits its models, and how many models it has.
FITS = {
    "bayesian_linear_regression": (_regression, 5),
    "gaussian_process": (_process, 1),
    "kalman_smoothing": (lambda m: m.fit_variances(m.read_table("nile.csv", ["value"])[:, 0], 1), 1),
    "missing_data": (lambda m: m.fit_missing(_columns(m, "airquality", m.COLUMNS), 1), 1),
    "mixture": (lambda m: m.fit_mixture(_columns(m, "faithful", ["eruptions", "waiting"]), 1), 1),
    "probabilistic_pca": (lambda m: m.fit_factors(_standardised(m.read_penguins()[1]), 1), 1),
    "quickstart": (_quickstart, 2),
    "random_effects": (_random_effects, 1),
    "robust_returns": (_returns, 2),
}


def test_every_example_that_fits_a_model_is_here():
    texts = {path.stem: path.read_text() for path in EXAMPLES.glob("[a-z]*.py")}
    assert {name for name, text in texts.items() if "= Model()" in text} == set(FITS)


@pytest.mark.parametrize("name", FITS)
def test_examples(name, fits):
    fit, count = FITS[name]
    fit(importlib.import_module(name))
    captured = list(fits.values())
    assert len(captured) == count
    for algorithm, data, dtype in captured:
        assert_same(*BATCH, algorithm, data, dtype)


# The benchmark


@pytest.fixture
def ours(monkeypatch):
    """The module that trains in the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("ours")


# The data of each model, where they have another name, and its guides, where they are others than for most.
DATA = {
    "mean, host's class": "mean",
    "univariate normals": "mean",
    "Gluon net": "neural_net",
    "sparse process": "process",
}
GUIDES = {
    "neural net": ("delta", "meanfield"),
    "volatility": ("delta", "meanfield"),
    "mean, host's class": ("host's fullrank",),
    "univariate normals": ("host's meanfield",),
    "Gluon net": ("host's meanfield",),
    "sparse process": ("delta",),
}
ROWS_OF_THE_BENCHMARK = [
    (name, guide)
    for name in (
        "mean",
        "mean and covariance",
        "regression",
        "sleepstudy",
        "neural net",
        "process",
        "eight schools",
        "conjugate normal",
        "mixture",
        "LKJ hierarchy",
        "factor model",
        "Student t",
        "logistic",
        "volatility",
        "mean, host's class",
        "univariate normals",
        "Gluon net",
        "sparse process",
    )
    for guide in GUIDES.get(name, ("delta", "fullrank"))
]


def test_every_row_of_the_benchmark_is_here(ours):
    assert set(ours.MODELS) == {name for name, _ in ROWS_OF_THE_BENCHMARK}


@pytest.mark.parametrize(("name", "guide"), ROWS_OF_THE_BENCHMARK)
def test_benchmark(name, guide, ours):
    data = getattr(ours.problems, DATA.get(name, name.lower().replace(" ", "_")))()
    model, observed = ours.MODELS[name](data)
    case = {"guide": guide, "samples": 3}
    algorithm = ours._algorithm(case, model, [getattr(model, variable) for variable in observed])
    assert_same(*BATCH, algorithm, observed, "float32", learning_rate=1e-3)


# The comparison itself


def test_another_run_is_told_apart(dtype):
    algorithm, data = sized_models.covariance(6, 50, dtype)
    one, other = (run(BatchLoop(), algorithm, data, dtype, learning_rate=rate) for rate in (0.01, 0.01001))
    assert min(distance(one, other)) > 1e-5
    assert max(distance(one, one)) == 0
