# SPDX-License-Identifier: Apache-2.0
"""Losses on their way from a program to Python, and learning rates on the way back.

A loss is read long after its step was pushed, so each step needs an array of its own. Making an NDArray takes longer
than a step of a small model, so arrays are used again once their losses are forgotten.
"""

import ctypes

from mxfusion_mvn.compiler.library import OperatorCall

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call


class Losses:
    """
    Keeps losses until they are read, those of each run in an array of its own, so that an error belongs to one run.

    :param loss: the NDArray that each run writes its loss to, or its losses if it makes several steps.
    """

    def __init__(self, loss):
        self._loss = loss
        self._slots = Pool(self._slot)

    def keep(self, kept_alive=None):
        """
        Push a copy of the present losses.

        :param kept_alive: an object to keep alive until they are forgotten.
        :returns: list of :class:`PendingLoss`.
        """
        lease = self._slots.lease(kept_alive)
        array, copy = lease.value
        copy()
        return [PendingLoss(lease, array, index) for index in range(self._loss.size)]

    def _slot(self):
        array = HostArray(self._loss)
        return array, OperatorCall("_copyto", [self._loss], array.array)


class PendingLoss:
    """
    A loss that has been pushed; the driver reads it as it reads an NDArray.

    :param lease: the lease of the array, kept until all of its losses are forgotten.
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

        :returns: a NumPy scalar.
        :raises MXNetError: if it could not be computed.
        """
        return self._array.read(self._index)


class Pool:
    """
    Objects that are used again once they are free, and made when none is.

    :param create: function that makes one.
    """

    def __init__(self, create):
        self._create = create
        self._free = []

    def lease(self, kept_alive=None):
        """
        An object, the ``value`` of a lease; it is free again when the lease is forgotten.

        :param kept_alive: an object to keep alive as long.
        :returns: the lease.
        """
        return _Lease(self._free.pop() if self._free else self._create(), self._free, kept_alive)


class _Lease:
    __slots__ = ("_free", "_kept_alive", "value")

    def __init__(self, value, free, kept_alive):
        self.value = value
        self._free = free
        self._kept_alive = kept_alive

    def __del__(self):
        self._free.append(self.value)


class HostArray:
    """
    An NDArray whose entries Python reads and writes in place, if they are in the memory of the process.

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
        Wait for the array, and read an entry.

        :param index: its position, if the array were flat.
        :returns: a NumPy scalar.
        :raises MXNetError: if the array could not be computed.
        """
        if self._memory is None:
            return self.array.asnumpy().ravel()[index]
        check_call(_LIB.MXNDArrayWaitToRead(self.array.handle))
        return np.float64(self._memory[index])

    def write(self, values):
        """
        Write all entries at once. No pushed operator may still have to read the array.

        :param values: list of as many floats as the array has entries.
        """
        if self._memory is None:
            self.array[:] = np.reshape(values, self.array.shape)
        else:
            self._memory[: len(values)] = values


def _memory(array):
    """The memory of an array, None where Python cannot reach it."""
    if array.context.device_type != "cpu":
        return None
    address = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    kind = ctypes.c_double if array.dtype.__name__ == "float64" else ctypes.c_float
    return ctypes.cast(address, ctypes.POINTER(kind * array.size)).contents
