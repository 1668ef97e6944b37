# SPDX-License-Identifier: Apache-2.0
"""What is timed, against whom, and the tables that come of it: a function each measures and gives a Section."""

import itertools
from typing import Dict, List, NamedTuple

import numpy as np
import problems
from contest import Contender, Pythons, Team, ratio

OURS = "ours"
TRAINING = (
    Contender(OURS, "ours.py", "compiled"),
    Contender("host's loop", "ours.py", "host"),
    Contender("Pyro", "models_pyro.py", "step"),
    Contender("Pyro, JIT", "models_pyro.py", "jit"),
    Contender("NumPyro, update", "models_numpyro.py", "update"),
    Contender("NumPyro, run", "models_numpyro.py", "scan"),
)
DENSITY = (
    Contender(OURS, "ours.py", "density"),
    Contender("ours, data fixed", "ours.py", "density of fixed data"),
    Contender("torch", "models_pyro.py", "density"),
    Contender("JAX", "models_numpyro.py", "density"),
)
# Of the log density: D, N, B.
SHAPES = (
    (2, 1000, 1),
    (10, 1000, 1),
    (64, 1000, 1),
    (128, 5000, 1),
    (512, 1000, 1),
    (1000, 1000, 1),
    (3, 1, 1000),
    (10, 1, 1000),
    (64, 1, 100),
)
MODELS = ("mean", "mean and covariance", "regression", "sleepstudy", "neural net", "process")
GUIDES = {"neural net": "meanfield"}
SAMPLES = {"neural net": 5, "process": 5}
# Of the host's own: the model, what its data are, its guide and samples.
OF_THE_HOST = (
    ("mean", "mean", "delta", 1),
    ("univariate normals", "mean", "host's meanfield", 10),
    ("Gluon net", "neural net", "host's meanfield", 5),
    ("sparse process", "process", "delta", 1),
)
ROWS = (1000, 10_000, 100_000, 1_000_000)
DIMS = (2, 5, 10, 20, 50, 100, 200, 500)
LEARNING_RATE = 1e-3


class Settings(NamedTuple):
    """How long to measure: rounds, and seconds of each timing; which thread counts; and what to leave out."""

    rounds: int
    seconds: float
    threads: tuple
    quick: bool


class Section(NamedTuple):
    """A section of the page: heading, text, and tables as (caption, columns, rows)."""

    heading: str
    text: str
    tables: list


class Claim(NamedTuple):
    """A sentence, the number that decides it, the bound, and whether the number must be below it."""

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

    def __init__(self, pythons: Pythons, folder, settings: Settings):
        self.pythons, self.folder, self.settings = pythons, folder, settings
        self.claims: List[Claim] = []

    def team(self, contenders, threads=1, dtype="float32"):
        """A :class:`~contest.Team` of these, for a ``with`` block."""
        return Team(contenders, self.pythons, threads, dtype)

    def race(self, team, cases):
        """Time the cases; see :meth:`~contest.Team.race`."""
        return team.race(cases, self.settings.rounds, self.settings.seconds)

    def data(self, name, **arrays):
        """The path of a file with some arrays, written if it is not there yet."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            np.savez(path, **arrays)
        return str(path)

    def claim(self, *claim, **below):
        """Note a :class:`Claim`."""
        self.claims.append(Claim(*claim, **below))


def case(model, data, guide, samples, **more):
    """What a training worker needs to know."""
    learning_rate = more.pop("learning_rate", LEARNING_RATE)
    return dict(model=model, data=data, guide=guide, samples=samples, learning_rate=learning_rate, seed=0, **more)


def training_case(bench, model, algorithm):
    """One of the six models, by MAP or SVI."""
    data = bench.data(model, **getattr(problems, model.replace(" ", "_"))())
    if algorithm == "MAP":
        return case(model, data, "delta", 1)
    return case(model, data, GUIDES.get(model, "fullrank"), SAMPLES.get(model, 10))


# ---- (a)


def density(bench):
    """Log density and gradient."""
    tables, found = [], {}
    for dtype, threads in itertools.product(("float32", "float64"), bench.settings.threads):
        rows = []
        with bench.team(DENSITY, threads, dtype) as team:
            for shape in SHAPES[:: 4 if bench.settings.quick else 1]:
                times = bench.race(team, {"data": _density_data(bench, shape, dtype)})
                found[dtype, threads, shape] = times
                rows.append([*map(str, shape), *_columns(times)])
        tables.append((f"{dtype}, {_threads(threads)}", ["D", "N", "B", *_headings(times)], rows))
    _claim_density(bench, found)
    return Section("Log density and gradient", DENSITY_TEXT, tables)


DENSITY_TEXT = """\
The sum of the log densities of N rows that share a mean and a D x D covariance, and its gradient for both; or of B
rows with a mean and a covariance each. *Ours* is a bound executor; with *data fixed* what depends on the data alone is
computed once, as in training. torch and JAX (jitted) factor the covariance and solve with all rows."""


def _density_data(bench, shape, dtype):
    dim, rows, batch = shape
    rng = np.random.default_rng(0)
    leading = (batch, 1) if batch > 1 else ()
    covariance = np.array([problems.random_covariance(rng, dim) for _ in range(batch)])
    return bench.data(
        f"density-{dim}-{rows}-{batch}-{dtype}",
        mean=rng.normal(size=leading + (dim,)).astype(dtype),
        covariance=(covariance if batch > 1 else covariance[0]).astype(dtype),
        x=rng.normal(size=(batch, 1, dim) if batch > 1 else (rows, dim)).astype(dtype),
    )


def _claim_density(bench, found):
    def worst(peer, kept):
        return min(ratio(times, peer, OURS) for shape, times in kept)

    rows = [(shape, times) for (_, _, shape), times in found.items()]
    bench.claim("log density and gradient: torch's time over ours, the smallest", worst("torch", rows), 1.0)
    kept = [row for row in rows if row[0][2] == 1 and row[0][0] >= 10]
    if kept:
        bench.claim("the same for JAX, B = 1 and D >= 10", worst("JAX", kept), 1.0)
    kept = [row for row in rows if row[0][0] == 2]
    bench.claim("our time over JAX's, D = 2, the largest", 1 / worst("JAX", kept), 2.0, below=True)


# ---- (b)


def training(bench):
    """Steps of MAP and SVI on six models."""
    tables, found = [], {}
    for threads in bench.settings.threads:
        rows = []
        with bench.team(TRAINING, threads) as team:
            for model, algorithm in itertools.product(MODELS, ("MAP", "SVI")):
                times = bench.race(team, training_case(bench, model, algorithm))
                found[threads, model, algorithm] = times
                rows.append([f"{model}, {algorithm}", *_columns(times)])
        tables.append((_threads(threads).capitalize(), ["model", *_headings(times)], rows))
    tables.append(_of_the_host(bench))
    _claim_training(bench, found)
    return Section("Steps of MAP and SVI", TRAINING_TEXT, tables)


TRAINING_TEXT = """\
One step is the objective, its gradient and Adam. The guide of SVI is a Gaussian of full rank, of the neural net
independent Gaussians; 10 draws a step, of the last two models 5. *NumPyro, update* calls the jitted `svi.update` from
Python; *NumPyro, run* is the compiled loop of `svi.run`."""


def _of_the_host(bench):
    rows = []
    with bench.team(TRAINING[:2]) as team:
        for model, data, guide, samples in OF_THE_HOST:
            path = bench.data(data, **getattr(problems, data.replace(" ", "_"))())
            times = bench.race(team, case(model, path, guide, samples))
            rows.append([f"{model}, {'MAP' if guide == 'delta' else 'SVI'}", *_columns(times)])
            bench.claim(f"{rows[-1][0]}: host's loop over ours", ratio(times, "host's loop", OURS), 10.0)
        mean = training_case(bench, "mean", "SVI")
        cases = {OURS: mean, "host's loop": {**mean, "model": "mean, host's class", "guide": "host's fullrank"}}
        times = bench.race(team, cases)
    rows.append(["mean, SVI; the host's class in the host's loop", *_columns(times)])
    bench.claim("mean, SVI: host's class and loop over ours", ratio(times, "host's loop", OURS), 20.0)
    return "The host's own, one thread", ["model", *_headings(times)], rows


def _claim_training(bench, found):
    for peer, bound in (("Pyro", 15.0), ("NumPyro, update", 1.5)):
        least = min(ratio(times, peer, OURS) for times in found.values())
        bench.claim(f"MAP and SVI: {peer} over ours, the smallest", least, bound)
    times = found[1, "mean", "SVI"]
    bench.claim("mean, SVI: ours over NumPyro, run", ratio(times, OURS, "NumPyro, run"), 2.2, below=True)


# ---- (c)


def growth(bench):
    """Seconds per step against the number of rows and of dimensions."""
    contenders = [contender for contender in TRAINING if contender.name != "Pyro, JIT"]
    reference = Contender("ours, N = 1000", "ours.py", "compiled")
    tables = []
    with bench.team([*contenders, reference]) as team:
        for algorithm in ("MAP", "SVI"):
            rows = []
            for count in ROWS[:: 2 if bench.settings.quick else 1]:
                cases = dict.fromkeys([c.name for c in contenders], _growth_case(bench, algorithm, count, 10))
                cases[reference.name] = _growth_case(bench, algorithm, 1000, 10)
                times = bench.race(team, cases)
                own = times.pop(reference.name)
                rows.append([f"{count:,}", *_columns(times)])
                _claim_growth(bench, algorithm, count, times, own)
            tables.append((f"Against N, D = 10, {algorithm}", ["N", *_headings(times)], rows))
            rows = []
            for dim in DIMS[:: 3 if bench.settings.quick else 1]:
                times = bench.race(team, {c.name: _growth_case(bench, algorithm, 1000, dim) for c in contenders})
                rows.append([str(dim), *_columns(times)])
            tables.append((f"Against D, N = 1000, {algorithm}", ["D", *_headings(times)], rows))
    return Section("Cost against N and D", GROWTH_TEXT, tables)


GROWTH_TEXT = """\
The mean of a multivariate normal and its Cholesky factor, a parameter; SVI with one draw a step. One thread."""


def _growth_case(bench, algorithm, rows, dim):
    data = bench.data(f"gaussian-{rows}-{dim}", **problems.gaussian(rows, dim))
    return case("mean and covariance", data, "delta" if algorithm == "MAP" else "fullrank", 1)


def _claim_growth(bench, algorithm, count, times, own):
    if count == ROWS[-1]:
        growth = float(np.median(times[OURS] / own))
        bench.claim(f"{algorithm}, D = 10: a step with N = {count:,} over one with 1000", growth, 1.2, below=True)
    if count >= 10_000:
        lead = ratio(times, "NumPyro, run", OURS)
        bench.claim(f"{algorithm}, D = 10, N = {count:,}: NumPyro, run over ours", lead, 1.0)


# ---- formatting


def _threads(count):
    return "one thread" if count == 1 else f"{ {2: 'two'}.get(count, count) } threads"


def _headings(times):
    return [name if name != OURS else "ours, us" for name in times]


def _columns(times: Dict[str, np.ndarray]):
    """Our time in us, and of the others the ratio to it."""
    own = 1e6 * np.median(times[OURS])
    return [_number(own)] + [f"{_number(ratio(times, name, OURS))} x" for name in times if name != OURS]


def _number(value):
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
