# SPDX-License-Identifier: Apache-2.0
"""What several examples do alike: read a table, fit a model, compare with a reference, set up a picture."""

import argparse
import csv
import sys
import warnings
from pathlib import Path

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn.inference import GradBasedInference

import mxnet as mx
import numpy as np
from mxfusion.inference import MAP
from quickstart_report import FAINT, INK, SETTINGS, plt

__all__ = [
    "BLUE",
    "DTYPE",
    "FAINT",
    "INK",
    "LARGE",
    "NORMAL_90",
    "ORANGE",
    "SETTINGS",
    "compare",
    "conclude",
    "double",
    "fit",
    "parse",
    "plt",
    "read_table",
]

DATA = Path(__file__).parent / "data"
DTYPE = "float64"
NORMAL_90 = 1.6448536269514722  # sd to either side of the mean that hold 90 % of a normal
BLUE, ORANGE = "#0B5FA5", "#E66100"
LARGE = {**SETTINGS, "axes.linewidth": 0.8, "xtick.labelsize": 10, "ytick.labelsize": 10}  # for few, large panels


def parse(arguments, doc, name, iterations):
    """
    The command line of an example.

    :param arguments: list of words, or None for those of the process.
    :param doc: docstring of the example, whose first line describes it.
    :param name: of the example, and of its picture.
    :param iterations: the default per learning rate.
    :returns: namespace of iterations and output.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    about = f"per learning rate (default: {iterations})"
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


def fit(model, iterations, learning_rates=(0.1, 0.02, 0.005, 0.001), **data):
    """
    MXFusion's MAP in float64, with ever smaller steps: each run goes on from where the last one ended.

    :param model: Model.
    :param iterations: per learning rate.
    :param learning_rates: of Adam.
    :param data: array of each observed variable, by its name in the model.
    :returns: the values of the model's parameters, by their Variables.
    """
    data = {name: double(array) for name, array in data.items()}
    inference = GradBasedInference(MAP(model=model, observed=[getattr(model, name) for name in data]), dtype=DTYPE)
    with warnings.catch_warnings():
        # MXFusion warns when an inference makes its parameters, and when a further run() keeps them.
        for message in ("InferenceParameters has already been", "Trying to initialize the inference"):
            warnings.filterwarnings("ignore", message=message)
        for learning_rate in learning_rates:
            inference.run(optimizer="adam", learning_rate=learning_rate, max_iter=iterations, **data)
    return inference.params


def compare(here, reference, bound, relative=False):
    """
    A line for :func:`conclude`: two numbers, or those entries of two arrays that differ most.

    :param here: what was found.
    :param reference: what it must be.
    :param bound: of their difference.
    :param relative: whether that is relative to the reference.
    :returns: both numbers, their difference and its bound.
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
        print("The fit is not what it must be; try more --iterations.", file=sys.stderr)
    return 0 if good else 1
