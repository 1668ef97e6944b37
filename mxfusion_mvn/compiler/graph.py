# SPDX-License-Identifier: Apache-2.0
"""A traced computation: operators and leaves, each after its inputs.

Leaves are parameters, data, constants and states (arrays that an operator updates in place, like the moving averages of
BatchNorm). A random operator remembers the ``noise`` it drew, so that a graph can be run with fresh noise or with the
noise of the trace. ``print(graph)`` shows a graph, one line for each node.
"""

import hashlib
import math
from typing import Dict, List, NamedTuple, Optional

from mxfusion_mvn.compiler.operators import decoded

import numpy as np

# The kinds of leaves.
PARAMETER, DATA, CONSTANT, STATE = "parameter", "data", "constant", "state"


class Node:
    """
    One operator call or one leaf.

    :param operator: name of the operator, or the kind of the leaf.
    :param inputs: list of :class:`Entry`, empty for a leaf.
    :param attributes: dict from name to string, as MXNet takes them; ``node["alpha"]`` is the decoded value.
    :param shapes: list of the shapes of the outputs.
    :param dtypes: list of their dtypes.
    :param key: identifies a leaf among those of its kind: the name of a parameter, the position of a data array.
    :param array: the NDArray of a leaf.
    :param noise: the NDArrays a random operator drew (for Dropout its mask), else None.
    """

    __slots__ = ("operator", "inputs", "attributes", "shapes", "dtypes", "key", "array", "noise")

    def __init__(self, operator, inputs=(), attributes=None, shapes=(), dtypes=(), key=None, array=None, noise=None):
        self.operator = operator
        self.inputs = list(inputs)
        self.attributes = attributes or {}
        self.shapes = list(shapes)
        self.dtypes = [np.dtype(dtype) for dtype in dtypes]
        self.key = key
        self.array = array
        self.noise = noise

    def __getitem__(self, name):
        """The value of an attribute, decoded; where it is not set, MXNet's default."""
        return decoded(self.operator, name, self.attributes)

    def with_inputs(self, inputs):
        """The same node on other inputs."""
        return Node(self.operator, inputs, self.attributes, self.shapes, self.dtypes, self.key, self.array, self.noise)

    def entry(self, index=0):
        """One of its outputs."""
        return Entry(self, index)

    @property
    def shape(self):
        """The shape of the first output, tuple of int."""
        return self.shapes[0]

    @property
    def size(self):
        """How many scalars the first output has."""
        return math.prod(self.shapes[0])

    @property
    def dtype(self):
        """The NumPy dtype of the first output."""
        return self.dtypes[0]

    @property
    def is_leaf(self):
        """Whether this is an array, not an operator."""
        return self.operator in (PARAMETER, DATA, CONSTANT, STATE)

    @property
    def is_random(self):
        """Whether the operator draws random numbers."""
        return self.noise is not None


class Entry(NamedTuple):
    """One output of a node. Entries are equal, and one key of a dict, if they are the same output of one node."""

    node: Node
    output: int = 0

    @property
    def shape(self):
        """Its shape, tuple of int."""
        return self.node.shapes[self.output]

    @property
    def size(self):
        """How many scalars it has."""
        return math.prod(self.node.shapes[self.output])

    @property
    def dtype(self):
        """Its NumPy dtype."""
        return self.node.dtypes[self.output]

    @property
    def inputs(self):
        """The entries that its node is computed from."""
        return self.node.inputs

    def is_a(self, *operators):
        """
        Whether it is an output of one of some operators.

        :param operators: their names.
        :returns: a bool.
        """
        return self.node.operator in operators


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
    ``objective`` are entries. ``results`` maps the name of a parameter to the entry that is wanted for it: the gradient
    of the objective, left out where it is zero, or the value after some steps. It is None where gradients are not part
    of the graph, so that MXNet has to find them.
    """

    nodes: List[Node]
    loss: Entry
    objective: Entry
    results: Optional[Dict[str, Entry]] = None

    def __str__(self):
        names = {node: _label(node, position) for position, node in enumerate(self.nodes)}
        heads = {"loss": self.loss, "objective": self.objective}
        heads.update((f"result of {name}", entry) for name, entry in (self.results or {}).items())
        lines = [_line(node, names) for node in self.nodes]
        return "\n".join(lines + [f"{name} -> {_reference(entry, names)}" for name, entry in heads.items()])

    def heads(self):
        """The entries that a run computes."""
        return [self.loss, self.objective] if self.results is None else [self.loss, *self.results.values()]

    def mapped(self, change):
        """
        The heads after each of their entries was replaced by another.

        :param change: function from an entry to its replacement.
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


def _label(node, position):
    return f"{node.operator[0] if node.is_leaf else '%'}{position}"


def _reference(entry, names):
    name = names.get(entry.node, f"?{entry.node.operator}")  # the checker prints graphs that are wrong
    return name + (f".{entry.output}" if len(entry.node.shapes) > 1 else "")


def _line(node, names):
    """A node as text: ``%7 = dot(p0, %6; transpose_b=True) (3, 4)``."""
    shapes = node.shape if len(node.shapes) == 1 else ", ".join(map(str, node.shapes))
    if node.is_leaf:
        key = f" {node.key}" if node.key is not None else ""
        value = f" = {node.array.asnumpy().item():g}" if node.operator == CONSTANT and node.size == 1 else ""
        return f"{names[node]:>5} : {node.operator}{key} {shapes}{value}"
    arguments = ", ".join(_reference(entry, names) for entry in node.inputs)
    attributes = ", ".join(f"{name}={value}" for name, value in sorted(node.attributes.items()))
    return f"{names[node]:>5} = {node.operator}({'; '.join(filter(None, (arguments, attributes)))}) {shapes}"


def live_graph(nodes, loss, objective, results=None):
    """
    The graph without nodes that nothing depends on; random operators stay, because they advance the random streams.

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
        if node not in needed:
            needed.add(node)
            stack.extend(source for source, _ in node.inputs)
    return graph._replace(nodes=[node for node in nodes if node in needed])


def difference(first, second):
    """
    How two traces of one objective differ.

    :param first: :class:`Graph`.
    :param second: :class:`Graph`.
    :returns: a text; None if they are the same computation.
    """
    if len(first.nodes) != len(second.nodes):
        return f"{len(first.operators())} operators in one evaluation, {len(second.operators())} in the next"
    position = {}
    for index, (one, two) in enumerate(zip(first.nodes, second.nodes)):
        position[one] = position[two] = index
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
    wiring = [[(position[source], index) for source, index in node.inputs] for node in (one, two)]
    if wiring[0] != wiring[1] or one.shapes != two.shapes or one.dtypes != two.dtypes or one.key != two.key:
        return f"operator `{one.operator}` has other inputs or shapes in the next evaluation"
    return None


def digest(array):
    """
    A fingerprint of the values of an array.

    :param array: NDArray.
    :returns: bytes.
    """
    return hashlib.blake2b(array.asnumpy().tobytes(), digest_size=16).digest()
