# SPDX-License-Identifier: Apache-2.0
"""What a program of several steps provides: the protocol between the compiled stepper and whatever runs the steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class StepProgram(ABC):
    """
    Several steps of the optimizer, pushed at once, without Python between them.

    It works on a :class:`~mxfusion_mvn.inference.loops.flat.FlatParameters`: a push updates ``values`` and the moments
    of ``adam`` in place, counts each step by ``adam.corrected``, and sets ``newest_gradients`` to those of the last
    step. It draws from MXNet's random streams what as many single steps would draw, in their order.

    The data and the states of operators are the same in all steps. A program is not used any more after parameters
    were restored from a snapshot, which replaces the moments.

    ``count`` is the number of steps in a push, at least 2; ``before`` is the NDArray (size of all parameters,) of the
    values before the last step of the last push; ``last_draws`` is the list of NDArrays that its random operators drew,
    in their order.
    """

    count: int
    before: Any
    last_draws: list

    @abstractmethod
    def push(self, learning_rates: list[float]) -> list:
        """
        Push the steps, without waiting for them.

        :param learning_rates: list of ``count`` floats.
        :returns: list of ``count`` losses, each before its step: objects with ``asnumpy()``, as an NDArray (1,), that
            raise MXNet's error if the steps failed, and that later pushes do not overwrite.
        """

    @property
    @abstractmethod
    def last_loss(self):
        """The loss before the last step of the last push, NDArray (1,)."""

    @abstractmethod
    def deviation(self) -> str | None:
        """
        How the last update differs from the optimizer's, computed from the moments and the values that it left.

        :returns: a text, None if it does not differ.
        """
