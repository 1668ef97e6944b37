# SPDX-License-Identifier: Apache-2.0
"""A minibatch loop that compiles the objective: one program for each size of batch, which the rows are copied into."""

from mxfusion_mvn.inference.loops.compiled import CompiledSteps
from mxfusion_mvn.inference.loops.imperative import MinibatchLoop


class CompiledMinibatchLoop(CompiledSteps, MinibatchLoop):
    """
    Each iteration sees a batch of rows, and is made by a compiled program.

    Batches and scalings are those of :class:`~mxfusion_mvn.inference.MinibatchLoop`, compilation and what happens
    where it is not possible are those of :class:`~mxfusion_mvn.inference.CompiledLoop`. The smaller batch at
    the end of an epoch has a program of its own.

    :param batch_size: the number of rows in a batch, at most N.
    :param rv_scaling: dict from random Variable to scaling factor; derived, and compared with what is given.
    :param options: see :class:`~mxfusion_mvn.inference.loops.imperative.TrainingLoop`; an iteration is a batch.
    """
