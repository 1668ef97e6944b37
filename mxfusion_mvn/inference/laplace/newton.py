# SPDX-License-Identifier: Apache-2.0
"""Modes and second derivatives, by differences of gradients, because MXNet has no second derivatives.

A column of the Hessian is ``(g(x + h e_i) - g(x - h e_i)) / 2 h`` with h a thousandth of the standard deviation that
the curvature gives the coordinate: the error is some 1e-7 of the entries. Columns of independent groups are taken
together. Eigenvalues are those of the Hessian with its diagonal scaled to one, so that units do not matter.
"""

from typing import NamedTuple

import numpy as np

# The step in standard deviations; without curvature the deviation is _FLAT times max(1, |x|).
_STEP = 1e-3
_FLAT = 1e3
_MAX_STEPS = 50
# With few coordinates, whose Hessians are cheap, more steps are allowed: up to so many columns of Hessians in all.
_MAX_COLUMNS = 4000
# The rounding of the differences of gradients, relative to the largest eigenvalue.
_ROUNDING = 100 * np.finfo(float).eps / _STEP
# A mode is found when another Newton step would gain fewer nats than this.
_CONVERGED = 1e-10
# Along a direction without curvature the density is level if it changes by fewer nats than this within a deviation.
_LEVEL = 1e-2
# A scaled eigenvalue below this times the largest is not a rounded zero: the density curves the wrong way.
WRONG_WAY = -1e-3
# After so many Hessians in a row that curve the wrong way, the density is evaluated far ahead, where positive variables
# are smaller by e^-20. A coordinate takes part if its part of the direction is at least _LEADING of the largest part.
_LOOK_EVERY = 3
_AHEAD = 20.0
_LEADING = 0.1


class Mode(NamedTuple):
    """
    A minimum of f and its curvature.

    ``point`` (n,), ``value`` f there, ``scale`` (n,) with ``scaled`` (n, n) the Hessian times scale on both sides,
    ``decrement`` is the gain of another Newton step, ``slope`` the change of f within a deviation along the directions
    without curvature, in which no step is taken, ``steps`` the number of steps taken, ``error`` the error of the
    eigenvalues of ``scaled``, relative to the largest.
    """

    point: np.ndarray
    value: float
    scale: np.ndarray
    scaled: np.ndarray
    decrement: float
    slope: float
    steps: int
    error: float

    @property
    def level(self):
        """Whether the gradient is zero along the directions without curvature."""
        return bool(self.slope < _LEVEL)

    @property
    def converged(self):
        """Whether the gradient is zero, measured by the curvature."""
        return bool(self.decrement < 1e3 * _CONVERGED) and self.level


def find_mode(density, groups, tolerance):
    """
    Newton's method with halved steps, from the start of the density.

    It ends early if the density rises without a mode, as it does if a variance goes to zero together with its effects:
    the steps would go on to the limits of floating point, each with a Hessian.

    :param density: an :class:`~mxfusion_mvn.inference.laplace.density.UnconstrainedDensity`.
    :param groups: list of integer arrays, the coordinates of each independent group.
    :param tolerance: eigenvalues of the scaled Hessian below this times the largest count as zero; None for those below
        the error of the differences.
    :returns: :class:`Mode`.
    """
    point = density.begin
    deviation = 0.1 * np.maximum(1, np.abs(point))
    most = max(_MAX_STEPS, _MAX_COLUMNS // max(map(len, groups)))
    wrong_way = 0
    for steps in range(most + 1):
        hessian, asymmetry, scale = _hessian(density, point, deviation, groups)
        values, gradients = density.evaluate(point[None])
        scaled = scale * hessian * scale[:, None]
        newton = -scale * _solve_positive(scaled, scale * gradients[0], _ROUNDING if tolerance is None else tolerance)
        decrement = -0.5 * float(gradients[0] @ newton)
        refined = steps > 0  # the first Hessian did not know the scale of its steps
        if (refined and decrement < _CONVERGED) or steps == most:
            break
        direction = _wrong_way(scaled, scale, gradients[0])
        wrong_way = 0 if direction is None else wrong_way + 1
        if wrong_way % _LOOK_EVERY == _LOOK_EVERY - 1 and _falls_far_ahead(density, point, scale, direction, groups):
            break
        moved = _backtrack(density, point, values[0], newton, decrement)
        if moved is None and refined:
            break
        point, deviation = point if moved is None else moved, scale
    slope = float(np.abs(scale * gradients[0] + scaled @ (newton / scale)).max())
    twice, _, _ = _hessian(density, point, 2 * deviation, groups)
    errors = (scale * asymmetry * scale[:, None], scale * (twice - hessian) * scale[:, None])
    error = max(np.linalg.norm(each, 2) for each in errors) / np.linalg.norm(scaled, 2)
    return Mode(point, float(values[0]), scale, scaled, decrement, slope, steps, float(max(error, _ROUNDING)))


def _hessian(density, point, deviation, groups):
    """The Hessian (n, n), half the difference of its triangles, and the deviation by each of its diagonal entries."""
    size, step = len(point), _STEP * deviation
    columns = max(map(len, groups))
    moves = np.zeros((columns, size))
    for group in groups:
        moves[np.arange(len(group)), group] = step[group]
    gradients = density.evaluate(np.concatenate([point + moves, point - moves]))[1]
    differences = gradients[:columns] - gradients[columns:]
    hessian, asymmetry = np.zeros((size, size)), np.zeros((size, size))
    for group in groups:
        block = differences[: len(group), group] / (2 * step[group, None])
        hessian[np.ix_(group, group)] = 0.5 * (block + block.T)
        asymmetry[np.ix_(group, group)] = 0.5 * (block - block.T)
    curvature = np.abs(np.diag(hessian))
    with np.errstate(divide="ignore"):
        scale = np.minimum(1 / np.sqrt(curvature), _FLAT * np.maximum(1, np.abs(point)))
    return hessian, asymmetry, scale


def _wrong_way(scaled, scale, gradient):
    """The downhill direction that curves the wrong way most, with largest part 1; None if there is none."""
    values, vectors = np.linalg.eigh(scaled)
    if values[0] >= WRONG_WAY * values[-1]:
        return None
    direction = scale * vectors[:, 0]
    direction = direction / np.abs(direction).max()
    return -direction if direction @ gradient > 0 else direction


def _falls_far_ahead(density, point, deviation, direction, groups):
    """Whether f is lower far along a direction and goes on falling, with the other coordinates at their optimum."""
    leading = np.abs(direction) > _LEADING
    ahead = point + _AHEAD * np.where(leading, direction, 0)
    hessian, _, scale = _hessian(density, ahead, deviation, groups)
    if leading.all() or not np.isfinite(hessian).all():
        return False
    gradient = density.evaluate(ahead[None])[1][0]
    free, scale = ~leading, scale[~leading]
    scaled = scale * hessian[np.ix_(free, free)] * scale[:, None]
    ahead[free] -= scale * _solve_positive(scaled, scale * gradient[free], _ROUNDING)
    values, gradients = density.evaluate(np.stack([point, ahead]))
    return bool(values[1] < values[0] and gradients[1][leading] @ direction[leading] < -_LEVEL)


def _solve_positive(matrix, vector, tolerance):
    """|A|^-1 v, without the directions that have no curvature."""
    values, vectors = np.linalg.eigh(matrix)
    sizes = np.abs(values)
    inverse = np.where(sizes > tolerance * sizes.max(), 1 / np.maximum(sizes, np.finfo(float).tiny), 0)
    return vectors @ (inverse * (vectors.T @ vector))


def _backtrack(density, point, value, newton, decrement):
    """The first of the points at 1, 1/2, 1/4, ... of a step at which f is lower; None if there is none."""
    fractions = 0.5 ** np.arange(30)
    for fraction in fractions:
        there = density.evaluate((point + fraction * newton)[None])[0][0]
        if there <= value - 1e-4 * fraction * decrement:
            return point + fraction * newton
    return None
