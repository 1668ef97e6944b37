# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar on the terminal or in the notebook, or nothing."""


class Silence:
    """Shows nothing."""

    def update(self, iterations, loss):
        """
        Take note of the present state.

        :param iterations: how many are done.
        :param loss: the last one read.
        """

    def close(self):
        """End."""


class Bar(Silence):
    """
    A bar of tqdm, on the standard error stream.

    :param total: the number of iterations.
    """

    def __init__(self, total):
        from tqdm.auto import tqdm  # looks for a notebook, which only those who want a bar should wait for

        self._bar = tqdm(total=total, unit="it")

    def update(self, iterations, loss):
        """
        Move the bar, and show the loss.

        :param iterations: how many are done.
        :param loss: the last one read.
        """
        self._bar.set_postfix_str(f"loss {loss:.6g}", refresh=False)
        self._bar.update(iterations - self._bar.n)

    def close(self):
        """Leave the bar as it is."""
        self._bar.close()
