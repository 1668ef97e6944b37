# SPDX-License-Identifier: Apache-2.0
"""Two factors behind four measurements of penguins, checked against Tipping and Bishop's closed form.

Bill, flippers and weight of 342 penguins near Palmer Station, Antarctica, hang together: a large bird
is large in most respects. Probabilistic principal component analysis says so by a Gaussian whose
covariance has low rank plus the same noise for all measurements,

    x = mean + W z + noise,    z ~ N(0, I),    x ~ N(mean, W W^T + noise variance * I),

with fewer factors z than measurements x. It is fitted by an optimizer here, as any model would be of
which no closed form is known; but here one is known. This script

1. finds mean, W and noise variance by MAP. No prior is given, so this is maximum likelihood;
2. places each bird by its factors, z given x, by conditioning the joint Gaussian of both on x;
3. compares with the closed form: the noise variance is the mean of the eigenvalues of the sample
   covariance that are left out, and W is made of the eigenvectors that are kept.

W itself is only known up to a rotation of the factors, W W^T + noise variance * I is not.
The script ends with an error if anything differs by more than the bounds it prints.

Run ``python examples/probabilistic_pca.py``; it takes about 5 seconds.

M. E. Tipping and C. M. Bishop (1999). Probabilistic Principal Component Analysis. Journal of the Royal
Statistical Society B 61(3), 611-622.
"""

import sys
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import Gaussian, LowRankMultivariateNormal
from mxfusion_mvn.inference import MAP, CompiledLoop, GradBasedInference
from mxfusion_mvn.transformations import Positive

import mxnet as mx
import numpy as np
from _common import BLUE, DTYPE, FAINT, INK, LARGE, STYLES, compare, conclude, double, parse, plt, read_table
from matplotlib.patches import Ellipse
from mxfusion import Model, Variable
from mxnet.lr_scheduler import CosineScheduler

COLUMNS = {
    "bill_len": "bill length",
    "bill_dep": "bill depth",
    "flipper_len": "flipper length",
    "body_mass": "body mass",
}
DIM = len(COLUMNS)
FACTORS = 2
NAMES = {"Adelie": (-1.5, 1.15), "Chinstrap": (0.75, 2.4), "Gentoo": (2.15, 1.05)}  # and where they are written


class Fit(NamedTuple):
    """Maximum likelihood, of measurements with mean 0 and variance 1."""

    mean: np.ndarray
    factor: np.ndarray  # W, (4, 2)
    noise_variance: float
    log_likelihood: float

    @property
    def covariance(self):
        """Of the measurements."""
        return self.factor @ self.factor.T + self.noise_variance * np.eye(DIM)


def fit_factors(x, iterations):
    """By MAP: x is (N, 4)."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(DIM,))
    # Not zero: the likelihood has a saddle there. All its maxima are equally good.
    model.factor = Variable(shape=(DIM, FACTORS), initial_value=mx.nd.random.normal(shape=(DIM, FACTORS), dtype=DTYPE))
    # One scalar for the whole diagonal.
    model.noise_variance = Variable(shape=(1,), transformation=Positive(), initial_value=double([1.0]))
    model.x = LowRankMultivariateNormal(
        mean=model.mean, factor=model.factor, diagonal=model.noise_variance, shape=(model.N, DIM), dtype=DTYPE
    )

    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.1, final_lr=0.001))
    inference = GradBasedInference(MAP(model, [model.x]), grad_loop=loop, dtype=DTYPE)
    inference.run(x=x, max_iter=iterations)
    mean, factor, noise_variance = (inference.params[v] for v in (model.mean, model.factor, model.noise_variance))
    fitted = Gaussian(mean, factor=factor, diagonal=noise_variance.broadcast_to((DIM,)))
    log_likelihood = fitted.log_pdf(double(x)).sum().asscalar()
    return Fit(mean.asnumpy(), factor.asnumpy(), noise_variance.asscalar(), log_likelihood)


def closed_form(x):
    """The maximum likelihood, by equations 7 and 8 of Tipping and Bishop, and the eigenvalues, falling."""
    mean, covariance = x.mean(axis=0), np.cov(x.T, ddof=0)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    noise_variance = values[FACTORS:].mean()
    factor = vectors[:, :FACTORS] * np.sqrt(values[:FACTORS] - noise_variance)
    # The trace of S C^-1 is DIM at the maximum.
    log_det = np.log(values[:FACTORS]).sum() + (DIM - FACTORS) * np.log(noise_variance)
    log_likelihood = -0.5 * len(x) * (DIM * np.log(2 * np.pi) + log_det + DIM)
    return Fit(mean, factor, noise_variance, log_likelihood), values


def principal_axes(found):
    """The same fit with its factors turned to the principal axes: the first explains most."""
    vectors, lengths, _ = np.linalg.svd(found.factor, full_matrices=False)
    factor = vectors * lengths
    return found._replace(factor=factor * np.sign(factor[-1]))  # the heavier, the larger


def factors_given(x, found):
    """The Gaussian of the factors z of each bird, from the joint one of z and x."""
    factor = found.factor
    joint = np.block([[np.eye(FACTORS), factor.T], [factor, found.covariance]])
    mean = np.append(np.zeros(FACTORS), found.mean)
    return Gaussian(double(mean), covariance=double(joint)).condition(list(range(FACTORS, FACTORS + DIM)), x)


def read_penguins():
    """Species (N,) and measurements (N, 4); penguins with a missing measurement are left out."""
    species, measured = read_table("penguins.csv", ["species"], kind=str)[:, 0], read_table("penguins.csv", COLUMNS)
    complete = ~np.isnan(measured).any(axis=1)
    return species[complete], measured[complete]


def draw_picture(path, species, scores, spread, found, eigenvalues):
    """
    Draw the birds by their factors, and how much the factors leave out.

    :param path: of the PNG to write.
    :param species: (N,) names.
    :param scores: (N, 2), mean of the factors.
    :param spread: (2, 2), their covariance, which is the same for every bird.
    :param found: Fit, by principal axes.
    :param eigenvalues: (4,), of the sample covariance.
    """
    with plt.rc_context(LARGE):
        figure = plt.figure(figsize=(8.6, 5.6))
        draw_birds(figure.add_axes([0.065, 0.085, 0.575, 0.775]), species, scores, spread)
        draw_loadings(figure.add_axes([0.76, 0.5, 0.225, 0.33]), found)
        draw_eigenvalues(figure.add_axes([0.7, 0.085, 0.285, 0.24]), found, eigenvalues)
        figure.text(0.065, 0.945, "Two factors behind four measurements", size=16, weight="bold")
        words = f"{len(scores)} penguins, placed by what probabilistic PCA makes of their bill, flippers and weight"
        figure.text(0.065, 0.9, words, size=11)
        figure.savefig(path, dpi=187)
        plt.close(figure)


def draw_birds(axes, species, scores, spread):
    """Every bird at the mean of its factors."""
    for (colour, marker), (name, place) in zip(STYLES, NAMES.items()):
        axes.scatter(*scores[species == name].T, s=24, marker=marker, color=colour, alpha=0.6, linewidth=0)
        axes.text(*place, name, color=colour, size=13, weight="bold", ha="center", va="center")
    corner = (2.55, -1.05)
    width, height = 2 * np.sqrt(-2 * np.log(0.1) * np.diag(spread))  # the axes are principal: no correlation
    axes.add_patch(Ellipse(corner, width, height, facecolor="#F2F2F2", edgecolor=INK, linewidth=1.0))
    axes.text(*corner, "how well a\nbird's place\nis known:\n90 %", size=9.5, ha="center", va="center", linespacing=1.4)
    axes.set(xlim=(-2.05, 3.3), ylim=(-2.35, 2.75))
    axes.set_xlabel("factor 1 (standard deviations)")
    axes.set_ylabel("factor 2 (standard deviations)")


def draw_loadings(axes, found):
    """The effect of one sd of each factor on each measurement."""
    height = 0.36
    rows = np.arange(DIM)[::-1]
    for k, (colour, contrast) in enumerate(((INK, "white"), ("#A8A8A8", INK))):
        places = rows + height * (0.5 - k)
        axes.barh(places, found.factor[:, k], height, color=colour)
        for place, weight in zip(places, found.factor[:, k]):
            if abs(weight) < 0.03:  # too short to be seen
                axes.text(0.04, place - 0.01, f"{weight:.2f}", size=9, va="center")
        axes.text(0.04, places[0] - 0.01, f"factor {k + 1}", color=contrast, size=8, va="center")
    axes.axvline(0, color=FAINT, linewidth=0.7)
    axes.set_yticks(rows)
    axes.set_yticklabels(list(COLUMNS.values()), size=10)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("W (sd of the measurement)", size=10)
    axes.text(-0.265, 1.03, "What the factors do", transform=axes.transAxes, size=12, weight="bold")
    axes.spines["left"].set_visible(False)


def draw_eigenvalues(axes, found, eigenvalues):
    """Eigenvalues of the sample covariance, and of the fitted one."""
    places = np.arange(1, DIM + 1)
    axes.bar(places, eigenvalues, 0.55, color="#C9D7E8")
    fitted = np.linalg.eigvalsh(found.covariance)[::-1]
    axes.hlines(fitted, places - 0.4, places + 0.4, color=BLUE, linewidth=2.4)
    words = f"noise variance {found.noise_variance:.3f},\nthe mean of those left out"
    axes.annotate(
        words,
        (3.6, found.noise_variance),
        (3.1, 1.35),
        color=BLUE,
        size=9.5,
        ha="center",
        arrowprops={"arrowstyle": "-", "color": BLUE, "linewidth": 0.8},
    )
    axes.set_xticks(places)
    axes.set_xlabel("principal component", size=10)
    axes.text(0, 1.17, "What they leave out", transform=axes.transAxes, size=12, weight="bold")
    axes.text(0, 1.05, "variance: data (bars), fit (lines)", transform=axes.transAxes, size=9.5)


def main(arguments=None):
    """Fit, compare and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "probabilistic_pca", iterations=300)
    mx.random.seed(1)

    species, measured = read_penguins()
    x = (measured - measured.mean(axis=0)) / measured.std(axis=0)
    found = fit_factors(x, options.iterations)
    exact, eigenvalues = closed_form(x)
    checks = {
        "noise variance": compare(found.noise_variance, exact.noise_variance, 1e-4),
        "mean": compare(found.mean, exact.mean, 1e-4),
        "covariance": compare(found.covariance, exact.covariance, 1e-4),
        "log likelihood": compare(found.log_likelihood, exact.log_likelihood, 1e-4),
    }
    kept = eigenvalues[:FACTORS].sum() / DIM
    print(f"The first {FACTORS} of {DIM} principal components hold {100 * kept:.0f} % of the variance.")

    found = principal_axes(found)
    birds = factors_given(x, found)
    draw_picture(options.output, species, birds.mean.asnumpy(), birds.covariance.asnumpy(), found, eigenvalues)
    return conclude(checks, options.output, "closed form")


if __name__ == "__main__":
    sys.exit(main())
