# SPDX-License-Identifier: Apache-2.0
"""Making a new graph out of a traced one, node by node, under a set of rules."""

import hashlib

from mxfusion_mvn.inference.compiler.graph import CONSTANT, PARAMETER, Graph, Node, invoke, leaf, operator_handle

import mxnet as mx
import mxnet.ndarray.register as register
import numpy as np
from mxnet import autograd

_COMMUTATIVE = ("elemwise_add", "elemwise_mul", "broadcast_add", "broadcast_mul")


def shape_of(entry):
    """
    The shape of an entry.

    :param entry: tuple (node, index).
    :returns: tuple of int.
    """
    return entry[0].shapes[entry[1]]


def size_of(entry):
    """
    How many numbers an entry has.

    :param entry: tuple (node, index).
    :returns: an int.
    """
    return int(np.prod(shape_of(entry), dtype="int64"))


def dtype_of(entry):
    """
    The dtype of an entry.

    :param entry: tuple (node, index).
    :returns: a NumPy dtype.
    """
    return np.dtype(entry[0].dtypes[entry[1]])


def is_operator(entry, *names):
    """
    Whether an entry is the output of one of some operators.

    :param entry: tuple (node, index).
    :param names: their names.
    :returns: a bool.
    """
    return entry[0].operator in names


class Rewriter:
    """
    Makes the nodes of a new graph; what two of them have in common is made once.

    :param rules: functions of the rewriter and a node that is to be made. The first that returns an entry, and not
        None, decides what is used in its place.
    :param ctx: MXNet context of new constants.

    ``nodes`` are the nodes made, each after its inputs.
    """

    def __init__(self, rules, ctx):
        self.nodes = []
        self._rules = rules
        self._ctx = ctx
        self._known = {}
        self._learned = {}

    def rewrite(self, graph):
        """
        Make all nodes of a graph.

        :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph`.
        :returns: the graph of these nodes.
        """
        made = {}
        for node in graph.nodes:
            inputs = [made[id(source), index] for source, index in node.inputs]
            first = self.add(node.with_inputs(inputs))
            made[id(node), 0] = first
            made.update(((id(node), index), (first[0], index)) for index in range(1, len(node.shapes)))
        return Graph(self.nodes, *graph.mapped(lambda entry: made[id(entry[0]), entry[1]]))

    def add(self, node):
        """
        Make a node, or what the rules say.

        :param node: a :class:`~mxfusion_mvn.inference.compiler.graph.Node` with entries of the new graph as inputs.
        :returns: the entry of its first output.
        """
        for rule in self._rules:
            entry = rule(self, node)
            if entry is not None:
                return entry
        key = _key(node)
        if key in self._known:
            return self._known[key], 0
        if key is not None:
            self._known[key] = node
        self._learned[id(node)] = _has_gradient(node, self._learned)
        self.nodes.append(node)
        return node, 0

    def call(self, operator, inputs, shape, attributes=(), dtype=None):
        """
        Make a node from an operator.

        :param operator: its name.
        :param inputs: list of entries.
        :param shape: the shape of its output.
        :param attributes: dict of its attributes.
        :param dtype: dtype of its output, None for that of the first input.
        :returns: an entry.
        """
        attributes = {name: str(value) for name, value in dict(attributes).items()}
        return self.add(Node(operator, inputs, attributes, [tuple(shape)], [dtype or dtype_of(inputs[0]).type]))

    def constant(self, values, dtype, node=None):
        """
        Make a constant, or find one of the same numbers.

        :param values: NumPy array.
        :param dtype: its dtype.
        :param node: the leaf to use if there is none.
        :returns: an entry.
        """
        key = CONSTANT, values.shape, np.dtype(dtype), hashlib.blake2b(values.tobytes()).digest()
        return self._leaf(key, lambda: node or leaf(CONSTANT, mx.nd.array(values, dtype=dtype, ctx=self._ctx)))

    def ones(self, shape, like):
        """
        A constant of ones.

        :param shape: tuple of int.
        :param like: the entry whose dtype it gets.
        :returns: an entry.
        """
        key = "ones", shape, dtype_of(like)
        return self._leaf(key, lambda: leaf(CONSTANT, mx.nd.ones(shape, dtype=dtype_of(like), ctx=self._ctx)))

    def _leaf(self, key, create):
        if key not in self._known:
            self._known[key] = create()
            self.nodes.append(self._known[key])
        return self._known[key], 0

    def has_gradient(self, entry):
        """
        Whether a gradient passes through an entry to a parameter.

        :param entry: tuple (node, index).
        :returns: a bool.
        """
        return self._learned.get(id(entry[0]), False)

    def reshaped(self, entry, shape):
        """
        An array in another shape.

        :param entry: the entry.
        :param shape: tuple of int.
        :returns: an entry.
        """
        while is_operator(entry, "Reshape", "_np_reshape"):
            entry = entry[0].inputs[0]
        if shape_of(entry) == tuple(shape):
            return entry
        return self.call("Reshape", [entry], shape, {"shape": tuple(shape)})

    def broadcast(self, entry, shape):
        """
        An array broadcast to a shape, aligned to the right.

        :param entry: the entry.
        :param shape: tuple of int.
        :returns: an entry.
        """
        entry = self.reshaped(entry, (1,) * (len(shape) - len(shape_of(entry))) + shape_of(entry))
        if shape_of(entry) == tuple(shape):
            return entry
        return self.call("broadcast_to", [entry], shape, {"shape": tuple(shape)})


def evaluated(rewriter, node):
    """
    A rule: what depends on constants alone is a constant.

    :param rewriter: :class:`Rewriter`.
    :param node: the node.
    :returns: an entry, or None.
    """
    constants = [entry[0].array for entry in node.inputs if is_operator(entry, CONSTANT)]
    if node.is_random or not constants or len(constants) < len(node.inputs) or len(node.shapes) > 1:
        return None
    with autograd.pause():
        array = invoke(register._imperative_invoke, operator_handle(node.operator), constants, node.attributes)
    return rewriter.add(leaf(CONSTANT, array))


def _key(node):
    if node.is_leaf or node.is_random or len(node.shapes) > 1:
        return None
    inputs = tuple((id(n), i) for n, i in node.inputs)
    inputs = tuple(sorted(inputs)) if node.operator in _COMMUTATIVE else inputs
    return node.operator, tuple(sorted(node.attributes.items())), inputs


def _has_gradient(node, known):
    if node.operator == PARAMETER:
        return True
    if node.operator == "BlockGrad" or node.is_random and node.operator != "Dropout":
        return False
    return any(known.get(id(source), False) for source, _ in node.inputs)
