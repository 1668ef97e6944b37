# SPDX-License-Identifier: Apache-2.0
"""The driver of every loop: it follows the steps that a ``Stepper`` makes."""

import time
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Tuple

from mxfusion_mvn.inference.loops.diagnosis import flush, is_failed_factorisation, reason_of, state_of
from mxfusion_mvn.inference.loops.record import RunRecord, trend
from mxfusion_mvn.inference.loops.steppers import DeviationError
from mxfusion_mvn.inference.loops.verification import Runs

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError

# Checked sooner than after `check_every` iterations, because a run that fails mostly does so at once.
EARLY_CHECKS = (1, 10)
# Losses are read at least this often, so that the progress bar and Ctrl-C answer.
SECONDS_BETWEEN_CHECKS = 1.0
# Where steps take microseconds a check costs as much as many of them: it waits for so large a share of those made.
SHARE_BETWEEN_CHECKS = 8
# Why a parameter may be bad after an update of which everything else was finite.
TOO_FAR = "the loss and the gradient before it were finite, so the update itself went too far"
# A run has diverged where each of so many losses is by this factor larger in size than the largest of the first ones:
# a bad start is large at first, and noise does not last.
DIVERGED_FOR = 50
DIVERGED_BY = 1e6
FIRST_LOSSES = 10
# A loss may be near zero at first by chance, and then fall to what the data are worth: millions of rows of small noise
# some 1e9 nats. Downwards sizes count from here on.
FALLEN_FROM = 1e6

# How a computation fails: MXNet reports a failed factorisation at the next reading, our distributions raise an error.
FAILURES = (mx.base.MXNetError, InferenceError)


class Trouble(NamedTuple):
    """
    What went wrong, as the beginning of a sentence, and the reason if something gave one.

    ``latest`` is the last iteration that could have caused it, where that may lie after the loss that was not read.
    """

    what: str
    reason: Optional[str] = None
    latest: int = 0


class Training:
    """
    One run: pushes the steps, reads their losses now and then, keeps what was good.

    Losses and parameters are looked at after every ``check_every`` iterations, at first sooner, in a long run of fast
    steps less often, and so often that no more than about a second lies between. If one is not finite, or a
    factorisation failed, the run steps back to a snapshot, repeats the steps up to the failure one by one, has it
    diagnosed, and leaves the parameters of the last finite loss.

    :param stepper: a :class:`Stepper`.
    :param objective: an :class:`~mxfusion_mvn.inference.loops.diagnosis.Objective`, used after a write-back.
    :param max_iter: the number of iterations.
    :param rates: :class:`~mxfusion_mvn.inference.loops.rates.Rates` or ``ConstantRates``.
    :param stop: function from the losses so far to None or the reason to stop, or None.
    :param checkpoint: function of the record so far, or None.
    :param check_every: how many iterations lie between two calls of ``stop`` and ``checkpoint``.
    :param bar: a :class:`~mxfusion_mvn.inference.loops.progress.Silence` or ``Bar``.
    :param started: when the run began, by ``time.perf_counter()``.
    """

    def __init__(self, stepper, objective, max_iter, rates, stop, checkpoint, check_every, bar, started):
        self._stepper = stepper
        self._objective = objective
        self._max_iter = max_iter
        self._stop = stop
        self._checkpoint = checkpoint
        self._check_every = check_every
        self._bar = bar
        self._losses = np.empty(max_iter)
        self._rates = rates
        # Losses that were pushed and not read, with the iteration after those that were pushed together with it.
        self._pending: Deque[Tuple[Any, int]] = deque()
        self._done = 0  # how many losses were read and found good
        self._error: Optional[Exception] = None  # what a step raised
        self._failed_before = 0  # the iteration after the steps that failed while they were verified
        # Pairs (iteration, state); the loss at the last one may not have been read yet.
        self._snapshots: List[Tuple[int, Any]] = []
        # For the Runs of each program the snapshot up to which it was seen to be right.
        self._verified: Dict[Runs, Tuple[int, Any]] = {}
        # The newest snapshot at which the loss was of about the size of the first ones.
        self._sound: Tuple[int, Any] = (0, None)
        self._reason, self._message, self._has_arrived = "running", "The run goes on.", False
        self._start = started
        self._checked = 0, time.perf_counter()  # the last check: after how many iterations, and when
        self._stride = check_every  # how many iterations there is time for until the next check

    @property
    def record(self):
        """The :class:`RunRecord` so far."""
        return RunRecord(
            loss=self._losses[: self._done].copy(),
            seconds=time.perf_counter() - self._start,
            reason=self._reason,
            message=self._message,
            has_arrived=self._has_arrived,
            compiled=self._stepper.compiled,
            fallback_reason=self._stepper.fallback_reason,
        )

    def run(self):
        """
        Train.

        :returns: the :class:`RunRecord`.
        :raises Exception: whatever the first step raises but for a failed factorisation, and whatever the functions of
            the user raise; the parameters are the last good ones then, and written back.
        """
        try:
            self._keep_snapshot()
            while self._reason == "running":
                try:
                    self._push_steps()
                    self._check()
                except DeviationError as found:
                    self._go_on_imperatively(found)
        except BaseException as error:
            self._settle()
            self._reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            self._message = f"{type(error).__name__} after {self._done} iterations."
            raise
        finally:
            self._stepper.finish()
            self._bar.close()
        return self.record

    def _push_steps(self):
        """Push the steps up to the next check."""
        iteration, end = self._done, self._next_check()
        while iteration < end:
            following = iteration + self._stepper.steps_at_once(end - iteration)
            rates = self._rates.between(iteration, following)
            try:
                self._pending.extend((loss, following) for loss in self._steps(iteration, rates))
            except FAILURES as error:
                self._raise_if_at_once(error)
                self._error = error
                return
            iteration = following

    def _steps(self, iteration, rates):
        runs = self._stepper.runs_of_program(len(rates))
        if runs is None or runs in self._verified and not runs.is_due():
            return self._stepper.steps(rates)
        before = iteration, self._stepper.snapshot()
        if runs.is_due():
            # Where they fail nothing says which of them did: that is found out when they are repeated.
            self._failed_before = iteration + len(rates)
            losses = self._stepper.verified_steps(rates)
            self._failed_before = 0
        else:
            losses = self._stepper.steps(rates)
        self._verified[runs] = before
        return losses

    def _go_on_imperatively(self, found):
        """Return to the parameters up to which all programs were right, and do without them."""
        verified = min(self._verified.values(), key=lambda kept: kept[0])
        if self._read_losses() and self._done < verified[0]:
            verified = self._newest_good_snapshot()
        flush()
        self._pending.clear()
        self._error, self._failed_before = None, 0
        self._done, state = verified
        self._verified.clear()
        self._stepper.give_up_compiling(f"{found}. The run goes on from the parameters of iteration {self._done}")
        self._stepper.restore(state)
        self._snapshots = [verified]
        self._sound = verified if self._sound[0] > self._done else self._sound
        self._checked = self._done, time.perf_counter()

    def _raise_if_at_once(self, error):
        """What is wrong from the start is an error of the user's, such as a wrong shape, and nothing is lost."""
        if self._done + len(self._pending) == 0 and not is_failed_factorisation(error):
            raise error

    def _next_check(self):
        scheduled = (self._done // self._check_every + 1) * self._check_every
        if self._stepper.is_synchronous and self._stop is None and self._checkpoint is None:
            scheduled += self._done // SHARE_BETWEEN_CHECKS
        early = [check for check in EARLY_CHECKS if check > self._done]
        return min([scheduled, self._max_iter, self._done + self._stride, *early])

    def _check(self):
        """Read what was pushed; go on, end, or step back."""
        trouble = self._read_losses() or self._step_error() or self._bad_parameter()
        reason = None if trouble else self._reason_to_end()
        if reason:
            trouble = self._bad_end()
        if trouble:
            self._step_back(trouble)
        elif _has_diverged(self._losses[: self._done]):
            self._leave_diverged()
        elif reason:
            self._end(reason)
        else:
            self._keep_snapshot()
            self._adapt_stride()

    def _read_losses(self):
        """Read the losses in order, up to a bad one; return that as a Trouble, or None, as the methods below."""
        while self._pending:
            # Read one after the other: MXNet reports a failure only once, and so it is charged to the right iteration.
            try:
                losses = np.ravel(self._pending[0][0].asnumpy())
            except mx.base.MXNetError as error:
                what = f"The loss of iteration {self._done} could not be computed"
                return Trouble(what, reason_of(error), self._pending[0][1] - 1)
            is_finite = np.isfinite(losses)
            good = len(losses) if is_finite.all() else int(np.argmin(is_finite))
            self._losses[self._done : self._done + good] = losses[:good]
            self._done += good
            if good < len(losses):
                return Trouble(f"The loss of iteration {self._done} is {losses[good]}")
            self._pending.popleft()
        return None

    def _step_error(self):
        return self._error and Trouble(f"Iteration {self._done} failed", reason_of(self._error), self._failed_before)

    def _bad_parameter(self):
        for uuid, array in self._stepper.parameters().items():
            state = state_of(array)
            if state is not None:
                when = f"After iteration {self._done - 1}" if self._done else "At the start"
                return Trouble(f"{when} the {self._objective.parameter_name(uuid)} {state}", TOO_FAR)
        return None

    def _bad_end(self):
        """Whether the last update went wrong, which no iteration shows any more."""
        self._stepper.write_back()
        try:
            state = state_of(self._stepper.evaluate())
        except FAILURES as error:
            self._raise_if_at_once(error)
            state = f"could not be computed ({reason_of(error)})"
        return state and Trouble(f"The loss after the last update {state}")

    def _reason_to_end(self):
        reason = None
        if self._done and self._done % self._check_every == 0:
            reason = self._call_user()
        return reason or ("max_iter" if self._done == self._max_iter else None)

    def _call_user(self):
        if self._checkpoint is not None:
            self._stepper.write_back()
            self._checkpoint(self.record)
            self._objective.check_can_be_trained()
            self._stepper.refresh()
        return self._stop and self._stop(self._losses[: self._done].copy())

    def _keep_snapshot(self):
        self._snapshots = [*self._snapshots[-1:], (self._done, self._stepper.snapshot())]
        if not self._done or abs(self._losses[self._done - 1]) <= _first_size(self._losses[: self._done]):
            self._sound = self._snapshots[-1]
        if self._done:
            self._bar.update(self._done, self._losses[self._done - 1])

    def _leave_diverged(self):
        """Return to the parameters of the last sound loss."""
        iteration, state = self._sound
        self._stepper.restore(state)
        self._reason = "diverged"
        self._message = (
            f"The loss is {self._losses[self._done - 1]:.3g} after {self._done} iterations, and was at most "
            f"{_first_size(self._losses[: self._done]):.3g} in size at first: the run has diverged. The parameters are "
            f"those after {iteration} iterations. Use a smaller learning rate; if the loss falls without end, look for "
            "a variance that can go to zero, and give it a prior."
        )

    def _adapt_stride(self):
        now = time.perf_counter()
        per_iteration = (now - self._checked[1]) / (self._done - self._checked[0])
        self._checked = self._done, now
        self._stride = max(1, int(SECONDS_BETWEEN_CHECKS / per_iteration))

    def _end(self, reason):
        self._reason = str(reason)
        self._bar.update(self._done, self._losses[self._done - 1] if self._done else np.nan)
        how = trend(self._losses[: self._done], self._objective.had_arrived)
        self._has_arrived = self._reason == "converged" or how.has_arrived
        if reason == "max_iter":
            self._message = f"All {self._done} iterations are done{how.words}."
        else:
            words = "" if self._has_arrived else how.words
            self._message = f"The stop rule {self._stop!r} said {self._reason!r} after {self._done} iterations{words}."

    def _step_back(self, trouble):
        """Return to the parameters of the last finite loss, and find out what went wrong after them."""
        flush()
        self._pending.clear()
        bad = max(self._done, trouble.latest)
        self._done, good = self._newest_good_snapshot()
        self._stepper.restore(good)
        try:
            while self._done < bad:
                before, repeated = self._stepper.snapshot(), self._done
                again = self._repeat_step()
                good = before if self._done > repeated else good
                if again:
                    # A bad update; or, with other draws, a bad loss; or the failure that a later step ran into.
                    trouble = again
                    self._stepper.restore(before)
                    break
            cause = self._diagnose()
        finally:
            self._stepper.restore(good)
        self._reason = "not finite"
        cause = cause or trouble.reason or "with new draws all was finite"
        self._message = f"{trouble.what}: {cause.rstrip('.')}. {self._what_is_kept()}"

    def _newest_good_snapshot(self):
        """The newest whose loss has been read, or the first; a pair (iteration, state)."""
        return next(kept for kept in reversed(self._snapshots) if kept[0] < max(self._done, 1))

    def _repeat_step(self):
        """Do one step and wait for it; return the Trouble with its loss or update, or None."""
        try:
            self._pending.append((self._stepper.step(*self._rates.between(self._done, self._done + 1)), self._done + 1))
            trouble = self._read_losses() or self._bad_parameter()
        except FAILURES as error:
            trouble = Trouble(f"Iteration {self._done} failed", reason_of(error))
        if trouble:
            flush()
            self._pending.clear()
        return trouble

    def _diagnose(self):
        self._stepper.write_back()
        return self._objective.diagnose(self._stepper.next_data(), self._stepper.next_rows())

    def _what_is_kept(self):
        if self._done == 0:
            return "The initial parameters are kept; look at them and at the data."
        return (
            f"The parameters are those of iteration {self._done - 1}, the last whose loss is finite; "
            "use a smaller learning rate, or transformations that keep parameters where the density exists."
        )

    def _settle(self):
        """Restore the last good parameters after an exception."""
        try:
            trouble = self._read_losses() or self._bad_parameter()
        except FAILURES as error:
            trouble = error
        if trouble:
            flush()
            self._stepper.restore(self._newest_good_snapshot()[1])
        self._pending.clear()


def _first_size(losses):
    return 1 + np.abs(losses[:FIRST_LOSSES]).max()


def _has_diverged(losses):
    """Whether the last losses have all left the size that the first ones had by orders, upwards or downwards."""
    if len(losses) < FIRST_LOSSES + DIVERGED_FOR:
        return False
    recent, first = losses[-DIVERGED_FOR:], _first_size(losses)
    sizes = np.where(recent < 0, -recent / max(first, FALLEN_FROM), recent / first)
    return bool(sizes.min() > DIVERGED_BY)
