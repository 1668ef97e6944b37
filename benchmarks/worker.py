# SPDX-License-Identifier: Apache-2.0
"""The child's side of a benchmark: one library in a process of its own answers requests, a JSON object a line.

A file of models calls :func:`serve` with the functions that build what is timed. Needs NumPy only, for it runs in two
environments. What is built has ``run(steps)``, which takes so many steps and waits for the last of them; if it
can only take them by the chunk, it has ``chunk``.
"""

import contextlib
import json
import os
import resource
import sys
import time
import traceback

import numpy as np


def serve(builders):
    """
    Answer the requests on standard input until it ends.

    - ``{"build": case}`` builds what ``case["task"]`` names among the builders, in place of what was built before;
    - ``{"time": seconds}`` takes steps for about so long: seconds per step;
    - ``{"memory": steps}``: bytes that the steps take at most, above what the process had when it was built;
    - ``{"watch": case, ...}`` builds and runs, and says how far off the posterior is as time goes by.

    :param builders: {task: function of the case that gives an object with ``run(steps)``}.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    state = {}
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), builders, state)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(request, builders, state):
    if "build" in request:
        state.clear()
        peak = peak_memory()
        contender, seconds = _built(builders, request["build"])
        state.update(contender=contender, chunk=getattr(contender, "chunk", 1), chunks=1, peak=peak)
        return seconds
    if "time" in request:
        return _seconds_per_step(state, request["time"])
    if "memory" in request:
        state["contender"].run(request["memory"])
        return peak_memory() - state["peak"]
    return _watch(builders, request["watch"], request["steps"], request["every"], request["nats"])


def _built(builders, case):
    """What is built and has taken its first step, so that it is compiled; and the seconds of that."""
    start = time.perf_counter()
    contender = builders[case["task"]](case)
    contender.run(getattr(contender, "chunk", 1))
    return contender, time.perf_counter() - start


def _seconds_per_step(state, target):
    """Seconds of some steps, less those of the shortest run: what a run costs once is not a step's."""
    run, chunk = state["contender"].run, state["chunk"]
    while True:
        chunks = state["chunks"]
        elapsed = _seconds(run, (1 + chunks) * chunk) - _seconds(run, chunk)
        if elapsed > 0.5 * target:
            state["chunks"] = max(1, round(chunks * target / elapsed))
            return elapsed / (chunks * chunk)
        state["chunks"] = max(2 * chunks, min(10 * chunks, round(chunks * target / max(elapsed, 1e-9))))


def _seconds(run, steps):
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


class Arrived(Exception):
    """A run is as close to the exact posterior as was asked for."""


def _watch(builders, case, steps, every, nats):
    """[seconds since the start, KL divergence from the exact posterior] each so many steps, until it is so small."""
    exact = np.load(case["data"])
    found, paused, start = [], 0.0, time.perf_counter()

    def report(mean, covariance):
        nonlocal paused
        now = time.perf_counter()
        nats_off = divergence(mean, covariance, exact["exact_mean"], exact["exact_covariance"])
        found.append([now - start - paused, nats_off])
        paused += time.perf_counter() - now
        if nats_off < nats:
            raise Arrived

    with contextlib.suppress(Arrived):
        builders[case["task"]](case).watch(steps, every, report)
    return found


def divergence(mean, covariance, exact_mean, exact_covariance):
    """
    The Kullback-Leibler divergence KL(q | p) of two Gaussians, in nats.

    :param mean: of q, (D,).
    :param covariance: of q, (D, D).
    :param exact_mean: of p, (D,).
    :param exact_covariance: of p, (D, D).
    :returns: a float.
    """
    factor = np.linalg.cholesky(exact_covariance)
    offset = np.linalg.solve(factor, mean - exact_mean)
    ratio = np.linalg.solve(factor, np.linalg.solve(factor, covariance).T)
    return float(0.5 * (np.trace(ratio) + offset @ offset - len(offset) - np.linalg.slogdet(ratio)[1]))


def peak_memory():
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
