# SPDX-License-Identifier: Apache-2.0
"""What an evaluation and a step take: three sections of docs/speed.md."""

import itertools

import numpy as np
import problems
from contest import Contender, ratio
from speed_setting import (
    EXECUTOR,
    JIT,
    LOOP,
    OURS,
    PYRO,
    RUN,
    TRAINING,
    UPDATE,
    WITHOUT_ENGINE,
    Section,
    case,
    columns,
    headings,
    threads_in_words,
    training_of,
)

FIXED = "ours, data fixed"
DENSITY = (
    Contender(OURS, "ours.py", "density", process=OURS),
    Contender(FIXED, "ours.py", "density of fixed data", process=OURS),
    Contender(EXECUTOR, "ours.py", "density", environment=WITHOUT_ENGINE),
    Contender("torch", "models_pyro.py", "density"),
    Contender("JAX", "models_numpyro.py", "density"),
)
# D, N, B
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
MORE_MODELS = (
    "eight schools",
    "conjugate normal",
    "mixture",
    "LKJ hierarchy",
    "factor model",
    "Student t",
    "logistic",
    "volatility",
)
GUIDES = {"neural net": "meanfield", "volatility": "meanfield"}
SAMPLES = {"neural net": 5, "process": 5}
# Of the host's own: the model, what its data are, its guide and samples.
OF_THE_HOST = (
    ("mean", "mean", "delta", 1),
    ("univariate normals", "mean", "host's meanfield", 10),
    ("Gluon net", "neural net", "host's meanfield", 5),
    ("sparse process", "process", "delta", 1),
)
EXPLAINED = (
    ("mean", "MAP"),
    ("regression", "SVI"),
    ("sleepstudy", "SVI"),
    ("process", "SVI"),
    ("conjugate normal", "MAP"),
    ("Student t", "MAP"),
)
ROWS = (1000, 10_000, 100_000, 1_000_000)
DIMS = (2, 10, 50, 100, 200, 500)

DENSITY_TEXT = """\
The sum of the log densities of N rows that share a mean and a D x D covariance, and its gradient for both; or of B
rows with a mean and a covariance each. *Ours* is the program that `CompiledLoop` would run by the native engine, with
rows that change from one evaluation to the next; where *data* are *fixed*, as in training, what depends on them alone
is computed once. *MXNet's executor* runs the same program as *ours* without the engine, as where it was not built.
torch and JAX (jitted) factor the covariance and solve with all rows. Where all matrices are small, ours keeps MXNet's
OpenBLAS to one thread, as `CompiledLoop` does."""

TRAINING_TEXT = """\
One step is the objective, its gradient and Adam. The guide of SVI is a Gaussian of full rank, of the neural net and of
volatility independent Gaussians; 10 draws a step, of the neural net and the process 5. *MXNet's executor* is
`CompiledLoop` without the native engine (`MXFUSION_MVN_NATIVE=0`), as where that was not built; a model that the engine
cannot run takes it in *ours*, too. *NumPyro, update* calls the jitted `svi.update` from Python; *NumPyro, run* is the
compiled loop of `svi.run`. MXFusion's loop and Pyro's JIT take part in six models only, to keep this short."""

OPERATORS_TEXT = """\
What `CompiledLoop.explain()` says of some models. One thread. Operators are MXNet's, as the model calls them and as
they are left after simplification; times are those of the native engine's instructions, each run by itself, so that
they add up to a step only roughly, and without the draws of normals. An instruction is a formula of each entry of an
array (`a`, `b` and `c` are its inputs, `s` a scalar; `a` alone copies), a `sum` of entries or of their products, a
`move` of entries to other places, a `cast`, a `product` of matrices, a triangular `solve`, or a Cholesky `factor`."""

GROWTH_TEXT = """\
The mean of a multivariate normal and its Cholesky factor, a parameter; SVI with one draw a step. One thread."""


def density(bench):
    """Log density and gradient."""
    tables, found = [], {}
    for dtype, threads in itertools.product(("float32", "float64"), bench.settings.threads):
        rows = []
        with bench.team(DENSITY, threads, dtype) as team:
            for shape in bench.some(SHAPES, 4):
                times = bench.race_all(team, {"data": _density_data(bench, shape, dtype)})
                rows.append([*map(str, shape), *columns(times)])
                found[f"{shape}, {dtype}, {threads_in_words(threads)}"] = times
        tables.append((f"{dtype}, {threads_in_words(threads)}", ["D", "N", "B", *headings(times)], rows))
    _claim_density(bench, found)
    return Section("Log density and gradient", DENSITY_TEXT, tables)


def _density_data(bench, shape, dtype):
    dim, rows, batch = shape

    def make():
        rng = np.random.default_rng(0)
        covariance = np.array([problems.random_covariance(rng, dim) for _ in range(batch)])
        mean = rng.normal(size=(batch, 1, dim) if batch > 1 else (dim,))
        x = rng.normal(size=(batch, 1, dim) if batch > 1 else (rows, dim))
        arrays = {"mean": mean, "covariance": covariance if batch > 1 else covariance[0], "x": x}
        return {name: array.astype(dtype) for name, array in arrays.items()}

    return bench.data("-".join(map(str, ("density", *shape, dtype))), make)


def _claim_density(bench, found):
    for other, bound in (("torch", 2.0), ("JAX", 1.2), (EXECUTOR, 1.0)):
        bench.claim_least(f"Log density and gradient: {other} / ours", found, other, OURS, bound)


def training(bench):
    """Steps of MAP and SVI on all models."""
    tables, found = [], {}
    more = training_of(OURS, EXECUTOR, PYRO, UPDATE, RUN)
    for models, contenders, title in ((MODELS, TRAINING, "Six models"), (MORE_MODELS, more, "Models of other kinds")):
        for threads in bench.settings.threads:
            caption = f"{title}, {threads_in_words(threads)}"
            tables.append((caption, *_steps(bench, models, contenders, threads, found)))
    tables.append(_of_the_host(bench))
    smallest = {label: times for label, times in found.items() if label.startswith("mean, MAP")}
    bench.claim_least("Mean, MAP: NumPyro, run / ours", smallest, RUN, OURS, 6.0)
    for other, bound in ((RUN, 1.3), (UPDATE, 1.5), (PYRO, 5.0)):
        bench.claim_least(f"All models: {other} / ours", found, other, OURS, bound)
    return Section("Steps of MAP and SVI", TRAINING_TEXT, tables)


def _steps(bench, models, contenders, threads, found):
    """The columns and the rows of a table; the times by label are added to those that were found."""
    rows = []
    with bench.team(contenders, threads) as team:
        for model, algorithm in itertools.product(models, ("MAP", "SVI")):
            times = bench.race_all(team, _training_case(bench, model, algorithm))
            rows.append([f"{model}, {algorithm}", *columns(times)])
            found[f"{model}, {algorithm}, {threads_in_words(threads)}"] = times
    return ["model", *headings(times)], rows


def _training_case(bench, model, algorithm):
    if algorithm == "MAP":
        return case(model, bench.problem(model), "delta", 1)
    return case(model, bench.problem(model), GUIDES.get(model, "fullrank"), SAMPLES.get(model, 10))


def _of_the_host(bench):
    rows = []
    with bench.team(training_of(OURS, LOOP)) as team:
        for model, data, guide, samples in OF_THE_HOST:
            times = bench.race_all(team, case(model, bench.problem(data), guide, samples))
            rows.append([f"{model}, {'MAP' if guide == 'delta' else 'SVI'}", *columns(times)])
            bench.claim(f"{rows[-1][0]}: MXFusion's loop / ours", ratio(times, LOOP, OURS), 10.0)
        mean = _training_case(bench, "mean", "SVI")
        cases = {OURS: mean, LOOP: {**mean, "model": "mean, host's class", "guide": "host's fullrank"}}
        times = bench.race(team, cases)
    rows.append(["mean, SVI; for MXFusion with its own class", *columns(times)])
    bench.claim("Mean, SVI: MXFusion's class and loop / ours", ratio(times, LOOP, OURS), 20.0)
    return "Beside MXFusion alone, one thread", ["model", *headings(times)], rows


def operators(bench):
    """Where our time goes, operator by operator."""
    texts = [OPERATORS_TEXT]
    with bench.team(training_of(OURS)) as team:
        for model, algorithm in EXPLAINED:
            explained = team.explain(OURS, _training_case(bench, model, algorithm))
            texts.append(f"\n### {model.capitalize()}, {algorithm}\n\n```text\n{explained}\n```")
    return Section("What a step is made of", "\n".join(texts), [])


def growth(bench):
    """Seconds per step against the number of rows and of dimensions."""
    contenders = [contender for contender in TRAINING if contender.name != JIT]
    reference = Contender("ours, N = 1000", "ours.py", "compiled")
    tables = []
    with bench.team([*contenders, reference]) as team:
        for algorithm in ("MAP", "SVI"):
            tables.append(_against_rows(bench, team, reference.name, algorithm))
            tables.append(_against_dim(bench, team, reference.name, algorithm))
    return Section("Cost against N and D", GROWTH_TEXT, tables)


def _against_rows(bench, team, reference, algorithm):
    rows = []
    for count in bench.some(ROWS, 3):
        cases = dict.fromkeys(team.names, _growth_case(bench, algorithm, count, 10))
        cases[reference] = _growth_case(bench, algorithm, ROWS[0], 10)
        times = bench.race(team, cases)
        own = times.pop(reference)
        rows.append([f"{count:,}", *columns(times)])
        if count >= 10_000:
            lead = ratio(times, RUN, OURS)
            bench.claim(f"{algorithm}, D = 10, N = {count:,}: NumPyro, run / ours", lead, 1.0)
    grown = float(np.median(times[OURS] / own))
    bench.claim(f"{algorithm}, D = 10: ours with N = {count:,} / ours with {ROWS[0]:,}", grown, 1.2, below=True)
    return f"Against N, D = 10, {algorithm}", ["N", *headings(times)], rows


def _against_dim(bench, team, reference, algorithm):
    rows = []
    for dim in bench.some(DIMS, 2):
        names = [name for name in team.names if name != reference]
        times = bench.race(team, dict.fromkeys(names, _growth_case(bench, algorithm, 1000, dim)))
        rows.append([str(dim), *columns(times)])
    return f"Against D, N = 1000, {algorithm}", ["D", *headings(times)], rows


def _growth_case(bench, algorithm, rows, dim):
    return case("mean and covariance", bench.gaussian(rows, dim), "delta" if algorithm == "MAP" else "fullrank", 1)
