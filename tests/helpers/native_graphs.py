# SPDX-License-Identifier: Apache-2.0
"""Graphs of single operators: what the native engine makes of them, and what MXNet computes."""

from mxfusion_mvn.compiler.graph import CONSTANT, DATA, PARAMETER, Graph, Node, leaf
from mxfusion_mvn.compiler.library import invoke, operator_handle
from mxfusion_mvn.compiler.native.engine import NativeProgram

import mxnet as mx
import numpy as np
from mxnet.ndarray import register
from scipy import special

from helpers.host import nd

# Where functions have edges: zeros, infinities, nan, the smallest and largest, and beside them what is ordinary.
SPECIAL = {
    "float32": [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-39, 1e-38, -1e-38, 3e38, -3e38, 1e-8, -1e-8],
    "float64": [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e-310, 1e-300, -1e-300, 1e308, -1e308, 1e-17],
}
ORDINARY = [0.5, -0.5, 1.0, -1.0, 0.99999, -0.99999, 2.0, -2.0, 3.7, -3.7, 12.5, -12.5, 88.0, -88.0, 100.0, -104.0]


def edges(dtype):
    """Entries at which functions are most often wrong, (E,)."""
    return np.array(SPECIAL[dtype] + ORDINARY).astype(dtype)


class Calls:
    """Calls of operators, as nodes of a graph; ``values`` are what MXNet computes, by entry."""

    def __init__(self, dtype="float32"):
        self.dtype = dtype
        self.nodes, self.values, self.parameters = [], {}, {}

    def parameter(self, array):
        """An entry that a run reads anew."""
        name = f"p{len(self.parameters)}"
        self.parameters[name] = nd(array, self.dtype)
        return self._leaf(PARAMETER, self.parameters[name], name)

    def constant(self, array, dtype=None):
        """An entry that never changes."""
        return self._leaf(CONSTANT, nd(array, dtype or self.dtype))

    def data(self, array):
        """An entry that a run reads where it lies."""
        return self._leaf(DATA, nd(array, self.dtype), 0)

    def _leaf(self, kind, array, key=None):
        node = leaf(kind, array, key)
        self.nodes.append(node)
        self.values[node.entry()] = array
        return node.entry()

    def call(self, operator, *entries, **attributes):
        """
        Call an operator.

        :returns: an entry, or a list if it has several outputs.
        """
        texts = {name: str(value) for name, value in attributes.items()}
        arrays = [self.values[entry] for entry in entries]
        found = invoke(register._imperative_invoke, operator_handle(operator), arrays, texts)
        outputs = found if isinstance(found, (list, tuple)) else [found]
        node = Node(operator, entries, texts, [a.shape for a in outputs], [a.dtype for a in outputs])
        self.nodes.append(node)
        self.values.update({node.entry(i): array for i, array in enumerate(outputs)})
        wanted = [node.entry(i) for i in range(len(outputs))]
        return wanted if len(wanted) > 1 else wanted[0]

    def program(self, results, kind=NativeProgram):
        """
        The program of what was called.

        :param results: list of entries.
        :param kind: its class.
        :returns: a program, and the NDArrays that it delivers the results to.
        """
        if not self.parameters:
            self.parameter([0.0])
        source = next(node.entry() for node in self.nodes if node.operator == PARAMETER)
        loss = Node("sum", [source], {}, [(1,)], [self.dtype])
        wanted = {f"r{i}": entry for i, entry in enumerate(results)}
        receivers = {name: mx.nd.zeros(entry.shape, dtype=entry.dtype) for name, entry in wanted.items()}
        graph = Graph([*self.nodes, loss], loss.entry(), loss.entry(), wanted)
        return kind(graph, self.parameters, receivers, mx.cpu()), list(receivers.values())

    def run(self, *results):
        """
        What the native program makes of the graph.

        :param results: entries.
        :returns: list of NumPy arrays.
        """
        program, receivers = self.program(results)
        program.run()
        program.deliver()
        return [receiver.asnumpy() for receiver in receivers]


# What is no operator of MXNet, keeps to another type, or holds a number of float32.
_EXACT = {
    "Cast": lambda a: a,
    "digamma": special.psi,
    "_backward_erf": lambda a, b: a * 2 / np.sqrt(np.pi) * np.exp(-(b**2)),
    "_backward_gamma": lambda a, b: a * special.gamma(b) * special.psi(b),
    "_backward_gammaln": lambda a, b: a * special.psi(b),
}


def exact(nodes):
    """
    What MXNet computes of nodes in float64.

    :param nodes: list of nodes, each after its inputs.
    :returns: dict from an entry to an NDArray.
    """
    values: dict = {}
    for node in nodes:
        if node.is_leaf:
            found = node.array.astype("float64") if np.dtype(node.dtype).kind == "f" else node.array
        elif node.is_random:
            found = [array.astype("float64") for array in node.noise]
        elif node.operator in _EXACT:
            found = nd(_EXACT[node.operator](*(values[entry].asnumpy() for entry in node.inputs)), "float64")
        else:
            arrays = [values[entry] for entry in node.inputs]
            found = invoke(register._imperative_invoke, operator_handle(node.operator), arrays, node.attributes)
        for index, array in enumerate(found if isinstance(found, (list, tuple)) else [found]):
            values[node.entry(index)] = array
    return values


def applied(operator, arrays, dtype, **attributes):
    """
    An operator of some arrays.

    :returns: what the engine gives, and what MXNet gives: NumPy arrays.
    """
    calls = Calls(dtype)
    out = calls.call(operator, *(calls.parameter(array) for array in arrays), **attributes)
    return calls.run(out)[0], calls.values[out].asnumpy()


def ulps(got, expected):
    """
    How far apart values are, in units of the last digit of what is expected; nan and infinities have to be equal.

    :param got: NumPy array, float32 or float64.
    :param expected: float64 array.
    :returns: float64 array.
    """
    with np.errstate(all="ignore"):
        rounded = expected.astype(got.dtype)
        unit = np.spacing(np.abs(np.where(np.isfinite(rounded), rounded, 1)).astype(got.dtype)).astype("float64")
        distance = np.abs(got.astype("float64") - expected) / unit
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        huge = np.isinf(got) | np.isinf(rounded) | np.isnan(got) | np.isnan(rounded)
    return np.where(same, np.where(huge, 0, np.minimum(distance, 0.5)), np.where(huge, np.inf, distance))
