# SPDX-License-Identifier: Apache-2.0
"""What the sections of docs/speed.md share: who is timed, how long, on which data, and how numbers are written."""

from typing import Dict, List, NamedTuple

import numpy as np
import problems
from contest import Contender, Team, ratio

OURS, EXECUTOR, LOOP = "ours", "MXNet's executor", "MXFusion's loop"
PYRO, JIT, UPDATE, RUN = "Pyro", "Pyro, JIT", "NumPyro, update", "NumPyro, run"
WITHOUT_ENGINE = (("MXFUSION_MVN_NATIVE", "0"),)
TRAINING = (
    Contender(OURS, "ours.py", "compiled"),
    Contender(EXECUTOR, "ours.py", "compiled", environment=WITHOUT_ENGINE),
    Contender(LOOP, "ours.py", "host"),
    Contender(PYRO, "models_pyro.py", "step"),
    Contender(JIT, "models_pyro.py", "jit"),
    Contender(UPDATE, "models_numpyro.py", "update", process="NumPyro"),
    Contender(RUN, "models_numpyro.py", "scan", process="NumPyro"),
)
LEARNING_RATE = 1e-3


def training_of(*names):
    """Those of TRAINING that have these names, a list."""
    return [contender for contender in TRAINING if contender.name in names]


class Settings(NamedTuple):
    """
    How long to measure.

    :param rounds: how often each contender is timed.
    :param seconds: of each timing.
    :param threads: the thread counts, a tuple.
    :param quick: whether to leave out most sizes.
    """

    rounds: int
    seconds: float
    threads: tuple
    quick: bool


class Section(NamedTuple):
    """
    A section of the page.

    :param heading: a text.
    :param text: Markdown.
    :param tables: list of (caption, columns, rows).
    """

    heading: str
    text: str
    tables: list


class Claim(NamedTuple):
    """
    Something that the measurements decide.

    :param text: what was measured.
    :param value: the number.
    :param bound: what it should not be below, or above.
    :param below: whether it should be below.
    """

    text: str
    value: float
    bound: float
    below: bool = False

    @property
    def holds(self):
        """Whether it is so."""
        return self.value <= self.bound if self.below else self.value >= self.bound


class Bench:
    """
    Everything that the sections need.

    :param pythons: :class:`~contest.Pythons`.
    :param folder: Path, where data are kept.
    :param settings: :class:`Settings`.
    """

    def __init__(self, pythons, folder, settings):
        self.pythons, self.folder, self.settings = pythons, folder, settings
        self.claims: List[Claim] = []

    def team(self, contenders, threads=1, dtype="float32", fresh=False):
        """
        Workers for some contenders.

        :param contenders: list of :class:`~contest.Contender`.
        :param threads: how many each may use.
        :param dtype: float32 or float64.
        :param fresh: whether everything is compiled anew, for where that is timed.
        :returns: a :class:`~contest.Team`, for a ``with`` block.
        """
        return Team(contenders, self.pythons, threads, dtype, None if fresh else self.folder / "jax")

    def race(self, team, cases):
        """
        Time contenders; see :meth:`~contest.Team.race`.

        :param team: a :class:`~contest.Team`.
        :param cases: {name of the contender: case}.
        :returns: {name: array (rounds,) of seconds per step}.
        """
        return team.race(cases, self.settings.rounds, self.settings.seconds)

    def race_all(self, team, case):
        """
        Time all contenders on one case.

        :param team: a :class:`~contest.Team`.
        :param case: dict.
        :returns: {name: array (rounds,) of seconds per step}.
        """
        return self.race(team, dict.fromkeys(team.names, case))

    def some(self, items, step):
        """All items, or in a quick run one in so many."""
        return items[:: step if self.settings.quick else 1]

    def data(self, name, make):
        """
        The path of a file with some arrays, written if it is not there yet.

        :param name: of the file.
        :param make: function that gives a dict of arrays.
        :returns: a string.
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            np.savez(path, **make())
        return str(path)

    def problem(self, name):
        """The path of the data of a model in problems.py."""
        return self.data(name, getattr(problems, name.lower().replace(" ", "_")))

    def gaussian(self, rows, dim):
        """The path of the data of a normal."""
        return self.data(f"gaussian-{rows}-{dim}", lambda: problems.gaussian(rows, dim))

    def claim(self, text, value, bound, below=False):
        """Note a :class:`Claim`."""
        self.claims.append(Claim(text, value, bound, below))

    def claim_least(self, text, found, above, below, bound):
        """
        Note the smallest ratio of two contenders.

        :param text: what it is.
        :param found: {label of a row: times}.
        :param above: name of the contender whose time is divided.
        :param below: name of the other.
        :param bound: what the ratio should be at least.
        """
        ratios = {label: ratio(times, above, below) for label, times in found.items()}
        if ratios:
            least = min(ratios, key=ratios.get)
            self.claim(f"{text}, the least ({least})", ratios[least], bound)


def case(model, data, guide, samples, learning_rate=LEARNING_RATE, seed=0):
    """What a training worker needs to know, a dict."""
    return dict(model=model, data=data, guide=guide, samples=samples, learning_rate=learning_rate, seed=seed)


def threads_in_words(count):
    """A number of threads."""
    return {1: "one thread", 2: "two threads"}.get(count, f"{count} threads")


def headings(times):
    """The names of columns for :func:`columns`."""
    return ["ours, us", *(name for name in times if name != OURS)]


def columns(times: Dict[str, np.ndarray]):
    """Our time in microseconds, and of the others how many times as long they take."""
    others = [f"{number(ratio(times, name, OURS))} x" for name in times if name != OURS]
    return [number(1e6 * np.median(times[OURS])), *others]


def number(value):
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
