# SPDX-License-Identifier: Apache-2.0
"""Steps by a compiled program: MXFusion walks the graph of the model in Python at every step, this only twice."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack
from typing import Any

from mxfusion_mvn.compiler.evaluation import Evaluations, Result
from mxfusion_mvn.compiler.explain import explain
from mxfusion_mvn.compiler.graph import digest
from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.threads import one_blas_thread
from mxfusion_mvn.inference.loops.batches import Feed
from mxfusion_mvn.inference.loops.caller import levels_to_the_caller
from mxfusion_mvn.inference.loops.compiled_states import Compiled, Several, Tracing
from mxfusion_mvn.inference.loops.flat import FlatParameters, can_be_flat, point_to
from mxfusion_mvn.inference.loops.native_steps import NativeSteps
from mxfusion_mvn.inference.loops.several_steps import program_of_several_steps
from mxfusion_mvn.inference.loops.step_program import StepProgram
from mxfusion_mvn.inference.loops.steppers import DeviationError, ImperativeStepper
from mxfusion_mvn.inference.loops.summands import Totals
from mxfusion_mvn.inference.loops.verification import Runs
from mxfusion_mvn.inference.names import name_of

# To make a program of several steps takes about as long as that many steps.
_STEPS_BEFORE_SEVERAL = 100


class NotCompiledWarning(UserWarning):
    """An objective is evaluated as MXFusion does, not compiled, or has changed since it was; the message says why."""


class CompiledStepper(ImperativeStepper):
    """
    Steps by a compiled program, as soon as there is one.

    Batches of each size are in a state of their own: traced, then compiled. Once something cannot be compiled, or has
    changed, ``fallback_reason`` says why, and all steps are imperative.

    :param infr_executor: MXFusion's ObjectiveBlock.
    :param feed: a :class:`~mxfusion_mvn.inference.loops.batches.Feed`.
    :param param_dict: MXFusion's ParameterDict.
    :param ctx: MXNet context.
    :param optimizer: an ``mxnet.optimizer.Optimizer``.
    """

    def __init__(self, infr_executor, feed: Feed, param_dict, ctx, optimizer) -> None:
        super().__init__(infr_executor, feed, param_dict, ctx, optimizer)
        self._totals = Totals()
        self._started = time.perf_counter()
        # By the number of rows in a batch; a number is in one of them at most.
        self._tracing: dict[int | None, Tracing] = {}
        self._compiled: dict[int | None, Compiled] = {}
        self._explained: dict[int | None, Evaluations] = {}
        self._threads = ExitStack()
        self._several: Several | None = None
        self._has_tried_several = False
        self._remaining = 0
        self._standing_point: list[bytes] | None = None
        self._flat: FlatParameters | None = None
        self._learned: dict[str, Any] = {}  # from uuid to the values that programs learn; empty before the first one
        self._arrays: dict[str, tuple] = {}
        self._look_at_parameters()

    @property
    def is_synchronous(self):
        """As for :class:`Stepper`."""
        return self._several is not None and self._several.program.is_synchronous

    def step(self, learning_rate):
        """As :meth:`Stepper.step`."""
        if self._has_given_up:
            return super().step(learning_rate)
        state = self._compiled.get(self._feed.batch_rows)
        if state is None:
            return self._traced_step(learning_rate)
        self._run(state)
        gradient = None if self._flat is None else state.program.results
        if gradient is None:
            state.program.deliver()
        return self._updated(state.program, learning_rate, gradient)

    def steps_at_once(self, remaining):
        """As :meth:`Stepper.steps_at_once`."""
        if remaining >= self._remaining:  # after a look at the losses: reading parameters waits for nothing
            self._verify_if_moved()
        # After a look at the losses, when it is known how many steps lie between two.
        if not self._has_tried_several:
            self._prepare_several(remaining, has_looked=remaining > self._remaining)
        self._remaining = remaining
        return self._several.program.possible(remaining) if self._several else 1

    def steps(self, learning_rates):
        """As :meth:`Stepper.steps`."""
        if len(learning_rates) == 1:
            return [self.step(*learning_rates)]
        return self._counted(learning_rates).program.push(learning_rates)

    def _counted(self, learning_rates) -> Several:
        """Count several steps, and return what makes them."""
        assert self._several is not None  # steps_at_once has said so
        self._several.runs.count += self._several.program.runs_in(learning_rates)
        self._feed.step += len(learning_rates)
        return self._several

    def runs_of_program(self, count):
        """As :meth:`Stepper.runs_of_program`."""
        if count > 1:
            return self._several and self._several.runs
        state = self._compiled.get(self._feed.batch_rows)
        return state and state.runs

    def verified_steps(self, learning_rates):
        """As :meth:`Stepper.verified_steps`."""
        started, runs = time.perf_counter(), self.runs_of_program(len(learning_rates))
        several = len(learning_rates) > 1
        losses = self._verified_several(learning_rates) if several else [self._verified_step(*learning_rates)]
        runs.note(time.perf_counter() - started)
        return losses

    def give_up_compiling(self, reason):
        """As :meth:`Stepper.give_up_compiling`."""
        self._give_up(reason, "Compiled before, and now evaluated as MXFusion does")

    def _copied_state(self):
        return self._flat, super()._copied_state() if self._flat is None else self._flat.snapshot()

    def _restore_state(self, copied):
        flat, state = copied
        self._several, self._has_tried_several = None, False
        if flat is not self._flat:
            self._release()
        if flat is None:
            super()._restore_state(state)
            return
        flat.restore(state)
        if flat is not self._flat:
            flat.release(self._updater)

    def write_back(self):
        """As :meth:`Stepper.write_back`; parameters are views of what is trained, gradients may lie elsewhere."""
        if self._flat is not None:
            self._flat.deliver_gradients()
        if not self._has_given_up:
            self._arrays = {uuid: (p.data(), p._grad and p._grad[0]) for uuid, p in self._parameters.items()}

    def evaluate(self):
        """As :meth:`Stepper.evaluate`."""
        state = self._compiled.get(self._feed.batch_rows)
        if state is None:
            return super().evaluate()
        gradients = [parameter.grad().copy() for parameter in self._trained.values()]
        program = state.program
        with state.evaluations.kept_states():
            self._feed.fill(state.evaluations.data)
            program.run()
            self._verify(program.deliver, program.loss, program.draws)
        for parameter, gradient in zip(self._trained.values(), gradients):
            gradient.copyto(parameter.grad())
        if self._flat is not None:
            self._flat.newest_gradients = self._flat.gradients
        return program.loss.copy()

    def refresh(self):
        """As :meth:`Stepper.refresh`."""
        if self._has_given_up:
            return
        for uuid, arrays in self._arrays.items():
            _keep_arrays(self._parameters[uuid], *arrays)
        if self._settings != _settings(self._parameters):
            self._release()
            self._look_at_parameters()

    def finish(self):
        """As :meth:`Stepper.finish`."""
        if not self.compiled and self.fallback_reason is None:
            self.fallback_reason = (
                "the run was over before it was compiled; that takes two iterations, at parameters that differ"
            )
        self._release()
        super().finish()

    def explain(self, graph=False):
        """
        Say what is computed.

        :param graph: whether to show the graphs, too.
        :returns: a text of several lines.
        """
        if not self.compiled:
            return f"Not compiled: {self.fallback_reason}."
        texts = [
            ("" if rows is None else f"Batches of {rows} rows\n") + explain(known, self._ctx, graph)
            for rows, known in self._explained.items()
        ]
        return self._with_names("\n\n".join(texts))

    def _with_names(self, text):
        """A text with the names of parameters in place of their uuids."""
        for graph in self._executor._infr_method.graphs:
            for uuid in set(graph.components) & set(self._parameters):
                text = text.replace(uuid, name_of(graph.components[uuid]))
        return text

    def _run(self, state):
        self._feed.fill(state.evaluations.data)
        state.runs.count += 1
        state.program.run()

    def _updated(self, program, learning_rate, gradient):
        if self._flat is None:
            for array in self._learned.values():
                array._fresh_grad = True  # else the trainer takes the gradient for an old one
        self._update(learning_rate, gradient)
        self._feed.step += 1
        return program.losses.keep()[0]

    def _verified_step(self, learning_rate):
        state = self._compiled[self._feed.batch_rows]
        program = state.program
        self._run(state)
        self._verify(program.deliver, program.loss, program.draws)
        program.deliver()
        return self._updated(program, learning_rate, None)

    def _verified_several(self, learning_rates):
        """The last step is compared, at the values before it."""
        program, flat, _ = self._counted(learning_rates)
        losses = program.push_verifiably(learning_rates)
        after = flat.values.copy()
        program.before.copyto(flat.values)
        self._verify(flat.deliver_gradients, program.last_loss, program.last_draws)
        after.copyto(flat.values)
        reason = program.deviation()
        if reason is not None:
            raise DeviationError(reason)
        return losses

    def _verify(self, deliver, loss, draws):
        """Compare a loss, and the gradients that a function delivers to the parameters, with an evaluation."""
        deliver()
        gradients = {uuid: self._trained[uuid].grad().asnumpy() for uuid in self._learned}
        result = Result(loss.asnumpy().ravel()[0], gradients, draws)
        reason = self._compiled[self._feed.batch_rows].evaluations.deviation(result, self.next_data())
        if reason is not None:
            raise DeviationError(f"the objective has changed since it was compiled, or the program is wrong: {reason}")

    @property
    def _has_given_up(self):
        return self.fallback_reason is not None and not self.compiled

    def _look_at_parameters(self):
        self._settings = _settings(self._parameters)
        self._trained = {uuid: p for uuid, p in self._parameters.items() if p.grad_req != "null"}
        reason = _unsupported(self._trained)
        if reason is not None:
            self._give_up(reason)

    def _traced_step(self, learning_rate):
        rows = self._feed.batch_rows
        if rows not in self._tracing:
            self._tracing[rows] = Tracing(
                Evaluations(self._executor, self._trained, self._ctx, self._feed.is_changing, self._totals)
            )
        state = self._tracing[rows]
        state.look_at(self._point())
        loss = self._evaluated(state.evaluations)
        self._update(learning_rate)
        self._feed.step += 1
        if self._has_given_up:
            return loss
        if state.evaluations.simplified is not None:
            self._compile(rows, state)
        if state.evaluations.reason is not None:
            self._give_up(state.evaluations.reason)
        return loss

    def _point(self):
        return [digest(parameter.data()) for parameter in self._trained.values()]

    def _verify_if_moved(self):
        """Programs that were made of evaluations at one point are verified as soon as the parameters leave it."""
        if self._standing_point is not None and self._standing_point != self._point():
            self._standing_point = None
            for state in self._compiled.values():
                state.runs.ask()
            if self._several is not None:
                self._several.runs.ask()

    def _evaluated(self, evaluations):
        """Evaluate imperatively; give up if other parameters than those of the programs have gradients."""
        for parameter in self._trained.values():
            parameter.data()._fresh_grad = False
        loss = evaluations.evaluate(self.next_data())
        fresh = [uuid for uuid, parameter in self._trained.items() if parameter.data()._fresh_grad]
        if self._learned and fresh != list(self._learned):
            self._give_up("a batch of another size has other parameters")
            for uuid in fresh:
                self._trained[uuid].data()._fresh_grad = True  # not to be lost with the arrays of the programs
        return loss

    def _update(self, learning_rate, gradient=None):
        if self._flat is not None:
            self._flat.update(learning_rate, gradient)
            return
        self._trainer.set_learning_rate(learning_rate)
        self._trainer.step(batch_size=1, ignore_stale_grad=True)

    def _compile(self, rows, tracing):
        evaluations = tracing.evaluations
        held, states = evaluations.simplified.parameters(), self._updater.states
        learned = {uuid: p for uuid, p in self._trained.items() if self._position(p) in states}
        if not self._learned:
            self._join(learned)
        for uuid in set(learned) - set(held):
            learned[uuid].grad()[:] = 0  # the program writes none; an optimizer may have weight decay or noise for it
        program = evaluations.program(learned)
        if program is not None:
            del self._tracing[rows]
            self._compiled[rows] = Compiled(evaluations, program, Runs(self._started))
            self._explained[rows] = evaluations
            self._standing_point = tracing.standing_point or self._standing_point
            self._set_threads()
            self.compiled = True

    def _prepare_several(self, remaining, has_looked):
        """Make a program of several steps, once, if there may be one."""
        state = self._compiled.get(self._feed.batch_rows)
        if state is None:
            return
        is_native = isinstance(state.program, NativeProgram)
        if not is_native and (state.runs.count < _STEPS_BEFORE_SEVERAL or not has_looked):
            return
        self._has_tried_several = True
        if self._flat is None or self._feed.batch_rows is not None:  # a batch has data of its own
            return
        program: StepProgram | None
        if is_native:
            program = NativeSteps(state.program, self._flat) if self._flat.adam is not None else None
        else:
            values = {uuid: parameter.data() for uuid, parameter in self._trained.items()}
            program = program_of_several_steps(state.evaluations.simplified, values, self._flat, self._ctx, remaining)
        if program is not None:
            self._several = Several(program, self._flat, Runs(self._started))

    def _set_threads(self):
        self._threads.close()
        graphs = [state.evaluations.simplified for state in self._compiled.values()]
        self._threads.enter_context(one_blas_thread(graphs, self._ctx))

    def _join(self, learned):
        positions = {uuid: self._position(parameter) for uuid, parameter in learned.items()}
        if can_be_flat(list(learned.values()), list(positions.values()), self._updater.optimizer):
            self._flat = FlatParameters(learned, positions, self._updater)
        self._learned = {uuid: parameter.data() for uuid, parameter in learned.items()}

    def _position(self, parameter):
        return self._trainer._param2idx[parameter.name]

    def _give_up(self, reason, what="Not compiled, and evaluated as MXFusion does"):
        self._release()
        self.compiled = False
        self.fallback_reason = reason
        warnings.warn(f"{what}: {reason}.", NotCompiledWarning, stacklevel=levels_to_the_caller())

    def _release(self):
        """Give MXFusion's Parameters their own arrays back; the programs hold different ones."""
        self._threads.close()
        self._several, self._has_tried_several = None, False
        self._standing_point = None
        self._tracing.clear()
        self._compiled.clear()
        self._learned = {}
        if self._flat is not None:
            self._flat.release(self._updater)
            self._flat = None


def _settings(parameters):
    """What the user may change of parameters in a checkpoint function, but for their values."""
    return [(parameter.grad_req, parameter.lr_mult, parameter.wd_mult) for parameter in parameters.values()]


def _keep_arrays(parameter, value, gradient):
    """Let a parameter that was initialised anew, in other arrays, have its values in those that programs read."""
    if parameter.data() is value:
        return
    parameter.data().copyto(value)
    if parameter.grad_req != "null" and gradient is not None:
        point_to(parameter, value, gradient)


def _unsupported(parameters):
    """Why an executor cannot compute the gradients of some parameters, None if it can."""
    for parameter in parameters.values():
        if parameter.grad_req != "write" or parameter._stype != "default" or parameter._grad_stype != "default":
            return f"the parameter {parameter.name} has a sparse or added gradient"
        if len(parameter.list_ctx()) > 1:
            return f"the parameter {parameter.name} is on several devices"
    return None
