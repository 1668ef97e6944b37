# SPDX-License-Identifier: Apache-2.0
"""Shared by the examples: read the command line and a table, compare with a reference, set up a picture."""

import argparse
import csv
import sys
import warnings
from pathlib import Path

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
import mxfusion_mvn  # noqa: F401

import matplotlib
import mxnet as mx
import numpy as np
from matplotlib.patches import Ellipse

matplotlib.use("Agg")  # files only: it must also run where there is no screen

import matplotlib.pyplot as plt  # noqa: E402

# MXFusion warns whenever an inference makes its parameters.
warnings.filterwarnings("ignore", message="InferenceParameters has already been")

__all__ = [
    "BLUE",
    "DTYPE",
    "FAINT",
    "INK",
    "LARGE",
    "NORMAL_90",
    "ORANGE",
    "SETTINGS",
    "STYLES",
    "compare",
    "conclude",
    "double",
    "ellipse",
    "parse",
    "plt",
    "read_table",
]

DATA = Path(__file__).parent / "data"
DTYPE = "float64"
NORMAL_90 = 1.6448536269514722  # sd to either side of the mean that hold 90 % of a normal
BLUE, ORANGE = "#0B5FA5", "#E66100"
# Told apart by the colour-blind too, and by those who print in grey.
STYLES = [("#E66100", "o"), ("#5D3A9B", "^"), ("#1A9B8C", "s")]
INK, FAINT = "#222222", "#777777"
SETTINGS = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.labelsize": 11.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9.5,
}
LARGE = {**SETTINGS, "axes.linewidth": 0.8, "xtick.labelsize": 10, "ytick.labelsize": 10}  # for few, large panels


def parse(arguments, doc, name, iterations):
    """
    The command line of an example.

    :param arguments: list of words, or None for those of the process.
    :param doc: docstring of the example, whose first line describes it.
    :param name: of the example, and of its picture.
    :param iterations: the default.
    :returns: namespace of iterations and output.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    about = f"steps of the optimizer (default: {iterations})"
    parser.add_argument("--iterations", type=int, default=iterations, help=about)
    parser.add_argument("--output", type=Path, default=Path(f"{name}.png"), help="the picture")
    return parser.parse_args(arguments)


def read_table(name, columns, kind=float):
    """
    Some columns of a table in ``data/``.

    :param name: of the file.
    :param columns: list of names.
    :param kind: of the fields, float or str.
    :returns: array (N, len(columns)), NaN (or ``"nan"``) where a field is empty.
    """
    with (DATA / name).open(newline="") as file:
        return np.array([[kind(row[column] or "nan") for column in columns] for row in csv.DictReader(file)])


def double(array):
    """As an NDArray of float64, which ``mx.nd.array`` alone would make float32."""
    return mx.nd.array(array, dtype=DTYPE)


def compare(here, reference, bound, relative=False):
    """
    A line for :func:`conclude`: two scalars, or the entries of two arrays that differ most.

    :param here: what was found.
    :param reference: what it must be.
    :param bound: of their difference.
    :param relative: whether the bound is relative to the reference.
    :returns: both entries, their difference and its bound.
    """
    here, reference = np.ravel(here), np.ravel(reference)
    deviation = np.abs(here / reference - 1) if relative else np.abs(here - reference)
    i = deviation.argmax()
    return here[i], reference[i], deviation[i], bound


def conclude(deviations, picture, reference=None):
    """
    Print how far off the fit is, and where the picture is.

    :param deviations: {what: (found, bound)}, or {what: line of :func:`compare`}.
    :param picture: path of the PNG.
    :param reference: name of what was compared with, for lines of :func:`compare`.
    :returns: the exit status, 1 if a bound is exceeded.
    """
    width = max(map(len, ["Largest deviation", *deviations])) + 2
    heading = f"{'found':>9}" if reference is None else f"{'here':>14}{reference:>14}{'off by':>9}"
    print(f"\n{'Largest deviation':<{width}}{heading}{'bound':>9}")
    good = True
    for name, (*numbers, found, bound) in deviations.items():
        within = bool(found <= bound)  # not for NaN
        good &= within
        cells = "".join(f"{round(number, 8) + 0.0:>14.8g}" for number in numbers)  # + 0.0: no -0
        print(f"{name:<{width}}{cells}{found:>9.2g}{bound:>9.2g}{'' if within else '  EXCEEDED'}")
    print(f"\nThe picture is in {picture.resolve()}")
    if not good:
        print("The fit has not converged; try more --iterations.", file=sys.stderr)
    return 0 if good else 1


def ellipse(centre, covariance, probability, **style):
    """
    The ellipse that holds this much of a bivariate normal.

    The squared radius is chi-squared with 2 degrees of freedom, whose quantile is -2 log(1 - p).
    """
    variances, directions = np.linalg.eigh(covariance)
    width, height = 2 * np.sqrt(-2 * np.log(1 - probability) * variances)
    angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
    style.setdefault("facecolor", "none")
    return Ellipse(centre, width, height, angle=angle, **style)
