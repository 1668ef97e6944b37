# SPDX-License-Identifier: Apache-2.0
"""Calls of MXNet's operators by name, through its C interface, because its Python wrappers do not offer them."""

import ctypes
import functools
import inspect

from mxnet.base import _LIB, NDArrayHandle, c_handle_array, c_str, c_str_array, check_call, mx_uint, py_str
from mxnet.base import OpHandle as _OpHandle


def invoke(function, handle, arrays, attributes):
    """
    Call an operator imperatively.

    :param function: ``mxnet.ndarray.register._imperative_invoke``, or the function that a hook replaced.
    :param handle: address of the operator, an int.
    :param arrays: list of NDArrays.
    :param attributes: dict from name to string.
    :returns: NDArray.
    """
    # Whether this is an operator of mx.np, and in newer versions also whether it returns a list.
    flags = [False] * (len(inspect.signature(function).parameters) - 5)
    return function(handle, arrays, list(attributes), list(attributes.values()), None, *flags)


@functools.lru_cache(maxsize=None)
def operator_handle(name):
    """
    The address of an operator of MXNet.

    :param name: its registered name.
    :returns: an int.
    """
    handle = _OpHandle()
    check_call(_LIB.NNGetOpHandle(c_str(name), ctypes.byref(handle)))
    return handle.value


@functools.lru_cache(maxsize=None)
def operator_info(handle):
    """
    The name of an operator, and the attribute that counts its inputs.

    :param handle: its address, an int.
    :returns: tuple of two strings; the second is empty unless the operator takes any number of inputs.
    """
    name, description, counter, returned = (ctypes.c_char_p() for _ in range(4))
    count = mx_uint()
    names, types, descriptions = (ctypes.POINTER(ctypes.c_char_p)() for _ in range(3))
    check_call(
        _LIB.MXSymbolGetAtomicSymbolInfo(
            ctypes.c_void_p(handle),
            ctypes.byref(name),
            ctypes.byref(description),
            ctypes.byref(count),
            ctypes.byref(names),
            ctypes.byref(types),
            ctypes.byref(descriptions),
            ctypes.byref(counter),
            ctypes.byref(returned),
        )
    )
    return py_str(name.value), py_str(counter.value)


class OperatorCall:
    """
    A call of an operator that writes to an existing array.

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

        :param attributes: the attributes whose values differ this time.
        """
        for name, value in attributes.items():
            self._values[self._position[name]] = repr(value).encode()
        check_call(_LIB.MXImperativeInvokeEx(*self._arguments))
