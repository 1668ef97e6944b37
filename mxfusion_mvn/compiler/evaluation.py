# SPDX-License-Identifier: Apache-2.0
"""An objective is evaluated imperatively until it is known what it computes, then by a compiled program.

The first evaluations are the host's own, and count as such: no random number is drawn for the sake of compiling, and
what Python does in an evaluation is done no more often. They are traced. The program is used if

* both traces are the same operators on the same constants, though parameters and draws were others: nothing that
  Python or NumPy contributes changes from one evaluation to the next, and neither of them draws random numbers;
* the program, run on the draws of the second evaluation, gives its loss and all of its gradients;
* each parameter with a gradient is in the graph.

What is right at one point may be wrong at others: along a run the objective is evaluated and traced again, at the
parameters and with the draws of a run of the program, which has to give the same loss and gradients.
"""

import pickle
import random
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, List, NamedTuple

from mxfusion_mvn.compiler.graph import CONSTANT, DATA, PARAMETER, STATE, Graph, difference, digest, leaf
from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.native.shared_library import NotBuiltError, why_never
from mxfusion_mvn.compiler.native.views import Unknown
from mxfusion_mvn.compiler.operators import has_few_values
from mxfusion_mvn.compiler.passes import both_forms
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.tracing import tracing

import mxnet as mx
import numpy as np
from mxnet import autograd

# How far the program may be from the evaluation, relative to the largest gradient of a parameter, to the largest of
# all, and to the loss. A wrong graph is further off; gradients that are the sum of large terms are this far off in
# float32.
_GRADIENT = {"float32": (5e-3, 1e-5), "float64": (1e-6, 1e-10)}
_LOSS = {"float32": 1e-4, "float64": 1e-9}
# Where parameters have arrived gradients are differences of larger terms: how often more than what rounding the
# parameters does to an evaluation a program may be off.
_ROUNDINGS = 50
# The terms are as large as the gradient was before, and those of the loss: how often more than their last digit a
# program may be off.
_LAST_DIGITS = 8
# A program that is only compared leaves the states of operators as they are.
_BIND_COPIES = partial(Program, copy_states=True)


class _Evaluation(NamedTuple):
    """What is known of an evaluation: its graph, fingerprints of constants and draws, and whether others drew, too."""

    graph: Graph
    constants: List[bytes]
    draws: List[bytes]
    draws_elsewhere: bool


class Result(NamedTuple):
    """A loss, its gradients, dict from uuid to NumPy array, and the draws behind them, list of NDArrays."""

    loss: Any
    gradients: Dict[str, Any]
    draws: Any = ()

    def is_finite(self):
        """Whether all of it is finite."""
        return bool(np.isfinite(self.loss)) and all(np.isfinite(gradient).all() for gradient in self.gradients.values())


class Evaluations:
    """
    The evaluations of an objective on data of one shape.

    :param executor: the host's ObjectiveBlock.
    :param parameters: dict from uuid to Gluon Parameter: those that are trained.
    :param ctx: MXNet context.
    :param is_changing: list of bools: which of the data will change from step to step.
    :param while_tracing: function from a test, whether an NDArray depends on parameters, changing data or draws, to the
        context manager in which the objective is to be traced.

    ``reason`` says why no program can be used, None if one is or may be; ``folded`` counts, by operator, what is
    evaluated once; ``traced`` and ``simplified`` are the graphs. ``native`` is the graph for the native engine, None
    where MXNet's operators run the program; ``why_not_native`` says why they do.
    """

    def __init__(self, executor, parameters, ctx, is_changing, while_tracing):
        self.reason = None
        self.folded = None
        self.traced = None
        self.simplified = None
        self.native = None
        self.why_not_native = None
        self.data = None
        self._executor = executor
        self._parameters = parameters
        self._ctx = ctx
        self._is_changing = is_changing
        self._while_tracing = while_tracing
        self._before = None
        self._compiled = None
        self._largest: Dict[str, Any] = {}

    def evaluate(self, data):
        """
        Evaluate imperatively; gradients are left with the parameters.

        :param data: list of NDArrays.
        :returns: the loss, NDArray.
        """
        trace, known, loss, objective = self._traced(data)
        objective.backward()
        self.reason = trace.reason
        if known is not None:
            self._compare(known, loss)
            self.folded = trace.folded
            self.data = data
        return loss.detach()

    def forget(self):
        """Do not compare the next evaluation with the one before."""
        self._before = None

    def deviation(self, result, data):
        """
        Evaluate imperatively with the draws of a program, and compare; gradients are left with the parameters.

        :param result: :class:`Result` of the program at the present parameters.
        :param data: list of NDArrays.
        :returns: how they differ, None if they do not.
        """
        with self.kept_states():
            return self._deviation_from(result, data)

    def kept_states(self):
        """For a ``with`` block: when it ends, what operators of the program update in place is as it was before."""
        return _kept_states(self.traced)

    def _deviation_from(self, result, data):
        trace, known, loss, objective = self._traced(data, result.draws)
        if known is None:
            return trace.reason
        with _kept_states(known.graph):
            objective.backward()
        reason = _change(self._compiled, known)
        wanted = self._result(loss)
        self._note_sizes(wanted)
        if reason is not None or not (wanted.is_finite() or result.is_finite()):  # a failure is the driver's to report
            return reason
        if self._difference(wanted, result) is None:
            return None
        return self._difference(wanted, result, self._sensitivity(wanted, data, result.draws))

    def _sensitivity(self, wanted, data, draws):
        """How far loss and gradients move where parameters move by their rounding, or the loss by its own."""
        arrays = {uuid: parameter.data() for uuid, parameter in self._parameters.items()}
        largest = {uuid: mx.nd.max(mx.nd.abs(array)).asscalar() for uuid, array in arrays.items()}
        kept = {uuid: array.copy() for uuid, array in arrays.items()}
        for uuid, array in arrays.items():
            signs = 1 - 2 * (mx.nd.arange(array.size, dtype=array.dtype, ctx=self._ctx) % 2).reshape(array.shape)
            array += signs * float(np.finfo(array.dtype).eps * largest[uuid])
        _, _, loss, objective = self._traced(data, draws)
        objective.backward()
        moved = self._result(loss)
        gradients = {}
        for uuid, gradient in wanted.gradients.items():
            kept[uuid].copyto(arrays[uuid])
            terms = max(self._largest.get(uuid, 0.0), abs(wanted.loss) / max(1.0, largest[uuid]))
            last_digits = _LAST_DIGITS * np.finfo(gradient.dtype).eps * terms
            gradients[uuid] = _ROUNDINGS * np.abs(moved.gradients[uuid] - gradient).max() + last_digits
        return _ROUNDINGS * abs(moved.loss - wanted.loss), gradients

    def program(self, learned):
        """
        The program, on the arrays of the parameters as they are now.

        :param learned: dict from uuid to Parameter: those that need gradients.
        :returns: :class:`~mxfusion_mvn.compiler.program.Program`, None if it cannot be made; ``reason`` says
            why.
        """
        values = {uuid: parameter.data() for uuid, parameter in self._parameters.items()}
        gradients = {uuid: parameter.grad() for uuid, parameter in learned.items()}
        try:
            if self.native is not None:
                return NativeProgram(self.native, values, gradients, self._ctx)
            return Program(self.simplified, values, gradients, self._ctx)
        except mx.base.MXNetError as error:
            self.reason = f"MXNet cannot bind the graph: {_last_line(error)}"
            return None

    def _traced(self, data, draws=None):
        """The trace, what is known of the evaluation, None if it cannot be traced, its loss and its objective."""
        streams = _streams()
        with tracing(self._leaves(data), draws) as trace, self._while_tracing(trace.is_traced):
            with autograd.record():
                loss, objective = self._executor(mx.nd.zeros(1, ctx=self._ctx), *data)
        graph = trace.graph(loss, objective)
        trace.release()  # what is compared with it next takes as much memory
        return trace, None if graph is None else _known(graph, _streams() != streams), loss, objective

    def _leaves(self, data):
        leaves = [leaf(PARAMETER, parameter.data(), uuid) for uuid, parameter in self._parameters.items()]
        changing = [(position, array) for position, array in enumerate(data) if self._is_changing[position]]
        return leaves + [leaf(DATA, array, position) for position, array in changing]

    def _compare(self, now, loss):
        """Compare an evaluation with the one before, and with what the program makes of it."""
        before, self._before = self._before, now
        if before is None:
            return
        self._before = None
        wanted = self._result(loss)
        self._note_sizes(wanted)
        if wanted.is_finite():
            reason = _change(before, now) or _seeded(before, now) or _doubt(now)
            self.reason = reason or self._deviation(now.graph, wanted)
            self._compiled = now if self.reason is None else None
        # Else the run is about to end, or the next evaluations will show.

    def _note_sizes(self, result):
        """The largest entry of each gradient so far."""
        for uuid, gradient in result.gradients.items():
            self._largest[uuid] = np.fmax(self._largest.get(uuid, 0.0), np.abs(gradient).max())

    def _result(self, loss):
        gradients = {uuid: parameter.grad().asnumpy() for uuid, parameter in self._parameters.items()}
        return Result(loss.asnumpy().ravel()[0], gradients)

    def _deviation(self, graph, wanted):
        """
        Run programs on the draws of an evaluation until one does the same; say how they differ, or keep that one.

        In ill-conditioned models MXNet's own gradients may agree where the derived ones differ by rounding.
        """
        self.traced = graph
        for is_derived in (True, False):
            try:
                simplified, portable = both_forms(graph, is_derived)
                self.native = self._checked_natively(portable, wanted)
                reason = None if self.native else self._difference(wanted, self._result_of(_BIND_COPIES, simplified))
            except Exception as error:  # whatever it is, the imperative evaluation does without
                reason = f"MXNet cannot run the graph: {_last_line(error)}"
            if reason is None:
                self.simplified = simplified
                return None
        return reason

    def _checked_natively(self, graph, wanted):
        """The graph, if the native engine does the same; else None, and ``why_not_native`` says why."""
        self.why_not_native = why_never(self._ctx)
        if self.why_not_native is None and graph is None:
            self.why_not_native = "MXNet has to find the gradients"
        if self.why_not_native is None:
            try:
                self.why_not_native = self._difference(wanted, self._result_of(NativeProgram, graph))
            except Unknown as unknown:
                self.why_not_native = f"it does not know {unknown}"
            except NotBuiltError as error:
                self.why_not_native = str(error)
        return graph if self.why_not_native is None else None

    def _result_of(self, bind, graph):
        got = {uuid: mx.nd.zeros_like(parameter.grad()) for uuid, parameter in self._parameters.items()}
        values = {uuid: parameter.data() for uuid, parameter in self._parameters.items()}
        program = bind(graph, values, got, self._ctx, fixed_noise=True)
        program.run()
        program.deliver()
        loss = program.loss.asnumpy().ravel()[0]
        return Result(loss, {uuid: gradient.asnumpy() for uuid, gradient in got.items()})

    def _difference(self, wanted, got, allowed=(0.0, {})):
        """How the result of a program differs from an evaluation's by more than rounding, None if it does not."""
        tolerance = _LOSS.get(np.asarray(wanted.loss).dtype.name, 0.0) * max(1.0, abs(wanted.loss)) + allowed[0]
        if not abs(got.loss - wanted.loss) <= tolerance:
            return f"the graph gives a loss of {got.loss:.8g}, the evaluation one of {wanted.loss:.8g}"
        held = self.traced.parameters()
        largest = max(np.abs(gradient).max() for gradient in wanted.gradients.values())
        for uuid, gradient in wanted.gradients.items():
            size = np.abs(gradient).max()
            if uuid not in held and size > 0:
                return "a parameter has a gradient and is not in the graph"
            relative, absolute = _GRADIENT[gradient.dtype.name]
            off = np.abs(got.gradients[uuid] - gradient).max() if uuid in got.gradients else size
            if not off <= relative * size + absolute * largest + allowed[1].get(uuid, 0.0):
                return f"the gradient of the graph differs, by {off:.3g} where the largest entry is {size:.3g}"
        return None


@contextmanager
def _kept_states(graph):
    states = [node.array for node in graph.nodes if node.operator == STATE]
    kept = [state.copy() for state in states]
    try:
        yield
    finally:
        for state, before in zip(states, kept):
            before.copyto(state)


def _known(graph, draws_elsewhere):
    return _Evaluation(graph, _digests(_constants(graph)), _digests(_draws(graph)), draws_elsewhere)


def _constants(graph):
    return [node.array for node in graph.nodes if node.operator == CONSTANT]


def _draws(graph):
    """What random operators drew, if they draw real numbers: these do not come twice."""
    nodes = [node for node in graph.nodes if node.is_random and not has_few_values(node.operator)]
    draws = [array for node in nodes for array in node.noise]
    return [array for array in draws if np.dtype(array.dtype).kind == "f"]


def _digests(arrays):
    return [digest(array) for array in arrays]


def _change(before, now):
    """What Python or NumPy contributed to one of two evaluations and not to the other, None for nothing."""
    changed = difference(before.graph, now.graph)
    if changed is not None:
        return f"the objective is not the same computation each time ({changed})"
    for first, second, node in zip(before.constants, now.constants, _constant_nodes(now.graph)):
        if first != second:
            return (
                f"an array of shape {node.shape} comes from outside of MXNet's graph and changes from one "
                "evaluation to the next (random numbers of NumPy, a counter, a value read into Python, or data "
                "changed in place)"
            )
    return None


def _seeded(before, now):
    if any(first == second for first, second in zip(before.draws, now.draws)):
        return "the same random numbers are drawn in each evaluation, so something seeds the random streams"
    return None


def _doubt(now):
    if now.draws_elsewhere:
        return "Python or NumPy draws random numbers during an evaluation, in the objective or in another thread"
    return None


def _streams():
    """The state of the random streams that MXNet knows nothing of."""
    return pickle.dumps((random.getstate(), np.random.get_state()))


def _constant_nodes(graph):
    return [node for node in graph.nodes if node.operator == CONSTANT]


def _last_line(error):
    lines = str(error).strip().splitlines() or [repr(error)]
    return f"{type(error).__name__}: {lines[-1]}"
