# SPDX-License-Identifier: Apache-2.0
"""Adam as MXNet computes it, with all but the learning rate prepared once; and several of its steps at once."""

import math

from mxfusion_mvn.inference.compiler.program import HostArray, OperatorCall, Pool, Program
from mxfusion_mvn.inference.compiler.steps import before_name, gradient_name, several_steps

import mxnet as mx
import numpy as np
from mxnet import optimizer

# What MXNet's operator assumes: each option that is left out need not be read in each step.
_DEFAULTS = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "wd": 0.0}


def can_be_prepared(rule):
    """
    Whether an optimizer is Adam without options that are not prepared.

    :param rule: an ``mxnet.optimizer.Optimizer``.
    :returns: a bool.
    """
    return type(rule) is optimizer.Adam and rule.clip_gradient is None and rule.rescale_grad == 1


class Adam:
    """
    The arithmetic of ``mxnet.optimizer.Adam.update`` for the one array of an updater.

    :param updater: an ``mxnet.optimizer.Updater`` with a state for the index 0.
    :param values: the NDArray to update.

    ``options`` is a dict of the attributes of MXNet's ``adam_update``; ``moments`` are its two moving averages.
    """

    def __init__(self, updater, values):
        rule = updater.optimizer
        options = {"beta1": rule.beta1, "beta2": rule.beta2, "epsilon": rule.epsilon, "wd": rule._get_wd(0)}
        self.options = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
        self.moments = updater.states[0]
        self._rule = rule
        self._values = values
        self._calls = {}
        rule.set_learning_rate(1.0)
        self._scale = rule._get_lr(0)  # by how much the learning rate of these parameters differs from the optimizer's

    def corrected(self, learning_rate):
        """
        Count a step.

        :param learning_rate: of the step.
        :returns: the learning rate, corrected for the bias of the moving averages.
        """
        rule = self._rule
        rule._update_count(0)
        rule.lr = learning_rate
        count = rule._index_update_count[0]
        return self._scale * learning_rate * math.sqrt(1.0 - rule.beta2**count) / (1.0 - rule.beta1**count)

    def update(self, learning_rate, gradient):
        """
        Push an update.

        :param learning_rate: of this step.
        :param gradient: NDArray.
        """
        if id(gradient) not in self._calls:
            arrays = [self._values, gradient, *self.moments]
            self._calls[id(gradient)] = OperatorCall("adam_update", arrays, self._values, {"lr": 0.0, **self.options})
        self._calls[id(gradient)](lr=self.corrected(learning_rate))


class SeveralSteps:
    """
    A program of several steps.

    :param graph: :class:`~mxfusion_mvn.inference.compiler.graph.Graph` of one step.
    :param parameters: dict from uuid to the NDArray of each parameter in the graph.
    :param flat: :class:`~mxfusion_mvn.inference.loops.flat.FlatParameters` of those that are learned, updated by Adam.
    :param ctx: MXNet context.
    :param count: the number of steps, K.

    Of the last step, ``before`` holds the values before it, NDArray (size of all parameters,), ``last_loss`` the loss
    there, and ``last_draws`` the draws of its random operators, a list of NDArrays.
    """

    def __init__(self, graph, parameters, flat, ctx, count):
        self.count = count
        self._flat = flat
        learned = flat.parts(flat.values)
        moments = {uuid: tuple(flat.parts(moment)[uuid] for moment in flat.adam.moments) for uuid in learned}
        rates = mx.nd.zeros((count,), dtype=flat.values.dtype, ctx=ctx)
        steps = several_steps(graph, learned, moments, rates, flat.adam.options)
        wanted = {name(uuid): array for name in (str, gradient_name, before_name) for uuid, array in learned.items()}
        self._program = Program(steps, {**parameters, **learned}, wanted, ctx)
        values, self._gradients, self.before = (
            self._program.results[part * flat.size :][: flat.size] for part in (0, 1, 2)
        )
        draws = self._program.draws
        self.last_draws = draws[len(draws) - len(draws) // count :]
        self._rate = None
        self._advance = OperatorCall("_copyto", [values], flat.values)
        self._rates = Pool(lambda: _rates(rates))

    def push(self, learning_rates):
        """
        Push the steps, without waiting for them.

        :param learning_rates: list of K numbers.
        :returns: list of the losses before each step.
        """
        lease = self._rates.lease()
        rates, copy = lease.lent
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
        """The loss before the last step, NDArray (1,)."""
        return self._program.loss[self.count - 1 :]

    def deviation(self):
        """
        How the last step differs from one of Adam, from the moving averages that it left.

        :returns: a text, None if it does not.
        """
        mean, square = (moment.asnumpy() for moment in self._flat.adam.moments)
        epsilon = self._flat.adam.options.get("epsilon", _DEFAULTS["epsilon"])
        wanted = -self._rate * mean / (np.sqrt(square) + epsilon)
        before = self.before.asnumpy()
        got, largest = self._flat.values.asnumpy() - before, np.abs(wanted).max()
        rounding = 4 * np.finfo(before.dtype).eps * np.abs(before)
        if np.isfinite(largest) and not (np.abs(got - wanted) <= 1e-3 * largest + rounding).all():
            return f"a step of Adam differs by {np.abs(got - wanted).max():.3g} where the largest is {largest:.3g}"
        return None


def _rates(target):
    """Learning rates on their way to a program: where to write them, and what pushes a copy."""
    rates = HostArray(target)
    return rates, OperatorCall("_copyto", [rates.array], target)
