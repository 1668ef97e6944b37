# SPDX-License-Identifier: Apache-2.0
"""A summer's temperatures by a Gaussian process, checked against scikit-learn.

In 1973 the highest temperature of each day from May to September was written down at La Guardia
Airport, New York. It has spells, which last about a week; a part that carries over from one day to
the next; and a part of each day alone. Each is a kernel of MXFusion's, and their sum is the covariance of
one long Gaussian vector. The first fortnight of August is hidden. This script

1. finds the variances and length scales, five in all, by MAP. No prior is given, so this
   maximises the marginal likelihood;
2. predicts the whole summer, the hidden days too, by conditioning the joint Gaussian of old and new
   measurements on the old ones;
3. compares with scikit-learn's GaussianProcessRegressor: the log marginal likelihood of the same
   hyperparameters, the best one that its own optimizer finds, and the prediction.

It ends with an error if they differ by more than the bounds it prints.

Run ``python examples/gaussian_process.py``; it takes about 10 seconds, and needs scikit-learn.
"""

import datetime
import sys

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn import Gaussian, MultivariateNormal
from mxfusion_mvn.inference import MAP, CompiledLoop, GradBasedInference
from mxfusion_mvn.transformations import Positive

import matplotlib.dates as mdates
import mxnet as mx
import numpy as np
from _common import BLUE, DTYPE, INK, LARGE, NORMAL_90, ORANGE, compare, conclude, double, parse, plt, read_table
from mxfusion import Model, Variable
from mxfusion.components.distributions.gp.kernels import RBF, Matern52, White
from mxnet.lr_scheduler import CosineScheduler

try:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process import kernels as sklearn_kernels
except ImportError:
    sys.exit("This example compares with scikit-learn, which is not installed; run: pip install scikit-learn")

YEAR = 1973
HIDDEN = (datetime.date(YEAR, 8, 1), datetime.date(YEAR, 8, 14))  # first and last day
DAYS_A_WEEK = 7  # time is counted in weeks, so that all hyperparameters are of order 1
STEPS_A_DAY = 4  # of the prediction, for a smooth picture
# Where both optimizers start: (variance, length scale in weeks), of temperatures with variance 1.
START = {"spell": (0.5, 2.0), "carry": (0.3, 0.3), "noise": (0.2,)}


def make_kernel():
    """Spells, carry-over and noise, by MXFusion."""
    spell = RBF(1, **positive("spell"), name="spell", dtype=DTYPE)
    carry = Matern52(1, **positive("carry"), name="carry", dtype=DTYPE)
    return spell + carry + White(1, **positive("noise"), name="noise", dtype=DTYPE)


def fit_process(time, temperature, iterations):
    """
    The kernel, and its hyperparameters by maximum marginal likelihood.

    :param time: (N, 1), in weeks.
    :param temperature: (N,), with mean 0 and variance 1.
    :param iterations: of the optimizer.
    :returns: the kernel of MXFusion and {name: NDArray (1,)}.
    """
    kernel = make_kernel()
    model = Model()
    model.time = Variable(shape=time.shape)
    model.covariance = kernel(model.time)
    model.temperature = MultivariateNormal(covariance=model.covariance, shape=temperature.shape, dtype=DTYPE)

    loop = CompiledLoop(schedule=CosineScheduler(iterations, base_lr=0.2, final_lr=0.001))
    inference = GradBasedInference(MAP(model, [model.time, model.temperature]), grad_loop=loop, dtype=DTYPE)
    inference.run(time=time, temperature=temperature, max_iter=iterations)
    return kernel, {name: inference.params[variable] for name, variable in kernel.parameters.items()}


def log_likelihood(kernel, parameters, time, temperature):
    """The log marginal likelihood."""
    covariance = kernel.K(mx.nd, double(time), **parameters)
    return Gaussian(covariance=covariance).log_pdf(double(temperature)).asscalar()


def predict(kernel, parameters, time, temperature, new_time):
    """
    The Gaussian of new measurements, given the old ones.

    They may be of the same time: the noise of the new is its own.
    """
    old, new = len(time), len(new_time)
    covariance = kernel.K(mx.nd, double(np.concatenate([time, new_time])), **parameters)
    return Gaussian(covariance=covariance).condition(list(range(old)), temperature, list(range(old, old + new)))


def sklearn_process(spell, carry, noise, optimizer=None):
    """The same process by scikit-learn, from (variance, length scale) of each part."""
    kernels = sklearn_kernels
    kernel = (
        kernels.ConstantKernel(spell[0]) * kernels.RBF(spell[1])
        + kernels.ConstantKernel(carry[0]) * kernels.Matern(carry[1], nu=2.5)
        + kernels.WhiteKernel(noise[0])
    )
    return GaussianProcessRegressor(kernel, alpha=0.0, optimizer=optimizer)


def by_part(parameters):
    """{spell, carry, noise: (variance, length scale) or (variance,)}, as floats."""
    return {
        part: tuple(parameters[f"add_{part}_{word}"].asscalar() for word in ("variance", "lengthscale")[: len(start)])
        for part, start in START.items()
    }


def positive(part):
    """Hyperparameters to be learned, by the names of MXFusion's kernels."""
    return {
        name: Variable(shape=(1,), transformation=Positive(), initial_value=double([start]))
        for name, start in zip(("variance", "lengthscale"), START[part])
    }


def read_temperatures():
    """Dates and highest temperatures, in degrees Celsius."""
    month, day, fahrenheit = read_table("airquality.csv", ["Month", "Day", "Temp"]).T
    dates = [datetime.date(YEAR, int(m), int(d)) for m, d in zip(month, day)]
    return np.array(dates), (fahrenheit - 32) / 1.8


def describe(parts, scale):
    """The learned hyperparameters in degrees and days: a heading, and a line for each part."""
    yield f"{'':<12}{'sd':>6}{'length scale':>15}"
    for (variance, *length), name in zip(parts.values(), ("spells", "carry-over", "day's own")):
        days = f"{DAYS_A_WEEK * length[0]:.1f} days" if length else "none"
        yield f"{name:<10}{scale * np.sqrt(variance):>5.1f} °C{days:>15}"


def draw_picture(path, dates, temperature, hidden, mean, sd, parts):
    """
    Draw measured and predicted temperatures.

    :param path: of the PNG to write.
    :param dates: (N,).
    :param temperature: (N,), in degrees Celsius.
    :param hidden: (N,), which days were hidden.
    :param mean: of the prediction, in degrees Celsius, with STEPS_A_DAY.
    :param sd: likewise.
    :param parts: lines of text, the learned hyperparameters.
    """
    with plt.rc_context(LARGE):
        figure, axes = plt.subplots(figsize=(8.6, 4.6))
        figure.subplots_adjust(left=0.07, right=0.985, bottom=0.075, top=0.85)
        day = mdates.date2num(dates)
        axes.axvspan(day[hidden][0] - 0.5, day[hidden][-1] + 0.5, color="#F1F1F1", linewidth=0)
        x = day[0] + np.arange(len(mean)) / STEPS_A_DAY
        axes.fill_between(x, mean - NORMAL_90 * sd, mean + NORMAL_90 * sd, color=BLUE, alpha=0.22, linewidth=0)
        axes.plot(x, mean, color=BLUE, linewidth=2.0)
        axes.plot(day[~hidden], temperature[~hidden], "o", color=INK, markersize=4, markeredgewidth=0)
        axes.plot(day[hidden], temperature[hidden], "o", color=ORANGE, markersize=5.5, markerfacecolor="white")
        label_picture(figure, axes, day, hidden)
        axes.text(0.985, 0.035, "\n".join(parts), transform=axes.transAxes, size=8.3, family="monospace", ha="right")
        figure.savefig(path, dpi=187)
        plt.close(figure)


def label_picture(figure, axes, day, hidden):
    """Words and limits."""
    axes.set(xlim=(day[0] - 0.9, day[-1] + 0.9), ylim=(7, 42))
    axes.xaxis.set_major_locator(mdates.MonthLocator(bymonthday=(1, 15)))
    axes.xaxis.set_major_formatter(lambda number, _: f"{mdates.num2date(number):%d %b}".lstrip("0"))
    axes.set_ylabel("highest temperature of the day (°C)")
    figure.text(0.07, 0.945, "The fortnight that was hidden", size=16, weight="bold")
    words = f"New York, {YEAR}: measured (dots), and what a Gaussian process expects (mean, 90 % band)"
    figure.text(0.07, 0.9, words, size=11)
    axes.text(day[hidden].mean(), 41.5, "hidden\nfrom the\nmodel", color=ORANGE, size=10.5, ha="center", va="top")


def main(arguments=None):
    """Fit, predict, compare and draw; the exit status is 1 if a bound is exceeded."""
    options = parse(arguments, __doc__, "gaussian_process", iterations=200)
    dates, temperature = read_temperatures()
    hidden = (dates >= HIDDEN[0]) & (dates <= HIDDEN[1])
    centre, scale = temperature[~hidden].mean(), temperature[~hidden].std()
    time = np.arange(len(dates))[:, np.newaxis] / DAYS_A_WEEK
    seen = time[~hidden], (temperature[~hidden] - centre) / scale

    kernel, parameters = fit_process(*seen, options.iterations)
    value = log_likelihood(kernel, parameters, *seen)
    every_time = np.arange(STEPS_A_DAY * (len(dates) - 1) + 1)[:, np.newaxis] / (STEPS_A_DAY * DAYS_A_WEEK)
    prediction = predict(kernel, parameters, *seen, every_time)
    mean = centre + scale * prediction.mean.asnumpy()
    sd = scale * np.sqrt(prediction.variance.asnumpy())

    same = sklearn_process(**by_part(parameters)).fit(*seen)
    same_value = same.log_marginal_likelihood_value_
    best_value = sklearn_process(**START, optimizer="fmin_l_bfgs_b").fit(*seen).log_marginal_likelihood_value_
    same_mean, same_sd = same.predict(every_time, return_std=True)
    parts = list(describe(by_part(parameters), scale))
    print("\n".join(part.rstrip() for part in parts))
    inside = (np.abs(temperature - mean[::STEPS_A_DAY]) <= NORMAL_90 * sd[::STEPS_A_DAY])[hidden].sum()
    print(f"\n{inside} of the {hidden.sum()} hidden days are within the 90 % band.")
    draw_picture(options.output, dates, temperature, hidden, mean, sd, parts)
    checks = {
        "log likelihood, same hyperparameters, relative": compare(value, same_value, 1e-6, relative=True),
        "log likelihood, each one's best": compare(value, best_value, 0.01),
        "predicted mean (°C)": compare(mean, centre + scale * same_mean, 1e-6),
        "predicted sd (°C)": compare(sd, scale * same_sd, 1e-6),
    }
    return conclude(checks, options.output, "scikit-learn")


if __name__ == "__main__":
    sys.exit(main())
