# SPDX-License-Identifier: Apache-2.0
"""Adam as MXNet computes it, with all but the learning rate prepared once."""

import math

from mxfusion_mvn.compiler.library import OperatorCall

import numpy as np
from mxnet import optimizer

# What MXNet's operator assumes: each option that is left out need not be read in each step.
DEFAULTS = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "wd": 0.0}


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
        self.options = {name: value for name, value in options.items() if value != DEFAULTS[name]}
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

    def all_corrected(self, learning_rates):
        """
        Count several steps.

        :param learning_rates: list of K numbers.
        :returns: float64 array (K,): the same for each.
        """
        rule, steps = self._rule, len(learning_rates)
        counts = rule._index_update_count[0] + 1 + np.arange(steps)
        rule._index_update_count[0] += steps
        rule.num_update = max(rule._index_update_count[0], rule.num_update)
        rule.lr = learning_rates[-1]
        return self._scale * np.array(learning_rates) * np.sqrt(1.0 - rule.beta2**counts) / (1.0 - rule.beta1**counts)

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
