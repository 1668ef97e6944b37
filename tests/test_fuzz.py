# SPDX-License-Identifier: Apache-2.0
"""A small run of the fuzz of benchmarks/fuzz, whose full run docs/robustness.md records; and that it finds faults."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mxfusion_mvn
from mxfusion_mvn import Gaussian

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
INPUTS = 700


@pytest.fixture
def attempt(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.fuzz.calls import attempt

    return attempt


def test_no_input_of_a_small_fuzz_fails():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *sys.path[1:])))}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fuzz", "--inputs", str(INPUTS), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    counts = {name: int(count) for name, count in re.findall(r"'([a-z ]+)': (\d+)", last)}
    assert sum(counts.values()) == INPUTS
    assert min(counts["right"], counts["accepted"], counts["refused"]) > INPUTS / 10


def outcomes(attempt):
    return Counter(attempt(0, number)["outcome"] for number in range(60))


def raises(error):
    def log_pdf(self, value):
        raise error

    return log_pdf


FAULTS = {
    "wrong": ("log_pdf", lambda right: lambda self, value: right(self, value) + 0.1),
    "silent": ("draw_samples", lambda right: lambda self, num_samples=1: right(self, num_samples) * np.nan),
    "bare": ("log_pdf", lambda right: raises(KeyError("value"))),
}


@pytest.mark.parametrize("outcome", ["wrong", "silent", "bare"])
def test_a_planted_fault_is_found(outcome, attempt, monkeypatch):
    """A Gaussian alone is asked for the density of what makes sense, until the fault shows."""
    from benchmarks.fuzz import calls

    monkeypatch.setattr(calls, "ROOMS", {"": 1})
    monkeypatch.setattr(calls, "public_names", lambda room: {"Gaussian": Gaussian})
    monkeypatch.setattr(calls, "methods_of", lambda item: [FAULTS[outcome][0]])
    before = outcomes(attempt)
    name, fault = FAULTS[outcome]
    monkeypatch.setattr(Gaussian, name, fault(getattr(Gaussian, name)))
    assert outcomes(attempt)[outcome] > before[outcome]


def test_all_public_names_are_called(attempt):
    from benchmarks.fuzz import calls

    found = {name for room in calls.ROOMS for name in calls.public_names(room)}
    for module in (mxfusion_mvn, mxfusion_mvn.structures, mxfusion_mvn.inference):
        items = {name: getattr(module, name) for name in module.__all__}
        wanted = {name for name, item in items.items() if callable(item) and not calls._is_base(item)}
        assert wanted <= found | {"RowMap"}
