# SPDX-License-Identifier: Apache-2.0
"""A graph bound to arrays.

A run takes only a call or two from Python into MXNet, with arguments that were converted once.
"""

import ctypes
import os
import threading
from contextlib import contextmanager

from mxfusion_mvn.compiler.graph import PARAMETER, Node
from mxfusion_mvn.compiler.library import OperatorCall
from mxfusion_mvn.compiler.readback import Losses
from mxfusion_mvn.compiler.symbols import SymbolBuilder, are_joined

from mxnet.base import _LIB, c_handle_array, check_call, mx_uint


class Program:
    """
    The loss and the gradients of a graph.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :param parameters: dict from the name of a parameter to the NDArray that holds it.
    :param gradients: dict from the name of a parameter to the NDArray that receives its gradient.
    :param ctx: MXNet context.
    :param fixed_noise: whether to use the noise of the trace instead of drawing.
    :param copy_states: whether to work on copies of the arrays that operators update in place.
    :param bulk: whether MXNet may run many operators as one; its profiler sees single operators only if not.

    A run writes the loss to the NDArray ``loss``, whose values ``losses`` keeps, and the draws of the random operators
    to ``draws``, in their order. It writes the results of the graph to ``results``, an NDArray (size of all
    parameters,), in the order of ``gradients``; that is None where they are in several arrays, or where MXNet finds the
    gradients.
    """

    def __init__(self, graph, parameters, gradients, ctx, fixed_noise=False, copy_states=False, bulk=True):
        builder = SymbolBuilder(fixed_noise)
        symbol = builder.build(graph, gradients)
        names = {name: leaf.key for name, leaf in builder.leaves.items() if _is_parameter(leaf)}
        arrays = {name: getattr(leaf, "array", leaf) for name, leaf in builder.leaves.items()}
        arrays.update({name: parameters[key] for name, key in names.items()})
        states = {name: arrays.pop(name) for name in symbol.list_auxiliary_states()}
        states = {name: state.copy() if copy_states else state for name, state in states.items()}
        self._is_derived = graph.results is not None
        wanted = {} if self._is_derived else gradients
        receivers = {name: wanted[key] for name, key in names.items() if key in wanted}
        requests = {name: "write" if name in receivers else "null" for name in arrays}
        with _binding_options(_OPTIONS if bulk else _WITHOUT_BULK):
            self.executor = symbol.bind(ctx, arrays, receivers, requests, aux_states=states)
        self.loss = self.executor.outputs[-1]
        self.draws = [] if fixed_noise else self.executor.outputs[: sum(node.is_random for node in graph.nodes)]
        self.losses = Losses(self.loss)
        self.results, self._deliveries = None, []
        if self._is_derived:
            self._prepare_results(gradients)
        self._arguments = self.executor.handle, mx_uint(0), c_handle_array([]), ctypes.c_int(1)

    def _prepare_results(self, receivers):
        outputs = self.executor.outputs[-1 - len(receivers) : -1]
        if are_joined(receivers):
            self.results = self.executor.outputs[-2]
            outputs = _parts(self.results, receivers.values())
        pairs = zip(outputs, receivers.values())
        self._deliveries = [OperatorCall("_copyto", [output], receiver) for output, receiver in pairs]

    def run(self):
        """Push an evaluation of loss and gradients, without waiting for it."""
        executor, count, heads, training = self._arguments
        check_call(_LIB.MXExecutorForward(executor, training))
        if not self._is_derived:
            check_call(_LIB.MXExecutorBackwardEx(executor, count, heads, training))

    def deliver(self):
        """Push copies of the gradients to the arrays that receive them, if a run does not write them there."""
        for delivery in self._deliveries:
            delivery()


def _parts(flat, shaped):
    """The parts of a flat array, in the shapes of others."""
    parts, begin = [], 0
    for array in shaped:
        parts.append(flat[begin : begin + array.size].reshape(array.shape))
        begin += array.size
    return parts


# Options that MXNet reads from the environment when it binds. Its default backend for graphs without gradients replaces
# dense layers by operators that keep a re-ordered copy of their weights from the first run, so that changes of
# parameters would be ignored. The backend "default" replaces no operators, and for it MXNet prints nothing.
_REQUIRED = {"MXNET_SUBGRAPH_BACKEND": "default"}
# These may be set by users. The second says how many operators a worker takes at once; MXNet's own default is 15.
_OPTIONS = {"MXNET_SUBGRAPH_VERBOSE": "0", "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN": "1000"}
_WITHOUT_BULK = {**_OPTIONS, "MXNET_EXEC_BULK_EXEC_INFERENCE": "0"}
_LOCK = threading.Lock()


@contextmanager
def _binding_options(options):
    """Set MXNet's options for the span of a call; MXNet reads them from the environment of the process only."""
    with _LOCK:
        wanted = {name: value for name, value in options.items() if name not in os.environ}
        before = {name: os.environ.get(name) for name in _REQUIRED}
        os.environ.update({**wanted, **_REQUIRED})
        try:
            yield
        finally:
            for name in wanted:
                del os.environ[name]
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _is_parameter(leaf):
    return isinstance(leaf, Node) and leaf.operator == PARAMETER
