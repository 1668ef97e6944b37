# SPDX-License-Identifier: Apache-2.0
"""The random generators of MXNet, so that the native engine draws what MXNet would."""

import ctypes
import functools

from mxfusion_mvn.compiler.library import OperatorCall

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call

_GENERATOR = 625 * 8  # bytes: 624 words and a position, 64 bits each
_DRAWS = 5


class StreamsError(Exception):
    """The generators cannot be used; the message says why."""


def checked_streams(path, draw):
    """
    The address of the generators of this thread.

    :param path: of the library of the engine, which has an operator that MXNet hands the address to.
    :param draw: function of an address and a number, which draws as many normals: float32 array.
    :returns: an int.
    :raises StreamsError: if MXNet does not load the library, or draws other numbers.
    """
    try:
        _load(path)
        found = mx.nd.zeros(4)
        OperatorCall("_mvn_streams", [mx.nd.zeros(4)], found)()
    except mx.base.MXNetError as error:
        raise StreamsError(str(error).splitlines()[0]) from None
    address = int(found.asnumpy().view("int64")[0])
    if not _draws_are_equal(draw, address):
        raise StreamsError("it draws other numbers")
    return address


@functools.lru_cache(maxsize=None)
def _load(path):
    check_call(_LIB.MXLoadLib(path.encode(), ctypes.c_uint(0)))


@functools.lru_cache(maxsize=None)
def _draws_are_equal(draw, address):
    """Whether MXNet and the engine make the same of the first generator, which is put back."""
    mx.nd.waitall()
    kept = ctypes.string_at(address, _GENERATOR)
    try:
        wanted = mx.nd.random.normal(shape=(_DRAWS,)).asnumpy()
        ctypes.memmove(address, kept, _GENERATOR)
        return np.allclose(draw(address, _DRAWS), wanted, rtol=1e-6, atol=0)
    finally:
        ctypes.memmove(address, kept, _GENERATOR)
