# SPDX-License-Identifier: Apache-2.0
"""What a program of several steps provides: the protocol between the compiled stepper and whatever runs the steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from mxfusion_mvn.inference.loops.adam import DEFAULTS

import numpy as np


class StepProgram(ABC):
    """
    Several steps of the optimizer, pushed at once, without Python between them.

    It works on a :class:`~mxfusion_mvn.inference.loops.flat.FlatParameters`: a push updates ``values`` and the moments
    of ``adam`` in place, counts each step by ``adam.corrected``, and sets ``newest_gradients`` to those of the last
    step. It draws from MXNet's random streams what as many single steps would draw, in their order.

    The data and the states of operators are the same in all steps. A program is not used any more after parameters
    were restored from a snapshot, which replaces the moments.

    After :meth:`push_verifiably` ``before`` is the NDArray (size of all parameters,) of the values before the last
    step, and ``last_draws`` the list of NDArrays that its random operators drew, in their order. ``is_synchronous``
    says whether the steps have been made when they are pushed.

    :param flat: :class:`~mxfusion_mvn.inference.loops.flat.FlatParameters`.
    """

    is_synchronous = False
    before: Any
    last_draws: Any

    def __init__(self, flat) -> None:
        self._flat = flat
        self._rate = 0.0  # of the last step, corrected

    @abstractmethod
    def possible(self, remaining: int) -> int:
        """
        How many steps the next push may make.

        :param remaining: how many are wanted.
        :returns: an int; 1 if single steps are to be made.
        """

    def runs_in(self, learning_rates: list[float]) -> int:
        """
        How many runs a push counts as, of those after which it is verified.

        :param learning_rates: those of the push.
        :returns: an int.
        """
        return 1

    @abstractmethod
    def push(self, learning_rates: list[float]) -> list:
        """
        Push steps.

        :param learning_rates: list of as many floats as :meth:`possible` said.
        :returns: list of objects with ``asnumpy()``: the losses before each step, in their order, one or several in
            each. They raise MXNet's error if the steps failed, and later pushes do not overwrite them. After a loss
            that is not finite there may be no more.
        """

    def push_verifiably(self, learning_rates: list[float]) -> list:
        """As :meth:`push`; what the last step began with is kept, where that does not happen always."""
        return self.push(learning_rates)

    @property
    @abstractmethod
    def last_loss(self):
        """The loss before the last step of the last push, NDArray (1,)."""

    def deviation(self) -> str | None:
        """
        How the last update differs from Adam's, computed from the moments and the values that it left.

        :returns: a text, None if it does not differ.
        """
        mean, square = (moment.asnumpy() for moment in self._flat.adam.moments)
        epsilon = self._flat.adam.options.get("epsilon", DEFAULTS["epsilon"])
        wanted = -self._rate * mean / (np.sqrt(square) + epsilon)
        before = self.before.asnumpy()
        got, largest = self._flat.values.asnumpy() - before, np.abs(wanted).max()
        rounding = 4 * np.finfo(before.dtype).eps * np.abs(before)
        if np.isfinite(largest) and not (np.abs(got - wanted) <= 1e-3 * largest + rounding).all():
            return f"a step of Adam differs by {np.abs(got - wanted).max():.3g} where the largest is {largest:.3g}"
        return None
