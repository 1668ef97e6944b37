# SPDX-License-Identifier: Apache-2.0
"""Fit a mixture of two Gaussians to the eruptions of Old Faithful, and predict the wait for the next.

The geyser in Yellowstone has short eruptions, after which the next comes within the hour, and long ones, after which it
takes its time. 272 eruptions with the wait after each show two clouds, and no single Gaussian has two. This script

1. fits a mixture of two Gaussians by MAP, which without a prior is maximum likelihood. It must agree with
   scikit-learn's ``GaussianMixture``, which runs the EM algorithm from its own start: the same log likelihood,
   weights, means and covariances, and the same probability of each eruption to be a long one;
2. predicts the wait after an eruption of a given length by conditioning each Gaussian on it: a mixture again.

It ends with an error if the two differ by more than the bounds it prints.

Run ``python examples/mixture.py``; it takes about 5 seconds, and scikit-learn (``pip install scikit-learn``).
"""

import sys
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import Gaussian, GaussianMixture, mixture
from mxfusion_mvn.inference import MAP, CompiledLoop, GradBasedInference
from mxfusion_mvn.transformations import PositiveDefinite, Simplex

import numpy as np
from _common import DTYPE, FAINT, INK, SETTINGS, conclude, double, parse, plt, read_table
from matplotlib.colors import LinearSegmentedColormap
from mxfusion import Model, Variable
from mxnet.lr_scheduler import CosineScheduler

SHORT, LONG = "#E66100", "#5D3A9B"
# Between the two the colour is pale, so that an eruption that could be either stands out.
COLOURS = LinearSegmentedColormap.from_list("responsibility", [SHORT, "#D8CFC4", LONG])
DENSITIES = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 1.0])  # of the contours, relative to the highest
GREYS = ["#F6F6F6", "#EDEDED", "#E2E2E2", "#D6D6D6", "#C9C9C9"]
LENGTHS = (2.0, 2.9, 4.5)  # minutes: the eruptions whose wait is predicted
PEAK = 11.0  # from the density of a wait, per minute, to its width in the picture
BOUNDS = {
    "log likelihood, per eruption": 1e-5,
    "weights": 1e-3,
    "means, in sd of the data": 1e-3,
    "covariances, in sd^2 of the data": 1e-3,
    "probability of a long eruption": 1e-3,
}


class Mixture(NamedTuple):
    """Two Gaussians with their weights, the one with shorter eruptions first."""

    weights: np.ndarray  # (2,)
    means: np.ndarray  # (2, 2): component, and then length and wait
    covariances: np.ndarray  # (2, 2, 2)

    def components(self):
        """Both as a batch of Gaussians."""
        return Gaussian(mean=double(self.means), covariance=double(self.covariances))

    def log_pdf(self, x):
        """Log density of rows (..., 2)."""
        return mixture.log_pdf(double(x), double(self.weights), self.components()).asnumpy()

    def responsibilities(self, x):
        """Probability that rows (..., 2) come from the second."""
        return mixture.responsibilities(double(x), double(self.weights), self.components()).asnumpy()[..., 1]

    def waits(self, length):
        """The mixture of waits after an eruption of some length: weights (2,) and the conditional Gaussians."""
        components, length = self.components(), double([length])
        weights = mixture.responsibilities(length, double(self.weights), components.marginal([0]))
        return weights, components.condition([0], length)


def fit_mixture(x, iterations):
    """The mixture of rows (N, 2), by MAP."""
    model = Model()
    model.N = Variable()
    model.weights = Variable(shape=(2,), transformation=Simplex(), initial_value=double([0.5, 0.5]))
    # Equal components would have equal gradients and stay equal, so one starts where both entries are small.
    model.means = Variable(shape=(2, 2), initial_value=double([[-1, -1], [1, 1]]))
    start = double(np.broadcast_to(0.5 * np.eye(2), (2, 2, 2)))
    model.covariances = Variable(shape=(2, 2, 2), transformation=PositiveDefinite(), initial_value=start)
    model.X = GaussianMixture(model.weights, model.means, covariance=model.covariances, shape=(model.N, 2))

    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.1, final_lr=0.001))
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=loop, dtype=DTYPE)
    inference.run(X=x, max_iter=iterations)
    return Mixture(*(inference.params[v].asnumpy() for v in (model.weights, model.means, model.covariances)))


def fit_by_sklearn(x):
    """The same by scikit-learn, its regularisation off: :class:`Mixture`, log likelihood per row, responsibilities."""
    try:
        from sklearn.mixture import GaussianMixture as Reference
    except ImportError:
        sys.exit("The reference is scikit-learn's: run pip install scikit-learn.")
    reference = Reference(2, tol=1e-12, reg_covar=0.0, max_iter=1000, random_state=0).fit(x)
    order = np.argsort(reference.means_[:, 0])
    found = Mixture(reference.weights_[order], reference.means_[order], reference.covariances_[order])
    return found, reference.score(x), reference.predict_proba(x)[:, order[1]]


def print_table(fitted, reference):
    """Each parameter beside scikit-learn's, both in the units of the data."""
    print(f"{'':<22}{'short eruptions':>21}{'long eruptions':>21}")
    print(f"{'':<22}" + f"{'fitted':>11}{'sklearn':>10}" * 2)
    rows = zip(table_rows(fitted), table_rows(reference))
    for (label, left), (_, right) in rows:
        print(f"{label:<22}" + "".join(f"{a:>11.5g}{b:>10.5g}" for a, b in zip(left, right)))


def table_rows(found):
    """Label and entries of each line of the table."""
    sd = np.sqrt(np.diagonal(found.covariances, axis1=1, axis2=2))
    yield "weight", found.weights
    yield "mean length (min)", found.means[:, 0]
    yield "mean wait (min)", found.means[:, 1]
    yield "sd of length (min)", sd[:, 0]
    yield "sd of wait (min)", sd[:, 1]
    yield "correlation", found.covariances[:, 0, 1] / sd.prod(axis=1)


def in_units(found, centre, scale):
    """Undo the standardisation, (measured - centre) / scale."""
    return Mixture(found.weights, centre + scale * found.means, np.outer(scale, scale) * found.covariances)


def draw_picture(path, data, fitted):
    """
    Draw the eruptions, the mixture, and the waits it predicts.

    :param path: of the PNG to write.
    :param data: lengths and waits (N, 2), minutes.
    :param fitted: :class:`Mixture` in minutes.
    """
    with plt.rc_context(SETTINGS):
        figure = plt.figure(figsize=(8.6, 5.3))
        grid = figure.add_gridspec(1, 2, left=0.08, right=0.985, bottom=0.1, top=0.82, width_ratios=(2, 1), wspace=0.05)
        left = figure.add_subplot(grid[0])
        right = figure.add_subplot(grid[1], sharey=left)
        left.set_xlim(1.2, 5.6)
        left.set_ylim(38, 102)
        draw_eruptions(left, data, fitted)
        draw_waits(right, fitted)
        figure.text(0.03, 0.945, "Old Faithful has two ways to erupt", size=16, weight="bold")
        key = "Grey: density of the mixture. Ellipses: 50 % and 95 % of each Gaussian. Ringed: could be either."
        figure.text(0.03, 0.905, key, size=10.5)
        figure.savefig(path, dpi=187)
        plt.close(figure)


def draw_eruptions(axes, data, fitted):
    """Every eruption in the colour of its responsibility, over the density."""
    x, y = np.linspace(*axes.get_xlim(), 160), np.linspace(*axes.get_ylim(), 160)
    density = np.exp(fitted.log_pdf(np.stack(np.meshgrid(x, y), axis=-1)))
    axes.contourf(x, y, density, density.max() * DENSITIES, colors=GREYS)
    chance = fitted.responsibilities(data)
    axes.scatter(*data.T, s=24, c=chance, cmap=COLOURS, vmin=0, vmax=1, edgecolor="white", linewidth=0.4, zorder=3)
    doubtful = data[(chance > 0.05) & (chance < 0.95)]
    axes.scatter(*doubtful.T, s=70, facecolor="none", edgecolor=INK, linewidth=1.2, zorder=3)
    for probability, width in ((0.5, 1.0), (0.95, 1.8)):
        outlines = fitted.components().ellipse(probability)
        for k, colour in enumerate((SHORT, LONG)):
            axes.plot(*outlines[:, k].T, color=colour, linewidth=width, solid_capstyle="butt", zorder=4)
    style = {"size": 13, "weight": "bold"}
    axes.text(2.72, 46, f"short, {100 * fitted.weights[0]:.0f} %", color=SHORT, **style)
    axes.text(3.3, 92, f"long, {100 * fitted.weights[1]:.0f} %", color=LONG, ha="right", **style)
    for length in LENGTHS:
        axes.plot(length, axes.get_ylim()[0], "^", color=INK, markersize=9, clip_on=False, zorder=5)
    axes.set_xlabel("length of an eruption (min)")
    axes.set_ylabel("wait for the next (min)")
    title(axes, "272 eruptions, coloured by kind")


def draw_waits(axes, fitted):
    """Density of the wait after eruptions of the chosen lengths, and the share of each component."""
    y = np.linspace(*axes.get_ylim(), 400)
    for i, length in enumerate(LENGTHS):
        weights, waits = fitted.waits(length)
        parts = weights.asnumpy() * np.exp(waits.log_pdf(double(y[:, None, None])).asnumpy())
        ends = i + PEAK * np.cumsum(parts, axis=1)
        axes.fill_betweenx(y, i, ends[:, 0], color=SHORT, alpha=0.7, linewidth=0)
        axes.fill_betweenx(y, ends[:, 0], ends[:, 1], color=LONG, alpha=0.7, linewidth=0)
        axes.axvline(i, color=FAINT, linewidth=0.7)
    axes.set_xticks(range(len(LENGTHS)))
    axes.set_xticklabels([f"{length:g} min" for length in LENGTHS])
    axes.set_xlim(-0.1, len(LENGTHS) - 0.1)
    axes.set_xlabel("after an eruption of … (▲)")
    axes.tick_params(left=False, labelleft=False)
    axes.spines["left"].set_visible(False)
    axes.text(0.08, 99, "width:\ndensity;\ncolours:\nshare of\neach kind", size=9.5, va="top", linespacing=1.4)
    title(axes, "And the wait?")


def title(axes, words):
    """Above a panel."""
    axes.text(0, 1.03, words, transform=axes.transAxes, size=13, weight="bold")


def main(arguments=None):
    """Fit, print and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "mixture", iterations=300)
    data = read_table("faithful.csv", ["eruptions", "waiting"])
    centre, scale = data.mean(axis=0), data.std(axis=0)
    x = (data - centre) / scale

    reference, reference_likelihood, reference_chance = fit_by_sklearn(x)
    fitted = fit_mixture(x, options.iterations)
    likelihood, chance = fitted.log_pdf(x).mean(), fitted.responsibilities(x)
    in_minutes = in_units(fitted, centre, scale)
    print_table(in_minutes, in_units(reference, centre, scale))
    # The density is per standardised unit of each measurement; dividing by the scales makes it one per minute.
    shift = np.log(scale).sum()
    print(f"\nlog likelihood, per eruption: {likelihood - shift:.6f}, scikit-learn {reference_likelihood - shift:.6f}")
    print(f"Eruptions that could be either (5 to 95 %): {((chance > 0.05) & (chance < 0.95)).sum()} of {len(x)}")
    for length in LENGTHS:
        weights, waits = in_minutes.waits(length)
        means = waits.mean.asnumpy()[:, 0]
        print(f"After {length:g} min: {(weights.asnumpy() * means).sum():.0f} min")

    draw_picture(options.output, data, in_minutes)
    found = [
        np.abs(likelihood - reference_likelihood),
        np.abs(fitted.weights - reference.weights).max(),
        np.abs(fitted.means - reference.means).max(),
        np.abs(fitted.covariances - reference.covariances).max(),
        np.abs(chance - reference_chance).max(),
    ]
    return conclude(dict(zip(BOUNDS, zip(found, BOUNDS.values()))), options.output)


if __name__ == "__main__":
    sys.exit(main())
