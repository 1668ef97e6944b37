# SPDX-License-Identifier: Apache-2.0
"""Parameters that stand still, at an optimum or at a rate of 0: runs are compiled, and verified when they move."""

import math

from mxfusion_mvn import MultivariateNormal, MultivariateStudentT
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import BatchLoop, CompiledLoop, CompiledMinibatchLoop, MinibatchLoop
from mxfusion_mvn.inference.loops import verification

import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import MAP, GradBasedInference

from helpers.compiled_runs import ROWS, Peeking, assert_close_parameters, fitted, not_compiled, vectors
from helpers.host import nd
from helpers.runs import parameters

ATOL = {"float32": 1e-5, "float64": 1e-10}


def assert_close_runs(found, wanted, dtype):
    np.testing.assert_allclose(found.record.loss, wanted.record.loss, rtol=ATOL[dtype])
    assert_close_parameters(found, wanted, ATOL[dtype])


@pytest.fixture(autouse=True)
def _no_verification_but_the_first_two(monkeypatch):
    """From the 10th run of a program on only a verification that is asked for, and the one at the end."""
    monkeypatch.setattr(verification, "_SHARE", -math.inf)


def mean_of_rows(size, dtype):
    """Y ~ N(mean, 1) with the mean learned, and 100 rows."""
    model = Model()
    model.mean = Variable(shape=(size,))
    model.Y = MultivariateNormal(model.mean, covariance=nd(np.eye(size), dtype), shape=(100, size), dtype=dtype)
    return MAP(model, [model.Y]), nd(np.random.RandomState(size).normal(size=(100, size)), dtype)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_run_that_starts_at_the_optimum_is_compiled(size, optimizer, dtype):
    algorithm, rows = mean_of_rows(size, dtype)
    inference = GradBasedInference(algorithm, grad_loop=CompiledLoop(), dtype=dtype)
    inference.initialize(Y=rows.shape)
    inference.params[algorithm.model.mean] = rows.mean(axis=0)
    record = inference.run(Y=rows, max_iter=150, optimizer=optimizer, learning_rate=1e-9)
    assert (record.compiled, record.fallback_reason, record.loss.shape) == (True, None, (150,))
    assert parameters(inference)[0].shape == (size,)
    np.testing.assert_allclose(parameters(inference)[0], rows.asnumpy().astype("float64").mean(0), atol=1e-6)


def test_runs_that_go_on_from_an_optimum_are_compiled(dtype):
    """Their gradients are all rounding, of sums of hundreds of terms, and no larger ones were seen in the run."""
    rng = np.random.RandomState(0)
    x, noise = rng.normal(size=(442, 10)), rng.standard_t(4, size=442)
    model = Model()
    model.weights = MultivariateNormal(covariance=100.0, shape=(10,), dtype=dtype)
    model.scale = Variable(shape=(1, 1), transformation=PositiveTransformation(), initial_value=1.0)
    model.freedom = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=3.0)
    mean = linear(nd(x, dtype), model.weights)
    model.y = MultivariateStudentT(model.freedom, mean, covariance=model.scale, shape=(442, 1), dtype=dtype)
    y = nd((x @ rng.normal(size=10) / 3 + noise)[:, None], dtype)
    inference = GradBasedInference(MAP(model, [model.y]), grad_loop=CompiledLoop(), dtype=dtype)
    for iterations in [4000, *range(60, 180, 10)]:
        record = inference.run(y=y, max_iter=iterations, learning_rate=1e-3)
        assert (record.compiled, record.fallback_reason) == (True, None)


def test_parameters_that_stand_still_for_few_evaluations_tell_nothing(dtype):
    loop = CompiledLoop(schedule=lambda iteration: 0.0)
    record = fitted(loop, vectors(dtype=dtype), dtype=dtype, data=ROWS, max_iter=9).record
    assert not record.compiled
    assert "at parameters that differ" in record.fallback_reason
    record = fitted(loop, vectors(dtype=dtype), dtype=dtype, data=ROWS, max_iter=10).record
    assert (record.compiled, record.fallback_reason) == (True, None)


def standing_until(start):
    return lambda iteration: 0.0 if iteration < start else 0.05


LOOPS = {
    "all rows": (CompiledLoop, BatchLoop),
    "batches": (
        lambda **options: CompiledMinibatchLoop(13, **options),
        lambda **options: MinibatchLoop(13, **options),
    ),
}


@pytest.mark.parametrize("start", [12, 60])
@pytest.mark.parametrize("loops", sorted(LOOPS))
def test_an_objective_that_reads_parameters_is_found_out_when_they_move(loops, start, dtype):
    """At the standing point what it read is the same constant in each evaluation."""
    seen = []
    compiled, plain = LOOPS[loops]
    loop = compiled(schedule=standing_until(start), check_every=20, checkpoint=seen.append)
    model = vectors(dtype=dtype).model
    options = {"dtype": dtype, "data": ROWS, "max_iter": 120 if loops == "all rows" else 60}
    with not_compiled("the objective has changed since it was compiled"):
        found = fitted(loop, Peeking(model, [model.Y]), **options)
    wanted = fitted(plain(schedule=standing_until(start)), Peeking(model, [model.Y]), **options)
    assert found.record.loss.shape == wanted.record.loss.shape == (120,)
    assert_close_runs(found, wanted, dtype)
    # At the second look after they moved it has been found out.
    late = [record for record in seen if len(record.loss) >= start + 40]
    assert late
    assert not any(record.compiled for record in late)


def test_parameters_that_a_checkpoint_function_moves(dtype):
    model = vectors(dtype=dtype).model

    def run(loop):
        def move(record):
            if len(record.loss) == 60:
                inference.params[model.mean] = nd([0.3, -0.4], dtype)

        followed = loop(checkpoint=move, check_every=30, schedule=lambda iteration: 0.0)
        inference = GradBasedInference(Peeking(model, [model.Y]), dtype=dtype, grad_loop=followed)
        inference.record = inference.run(Y=nd(ROWS, dtype), max_iter=120)
        return inference

    with not_compiled("the objective has changed since it was compiled"):
        found = run(CompiledLoop)
    wanted = run(BatchLoop)
    assert found.record.loss.shape == (120,)
    assert_close_runs(found, wanted, dtype)


def test_an_honest_objective_stays_compiled_when_parameters_move(dtype):
    loops = [loop(schedule=standing_until(60), check_every=20) for loop in (CompiledLoop, BatchLoop)]
    found, wanted = (fitted(each, vectors(dtype=dtype), dtype=dtype, data=ROWS, max_iter=300) for each in loops)
    assert (found.record.compiled, found.record.fallback_reason) == (True, None)
    assert_close_runs(found, wanted, dtype)
