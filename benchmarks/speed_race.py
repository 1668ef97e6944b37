# SPDX-License-Identifier: Apache-2.0
"""What a user waits for, and what it takes: the time to a given accuracy, and memory."""

from functools import partial

import numpy as np
import problems
from contest import Contender
from speed_setting import OURS, TRAINING, Section, case

NATS = (1.0, 0.1)  # of the KL divergence from the exact posterior
SEEDS = (0, 1, 2)
LONG = 10.0  # seconds of a run, beyond which one seed must do
STEPS, EVERY = 20_000, 50
LEARNING_RATE = 0.005
MEGABYTE = 1e6

HOSTS_CLASS = "MXFusion's class and loop"


def time_to_accuracy(bench):
    """Seconds until the posterior is so close to the exact one."""
    tables = []
    with bench.team(TRAINING, fresh=True) as team:
        for model in ("mean", "regression"):
            path = bench.data(f"{model}-exact", partial(_exact, model))
            for contender in TRAINING:  # what is loaded at first use is loaded now
                team.watch(contender.name, _race_case(model, path, 0), 2 * EVERY, EVERY, 0.0)
            rows = [[contender.name, *_race(bench, team, contender.name, model, path)] for contender in TRAINING]
            columns = ["", *(f"s to {nats:g} nats" for nats in NATS), "steps to the last", "us a step"]
            tables.append((model.capitalize(), columns, rows))
    return Section("Time to a given accuracy", ACCURACY_TEXT, tables)


ACCURACY_TEXT = f"""\
From the start, with everything compiled on the way, to a Kullback-Leibler divergence of so many nats between the guide,
of full rank, and the exact posterior, which these models have. Adam, learning rate {LEARNING_RATE}, 10 draws a step;
the divergence is looked at every {EVERY} steps, and the looking is not counted. The median of {len(SEEDS)} seeds, or
one seed where a run takes more than {LONG:g} s. One thread."""


def _race(bench, team, name, model, path):
    """For each distance the median time, then the steps to the smallest, and microseconds per step."""
    runs = []
    for seed in SEEDS:
        runs.append(team.watch(name, _race_case(model, path, seed), STEPS, EVERY, NATS[-1]))
        if bench.settings.quick or runs[0][-1, 0] > LONG:
            break
    seconds = [[_first(run, nats) for run in runs] for nats in NATS]
    steps = np.median([_steps(run, NATS[-1]) for run in runs])
    each = np.median([(run[-1, 0] - run[0, 0]) / (EVERY * (len(run) - 1)) for run in runs])
    return [*(_seconds(np.median(found)) for found in seconds), _count(steps), f"{1e6 * each:,.0f}"]


def _race_case(model, path, seed):
    return case(model, path, "fullrank", 10, learning_rate=LEARNING_RATE, seed=seed)


def _first(run, nats):
    close = run[run[:, 1] < nats]
    return close[0, 0] if len(close) else np.inf


def _steps(run, nats):
    close = np.flatnonzero(run[:, 1] < nats)
    return EVERY * (close[0] + 1) if len(close) else np.inf


def _seconds(value):
    return f"{value:.2f}" if np.isfinite(value) else "not reached"


def _count(value):
    return f"{value:,.0f}" if np.isfinite(value) else "not reached"


def _exact(model):
    """The data, and mean and covariance of the exact posterior."""
    data = getattr(problems, model)()
    x = data["x"].astype("float64")
    if model == "mean":
        information = np.linalg.inv(data["covariance"].astype("float64"))
        precision, shift = len(x) * information, information @ x.sum(axis=0)
    else:
        variance = problems.REGRESSION_SD**2
        precision, shift = x.T @ x / variance, x.T @ data["y"].astype("float64") / variance
    covariance = np.linalg.inv(precision + np.eye(len(shift)) / problems.PRIOR_SD**2)
    return {"exact_mean": covariance @ shift, "exact_covariance": covariance, **data}


def memory(bench):
    """Bytes of training against those of the data."""
    hosts = Contender(HOSTS_CLASS, "ours.py", "host")
    rows = []
    for label, case_of, size in _memory_cases(bench):
        found = {}
        for contender in [*TRAINING, hosts]:
            small, big = (case_of(contender.name, part) for part in ("small", "big"))
            with bench.team([contender]) as team:  # a process of its own: peaks do not go away
                found[contender.name] = team.memory(contender.name, small, big, steps=3) / MEGABYTE
        rows.append([label, f"{size:,.0f}", *(f"{value:,.0f}" for value in found.values())])
        bench.claim(f"memory of ours, {label}, over that of one such array", found[OURS] / size, 0.5, below=True)
    columns = ["", "that array, MB", *found]
    return Section("Memory", MEMORY_TEXT, [("MB of some steps, beyond those of a small model", columns, rows)])


MEMORY_TEXT = """\
The mean of a multivariate normal with one covariance for all rows, which is known; the peak of the process
(`ru_maxrss`), less its peak with the same model at N = 10, D = 2 and one draw. If anything copied the covariance for
each row, or for each draw, it would take at least the array of the second column."""


def _memory_cases(bench):
    """For MAP with many rows, for SVI with many draws: the label, a function that gives cases, and the array in MB."""
    for label, rows, dim, samples in (("N", 10_000, 100, 1), ("S", 10, 300, 500)):

        def case_of(name, part, big=(rows, dim, samples)):
            return _memory_case(bench, name, *(big if part == "big" else (10, 2, 1)))

        count = max(rows, samples)
        yield f"{label} x D x D, {label} = {count:,}, D = {dim}", case_of, 4 * count * dim**2 / MEGABYTE


def _memory_case(bench, name, rows, dim, samples):
    if name == HOSTS_CLASS:
        return case("mean, host's class", bench.gaussian(rows, dim), "host's fullrank", samples)
    return case("mean", bench.gaussian(rows, dim), "fullrank", samples)
