# SPDX-License-Identifier: Apache-2.0
"""Several steps of Adam as one graph, so that Python is asked once for all of them."""

from __future__ import annotations

import math
from typing import Any

from mxfusion_mvn.compiler.graph import CONSTANT, DATA, PARAMETER, STATE, Graph, Node, leaf
from mxfusion_mvn.compiler.library import OperatorCall
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.readback import HostArray, Pool
from mxfusion_mvn.inference.loops.step_program import StepProgram

import mxnet as mx
import numpy as np

# The largest number of operators in a graph of several steps, because larger ones are slower, and of steps; measured.
_OPERATORS = 700
_STEPS = 10
_ENTRIES = 5000


def possible_steps(graph, wanted):
    """
    How many steps a graph of several is to have.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph` of one step.
    :param wanted: how many are made between two looks at the losses.
    :returns: an int, so that few are left over; below 2 if it does not pay, or cannot be done.
    """
    learned = graph.results or {}
    most = _OPERATORS // (len(graph.operators()) + 3 * len(learned))
    size = sum(entry.size for entry in learned.values())
    is_possible = learned and not any(node.operator in (DATA, STATE) for node in graph.nodes)
    if not is_possible or most < 1 or size > _ENTRIES:
        return 0
    return wanted // math.ceil(wanted / min(_STEPS, most))


def several_steps(graph, parameters, moments, rates, constants):
    """
    The graph of several steps of Adam.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph` of one step, with gradients, without data that
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

    :param name: the name of the parameter.
    :returns: a text.
    """
    return f"gradient of {name}"


def before_name(name):
    """
    The name of the result that is the value of a parameter before the last step.

    :param name: the name of the parameter.
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
        held = {node.key: node.entry() for node in self.nodes if node.operator == PARAMETER}
        for name, array in parameters.items():
            self.values[name] = held.get(name) or self._leaf(PARAMETER, array, name)
            self._moments[name] = [self._leaf(STATE, moment) for moment in moments[name]]
            self._zeros[name] = self._leaf(CONSTANT, mx.nd.zeros_like(array))

    def add(self, operator, inputs, shape, dtype, attributes=()):
        """Append a node, and return the entry of its output."""
        self.nodes.append(Node(operator, inputs, dict(attributes), [shape], [dtype]))
        return self.nodes[-1].entry()

    def step(self, rate):
        """Append a step of a learning rate, an NDArray (1,), and return the entry of its loss."""
        made = {}
        for node in self._graph.nodes:
            if node.is_leaf:
                made[node.entry()] = self.values.get(node.key, node.entry())
                continue
            new = node.with_inputs([made[entry] for entry in node.inputs])
            self.nodes.append(new)
            made.update((node.entry(index), new.entry(index)) for index in range(len(node.shapes)))
        rate = self._leaf(CONSTANT, rate)
        self.before = dict(self.values)
        # Where the gradient is zero, what Adam remembers of others may still move a parameter.
        gradients = {name: made[entry] for name, entry in self._graph.results.items()}
        self.gradients = {name: gradients.get(name, zeros) for name, zeros in self._zeros.items()}
        self.values.update({name: self._updated(name, entry, rate) for name, entry in self.gradients.items()})
        loss = made[self._graph.loss]
        return loss if loss.shape == (1,) else self.add("_np_reshape", [loss], (1,), loss.dtype, {"newshape": "(1,)"})

    def _updated(self, name, gradient, rate):
        """A parameter after Adam; `adam_update` takes no array as its rate: zeros are updated at rate 1 and scaled."""
        value = self.values[name]
        shape, dtype = value.shape, value.dtype
        inputs = [self._zeros[name], gradient, *self._moments[name]]
        step = self.add("adam_update", inputs, shape, dtype, self._constants)
        return self.add("broadcast_add", [value, self.add("broadcast_mul", [step, rate], shape, dtype)], shape, dtype)

    def _leaf(self, kind, array, name=None):
        self.nodes.append(leaf(kind, array, name))
        return self.nodes[-1].entry()


def program_of_several_steps(graph, parameters, flat, ctx, remaining) -> SeveralSteps | None:
    """
    Make a program of several steps, if that can be, and pays.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph` of one step.
    :param parameters: dict from uuid to the NDArray of each parameter in the graph.
    :param flat: :class:`~mxfusion_mvn.inference.loops.flat.FlatParameters` of those that are learned.
    :param ctx: MXNet context.
    :param remaining: how many steps are made between two looks at the losses.
    :returns: a :class:`SeveralSteps`, or None.
    """
    if flat.adam is None or "wd" in flat.adam.options:
        return None
    count = possible_steps(graph, remaining)
    if count < 2:
        return None
    try:
        return SeveralSteps(graph, parameters, flat, ctx, count)
    except mx.base.MXNetError:  # single steps do as well
        return None


class SeveralSteps(StepProgram):
    """
    A program of several steps of Adam, on MXNet's executor.

    :param graph: :class:`~mxfusion_mvn.compiler.graph.Graph` of one step.
    :param parameters: dict from uuid to the NDArray of each parameter in the graph.
    :param flat: :class:`~mxfusion_mvn.inference.loops.flat.FlatParameters` of those that are learned, updated by Adam.
    :param ctx: MXNet context.
    :param count: the number of steps, K.
    """

    def __init__(self, graph, parameters, flat, ctx, count):
        super().__init__(flat)
        self.count = count
        learned = flat.parts(flat.values)
        moments = {uuid: tuple(flat.parts(moment)[uuid] for moment in flat.adam.moments) for uuid in learned}
        rates = mx.nd.zeros((count,), dtype=flat.values.dtype, ctx=ctx)
        steps = several_steps(graph, learned, moments, rates, flat.adam.options)
        wanted = {name(uuid): array for name in (str, gradient_name, before_name) for uuid, array in learned.items()}
        self._program = Program(steps, {**parameters, **learned}, wanted, ctx)
        joined: Any = self._program.results
        values, self._gradients, self.before = (joined[part * flat.size :][: flat.size] for part in (0, 1, 2))
        draws = self._program.draws
        self.last_draws = draws[len(draws) - len(draws) // count :]
        self._advance = OperatorCall("_copyto", [values], flat.values)
        self._rates = Pool(lambda: _rates(rates))

    def possible(self, remaining):
        """As :meth:`StepProgram.possible`."""
        return self.count if remaining >= self.count else 1

    def push(self, learning_rates):
        """As :meth:`StepProgram.push`."""
        lease = self._rates.lease()
        rates, copy = lease.value
        corrected = [self._flat.adam.corrected(rate) for rate in learning_rates]
        self._rate = corrected[-1]
        rates.write(np.array(corrected, "float32").tolist())  # as MXNet's operator takes it
        copy()
        self._program.run()
        self._advance()
        self._flat.newest_gradients = self._gradients
        return self._program.losses.keep(lease)

    @property
    def last_loss(self):
        """As :attr:`StepProgram.last_loss`."""
        return self._program.loss[self.count - 1 :]


def _rates(target):
    """Learning rates on their way to a program: where to write them, and what pushes a copy."""
    rates = HostArray(target)
    return rates, OperatorCall("_copyto", [rates.array], target)
