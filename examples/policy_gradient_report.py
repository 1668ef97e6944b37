# SPDX-License-Identifier: Apache-2.0
"""The table and the picture of the policy gradient, without MXNet."""

from itertools import chain, repeat

import numpy as np
from _common import FAINT, INK, SETTINGS, ellipse, plt
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

COLOURS = ["#E66100", "#9A9A9A"]  # of the first seed, and of the others
PATH_STEPS = 8  # later the ship only trembles
STEP = 0.5  # minutes
THRUSTERS = np.array([0.85, 1.4])  # where in the picture their arrows are
DASHED = {"edgecolor": INK, "linewidth": 1.4, "linestyle": (0, (4, 3))}


def print_table(optimum, simulated, results, ratio_bound, divergence_bound):
    """
    Print the trained policy of each seed below the optimum.

    :param optimum: Optimum.
    :param simulated: cost of the best controller on the trips of the test.
    :param results: {seed: Result}.
    :param ratio_bound: of the cost over the optimum.
    :param divergence_bound: of the divergence, in nats.
    """
    print(f"{'':<20}{'cost':>8}{'cost / optimum':>24}{'sd of the action':>20}{'correlation':>13}{'divergence':>12}")
    print(f"{'':<20}{'':>8}{'simulated':>11}{'closed form':>13}{'weak':>10}{'strong':>10}{'':>13}{'(nats)':>12}")
    print_row("optimum", optimum.cost, 1, 1, optimum.covariance, 0)
    print_row("optimum, simulated", simulated, 1)
    for seed, result in results.items():
        numbers = result.cost, result.ratio, result.closed_form_ratio, result.covariance, result.divergence
        print_row(f"seed {seed}", *numbers)
    print(f"{'bound':<20}{'':>8}{ratio_bound:>11.4g}{ratio_bound:>13.4g}{'':>33}{divergence_bound:>12.4g}")


def print_row(label, cost, ratio, closed_form_ratio=None, covariance=None, divergence=None):
    """One line of the table; None is left out."""
    line = f"{label:<20}{cost:>8.4f}{ratio:>11.4f}"
    if covariance is not None:
        sd = np.sqrt(np.diag(covariance))
        correlation = covariance[0, 1] / sd.prod()
        line += f"{closed_form_ratio:>13.4f}{sd[0]:>10.4f}{sd[1]:>10.4f}{correlation:>13.4f}{divergence:>12.4f}"
    print(line)


def draw_picture(path, optimum, best_paths, results, ratio_bound, directions):
    """
    Draw the cost during training, the covariance of the action, and the paths of the ship.

    :param path: of the PNG to write.
    :param optimum: Optimum.
    :param best_paths: positions under the best controller (steps, trips, 2).
    :param results: {seed: Result}.
    :param ratio_bound: of the cost over the optimum.
    :param directions: where the two thrusters push to, a column for each, (2, 2).
    """
    with plt.rc_context(SETTINGS):
        figure = plt.figure(figsize=(13.0, 5.2))
        grid = figure.add_gridspec(1, 3, left=0.07, right=0.99, bottom=0.11, top=0.77, wspace=0.24)
        panels = [figure.add_subplot(cell) for cell in grid]
        draw_curves(panels[0], results, ratio_bound)
        draw_covariances(panels[1], optimum, results)
        draw_paths(panels[2], best_paths, results, directions)
        draw_words(figure, panels, results)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def draw_curves(axes, results, ratio_bound):
    """The excess cost of each policy over the best controller during its training."""
    for colour, result in last_first(results):
        iterations, ratio, _ = zip(*result.history)
        axes.semilogy(iterations, 100 * (np.array(ratio) - 1), color=colour, linewidth=1.8)
    bound = 100 * (ratio_bound - 1)
    axes.axhline(bound, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    axes.text(0.99, bound * 1.2, f"bound: {bound:.0f} %", transform=axes.get_yaxis_transform(), ha="right", size=10)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g} %"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)
    axes.set_xlabel("iteration")


def draw_covariances(axes, optimum, results):
    """The 50 % and 95 % regions of the action around its mean; of the first seed also during training."""
    history = next(iter(results.values())).history
    for glance in history[:: max(1, len(history) // 10)]:
        axes.add_patch(ellipse([0, 0], glance.covariance, 0.95, edgecolor=COLOURS[0], linewidth=0.8, alpha=0.45))
    for probability, width in ((0.5, 1.2), (0.95, 2.4)):
        for colour, result in last_first(results):
            axes.add_patch(ellipse([0, 0], result.covariance, probability, edgecolor=colour, linewidth=width))
        axes.add_patch(ellipse([0, 0], optimum.covariance, probability, **DASHED))
    widest = radius(history[0].covariance)
    reach = 1.2 * widest
    axes.set(
        xlim=(-reach, reach),
        ylim=(-reach, reach),
        xlabel="power of the weak thruster",
        ylabel="power of the strong thruster",
    )
    axes.text(0, 1.06 * widest, "before training", size=9, color=COLOURS[0], ha="center")
    equal_scales(axes)


def last_first(results):
    """Colour and result of each seed, so that the first is drawn over the others."""
    return reversed(list(zip(chain(COLOURS[:1], repeat(COLOURS[1])), results.values())))


def radius(covariance):
    """The distance from the centre to the farthest point of the 95 % ellipse."""
    return np.sqrt(-2 * np.log(0.05) * np.linalg.eigvalsh(covariance)[-1])


def draw_paths(axes, best_paths, results, directions):
    """Where the ship goes under the policy of the first seed, and under the best controller."""
    learned = next(iter(results.values())).paths
    steps = slice(PATH_STEPS)
    for trip in range(best_paths.shape[1]):
        axes.plot(*learned[steps, trip].T, color=COLOURS[0], linewidth=2.4)
        axes.plot(*best_paths[steps, trip].T, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.plot(*best_paths[0, trip], marker="o", color=INK, markersize=5)
    for direction, name in zip(directions.T, ("weak", "strong")):
        style = {"arrowstyle": "-|>", "color": FAINT, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", THRUSTERS + 0.5 * direction, THRUSTERS, arrowprops=style)
        axes.text(*(THRUSTERS + 0.55 * direction), name, size=9, color=FAINT, va="center")
    axes.set(
        xlim=(-2.2, 2.2),
        ylim=(-2.2, 2.2),
        xlabel="position ahead (sd at the start)",
        ylabel="position to the side (sd at the start)",
    )
    equal_scales(axes)


def equal_scales(axes):
    """One unit as long to the right as up, and round tick labels."""
    axes.set_aspect("equal", adjustable="datalim")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def draw_words(figure, panels, results):
    """Titles and keys."""
    left = panels[0].get_position().x0
    figure.text(left, 0.965, "A policy network learns to hold a ship in place", size=17, weight="bold", va="top")
    words = [
        ("Cost above the optimum", f"of acting by the mean; {len(results)} seeds, the first in colour"),
        ("Covariance of the action", "50 % and 95 % around its mean: learned, optimal (dashed)"),
        ("The ship under way", f"same gusts, {PATH_STEPS * STEP:.0f} min: learned, optimal (dashed)"),
    ]
    for axes, (title, key) in zip(panels, words):
        left = axes.get_position().x0
        figure.text(left, 0.865, title, size=13, weight="bold", va="top")
        figure.text(left, 0.81, key, size=9.5, va="top")
