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
any with a covariance that is a number                 no matrix: each entry is a row by itself
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

from mxfusion_mvn import structures
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.linalg import is_differentiated
from mxfusion_mvn.linalg.axes import add, align_samples, subtract
from mxfusion_mvn.linalg.density import LOG_2PI, plus_rank
from mxfusion_mvn.structures import forms
from mxfusion_mvn.totals import closed_form
from mxfusion_mvn.totals.statistics import all_rows, mean_and_scatter

import numpy as np

_STATE = threading.local()
_STRUCTURES = {"covariance": structures.Dense, "precision": structures.Precision, "scale_tril": structures.Cholesky}


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


def total_log_pdf(x, mean, covariance=None, precision=None, scale_tril=None):
    """
    The sum of the log densities of Gaussian vectors, with gradients in closed form where these are faster.

    It is the fast way to a loss and its gradient; a second derivative is refused. Inside :func:`reading` it makes
    use of statistics as well. Nothing is checked, and no factorisation waited for.

    :param x: NDArray (B..., D).
    :param mean: NDArray (B..., D) or (B..., 1).
    :param covariance: Sigma, NDArray (B..., D, D). Give it or one of the following; leading axes broadcast.
    :param precision: Sigma^-1, NDArray (B..., D, D).
    :param scale_tril: L with L L^T = Sigma, NDArray (B..., D, D), of which the lower triangle is read.
    :returns: NDArray (1,).
    :raises ValueError: unless the matrix is given in exactly one way, and for types and shapes that do not fit.
    """
    given = {"covariance": covariance, "precision": precision, "scale_tril": scale_tril}
    forms.as_structure(given, None)  # refuses what is not one matrix
    ((form, matrix),) = [(name, value) for name, value in given.items() if value is not None]
    x = arguments.as_array("x", x, matrix, matrix.shape[-1])
    mean = arguments.as_array("mean", mean, matrix)
    aligned = {"x": x.expand_dims(0), "mean": mean.expand_dims(0), "matrix": matrix.expand_dims(0)}
    aligned = align_samples(aligned, {"x": 1, "mean": 1, "matrix": 2})
    return total(aligned["x"], aligned["mean"], form, aligned["matrix"], _STRUCTURES[form](aligned["matrix"], None))


def total(value, mean, form, matrix, structure, closed=True):
    """
    The total of each sample, of a covariance given by a matrix.

    :param value: NDArray (S or 1, B..., D).
    :param mean: NDArray (S or 1, B..., D) or (S or 1, B..., 1), with as many axes, as have the others.
    :param form: ``covariance``, ``precision`` or ``scale_tril``.
    :param matrix: NDArray (S or 1, B..., D, D).
    :param structure: its :class:`~mxfusion_mvn.structures.Structure`.
    :param closed: whether gradients may be in closed form: not where a policy may change the matrix.
    :returns: NDArray (S or 1,).
    """
    rows = reduced(value, mean, matrix.shape[:-2])
    return total_of_rows(rows, form, matrix, structure, closed)


def total_of_rows(rows, form, matrix, structure, closed=True):
    """
    As :func:`total`, of rows that have been reduced.

    :param rows: :class:`~mxfusion_mvn.totals.statistics.Rows`.
    :param form: ``covariance``, ``precision`` or ``scale_tril``.
    :param matrix: NDArray (S or 1, B..., D, D).
    :param structure: its :class:`~mxfusion_mvn.structures.Structure`.
    :param closed: whether gradients may be in closed form.
    :returns: NDArray (S or 1,).
    """
    if closed and closed_form.pays(rows, matrix):
        return closed_form.total(form, rows, matrix)
    return total_by_structure(rows, structure, matrix.shape[:-2])


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
    :param matrix_axes: its leading axes, a tuple as long as those of the rows.
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
    count = rows.vectors / np.prod(matrix_axes[1:], dtype=int)
    normaliser = plus_rank(structure.log_det(), structure.rank(), LOG_2PI)
    return -0.5 * add(squares, count * _per_sample(normaliser))


def _per_sample(array, axis=0):
    """Sums over all axes but that of the samples, (S or 1,)."""
    return array if array.ndim == 1 else array.sum(axis=axis, exclude=True)
