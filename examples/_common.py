# SPDX-License-Identifier: Apache-2.0
"""What several examples do alike: read a table, fit a model, compare with a reference, set up a picture."""

import argparse
import csv
import sys
import warnings
from pathlib import Path

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
import mxfusion_mvn  # noqa: F401

import mxnet as mx
import numpy as np
from mxfusion.inference import MAP, GradBasedInference
from quickstart_report import FAINT, INK, SETTINGS, plt

__all__ = ["FAINT", "INK", "SETTINGS", "conclude", "double", "fit", "parse", "plt", "read_table"]

DATA = Path(__file__).parent / "data"


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


def read_table(name, columns):
    """
    Some columns of a table in ``data/``.

    :param name: of the file.
    :param columns: list of names.
    :returns: array (N, len(columns)), NaN where a field is empty.
    """
    with (DATA / name).open(newline="") as file:
        return np.array([[float(row[column] or "nan") for column in columns] for row in csv.DictReader(file)])


def double(array):
    """As an NDArray of float64, which ``mx.nd.array`` alone would make float32."""
    return mx.nd.array(array, dtype="float64")


def fit(model, x, iterations, learning_rates=(0.1, 0.02, 0.005, 0.001)):
    """
    MXFusion's MAP in float64, with ever smaller steps: each run goes on from where the last one ended.

    :param model: Model whose observed variable is X.
    :param x: its data, an array.
    :param iterations: per learning rate.
    :param learning_rates: of Adam.
    :returns: the values of the model's parameters, by their Variables.
    """
    inference = GradBasedInference(MAP(model=model, observed=[model.X]), dtype="float64")
    with warnings.catch_warnings():
        # MXFusion warns when an inference makes its parameters, and when a further run() keeps them.
        for message in ("InferenceParameters has already been", "Trying to initialize the inference"):
            warnings.filterwarnings("ignore", message=message)
        for learning_rate in learning_rates:
            inference.run(X=double(x), optimizer="adam", learning_rate=learning_rate, max_iter=iterations)
    return inference.params


def conclude(deviations, picture):
    """
    Print how far off the fit is, and where the picture is.

    :param deviations: {what: (found, bound)}.
    :param picture: path of the PNG.
    :returns: the exit status, 1 if a bound is exceeded.
    """
    width = max(map(len, deviations)) + 2
    print(f"\n{'Largest deviation':<{width}}{'found':>9}{'bound':>9}")
    good = True
    for name, (found, bound) in deviations.items():
        good &= bool(found <= bound)  # not for NaN
        print(f"{name:<{width}}{found:>9.2g}{bound:>9.2g}{'' if found <= bound else '  EXCEEDED'}")
    print(f"\nThe picture is in {picture.resolve()}")
    if not good:
        print("The fit is not what it must be; try more --iterations.", file=sys.stderr)
    return 0 if good else 1
