# SPDX-License-Identifier: Apache-2.0
"""Losses on their way from a program to Python, and learning rates on the way back.

A loss is read long after its step was pushed, so each step needs an array of its own. To make an NDArray takes longer
than a step of a small model: arrays are used again when their losses are forgotten.
"""

import ctypes

from mxfusion_mvn.compiler.library import OperatorCall

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call


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
