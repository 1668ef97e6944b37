# SPDX-License-Identifier: Apache-2.0
"""The child's side of a benchmark: one library in a process of its own answers requests, a JSON object a line.

A file of models calls :func:`serve` with the functions that build what is timed. Needs NumPy only, for it runs in two
environments. What is built has ``run(steps)``, which takes so many steps and waits for the last of them. If it can only
take them by the chunk it has ``chunk``; if a run has costs of its own it has ``seconds(steps)``, the time of the steps.
"""

import contextlib
import json
import os
import resource
import sys
import time
import traceback

import numpy as np

WARM_UP = 3  # runs of the shortest kind: torch compiles at the second


def serve(builders):
    """
    Answer the requests on standard input until it ends.

    - ``{"build": case, "name": name}`` builds what ``case["task"]`` names among the builders, in place of what had that
      name, and takes the first steps: the seconds of that;
    - ``{"time": seconds, "name": name}`` takes steps for about so long: seconds per step;
    - ``{"memory": steps, "name": name}``: bytes that building it and the steps took, above all before;
    - ``{"explain": name}``: a text on what its steps are made of;
    - ``{"watch": case, ...}`` builds and runs, and says how far off the posterior is as time goes by.

    The answer to what fails is ``{"error": text}``.

    :param builders: {task: function of the case that gives an object with ``run(steps)``}.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    built = {}
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), builders, built)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(request, builders, built):
    name = request.get("name")
    if "build" in request:
        built.pop(name, None)
        built[name] = Built(builders, request["build"])
        return built[name].seconds
    if "time" in request:
        return built[name].seconds_per_step(request["time"])
    if "memory" in request:
        built[name].contender.run(request["memory"])
        return peak_memory() - built[name].peak_before
    if "explain" in request:
        return built[request["explain"]].contender.explain()
    return _watch(builders, request["watch"], request["steps"], request["every"], request["nats"])


class Built:
    """
    What was built, and has taken its first steps, so that it is compiled.

    :param builders: see :func:`serve`.
    :param case: dict.
    """

    def __init__(self, builders, case):
        self.peak_before = peak_memory()
        start = time.perf_counter()
        self.contender = builders[case["task"]](case)
        self._chunk, self._chunks = getattr(self.contender, "chunk", 1), 1
        self.contender.run(WARM_UP * self._chunk)
        self.seconds = time.perf_counter() - start

    def seconds_per_step(self, target):
        """
        Take steps for about so long.

        :param target: seconds.
        :returns: seconds per step.
        """
        while True:
            steps = self._chunks * self._chunk
            elapsed = self._elapsed(steps)
            wanted = self._chunks * target / max(elapsed, 1e-9)
            if elapsed > 0.5 * target:
                self._chunks = max(1, round(wanted))
                return elapsed / steps
            self._chunks = max(2 * self._chunks, min(10 * self._chunks, round(wanted)))

    def _elapsed(self, steps):
        if hasattr(self.contender, "seconds"):
            return self.contender.seconds(steps)
        start = time.perf_counter()
        self.contender.run(steps)
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
