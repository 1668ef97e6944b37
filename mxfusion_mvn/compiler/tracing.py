# SPDX-License-Identifier: Apache-2.0
"""Tracing: one imperative evaluation of an objective, written down as a graph.

All generated operators of MXNet go through one Python function; for the span of a trace it is replaced by one that also
notes what it was called with. Only operators that depend on a parameter, on data that will change or on random numbers
are noted: whatever else enters them is a constant, evaluated once. The evaluation itself is not changed: it gives the
same numbers, and the same gradients, as without a trace.

What cannot be traced (a value that is read back into Python, an operator written in Python) does not stop the
evaluation; the trace says why it is of no use.
"""

import functools
import threading
from collections import Counter
from contextlib import contextmanager

from mxfusion_mvn.compiler.graph import CONSTANT, DATA, PARAMETER, STATE, Node, leaf, live_graph
from mxfusion_mvn.compiler.hooks import hooked, replaced
from mxfusion_mvn.compiler.operators import traits

from mxnet import autograd
from mxnet.ndarray.ndarray import NDArrayBase

# One trace at a time: the hooks are seen by all threads, and obeyed by that of the trace.
_LOCK = threading.RLock()


def _guarded(method):
    """What cannot be noted must not disturb what is evaluated."""

    @functools.wraps(method)
    def guarded(trace, *args, **kwargs):
        try:
            return method(trace, *args, **kwargs)
        except Exception as error:
            trace.give_up(f"an operator cannot be traced: {error!r}")

    return guarded


class Trace:
    """
    What one evaluation did.

    :param leaves: list of parameter and data leaves, see :func:`~mxfusion_mvn.compiler.graph.leaf`.
    :param draws: list of NDArrays that random operators are to give in place of what they would draw, None to draw.

    ``reason`` says why the trace is of no use, None if it is sound; ``folded`` counts, by operator, the calls that were
    evaluated once and for all.
    """

    def __init__(self, leaves, draws=None):
        self.reason = None
        self._draws = None if draws is None else list(draws)
        self.folded = Counter()
        self._nodes = list(leaves)
        self._entries = {node.array.handle.value: node.entry() for node in leaves}
        self._viewed = set()
        self._thread = threading.get_ident()

    def graph(self, loss, objective):
        """
        The computation of a loss and an objective.

        :param loss: NDArray, as the evaluation returned it.
        :param objective: NDArray.
        :returns: a :class:`~mxfusion_mvn.compiler.graph.Graph`, None if there is none; ``reason`` says why.
        """
        if self.reason is None and not self.is_traced(objective):
            self.give_up("the objective depends on no parameter that is trained")
        if self.reason is not None:
            return None
        graph = live_graph(self._nodes, self._entry(loss), self._entry(objective))
        for node in graph.nodes:
            if node.operator in (PARAMETER, DATA) and self._entries.get(node.array.handle.value) != node.entry():
                self.give_up(f"the {node.operator} {node.key} is written to while the objective is evaluated")
                return None
        return graph

    def release(self):
        """Let go of the arrays of the evaluation, to be called when nothing is to be noted any more."""
        self._nodes, self._entries = [], {}

    def is_traced(self, array):
        """
        Whether an array depends on a leaf or on random numbers.

        :param array: NDArray.
        :returns: a bool.
        """
        entry = self._entries.get(array.handle.value)
        return entry is not None and entry.node.operator != CONSTANT

    def sources(self, array):
        """
        What an array depends on.

        :param array: NDArray that the trace holds.
        :returns: a text.
        """
        seen, stack = set(), [self._entry(array).node]
        while stack:
            node = stack.pop()
            if node.operator == PARAMETER or node.is_random:
                return "parameters or noise"
            stack.extend(source for source, _ in node.inputs if source not in seen)
            seen.add(node)
        return "the rows of a batch, which are others in each step (missing=True does; CompiledLoop can compile that)"

    def give_up(self, reason):
        """
        Say that the trace is of no use, and note no more.

        :param reason: a text; the first one counts.
        """
        self.reason = self.reason or reason

    def is_listening(self):
        """
        Whether operators of this thread are noted.

        :returns: a bool.
        """
        return self.reason is None and threading.get_ident() == self._thread

    def draw(self, function):
        """
        What a random operator draws.

        :param function: a function without arguments that draws, and returns an NDArray or a list of them.
        :returns: what it returns; or, where the draws are given, a copy of the next one of them.
        """
        if self._draws is None:
            return function()
        if not self._draws:
            self.give_up("the objective draws more random numbers than when it was compiled")
            return function()
        return self._draws.pop(0).copy()

    @contextmanager
    def paused(self):
        """Within a ``with`` block, note nothing."""
        thread, self._thread = self._thread, None
        try:
            yield
        finally:
            self._thread = thread

    @_guarded
    def note(self, name, inputs, attributes, outputs, noise=None, is_written=False):
        """
        Note a call of an operator.

        :param name: its registered name.
        :param inputs: list of NDArrays.
        :param attributes: dict from name to string.
        :param outputs: list of NDArrays.
        :param noise: list of NDArrays, if it drew random numbers.
        :param is_written: whether the outputs existed before.
        """
        if is_written:
            self._check_not_used(outputs)
        if noise is None and not any(self.is_traced(array) for array in inputs):
            self.folded[name] += 1
            self._forget(outputs)
            return
        if traits(name).training_only and not autograd.is_training():
            self.give_up(f"`{name}` is used outside training mode")
        shapes, dtypes = [array.shape for array in outputs], [array.dtype for array in outputs]
        node = Node(name, self._inputs(name, inputs), attributes, shapes, dtypes, noise=noise)
        self._add(node, outputs)

    @_guarded
    def note_view(self, base, view, name, attributes, shape=None):
        """
        Note an array that shares the memory of another.

        :param base: NDArray.
        :param view: NDArray.
        :param name: the operator that gives the same numbers.
        :param attributes: its attributes, dict from name to string.
        :param shape: the shape in which it gives them, None for that of the view.
        """
        self._viewed.update((base.handle.value, view.handle.value))
        if self.is_traced(base):
            node = Node(name, self._inputs(name, [base]), attributes, [shape or view.shape], [view.dtype])
            if shape:
                self._append(node)
                node = Node("Reshape", [node.entry()], {"shape": str(view.shape)}, [view.shape], [view.dtype])
            self._add(node, [view])

    @_guarded
    def note_overwritten(self, array):
        """
        Note that an array got numbers from Python.

        :param array: NDArray.
        """
        self._check_not_used([array])
        self._forget([array])

    def _inputs(self, name, inputs):
        states = traits(name).states
        entries = [
            self._state(array) if position in states else self._entry(array) for position, array in enumerate(inputs)
        ]
        if autograd.is_recording():
            return entries
        # No gradient passes through what is not recorded. Blocking what goes in, and not what comes out, spares the
        # executor the backward pass in between.
        return [self._blocked(entry) for entry in entries]

    def _blocked(self, entry):
        if entry.is_a(CONSTANT, STATE, "BlockGrad") or entry.dtype.kind != "f":
            return entry
        return self._append(Node("BlockGrad", [entry], {}, [entry.shape], [entry.dtype])).entry()

    def _entry(self, array):
        handle = array.handle.value
        if handle not in self._entries:
            self._add(leaf(CONSTANT, array), [array])
        return self._entries[handle]

    def _state(self, array):
        return self._append(leaf(STATE, array)).entry()

    def _add(self, node, outputs):
        self._append(node)
        self._entries.update((array.handle.value, node.entry(index)) for index, array in enumerate(outputs))

    def _append(self, node):
        self._nodes.append(node)
        return node

    def _forget(self, outputs):
        for array in outputs:
            self._entries.pop(array.handle.value, None)

    def forget_handle(self, handle):
        """
        Note that an array is freed, whose handle another array may get.

        :param handle: its ``handle.value``.
        """
        self._entries.pop(handle, None)
        self._viewed.discard(handle)

    def _check_not_used(self, outputs):
        for array in outputs:
            handle = array.handle.value
            if handle in self._viewed or handle in self._entries and not self.is_traced(array):
                self.give_up("an array that was used before is changed in place")


@contextmanager
def tracing(leaves, draws=None):
    """
    Trace what the body of a ``with`` statement computes.

    :param leaves: list of parameter and data leaves.
    :param draws: list of NDArrays that random operators are to give, None to draw.
    :returns: a context manager that gives a :class:`Trace`.
    """
    trace = Trace(leaves, draws)
    free = NDArrayBase.__del__

    def freed(array):
        trace.forget_handle(array.handle.value)
        free(array)

    with _LOCK, hooked(trace), replaced(NDArrayBase, "__del__", freed):
        yield trace
