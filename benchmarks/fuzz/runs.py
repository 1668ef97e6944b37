# SPDX-License-Identifier: Apache-2.0
"""The inputs of a fuzz in a process of its own, which is restarted if an input hangs or crashes it."""

import multiprocessing
import os
import tempfile
import warnings

from .calls import attempt

# Seconds after which an input counts as hanging.
PATIENCE = 120


def work(connection, seed, start, stop):
    """Make the inputs from start to stop - 1 in a process of its own, and send the outcome of each."""
    os.chdir(tempfile.mkdtemp(prefix="fuzz"))  # for whatever writes a file by its name alone
    warnings.simplefilter("ignore")
    for number in range(start, stop):
        connection.send(attempt(seed, number))


def outcomes(seed, number, inputs):
    """The outcomes of the inputs in turn, also of those that hang or crash the process."""
    context = multiprocessing.get_context("spawn")
    process, lost = None, {"room": "?", "calls": "", "detail": "", "compared": []}
    while number < inputs:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, seed, number, inputs), daemon=True)
            process.start()
            theirs.close()
        try:
            outcome = ours.recv() if ours.poll(PATIENCE) else {**lost, "number": number, "outcome": "hang"}
        except EOFError:
            outcome = {**lost, "number": number, "outcome": "crash"}
        yield outcome
        number += 1
        if outcome["outcome"] in ("hang", "crash"):
            process.kill()
            process = None
