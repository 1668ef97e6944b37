# SPDX-License-Identifier: Apache-2.0
"""The level of the Nile, smoothed as one long Gaussian, and checked against a Kalman smoother.

The flow of the Nile at Aswan was measured in every year from 1871 to 1970. Durbin and Koopman open
their book on time series with it: the river has a level that drifts, a random walk, and each year's
flow is the level plus noise. The model has two parameters, the variance of the noise and the variance
of the yearly step of the level. Usually a Kalman filter goes through the years one after the other; but
the whole century is also just one Gaussian vector with a structured covariance, and so this script

1. finds both variances by MAP. Nothing is known of the first level, but the differences from year to
   year do not depend on it: they have the covariance

       step variance * I + noise variance * T,    T = 2 on the diagonal, -1 beside it;

2. finds the level, and ten years to come, by conditioning one Gaussian on the flows. Level and flow
   together have a *precision* that is known in closed form and needs no prior for the start;
3. compares the variances with the published ones, and the level and its variance with a Kalman
   smoother written in NumPy.

It ends with an error if they differ by more than the bounds it prints.

Run ``python examples/kalman_smoothing.py``; it takes about 5 seconds.

J. Durbin and S. J. Koopman (2012). Time Series Analysis by State Space Methods, 2nd edition, Oxford
University Press, chapter 2.
"""

import sys

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import Gaussian, MultivariateNormal
from mxfusion_mvn.inference import MAP, CompiledLoop, GradBasedInference
from mxfusion_mvn.transformations import Positive

import numpy as np
from _common import (
    BLUE,
    DTYPE,
    FAINT,
    INK,
    LARGE,
    NORMAL_90,
    ORANGE,
    compare,
    conclude,
    double,
    parse,
    plt,
    read_table,
)
from mxfusion import Model, Variable
from mxnet.lr_scheduler import CosineScheduler

PUBLISHED_NOISE, PUBLISHED_STEP = 15099.0, 1469.1  # Durbin and Koopman, in (10^8 m^3)^2
HORIZON = 10  # years to look ahead
DAM = 1899  # work on the first dam at Aswan began


def fit_variances(flow, iterations):
    """Variances of the noise and of the step by maximum likelihood, and the log likelihood there."""
    difference = np.diff(flow)
    size, scale = len(difference), difference.std()
    noise_pattern = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)

    model = Model()
    model.noise_variance = positive(0.5)
    model.step_variance = positive(0.5)
    covariance = model.noise_variance * constant(noise_pattern) + model.step_variance * constant(np.eye(size))
    model.difference = MultivariateNormal(covariance=covariance, shape=(size,), dtype=DTYPE)

    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.1, final_lr=0.001))
    inference = GradBasedInference(MAP(model, [model.difference]), grad_loop=loop, dtype=DTYPE)
    inference.run(difference=difference / scale, max_iter=iterations)
    noise = scale**2 * inference.params[model.noise_variance].asscalar()
    step = scale**2 * inference.params[model.step_variance].asscalar()
    fitted = Gaussian(covariance=double(noise * noise_pattern + step * np.eye(size)))
    return noise, step, fitted.log_pdf(double(difference)).asscalar()


def level_given_flow(flow, noise, step, horizon):
    """
    The Gaussian of the level in every year, and for some years after the last.

    Level a and flow y have the log density -|y - a|^2 / 2 noise - |a_t+1 - a_t|^2 / 2 step, whose precision is read
    off. It is singular because it does not determine the first level; the conditional given the flow is not.
    """
    years, levels = len(flow), len(flow) + horizon
    walk = np.diff(np.eye(levels), axis=0)
    observe = np.eye(years, levels)
    precision = np.block(
        [
            [walk.T @ walk / step + observe.T @ observe / noise, -observe.T / noise],
            [-observe / noise, np.eye(years) / noise],
        ]
    )
    return Gaussian(precision=double(precision)).condition(list(range(levels, levels + years)), flow)


def kalman_smoother(flow, noise, step, horizon):
    """Mean and variance of the level, and the log likelihood of all flows but the first, in NumPy alone."""
    mean, variance = [flow[0]], [noise]  # the first flow is all that is known of the start
    log_likelihood = 0.0
    for observed in np.append(flow[1:], [np.nan] * horizon):
        predicted, uncertainty = mean[-1], variance[-1] + step
        gain = 0.0
        if not np.isnan(observed):
            total = uncertainty + noise
            log_likelihood -= 0.5 * (np.log(2 * np.pi * total) + (observed - predicted) ** 2 / total)
            gain, predicted = uncertainty / total, predicted + uncertainty / total * (observed - predicted)
        mean.append(predicted)
        variance.append((1 - gain) * uncertainty)
    for i in reversed(range(len(mean) - 1)):
        gain = variance[i] / (variance[i] + step)
        mean[i] += gain * (mean[i + 1] - mean[i])
        variance[i] += gain**2 * (variance[i + 1] - variance[i] - step)
    return np.array(mean), np.array(variance), log_likelihood


def fall_of_level(level, years):
    """Mean and sd of how much lower the level was from the dam on, averaged over the years."""
    before = (years < DAM) / (years < DAM).sum()
    after = (years >= DAM) / (years >= DAM).sum()
    contrast = np.append(before - after, np.zeros(HORIZON))
    fall = level.affine(contrast[np.newaxis])
    return fall.mean.asscalar(), np.sqrt(fall.variance.asscalar())


def positive(initial_value):
    """A positive number to be learned."""
    return Variable(shape=(1,), transformation=Positive(), initial_value=double([initial_value]))


def constant(value):
    """A constant of the model."""
    return Variable(value=double(value))


def draw_picture(path, years, flow, level, fall):
    """Flows, level and its 90 % band, and the years to come."""
    mean, sd = level.mean.asnumpy(), np.sqrt(level.variance.asnumpy())
    known, ahead = slice(0, len(years)), slice(len(years) - 1, None)
    all_years = np.arange(years[0], years[0] + len(mean))
    with plt.rc_context(LARGE):
        figure, axes = plt.subplots(figsize=(8.6, 4.5))
        figure.subplots_adjust(left=0.09, right=0.985, bottom=0.1, top=0.84)
        for part, alpha in ((known, 0.25), (ahead, 0.12)):
            low, high = mean[part] - NORMAL_90 * sd[part], mean[part] + NORMAL_90 * sd[part]
            axes.fill_between(all_years[part], low, high, color=BLUE, alpha=alpha, linewidth=0)
        axes.plot(years, flow, color=FAINT, linewidth=0.6, alpha=0.6)
        axes.plot(years, flow, "o", color=INK, markersize=3.6, markeredgewidth=0)
        axes.plot(all_years[known], mean[known], color=BLUE, linewidth=2.4)
        axes.plot(all_years[ahead], mean[ahead], color=BLUE, linewidth=2.0, linestyle=(0, (2, 1.5)))
        axes.axvline(DAM, color=ORANGE, linewidth=1.4, linestyle=(0, (5, 3)), zorder=0)
        label_picture(axes, fall, mean)
        figure.savefig(path, dpi=187)
        plt.close(figure)


def label_picture(axes, fall, mean):
    """Words and limits."""
    axes.set(xlim=(1869.5, 1981.5), ylim=(400, 1440))
    axes.set_ylabel("flow at Aswan (10$^8$ m$^3$ a year)")
    axes.text(0, 1.12, "A century of the Nile as one Gaussian", transform=axes.transAxes, size=16, weight="bold")
    words = "Each year's flow (dots) is a level that drifts, plus noise. The level and its 90 % band, given all flows."
    axes.text(0, 1.055, words, transform=axes.transAxes, size=11)
    axes.text(DAM + 1, 1392, "1899: work on the first dam begins", color=ORANGE, size=11, weight="bold")
    by = f"{fall[0]:.0f} ± {NORMAL_90 * fall[1]:.0f} · 10$^8$ m$^3$ a year (90 %)"
    words = f"From then on the level was lower, on average,\nby {by}"
    axes.text(DAM + 1, 1372, words, size=10.5, va="top", linespacing=1.35)
    axes.text(1976, mean[-1] + 245, "ten years\nto come", color=BLUE, size=10.5, ha="center", linespacing=1.3)


def main(arguments=None):
    """Fit, smooth, print and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "kalman_smoothing", iterations=300)
    years, flow = read_table("nile.csv", ["time", "value"]).T
    noise, step, log_likelihood = fit_variances(flow, options.iterations)
    level = level_given_flow(flow, noise, step, HORIZON)
    mean, variance, exact = kalman_smoother(flow, noise, step, HORIZON)
    fall = fall_of_level(level, years)
    words = f"lower by {fall[0]:.0f} +- {NORMAL_90 * fall[1]:.0f} (90 %), in 10^8 m^3 a year"
    print(f"From {DAM} on the level was on average {words}.")
    draw_picture(options.output, years, flow, level, fall)
    checks = {
        "noise variance, published": compare(noise, PUBLISHED_NOISE, 1e-3, relative=True),
        "step variance, published": compare(step, PUBLISHED_STEP, 1e-3, relative=True),
        "log likelihood, Kalman filter": compare(log_likelihood, exact, 1e-9, relative=True),
        "level, Kalman smoother": compare(level.mean.asnumpy(), mean, 1e-9, relative=True),
        "its variance, Kalman smoother": compare(level.variance.asnumpy(), variance, 1e-9, relative=True),
    }
    print("Below, all deviations are relative.")
    return conclude(checks, options.output, "reference")


if __name__ == "__main__":
    sys.exit(main())
