# SPDX-License-Identifier: Apache-2.0
"""Fit a multivariate normal to each of three penguin species, and check it against closed forms.

Between 2007 and 2009, 342 penguins near Palmer Station, Antarctica, had their bill, flippers and
weight measured. The measurements hang together, and differently so in each species. A multivariate
normal says how, by a mean and a covariance. For each species this script

1. finds the mean and the covariance, by MXFusion's MAP. No prior is given, so this is maximum
   likelihood, and must be the sample mean and covariance;
2. asks how well the mean is known: with the covariance held at what was found and a wide prior on
   the mean, variational inference finds the mean's posterior, which must be the conjugate one;
3. prints both beside what they must be, and draws them.

It ends with an error if they differ by more than the bounds it prints.

Run ``python examples/quickstart.py``; it takes about 20 seconds.
"""

import csv
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import GradBasedInference
from mxfusion_mvn.transformations import LowerCholesky, PositiveDefinite

import mxnet as mx
import numpy as np
from _common import conclude, parse
from mxfusion import Model, Variable
from mxfusion.inference import MAP, StochasticVariationalInference
from mxfusion.models import Posterior
from quickstart_report import draw_picture, print_table

DATA = Path(__file__).parent / "data" / "penguins.csv"
COLUMNS = {
    "bill_len": "bill length (mm)",
    "bill_dep": "bill depth (mm)",
    "flipper_len": "flipper length (mm)",
    "body_mass": "body mass (g)",
}
DIM = len(COLUMNS)
PRIOR_VARIANCE = 100.0  # of the mean, when all penguins together have variance 1


class Estimate(NamedTuple):
    """What is known about one species."""

    mean: np.ndarray
    covariance: np.ndarray
    posterior_mean: np.ndarray  # of the mean
    posterior_covariance: np.ndarray


def fit(x, iterations):
    """Both inferences, by MXFusion: x is the data of one species (N, 4)."""
    mean, covariance = fit_covariance(x, iterations)
    return Estimate(mean, covariance, *fit_posterior(x, mean, covariance, iterations))


def fit_covariance(x, iterations):
    """Maximum likelihood of the mean and the covariance."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(DIM,), initial_value=mx.nd.zeros(DIM))
    # The optimizer may step wherever it likes: the transformation keeps this positive definite.
    model.covariance = Variable(shape=(DIM, DIM), transformation=PositiveDefinite(), initial_value=mx.nd.eye(DIM))
    # One mean and one covariance for all N rows; nothing has to be repeated.
    model.X = MultivariateNormal(mean=model.mean, covariance=model.covariance, shape=(model.N, DIM))

    inference = GradBasedInference(MAP(model=model, observed=[model.X]))
    run(inference, x, learning_rates=(0.1, 0.02, 0.005), iterations=iterations)
    return inference.params[model.mean].asnumpy(), inference.params[model.covariance].asnumpy()


def fit_posterior(x, mean, covariance, iterations):
    """Mean and covariance of the mean's posterior, when the data have this covariance."""
    model = Model()
    model.N = Variable()
    model.mean = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(DIM,))
    model.X = MultivariateNormal(mean=model.mean, covariance=covariance, shape=(model.N, DIM))

    q = Posterior(model)
    location = Variable(shape=(DIM,), initial_value=mx.nd.array(mean))
    factor = Variable(shape=(DIM, DIM), transformation=LowerCholesky(), initial_value=0.1 * mx.nd.eye(DIM))
    q.mean.set_prior(MultivariateNormal(mean=location, scale_tril=factor))

    # Many samples cost little, for they share one factorisation, and make the gradients calm.
    algorithm = StochasticVariationalInference(num_samples=200, model=model, posterior=q, observed=[model.X])
    inference = GradBasedInference(algorithm)
    run(inference, x, learning_rates=(0.02, 0.005, 0.001, 0.0002), iterations=iterations)
    scale_tril = inference.params[factor].asnumpy()
    return inference.params[location].asnumpy(), scale_tril @ scale_tril.T


def run(inference, x, learning_rates, iterations):
    """Take ever smaller steps: each run goes on from where the last one ended."""
    for learning_rate in learning_rates:
        inference.run(X=mx.nd.array(x), optimizer="adam", learning_rate=learning_rate, max_iter=iterations)


def closed_form(x):
    """What :func:`fit` must find."""
    mean, covariance = x.mean(axis=0), np.cov(x.T, ddof=0)
    information = len(x) * np.linalg.inv(covariance)
    posterior_covariance = np.linalg.inv(np.eye(DIM) / PRIOR_VARIANCE + information)
    return Estimate(mean, covariance, posterior_covariance @ information @ mean, posterior_covariance)


def deviations(fitted, exact):
    """How far off the fit is, for each line of :data:`BOUNDS`."""
    sd = standard_deviations(exact.posterior_covariance)
    return np.array(
        [
            np.abs(fitted.mean - exact.mean).max(),
            np.abs(fitted.covariance - exact.covariance).max(),
            np.abs((fitted.posterior_mean - exact.posterior_mean) / sd).max(),
            np.abs(standard_deviations(fitted.posterior_covariance) / sd - 1).max(),
        ]
    )


# The first two are deterministic, and limited by float32; the others by the noise of sampling.
BOUNDS = {
    "mean, in sd of all penguins": 0.001,
    "covariance, in sd^2 of all penguins": 0.001,
    "posterior mean, in posterior sd": 0.1,
    "posterior sd, relative": 0.03,
}


def standard_deviations(covariance):
    """Square roots of the diagonal."""
    return np.sqrt(np.diag(covariance))


def read_penguins(path):
    """Arrays (N, 4), one per species; penguins with a missing measurement are left out."""
    penguins = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if all(row[column] for column in COLUMNS):
                measured = [float(row[column]) for column in COLUMNS]
                penguins.setdefault(row["species"], []).append(measured)
    return {species: np.array(penguins[species]) for species in sorted(penguins)}


def in_units(estimate, centre, scale):
    """Undo the standardisation, (measured - centre) / scale."""
    squared = np.outer(scale, scale)
    return Estimate(
        centre + scale * estimate.mean,
        squared * estimate.covariance,
        centre + scale * estimate.posterior_mean,
        squared * estimate.posterior_covariance,
    )


def main(arguments=None):
    """Fit, print and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "quickstart", iterations=120)
    # MXFusion warns when an inference makes its parameters, and when a further run() keeps them.
    for message in ("InferenceParameters has already been", "Trying to initialize the inference"):
        warnings.filterwarnings("ignore", message=message)
    mx.random.seed(1)

    data = read_penguins(DATA)
    everyone = np.concatenate(list(data.values()))
    # One learning rate suits all measurements only if they have one scale.
    centre, scale = everyone.mean(axis=0), everyone.std(axis=0)
    labels = list(COLUMNS.values())
    fits, exacts, worst = {}, {}, np.zeros(len(BOUNDS))
    for species, measured in data.items():
        x = (measured - centre) / scale
        fitted, exact = fit(x, options.iterations), closed_form(x)
        worst = np.maximum(worst, deviations(fitted, exact))
        fits[species] = in_units(fitted, centre, scale)
        exacts[species] = in_units(exact, centre, scale)
        print_table(f"{species} ({len(x)})", labels, fits[species], exacts[species])

    draw_picture(options.output, labels, data, fits, exacts)
    return conclude(dict(zip(BOUNDS, zip(worst, BOUNDS.values()))), options.output)


if __name__ == "__main__":
    sys.exit(main())
