# SPDX-License-Identifier: Apache-2.0
"""The relative error of the log pdf against 50 digits, beside that of other libraries. Writes docs/accuracy.md.

Run by `make accuracy`. The other libraries run in another process, by the Python named on the command line.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mxfusion_mvn import Gaussian, __version__

import mxnet as mx
import numpy as np

from helpers.fifty_digits import DRAWS, FORMS, inputs, log_pdf, relative_error

CONDITIONS = {"float32": 10.0 ** np.arange(0, 7, 2), "float64": 10.0 ** np.arange(0, 15, 2)}
DIMS = (2, 10, 50)
REPLICATES = 20
PEERS = ("torch", "NumPyro", "SciPy", "SciPy (Cholesky)")
HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "accuracy.md"

INTRODUCTION = """\
# How accurate the log pdf is

`make accuracy` writes this page; no number on it is typed by hand. It took mxfusion-mvn {version} on MXNet {mxnet}, and
{versions}.

Each row is {replicates} random problems: a covariance with a random orthogonal basis and eigenvalues in geometric
progression around 1, of the given condition number (for a precision, the precision has such eigenvalues; for a factor,
the covariance that it stands for), a random mean, and a value, *drawn from the distribution* or *generic*: the
mean plus independent standard normals. All are rounded to the dtype **first**; the reference is the log pdf of the
rounded numbers, by mpmath with 50 digits. So the tables show the error of the computation alone: the
median and, in brackets, the largest relative error. `refused` means that the library raises an error for most of the
problems of the row; where it refuses fewer, the largest error says so.

The last column compares medians. *Below* and *above* compare our error with the best of the others. *Level* means that
the difference is not significant: our median is at most one unit in the last place of a result ({eps32:.1e} in float32,
{eps64:.1e} in float64), where the roundings of a sum of D terms decide, or equal to the best.
"""

EXPLANATION = """\
## How each of them computes

- **ours**: {ours}
- **torch**, **NumPyro**: a Cholesky factor and a triangular solve, all in the dtype of the inputs.
- **SciPy**: float64 always, also for float32 inputs, and its result is float64. To be compared in a float32 program,
  its result is rounded to float32 in these tables; `SciPy, unrounded` is the number it returns. For a covariance it
  takes eigenvalues and refuses the matrix if one is below 1e6 machine epsilons times the largest.
  *SciPy (Cholesky)* is what it offers beyond that: the user factors the matrix in float64 and passes
  `Covariance.from_cholesky`. The two columns are the same for a precision and for a factor.

In the float32 rows libraries that factor in float64 are compared with libraries that factor in float32. The former are
exact to the last digit of float32; the latter lose as many digits as the condition number has. This is a choice of the
library, which costs time, not a better use of float32.
"""

# Why a median can be above the best one; used only where one is.
ARITHMETIC = "Both round a result that was computed in float64."
FACTORING = """\
All factor the same matrix with the same backward error; what differs is the BLAS, the order of its sums, and chance."""
SUBSTITUTION = """\
Nothing is factored. All round the difference of value and mean and do the same substitution; what differs is the
  BLAS, the order of its sums, and chance."""
OURS = """\
float32 NDArrays are computed in float64 and the result is rounded to float32, except while
  training (`autograd.record()`), where speed counts. Of a covariance or precision in
  float64, wherever a pivot of the Cholesky factor has lost two bits or more, a second factor makes up for the rounding
  of the first (`mxfusion_mvn/linalg/refinement.py`); that takes the error from the condition number to its square root.
  Symbols have neither dtype nor values when the graph is built: there it is one Cholesky factor, in the dtype of the
  inputs, as with torch and NumPyro. For a factor that is given: a triangular solve."""


def cells():
    """Of every row of every table, (form, draw, dtype, D, condition)."""
    return [
        (form, draw, dtype, dim, condition)
        for form in FORMS
        for draw in DRAWS
        for dtype, conditions in CONDITIONS.items()
        for dim in DIMS
        for condition in conditions
    ]


def name_of(cell):
    """A cell as a key of the files that go to and fro; it starts with the form."""
    return "/".join(str(part) for part in cell)


def by_others(python, problems):
    """The results of the other libraries and their versions, computed by another Python."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "inputs.npz"), Path(folder, "results.npz")
        arrays = {
            f"{name_of(cell)}/{key}": array
            for cell, problem in problems.items()
            for key, array in zip(("mean", "matrix", "value"), problem)
        }
        np.savez(given, **arrays)
        subprocess.run([python, str(HERE / "accuracy_peers.py"), str(given), str(found)], check=True)
        results = dict(np.load(found))
    return results, results.pop("versions")


def by_ours(form, dtype, problem):
    """Our results for the problems of a cell, one at a time, in float64."""
    found = []
    for row in zip(*problem):
        mean, matrix, value = (mx.nd.array(array, dtype=dtype) for array in row)
        found.append(np.float64(Gaussian(mean, **{form: matrix}).log_pdf(value).asscalar()))
    return np.array(found)


def errors(cell, problem, results):
    """The relative errors (REPLICATES,) of each library in a cell, by name; infinite where it refuses."""
    form, _, dtype = cell[:3]
    exact = [log_pdf(value, mean, matrix, form) for mean, matrix, value in zip(*problem)]
    found = {"ours": by_ours(form, dtype, problem)}
    found.update({peer: results[f"{name_of(cell)}/{peer}"].astype(dtype) for peer in PEERS})
    if dtype == "float32":
        found["SciPy, unrounded"] = results[f"{name_of(cell)}/SciPy"]
    return {who: np.array([relative_error(*pair) for pair in zip(got, exact)]) for who, got in found.items()}


def verdict(dtype, found):
    """Where our median stands against the best of the others: below, level or above."""
    ours, best = np.median(found["ours"]), min(np.median(found[peer]) for peer in PEERS)
    if ours <= np.finfo(dtype).eps or ours == best:
        return "level" if best <= np.finfo(dtype).eps or ours == best else "below"
    return "below" if ours < best else "above"


def entry(found):
    """The text of a cell of a table."""
    median, largest = np.median(found), found.max()
    if np.isinf(median):
        return "refused"
    return f"{median:.1e} ({'refused' if np.isinf(largest) else format(largest, '.1e')})"


def table(form, draw, dtype, measured):
    """The rows of one form, draw and dtype."""
    rows = {cell: found for cell, found in measured.items() if cell[:3] == (form, draw, dtype)}
    columns = list(next(iter(rows.values())))
    yield f"\n### {form}, {draw}, {dtype}\n"
    yield " | ".join(["| D", "condition", *columns, "ours is |"])
    yield "|--:|--:|" + "--:|" * len(columns) + ":--|"
    for (*_, dim, condition), found in rows.items():
        entries = [entry(found[column]) for column in columns]
        yield " | ".join([f"| {dim}", f"{condition:.0e}", *entries, verdict(dtype, found) + " |"])


def summary(measured):
    """How many rows of each form and dtype are below, level and above, and why any is above."""
    yield "\n## Where ours stands\n"
    yield "| form | dtype | below | level | above | largest ratio of our median to the best, where above |"
    yield "|:--|:--|--:|--:|--:|--:|"
    reasons = []
    for form in FORMS:
        for dtype in CONDITIONS:
            rows = {cell: found for cell, found in measured.items() if (cell[0], cell[2]) == (form, dtype)}
            verdicts = {cell: verdict(dtype, found) for cell, found in rows.items()}
            above = [cell for cell, word in verdicts.items() if word == "above"]
            ratio = f"{max(_ratio(measured[cell]) for cell in above):.1f}" if above else ""
            counts = Counter(verdicts.values())
            yield f"| {form} | {dtype} | {counts['below']} | {counts['level']} | {counts['above']} | {ratio} |"
            if above:
                reasons.append(f"- **{form}, {dtype}**. {reason(form, dtype)}")
    if reasons:
        yield "\nWhy some are above; the tables say which:\n"
        yield from reasons


def reason(form, dtype):
    """Why a median of a form and dtype can be above the best one."""
    if dtype == "float32":
        return ARITHMETIC
    return SUBSTITUTION if form == "scale_tril" else FACTORING


def _ratio(found):
    best = min(np.median(found[peer]) for peer in PEERS)
    # A best median of 0 is a correctly rounded result, not a better method.
    resolution = np.finfo("float64").eps / 2
    return np.median(found["ours"]) / max(best, resolution)


def page(measured, versions):
    """The text of docs/accuracy.md."""
    yield INTRODUCTION.format(
        version=__version__,
        mxnet=mx.__version__,
        versions=", ".join(versions),
        replicates=REPLICATES,
        eps32=np.finfo("float32").eps,
        eps64=np.finfo("float64").eps,
    ).rstrip()
    yield from summary(measured)
    yield "\n" + EXPLANATION.format(ours=OURS).rstrip()
    yield "\n## The tables"
    for form in FORMS:
        for draw in DRAWS:
            for dtype in CONDITIONS:
                yield from table(form, draw, dtype, measured)


def main(python):
    """Measure everything and write the page."""
    rng = np.random.default_rng(20240229)
    problems = {cell: inputs(rng, *cell, REPLICATES) for cell in cells()}
    results, versions = by_others(python, problems)
    measured = {cell: errors(cell, problem, results) for cell, problem in problems.items()}
    PAGE.write_text("\n".join(page(measured, versions)) + "\n")
    print("\n".join(summary(measured)))
    print(f"\nWritten: {PAGE.name}")


if __name__ == "__main__":
    main(sys.argv[1])
