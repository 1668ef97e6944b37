# SPDX-License-Identifier: Apache-2.0
"""Steps of compiled runs take arrays whose sizes do not grow with the number of rows."""

from mxfusion_mvn import (
    LowRankMultivariateNormal,
    MultivariateNormal,
)
from mxfusion_mvn.compiler.graph import CONSTANT
from mxfusion_mvn.totals import statistics

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import GradBasedInference

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import assert_close
from helpers.totals import FORMS, as_factor, sizes, traced

ROWS, DIM = 1001, 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of_mean", [(1,), (7,)])
def test_number_of_rows_is_in_no_array_of_a_step(form, of_mean, rng):
    arrays = {"random_variable": rng.normal(size=(1, ROWS, DIM)), "mean": rng.normal(size=of_mean + (DIM,))}
    arrays[form] = oracles.FROM_COVARIANCE[form](oracles.random_spd(rng, (1,), DIM))
    axes, numbers = sizes(traced(as_factor(MultivariateNormal, arrays), arrays, ("mean", form)))
    assert max(axes) < 20
    # Nor is there a matrix for each sample.
    assert max(numbers) < 7 * DIM**2


def test_number_of_rows_is_in_no_array_of_a_low_rank_step(rng):
    arrays = {
        "random_variable": rng.normal(size=(1, ROWS, DIM)),
        "mean": rng.normal(size=(1, DIM)),
        "factor": rng.normal(size=(1, DIM, 1)),
        "diagonal": np.ones((1, DIM)),
    }
    axes, _ = sizes(traced(as_factor(LowRankMultivariateNormal, arrays), arrays, ("mean", "factor", "diagonal")))
    assert max(axes) < 10


def test_number_of_rows_is_in_no_array_of_a_step_with_missing_entries(rng):
    value = rng.normal(size=(1, ROWS, DIM))
    value[0, ::2, 0] = np.nan
    arrays = {"random_variable": value, "mean": rng.normal(size=(1, DIM))}
    arrays["covariance"] = oracles.random_spd(rng, (1,), DIM)
    axes, _ = sizes(traced(as_factor(MultivariateNormal, arrays, missing=True), arrays, ("mean", "covariance")))
    assert max(axes) < 50


def test_rows_that_change_are_never_copied_for_samples(rng):
    arrays = {"random_variable": rng.normal(size=(1, 50, DIM)), "mean": rng.normal(size=(1, DIM))}
    arrays["covariance"] = oracles.random_spd(rng, (1,), DIM)
    graph = traced(as_factor(MultivariateNormal, arrays), arrays, ("mean", "covariance"), ("random_variable",))
    assert max(sizes(graph)[1]) == 50 * DIM
    assert not any(node.operator == CONSTANT and 50 in node.shapes[0][:1] for node in graph.nodes)


def test_compiled_run_is_the_run_by_rows(rng):
    from mxfusion_mvn.inference import MAP, BatchLoop, CompiledLoop
    from mxfusion_mvn.transformations import PositiveDefinite

    data = nd(2 + rng.normal(size=(40, 3)), "float32")
    fitted = []
    for loop in (CompiledLoop(), BatchLoop()):
        model = Model()
        model.mean = MultivariateNormal(covariance=100.0, shape=(3,))
        model.covariance = Variable(shape=(3, 3), transformation=PositiveDefinite(), initial_value=mx.nd.eye(3))
        model.X = MultivariateNormal(mean=model.mean, covariance=model.covariance, shape=(40, 3))
        mx.random.seed(1)
        inference = GradBasedInference(MAP(model=model, observed=[model.X]), grad_loop=loop)
        record = inference.run(learning_rate=0.05, max_iter=40, X=data)
        fitted.append((record, inference.params[model.covariance].asnumpy()))
    assert fitted[0][0].compiled, fitted[0][0].fallback_reason
    np.testing.assert_allclose(fitted[0][0].loss, fitted[1][0].loss, rtol=1e-5)
    assert_close(fitted[0][1], fitted[1][1], rtol=1e-5, atol=1e-6)


# Rows that stand for many


@pytest.mark.parametrize("count", [1, 3, 4, 10, 25])
def test_compressed_rows_have_the_same_products(count, monkeypatch, rng):
    monkeypatch.setattr(statistics, "_CHUNK", 7)
    rows, centre = rng.normal(size=(count, 3)), rng.normal(size=3)
    kept = statistics.compress(rows, centre)
    assert kept.shape == (min(count, 3), 3)
    centred = rows - centre
    assert_close(kept.T @ kept, centred.T @ centred, rtol=1e-12, atol=1e-12)


def test_columns_far_from_orthogonal_keep_their_digits(rng):
    """The scatter itself would lose all of them: its condition number is the square."""
    rows = rng.normal(size=(100, 1)) + 1e-9 * rng.normal(size=(100, 2))
    kept = statistics.compress(rows)
    difference = rows[:, 0] - rows[:, 1]
    assert_close(np.square(kept[:, 0] - kept[:, 1]).sum(), np.square(difference).sum(), rtol=1e-5)
