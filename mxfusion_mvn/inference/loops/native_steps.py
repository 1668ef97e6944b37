# SPDX-License-Identifier: Apache-2.0
"""Steps of Adam by the native engine: Python is asked once for as many as a moment allows."""

import time

from mxfusion_mvn.compiler.native.engine import Adam, KnownLosses
from mxfusion_mvn.inference.loops.step_program import StepProgram

import mxnet as mx
import numpy as np

# How long one call may take, so that Ctrl-C is heard soon after, and by how much it may be longer than the one before.
_SECONDS = 0.04
_GROWTH = 4
_FIRST = 16  # steps of the first call


class NativeSteps(StepProgram):
    """
    As many steps of Adam as there is time for.

    :param program: :class:`~mxfusion_mvn.compiler.native.engine.NativeProgram` on the values of the parameters.
    :param flat: :class:`~mxfusion_mvn.inference.loops.flat.FlatParameters`, updated by Adam.
    """

    is_synchronous = True

    def __init__(self, program, flat):
        super().__init__(flat)
        self._count = _FIRST
        self._program = program
        self._rule = Adam(flat.values, program.gradient, flat.adam.moments, **flat.adam.options)
        self.before = mx.nd.zeros_like(flat.values)

    def possible(self, remaining):
        """As :meth:`StepProgram.possible`."""
        return min(remaining, self._count)

    def runs_in(self, learning_rates):
        """As :meth:`StepProgram.runs_in`: there are few pushes of many steps."""
        return len(learning_rates)

    def push(self, learning_rates):
        """As :meth:`StepProgram.push`."""
        started, steps = time.perf_counter(), len(learning_rates)
        losses = self._trained(learning_rates)
        affordable = int(steps * _SECONDS / max(time.perf_counter() - started, 1e-6))
        self._count = max(2, min(affordable, _GROWTH * max(steps, self._count)))
        return self._known(losses)

    def push_verifiably(self, learning_rates):
        """As :meth:`StepProgram.push_verifiably`."""
        losses = self._trained(learning_rates[:-1])
        self._flat.values.copyto(self.before)
        if np.isfinite(losses).all():
            losses = np.concatenate([losses, self._trained(learning_rates[-1:])])
        return self._known(losses)

    @property
    def last_loss(self):
        """As :attr:`StepProgram.last_loss`."""
        return self._program.loss

    @property
    def last_draws(self):
        """As :class:`StepProgram` says."""
        return self._program.draws

    def _known(self, losses):
        if not self._program.has_failed:
            return [KnownLosses(losses)]
        return [KnownLosses(losses[:-1]), KnownLosses(losses[-1:], has_failed=True)]

    def _trained(self, learning_rates):
        """The losses before each step, up to the first that is not finite: the values are those before that step."""
        rates, losses = self._flat.adam.all_corrected(learning_rates), np.empty(len(learning_rates))
        made = self._program.train(self._rule, rates, losses)
        self._rate = rates[-1]
        self._flat.newest_gradients = self._program.results
        return losses[: made + 1]
