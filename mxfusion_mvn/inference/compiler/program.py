# SPDX-License-Identifier: Apache-2.0
"""A graph bound to arrays, to be run by a call or two; and calls of single operators, prepared once.

What a step asks of Python is a few calls into MXNet with arguments that were converted once.
"""

import ctypes
import os
import threading
from contextlib import contextmanager

from mxfusion_mvn.inference.compiler.graph import PARAMETER, Node, SymbolBuilder, are_joined, operator_handle

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, NDArrayHandle, c_handle_array, c_str_array, check_call, mx_uint


class Program:
    """
    The loss and the gradients of a graph.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph`.
    :param parameters: dict from the name of a parameter to the NDArray that holds it.
    :param gradients: dict from the name of a parameter to the NDArray that is for its gradient.
    :param ctx: MXNet context.
    :param fixed_noise: whether to use the noise of the trace instead of drawing.
    :param own_states: whether to work on copies of the arrays that operators update in place.
    :param one_by_one: whether to hand the operators to the worker one by one, for MXNet's profiler to see them.

    ``loss`` is the NDArray that a run writes the loss to, ``losses`` keeps it; ``draws`` are those that it writes what
    its random operators draw to, in their order. ``results`` is the NDArray (size of all
    parameters,) that a run writes the results of the graph to, in the order of ``gradients``; None where they are in
    several arrays, or where MXNet finds the gradients.
    """

    def __init__(self, graph, parameters, gradients, ctx, fixed_noise=False, own_states=False, one_by_one=False):
        builder = SymbolBuilder(fixed_noise)
        symbol = builder.build(graph, gradients)
        names = {name: leaf.key for name, leaf in builder.leaves.items() if _is_parameter(leaf)}
        arrays = {name: getattr(leaf, "array", leaf) for name, leaf in builder.leaves.items()}
        arrays.update({name: parameters[key] for name, key in names.items()})
        states = {name: arrays.pop(name) for name in symbol.list_auxiliary_states()}
        states = {name: state.copy() if own_states else state for name, state in states.items()}
        self._is_derived = graph.results is not None
        wanted = {} if self._is_derived else gradients
        receivers = {name: wanted[key] for name, key in names.items() if key in wanted}
        requests = {name: "write" if name in receivers else "null" for name in arrays}
        with _binding_options(_ONE_BY_ONE if one_by_one else _OPTIONS):
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
        """Push copies of the gradients to the arrays that are for them, if they are not there."""
        for delivery in self._deliveries:
            delivery()


def _parts(flat, shaped):
    """The parts of a flat array, in the shapes of others."""
    parts, begin = [], 0
    for array in shaped:
        parts.append(flat[begin : begin + array.size].reshape(array.shape))
        begin += array.size
    return parts


class OperatorCall:
    """
    A call of an operator that writes to arrays that exist.

    :param operator: its registered name.
    :param inputs: list of NDArrays.
    :param output: NDArray.
    :param attributes: dict from name to value.
    """

    def __init__(self, operator, inputs, output, attributes=()):
        attributes = dict(attributes)
        self._position = {name: index for index, name in enumerate(attributes)}
        self._values = c_str_array([str(value) for value in attributes.values()])
        outputs = ctypes.cast(c_handle_array([output]), ctypes.POINTER(NDArrayHandle))
        self._kept = inputs, output, outputs
        self._arguments = (
            ctypes.c_void_p(operator_handle(operator)),
            ctypes.c_int(len(inputs)),
            c_handle_array(inputs),
            ctypes.byref(ctypes.c_int(1)),
            ctypes.byref(outputs),
            ctypes.c_int(len(attributes)),
            c_str_array(list(attributes)),
            self._values,
            ctypes.byref(ctypes.POINTER(ctypes.c_int)()),
        )

    def __call__(self, **attributes):
        """
        Push the call.

        :param attributes: those that have another value this time.
        """
        for name, value in attributes.items():
            self._values[self._position[name]] = repr(value).encode()
        check_call(_LIB.MXImperativeInvokeEx(*self._arguments))


class Losses:
    """
    Keeps losses until they are read, those of each run in an array of its own, so that errors keep apart.

    :param loss: the NDArray that each run writes its loss to, or the losses of several steps.
    """

    def __init__(self, loss):
        self._loss = loss
        self._slots = Pool(self._slot)

    def keep(self, held=None):
        """
        Push a copy of the present losses.

        :param held: an object to hold until they are forgotten.
        :returns: list of :class:`PendingLoss`.
        """
        lease = self._slots.lease(held)
        array, copy = lease.lent
        copy()
        return [PendingLoss(lease, array, index) for index in range(self._loss.size)]

    def _slot(self):
        array = HostArray(self._loss)
        return array, OperatorCall("_copyto", [self._loss], array.array)


class PendingLoss:
    """
    A loss that has been pushed, with what the driver asks of an NDArray.

    :param lease: what keeps the array until all of its losses are forgotten.
    :param array: :class:`HostArray`.
    :param index: its position there.
    """

    __slots__ = ("_array", "_index", "_lease")

    def __init__(self, lease, array, index):
        self._lease = lease
        self._array = array
        self._index = index

    def asnumpy(self):
        """
        Wait for the loss.

        :returns: a NumPy number.
        :raises MXNetError: if it could not be computed.
        """
        return self._array.read(self._index)


class Pool:
    """
    Objects to use one after the other, made when they are needed.

    :param create: function that makes one.
    """

    def __init__(self, create):
        self._create = create
        self._free = []

    def lease(self, held=None):
        """
        An object, as ``lent`` of a lease; it is free again when the lease is forgotten.

        :param held: an object to hold as long.
        :returns: the lease.
        """
        return _Lease(self._free.pop() if self._free else self._create(), self._free, held)


class _Lease:
    __slots__ = ("_free", "_held", "lent")

    def __init__(self, lent, free, held):
        self.lent = lent
        self._free = free
        self._held = held

    def __del__(self):
        self._free.append(self.lent)


class HostArray:
    """
    An NDArray whose numbers Python reads and writes where they lie, if they lie in its memory.

    :param like: NDArray of the same shape, dtype and device.

    ``array`` is the NDArray.
    """

    __slots__ = ("_memory", "array")

    def __init__(self, like):
        self.array = mx.nd.zeros(like.shape, ctx=like.context, dtype=like.dtype)
        self.array.wait_to_read()
        self._memory = _memory(self.array)

    def read(self, index):
        """
        Wait for the array, and read a number.

        :param index: its position, if the array were flat.
        :returns: a NumPy number.
        :raises MXNetError: if the array could not be computed.
        """
        if self._memory is None:
            return self.array.asnumpy().ravel()[index]
        check_call(_LIB.MXNDArrayWaitToRead(self.array.handle))
        return np.float64(self._memory[index])

    def write(self, numbers):
        """
        Write numbers at once: nothing that reads the array may be under way.

        :param numbers: list of as many as the array has.
        """
        if self._memory is None:
            self.array[:] = np.reshape(numbers, self.array.shape)
        else:
            self._memory[: len(numbers)] = numbers


def _memory(array):
    """The numbers of an array where they lie, None where Python cannot reach them."""
    if array.context.device_type != "cpu":
        return None
    address = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    kind = ctypes.c_double if array.dtype.__name__ == "float64" else ctypes.c_float
    return ctypes.cast(address, ctypes.POINTER(kind * array.size)).contents


# What MXNet reads from the environment when it binds. Its default backend for graphs without gradients replaces dense
# layers by operators that keep a re-ordered copy of their weights from the first run: parameters that change would be
# ignored. The backend "default" takes no operators at all, and, unlike "NONE", MXNet does not announce it on stderr.
_REQUIRED = {"MXNET_SUBGRAPH_BACKEND": "default"}
# These may be set by users. The second says how many operators a worker takes at once; MXNet's own default is 15.
_OPTIONS = {"MXNET_SUBGRAPH_VERBOSE": "0", "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN": "1000"}
_ONE_BY_ONE = {**_OPTIONS, "MXNET_EXEC_BULK_EXEC_INFERENCE": "0"}
_LOCK = threading.Lock()


@contextmanager
def _binding_options(options):
    """Set MXNet's options for the span of a call; MXNet takes them from the environment of the process only."""
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
