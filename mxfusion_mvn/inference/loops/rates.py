# SPDX-License-Identifier: Apache-2.0
"""The learning rates of a run."""

from typing import List

import numpy as np
from mxfusion.common.exceptions import InferenceError

# Optimizers of MXNet take rates, times corrections of their own, as normal numbers in float32.
_SMALLEST_RATE, _LARGEST_RATE = 1e-37, 1e38


class Rates:
    """
    Those of a schedule, as they were used: some schedules must not be asked for an iteration of the past.

    :param schedule: function from the iteration 0, 1, ... to its learning rate.
    """

    def __init__(self, schedule):
        self._schedule = schedule
        self._known: List[float] = []

    def between(self, first, end):
        """
        The rates of some iterations.

        :param first: the first iteration, at most one that was never asked for.
        :param end: the one after the last.
        :returns: list of floats.
        :raises InferenceError: for a rate that is no number, or that optimizers do not take.
        """
        for iteration in range(len(self._known), end):
            self._known.append(_checked(self._schedule(iteration), iteration))
        return self._known[first:end]


class ConstantRates:
    """
    One rate, of which there need be no list for millions of iterations.

    :param rate: a number.
    """

    def __init__(self, rate):
        self._rate = rate

    def between(self, first, end):
        """As :meth:`Rates.between`."""
        return [_checked(self._rate, first)] * (end - first)


def _checked(rate, iteration):
    try:
        value = float(rate)
    except (TypeError, ValueError):
        value = np.nan
    if not 0 <= value <= _LARGEST_RATE:
        raise InferenceError(
            f"The learning rate of iteration {iteration}: got {rate!r}; expected a number that is not negative, and at "
            f"most {_LARGEST_RATE:g}. Look at `schedule`, a function of the iteration 0, 1, ..., or at "
            "`learning_rate`."
        )
    return value if value >= _SMALLEST_RATE else 0.0
