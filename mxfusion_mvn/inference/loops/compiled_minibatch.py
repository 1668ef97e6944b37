# SPDX-License-Identifier: Apache-2.0
"""A minibatch loop that compiles the objective: one program for each size of batch, which the rows are copied into."""

from mxfusion_mvn.inference.loops.compiled import Explained
from mxfusion_mvn.inference.loops.compiled_stepper import CompiledStepper
from mxfusion_mvn.inference.loops.imperative import MinibatchLoop
from mxfusion_mvn.inference.loops.steppers import MinibatchStepper

import mxnet as mx


class CompiledMinibatchLoop(Explained, MinibatchLoop):
    """
    Each iteration sees a batch of rows, and is made by a compiled program.

    Batches and scalings are those of :class:`~mxfusion_mvn.inference.MinibatchLoop`, compilation and what happens
    where it is not possible are those of :class:`~mxfusion_mvn.inference.CompiledLoop`. The smaller batch at
    the end of an epoch has a program of its own.

    :param batch_size: the number of rows in a batch, at most N.
    :param rv_scaling: dict from random Variable to scaling factor; derived, and compared with what is given.
    :param options: see :class:`~mxfusion_mvn.inference.loops.imperative.TrainingLoop`; an iteration is a batch.
    """

    def _create_stepper(self, infr_executor, subsample, param_dict, ctx, optimizer):
        self._stepper = CompiledMinibatchStepper(infr_executor, subsample, param_dict, ctx, optimizer)
        return self._stepper


class CompiledMinibatchStepper(CompiledStepper, MinibatchStepper):
    """
    Steps of which each sees some rows of the data, by compiled programs.

    :param infr_executor: the host's ObjectiveBlock.
    :param subsample: a :class:`~mxfusion_mvn.inference.loops.batches.Subsample`.
    :param param_dict: the host's ParameterDict.
    :param ctx: MXNet context.
    :param optimizer: an ``mxnet.optimizer.Optimizer``.
    """

    def steps_at_once(self, remaining):
        """As :meth:`Stepper.steps_at_once`; each has data of its own."""
        super().steps_at_once(remaining)
        return 1

    def snapshot(self):
        """As :meth:`Stepper.snapshot`."""
        return self._steps, super().snapshot()

    def restore(self, state):
        """As :meth:`Stepper.restore`."""
        steps, state = state
        super().restore(state)
        self._steps = steps

    def _compiled_step(self, learning_rate):
        loss = super()._compiled_step(learning_rate)
        self._steps += 1
        return loss

    def _verified_step(self, learning_rate):
        loss = super()._verified_step(learning_rate)
        self._steps += 1
        return loss

    def _shapes(self):
        """The number of rows in the batch."""
        batches = self._subsample.batches
        position = self._steps % batches.steps_per_epoch
        return min(self._subsample.batch_size, self._subsample.rows - position * self._subsample.batch_size)

    def _title(self, shapes):
        return f"Batches of {shapes} rows\n"

    def _is_changing(self):
        if self._subsample.batches.steps_per_epoch == 1:
            return super()._is_changing()
        return self._subsample.is_cut

    def _fill(self, evaluations):
        index = self._subsample.batches.rows_of(self._steps)
        if index is None:
            return
        for array, buffer, is_cut in zip(self._data, evaluations.data, self._subsample.is_cut):
            if is_cut:
                mx.nd.take(array, index, out=buffer)
