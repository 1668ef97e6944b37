# SPDX-License-Identifier: Apache-2.0
"""Plans bound to memory, and run by the library."""

import ctypes
import timeit
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, NamedTuple, Tuple

from mxfusion_mvn.compiler.native.instructions import KINDS, MOVE, NORMAL, PRODUCT, UNIFORM
from mxfusion_mvn.compiler.native.places import ALIGNED, places_of
from mxfusion_mvn.compiler.native.plan import Plan
from mxfusion_mvn.compiler.native.shared_library import NotBuiltError, library, path
from mxfusion_mvn.compiler.native.streams import StreamsError, checked_streams
from mxfusion_mvn.compiler.operators import FORMULAS
from mxfusion_mvn.compiler.threads import has_large_matrix

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call

_AXES = _OPERANDS = 4
_RUNS, _REPETITIONS = 10, 10  # of an instruction whose time is measured
# As `instruction` in engine.h.
_INSTRUCTION = np.dtype(
    [
        ("kind", "i4"),
        ("operation", "i4"),
        ("is_double", "i4"),
        ("flags", "i4", 3),
        ("size", "i8", _AXES),
        ("stride", "i8", (_OPERANDS, _AXES)),
        ("at", "u8", _OPERANDS),
        ("index", "u8"),
        ("scalar", "f8"),
        ("second", "f8"),
    ],
    align=True,
)


class _Program(ctypes.Structure):
    """As ``program`` in engine.h."""

    _fields_ = [
        ("code", ctypes.c_void_p),
        ("instructions", ctypes.c_int64),
        ("loss", ctypes.c_void_p),
        ("is_double", ctypes.c_int32),
        ("counter", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("step", ctypes.c_uint64),
        ("streams", ctypes.c_void_p),
        ("has_failed", ctypes.c_int64),
    ]


class _Adam(ctypes.Structure):
    """As ``adam`` in engine.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("values", "gradients", "first", "second")),
        ("size", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("beta1", "beta2", "epsilon", "decay")),
    ]


def _streams():
    """The address of MXNet's generators, which have to draw what the engine makes of them."""
    try:
        return checked_streams(str(path()), _normals)
    except StreamsError as error:
        raise NotBuiltError(f"MXNet's random generators are not what the engine takes them for: {error}") from None


def _normals(streams, count):
    """Draws of the engine, float32 array (count,)."""
    out, code = np.empty(count, "float32"), np.zeros(1, _INSTRUCTION)
    code["kind"], code["size"], code["second"] = NORMAL, 1, 1.0
    code["size"][0, -1], code["at"][0, 0] = count, out.ctypes.data
    program = _Program(code=code.ctypes.data, instructions=1, streams=streams)
    library().mvn_evaluate(ctypes.byref(program))
    return out


def address_of(array):
    """
    Where the entries of an array lie.

    :param array: NDArray on the processor, or NumPy array.
    :returns: an int.
    """
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    address = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    return address.value or 0


def entries_of(array):
    """
    The entries of an array, where they lie.

    :param array: NDArray on the processor, of float32 or float64. It has to be kept alive.
    :returns: NumPy array (size,).
    """
    array.wait_to_read()
    return _entries_at(address_of(array), array.dtype, array.size)


def _entries_at(address, dtype, size):
    kind = ctypes.c_double if dtype == np.float64 else ctypes.c_float
    return np.ctypeslib.as_array((kind * size).from_address(address))


class NativeProgram:
    """
    The loss and the gradients of a graph, with what a :class:`~mxfusion_mvn.compiler.program.Program` has.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph` with gradients, before the pass ``lowered``.
    :param parameters: dict from the name of a parameter to the NDArray that holds it.
    :param gradients: dict from the name of a parameter to the NDArray that is for its gradient.
    :param ctx: MXNet context, a processor.
    :param fixed_noise: whether to use the noise of the trace instead of drawing.
    :raises Unknown: if the engine cannot run the graph.
    :raises NotBuiltError: if there is no engine.

    ``value`` is the NumPy array that a run writes the loss to, ``gradient`` the one (size of all parameters,) for the
    gradients, in the order of ``gradients``. They are no NDArrays, because to wait for the readers of one takes longer
    than most runs.
    """

    def __init__(self, graph, parameters, gradients, ctx, fixed_noise=False):
        self._library = library()
        dtype = graph.loss.dtype
        size = sum(gradient.size for gradient in gradients.values())
        self._ctx = ctx
        self._results = mx.nd.zeros((size,), dtype=dtype, ctx=ctx)
        self.gradient = np.zeros(size, dtype)
        self.value = np.zeros(graph.loss.shape or (1,), dtype)
        self._has_large_matrices = has_large_matrix(graph)
        self._receivers = gradients
        plan = Plan(graph, parameters, self._parts(), self.value, fixed_noise)
        self._waited_for = [array for array in plan.arrays if not isinstance(array, np.ndarray)]
        self._places = places_of(plan)
        self._memory = np.zeros(self._places.size + ALIGNED, "u1")
        self._start = self._memory.ctypes.data + -self._memory.ctypes.data % ALIGNED
        self._kept = [*plan.arrays]
        self._code = self._encoded(plan)
        self._draws = plan.draws
        self._is_random = any(each.kind in (NORMAL, UNIFORM) for each in plan.instructions)
        self._program = _Program(
            code=self._code.ctypes.data,
            instructions=len(self._code),
            loss=address_of(self.value),
            is_double=dtype == np.float64,
            streams=_streams() if self._is_random else None,
        )
        self.losses = _Losses(self)

    def run(self):
        """Compute the loss and the gradients."""
        with self._alone():
            self._library.mvn_evaluate(ctypes.byref(self._program))

    def train(self, adam, rates, losses):
        """
        Make steps of Adam.

        :param adam: :class:`Adam`.
        :param rates: float64 array (K,): the learning rates, corrected for the bias of the moving averages.
        :param losses: float64 array (K,) for the losses before each step.
        :returns: how many steps were made: fewer than K if a loss, which is kept, is not finite.
        """
        steps = (ctypes.c_void_p(array.ctypes.data) for array in (rates, losses))
        with self._alone(adam.arrays):
            return self._library.mvn_train(
                ctypes.byref(self._program), ctypes.byref(adam.record), *steps, ctypes.c_int64(len(rates))
            )

    @property
    def has_failed(self):
        """Whether a matrix was not positive definite in the last run."""
        return bool(self._program.has_failed)

    def deliver(self):
        """Copy the gradients to the arrays that are for them."""
        for part, receiver in zip(self._parts().values(), self._receivers.values()):
            receiver[:] = part

    @property
    def loss(self):
        """The loss of the last run, an NDArray of its own."""
        return mx.nd.array(self.value, dtype=self.value.dtype, ctx=self._ctx)

    @property
    def results(self):
        """The gradients of the last run, in an NDArray (size of all parameters,) that is always the same."""
        self._results[:] = self.gradient
        return self._results

    @property
    def draws(self):
        """Copies of the last draws, list of NDArrays in the order of the draws."""
        return [mx.nd.array(self._read(view), dtype=view.memory.dtype) for view in self._draws]

    def seconds(self):
        """
        How long each kind of instruction takes.

        :returns: dict from a name to a pair: how many there are, and seconds for all of them in a run.
        """
        found: Dict[str, Tuple[int, float]] = {}
        program = _Program()
        ctypes.pointer(program)[0] = self._program
        with self._alone():
            program.instructions = 0
            of_a_call = self._seconds_of(program)
            program.instructions = 1
            for position, row in enumerate(self._code):
                program.code = self._code.ctypes.data + position * _INSTRUCTION.itemsize
                name = KINDS[row["kind"]] if row["kind"] else FORMULAS[row["operation"]]
                count, seconds = found.get(name, (0, 0.0))
                found[name] = count + 1, seconds + max(0.0, self._seconds_of(program) - of_a_call)
        return found

    def _seconds_of(self, program):
        """The shortest of several times of a run, because others share the processor."""
        run = partial(self._library.mvn_evaluate, ctypes.byref(program))
        return min(timeit.repeat(run, number=_RUNS, repeat=_REPETITIONS)) / _RUNS

    @contextmanager
    def _alone(self, others=()):
        """
        Wait until MXNet has written what is read, and read ``others``.

        Its linear algebra is kept to one thread if matrices are small.
        """
        if self._is_random:
            mx.nd.waitall()  # draws that were pushed before come first
        for array in self._waited_for:
            check_call(_LIB.MXNDArrayWaitToRead(array.handle))
        for array in others:
            check_call(_LIB.MXNDArrayWaitToWrite(array.handle))
        if self._has_large_matrices or not hasattr(_LIB, "omp_set_num_threads"):
            yield
            return
        threads = _LIB.omp_get_max_threads()
        _LIB.omp_set_num_threads(1)
        try:
            yield
        finally:
            _LIB.omp_set_num_threads(threads)

    def _parts(self):
        parts, begin = {}, 0
        for name, receiver in self._receivers.items():
            parts[name] = self.gradient[begin : begin + receiver.size].reshape(receiver.shape)
            begin += receiver.size
        return parts

    def _read(self, view):
        return _entries_at(self._address(view), view.memory.dtype, view.size).reshape(view.shape).copy()

    def _address(self, view):
        memory = view.memory
        start = self._start + self._places[memory] if memory.array is None else address_of(memory.array)
        return start + view.offset * memory.dtype.itemsize

    def _encoded(self, plan):
        code = np.zeros(len(plan.instructions), _INSTRUCTION)
        code["size"] = 1
        for row, each in zip(code, plan.instructions):
            row["kind"], row["operation"] = each.kind, each.operation
            row["is_double"] = each.operands[0].memory.dtype == np.float64
            row["flags"][: len(each.flags)] = each.flags
            row["size"][_AXES - len(each.sizes) :] = each.sizes
            for position in range(_OPERANDS):
                source = min(position, len(each.operands) - 1)
                row["at"][position] = self._address(each.operands[source])
                strides = each.strides[source] if source < len(each.strides) else []
                row["stride"][position][_begin(each, strides) :][: len(strides)] = strides
            row["scalar"], row["second"] = each.scalar, each.second
            if each.table is not None:
                self._kept.append(each.table)
                row["index"] = each.table.ctypes.data
        return code


class _Losses:
    """The loss of the last run, as the loops ask for it."""

    def __init__(self, program):
        self._program = program

    def keep(self):
        return [KnownLosses(self._program.value.ravel().copy(), self._program.has_failed)]


class KnownLosses(NamedTuple):
    """Losses of steps that were made, with what the driver asks of an NDArray."""

    values: Any
    has_failed: bool = False  # a matrix was not positive definite, in the last step

    def asnumpy(self):
        """
        The losses.

        :returns: NumPy array.
        :raises MXNetError: as MXNet's operator does, where there is none because a factorisation failed.
        """
        if self.has_failed:
            raise mx.base.MXNetError("potrf failed in lapack on cpu.")
        return self.values


def _begin(instruction, strides):
    """Strides of loops are those of the innermost axes; those of matrices come first."""
    return _AXES - len(strides) if instruction.kind < PRODUCT and instruction.kind != MOVE else 0


class Adam:
    """
    What steps of Adam update, and how.

    :param values: NDArray (P,): the parameters.
    :param gradient: NumPy array (P,).
    :param moments: pair of NDArrays (P,): the moving averages of gradients and of their squares.
    :param beta1: rate of the first average.
    :param beta2: rate of the second.
    :param epsilon: added to the root of the second.
    :param wd: weight decay.

    ``arrays`` are those that are updated.
    """

    def __init__(self, values, gradient, moments, beta1=0.9, beta2=0.999, epsilon=1e-8, wd=0.0):
        self.arrays = values, *moments
        addresses = map(address_of, (values, gradient, *moments))
        self.record = _Adam(*addresses, values.size, beta1, beta2, epsilon, wd)
