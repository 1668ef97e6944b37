# SPDX-License-Identifier: Apache-2.0
"""A loop that compiles the objective."""

from typing import Optional

from mxfusion_mvn.inference.loops.batches import Feed
from mxfusion_mvn.inference.loops.compiled_stepper import CompiledStepper
from mxfusion_mvn.inference.loops.imperative import BatchLoop, TrainingLoop

from mxfusion.common.exceptions import InferenceError


class CompiledSteps(TrainingLoop):
    """The loops whose steps are those of a :class:`CompiledStepper`, and can be explained."""

    _stepper: Optional[CompiledStepper] = None

    def explain(self, graph: bool = False) -> str:
        """
        Say what the last run computed once, which operators a step is made of, and where its time goes.

        The operators are timed for this, which moves on the random streams of MXNet.

        :param graph: whether to show the graph of a step, too, with one line for each operator: its name, inputs,
            attributes and shape.
        :returns: a text of several lines.
        :raises InferenceError: if there was no run.
        """
        if self._stepper is None:
            raise InferenceError(f"`{type(self).__name__}.explain`: got no run; expected one. Call `run` before.")
        return self._stepper.explain(graph)

    def _create_stepper(self, infr_executor, feed: Feed, param_dict, ctx, optimizer) -> CompiledStepper:
        self._stepper = CompiledStepper(infr_executor, feed, param_dict, ctx, optimizer)
        return self._stepper


class CompiledLoop(CompiledSteps, BatchLoop):
    """
    Each iteration sees all data, and is made by a compiled program.

    The first two iterations are evaluated as MXFusion does, and traced; from then on an executor of MXNet does the
    same at the speed of its operators, with Adam and small models for several iterations at once. Where the parameters
    stand still at first, as at an optimum, it takes ten. With the same
    ``mx.random.seed`` the parameters are those of MXFusion's loop up to rounding. What depends on neither parameters
    nor random numbers is computed once, when a run begins: data may be changed between runs, not within one. Python
    code in the objective runs only a few times: a schedule in the objective that counts its own evaluations stands
    still. A checkpoint function may set, fix and free parameters, and
    initialise them anew.

    At the second, 10th, 100th, ... run of a program, and at the end, loss and gradients are compared with those of the
    objective, evaluated imperatively at the same parameters with the same draws. Where they differ, because the
    objective or the data have changed or the program is wrong, the run returns to the last step that was verified.
    Where the objective cannot be compiled, or a comparison leaves any doubt, the loop goes on as a
    :class:`~mxfusion_mvn.inference.BatchLoop`, warns once, and says why in ``record.fallback_reason``.

    :param options: see :class:`~mxfusion_mvn.inference.loops.imperative.TrainingLoop`.
    """
