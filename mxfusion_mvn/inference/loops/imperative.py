# SPDX-License-Identifier: Apache-2.0
"""Loops for MXFusion's ``GradBasedInference(algorithm, grad_loop=...)`` that can be followed, and stop for a reason.

Their arithmetic is MXFusion's: with the same ``mx.random.seed`` and optimizer a :class:`BatchLoop` arrives at the same
parameters as MXFusion's loop, bit for bit. Around it: a record of the losses without waiting at each step, a progress
bar, learning-rate schedules, stop rules, checkpoints, and an end at the first loss that is not finite.
"""

from __future__ import annotations

import time
import warnings
from typing import Callable

from mxfusion_mvn.checks.options import is_positive
from mxfusion_mvn.inference.arguments import check_count, refuse
from mxfusion_mvn.inference.loops.batches import Feed, Subsample
from mxfusion_mvn.inference.loops.caller import levels_to_the_caller
from mxfusion_mvn.inference.loops.diagnosis import Objective
from mxfusion_mvn.inference.loops.observed import check_observed
from mxfusion_mvn.inference.loops.optimizers import create_optimizer
from mxfusion_mvn.inference.loops.progress import Bar, Silence
from mxfusion_mvn.inference.loops.rates import ConstantRates, Rates
from mxfusion_mvn.inference.loops.record import RunRecord, TrainingStoppedWarning
from mxfusion_mvn.inference.loops.states import for_one_run
from mxfusion_mvn.inference.loops.steppers import ImperativeStepper, Stepper
from mxfusion_mvn.inference.loops.training import Training

import numpy as np
from mxfusion.components.variables import Variable
from mxfusion.inference import MinibatchInferenceLoop
from mxfusion.inference.grad_loop import GradLoop


class TrainingLoop(GradLoop):
    """
    What all loops of this package share.

    :param schedule: function from the iteration 0, 1, ... to the learning rate, such as an ``mxnet.lr_scheduler``; it
        replaces ``learning_rate``. An object with a state is copied for each run, and asked once for each iteration.
    :param stop: stop rule: function from the losses so far, NumPy array (iterations,), to None or the reason to stop,
        such as :class:`~mxfusion_mvn.inference.Plateau`; called every ``check_every`` iterations. An object with a
        state is copied for each run, together with the schedule; ``checkpoint`` is not.
    :param checkpoint: function of the :class:`~mxfusion_mvn.inference.RunRecord` so far, called every
        ``check_every`` iterations, when the parameters of the inference are up to date: to save it, for example.
    :param check_every: how often these two are called. Losses and parameters are read as often, or, where neither is
        given and steps take microseconds, each time that an eighth more of them was made.
    :raises InferenceError: for options of the wrong kind.

    ``record`` is the record of the last run of the loop, of whichever inference, also where it ended in an exception.
    """

    def __init__(
        self,
        *,
        schedule: Callable[[int], float] | None = None,
        stop: Callable[[np.ndarray], str | None] | None = None,
        checkpoint: Callable[[RunRecord], object] | None = None,
        check_every: int = 50,
    ) -> None:
        super().__init__()
        for name, function in (("schedule", schedule), ("stop", stop), ("checkpoint", checkpoint)):
            if function is not None and not callable(function):
                refuse(name, repr(function), "a function or None", f"See {type(self).__name__}.")
        self.schedule = schedule
        self.stop = stop
        self.checkpoint = checkpoint
        self.check_every = check_count("check_every", check_every, 1)
        self.record: RunRecord | None = None

    def _create_stepper(self, infr_executor, feed: Feed, param_dict, ctx, optimizer) -> Stepper:
        return ImperativeStepper(infr_executor, feed, param_dict, ctx, optimizer)

    def _train(self, stepper, objective, data, rate, iterations, verbose, started):
        """Run the driver; warn if the run stopped because something was not finite."""
        objective.remember(data)
        schedule, stop = for_one_run(self.schedule, self.stop)
        training = Training(
            stepper=stepper,
            objective=objective,
            max_iter=iterations,
            rates=Rates(schedule) if schedule else ConstantRates(rate),
            stop=stop,
            checkpoint=self.checkpoint,
            check_every=self.check_every,
            bar=Bar(iterations) if verbose else Silence(),
            started=started,
        )
        try:
            training.run()
        finally:
            # From here on not `self.record`, which a run in another thread may set.
            record = self.record = training.record
            objective.remember(data, record)
        if record.reason in ("not finite", "diverged"):
            warnings.warn(record.message, TrainingStoppedWarning, stacklevel=levels_to_the_caller())
        return record


class BatchLoop(TrainingLoop):
    """
    Each iteration sees all data.

    A run ends after ``max_iter`` iterations, when the stop rule says so, or at the first loss or parameter that is not
    finite, or matrix that cannot be factored. In the last case the parameters are those of the last finite loss, a
    :class:`~mxfusion_mvn.inference.TrainingStoppedWarning` says at which iteration and in which variable it
    happened, and the record says so, too. What the first iteration raises, a wrong shape for example, is raised.
    After Ctrl-C the parameters are in place as well.

    :param options: see :class:`TrainingLoop`.
    """

    def run(
        self,
        infr_executor,
        data,
        param_dict,
        ctx,
        optimizer="adam",
        learning_rate=1e-3,
        max_iter=1000,
        verbose=False,
    ):
        """
        Train; MXFusion's ``GradBasedInference.run`` calls this.

        :param infr_executor: MXFusion's ObjectiveBlock.
        :param data: list of NDArrays.
        :param param_dict: MXFusion's ParameterDict.
        :param ctx: MXNet context.
        :param optimizer: its name, or an ``mxnet.optimizer.Optimizer`` that brings its own learning rate.
        :param learning_rate: used if there is no schedule.
        :param max_iter: the number of iterations.
        :param verbose: whether to show a progress bar.
        :returns: a :class:`~mxfusion_mvn.inference.RunRecord`.
        """
        started = time.perf_counter()
        data = check_observed(infr_executor, data)
        objective = Objective(infr_executor, param_dict, ctx)
        objective.check_can_be_trained()
        iterations = check_count("max_iter", max_iter, 0)
        optimizer = create_optimizer(optimizer, learning_rate, param_dict)
        stepper = self._create_stepper(infr_executor, Feed(data), param_dict, ctx, optimizer)
        return self._train(stepper, objective, data, optimizer.learning_rate, iterations, verbose, started)


class MinibatchLoop(TrainingLoop, MinibatchInferenceLoop):
    """
    Each iteration sees a batch of rows; else as :class:`BatchLoop`.

    An epoch sees every row once, in a new random order that follows from ``mx.random.seed``; its last batch is smaller
    if ``batch_size`` does not divide the number of rows N, and is scaled by its own size. The gradient is not divided
    by the batch size as in MXFusion's loop: it estimates that of the whole data.

    Every random variable whose first axis has the same Variable as its size as the rows of the data is scaled by
    N / (rows in the batch), observed or latent, in the model and the posterior.

    :param batch_size: the number of rows in a batch, at most N.
    :param rv_scaling: dict from random Variable to scaling factor, as MXFusion's loop needs it. It is derived, and
        compared with what is given: another scaling would change the posterior, and nothing would show it.
    :param options: see :class:`TrainingLoop`; an iteration is a batch.
    """

    def __init__(
        self,
        batch_size: int = 100,
        rv_scaling: dict[Variable, float] | None = None,
        *,
        schedule: Callable[[int], float] | None = None,
        stop: Callable[[np.ndarray], str | None] | None = None,
        checkpoint: Callable[[RunRecord], object] | None = None,
        check_every: int = 50,
    ) -> None:
        super().__init__(schedule=schedule, stop=stop, checkpoint=checkpoint, check_every=check_every)
        self.batch_size = check_count("batch_size", batch_size, 1)
        self.rv_scaling = None if rv_scaling is None else _checked_scaling(rv_scaling)

    def run(
        self,
        infr_executor,
        data,
        param_dict,
        ctx,
        optimizer="adam",
        learning_rate=1e-3,
        max_iter=1000,
        verbose=False,
        update_shape_constants=None,
    ):
        """
        Train; MXFusion's ``GradBasedInference.run`` calls this.

        :param infr_executor: MXFusion's ObjectiveBlock.
        :param data: list of NDArrays (N, ...).
        :param param_dict: MXFusion's ParameterDict.
        :param ctx: MXNet context.
        :param optimizer: its name, or an ``mxnet.optimizer.Optimizer`` that brings its own learning rate.
        :param learning_rate: used if there is no schedule.
        :param max_iter: the number of epochs, as in MXFusion's loop.
        :param verbose: whether to show a progress bar.
        :param update_shape_constants: function by which MXFusion learns the sizes in a batch.
        :returns: a :class:`~mxfusion_mvn.inference.RunRecord`; one loss for each batch.
        :raises InferenceError: if the model cannot be subsampled, ``batch_size`` exceeds N or ``rv_scaling`` is wrong.
        """
        started = time.perf_counter()
        data = check_observed(infr_executor, data)
        objective = Objective(infr_executor, param_dict, ctx)
        epochs = check_count("max_iter", max_iter, 0)
        optimizer = create_optimizer(optimizer, learning_rate, param_dict)
        subsample = Subsample(infr_executor, data, self.batch_size, self.rv_scaling, update_shape_constants)
        objective.check_can_be_trained()
        stepper = self._create_stepper(infr_executor, subsample, param_dict, ctx, optimizer)
        iterations = epochs * subsample.batches.steps_per_epoch
        return self._train(stepper, objective, data, optimizer.learning_rate, iterations, verbose, started)


def _checked_scaling(given):
    """The scaling factors by the uuid of their variable."""
    is_scaling = isinstance(given, dict) and all(isinstance(v, Variable) and is_positive(s) for v, s in given.items())
    if not is_scaling:
        refuse("rv_scaling", repr(given), "a dict from random Variables to positive numbers", "Leave it out.")
    return {variable.uuid: scaling for variable, scaling in given.items()}
