# SPDX-License-Identifier: Apache-2.0
"""GaussianStatistics in place of rows: which observed variables may have them, and the arrays that they become."""

from mxfusion_mvn import checks
from mxfusion_mvn.distributions import LowRankMultivariateNormal, MatrixNormal, MultivariateNormal
from mxfusion_mvn.distributions._base import VectorDistribution, row_counts_key
from mxfusion_mvn.inference.arguments import refuse
from mxfusion_mvn.inference.loops.observed import as_data
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.totals.gaussian_statistics import GaussianStatistics

import mxnet as mx
from mxfusion.components.variables import Variable

_KINDS = (MultivariateNormal, LowRankMultivariateNormal, MatrixNormal)
_GOT = "GaussianStatistics"


def as_observed(variable, value, graphs, dtype, ctx):
    """
    Data as an NDArray: the rows, or for statistics the rows that stand for them.

    :param variable: the observed Variable.
    :param value: what :func:`~mxfusion_mvn.inference.loops.observed.as_data` takes, or
        :class:`~mxfusion_mvn.GaussianStatistics`.
    :param graphs: list of the model and the other graphs of the inference.
    :param dtype: that of the inference.
    :param ctx: MXNet context of what is converted.
    :returns: NDArray.
    :raises InferenceError: by the name of the variable: for other data, and for statistics where the model needs more
        of the rows than their mean and scatter.
    """
    if not isinstance(value, GaussianStatistics):
        return as_data(variable, value, dtype, ctx)
    _check_distribution(variable)
    _check_shape(variable, value)
    _check_missing(variable, value)
    _check_use(variable, graphs)
    return mx.nd.array(value.standing_rows()[0], dtype=dtype, ctx=ctx)


def row_counts(given):
    """
    What the distributions are to be told of data that are statistics.

    :param given: dict from observed Variables to data of any kind.
    :returns: dict from the key of each statistics (:func:`row_counts_key`) to NumPy arrays.
    """
    return {
        row_counts_key(variable.uuid): value.standing_rows()[1]
        for variable, value in given.items()
        if isinstance(value, GaussianStatistics)
    }


def _check_distribution(variable):
    kind = type(variable.factor)
    if not (issubclass(kind, _KINDS) and kind.log_pdf is VectorDistribution.log_pdf and kind.has_own_total()):
        names = ", ".join(known.__name__ for known in _KINDS)
        expected = f"rows, because statistics say all about them only for {names}"
        remedy = "Pass the rows; if there are many of them, in a loop over minibatches."
        refuse(name_of(variable), f"{_GOT} for {_describe(variable)}", expected, remedy)


def _describe(variable):
    """The kind of a variable, in words."""
    if variable.factor is None:
        return "a variable without a distribution"
    kind = type(variable.factor)
    return f"a {kind.__name__}{' of MXFusion' if kind.__module__.startswith('mxfusion.') else ''}"


def _check_shape(variable, statistics):
    name, declared = name_of(variable), variable.shape
    axes = len(variable.factor.EVENT["random_variable"])
    event = declared[len(declared) - axes :]
    if len(declared) != 1 + axes or not isinstance(declared[0], Variable):
        sizes = f"(model.N, {checks.show_shape(event)[1:-1].rstrip(',')})"
        expected = "a variable with one axis of rows, of any number"
        remedy = f"Declare it with shape={sizes}, where model.N = Variable()."
        refuse(name, f"{_GOT} for shape {checks.show_shape(declared)}", expected, remedy)
    if not statistics.count:
        refuse(name, f"{_GOT} of no rows", "one at least", "Add rows by statistics.update(rows).")
    if statistics.shape != event:
        got = f"{_GOT} of rows of shape {checks.show_shape(statistics.shape)}"
        refuse(name, got, f"rows of shape {checks.show_shape(event)}", "Add rows in the shape of the variable.")


def _check_missing(variable, statistics):
    if not statistics.has_missing or variable.factor.MAY_BE_NAN:
        return
    remedy = (
        "Declare it as MultivariateNormal(..., missing=True)."
        if isinstance(variable.factor, MultivariateNormal)
        else "Add complete rows only, or declare it as a MultivariateNormal(..., missing=True)."
    )
    refuse(name_of(variable), f"{_GOT} of rows with missing entries", "complete rows", remedy)


def _check_use(variable, graphs):
    """Refuse a model, or a posterior, in which the rows or their number occur elsewhere."""
    name, size = name_of(variable), variable.shape[0]
    for graph in graphs:
        for other in graph.variables.values():
            users = [factor for _, factor in other.successors or ()]
            if other.uuid in (variable.uuid, size.uuid) and users:
                what = f"`{name}`" if other.uuid == variable.uuid else f"`{name_of(other)}`, the number of its rows,"
                got = f"{_GOT} while {what} is an input of `{name_of(users[0].outputs[0][1])}`"
                refuse(name, got, "rows, because there they are needed", "Pass the rows.")
            if other.uuid != variable.uuid and any(_is_size(each, size) for each in other.shape or ()):
                got = f"{_GOT} while `{name_of(other)}` has an entry for each row"
                refuse(name, got, "rows, because there they are needed", "Pass the rows.")


def _is_size(each, size):
    return isinstance(each, Variable) and each.uuid == size.uuid
