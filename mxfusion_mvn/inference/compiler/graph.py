# SPDX-License-Identifier: Apache-2.0
"""A traced computation: operators and leaves in the order they ran, and the way to an MXNet Symbol.

An entry is one output of a node: the pair ``(node, index)``. Leaves are parameters, data, constants and states (arrays
that an operator updates in place, as the moving averages of BatchNorm). A random operator remembers the ``noise`` it
drew, so that a graph can be run with fresh noise or with the noise of the trace.
"""

import ctypes
import functools
import hashlib
import inspect
from typing import Dict, List, NamedTuple, Optional, Tuple

import mxnet as mx
from mxnet._ctypes.symbol import _symbol_creator
from mxnet.base import _LIB, c_str, check_call, mx_uint, py_str
from mxnet.base import OpHandle as _OpHandle

# Leaves are told apart by their kind.
PARAMETER, DATA, CONSTANT, STATE = "parameter", "data", "constant", "state"
_RANDOM = ("_random_", "random_", "_sample_", "sample_", "_shuffle", "Dropout")
_FEW_NUMBERS = 20_000
# Operators whose output oneDNN lays out as suits it; others pass the layout on.
_OWN_LAYOUTS = ("Convolution", "Deconvolution")
_DENSITIES = ("_random_pdf_", "random_pdf_")


class Node:
    """
    One operator call or one leaf.

    :param operator: name of the operator, or the kind of the leaf.
    :param inputs: list of entries, empty for a leaf.
    :param attributes: dict from name to string.
    :param shapes: list of the shapes of the outputs.
    :param dtypes: list of their dtypes.
    :param key: what tells leaves of a kind apart: the name of a parameter, the position of a data array.
    :param array: the NDArray of a leaf.
    :param noise: the NDArrays a random operator drew (for Dropout its mask), else None.
    """

    __slots__ = ("operator", "inputs", "attributes", "shapes", "dtypes", "key", "array", "noise")

    def __init__(self, operator, inputs=(), attributes=None, shapes=(), dtypes=(), key=None, array=None, noise=None):
        self.operator = operator
        self.inputs = list(inputs)
        self.attributes = attributes or {}
        self.shapes = list(shapes)
        self.dtypes = list(dtypes)
        self.key = key
        self.array = array
        self.noise = noise

    def with_inputs(self, inputs):
        """The same node on other inputs."""
        return Node(self.operator, inputs, self.attributes, self.shapes, self.dtypes, self.key, self.array, self.noise)

    @property
    def is_leaf(self):
        """Whether this is an array, not an operator."""
        return self.operator in (PARAMETER, DATA, CONSTANT, STATE)

    @property
    def is_random(self):
        """Whether the operator draws random numbers."""
        return self.noise is not None


def leaf(kind, array, key=None):
    """
    A leaf for an array.

    :param kind: PARAMETER, DATA, CONSTANT or STATE.
    :param array: NDArray.
    :param key: the name of a parameter, the position of a data array.
    :returns: a :class:`Node`.
    """
    return Node(kind, shapes=[array.shape], dtypes=[array.dtype], key=key, array=array)


class Graph(NamedTuple):
    """
    A computation.

    ``nodes`` are all nodes it needs, each after its inputs, random ones in the order in which they drew. ``loss`` and
    ``objective`` are entries. ``results`` are what is wanted of each parameter, an entry by its name: the gradient of
    the objective, left out where it is zero, or the value after some steps. They are None where gradients are not part
    of the graph, and MXNet has to find them.
    """

    nodes: List[Node]
    loss: Tuple[Node, int]
    objective: Tuple[Node, int]
    results: Optional[Dict[str, Tuple[Node, int]]] = None

    def heads(self):
        """The entries that are asked for."""
        return [self.loss, self.objective] if self.results is None else [self.loss, *self.results.values()]

    def mapped(self, change):
        """
        The heads, with other entries in place of theirs.

        :param change: function of an entry.
        :returns: tuple of the loss, the objective and the results.
        """
        results = self.results and {name: change(entry) for name, entry in self.results.items()}
        return change(self.loss), change(self.objective), results

    def operators(self):
        """Names of the operators, in order."""
        return [node.operator for node in self.nodes if not node.is_leaf]

    def parameters(self):
        """Names of the parameters in the graph."""
        return [node.key for node in self.nodes if node.operator == PARAMETER]


def live_graph(nodes, loss, objective, results=None):
    """
    The graph without what nothing depends on; random operators stay, for they advance the random streams.

    :param nodes: list of nodes in the order they ran.
    :param loss: entry.
    :param objective: entry.
    :param results: dict from the name of a parameter to an entry, or None.
    :returns: a :class:`Graph`.
    """
    graph = Graph(nodes, loss, objective, results)
    needed, stack = set(), [node for node, _ in graph.heads()] + [node for node in nodes if node.is_random]
    while stack:
        node = stack.pop()
        if id(node) not in needed:
            needed.add(id(node))
            stack.extend(source for source, _ in node.inputs)
    return graph._replace(nodes=[node for node in nodes if id(node) in needed])


def difference(first, second):
    """
    What tells two traces of one objective apart, if they are not the same computation.

    :param first: :class:`Graph`.
    :param second: :class:`Graph`.
    :returns: None, or a text.
    """
    if len(first.nodes) != len(second.nodes):
        return f"{len(first.operators())} operators in one evaluation, {len(second.operators())} in the next"
    position = {}
    for index, (one, two) in enumerate(zip(first.nodes, second.nodes)):
        position[id(one)] = position[id(two)] = index
        found = _node_difference(one, two, position)
        if found:
            return found
    return None


def _node_difference(one, two, position):
    if one.operator != two.operator:
        return f"operator `{one.operator}` in one evaluation, `{two.operator}` in the next"
    for name in set(one.attributes) | set(two.attributes):
        values = one.attributes.get(name), two.attributes.get(name)
        if values[0] != values[1]:
            return f"`{name}` of operator `{one.operator}` is {values[0]} in one evaluation, {values[1]} in the next"
    wiring = [[(position[id(source)], index) for source, index in node.inputs] for node in (one, two)]
    if wiring[0] != wiring[1] or one.shapes != two.shapes or one.dtypes != two.dtypes or one.key != two.key:
        return f"operator `{one.operator}` has other inputs or shapes in the next evaluation"
    return None


def digest(array):
    """
    A fingerprint of the numbers of an array.

    :param array: NDArray.
    :returns: bytes.
    """
    return hashlib.blake2b(array.asnumpy().tobytes(), digest_size=16).digest()


def is_random_operator(name):
    """
    Whether an operator draws random numbers.

    :param name: its name.
    :returns: a bool.
    """
    return name.startswith(_RANDOM) and not name.startswith(_DENSITIES)


def invoke(function, handle, arrays, attributes):
    """
    Call an operator imperatively.

    :param function: ``mxnet.ndarray.register._imperative_invoke``, or what it was before it was replaced.
    :param handle: address of the operator, an int.
    :param arrays: list of NDArrays.
    :param attributes: dict from name to string.
    :returns: NDArray.
    """
    # Whether it is an operator of mx.np; in newer versions also whether it returns a list.
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
    Name of an operator, and the attribute that counts its inputs.

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


class SymbolBuilder:
    """
    Builds the Symbol of a graph, and the arrays its variables stand for.

    :param fixed_noise: whether random operators become variables that hold the noise of the trace.
    """

    def __init__(self, fixed_noise=False):
        self.fixed_noise = fixed_noise
        self.leaves = {}  # name of the variable -> leaf or NDArray
        self._symbols = {}
        self._draws = []
        self._has_own_layouts = False

    def build(self, graph, learned):
        """
        The Symbol.

        :param graph: a :class:`Graph`.
        :param learned: dict from the names of the parameters that results are wanted of to arrays of their shapes.
        :returns: Symbol whose last output is the loss. Before it comes the objective, if it is not the same; or the
            results of the graph, in the order of the parameters, zero where there is none: in one flat array where
            :func:`are_joined` says so. Without fixed noise the draws come first, in their order.
        """
        for node in graph.nodes:
            self._symbols[id(node)] = self._symbol(node)
        self._has_own_layouts = any(node.operator in _OWN_LAYOUTS for node in graph.nodes)
        if graph.results is None:
            heads = [mx.sym.make_loss(self._entry(graph.objective))]
            heads += [mx.sym.BlockGrad(self._entry(graph.loss))] if graph.loss != graph.objective else []
        else:
            heads = [*self._results(graph.results, learned), self._head(graph.loss)]
        if self.fixed_noise:
            return mx.sym.Group(heads)
        # MXNet runs the operators behind the first output first: this keeps the draws in their order.
        return mx.sym.Group([mx.sym.BlockGrad(draw) for draw in self._draws] + heads)

    def _results(self, results, learned):
        heads = [self._head(results[name]) if name in results else self._zeros(like) for name, like in learned.items()]
        if not are_joined(learned):
            return heads
        flat = [self._flat(head, f"flat{i}") for i, head in enumerate(heads)]
        return flat if len(flat) == 1 else [call("_npi_concatenate", flat, {"axis": "0"}, "results")]

    def _flat(self, head, label):
        # The reshape of mx.np copies nothing, and leaves an array in a layout that has no views.
        if self._has_own_layouts:
            return call("Reshape", [head], {"shape": "(-1,)"}, label)
        return call("_np_reshape", [head], {"newshape": "(-1,)"}, label)

    def _zeros(self, like):
        zeros = mx.nd.zeros_like(like)
        return mx.sym.identity(self._variable("zeros", zeros, zeros.shape, zeros.dtype))

    def _head(self, entry):
        """An output of its own."""
        return mx.sym.identity(self._entry(entry)) if entry[0].is_leaf else self._entry(entry)

    def _entry(self, entry):
        node, index = entry
        symbol = self._symbols[id(node)]
        return symbol[index] if len(node.shapes) > 1 else symbol

    def _symbol(self, node):
        if node.is_leaf:
            return self._variable(node.operator, node, node.shapes[0], node.dtypes[0])
        if node.is_random:
            return self._random(node)
        return self._call(node, [self._entry(entry) for entry in node.inputs])

    def _call(self, node, inputs):
        return call(node.operator, inputs, node.attributes, f"node{len(self._symbols)}")

    def _random(self, node):
        if node.operator != "Dropout":
            return self._drawn(node, [self._entry(entry) for entry in node.inputs])
        # Dropout does not give its mask, which is what it makes of ones.
        ones = mx.nd.ones(node.shapes[0], dtype=node.dtypes[0], ctx=node.noise[0].context)
        mask = self._drawn(node, [self._variable("ones", ones, ones.shape, ones.dtype)])
        return mx.sym.broadcast_mul(self._entry(node.inputs[0]), mask)

    def _drawn(self, node, inputs):
        if not self.fixed_noise:
            drawn = self._call(node, inputs)
            self._draws.append(drawn[0])
            return drawn
        variables = [self._variable("noise", array, array.shape, array.dtype) for array in node.noise]
        return variables[0] if len(variables) == 1 else mx.sym.Group(variables)

    def _variable(self, kind, value, shape, dtype):
        name = f"{kind}{len(self.leaves)}"
        self.leaves[name] = value
        return mx.sym.var(name, shape=shape, dtype=dtype)


def are_joined(learned):
    """
    Whether the results of a graph are to be one array, which takes some time for each number, and spares Python calls.

    :param learned: dict from the names of the parameters that results are wanted of to arrays of their shapes.
    :returns: a bool.
    """
    return sum(array.size for array in learned.values()) <= _FEW_NUMBERS


def call(name, inputs, attributes, label):
    """
    An operator applied to Symbols.

    :param name: registered name of the operator.
    :param inputs: list of Symbols.
    :param attributes: dict from name to string.
    :param label: a name of its own for the result.
    :returns: Symbol.
    """
    handle = operator_handle(name)
    counter = operator_info(handle)[1]
    if counter and counter not in attributes:
        attributes = dict(attributes, **{counter: str(len(inputs))})
    keys, values = list(attributes), list(attributes.values())
    return _symbol_creator(handle, inputs, None, keys, values, label, False)
