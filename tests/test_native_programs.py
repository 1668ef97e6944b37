# SPDX-License-Identifier: Apache-2.0
"""Whole graphs in the native engine: random ones, many at once, and with each set of instructions."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.operators import traits

import mxnet as mx
import numpy as np
import pytest

from helpers import native_fuzz
from helpers.native_graphs import exact

GRAPHS = 75  # of each type
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}


@pytest.mark.parametrize("part", range(5))
def test_random_graphs(part, dtype):
    outcomes = [native_fuzz.check(seed, dtype) for seed in range(part, GRAPHS, 5)]
    assert not [outcome for outcome in outcomes if outcome.startswith("wrong")]
    assert outcomes.count("right") > len(outcomes) / 2


def bound(count, dtype):
    """Programs of several random graphs, their gradients, and the right values."""
    found, seed = [], 0
    while len(found) < count:
        graph, parameters = native_fuzz.made(seed, dtype)
        seed += 1
        if graph is None or any(traits(name).is_single for name in graph.operators()):
            continue
        values = exact(graph.nodes)
        wanted = {name: values[entry].asnumpy() for name, entry in graph.results.items()}
        found.append((graph, parameters, wanted, values[graph.loss].asnumpy()))
    return found


def program_of(graph, parameters):
    gradients = {name: mx.nd.zeros_like(array) for name, array in parameters.items()}
    return NativeProgram(graph, parameters, gradients, mx.cpu(), fixed_noise=True), gradients


def is_right(program, gradients, wanted, loss, dtype):
    program.run()
    program.deliver()
    pairs = [(program.loss, loss), *((gradients[name], value) for name, value in wanted.items())]
    return all(
        np.abs(got.asnumpy().reshape(value.shape) - value).max() <= TOLERANCE[dtype] * max(1, np.abs(value).max())
        for got, value in pairs
    )


@pytest.mark.parametrize("is_same", [False, True])
def test_ten_threads(is_same, dtype):
    """Programs of ten graphs, and ten programs of one, run at once."""
    cases = bound(1, dtype) * 10 if is_same else bound(10, dtype)
    outcomes = [None] * 10
    barrier = threading.Barrier(10, timeout=60)  # where one fails the others do not wait for ever

    def work(number):
        graph, parameters, wanted, loss = cases[number]
        program, gradients = program_of(graph, parameters)
        barrier.wait()
        outcomes[number] = all([is_right(program, gradients, wanted, loss, dtype) for _ in range(30)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 10


_SETS = """
import sys
import mxfusion_mvn
from helpers import native_fuzz
outcomes = [native_fuzz.check(seed, dtype) for seed in range(100, 115) for dtype in ("float32", "float64")]
sys.exit(any(outcome.startswith("wrong") for outcome in outcomes) or outcomes.count("right") < 20)
"""


@pytest.mark.parametrize("instructions", ["0", "1", "2"])
def test_each_set_of_instructions(instructions):
    """Plain ones, AVX2 and AVX-512, as far as the processor has them."""
    environment = {**os.environ, "MXFUSION_MVN_INSTRUCTIONS": instructions}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", _SETS]
    assert subprocess.run(command, env=environment, check=False, timeout=300).returncode == 0
