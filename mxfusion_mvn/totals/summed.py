# SPDX-License-Identifier: Apache-2.0
"""The summed log density: one total for each Monte Carlo sample, where inference needs no more.

Inference sums the rows of a log density at once. Knowing that, there are two ways to the total that rows do not have::

    sum_n log N(x_n; mean, Sigma) = -1/2 (N |A (x_mean - mean)|^2 + |A C^T|^2 + N log det Sigma + N D log 2 pi)

with A^T A = Sigma^-1 and C^T C the scatter of the rows (:mod:`mxfusion_mvn.totals.statistics`), which are computed once
for all iterations; and gradients in closed form (:mod:`mxfusion_mvn.totals.closed_form`). Which one is used where:

=====================================================  ===================================================
rows                                                   what an evaluation costs
=====================================================  ===================================================
constant, sharing mean and covariance                  as D rows and one for each mean, whatever N is
constant, with the mean of a regression                as P + D rows, for P predictors and whatever N is;
(:func:`~mxfusion_mvn.functions.linear`)               with groups, in each group
constant, with entries missing, sharing a mean         as D + 1 rows in each pattern of missing entries
any with a covariance that is a scalar                 no matrix: each entry is a row by itself
latent variables, minibatches, a mean for each row     all rows; the gradients in closed form where that pays
=====================================================  ===================================================

That holds for :class:`~mxfusion_mvn.MultivariateNormal` in its three forms,
:class:`~mxfusion_mvn.LowRankMultivariateNormal` and :class:`~mxfusion_mvn.MatrixNormal`, the last two with MXNet's
gradients. There are no sufficient statistics of a fixed size for the Student t (its density weighs each row by its
distance from the mean, which changes with the parameters) and for mixtures (the same with the assignments): they are
summed row by row, as are the priors of matrices, of which there is one row as a rule.
"""

import contextlib
import threading

from mxfusion_mvn.linalg import is_differentiated
from mxfusion_mvn.linalg.axes import add, size_of, subtract
from mxfusion_mvn.linalg.density import log_density, normaliser
from mxfusion_mvn.totals.statistics import all_rows, mean_and_scatter

import numpy as np

_STATE = threading.local()


@contextlib.contextmanager
def reading(is_constant):
    """
    For the span of a ``with`` block, in this thread, let totals read constants, and reduce them to statistics.

    :param is_constant: function of an NDArray: whether it is the same in each evaluation of what is being traced.
    """
    before = getattr(_STATE, "is_constant", None)
    _STATE.is_constant = is_constant
    try:
        yield
    finally:
        _STATE.is_constant = before


def is_constant(array):
    """
    Whether an array may be read and reduced to statistics: only inside :func:`reading`.

    :param array: NDArray.
    :returns: a bool.
    """
    is_constant = getattr(_STATE, "is_constant", None)
    return is_constant is not None and not is_differentiated(array) and bool(is_constant(array))


def reduced(value, mean, matrix_axes):
    """
    Statistics of the rows if they are constant, else the rows.

    :param value: NDArray (S or 1, B..., D).
    :param mean: NDArray (S or 1, B..., D).
    :param matrix_axes: the leading axes of the covariance, a tuple.
    :returns: :class:`~mxfusion_mvn.totals.statistics.Rows`.
    """
    if value.shape[0] == 1 and is_constant(value):
        return mean_and_scatter(value, mean, matrix_axes)
    return all_rows(value, mean, matrix_axes)


def total_by_structure(rows, structure, matrix_axes):
    """
    The total of each sample, of any covariance.

    :param rows: :class:`~mxfusion_mvn.totals.statistics.Rows`.
    :param structure: a regular :class:`~mxfusion_mvn.structures.Structure`.
    :param matrix_axes: its leading axes, a tuple as long as the leading axes of the rows.
    :returns: NDArray (S or 1,).
    """
    if structure.trains_in_float64() and rows.value.dtype == np.float32:
        value, mean = rows.value.astype("float64"), rows.mean.astype("float64")
        scatter = None if rows.scatter is None else rows.scatter.astype("float64")
        rows = rows._replace(value=value, mean=mean, scatter=scatter)
        return total_by_structure(rows, structure.in_float64(), matrix_axes).astype("float32")
    structure = structure.for_one_computation()
    squares = _per_sample(structure.distance(subtract(rows.value, rows.mean)))
    if rows.weight != 1:
        squares = rows.weight * squares
    if rows.scatter is not None:
        squares = add(squares, _per_sample(structure.distance(rows.scatter), axis=1))
    count = rows.vectors / size_of(matrix_axes[1:])
    constants = normaliser(structure.log_det(), structure.rank())
    return log_density(squares, count * _per_sample(constants))


def _per_sample(array, axis=0):
    """Sums over all axes but the axis of samples, (S or 1,)."""
    return array if array.ndim == 1 else array.sum(axis=axis, exclude=True)
