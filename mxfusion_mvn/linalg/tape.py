# SPDX-License-Identifier: Apache-2.0
"""Whether gradients reach an array: taking it off autograd's tape, and looking whether it is on it."""

from mxfusion_mvn.linalg.axes import namespace

import mxnet as mx
from mxnet import autograd


def constant(array):
    """
    An array that passes no gradient on.

    In MXNet 1.9.1 ``stop_gradient`` of an NDArray computed by way of ``swapaxes`` or ``concat`` crashes the process in
    ``backward``, so an NDArray is taken off the tape instead.

    :param array: NDArray or Symbol.
    :returns: an array with the same entries.
    """
    return array.detach() if namespace(array) is mx.nd else mx.sym.stop_gradient(array)


def is_differentiated(array):
    """
    Whether autograd has recorded how an array came about, so that a backward pass would reach it.

    :param array: NDArray.
    :returns: a bool.
    """
    try:
        autograd.get_symbol(array)
    except mx.base.MXNetError:
        return False
    return True
