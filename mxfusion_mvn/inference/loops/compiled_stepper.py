# SPDX-License-Identifier: Apache-2.0
"""Steps by a compiled program: MXFusion walks the graph of the model in Python at every step, this only twice."""

import math
import time
import warnings
from contextlib import ExitStack, suppress

from mxfusion_mvn.compiler.evaluation import Evaluations, Result
from mxfusion_mvn.compiler.explain import explain
from mxfusion_mvn.compiler.graph import digest
from mxfusion_mvn.compiler.threads import one_blas_thread
from mxfusion_mvn.inference.loops.caller import levels_to_the_caller
from mxfusion_mvn.inference.loops.flat import FlatParameters, can_be_flat, point_to
from mxfusion_mvn.inference.loops.several_steps import SeveralSteps, possible_steps
from mxfusion_mvn.inference.loops.steppers import DeviationError, ImperativeStepper
from mxfusion_mvn.inference.loops.summands import Totals
from mxfusion_mvn.inference.loops.verification import Runs
from mxfusion_mvn.inference.names import name_of

import mxnet as mx

# To make a program of several steps takes about as long as that many steps.
_STEPS_BEFORE_SEVERAL = 100
# So many evaluations at one point, and the point is taken for one that the run does not leave: an optimum, from which
# the updates round away.
_EVALUATIONS_OF_A_STANDING_POINT = 10


class NotCompiledWarning(UserWarning):
    """An objective is evaluated as the host does, not compiled, or has changed since it was; the message says why."""


class CompiledStepper(ImperativeStepper):
    """
    Steps by a compiled program, as soon as there is one.

    :param infr_executor: the host's ObjectiveBlock.
    :param data: list of NDArrays.
    :param param_dict: the host's ParameterDict.
    :param ctx: MXNet context.
    :param optimizer: an ``mxnet.optimizer.Optimizer``.
    """

    def __init__(self, infr_executor, data, param_dict, ctx, optimizer):
        super().__init__(infr_executor, data, param_dict, ctx, optimizer)
        self._evaluations = {}
        self._totals = Totals()
        self._points = {}
        self._standing_point = None
        self._programs = {}
        self._runs = {}
        self._started = time.perf_counter()
        self._explained = {}
        self._several = None
        self._remaining = 0
        self._compiled_steps = 0
        self._threads = ExitStack()
        self._flat = None
        self._learned = None
        self._learned_arrays = None
        self._arrays = {}
        self.compiled = False
        self.fallback_reason = None
        self._look_at_parameters()

    def step(self, learning_rate):
        """As :meth:`Stepper.step`."""
        if self._has_given_up:
            return super().step(learning_rate)
        return self._compiled_step(learning_rate)

    def steps_at_once(self, remaining):
        """As :meth:`Stepper.steps_at_once`."""
        if remaining >= self._remaining:  # after a look at the losses: reading parameters waits for nothing
            self._verify_if_moved()
        # After a look at the losses, when it is known how many steps lie between two.
        if remaining > self._remaining and self._several is None and self._compiled_steps >= _STEPS_BEFORE_SEVERAL:
            self._prepare_several(remaining)
        self._remaining = remaining
        return self._several.count if self._several and remaining >= self._several.count else 1

    def steps(self, learning_rates):
        """As :meth:`Stepper.steps`."""
        if len(learning_rates) == 1:
            return [self.step(*learning_rates)]
        self._runs["several"].count += 1
        return self._several.push(learning_rates)

    def runs_of_program(self, count):
        """As :meth:`Stepper.runs_of_program`."""
        return self._runs.get("several" if count > 1 else self._shapes())

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

    def snapshot(self):
        """As :meth:`Stepper.snapshot`."""
        return self._flat, super().snapshot() if self._flat is None else self._flat.snapshot()

    def restore(self, state):
        """As :meth:`Stepper.restore`."""
        flat, state = state
        self._several = None
        if flat is not self._flat:
            self._release()
        if flat is None:
            super().restore(state)
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
        program = self._programs.get(self._shapes())
        if program is None:
            return super().evaluate()
        evaluations = self._evaluations[self._shapes()]
        gradients = [parameter.grad().copy() for parameter in self._trained.values()]
        with evaluations.kept_states():
            self._fill(evaluations)
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
        texts = [self._title(shapes) + explain(known, self._ctx, graph) for shapes, known in self._explained.items()]
        return self._with_names("\n\n".join(texts))

    def _with_names(self, text):
        """A text with the names of parameters in place of their uuids."""
        for graph in self._executor._infr_method.graphs:
            for uuid in set(graph.components) & set(self._parameters):
                text = text.replace(uuid, name_of(graph.components[uuid]))
        return text

    def _title(self, shapes):
        return ""

    def _compiled_step(self, learning_rate):
        shapes = self._shapes()
        program = self._programs.get(shapes)
        if program is None:
            return self._traced_step(shapes, learning_rate)
        self._run(shapes)
        if self._flat is None or program.results is None:
            program.deliver()
        return self._updated(program, learning_rate)

    def _run(self, shapes):
        self._fill(self._evaluations[shapes])
        self._compiled_steps += 1
        self._runs[shapes].count += 1
        self._programs[shapes].run()

    def _updated(self, program, learning_rate):
        if self._flat is None:
            for array in self._learned_arrays:
                array._fresh_grad = True  # else the trainer takes the gradient for an old one
        self._update(learning_rate, program.results)
        return program.losses.keep()[0]

    def _verified_step(self, learning_rate):
        shapes = self._shapes()
        program = self._programs[shapes]
        self._run(shapes)
        self._verify(program.deliver, program.loss, program.draws)
        program.deliver()
        return self._updated(program, learning_rate)

    def _verified_several(self, learning_rates):
        """The last step is compared, at the values before it."""
        several = self._several
        losses = self.steps(learning_rates)
        after = self._flat.values.copy()
        several.before.copyto(self._flat.values)
        self._verify(self._flat.deliver_gradients, several.last_loss, several.last_draws)
        after.copyto(self._flat.values)
        reason = several.deviation()
        if reason is not None:
            raise DeviationError(reason)
        return losses

    def _verify(self, deliver, loss, draws):
        """Compare a loss, and the gradients that a function delivers to the parameters, with an evaluation."""
        deliver()
        gradients = {uuid: self._trained[uuid].grad().asnumpy() for uuid in self._learned}
        result = Result(loss.asnumpy().ravel()[0], gradients, draws)
        reason = self._evaluations[self._shapes()].deviation(result, self.next_data())
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

    def _traced_step(self, shapes, learning_rate):
        point = self._point()
        before, count = self._points.get(shapes, (None, 0))
        count = count + 1 if point == before else 1
        self._points[shapes] = point, count
        is_standing = count >= _EVALUATIONS_OF_A_STANDING_POINT
        # Two evaluations at one point do not tell what depends on the parameters.
        if shapes not in self._evaluations or point == before and not is_standing:
            self._evaluations[shapes] = Evaluations(
                self._executor, self._trained, self._ctx, self._is_changing(), self._totals
            )
        evaluations = self._evaluations[shapes]
        loss = self._evaluated(evaluations)
        self._update(learning_rate)
        if self._has_given_up:
            return loss
        if evaluations.simplified is not None:
            self._standing_point = point if is_standing else self._standing_point
            self._compile(shapes, evaluations)
        if evaluations.reason is not None:
            self._give_up(evaluations.reason)
        return loss

    def _point(self):
        return [digest(parameter.data()) for parameter in self._trained.values()]

    def _verify_if_moved(self):
        """Programs that were made of evaluations at one point are verified as soon as the parameters leave it."""
        if self._standing_point is not None and self._standing_point != self._point():
            self._standing_point = None
            for runs in self._runs.values():
                runs.ask()

    def _evaluated(self, evaluations):
        """Evaluate imperatively; give up if other parameters than those of the programs have gradients."""
        for parameter in self._trained.values():
            parameter.data()._fresh_grad = False
        loss = evaluations.evaluate(self.next_data())
        fresh = [uuid for uuid, parameter in self._trained.items() if parameter.data()._fresh_grad]
        if self._programs and fresh != self._learned:
            self._give_up("a batch of another size has other parameters")
            for uuid in fresh:
                self._trained[uuid].data()._fresh_grad = True  # not to be lost with the arrays of the programs
        return loss

    def _shapes(self):
        """What tells programs apart: one number, here always the same."""
        return 0

    def _fill(self, evaluations):
        """Put the data of this step where the program reads them."""
        return

    def _is_changing(self):
        """List of bools: which of the data are other ones in each step."""
        return [False] * len(self._data)

    def _update(self, learning_rate, gradient=None):
        if self._flat is not None:
            self._flat.update(learning_rate, gradient)
            return
        self._trainer.set_learning_rate(learning_rate)
        self._trainer.step(batch_size=1, ignore_stale_grad=True)

    def _compile(self, shapes, evaluations):
        held, states = evaluations.simplified.parameters(), self._updater.states
        learned = {uuid: p for uuid, p in self._trained.items() if self._position(p) in states}
        if not self._programs:
            self._join(learned)
        for uuid in set(learned) - set(held):
            learned[uuid].grad()[:] = 0  # the program writes none; an optimizer may have weight decay or noise for it
        program = evaluations.program(learned)
        if program is not None:
            self._programs[shapes] = program
            self._runs[shapes] = Runs(self._started)
            self._explained[shapes] = evaluations
            self._set_threads()
            self.compiled = True

    def _prepare_several(self, remaining):
        """Make a program of several steps, if that can be, and pays."""
        self._compiled_steps = -math.inf
        if self._flat is None or self._flat.adam is None or "wd" in self._flat.adam.options:
            return
        evaluations = self._evaluations[self._shapes()]
        count = possible_steps(evaluations.simplified, remaining)
        if count > 1:
            values = {uuid: parameter.data() for uuid, parameter in self._trained.items()}
            with suppress(mx.base.MXNetError):  # single steps do as well
                self._several = SeveralSteps(evaluations.simplified, values, self._flat, self._ctx, count)
                self._runs["several"] = Runs(self._started)

    def _set_threads(self):
        self._threads.close()
        graphs = [self._evaluations[shapes].simplified for shapes in self._programs]
        self._threads.enter_context(one_blas_thread(graphs, self._ctx))

    def _join(self, learned):
        positions = {uuid: self._position(parameter) for uuid, parameter in learned.items()}
        if can_be_flat(list(learned.values()), list(positions.values()), self._updater.optimizer):
            self._flat = FlatParameters(learned, positions, self._updater)
        self._learned = list(learned)
        self._learned_arrays = [parameter.data() for parameter in learned.values()]

    def _position(self, parameter):
        return self._trainer._param2idx[parameter.name]

    def _give_up(self, reason, what="Not compiled, and evaluated as the host does"):
        self._release()
        self.compiled = False
        self.fallback_reason = reason
        warnings.warn(f"{what}: {reason}.", NotCompiledWarning, stacklevel=levels_to_the_caller())

    def _release(self):
        """Give the host's Parameters their own arrays back; the programs know others."""
        self._threads.close()
        self._several = None
        self._compiled_steps = 0
        self._evaluations.clear()
        self._programs.clear()
        self._runs.clear()
        self._standing_point = None
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
