# SPDX-License-Identifier: Apache-2.0
"""What a training run leaves behind, and when to stop one.

A loss is a negative log density or a negative evidence lower bound, in nats.
"""

from __future__ import annotations

import numbers
from typing import NamedTuple

from mxfusion_mvn.checks.options import is_positive, shown
from mxfusion_mvn.inference.arguments import check_count, refuse

import numpy as np

# By how many nats a loss has to change for that to be worth a word.
WORTH_MENTIONING = 0.01


class TrainingStoppedWarning(UserWarning):
    """A run ended early because something was not finite, or it diverged; the message says where, and what was kept."""


class RunRecord:
    """
    The record of a run, the return value of ``GradBasedInference.run`` with the loops of this package.

    :param loss: NumPy array (iterations,) of float64: the loss before each update, finite.
    :param seconds: wall-clock time, of compiling too.
    :param reason: why it stopped: ``max_iter``, ``not finite``, ``diverged``, ``interrupted`` or what the stop rule
        said, such as ``converged``; ``running`` in the record that a checkpoint function gets, and ``error`` if
        something raised.
    :param message: the same as a sentence.
    :param has_arrived: whether the loss had levelled off, or the stop rule said ``converged``. If not,
        :func:`~mxfusion_mvn.inference.summary` repeats the message below its table.
    :param compiled: whether the objective was compiled.
    :param fallback_reason: why it was not although that was wanted, or why its steps are not to be trusted if it was;
        None if all is well.
    """

    def __init__(
        self,
        loss: np.ndarray,
        seconds: float,
        reason: str,
        message: str,
        compiled: bool = False,
        fallback_reason: str | None = None,
        has_arrived: bool = False,
    ) -> None:
        if not isinstance(loss, np.ndarray) or loss.ndim != 1 or loss.dtype.kind not in "fiu":
            refuse("loss", shown(loss), "a NumPy array of numbers (iterations,)", "Convert it with np.asarray.")
        if not isinstance(seconds, numbers.Real):
            refuse("seconds", shown(seconds), "a number", "It is the wall-clock time.")
        for name, text in (
            ("reason", reason),
            ("message", message),
            ("fallback_reason", "" if fallback_reason is None else fallback_reason),
        ):
            if not isinstance(text, str):
                refuse(name, shown(text), "a string", "It is printed.")
        self.loss = loss
        self.seconds = seconds
        self.reason = reason
        self.message = message
        self.has_arrived = has_arrived
        self.compiled = compiled
        self.fallback_reason = fallback_reason

    @property
    def iterations(self) -> int:
        """How many losses there are; the run made as many updates, unless it had to step back to the last good one."""
        return len(self.loss)

    def __repr__(self):
        loss = f", last loss {self.loss[-1]:.6g}" if self.iterations else ""
        how = ", compiled" if self.compiled else ""
        return f"RunRecord({self.reason}: {self.iterations} iterations in {self.seconds:.3g} s{how}{loss})"

    def __str__(self):
        fallback = f"\nNot compiled: {self.fallback_reason}" if self.fallback_reason else ""
        return f"{self!r}\n{self.message}{fallback}"


class Improvement(NamedTuple):
    """How far the mean loss fell from one window to the next, and the standard error of that, in nats."""

    nats: float
    standard_error: float


def improvement(losses, window):
    """
    By how much the mean loss of the last window is below that of the window before.

    ::

        d = mean(l_1 ... l_w) - mean(l_w+1 ... l_2w)        se(d) = s sqrt(2 / w)
        s^2 = sum (l_t+1 - l_t)^2 / (2 (2w - 1))

    The variance s^2 is that of successive differences (von Neumann et al., 1941, doi:10.1214/aoms/1177731746), which a
    slow trend hardly changes: it is noise from draws and minibatches, and next to nothing where there are none.

    :param losses: NumPy array (n,), n >= 2 window.
    :param window: w, the length of a window.
    :returns: an :class:`Improvement`.
    """
    recent = np.asarray(losses[-2 * window :], dtype="float64")
    noise = np.sqrt(np.mean(np.square(np.diff(recent))) / 2)
    return Improvement(recent[:window].mean() - recent[window:].mean(), noise * np.sqrt(2 / window))


class Trend(NamedTuple):
    """Where a loss was going when its run ended, in words to follow a sentence, and whether it had arrived."""

    words: str
    has_arrived: bool


def trend(losses, had_arrived=False):
    """
    Where a loss was going at the end.

    Means of windows are compared with each other, the last one with the one before, with the first, with the lowest,
    and with the very first loss; their noise is that of :func:`improvement`.

    :param losses: NumPy array (iterations,).
    :param had_arrived: whether the run went on from where one before had arrived: then it need not have fallen.
    :returns: :class:`Trend`.
    """
    window = min(100, len(losses) // 2)
    if window < 2:
        return Trend("", False)
    fell = improvement(losses, window)
    windows = losses[len(losses) % window :].reshape((-1, window))
    means, errors = windows.mean(axis=1), _errors_of_means(windows)
    lowest = np.argmin(means)
    in_all, above = means[0] - means[-1], means[-1] - means[lowest]
    at_least = max(WORTH_MENTIONING, _rounding(losses))
    is_falling = fell.nats > max(at_least, 2 * fell.standard_error)
    rose, noise = means[-1] - losses[0], max(errors[0], errors[-1]) * np.sqrt(window)
    has_risen = rose > max(at_least, 4 * noise) or windows[-1].min() - losses[0] > WORTH_MENTIONING + abs(losses[0])
    where = f"{rose:.3g} nats above where it began. Use a smaller learning rate"
    if is_falling or (in_all > at_least and _falls_steadily(losses, in_all)):
        words = f"; the loss was still falling, by {fell.nats:.3g} nats over the last {window}"
        return Trend(words + (f", but is {where}" if has_risen else ""), False)
    if above > max(at_least, 4 * np.hypot(errors[-1], errors[lowest])):
        return Trend(
            f"; the loss wanders: over the last {window} its mean is {above:.3g} nats above that of the {window} with "
            "the lowest. Use a smaller learning rate",
            False,
        )
    if has_risen:
        return Trend(f"; the loss is {where}", False)
    has_fallen = in_all > max(at_least, 4 * np.hypot(errors[0], errors[-1]))
    has_fallen |= losses[0] - means[-1] > max(at_least, 4 * errors[0] * np.sqrt(window))  # at once, and no more since
    if not (had_arrived or has_fallen):
        return Trend(
            "; the loss has not fallen since the beginning: it began at its lowest, or the learning rate is too small",
            False,
        )
    return Trend(f"; the loss has levelled off: it did not fall clearly over the last {window}", True)


def _falls_steadily(losses, in_all):
    """Whether a loss falls as slowly in the last quarter of a run as over all of it."""
    quarter = max(2, len(losses) // 4)
    fell = improvement(losses, quarter)
    return fell.nats > max(2 * fell.standard_error, 0.5 * in_all * quarter / len(losses))


def _errors_of_means(windows):
    """The standard errors of the means of windows (K, w)."""
    return np.sqrt(np.mean(np.square(np.diff(windows, axis=1)), axis=1) / 2 / windows.shape[1])


def _rounding(losses):
    """Differences of losses, each the sum of many terms, that rounding may explain."""
    is_single = np.array_equal(losses, losses.astype("float32"))
    return 16 * np.finfo("float32" if is_single else "float64").eps * np.abs(losses).max()


class Plateau:
    """
    A stop rule: the loss falls no more.

    It stops a run when the mean loss of the last window is below that of the window before by less than the tolerance,
    and by no more than two standard errors, so that it cannot be told from noise; and when the same holds of windows
    twice as long, so that a slow fall is not overlooked in noise. Where there is no noise (MAP) any fall can be told
    from it: such a run goes on until the loss stands still or rises. See :func:`improvement` for the formulas.

    :param window: the length of a window, in iterations; a run makes at least four windows.
    :param tolerance: in nats per window.
    :raises InferenceError: unless the window is an integer of at least 2 and the tolerance is positive.
    """

    def __init__(self, window: int = 100, tolerance: float = 0.01) -> None:
        if not is_positive(tolerance):
            refuse("tolerance", shown(tolerance), "a positive number of nats", "Try 0.01.")
        self.window = check_count("window", window, 2)
        self.tolerance = tolerance

    def __call__(self, losses: np.ndarray) -> str | None:
        """
        Judge the losses so far.

        :param losses: NumPy array (iterations,).
        :returns: ``"converged"``, or None to go on.
        """
        if not isinstance(losses, (np.ndarray, list, tuple)) or np.ndim(losses) != 1:
            refuse("losses", shown(losses), "an array (iterations,)", "Pass record.loss.")
        if len(losses) < 4 * self.window:
            return None
        flat = all(self._is_flat(losses, length) for length in (self.window, 2 * self.window))
        return "converged" if flat else None

    def _is_flat(self, losses, length):
        nats, standard_error = improvement(losses, length)
        return nats < self.tolerance * length / self.window and nats <= 2 * standard_error

    def __repr__(self):
        return f"Plateau(window={self.window}, tolerance={self.tolerance})"
