# SPDX-License-Identifier: Apache-2.0
"""How many threads the linear algebra of a program gets.

MXNet's OpenBLAS divides a matrix of 32 rows among all of its threads. With two threads it takes five times as long as
with one to factorise a matrix of 64 rows, and ten times as long to invert it. If all matrices of a program are small,
OpenBLAS is kept to one thread.
"""

import ctypes
import math
import os
import threading
from contextlib import contextmanager
from typing import Dict

from mxfusion_mvn.compiler.operators import traits
from mxfusion_mvn.compiler.thresholds import THREADED_ARRAY, THREADED_MATRIX, THREADED_PRODUCT

from mxnet.base import _LIB, check_call


@contextmanager
def one_blas_thread(graphs, ctx):
    """
    Keep MXNet's linear algebra to one thread while programs run, if that is faster for them.

    The number of threads belongs to the thread that MXNet runs its operators on, and is put back at the end.

    :param graphs: list of :class:`~mxfusion_mvn.compiler.graph.Graph`: those of the programs.
    :param ctx: the MXNet context they run on.
    """
    if not _can_be_set(ctx) or any(has_large_matrix(graph) for graph in graphs):
        yield
        return
    _single.enter(ctx.device_id)
    try:
        yield
    finally:
        _single.leave(ctx.device_id)


def _can_be_set(ctx):
    """Whether all operators run on the processor, on one thread of MXNet's own, and with OpenMP."""
    workers = os.environ.get("MXNET_CPU_WORKER_NTHREADS", "1")
    return ctx.device_type == "cpu" and workers == "1" and hasattr(_LIB, "omp_set_num_threads")


def has_large_matrix(graph):
    """
    Whether several threads are faster for one of the matrices of a graph.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :returns: a bool.
    """
    return any(_is_large(node) for node in graph.nodes)


def _is_large(node):
    row = traits(node.operator)
    if row.factorisation:
        return node.inputs[0].shape[-1] >= THREADED_MATRIX
    if row.matrix_product or node.operator in ("dot", "FullyConnected"):
        return _multiplications(node) >= THREADED_PRODUCT
    # Other operators are divided among the same threads, unless the environment says among how many.
    is_large = not node.is_leaf and node.size >= THREADED_ARRAY
    return row.layer or is_large and "OMP_NUM_THREADS" not in os.environ


def _multiplications(node):
    """The number of multiplications of a product; with factors (m, k) and (k, n) it is the root of mk * kn * mn."""
    first, second = (node.inputs * 2)[:2]
    shapes = [first.shape, second.shape, node.shape]
    if traits(node.operator).matrix_product:
        shapes = [shape[-2:] for shape in shapes]
    return math.sqrt(math.prod(math.prod(shape) for shape in shapes))


class _SingleThread:
    """Counts, by the number of the device, the callers that ask for a single thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._users = {}

    def enter(self, device):
        with self._lock:
            self._users[device] = self._users.get(device, 0) + 1
            if self._users[device] == 1:
                _push(_limit, device)

    def leave(self, device):
        with self._lock:
            self._users[device] -= 1
            if self._users[device] == 0:
                _push(_free, device)


_single = _SingleThread()


class _Context(ctypes.Structure):
    """What MXNet's C interface takes for a device."""

    _fields_ = [("kind", ctypes.c_int), ("number", ctypes.c_int)]


_CPU = 1
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_before: Dict[int, int] = {}  # from device to number of threads; only MXNet's thread reads and writes it


@_FUNCTION
def _limit(_, device):
    _before[device or 0] = _LIB.omp_get_max_threads()
    _LIB.omp_set_num_threads(1)


@_FUNCTION
def _free(_, device):
    _LIB.omp_set_num_threads(_before.pop(device or 0))


def _push(function, device):
    """
    Have MXNet's thread for operators call a function, in its turn. Nobody waits for it.

    :param function: a C function of a context of MXNet and a pointer; it must be kept alive.
    :param device: the number of the device, passed to the function as the pointer.
    """
    ctx = ctypes.byref(_Context(_CPU, device))
    check_call(
        _LIB.MXEnginePushSync(function, ctypes.c_void_p(device), None, ctx, None, 0, None, 0, None, 0, b"threads")
    )
