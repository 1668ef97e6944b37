# SPDX-License-Identifier: Apache-2.0
"""How sleepless people slow down: correlated intercepts and slopes, checked against a published mixed model.

Eighteen people slept three hours a night, and on each of ten days their reaction time was measured. It rises, but from
different starts and at different rates. In a mixed model each person j has an intercept and a slope, drawn from a
Gaussian of all people:

    y_ij ~ N(intercept_j + slope_j * day_i, noise sd^2)
    (intercept_j, slope_j) ~ N(beta, diag(sd) R diag(sd)),    R ~ LKJ,    sd and noise sd ~ exponential

so that the ten measurements of one person borrow strength from the other 170. This script

1. approximates the joint posterior of all 42 unknowns by a full-rank Gaussian, in coordinates in which deviations and
   correlation are unconstrained, by variational inference in a compiled loop;
2. computes the exact posterior: given deviations and correlation all else is Gaussian, and these four are summed over
   on a grid;
3. compares with it, and with the estimates that are published for the R package lme4 (restricted maximum likelihood).

The posterior mean of a standard deviation is above its most likely value because it may be much larger but not much
smaller; therefore these are compared with lme4's in posterior standard deviations. The full-rank Gaussian has the means
right and is up to a fifth too sure: how well each person is known depends on how much people vary, and in a Gaussian it
cannot.

It ends with an error if they differ by more than the bounds it prints.

Run ``python examples/random_effects.py``; it takes about 10 seconds.

G. Belenky et al. (2003). Patterns of performance degradation and restoration during sleep restriction and subsequent
recovery: a sleep dose-response study. Journal of Sleep Research 12, 1-12.
D. Bates, M. Mächler, B. Bolker and S. Walker (2015). Fitting Linear Mixed-Effects Models Using lme4. Journal of
Statistical Software 67(1), 1-48.
"""

import math
import sys
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import LKJCholesky, MultivariateNormal
from mxfusion_mvn.functions import linear, scale_rows
from mxfusion_mvn.inference import CompiledLoop, GradBasedInference, create_Gaussian_fullrank, summary

import mxnet as mx
import numpy as np
from _common import BLUE, DTYPE, FAINT, INK, LARGE, ORANGE, compare, conclude, double, parse, plt, read_table
from mxfusion import Model
from mxfusion.components.distributions import Gamma
from mxfusion.inference import StochasticVariationalInference
from mxnet.lr_scheduler import CosineScheduler

FIXED, REST = ("intercept", "slope"), ("sd of intercepts", "sd of slopes", "noise sd", "correlation")
# The name of each in the summary, and the unit in which it is of order 1: 100 ms, and 100 ms in ten days.
PARAMETERS = {
    "intercept": ("beta[0]", 100.0),
    "slope": ("beta[1]", 10.0),
    "sd of intercepts": ("sd[0]", 100.0),
    "sd of slopes": ("sd[1]", 10.0),
    "noise sd": ("noise_sd", 100.0),
    "correlation": ("factor[1, 0]", 1.0),
}
UNITS = np.array([100.0, 10.0])  # of a person's intercept and slope
# By lme4, in ms and ms a day, with the standard errors of the first two.
PUBLISHED = dict(zip(PARAMETERS, (251.405, 10.467, 24.74, 5.92, 25.59, 0.07)))
PUBLISHED_ERRORS = {"intercept": 6.825, "slope": 1.546}
PRIOR_SD = 100.0  # of beta: next to nothing is known
RANGES = ((0.04, 1.0), (0.15, 2.0), (0.19, 0.36))  # of deviations and noise sd; all else is too improbable to matter
TURN = 2.1  # correlations from -tanh to tanh of this
GRID_SIZE = 20  # points in each direction
NUM_SAMPLES = 30  # draws for each gradient
SHOWN = (335, 337, 308, 370, 309, 330)  # persons
KEY = {"○ fitted alone": ORANGE, "● in a mixed model": BLUE, "+ everybody": INK}
NUM_DRAWS = 20000  # from the approximate posterior


class Estimate(NamedTuple):
    """A posterior, in ms and ms a day."""

    mean: dict  # by the names of PARAMETERS
    sd: dict
    persons: np.ndarray  # (18, 2), mean of the intercept and the slope of each
    log_evidence: float  # or the lower bound of it


def make_model(days, persons):
    """
    The mixed model.

    :param days: of each measurement, in tens, (N,).
    :param persons: whose measurement it is, integers (N,).
    :returns: Model, whose observed variable is the reaction time y (N, 1) in 100 ms.
    """
    model = Model()
    model.beta = MultivariateNormal(covariance=PRIOR_SD**2, shape=(2,), dtype=DTYPE)
    model.sd = exponential((2,))
    model.factor = LKJCholesky(shape=(2, 2), dtype=DTYPE)  # L, R = L L^T
    model.noise_sd = exponential((1, 1))
    scale_tril = scale_rows(model.factor, model.sd)
    model.persons = MultivariateNormal(
        mean=model.beta, scale_tril=scale_tril, shape=(persons.max() + 1, 2), dtype=DTYPE
    )
    design = double(np.stack([np.ones_like(days), days], axis=1))
    mean = linear(design, model.persons, groups=persons)
    model.y = MultivariateNormal(mean=mean, scale_tril=model.noise_sd, shape=(len(days), 1), dtype=DTYPE)
    return model


def exponential(shape):
    """Positive random variables of mean 1."""
    return Gamma.define_variable(alpha=double(np.ones(shape)), beta=double(np.ones(shape)), shape=shape, dtype=DTYPE)


def approximate_posterior(days, reaction, iterations):
    """By a full-rank Gaussian: reaction times (18, 10) on these days."""
    number, size = reaction.shape
    model = make_model(np.tile(days / 10, number), np.repeat(np.arange(number), size))
    # The gradient loses its noise where the approximation is exact.
    posterior = create_Gaussian_fullrank(model, [model.y], dtype=DTYPE, entropy="sticking_the_landing")
    algorithm = StochasticVariationalInference(NUM_SAMPLES, model, posterior, [model.y])
    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.05, final_lr=0.0005))
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=DTYPE)
    mx.random.seed(1)
    record = inference.run(y=reaction.reshape(-1, 1) / 100, max_iter=iterations)
    # At the end the steps are small, and the bound changes only by the noise of the draws.
    bound = -record.loss[-max(1, iterations // 10) :].mean()

    table = summary(inference, NUM_DRAWS)
    rows = {name: (table[row], unit) for name, (row, unit) in PARAMETERS.items()}
    persons = [[table[f"persons[{j}, {k}]"].mean for k in range(2)] for j in range(number)]
    return Estimate(
        {name: unit * row.mean for name, (row, unit) in rows.items()},
        {name: unit * row.sd for name, (row, unit) in rows.items()},
        UNITS * persons,
        bound,
    )


class Lines(NamedTuple):
    """A straight line for each person by least squares, and their sums: sufficient statistics of the model."""

    coefficients: np.ndarray  # (18, 2)
    centre: np.ndarray  # (2,), their mean
    scatter: np.ndarray  # (2, 2), sum of squares and products around the mean
    spread: np.ndarray  # (2, 2), covariance of a person's coefficients for a noise variance of 1
    residual: float  # sum of squares
    size: tuple  # 18, 10


def fit_lines(days, reaction):
    """Least squares for each person, in 100 ms and tens of days."""
    design = np.stack([np.ones_like(days), days / 10], axis=1)
    y = reaction / 100
    coefficients = np.linalg.lstsq(design, y.T, rcond=None)[0].T
    centre = coefficients.mean(axis=0)
    scatter = (coefficients - centre).T @ (coefficients - centre)
    residual = np.sum((y - coefficients @ design.T) ** 2)
    return Lines(coefficients, centre, scatter, np.linalg.inv(design.T @ design), residual, y.shape)


def restricted_maximum_likelihood(lines):
    """
    Estimates and standard errors, in ms and ms a day.

    As everybody was measured on the same days, it is the analysis of variance: the lines scatter around their mean with
    covariance diag(sd) R diag(sd) + noise variance * spread.
    """
    number, size = lines.size
    noise_variance = lines.residual / (number * (size - 2))
    total = lines.scatter / (number - 1)
    covariance = total - noise_variance * lines.spread
    sd = np.sqrt(np.diag(covariance))
    found = [*lines.centre, *sd, math.sqrt(noise_variance), covariance[0, 1] / sd.prod()]
    estimates = {name: unit * value for (name, (_, unit)), value in zip(PARAMETERS.items(), found)}
    return estimates, dict(zip(FIXED, UNITS * np.sqrt(np.diag(total) / number)))


def exact_posterior(lines):
    """
    Sum over a grid of deviations, noise and correlation.

    Given these the line of least squares through a person's measurements is N(beta, M), with M = own + noise variance *
    spread and own = diag(sd) R diag(sd). Then beta is N(centre, M / 18), and a person's own line is drawn from the
    centre by own M^-1 times the distance of that through the measurements. The prior of beta is as good as flat.
    """
    points, log_prior = make_grid()
    first, second, noise_sd, correlation = points
    covariance = correlation * first * second
    own = np.stack([first**2, covariance, covariance, second**2], axis=-1).reshape(-1, 2, 2)
    total = own + noise_sd[:, None, None] ** 2 * lines.spread
    log_joint = log_prior + log_likelihood(lines, total, noise_sd)
    largest = log_joint.max()
    log_evidence = largest + np.log(np.exp(log_joint - largest).sum())
    weight = np.exp(log_joint - log_evidence)

    mean = points @ weight
    variance = (points - mean[:, None]) ** 2 @ weight
    beta_variance = np.diag(np.tensordot(weight, total, 1)) / lines.size[0]
    shrink = np.tensordot(weight, own @ np.linalg.inv(total), 1)
    persons = lines.centre + (lines.coefficients - lines.centre) @ shrink.T
    units = np.array([unit for _, unit in PARAMETERS.values()])
    return Estimate(
        dict(zip(PARAMETERS, units * [*lines.centre, *mean])),
        dict(zip(PARAMETERS, units * np.sqrt([*beta_variance, *variance]))),
        UNITS * persons,
        log_evidence,
    )


def make_grid():
    """Points (4, P) in the order of REST, and the log of the prior probability (P,) of the cell around each."""
    axes = [np.geomspace(*ends, GRID_SIZE) for ends in RANGES]
    probabilities = [np.exp(-values) * values * np.log(values[1] / values[0]) for values in axes]
    turns = np.linspace(-TURN, TURN, GRID_SIZE)
    axes.append(np.tanh(turns))
    probabilities.append(0.5 * (1 - axes[-1] ** 2) * (turns[1] - turns[0]))
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    log_prior = sum(np.meshgrid(*np.log(probabilities), indexing="ij"))
    return points.reshape(4, -1), log_prior.ravel()


def log_likelihood(lines, total, noise_sd):
    """Log density (P,) of all measurements, given M (P, 2, 2) and the noise sd (P,), beta integrated out."""
    number, size = lines.size
    log_det = np.linalg.slogdet(total)[1]
    squared = np.einsum("pij,ji->p", np.linalg.inv(total), lines.scatter) + lines.residual / noise_sd**2
    of_lines = number * (2 * (size - 2) * np.log(noise_sd) + log_det - np.linalg.slogdet(lines.spread)[1])
    of_beta = log_det - 2 * np.log(number) - 4 * np.log(PRIOR_SD) - np.sum(lines.centre**2) / PRIOR_SD**2
    return 0.5 * (of_beta - of_lines - squared - number * size * math.log(2 * math.pi))


def print_table(columns):
    """Each estimate {name: (means, sds)} in two columns, which hold standard errors for those that are no posterior."""
    print(f"{'':<18}" + "".join(f"{name:>20}" for name in columns))
    for name in PARAMETERS:
        cells = [
            f"{mean[name]:>12.3f}" + (f"{sd[name]:>8.3f}" if name in sd else " " * 8) for mean, sd in columns.values()
        ]
        print(f"{name:<18}" + "".join(cells))


def draw_picture(path, days, reaction, names, lines, found):
    """
    Draw each person's line, fitted alone and in the mixed model.

    :param path: of the PNG to write.
    :param days: (10,).
    :param reaction: times (18, 10), in ms.
    :param names: list of the identifiers of the 18 persons.
    :param lines: Lines.
    :param found: Estimate.
    """
    alone = UNITS * lines.coefficients
    with plt.rc_context(LARGE):
        figure = plt.figure(figsize=(10.7, 7.2))
        draw_shrinkage(figure.add_axes([0.065, 0.085, 0.485, 0.74]), alone, names, lines, found)
        grid = figure.add_gridspec(3, 2, left=0.63, right=0.985, bottom=0.085, top=0.825, wspace=0.1, hspace=0.16)
        for place, name in zip(grid, SHOWN):
            axes, j = figure.add_subplot(place), names.index(name)
            draw_person(axes, days, reaction[j], alone[j], found.persons[j], found)
            axes.text(0.05, 0.94, f"person {name}", transform=axes.transAxes, size=10, weight="bold", va="top")
            axes.tick_params(labelbottom=place.is_last_row(), labelleft=place.is_first_col())
        axes.set_xlabel("days of little sleep", x=-0.05)
        figure.text(0.577, 0.46, "reaction time (ms)", size=11.5, rotation=90, va="center")
        figure.text(0.03, 0.95, "What the others tell about a person", size=16, weight="bold")
        words = "Reaction times of 18 people who slept three hours a night, and the line through those of each person"
        figure.text(0.03, 0.907, words, size=11)
        for place, (words, colour) in zip((0.065, 0.195, 0.365), KEY.items()):
            figure.text(place, 0.863, words, size=11, color=colour, weight="bold")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_shrinkage(axes, alone, names, lines, found):
    """Intercepts and slopes: from each person's alone to those in the mixed model, and where 90 % of people are."""
    centre = np.array([found.mean[name] for name in FIXED])
    sd, correlation = np.array([found.mean[name] for name in REST[:2]]), found.mean["correlation"]
    people = ellipse(centre, np.outer(sd, sd) * [[1, correlation], [correlation, 1]])
    axes.fill(*people, color="#EEEEEE", linewidth=0)
    for start, end in zip(alone, found.persons):
        arrow = {"arrowstyle": "-|>", "color": FAINT, "linewidth": 1.0, "shrinkA": 4, "shrinkB": 3}
        axes.annotate("", end, start, arrowprops=arrow)
    axes.plot(*alone.T, "o", color="white", markersize=6.5, markeredgecolor=ORANGE, markeredgewidth=1.6)
    axes.plot(*found.persons.T, "o", color=BLUE, markersize=6.5, markeredgewidth=0)
    axes.plot(*centre, "+", color=INK, markersize=14, markeredgewidth=2)
    for name in SHOWN:
        j = names.index(name)
        below = found.persons[j, 1] > alone[j, 1] + 0.1
        axes.annotate(str(name), alone[j], (0, -15 if below else 8), textcoords="offset points", size=10, ha="center")
    axes.text(233, 0.6, "90 % of\npeople", size=10.5, color=FAINT, ha="center")
    axes.set_xlabel("reaction time on day 0 (ms)")
    axes.set_ylabel("slowing down (ms a day)")


def ellipse(mean, covariance):
    """Points (2, 200) around 90 % of a Gaussian."""
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = math.sqrt(-2 * math.log(0.1)) * np.array([np.cos(angle), np.sin(angle)])
    return mean[:, None] + np.linalg.cholesky(covariance) @ circle


def draw_person(axes, days, reaction, alone, together, found):
    """One person's reaction times, and three lines."""
    axes.plot(days, found.mean["intercept"] + found.mean["slope"] * days, color=INK, linewidth=0.9)
    axes.plot(days, alone[0] + alone[1] * days, color=ORANGE, linewidth=1.8, linestyle=(0, (4, 2)))
    axes.plot(days, together[0] + together[1] * days, color=BLUE, linewidth=2.2)
    axes.plot(days, reaction, "o", color=INK, markersize=3.6, markeredgewidth=0)
    axes.set(xlim=(-0.5, 9.5), ylim=(185, 480), xticks=[0, 3, 6, 9])


def checks(classical, exact, found):
    """Lines for :func:`conclude`."""

    def column(values, names=PARAMETERS, units=exact.sd):
        return np.array([values[name] / units[name] for name in names])

    lines = {}
    for name, error in PUBLISHED_ERRORS.items():
        lines[f"{name}, lme4"] = compare(found.mean[name], PUBLISHED[name], 0.25 * error)
    lines["others, lme4, in posterior sd"] = compare(column(found.mean, REST), column(PUBLISHED, REST), 0.5)
    lines["means, exact, in posterior sd"] = compare(column(found.mean), column(exact.mean), 0.25)
    lines["sds, exact, relative"] = compare(column(found.sd), column(exact.sd), 0.3)
    for k, name in enumerate(FIXED):
        lines[f"{name}s of persons, exact"] = compare(found.persons[:, k], exact.persons[:, k], 0.03 * UNITS[k])
    lines["log evidence, exact"] = compare(found.log_evidence, exact.log_evidence, 1.0)
    lines["REML, lme4, relative"] = compare(
        column(classical, FIXED + REST[:3]), column(PUBLISHED, FIXED + REST[:3]), 5e-4, True
    )
    return lines


def read_reaction_times():
    """Days (10,), list of the identifiers of the 18 persons, and reaction times (18, 10)."""
    table = read_table("sleepstudy.csv", ["Reaction", "Days", "Subject"]).reshape(-1, 10, 3)
    return table[0, :, 1], [int(number) for number in table[:, 0, 2]], table[:, :, 0]


def main(arguments=None):
    """Approximate, compare and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "random_effects", iterations=3000)
    days, names, reaction = read_reaction_times()
    lines = fit_lines(days, reaction)
    classical, errors = restricted_maximum_likelihood(lines)
    exact = exact_posterior(lines)
    found = approximate_posterior(days, reaction, options.iterations)
    columns = {"lme4": (PUBLISHED, PUBLISHED_ERRORS), "REML": (classical, errors)}
    print_table({**columns, "exact": exact[:2], "full rank": found[:2]})
    draw_picture(options.output, days, reaction, names, lines, found)
    return conclude(checks(classical, exact, found), options.output, "reference")


if __name__ == "__main__":
    sys.exit(main())
