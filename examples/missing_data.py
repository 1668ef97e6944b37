# SPDX-License-Identifier: Apache-2.0
"""Fit a multivariate normal to a summer of air that was not always measured, and fill the gaps.

From May to September 1973 ozone, sunshine, wind and temperature were recorded in New York. On 42 of the 153 days the
ozone or the sunshine is missing. To leave those days out would also throw away their wind and temperature; to write
the mean into the gaps would make the air look steadier than it was. A multivariate normal needs neither: the missing
entries are integrated out of its density, so that each day counts with its measured entries. (The model is of the cube
root of the ozone, which is about normal; the ozone itself is far from normal.) This script

1. finds mean and covariance by MAP with ``missing=True``. No prior is given, so this is maximum likelihood,
   and must agree with the EM algorithm, which is written here in NumPy;
2. fills the gaps: a mean and a 90 % band for each, and draws of all of them together;
3. hides each day's ozone, and counts how often the band holds it all the same;
4. asks on how many days there were more than 80 ppb of ozone. The means of the gaps cannot say, because they leave out
   the extremes. The draws can.

It ends with an error if the fit differs from EM by more than the bounds it prints. The bands hold the variation
of the air, not the uncertainty of the estimates, which adds little with 153 days.

Run ``python examples/missing_data.py``; it takes about 10 seconds.
"""

import datetime
import sys
from typing import NamedTuple

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import Gaussian, MultivariateNormal
from mxfusion_mvn.inference import MAP, CompiledLoop, GradBasedInference
from mxfusion_mvn.missing import PartlyObserved
from mxfusion_mvn.transformations import PositiveDefinite

import mxnet as mx
import numpy as np
from _common import DTYPE, INK, NORMAL_90, SETTINGS, conclude, double, parse, plt, read_table
from mxfusion import Model, Variable
from mxnet.lr_scheduler import CosineScheduler

COLUMNS = {
    "Ozone": ("ozone", "ppb^1/3"),
    "Solar.R": ("sunshine", "langley"),
    "Wind": ("wind", "mph"),
    "Temp": ("temperature", "°C"),
}
DIM = len(COLUMNS)
OZONE, TEMPERATURE = 0, 3  # their positions
HIGH = 80.0  # ppb
NUM_DRAWS = 4000
BOUNDS = {"mean, in sd of the data": 1e-3, "covariance, in sd^2 of the data": 1e-3}
KNOWN, FILLED = "#6B6B6B", "#D55E00"


class Imputed(NamedTuple):
    """The ozone of each day given its measurements, in cube roots of ppb."""

    mean: np.ndarray  # (N,), the measurement where there is one
    sd: np.ndarray  # (N,), 0 where it was measured
    draws: np.ndarray  # (S, N)


def fit_missing(x, iterations):
    """Mean (4,) and covariance (4, 4) of rows (N, 4) with NaN in them, by MAP."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(DIM,), initial_value=mx.nd.zeros(DIM))
    model.covariance = Variable(shape=(DIM, DIM), transformation=PositiveDefinite(), initial_value=mx.nd.eye(DIM))
    model.X = MultivariateNormal(mean=model.mean, covariance=model.covariance, shape=(model.N, DIM), missing=True)

    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.1, final_lr=0.001))
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=loop, dtype=DTYPE)
    inference.run(X=x, max_iter=iterations)
    return inference.params[model.mean].asnumpy(), inference.params[model.covariance].asnumpy()


def expectation_maximisation(x, tolerance=1e-12):
    """
    The same by the EM algorithm (Dempster, Laird and Rubin, 1977), as an independent reference.

    :param x: (N, 4), NaN where missing.
    :param tolerance: it ends when nothing changes by more.
    :returns: mean, covariance and how many steps it took.
    """
    mean, covariance = np.zeros(DIM), np.eye(DIM)
    for step in range(1, 1000):
        filled, spread = fill_rows(x, mean, covariance)
        new_mean = filled.mean(axis=0)
        residual = filled - new_mean
        new_covariance = (residual.T @ residual + spread) / len(x)
        change = max(np.abs(new_mean - mean).max(), np.abs(new_covariance - covariance).max())
        mean, covariance = new_mean, new_covariance
        if change < tolerance:
            return mean, covariance, step
    raise RuntimeError("EM has not converged.")


def fill_rows(x, mean, covariance):
    """The rows with conditional means in their gaps, and the sum of the rows' conditional covariances."""
    filled, spread = x.copy(), np.zeros((DIM, DIM))
    for row in filled:
        missing = np.isnan(row)
        across = covariance[np.ix_(missing, ~missing)]
        regression = np.linalg.solve(covariance[np.ix_(~missing, ~missing)], across.T).T
        row[missing] = mean[missing] + regression @ (row - mean)[~missing]
        spread[np.ix_(missing, missing)] += covariance[np.ix_(missing, missing)] - regression @ across.T
    return filled, spread


def impute_ozone(x, mean, covariance, centre, scale):
    """The :class:`Imputed` ozone of rows (N, 4); all three arrays and x are standardised but for centre and scale."""
    gaussian = Gaussian(mean=double(mean), covariance=double(covariance))
    rows = PartlyObserved(gaussian, double(x))
    covariances, pattern = rows.covariance()
    variance = covariances.asnumpy()[pattern, OZONE, OZONE]
    draws = rows.draw_samples(NUM_DRAWS).asnumpy()[..., OZONE]
    centre, scale = centre[OZONE], scale[OZONE]
    return Imputed(centre + scale * rows.mean().asnumpy()[:, OZONE], scale * np.sqrt(variance), centre + scale * draws)


def band(imputed):
    """Lower and upper ends (2, N) of the 90 % bands, in ppb: a quantile goes through the cube as it is."""
    reach = NORMAL_90 * imputed.sd
    return ppb(np.array([imputed.mean - reach, imputed.mean + reach]))


def ppb(cube_root):
    """Undo the cube root; there is no ozone below zero."""
    return np.maximum(cube_root, 0) ** 3


def exceedances(cube_root):
    """On how many days, the last axis, the ozone was high."""
    # One day has exactly 80 ppb, and the cube of its cube root is a little more.
    return (ppb(cube_root) > HIGH + 1e-6).sum(axis=-1)


def coverage(x, mean, covariance, centre, scale):
    """How many of the days whose ozone is known have it in its 90 % band, if it is hidden; and how many there are."""
    known = ~np.isnan(x[:, OZONE])
    hidden = x[known].copy()
    hidden[:, OZONE] = np.nan
    low, high = band(impute_ozone(hidden, mean, covariance, centre, scale))
    actual = ppb(centre[OZONE] + scale[OZONE] * x[known, OZONE])
    return int(((low <= actual) & (actual <= high)).sum()), int(known.sum())


def print_table(fits, centre, scale):
    """Each estimate {name: (mean, covariance)} in the units of the data, one below the other."""
    print("                   " + "".join(f"{name:>13}" for name, _ in COLUMNS.values()))
    print("                   " + "".join(f"{'(' + unit + ')':>13}" for _, unit in COLUMNS.values()))
    for name, (mean, _) in fits.items():
        print(f"{'mean, ' + name:<19}" + "".join(f"{number:>13.5g}" for number in centre + scale * mean))
    for name, (_, covariance) in fits.items():
        print(f"{'sd, ' + name:<19}" + "".join(f"{number:>13.5g}" for number in scale * np.sqrt(np.diag(covariance))))
    for name, (_, covariance) in fits.items():
        sd = np.sqrt(np.diag(covariance))
        row = (covariance / np.outer(sd, sd))[OZONE]
        print(f"{'r ozone, ' + name:<19}" + "".join(f"{number:>13.4f}" for number in row))


def draw_picture(path, days, x, imputed):
    """
    Draw the summer and its filled gaps.

    :param path: of the PNG to write.
    :param days: list of N dates.
    :param x: data (N, 4) in their units, the ozone as cube root; NaN where missing.
    :param imputed: :class:`Imputed`.
    """
    with plt.rc_context(SETTINGS):
        figure = plt.figure(figsize=(8.6, 6.6))
        grid = {"left": 0.07, "right": 0.985}
        top = figure.add_gridspec(1, 1, bottom=0.53, top=0.865, **grid)
        bottom = figure.add_gridspec(1, 2, bottom=0.075, top=0.385, wspace=0.16, **grid)
        missing = np.isnan(x[:, OZONE])
        draw_ozone(figure.add_subplot(top[0]), np.array(days), missing, imputed)
        draw_against_temperature(figure.add_subplot(bottom[0]), x[:, TEMPERATURE], missing, imputed)
        draw_count(figure.add_subplot(bottom[1]), x[:, OZONE], imputed)
        left = grid["left"] - 0.035
        figure.text(left, 0.945, "New York, summer of 1973: the ozone nobody measured", size=16, weight="bold")
        figure.text(left, 0.905, "\N{BLACK CIRCLE} measured", size=11.5, color=KNOWN, weight="bold")
        style = {"size": 11.5, "color": FILLED, "weight": "bold"}
        figure.text(left + 0.155, 0.905, "\N{BLACK DIAMOND} missing: median and 90 % band", **style)
        figure.text(left + 0.52, 0.905, "given the weather of that day", size=11.5)
        figure.savefig(path, dpi=187)
        plt.close(figure)


def draw_ozone(axes, days, missing, imputed):
    """The ozone of every day."""
    draw_points(axes, days, missing, imputed)
    axes.axhline(HIGH, color=INK, linewidth=0.9, linestyle=(0, (4, 4)))
    axes.annotate(f"{HIGH:.0f} ppb", (days[0], HIGH), (0, 4), textcoords="offset points", size=9.5)
    months = [datetime.date(1973, month, 1) for month in range(5, 11)]
    axes.set_xticks(months)
    axes.set_xticklabels([])
    axes.set_xlim(days[0] - datetime.timedelta(1), days[-1] + datetime.timedelta(1))
    style = {"size": 11.5, "va": "top", "ha": "center", "transform": axes.get_xaxis_transform()}
    for start, end in zip(months, months[1:]):
        axes.text(start + (end - start) / 2, -0.055, start.strftime("%B"), **style)
    axes.set_ylabel("ozone (ppb)")


def draw_against_temperature(axes, temperature, missing, imputed):
    """The same over the temperature, on which it depends most."""
    draw_points(axes, temperature, missing, imputed)
    axes.set_xlabel("highest temperature of the day (°C)")
    axes.set_ylabel("ozone (ppb)")
    title(axes, "The gaps follow the weather")


def draw_points(axes, x, missing, imputed):
    """Ozone over something, measured and filled in."""
    low, high = band(imputed)
    median = ppb(imputed.mean)
    axes.scatter(x[~missing], median[~missing], s=20, color=KNOWN, alpha=0.75, linewidth=0, zorder=3)
    axes.vlines(x[missing], low[missing], high[missing], color=FILLED, linewidth=2.2, alpha=0.4, zorder=2)
    axes.scatter(
        x[missing], median[missing], s=26, marker="D", color=FILLED, linewidth=0.6, edgecolor="white", zorder=4
    )
    axes.set_ylim(0, 175)


def draw_count(axes, cube_root, imputed):
    """On how many days the ozone was high."""
    counts = exceedances(imputed.draws)
    values, times = np.unique(counts, return_counts=True)
    axes.bar(values, times / len(counts), width=0.8, color=FILLED, alpha=0.45, linewidth=0)
    measured, filled = exceedances(cube_root), exceedances(imputed.mean)
    top = axes.get_ylim()[1]
    marks = [(measured, KNOWN, f"{measured} days measured"), (filled, FILLED, f"{filled} with medians in the gaps")]
    for height, width, (value, colour, label) in zip((1.26, 1.13), (5.0, 1.6), marks):
        axes.plot([value, value], [0, height * top], color=colour, linewidth=width, solid_capstyle="butt")
        style = {"size": 10.5, "color": colour, "weight": "bold"}
        axes.annotate(label, (value, height * top), (6, 1), textcoords="offset points", va="top", **style)
    style.update(color=INK, weight="normal")
    axes.text(
        0.985,
        0.5,
        f"{counts.mean():.1f} on average\nof {len(counts)} draws",
        ha="right",
        transform=axes.transAxes,
        **style,
    )
    axes.set_xlabel(f"days above {HIGH:.0f} ppb")
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1.3 * top)
    title(axes, f"How many days above {HIGH:.0f} ppb?")


def title(axes, words):
    """Above a panel."""
    axes.text(0, 1.07, words, transform=axes.transAxes, size=13, weight="bold")


def main(arguments=None):
    """Fit, print and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "missing_data", iterations=300)
    mx.random.seed(1)

    measured = read_table("airquality.csv", COLUMNS)
    measured[:, OZONE] = np.cbrt(measured[:, OZONE])
    measured[:, TEMPERATURE] = (measured[:, TEMPERATURE] - 32) / 1.8  # from Fahrenheit
    centre, scale = np.nanmean(measured, axis=0), np.nanstd(measured, axis=0)
    x = (measured - centre) / scale
    complete = x[~np.isnan(x).any(axis=1)]

    mean, covariance = fit_missing(x, options.iterations)
    em_mean, em_covariance, steps = expectation_maximisation(x)
    print(f"{len(x)} days, {len(complete)} of them complete; EM took {steps} steps\n")
    fits = {
        "fitted": (mean, covariance),
        "EM": (em_mean, em_covariance),
        "complete": (complete.mean(axis=0), np.cov(complete.T, ddof=0)),
    }
    print_table(fits, centre, scale)

    imputed = impute_ozone(x, mean, covariance, centre, scale)
    inside, known = coverage(x, mean, covariance, centre, scale)
    counts = exceedances(imputed.draws)
    low, high = np.percentile(counts, [5, 95])
    print(f"\nOf {known} measured ozones, hidden one at a time, the 90 % band holds {inside}, {inside / known:.0%}.")
    print(f"Days above {HIGH:.0f} ppb: {exceedances(measured[:, OZONE])} measured,", end=" ")
    print(f"{exceedances(imputed.mean)} with medians in the gaps,", end=" ")
    print(f"{counts.mean():.1f} by draws (90 %: {low:.0f} to {high:.0f})")

    first = datetime.date(1973, 5, 1)
    days = [first + datetime.timedelta(day) for day in range(len(x))]
    draw_picture(options.output, days, measured, imputed)
    found = [np.abs(mean - em_mean).max(), np.abs(covariance - em_covariance).max()]
    return conclude(dict(zip(BOUNDS, zip(found, BOUNDS.values()))), options.output)


if __name__ == "__main__":
    sys.exit(main())
