# SPDX-License-Identifier: Apache-2.0
"""Fit a multivariate normal to each of three penguin species, and check it against closed forms.

Between 2007 and 2009, 342 penguins near Palmer Station, Antarctica, had their bill, flippers and
weight measured. The measurements are correlated, differently in each species. A multivariate normal
describes this by a mean and a covariance. For each species this script

1. finds the mean and the covariance by MAP. No prior is given, so this is maximum likelihood, and
   must agree with the sample mean and covariance;
2. finds the posterior of the mean, with the covariance held at the estimate and a wide prior on the
   mean, by variational inference. It must agree with the conjugate posterior;
3. prints both beside the closed forms, and draws them.

It ends with an error if they differ by more than the bounds it prints.

Run ``python examples/quickstart.py``; it takes about 20 seconds.
"""

import csv
import sys
from pathlib import Path
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import (
    MAP,
    CompiledLoop,
    GradBasedInference,
    create_Gaussian_fullrank,
    unconstrained_gaussian,
)
from mxfusion_mvn.transformations import PositiveDefinite

import mxnet as mx
import numpy as np
from _common import conclude, parse
from mxfusion import Model, Variable
from mxfusion.inference import StochasticVariationalInference
from mxnet.lr_scheduler import CosineScheduler
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
    """The estimates of one species."""

    mean: np.ndarray
    covariance: np.ndarray
    posterior_mean: np.ndarray  # of the mean
    posterior_covariance: np.ndarray


def fit(x, iterations):
    """Both inferences: x is the data of one species (N, 4)."""
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

    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.1, final_lr=0.001))  # ever smaller steps
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=loop)
    inference.run(X=x, max_iter=iterations)
    return inference.params[model.mean].asnumpy(), inference.params[model.covariance].asnumpy()


def fit_posterior(x, mean, covariance, iterations):
    """Mean and covariance of the posterior of the mean, given the covariance of the data."""
    model = Model()
    model.N = Variable()
    model.mean = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(DIM,))
    model.X = MultivariateNormal(mean=model.mean, covariance=covariance, shape=(model.N, DIM))

    # A Gaussian with all correlations; its gradient loses its noise where it is the exact posterior.
    q = create_Gaussian_fullrank(model, [model.X], entropy="sticking_the_landing", initial_values={model.mean: mean})
    algorithm = StochasticVariationalInference(num_samples=50, model=model, posterior=q, observed=[model.X])
    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.1, final_lr=0.001))
    inference = GradBasedInference(algorithm, grad_loop=loop)
    inference.run(X=x, max_iter=iterations)
    gaussian = unconstrained_gaussian(inference)
    return gaussian.mean.asnumpy(), gaussian.covariance.asnumpy()


def closed_form(x):
    """The same in closed form."""
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


# Limited by float32: the gradients lose the noise of the draws where the posterior is exact.
BOUNDS = {
    "mean, in sd of all penguins": 0.001,
    "covariance, in sd^2 of all penguins": 0.001,
    "posterior mean, in posterior sd": 0.001,
    "posterior sd, relative": 0.001,
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
    options = parse(arguments, __doc__, "quickstart", iterations=300)
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
