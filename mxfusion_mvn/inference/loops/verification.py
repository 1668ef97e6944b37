# SPDX-License-Identifier: Apache-2.0
"""When a compiled program is compared with an imperative evaluation: at a few growing numbers of runs."""

import time

# From the tenth run on, a comparison may take this share of the time that the run has taken so far.
_SHARE = 0.05


class Runs:
    """
    How often a program has run, and when it is to be verified: at its second run, and at its 10th, 100th, 1000th, ...

    :param started: when training began, by ``time.perf_counter()``.
    """

    def __init__(self, started):
        self.count = 0
        self._started = started
        self._next = 1
        self._is_asked_for = False
        self._seconds = 0.0

    def is_due(self):
        """
        Whether the next run is to be verified; it waits where that would take too much of the time.

        :returns: a bool.
        """
        is_cheap = self.count < 10 or self._seconds <= _SHARE * (time.perf_counter() - self._started)
        return self._is_asked_for or self.count >= self._next and is_cheap

    def ask(self):
        """Ask for a verification of the next run, whatever it costs."""
        self._is_asked_for = True

    def note(self, seconds):
        """
        Note a verification.

        :param seconds: how long it took.
        """
        self._seconds = seconds
        if self.count >= self._next:
            self._next *= 10
        self._is_asked_for = False
