# SPDX-License-Identifier: Apache-2.0
"""Rewriting a graph node by node, by a set of rules."""

import hashlib
from collections import defaultdict
from typing import Dict

from mxfusion_mvn.compiler.graph import CONSTANT, PARAMETER, Entry, Graph, Node, leaf
from mxfusion_mvn.compiler.library import invoke, operator_handle
from mxfusion_mvn.compiler.operators import COMMUTATIVE
from mxfusion_mvn.compiler.thresholds import LARGE_CONSTANT

import mxnet as mx
import mxnet.ndarray.register as register
from mxnet import autograd


class RewriteError(Exception):
    """A rule or an adjoint has failed; the message names it and the node."""


def rule(*operators):
    """
    Declare a rule: a function of the rewriter and of the node that is about to be made.

    It returns the entry to use in place of the node's first output, or None if it does not apply.

    :param operators: names of the operators that the rule may apply to; without any it may apply to all.
    :returns: a decorator.
    """

    def declare(function):
        function.operators = frozenset(operators)
        return function

    return declare


class Rewriter:
    """
    Makes the nodes of a new graph; equal nodes are made once.

    :param rules: functions declared by :func:`rule`. The first of them that returns an entry replaces the node by it.
    :param ctx: MXNet context of new constants.

    ``nodes`` are the nodes made, each after its inputs.
    """

    def __init__(self, rules, ctx):
        self.nodes = []
        self._rules = _by_operator(rules)
        self._ctx = ctx
        self._known = {}
        self._learned = {}

    def rewrite(self, graph):
        """
        Make all nodes of a graph.

        :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph`.
        :returns: the graph of these nodes.
        """
        made: Dict[Entry, Entry] = {}
        for node in graph.nodes:
            first = self.add(node.with_inputs([made[entry] for entry in node.inputs]))
            made[node.entry()] = first
            made.update((node.entry(index), first.node.entry(index)) for index in range(1, len(node.shapes)))
        return Graph(self.nodes, *graph.mapped(made.get))

    def add(self, node):
        """
        Make a node, or the entry that a rule puts in its place.

        :param node: a :class:`~mxfusion_mvn.compiler.graph.Node` with entries of the new graph as inputs.
        :returns: the entry of its first output.
        :raises RewriteError: if a rule fails, or two undo each other.
        """
        for function in self._rules[node.operator]:
            entry = applied("the rule", function, self, node)
            if entry is not None:
                return entry
        key = _key(node)
        if key in self._known:
            return self._known[key].entry()
        if key is not None:
            self._known[key] = node
        self._learned[node] = _has_gradient(node, self._learned)
        self.nodes.append(node)
        return node.entry()

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
        return self.add(Node(operator, inputs, attributes, [tuple(shape)], [dtype or inputs[0].dtype]))

    def constant(self, values, dtype, node=None):
        """
        Make a constant, or find the one with the same values.

        :param values: NumPy array.
        :param dtype: its dtype.
        :param node: the leaf to use if there is none.
        :returns: an entry.
        """
        return self._leaf(
            _constant_key(values.astype(dtype, copy=False)),
            lambda: node or leaf(CONSTANT, mx.nd.array(values, dtype=dtype, ctx=self._ctx)),
        )

    def ones(self, shape, like):
        """
        A constant of ones.

        :param shape: tuple of int.
        :param like: the entry whose dtype it gets.
        :returns: an entry.
        """
        key = "ones", shape, like.dtype
        return self._leaf(key, lambda: leaf(CONSTANT, mx.nd.ones(shape, dtype=like.dtype, ctx=self._ctx)))

    def _leaf(self, key, create):
        if key not in self._known:
            self._known[key] = create()
            self.nodes.append(self._known[key])
        return self._known[key].entry()

    def has_gradient(self, entry):
        """
        Whether a gradient passes through an entry to a parameter.

        :param entry: an entry.
        :returns: a bool.
        """
        return self._learned.get(entry.node, False)

    def reshaped(self, entry, shape):
        """
        An array in another shape.

        :param entry: the entry.
        :param shape: tuple of int.
        :returns: an entry.
        """
        while entry.is_a("Reshape", "_np_reshape"):
            entry = entry.inputs[0]
        if entry.shape == tuple(shape):
            return entry
        return self.call("Reshape", [entry], shape, {"shape": tuple(shape)})

    def broadcast(self, entry, shape):
        """
        An array broadcast to a shape, aligned to the right.

        :param entry: the entry.
        :param shape: tuple of int.
        :returns: an entry.
        """
        entry = self.reshaped(entry, (1,) * (len(shape) - len(entry.shape)) + entry.shape)
        if entry.shape == tuple(shape):
            return entry
        return self.call("broadcast_to", [entry], shape, {"shape": tuple(shape)})


@rule()
def evaluated(rewriter, node):
    """An operator whose inputs are all constants is evaluated once; its value is a constant."""
    constants = [constant_array(entry) for entry in node.inputs]
    if node.is_random or not constants or len(node.shapes) > 1 or any(array is None for array in constants):
        return None
    with autograd.pause():
        array = invoke(register._imperative_invoke, operator_handle(node.operator), constants, node.attributes)
        array.wait_to_read()  # so that an operator that fails is named here, not by the first rule that reads the value
    return rewriter.add(leaf(CONSTANT, array))


def constant_array(entry):
    """
    The array of a constant.

    :param entry: an entry.
    :returns: NDArray of its shape; None if it is no constant.
    """
    if entry.is_a("broadcast_to") and entry.inputs[0].is_a(CONSTANT):
        return entry.inputs[0].node.array.broadcast_to(entry.shape)
    return entry.node.array if entry.is_a(CONSTANT) else None


def applied(kind, function, rewriter, node, *arguments):
    """
    The result of a rule or an adjoint.

    :param kind: what to call it in a message.
    :param function: the rule or the adjoint.
    :param rewriter: :class:`Rewriter`.
    :param node: the node that it is applied to.
    :param arguments: further arguments.
    :returns: what the function returns.
    :raises RewriteError: if it fails.
    """
    try:
        return function(rewriter, node, *arguments)
    except RewriteError:
        raise
    except Exception as error:
        shapes = ", ".join(str(entry.shape) for entry in node.inputs)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        message = f"{kind} {name} fails at `{node.operator}` of inputs {shapes}: {type(error).__name__}: {error}"
        raise RewriteError(message) from error


def _by_operator(rules):
    """From an operator to the rules for it, in their order."""
    named = set().union(*(function.operators for function in rules))
    for_all = tuple(function for function in rules if not function.operators)
    table: Dict[str, tuple] = defaultdict(lambda: for_all)
    for name in named:
        table[name] = tuple(function for function in rules if not function.operators or name in function.operators)
    return table


def _constant_key(values):
    return CONSTANT, values.shape, values.dtype, hashlib.blake2b(values.tobytes()).digest()


def _key(node):
    """A key that equal nodes share; None for nodes that are never shared."""
    if node.operator == CONSTANT and node.size <= LARGE_CONSTANT:
        return _constant_key(node.array.asnumpy())
    if node.is_leaf or node.is_random or len(node.shapes) > 1:
        return None
    inputs = node.inputs
    if node.operator in COMMUTATIVE:
        inputs = sorted(inputs, key=lambda entry: (id(entry.node), entry.output))
    return node.operator, tuple(sorted(node.attributes.items())), tuple(inputs)


def _has_gradient(node, known):
    if node.operator == PARAMETER:
        return True
    if node.operator == "BlockGrad" or node.is_random and node.operator != "Dropout":
        return False
    return any(known.get(source, False) for source, _ in node.inputs)
