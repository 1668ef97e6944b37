# SPDX-License-Identifier: Apache-2.0
"""Several steps of Adam as one graph, so that Python is asked once for all of them."""

import math

from mxfusion_mvn.inference.compiler.graph import CONSTANT, DATA, PARAMETER, STATE, Graph, Node, leaf

import mxnet as mx

# How many operators a graph of several steps has at most, for larger ones are slower, and how many steps; measured.
_OPERATORS = 700
_STEPS = 10
_NUMBERS = 5000


def possible_steps(graph, wanted):
    """
    How many steps a graph of several is to have.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph` of one step.
    :param wanted: how many are made between two looks at the losses.
    :returns: an int, so that few are left over; below 2 if it does not pay, or cannot be done.
    """
    learned = graph.results or {}
    most = _OPERATORS // (len(graph.operators()) + 3 * len(learned))
    size = sum(math.prod(node.shapes[index]) for node, index in learned.values())
    is_possible = learned and not any(node.operator in (DATA, STATE) for node in graph.nodes)
    if not is_possible or most < 1 or size > _NUMBERS:
        return 0
    return wanted // math.ceil(wanted / min(_STEPS, most))


def several_steps(graph, parameters, moments, rates, constants):
    """
    The graph of several steps of Adam.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph` of one step, with gradients, without data that
        change and without states.
    :param parameters: dict from the names of all parameters that are learned to their NDArrays.
    :param moments: dict from the same names to pairs of NDArrays, the moving averages of gradients and of their
        squares, which the steps update in place.
    :param rates: NDArray (K,): the learning rate of each step, corrected for the bias of the averages.
    :param constants: dict of the attributes of MXNet's ``adam_update`` but for the learning rate.
    :returns: a graph whose loss is (K,), the losses before each step. Its results are the values after them, and, by
        the names that :func:`gradient_name` and :func:`before_name` give, the gradients of the last and the values
        before it.
    """
    builder = _Builder(graph, parameters, moments, constants)
    losses = [builder.step(rates[index : index + 1]) for index in range(rates.size)]
    before = {before_name(name): entry for name, entry in builder.before.items()}
    loss = builder.add("Concat", losses, rates.shape, rates.dtype, {"dim": "0"})
    gradients = {gradient_name(name): entry for name, entry in builder.gradients.items()}
    return Graph(builder.nodes, loss, loss, {**builder.values, **gradients, **before})


def gradient_name(name):
    """
    The name of the result that is the gradient of a parameter.

    :param name: that of the parameter.
    :returns: a text.
    """
    return f"gradient of {name}"


def before_name(name):
    """
    The name of the result that is the value of a parameter before the last step.

    :param name: that of the parameter.
    :returns: a text.
    """
    return f"{name} before"


class _Builder:
    """
    Appends steps to a graph.

    ``nodes`` are its nodes, ``values`` the entries of the parameters after the steps made so far, ``gradients`` those
    of the last, ``before`` the values before it.
    """

    def __init__(self, graph, parameters, moments, constants):
        self._graph = graph
        self._constants = {"lr": "1.0", **{name: str(value) for name, value in constants.items()}}
        self._moments, self._zeros, self.values, self.gradients, self.before = {}, {}, {}, {}, {}
        self.nodes = [node for node in graph.nodes if node.is_leaf]
        held = {node.key: (node, 0) for node in self.nodes if node.operator == PARAMETER}
        for name, array in parameters.items():
            self.values[name] = held.get(name) or self._leaf(PARAMETER, array, name)
            self._moments[name] = [self._leaf(STATE, moment) for moment in moments[name]]
            self._zeros[name] = self._leaf(CONSTANT, mx.nd.zeros_like(array))

    def add(self, operator, inputs, shape, dtype, attributes=()):
        """Append a node, and return the entry of its output."""
        self.nodes.append(Node(operator, inputs, dict(attributes), [shape], [dtype]))
        return self.nodes[-1], 0

    def step(self, rate):
        """Append a step of a learning rate, an NDArray (1,), and return the entry of its loss."""
        made = {}
        for node in self._graph.nodes:
            if node.is_leaf:
                made[id(node)] = self.values.get(node.key, (node, 0))[0] if node.operator == PARAMETER else node
            else:
                inputs = [self._made(made, entry) for entry in node.inputs]
                made[id(node)] = node.with_inputs(inputs)
                self.nodes.append(made[id(node)])
        rate = self._leaf(CONSTANT, rate)
        self.before = dict(self.values)
        # Where the gradient is zero, what Adam remembers of others may still move a parameter.
        gradients = {name: self._made(made, entry) for name, entry in self._graph.results.items()}
        self.gradients = {name: gradients.get(name, zeros) for name, zeros in self._zeros.items()}
        self.values.update({name: self._updated(name, entry, rate) for name, entry in self.gradients.items()})
        loss = self._made(made, self._graph.loss)
        shape, dtype = loss[0].shapes[loss[1]], loss[0].dtypes[loss[1]]
        return loss if shape == (1,) else self.add("_np_reshape", [loss], (1,), dtype, {"newshape": "(1,)"})

    def _made(self, made, entry):
        return made[id(entry[0])], entry[1]

    def _updated(self, name, gradient, rate):
        """A parameter after Adam, which takes a rate that changes only as a number: so it updates zeros, at rate 1."""
        value = self.values[name]
        shape, dtype = value[0].shapes[value[1]], value[0].dtypes[value[1]]
        inputs = [self._zeros[name], gradient, *self._moments[name]]
        step = self.add("adam_update", inputs, shape, dtype, self._constants)
        return self.add("broadcast_add", [value, self.add("broadcast_mul", [step, rate], shape, dtype)], shape, dtype)

    def _leaf(self, kind, array, name=None):
        self.nodes.append(leaf(kind, array, name))
        return self.nodes[-1], 0
