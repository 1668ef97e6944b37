# SPDX-License-Identifier: Apache-2.0
"""What makes the steps of a run: the protocol that the driver follows, and steps as MXFusion makes them.

A loop of your own derives from :class:`mxfusion_mvn.inference.BatchLoop` or ``MinibatchLoop``, hands its options
``schedule``, ``stop``, ``checkpoint`` and ``check_every`` to ``super().__init__``, and overrides the one method that
makes the stepper, in which the time spent counts as the run's::

    _create_stepper(self, infr_executor, feed, param_dict, ctx, optimizer)

``optimizer`` is an ``mxnet.optimizer.Optimizer`` of this run's own; ``optimizers.py`` copies its state for a snapshot.
``feed`` is a :class:`mxfusion_mvn.inference.loops.batches.Feed`: the data of each step.
"""

from abc import ABC, abstractmethod
from typing import Optional

from mxfusion_mvn.inference.loops.batches import Feed
from mxfusion_mvn.inference.loops.optimizers import copy_state, restore_state

import mxnet as mx
from mxnet import autograd


class DeviationError(Exception):
    """A compiled program does not do what the objective does: nothing since it was verified last is to be trusted."""


class Stepper(ABC):
    """What makes the steps of a run."""

    compiled = False
    fallback_reason: Optional[str] = None

    @abstractmethod
    def step(self, learning_rate):
        """
        Push one forward pass, backward pass and update, without waiting for them.

        A step after :meth:`restore` is the same step as before, but for the noise of random draws.

        :param learning_rate: of this step.
        :returns: the loss before the update, an NDArray (1,) of its own, which the next step does not overwrite.
        """

    @property
    def is_synchronous(self):
        """Whether steps have been made when they are pushed."""
        return False

    def steps_at_once(self, remaining):
        """
        How many steps the next call of :meth:`steps` is to make.

        :param remaining: how many are wanted before anything is read.
        :returns: an int from 1 to ``remaining``.
        """
        return 1

    def steps(self, learning_rates):
        """
        Push as many steps as :meth:`steps_at_once` said.

        :param learning_rates: list of their learning rates.
        :returns: list of their losses.
        """
        return [self.step(rate) for rate in learning_rates]

    def runs_of_program(self, count):
        """
        Say which program makes the next steps.

        :param count: how many are made at once.
        :returns: its :class:`~mxfusion_mvn.inference.loops.verification.Runs`, None if they are made imperatively.
        """
        return

    def verified_steps(self, learning_rates):
        """
        As :meth:`steps`, the last of them compared with an imperative evaluation; waits for them.

        :param learning_rates: list of their learning rates.
        :returns: list of their losses.
        :raises DeviationError: if they differ.
        """
        return self.steps(learning_rates)

    def give_up_compiling(self, reason):
        """
        Make all steps imperatively from now on.

        :param reason: why, a text.
        """
        return

    @abstractmethod
    def parameters(self):
        """Dict from the uuid of each parameter to its present raw values, an NDArray."""

    @abstractmethod
    def snapshot(self):
        """Copy of all that a step changes."""

    @abstractmethod
    def restore(self, state):
        """
        Go back to a snapshot.

        :param state: what :meth:`snapshot` returned.
        """

    @abstractmethod
    def next_data(self):
        """List of NDArrays that the next step works on, with sizes and scalings set for an imperative evaluation."""

    @abstractmethod
    def next_rows(self):
        """For each array of :meth:`next_data` its rows of the data, NumPy array, or None for all of them."""

    @abstractmethod
    def evaluate(self):
        """
        The loss at the present parameters, without a step.

        :returns: NDArray (1,).
        :raises DeviationError: if a compiled program gives another one.
        """

    def refresh(self):
        """Take note of what a function of the user may have changed about the parameters."""
        return

    def write_back(self):
        """Copy the present values into MXFusion's Parameters, if they are held elsewhere."""
        return

    def finish(self):
        """Write back, and undo what must not outlast the run."""
        self.write_back()


class ImperativeStepper(Stepper):
    """
    Steps as MXFusion makes them.

    :param infr_executor: MXFusion's ObjectiveBlock.
    :param feed: a :class:`~mxfusion_mvn.inference.loops.batches.Feed`.
    :param param_dict: MXFusion's ParameterDict.
    :param ctx: MXNet context.
    :param optimizer: an ``mxnet.optimizer.Optimizer``.
    """

    def __init__(self, infr_executor, feed: Feed, param_dict, ctx, optimizer) -> None:
        self._executor = infr_executor
        self._feed = feed
        self._parameters = param_dict
        self._ctx = ctx
        # Without a store the updater is the trainer's own, and holds all of the state.
        self._trainer = mx.gluon.Trainer(param_dict, optimizer, kvstore=None)

    def step(self, learning_rate):
        """As :meth:`Stepper.step`."""
        data = self.next_data()
        self._trainer.set_learning_rate(learning_rate)
        with autograd.record():
            loss, loss_for_gradient = self._executor(mx.nd.zeros(1, ctx=self._ctx), *data)
            loss_for_gradient.backward()
        # The loss is a sum, not a mean over rows: there is nothing to divide by. A parameter may have no gradient.
        self._trainer.step(batch_size=1, ignore_stale_grad=True)
        self._feed.step += 1
        return loss.detach()  # lest it keep the graph alive

    def parameters(self):
        """As :meth:`Stepper.parameters`."""
        return {uuid: parameter.data() for uuid, parameter in self._parameters.items()}

    def snapshot(self):
        """As :meth:`Stepper.snapshot`."""
        return self._feed.step, self._copied_state()

    def restore(self, state):
        """As :meth:`Stepper.restore`."""
        self._feed.step, copied = state
        self._restore_state(copied)

    def _copied_state(self):
        """Copies of the parameters and of the state of the optimizer."""
        return {uuid: value.copy() for uuid, value in self.parameters().items()}, copy_state(self._updater)

    def _restore_state(self, copied):
        values, optimizer_state = copied
        for uuid, value in values.items():
            value.copyto(self._parameters[uuid].data())
        restore_state(self._updater, optimizer_state)

    def next_data(self):
        """As :meth:`Stepper.next_data`."""
        return self._feed.next_data()

    def next_rows(self):
        """As :meth:`Stepper.next_rows`."""
        return self._feed.next_rows()

    def finish(self):
        """As :meth:`Stepper.finish`."""
        super().finish()
        self._feed.finish()

    def evaluate(self):
        """As :meth:`Stepper.evaluate`."""
        return self._executor(mx.nd.zeros(1, ctx=self._ctx), *self.next_data())[0]

    @property
    def _updater(self):
        return self._trainer._updaters[0]
