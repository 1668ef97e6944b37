# SPDX-License-Identifier: Apache-2.0
"""The table and the picture of the quickstart, without MXFusion."""

import numpy as np
from _common import INK, SETTINGS, STYLES, ellipse, plt
from matplotlib.ticker import MaxNLocator

POSTERIOR_PAIR = (2, 3)  # the measurements whose posterior is shown
REACH = np.sqrt(-2 * np.log(0.05))  # of the 95 % ellipses from the mean, in sd
MARGIN = 0.03


def print_table(title, labels, fitted, exact):
    """
    Print each estimate beside its closed form; r is the correlation with a measurement.

    :param title: of the table, the species.
    :param labels: of the D measurements, with their units.
    :param fitted: Estimate.
    :param exact: Estimate, by the closed forms.
    """
    names, units = zip(*(label.split(" (") for label in labels))
    print(f"\n{title:<17}" + "".join(f"{name:>15}" for name in names))
    print(" " * 17 + "".join(f"{'(' + unit:>15}" for unit in units))
    print(" " * 17 + f"{'fitted':>8}{'exact':>7}" * len(labels))
    for (label, left), (_, right) in zip(table_rows(names, fitted), table_rows(names, exact)):
        cells = [f"{round(a, 4):>8.5g}{round(b, 4):>7.5g}" for a, b in zip(left, right)]
        print(f"{label:<17}" + " " * 15 * (len(names) - len(cells)) + "".join(cells))


def table_rows(names, estimate):
    """Label and entries of each line of the table; a line r has the measurements after it."""
    sd = np.sqrt(np.diag(estimate.covariance))
    correlation = estimate.covariance / np.outer(sd, sd)
    yield "mean", estimate.mean
    yield "sd", sd
    for i, name in enumerate(names[:-1]):
        yield "r " + name, correlation[i, i + 1 :]
    yield "sd of the mean", np.sqrt(np.diag(estimate.posterior_covariance))


def draw_picture(path, labels, data, fits, exacts):
    """
    Draw the data and the fitted normals.

    :param path: of the PNG to write.
    :param labels: of the D measurements, with their units.
    :param data: {species: array (N, D)}.
    :param fits: {species: Estimate}, fitted.
    :param exacts: {species: Estimate}, by the closed forms.
    """
    with plt.rc_context(SETTINGS):
        figure = plt.figure(figsize=(10.7, 10.0))
        draw_matrix(figure, labels, data, fits)
        draw_words(figure, data)
        draw_posteriors(figure.add_axes([0.66, 0.585, 0.325, 0.235]), labels, fits, exacts)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_matrix(figure, labels, data, fits):
    """The lower triangle of the matrix of pairs, and the single measurements on its diagonal."""
    dim = len(labels)
    grid = figure.add_gridspec(dim, dim, left=0.075, right=0.985, bottom=0.065, top=0.975, wspace=0.09, hspace=0.09)
    limits = find_limits(data, fits)
    for row in range(dim):
        for column in range(row + 1):
            axes = figure.add_subplot(grid[row, column])
            axes.set_xlim(limits[column])
            if row == column:
                draw_marginals(axes, row, data, fits)
            else:
                axes.set_ylim(limits[row])
                draw_pair(axes, [column, row], data, fits)
            label_sides(axes, labels, row, column)
    figure.align_ylabels()


def find_limits(data, fits):
    """Lower and upper end of each axis, (D, 2): room for every bird and every ellipse."""
    points = list(data.values())
    for fit in fits.values():
        reach = REACH * np.sqrt(np.diag(fit.covariance))
        points.append([fit.mean - reach, fit.mean + reach])
    points = np.concatenate(points)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.transpose([low - MARGIN * (high - low), high + MARGIN * (high - low)])


def draw_marginals(axes, i, data, fits):
    """Histogram and fitted density of one measurement."""
    x = np.linspace(*axes.get_xlim(), 300)
    edges = np.linspace(*axes.get_xlim(), 26)
    for (colour, _), (species, measured) in zip(STYLES, data.items()):
        mean, variance = fits[species].mean[i], fits[species].covariance[i, i]
        density = np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
        axes.hist(measured[:, i], edges, density=True, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, density, color=colour, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def draw_pair(axes, pair, data, fits):
    """Two measurements of all penguins, and the ellipses that should hold 50 % and 95 %."""
    for (colour, marker), (species, measured) in zip(STYLES, data.items()):
        axes.scatter(*measured[:, pair].T, s=11, marker=marker, color=colour, alpha=0.45, linewidth=0)
        mean, covariance = fits[species].mean[pair], fits[species].covariance[np.ix_(pair, pair)]
        for probability, width in ((0.5, 1.0), (0.95, 1.8)):
            axes.add_patch(ellipse(mean, covariance, probability, edgecolor=colour, linewidth=width))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def draw_posteriors(axes, labels, fits, exacts):
    """How well the means are known: 95 % regions, around the exact posterior means."""
    pair = list(POSTERIOR_PAIR)
    block = np.ix_(pair, pair)
    for (colour, _), (species, exact) in zip(STYLES, exacts.items()):
        offset = fits[species].posterior_mean[pair] - exact.posterior_mean[pair]
        fitted = fits[species].posterior_covariance[block]
        axes.add_patch(ellipse(offset, fitted, 0.95, edgecolor=colour, linewidth=2.4))
        outline = {"edgecolor": INK, "linewidth": 1.1, "linestyle": (0, (4, 4))}
        axes.add_patch(ellipse([0, 0], exact.posterior_covariance[block], 0.95, **outline))
    axes.autoscale_view()
    axes.set_xlabel("\N{GREEK CAPITAL LETTER DELTA} mean " + labels[pair[0]])
    axes.set_ylabel("\N{GREEK CAPITAL LETTER DELTA} mean " + labels[pair[1]])
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.text(0, 1.21, "How well each mean is known", transform=axes.transAxes, size=13, weight="bold")
    key = "95 % of the posterior, around its exact centre:\nvariational (colour), exact (dashed)"
    axes.text(0, 1.04, key, transform=axes.transAxes, size=9.5, linespacing=1.4)


def label_sides(axes, labels, row, column):
    """Names and tick labels at the left and the bottom of the whole only."""
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if row == len(labels) - 1:
        axes.set_xlabel(labels[column])
    else:
        axes.tick_params(labelbottom=False)
    if row != column:
        if column == 0:
            axes.set_ylabel(labels[row])
        else:
            axes.tick_params(labelleft=False)


def draw_words(figure, data):
    """Title, and which colour is which species."""
    left, top = 0.345, 0.965
    title = "Three penguin species, three multivariate normals"
    figure.text(left, top, title, size=16, weight="bold", va="top")
    for i, ((colour, marker), (species, measured)) in enumerate(zip(STYLES, data.items())):
        y = top - 0.065 - 0.028 * i
        dot = plt.Line2D([left + 0.008], [y], marker=marker, color=colour, markersize=7)
        figure.add_artist(dot)
        style = {"size": 13, "weight": "bold", "color": colour, "va": "center_baseline"}
        figure.text(left + 0.025, y, species, **style)
        figure.text(left + 0.13, y, f"{len(measured)} birds", size=11, va="center_baseline")
    key = "Ellipses: 50 % and 95 %\nof the fitted normal"
    figure.text(left, top - 0.15, key, size=9.5, va="top", linespacing=1.4)
