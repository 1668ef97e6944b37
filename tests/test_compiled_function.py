# SPDX-License-Identifier: Apache-2.0
"""A function of a vector is computed by a program where that is right, and imperatively where it may not be."""

from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.inference.loops.compiled_function import CompiledFunction

import mxnet as mx
import numpy as np
import pytest
from scipy import stats

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import assert_close

SIZE = 3
MEAN = np.array([0.5, -1.0, 2.0])
CPU = mx.cpu()


def negative_log_density(x):
    """Of a normal whose covariance depends on its first coordinate, and is not positive definite where that is -2."""
    scale = mx.nd.slice_axis(x, axis=-1, begin=0, end=1).reshape((1, 1, 1)) + 2
    covariance = mx.nd.broadcast_mul(nd(np.eye(SIZE)[None]), scale)
    factor = mx.nd.linalg.potrf(covariance)
    away = mx.nd.linalg.trsm(factor, (x - nd(MEAN[None])).expand_dims(-1))
    log_det = 2 * mx.nd.linalg.sumlogdiag(factor)
    return (0.5 * mx.nd.sum(mx.nd.square(away), axis=(1, 2)) + 0.5 * log_det).reshape((1,))


def oracle(x):
    constant = 0.5 * SIZE * np.log(2 * np.pi)
    return -stats.multivariate_normal.logpdf(x, MEAN, (x[0] + 2) * np.eye(SIZE)) - constant


def assert_right(found, point, value=oracle):
    assert found[1].shape == (SIZE,)
    assert found[0] == pytest.approx(value(point), rel=1e-12)
    assert_close(found[1], oracles.central_difference(value, point, step=1e-5), rtol=1e-7, atol=1e-8)


def points(rng, count):
    return rng.uniform(-1, 1, size=(count, SIZE))


def test_it_becomes_a_program(engine, rng):
    calls = []

    def counted(x):
        calls.append(x)
        return negative_log_density(x)

    function = CompiledFunction(counted, SIZE, CPU)
    for point in points(rng, 10):
        assert_right(function(point), point)
    assert len(calls) == 2
    assert function.reason is None
    assert isinstance(function._program, NativeProgram if engine == "native" else Program)


def test_gradients_are_arrays_of_their_own(engine, rng):
    function = CompiledFunction(negative_log_density, SIZE, CPU)
    where = points(rng, 6)
    found = [function(point) for point in where]
    for point, each in zip(where, found):
        assert_right(each, point)


def test_a_point_twice_is_no_second_point(engine, rng):
    """What depends on the point cannot be told from what does not by two evaluations at the same."""
    function = CompiledFunction(negative_log_density, SIZE, CPU)
    first, second = points(rng, 2)
    for point, is_program in ((first, False), (first, False), (first, False), (second, True), (first, True)):
        assert_right(function(point), point)
        assert (function._run is not None) == is_program


def test_where_a_factorisation_fails_it_raises_and_goes_on(engine, rng):
    function = CompiledFunction(negative_log_density, SIZE, CPU)
    bad = np.array([-2.5, 0.0, 0.0])
    for point in (bad, *points(rng, 1), bad, *points(rng, 3), bad, bad, *points(rng, 2)):
        if point is bad:
            with pytest.raises(mx.base.MXNetError, match="potrf failed in lapack"):
                function(point)
        else:
            assert_right(function(point), point)
    mx.nd.waitall()  # no error is left behind
    assert function._run is not None


def test_not_a_number_stays_where_it_is(engine, rng):
    function = CompiledFunction(negative_log_density, SIZE, CPU)
    for _ in range(2):
        value, gradient = function(np.array([0.5, np.nan, 0.5]))
        assert np.isnan(value)
        assert np.isnan(gradient[1])
        for point in points(rng, 3):
            assert_right(function(point), point)
    assert function._run is not None


def counting():
    evaluations = []

    def function(x):
        evaluations.append(x)
        return negative_log_density(x) * len(evaluations)

    return function


def drawing_by_numpy(x):
    return negative_log_density(x) + np.random.uniform()


def reading(x):
    return negative_log_density(x) if x.asnumpy()[0, 0] > 0 else 2 * negative_log_density(x)


def drawing(x):
    return negative_log_density(x) + mx.nd.sum(mx.nd.random.normal(shape=(2,), dtype="float64"))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (counting(), "not the same computation each time"),
        (drawing_by_numpy, "not the same computation each time"),
        (reading, "reads the value of an array that depends on"),
        (drawing, "draws random numbers"),
    ],
    ids=["counting", "NumPy", "reading", "drawing"],
)
def test_there_is_no_program_of_what_depends_on_more_than_the_point(function, reason, engine, rng):
    compiled = CompiledFunction(function, SIZE, CPU)
    for point in points(rng, 2):
        compiled(point)
    assert reason in compiled.reason


def test_a_program_that_is_wrong_later_is_used_no_more(engine, rng):
    """It is compared at its 100th run."""
    calls = []

    def changing(x):
        calls.append(x)
        return negative_log_density(x) * (1 if len(calls) <= 2 else 3)

    function = CompiledFunction(changing, SIZE, CPU)
    found = [function(point) for point in points(rng, 101)]
    assert len(calls) == 2
    assert None not in found
    assert function(points(rng, 1)[0]) is None
    assert "not the same computation each time" in function.reason
