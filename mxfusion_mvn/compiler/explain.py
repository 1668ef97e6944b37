# SPDX-License-Identifier: Apache-2.0
"""A text that says what a compiled objective computes, and where its time goes."""

import json
import os
import shutil
import tempfile
from collections import Counter

from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.threads import one_blas_thread

import mxnet as mx

_STEPS = 50
_KINDS_SHOWN = 8


def explain(evaluations, ctx, graph=False):
    """
    Explain a compiled objective.

    :param evaluations: :class:`~mxfusion_mvn.compiler.evaluation.Evaluations` that were compiled.
    :param ctx: MXNet context.
    :param graph: whether to show the simplified graph, too.
    :returns: a text of several lines.
    """
    traced, simplified = evaluations.traced.operators(), evaluations.simplified.operators()
    lines = [
        _about_engine(evaluations),
        _counted("Evaluated once, as it depends on neither parameters nor random numbers", evaluations.folded),
        _counted("In each step before simplification", Counter(traced)),
        _counted("In each step", Counter(simplified)),
        _about_gradients(evaluations.simplified),
        *_times(_seconds_of_native(evaluations, ctx) if evaluations.native else _profile(evaluations, ctx)),
    ]
    return "\n".join(lines + [str(evaluations.simplified)] if graph else lines)


def _about_engine(evaluations):
    if evaluations.native:
        return "Run by: the native engine"
    return f"Run by: MXNet's operators, because of the native engine: {evaluations.why_not_native}"


def _seconds_of_native(evaluations, ctx):
    """Dict from operation to calls and microseconds per step."""
    values, gradients = _copies(evaluations.native)
    found = NativeProgram(evaluations.native, values, gradients, ctx, fixed_noise=True).seconds()
    return {name: (count, 1e6 * seconds) for name, (count, seconds) in found.items()}


def _about_gradients(graph):
    if graph.results is not None:
        return "Gradients: part of these operators"
    return "Gradients: found by MXNet, after each evaluation"


def _counted(title, counter):
    kinds = [f"{count} {name}" for name, count in counter.most_common(_KINDS_SHOWN)]
    rest = sum(counter.values()) - sum(count for _, count in counter.most_common(_KINDS_SHOWN))
    kinds += [f"{rest} others"] if rest else []
    return f"{title}: {sum(counter.values())} operators" + (f" ({', '.join(kinds)})" if kinds else "")


def _times(profile):
    """Lines of a table: operator, calls and microseconds per step, share."""
    total = sum(time for _, time in profile.values()) or 1.0
    rows = sorted(profile.items(), key=lambda row: -row[1][1])
    title = f"Time in operators: {total:.3g} us per step, each measured by itself"
    table = [f"  {name:32s} {calls:5.0f} calls {time:9.2f} us {time / total:6.1%}" for name, (calls, time) in rows]
    return [title, *table]


def _profile(evaluations, ctx):
    """Dict from operator to calls and microseconds per step, by MXNet's profiler on a program of its own."""
    # MXNet deletes the file that it is told to write to, even the null device if it has the right to.
    folder = tempfile.mkdtemp()
    # MXNet reports single operators only of programs that were bound while the profiler was on.
    file = os.path.join(folder, "profile.json")
    mx.profiler.set_config(profile_symbolic=True, aggregate_stats=True, filename=file)
    mx.profiler.set_state("run")
    try:
        found = _timed(evaluations, ctx)
    finally:
        mx.profiler.set_state("stop")
        shutil.rmtree(folder, ignore_errors=True)  # MXNet may still be writing to it
    known = {name: (row["Count"] / _STEPS, 1e3 * row["Total"] / _STEPS) for name, row in found.items()}
    return {name: row for name, row in known.items() if row[0] >= 1}


def _timed(evaluations, ctx):
    """Dict from operator to the statistics of the profiler, which is on, over some steps."""
    with one_blas_thread([evaluations.simplified], ctx):
        program = _profiled_program(evaluations, ctx)
        program.run()
        mx.nd.waitall()
        mx.profiler.dumps(reset=True)
        for _ in range(_STEPS):
            program.run()
        mx.nd.waitall()
    return json.loads(mx.profiler.dumps(reset=True, format="json"))["Time"].get("operator", {})


def _profiled_program(evaluations, ctx):
    """A program on copies of all arrays: running it changes nothing but the state of the random streams."""
    values, gradients = _copies(evaluations.simplified)
    return Program(evaluations.simplified, values, gradients, ctx, copy_states=True, bulk=False)


def _copies(graph):
    """Copies of the parameters of a graph, and arrays for their gradients: dicts by name."""
    values = {node.key: node.array.copy() for node in graph.nodes if node.operator == "parameter"}
    return values, {name: mx.nd.zeros_like(value) for name, value in values.items()}
