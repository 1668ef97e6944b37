# SPDX-License-Identifier: Apache-2.0
"""What a mean-field posterior gets wrong, shown on a regression whose posterior is known.

Ten measurements were taken of 442 patients with diabetes, six of them from blood serum, and a year later the
progression of the disease was measured. In a linear regression with known noise and a Gaussian prior

    y = x . w + noise,    w ~ N(0, prior variance * I),    noise ~ N(0, noise variance),

the posterior of the ten weights is a Gaussian with strong correlations: the serum measurements carry nearly the same
information, so sums of their weights are known better than single weights. This script approximates it by

1. a mean-field Gaussian, in which the weights are independent;
2. Gaussians whose covariance is diagonal plus low rank, and a full-rank Gaussian, all by variational inference in a
   compiled loop, as the first;
3. Laplace's approximation at the mode;

and compares them with the exact posterior: means, standard deviations, correlations and the evidence. Full rank and
Laplace must find it. The best mean-field Gaussian is also known: its mean is exact, and the variance of each weight is
the conditional variance given all others.

It ends with an error if they differ by more than the bounds it prints.

Run ``python examples/bayesian_linear_regression.py``; it takes about 20 seconds, and needs scikit-learn.

B. Efron, T. Hastie, I. Johnstone and R. Tibshirani (2004). Least Angle Regression. Annals of Statistics 32(2), 407-499.
"""

import sys
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    MAP,
    CompiledLoop,
    GradBasedInference,
    LaplaceApproximation,
    Plateau,
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
    unconstrained_gaussian,
)

import mxnet as mx
import numpy as np
from _common import BLUE, DTYPE, FAINT, INK, LARGE, NORMAL_90, ORANGE, compare, conclude, double, parse, plt
from mxfusion import Model
from mxfusion.inference import StochasticVariationalInference
from mxnet.lr_scheduler import PolyScheduler

try:
    from sklearn.datasets import load_diabetes
except ImportError:
    sys.exit("This example takes its data from scikit-learn, which is not installed; run: pip install scikit-learn")

NAMES = {
    "age": "age",
    "sex": "sex",
    "bmi": "body mass index",
    "bp": "blood pressure",
    "s1": "total cholesterol",
    "s2": "LDL cholesterol",
    "s3": "HDL cholesterol",
    "s4": "total / HDL",
    "s5": "log triglycerides",
    "s6": "glucose",
}
DIM = len(NAMES)
PAIR = (4, 5)  # the weights that are drawn against each other
PRIOR_VARIANCE = 1.0  # of the weights of measurements with variance 1, for a progression with variance 1
RANKS = (1, 3)
NUM_SAMPLES = 30  # draws for each gradient
GREY, PURPLE = "#E2E2E2", "#5D3A9B"
LOOKS = {"mean-field": (ORANGE, "o"), "rank 1": (PURPLE, "^"), "full rank": (BLUE, "s")}  # of those that are drawn
REACH = np.sqrt(-2 * np.log(0.1))  # of the 90 % ellipses, in sd


class Gaussian(NamedTuple):
    """A posterior of the weights, exact or approximate."""

    mean: np.ndarray  # (10,)
    covariance: np.ndarray  # (10, 10)
    log_evidence: float  # or the lower bound of it

    @property
    def sd(self):
        """Of each weight."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def correlations(self):
        """Of all pairs of weights."""
        return (self.covariance / np.outer(self.sd, self.sd))[np.triu_indices(DIM, 1)]


def make_model(x, noise_variance):
    """The regression: one row of x (N, 10) for each patient."""
    model = Model()
    model.weights = MultivariateNormal(covariance=PRIOR_VARIANCE, shape=(DIM,), dtype=DTYPE)
    mean = linear(double(x), model.weights)
    model.y = MultivariateNormal(mean=mean, covariance=noise_variance, shape=(len(x), 1), dtype=DTYPE)
    return model


def approximate(model, posterior, y, iterations):
    """The inference of a posterior, and the evidence lower bound it arrived at."""
    mx.random.seed(1)
    algorithm = StochasticVariationalInference(NUM_SAMPLES, model, posterior, [model.y])
    loop = CompiledLoop(schedule=PolyScheduler(iterations, base_lr=0.1, final_lr=0.0002, pwr=2))
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=DTYPE)
    record = inference.run(y=y, max_iter=iterations)
    # At the end the steps are small, and the bound changes only by the noise of the draws.
    return inference, -record.loss[-max(1, iterations // 10) :].mean()


def laplace_approximation(model, y):
    """The Gaussian at the mode, to which MAP comes near and the approximation itself goes on."""
    loop = CompiledLoop(stop=Plateau(window=25))
    inference = GradBasedInference(MAP(model, [model.y]), grad_loop=loop, dtype=DTYPE)
    inference.run(y=y, learning_rate=0.05, max_iter=1000)
    return LaplaceApproximation(inference)


def approximations(x, y, noise_variance, iterations):
    """All of them, {name: Gaussian}."""
    model = make_model(x, noise_variance)
    # The gradient loses its noise where the approximation is exact.
    options = {"observed": [model.y], "dtype": DTYPE, "entropy": "sticking_the_landing"}
    posteriors = {"mean-field": create_Gaussian_meanfield(model, **options)}
    for rank in RANKS:
        posteriors[f"rank {rank}"] = create_Gaussian_lowrank(model, rank=rank, **options)
    posteriors["full rank"] = create_Gaussian_fullrank(model, **options)

    found = {}
    for name, posterior in posteriors.items():
        inference, bound = approximate(model, posterior, y, iterations)
        weights = unconstrained_gaussian(inference, model.weights if name == "mean-field" else 0)
        found[name] = Gaussian(weights.mean.asnumpy(), weights.covariance.asnumpy(), bound)
    laplace = laplace_approximation(model, y)
    found["Laplace"] = Gaussian(laplace.mean, laplace.covariance, laplace.log_evidence)
    return found


def exact_posterior(x, y, noise_variance):
    """The conjugate posterior of x (N, 10) and y (N, 1), and its log evidence."""
    precision = np.eye(DIM) / PRIOR_VARIANCE + x.T @ x / noise_variance
    covariance = np.linalg.inv(precision)
    mean = covariance @ x.T @ y[:, 0] / noise_variance
    marginal = noise_variance * np.eye(len(x)) + PRIOR_VARIANCE * x @ x.T
    log_det, squared = np.linalg.slogdet(2 * np.pi * marginal)[1], y[:, 0] @ np.linalg.solve(marginal, y[:, 0])
    return Gaussian(mean, covariance, -0.5 * (log_det + squared))


def divergence(approximation, exact):
    """Kullback-Leibler divergence from the exact Gaussian, which is the evidence less the lower bound."""
    ratio = np.linalg.solve(exact.covariance, approximation.covariance)
    difference = approximation.mean - exact.mean
    squared = difference @ np.linalg.solve(exact.covariance, difference)
    return 0.5 * (np.trace(ratio) - DIM - np.linalg.slogdet(ratio)[1] + squared)


def best_mean_field(exact):
    """The Gaussian with independent weights that has the greatest lower bound."""
    covariance = np.diag(1 / np.diag(np.linalg.inv(exact.covariance)))
    best = Gaussian(exact.mean, covariance, np.nan)
    return best._replace(log_evidence=exact.log_evidence - divergence(best, exact))


def read_patients():
    """Measurements (442, 10) and progression (442, 1), with mean 0 and variance 1."""
    x, y = load_diabetes(return_X_y=True)
    return (x - x.mean(axis=0)) / x.std(axis=0), ((y - y.mean()) / y.std())[:, None]


def residual_variance(x, y):
    """Of least squares, without bias."""
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return np.sum(residual**2) / (len(x) - DIM - 1)


def prediction_sd(x, posterior):
    """How well the expected progression of each patient is known."""
    return np.sqrt(np.einsum("ni,ij,nj->n", x, posterior.covariance, x))


def print_table(exact, found, x):
    """Each approximation in a row."""
    print(f"{'':<12}{'evidence':>12}{'short':>9}{'sd / exact sd':>20}{'of a prediction':>20}")
    print(f"{'':<12}{'(nats)':>12}{'by':>9}" + f"{'smallest':>12}{'largest':>8}" * 2)
    for name, posterior in {"exact": exact, **found}.items():
        ratios = posterior.sd / exact.sd, prediction_sd(x, posterior) / prediction_sd(x, exact)
        cells = "".join(f"{ratio.min():>12.3f}{ratio.max():>8.3f}" for ratio in ratios)
        short = exact.log_evidence - posterior.log_evidence
        print(f"{name:<12}{posterior.log_evidence:>12.4f}{round(short, 4) + 0.0:>9.4f}{cells}")


def draw_picture(path, exact, found, x):
    """
    Draw two weights, the sd of all, and what follows for the patients.

    :param path: of the PNG to write.
    :param exact: Gaussian.
    :param found: {name: Gaussian}.
    :param x: measurements (N, 10).
    """
    with plt.rc_context(LARGE):
        figure = plt.figure(figsize=(10.7, 7.4))
        draw_pair(figure.add_axes([0.075, 0.085, 0.455, 0.735]), exact, found)
        draw_deviations(figure.add_axes([0.7, 0.535, 0.285, 0.285]), exact, found)
        draw_patients(figure.add_axes([0.7, 0.085, 0.285, 0.3]), exact, found, x)
        figure.text(0.03, 0.952, "What mean-field gets wrong", size=16, weight="bold")
        words = "The posterior of a linear regression (grey, exact), and three Gaussians that were fitted to it"
        figure.text(0.03, 0.912, words, size=11)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_pair(axes, exact, found):
    """90 % ellipses of two weights."""
    axes.fill(*ellipse(exact), color=GREY, linewidth=0)
    for name, (colour, _) in LOOKS.items():
        axes.plot(*ellipse(found[name]), color=colour, linewidth=2.4)
    axes.plot(*ellipse(exact), color=INK, linewidth=1.2, linestyle=(0, (4, 4)))
    axes.axhline(0, color=FAINT, linewidth=0.7, zorder=0)
    axes.axvline(0, ymax=0.7, color=FAINT, linewidth=0.7, zorder=0)
    axes.set_xlabel(f"weight of {NAMES['s1']} (standardised)")
    axes.set_ylabel(f"weight of {NAMES['s2']} (standardised)")
    axes.set(xlim=(-1.02, 0.17), ylim=(-0.235, 0.735))
    draw_key(axes, {"exact": exact, **found})
    title(axes, "Two weights that are only known together", "90 % of their posterior")


def draw_key(axes, posteriors):
    """What the colours mean, and how well each posterior says that the first weight is known."""
    style = {"transform": axes.transAxes, "size": 10.5, "va": "center"}
    axes.text(0.53, 0.955, f"{NAMES['s1']}, 90 % interval", **style)
    for row, (name, (colour, marker)) in enumerate({"exact": (INK, "s"), **LOOKS}.items()):
        height = 0.905 - 0.05 * row
        face = GREY if name == "exact" else colour
        axes.plot(0.55, height, marker, transform=axes.transAxes, color=face, markersize=8, markeredgewidth=0)
        axes.text(0.585, height, name, color=colour, weight="bold", **style)
        posterior = posteriors[name]
        words = f"{posterior.mean[PAIR[0]]:.2f} ± {NORMAL_90 * posterior.sd[PAIR[0]]:.2f}".replace(
            "-", "\N{MINUS SIGN}"
        )
        axes.text(0.985, height, words, ha="right", **style)


def ellipse(posterior):
    """Points (2, 200) around 90 % of the pair of weights."""
    pair = list(PAIR)
    angle = np.linspace(0, 2 * np.pi, 200)
    factor = np.linalg.cholesky(posterior.covariance[np.ix_(pair, pair)])
    return posterior.mean[pair, None] + REACH * factor @ [np.cos(angle), np.sin(angle)]


def draw_deviations(axes, exact, found):
    """The sd of each weight."""
    rows = np.arange(DIM)[::-1]
    axes.barh(rows, exact.sd, 0.76, color=GREY)
    for name, (colour, marker) in LOOKS.items():
        axes.plot(found[name].sd, rows, marker, color=colour, markersize=5.5, markeredgewidth=0)
    axes.set_yticks(rows)
    axes.set_yticklabels(list(NAMES.values()))
    axes.tick_params(axis="y", length=0)
    title(axes, "All ten weights", "posterior standard deviations")


def draw_patients(axes, exact, found, x):
    """The sd of the expected progression of each patient: exact, and by two approximations."""
    known = prediction_sd(x, exact)
    for name in ("mean-field", "full rank"):
        colour, marker = LOOKS[name]
        axes.plot(
            known, prediction_sd(x, found[name]), marker, color=colour, markersize=3, markeredgewidth=0, alpha=0.8
        )
    limits = np.array([0.03, 0.26])
    axes.plot(limits, limits, color=INK, linewidth=1.2, linestyle=(0, (4, 4)), zorder=0)
    axes.set(xlim=limits, ylim=limits)
    axes.set_xlabel("exact sd", size=10)
    axes.set_ylabel("approximate sd", size=10)
    title(axes, "And for the patients", "sd of the progression to expect of each")


def title(axes, words, more):
    """Above a panel."""
    style = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(words, (0, 1), (0, 25), size=12, weight="bold", **style)
    axes.annotate(more, (0, 1), (0, 9), size=10, **style)


def main(arguments=None):
    """Approximate, print and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "bayesian_linear_regression", iterations=2500)
    x, y = read_patients()
    noise_variance = residual_variance(x, y)
    exact = exact_posterior(x, y, noise_variance)
    found = approximations(x, y, noise_variance, options.iterations)
    print_table(exact, found, x)
    draw_picture(options.output, exact, found, x)

    checks = {}
    for name in ("full rank", "Laplace"):
        here = found[name]
        checks[f"{name}: mean, in posterior sd"] = compare(here.mean / exact.sd, exact.mean / exact.sd, 0.02)
        checks[f"{name}: sd, relative"] = compare(here.sd, exact.sd, 0.02, relative=True)
        checks[f"{name}: correlation"] = compare(here.correlations, exact.correlations, 0.02)
        checks[f"{name}: log evidence"] = compare(here.log_evidence, exact.log_evidence, 0.01)
    best, here = best_mean_field(exact), found["mean-field"]
    # Its gradients stay noisy because it is never exact.
    checks["mean-field: mean, in posterior sd"] = compare(here.mean / exact.sd, best.mean / exact.sd, 0.25)
    checks["mean-field: sd, relative"] = compare(here.sd, best.sd, 0.05, relative=True)
    checks["mean-field: lower bound"] = compare(here.log_evidence, best.log_evidence, 0.1)
    for name in (f"rank {rank}" for rank in RANKS):
        expected = exact.log_evidence - divergence(found[name], exact)
        checks[f"{name}: lower bound"] = compare(found[name].log_evidence, expected, 0.1)
    return conclude(checks, options.output, "exact")


if __name__ == "__main__":
    sys.exit(main())
