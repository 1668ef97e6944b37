# SPDX-License-Identifier: Apache-2.0
"""From a graph to the instructions of the native engine.

The graph is the one before the rules that serve MXNet's operators (the pass ``lowered``). Reshapes, broadcasts,
transpositions and slices are views, which cost nothing; other operators that only move entries become a table of where
each entry comes from.
"""

import math
from collections import Counter
from typing import Any, Dict, List

from mxfusion_mvn.compiler.graph import CONSTANT, DATA, PARAMETER
from mxfusion_mvn.compiler.native.instructions import FACTOR, MAP, MAXIMUM, PRODUCT, SOLVE, SUM, Instruction
from mxfusion_mvn.compiler.native.lowerings import LOWERINGS
from mxfusion_mvn.compiler.native.views import Memory, Unknown, View, checked, collapsed, dense, strides_of
from mxfusion_mvn.compiler.operators import FORMULAS, traits

import numpy as np

_AXES = 4
_SHORT = 8  # a loop over fewer entries is slower than one over entries that are not neighbours
# A constant factor is laid out as products read it if it is no larger, because that takes its memory twice.
_TURNED = 1_000_000


class Plan:
    """
    The instructions of a graph whose gradients are derived.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :param parameters: dict from the name of a parameter to the NDArray that holds it.
    :param gradients: dict from the name of a parameter to the NDArray that is for its gradient.
    :param loss: the NDArray that is for the loss.
    :param fixed_noise: whether to use the noise of the trace instead of drawing.
    :raises Unknown: if the engine cannot run it.

    ``instructions`` is a list, ``draws`` one of views, ``arrays`` one of what is read or written beside memory of the
    engine's own: NDArrays and NumPy arrays.
    """

    def __init__(self, graph, parameters, gradients, loss, fixed_noise=False):
        self.instructions: List[Instruction] = []
        self.draws: List[View] = []
        self._parameters = parameters
        self._fixed_noise = fixed_noise
        self._views: Dict[Any, View] = {}
        self._into_sums = _products_of_sums(graph)
        for node in graph.nodes:
            if node not in self._into_sums:
                self._add(node)
        for name, entry in graph.results.items():
            self._deliver(self._views[entry], gradients[name])
        self._deliver(self._views[graph.loss], loss)
        for view in self.draws:
            view.memory.is_kept = True
        memories = {view.memory: None for each in self.instructions for view in each.operands}
        self.arrays = [memory.array for memory in memories if memory.array is not None]

    def _deliver(self, view, receiver):
        out = dense(Memory(receiver.size, receiver.dtype, receiver), receiver.shape)
        if view.memory.dtype != out.memory.dtype:
            raise Unknown(f"{view.memory.dtype} beside a loss of {out.memory.dtype}")
        self.copy(self.reshaped(view, out.shape), out)

    # What lowerings use.

    def new(self, shape, dtype):
        """
        An array of the engine's own.

        :param shape: tuple of int.
        :param dtype: NumPy dtype.
        :returns: a view.
        :raises Unknown: if it is so large that BLAS cannot count its entries.
        """
        if math.prod(shape) >= 2**31:
            raise Unknown(f"an array of shape {shape}")
        return dense(Memory(math.prod(shape), dtype), shape)

    def emit(self, kind, out, inputs, **more):
        """
        Append an instruction that goes over all entries of an output.

        :param kind: of the instruction.
        :param out: a view.
        :param inputs: list of views of its shape.
        :param more: other fields of :class:`Instruction`.
        """
        operands = [out, *inputs]
        sizes, strides = collapsed(out.shape, operands)
        if len(sizes) > _AXES:
            raise Unknown(f"an array of {len(sizes)} axes that do not lie one after the other")
        if kind in (MAP, SUM, MAXIMUM) and sizes[-1] < _SHORT:
            longest = int(np.argmax(sizes))
            order = [axis for axis in range(len(sizes)) if axis != longest] + [longest]
            sizes, strides = [sizes[axis] for axis in order], [[each[axis] for axis in order] for each in strides]
        self.instructions.append(Instruction(kind, operands, sizes, strides, **more))

    def map(self, formula, out, inputs, scalar=0.0, second=0.0):
        """
        Append a formula of each entry.

        :param formula: one of the table of operators.
        :param out: a view.
        :param inputs: list of views, which are broadcast.
        :param scalar: the ``s`` of the formula.
        :param second: its ``t``.
        """
        inputs = [view.broadcast_to(out.shape) for view in inputs]
        self.emit(MAP, out, inputs, operation=FORMULAS.index(formula), scalar=scalar, second=second)

    def copy(self, view, out):
        """
        Append a copy.

        :param view: what to copy.
        :param out: a view of the same shape and type.
        """
        self.map("a", out, [view])

    def contiguous(self, view):
        """
        The same entries, one after the other.

        :param view: a view.
        :returns: a view, of a copy if need be.
        """
        if view.is_contiguous:
            return view._replace(strides=strides_of(view.shape))
        out = self.new(view.shape, view.memory.dtype)
        self.copy(view, out)
        return out

    def reshaped(self, view, shape):
        """
        The same entries in another shape.

        :param view: a view.
        :param shape: tuple of int.
        :returns: a view, of a copy if need be.
        """
        found = view.reshaped(shape)
        return self.contiguous(view).reshaped(shape) if found is None else found

    def reduced(self, kind, factors, axes, scale=1.0):
        """
        Append a reduction.

        :param kind: SUM or MAXIMUM.
        :param factors: one view, or two views of one shape, whose products are summed.
        :param axes: set of int, the axes to go over.
        :param scale: what to multiply sums by.
        :returns: a view with those axes, of size 1.
        """
        shape = factors[0].shape
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        out = self.new(kept, factors[0].memory.dtype)
        flags = (out.size,)
        self.emit(kind, out.broadcast_to(shape), factors, operation=len(factors) - 1, flags=flags, scalar=scale)
        return out

    def product(self, out, a, b, alpha=1.0, triangle=0, is_lower=True):
        """
        Append products of matrices.

        :param out: a view (..., m, n).
        :param a: a view (..., m, k).
        :param b: a view (..., k, n).
        :param alpha: what to multiply them by.
        :param triangle: 1 if a, 2 if b is a triangle, of which the other entries are not looked at.
        :param is_lower: whether that is the lower one.
        """
        (m, k), n = a.shape[-2:], b.shape[-1]
        if not triangle:
            b = self._as_read(b)
        a, b = self._batch(a, out.shape[:-2]), self._batch(b, out.shape[:-2])
        count, steps = math.prod(out.shape[:-2]), [_step(a), _step(b)]
        if count > 1 and not steps[1] and steps[0] == m * a.strides[-2] and triangle != 1:
            m, count = m * count, 1  # one product of all rows
        strides = [[], [a.strides[-2], a.strides[-1], steps[0]], [b.strides[-2], b.strides[-1], steps[1]]]
        operands = [out, a, b]
        if triangle:  # a place for one triangle with zeros
            operands.append(self.new((m, k) if triangle == 1 else (k, n), out.memory.dtype))
        self.instructions.append(
            Instruction(PRODUCT, operands, [m, n, k, count], strides, flags=(triangle, is_lower), scalar=alpha)
        )

    def solve(self, out, factor, b, is_transposed, is_right, alpha):
        """
        Append triangular solves.

        :param out: a view (..., m, n).
        :param factor: a view (..., m, m) or, on the right, (..., n, n): lower triangular.
        :param b: a view (..., m, n).
        :param is_transposed: whether the factor is to be transposed.
        :param is_right: whether it is on the right.
        :param alpha: what to multiply the solution by.
        """
        m, n = out.shape[-2:]
        factor, count = self._batch(factor, out.shape[:-2], is_dense=True), math.prod(out.shape[:-2])
        step = _step(factor)
        if not step and is_right:
            m, count = m * count, 1
        self.instructions.append(
            Instruction(
                SOLVE,
                [out, factor, self.contiguous(b)],
                [m, n, 1, count],
                [[], [step]],
                flags=(is_transposed, is_right),
                scalar=alpha,
            )
        )

    def factor(self, out, matrix):
        """
        Append Cholesky factorisations.

        :param out: a view (..., n, n).
        :param matrix: a view of its shape.
        """
        count = math.prod(out.shape[:-2])
        self.instructions.append(
            Instruction(FACTOR, [out, self.contiguous(matrix)], [out.shape[-1], 1, 1, count], [[], []])
        )

    def _batch(self, view, leading, is_dense=False):
        """Matrices with a stride of 1 along rows or columns, dense rows if asked for, and one from matrix to matrix."""
        m, n = view.shape[-2:]
        rows, columns = _steps_in(view)
        is_right = columns == 1 and rows == n if is_dense else columns == 1 and rows >= n or rows == 1 and columns >= m
        if not is_right or not _is_one_step(view):
            view = self._copied(view)
            rows, columns = _steps_in(view)
        wide = view.broadcast_to((*leading, m, n))
        wide = wide._replace(strides=(*wide.strides[:-2], rows, columns))
        if _is_one_step(wide):
            return wide
        copy = self.contiguous(view.broadcast_to(wide.shape))
        return copy._replace(strides=(*copy.strides[:-2], *_steps_in(copy)))

    def _copied(self, view):
        """A copy of the matrices, one if they are all the same."""
        if all(stride == 0 for stride in view.strides[:-2]):
            one = view._replace(shape=(1,) * (len(view.shape) - 2) + view.shape[-2:])
            return self.contiguous(one)
        return self.contiguous(view)

    def _as_read(self, view):
        """A constant second factor, laid out as products read it."""
        array = view.memory.array
        is_own = isinstance(array, np.ndarray) and view.size == view.memory.size <= _TURNED
        if not is_own or view.strides[-1] == 1 or view.shape[-1] < _SHORT:
            return view
        turned = np.lib.stride_tricks.as_strided(
            array.ravel()[view.offset :], view.shape, [stride * array.itemsize for stride in view.strides]
        )
        turned = np.ascontiguousarray(turned)
        return dense(Memory(turned.size, turned.dtype, turned), turned.shape)

    # Nodes.

    def _add(self, node):
        if node.is_leaf:
            self._views[node.entry()] = self._leaf(node)
            return
        inputs = [self._views[entry] for entry in node.inputs if entry.node not in self._into_sums]
        found = self._lowered(node, inputs)
        for index, view in enumerate(found if isinstance(found, list) else [found]):
            if view.shape != node.shapes[index]:
                raise Unknown(f"`{node.operator}` that gives an array of shape {node.shapes[index]}")
            self._views[node.entry(index)] = view

    def _leaf(self, node):
        if node.operator == PARAMETER:
            return self._of_array(self._parameters[node.key])
        if node.operator == DATA:
            return self._of_array(node.array)
        if node.operator != CONSTANT:
            raise Unknown("an array that an operator updates in place")
        return self._of_array(node.array, is_constant=True)

    def _of_array(self, array, is_constant=False):
        if np.dtype(array.dtype).kind == "f" and not (is_constant and array.size <= _TURNED):
            return dense(Memory(array.size, checked(array.dtype), array), array.shape)
        if not is_constant:
            raise Unknown(f"data of {np.dtype(array.dtype)}")
        values = array.asnumpy()
        values = np.ascontiguousarray(values if values.dtype.kind == "f" else values.astype("float32"))
        return dense(Memory(values.size, checked(values.dtype), values), values.shape)

    def _lowered(self, node, inputs):
        name = node["act_type"] if node.operator == "Activation" else node.operator
        if node.operator in LOWERINGS:
            return LOWERINGS[node.operator](self, node, inputs)
        if traits(name).formula is None:
            raise Unknown(f"`{node.operator}`")
        if traits(name).is_single and node.dtype == np.float64:  # the run would not be the one that MXFusion makes
            raise Unknown(f"`{name}` in float64, because MXNet computes it in single precision")
        if any(view.memory.dtype != node.dtype for view in inputs):
            raise Unknown(f"`{node.operator}` of several types")
        out = self.new(node.shape, checked(node.dtype))
        first, second = ("a_min", "a_max") if name == "clip" else ("scalar", "scalar")
        scalars = [float(node.attributes.get(key, 0.0)) for key in (first, second)]
        if name == "clip":  # MXNet keeps its bounds in single precision
            scalars = [float(np.float32(scalar)) for scalar in scalars]
        self.map(traits(name).formula, out, inputs, *scalars)
        return out

    def drawn(self, node):
        """
        Append draws, or take those of the trace.

        :param node: of a random operator.
        :returns: a view.
        """
        if self._fixed_noise:
            return self._of_array(node.noise[0], is_constant=True)
        out = self.new(node.shape, checked(node.dtype))
        self.draws.append(out)
        return out

    def factors_of(self, node):
        """
        The factors of what a node sums up.

        :param node: of ``sum`` or ``mean``.
        :returns: list of one or two views of the shape of its input.
        """
        source = node.inputs[0].node
        if source not in self._into_sums:
            return [self._views[node.inputs[0]]]
        factors = [self._views[entry].broadcast_to(source.shape) for entry in source.inputs]
        return factors * 2 if source.operator == "square" else factors


def _products_of_sums(graph):
    """The products that a sum alone takes: they need no array."""
    uses = Counter(entry for node in graph.nodes for entry in node.inputs)
    uses.update(graph.heads())
    found = set()
    for node in graph.nodes:
        if node.operator in ("sum", "mean"):
            source = node.inputs[0]
            row = traits(source.node.operator)
            is_product = row.multiplication or source.node.operator == "square"
            if is_product and uses[source] == 1 and source.dtype == source.node.inputs[0].dtype:
                found.add(source.node)
    return found


def _steps_in(view):
    """From row to row and from column to column of its matrices; along an axis of one entry as BLAS expects it."""
    m, n = view.shape[-2:]
    columns = view.strides[-1] if n > 1 else 1
    return view.strides[-2] if m > 1 else n if columns == 1 else 1, columns


def _is_one_step(view):
    leading = view._replace(shape=view.shape[:-2], strides=view.strides[:-2])
    return len(collapsed(leading.shape, [leading])[0]) == 1


def _step(view):
    """From one matrix to the next."""
    leading = view._replace(shape=view.shape[:-2], strides=view.strides[:-2])
    return collapsed(leading.shape, [leading])[1][0][-1]
