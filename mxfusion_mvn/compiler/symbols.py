# SPDX-License-Identifier: Apache-2.0
"""From a graph to an MXNet Symbol, and the check of a graph against the shapes and types that MXNet infers."""

from mxfusion_mvn.compiler.library import operator_handle, operator_info
from mxfusion_mvn.compiler.operators import traits

import mxnet as mx
from mxnet._ctypes.symbol import _symbol_creator

# Parameters of up to so many scalars in all have their results in one array: joining takes time for each entry, but
# saves Python calls.
_FEW_SCALARS = 20_000


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

        :param graph: a :class:`~mxfusion_mvn.compiler.graph.Graph`.
        :param learned: dict from the name of each parameter that a result is wanted for to an array of its shape.
        :returns: Symbol whose last output is the loss. Before it comes the objective, if it is not the same; or the
            results of the graph, in the order of the parameters, zero where there is none: in one flat array where
            :func:`are_joined` says so. Without fixed noise the draws come first, in their order.
        """
        for node in graph.nodes:
            self.add(node)
        self._has_own_layouts = any(traits(node.operator).own_layout for node in graph.nodes)
        if graph.results is None:
            heads = [mx.sym.make_loss(self._entry(graph.objective))]
            heads += [mx.sym.BlockGrad(self._entry(graph.loss))] if graph.loss != graph.objective else []
        else:
            heads = [*self._results(graph.results, learned), self._head(graph.loss)]
        if self.fixed_noise:
            return mx.sym.Group(heads)
        # MXNet runs the operators behind the first output first: this keeps the draws in their order.
        return mx.sym.Group([mx.sym.BlockGrad(draw) for draw in self._draws] + heads)

    def add(self, node):
        """
        The Symbol of a node whose inputs were added before.

        :param node: a :class:`~mxfusion_mvn.compiler.graph.Node`.
        :returns: Symbol.
        """
        self._symbols[node] = self._symbol(node)
        return self._symbols[node]

    def _results(self, results, learned):
        heads = [self._head(results[name]) if name in results else self._zeros(like) for name, like in learned.items()]
        if not are_joined(learned):
            return heads
        flat = [self._flat(head, f"flat{i}") for i, head in enumerate(heads)]
        return flat if len(flat) == 1 else [call("_npi_concatenate", flat, {"axis": "0"}, "results")]

    def _flat(self, head, label):
        # The reshape of mx.np copies nothing, but MXNet has no views of arrays in a layout of oneDNN's.
        if self._has_own_layouts:
            return call("Reshape", [head], {"shape": "(-1,)"}, label)
        return call("_np_reshape", [head], {"newshape": "(-1,)"}, label)

    def _zeros(self, like):
        zeros = mx.nd.zeros_like(like)
        return mx.sym.identity(self._variable("zeros", zeros, zeros.shape, zeros.dtype))

    def _head(self, entry):
        """The Symbol of an entry, as an output of its own."""
        return mx.sym.identity(self._entry(entry)) if entry.node.is_leaf else self._entry(entry)

    def _entry(self, entry):
        node, index = entry
        symbol = self._symbols[node]
        return symbol[index] if len(node.shapes) > 1 else symbol

    def _symbol(self, node):
        if node.is_leaf:
            return self._variable(node.operator, node, node.shape, node.dtype)
        if node.is_random:
            return self._random(node)
        return self._call(node, [self._entry(entry) for entry in node.inputs])

    def _call(self, node, inputs):
        return call(node.operator, inputs, node.attributes, f"node{len(self._symbols)}")

    def _random(self, node):
        if node.operator != "Dropout":
            return self._drawn(node, [self._entry(entry) for entry in node.inputs])
        # Dropout does not return its mask; but Dropout of ones is the mask.
        ones = mx.nd.ones(node.shape, dtype=node.dtype, ctx=node.noise[0].context)
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
    Whether the results of a graph are to be one array.

    :param learned: dict from the name of each parameter that a result is wanted for to an array of its shape.
    :returns: a bool.
    """
    return sum(array.size for array in learned.values()) <= _FEW_SCALARS


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


def check(graph):
    """
    Check that each node of a graph comes after its inputs, with the shapes and dtypes that MXNet infers.

    :param graph: a :class:`~mxfusion_mvn.compiler.graph.Graph`.
    :raises AssertionError: naming the first node that is wrong, with what was got and expected.
    """
    builder, known = SymbolBuilder(), set()
    for node in graph.nodes:
        for source, index in node.inputs:
            if source not in known or index >= len(source.shapes):
                raise AssertionError(f"`{node.operator}`: got an input that is not computed before it; in\n{graph}")
        known.add(node)
        builder.add(node)
    missing = [entry for entry in graph.heads() if entry.node not in known]
    if missing:
        raise AssertionError(f"`{missing[0].node.operator}`: got a result that is not part of the graph\n{graph}")
    operators = [node for node in graph.nodes if not node.is_leaf]
    if operators:
        _check_inferred(graph, operators, mx.sym.Group([builder.add(node) for node in operators]))


def _check_inferred(graph, operators, symbol):
    try:
        shapes, dtypes = symbol.infer_shape()[1], symbol.infer_type()[1]
    except mx.base.MXNetError as error:
        raise AssertionError(f"MXNet refuses the graph: {error}; in\n{graph}") from error
    position = 0
    for node in operators:
        for shape, dtype in zip(node.shapes, node.dtypes):
            wanted = shapes[position], dtypes[position]
            if (tuple(shape), dtype) != wanted:
                raise AssertionError(f"`{node.operator}`: got {shape}, {dtype}; MXNet infers {wanted}; in\n{graph}")
            position += 1
