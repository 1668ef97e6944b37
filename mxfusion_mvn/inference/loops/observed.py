# SPDX-License-Identifier: Apache-2.0
"""Observed data, before the first iteration: turned into NDArrays of one dtype, and held against what was declared.

MXFusion takes NDArrays only, compares shapes as far as both have axes, and lets the last of several arrays say what N
is. :class:`~mxfusion_mvn.inference.GradBasedInference` gives its data here by name; the loops give theirs here, too,
where they are run by MXFusion's own class.
"""

import difflib

from mxfusion_mvn import checks
from mxfusion_mvn.inference.arguments import refuse
from mxfusion_mvn.inference.names import check_names, name_of
from mxfusion_mvn.totals.gaussian_statistics import GaussianStatistics

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.variables import Variable

_ACCEPTED = "an NDArray, a NumPy array or a DataFrame of numbers"
_LEAVE_OUT = "Leave it out, or name the variable among the observed ones of the algorithm."


def check_observed(infr_executor, data):
    """
    The data of a loop as what the model declares.

    :param infr_executor: MXFusion's ObjectiveBlock.
    :param data: list of arrays, in the order of the block.
    :returns: list of NDArrays of the inference's dtype; those that have it already are not copied.
    :raises ModelSpecificationError: if two variables of a graph have one name.
    :raises InferenceError: for data of another kind or shape, by the name of the variable.
    """
    graphs = infr_executor._infr_method.graphs
    for graph in graphs:
        check_names(graph)
    variables = {uuid: variable for graph in graphs for uuid, variable in graph.variables.items()}
    observed = [variables[uuid] for uuid in infr_executor._data_def]
    params = infr_executor._infr_params
    arrays = [as_data(v, value, params.dtype, params.mxnet_context) for v, value in zip(observed, data)]
    check_shapes({variable: array.shape for variable, array in zip(observed, arrays)})
    return arrays


def check_keywords(given, names, options=()):
    """
    Refuse keywords that are not the observed variables.

    :param given: the names of the keywords.
    :param names: list of the names of the observed variables.
    :param options: the names that the caller knows besides, which may have been misspelt.
    :raises InferenceError: for one that is missing or too many, with the name that is near to it.
    """
    known = [*names, *options]
    for keyword in given:
        if keyword not in names:
            wanted = ", ".join(f"`{name}`" for name in names) or "nothing: no variable is observed"
            remedy = did_you_mean(keyword, known) or _LEAVE_OUT
            raise InferenceError(f"`{keyword}`: got data for what is not observed; expected {wanted}. {remedy}")
    for name in names:
        if name not in given:
            raise InferenceError(
                f"`{name}`: got no data; expected an array for each observed variable. Pass it by name: run({name}=...)"
                " for what is observed."
            )


def as_data(variable, value, dtype, ctx):
    """
    Data as an NDArray, where there is no doubt about what they mean.

    :param variable: the observed Variable.
    :param value: NDArray or NumPy array of numbers or booleans, or a DataFrame or Series of pandas with such columns.
        Masked entries, and the missing ones of pandas, become NaN where the variable is declared with ``missing=True``.
    :param dtype: that of the inference, to which numbers are converted.
    :param ctx: MXNet context of what is converted.
    :returns: NDArray; value itself if it is one of that dtype.
    :raises InferenceError: for anything else, by the name of the variable.
    """
    name = name_of(variable)
    if isinstance(value, mx.nd.NDArray):
        return _dense(name, value).astype(dtype, copy=False)
    if hasattr(value, "to_numpy"):
        value = _from_pandas(name, value)
    if isinstance(value, GaussianStatistics):
        remedy = "Run it by GradBasedInference of mxfusion_mvn.inference."
        refuse(name, "GaussianStatistics in MXFusion's own GradBasedInference", "rows", remedy)
    if not isinstance(value, np.ndarray):
        what = f"{value!r}" if np.isscalar(value) else f"a {type(value).__name__}"
        refuse(name, what, _ACCEPTED, f"Write {name}={_remedy_of_type(value)}.")
    if isinstance(value, np.ma.MaskedArray) and getattr(variable.factor, "_missing", False):
        value = checks.fill_masked(value)
    defect = checks.kind_defect(value)
    if defect is not None:
        refuse(name, *defect)
    # In MXNet a shape () means unknown.
    return mx.nd.array(np.atleast_1d(np.asarray(value)), dtype=dtype, ctx=ctx)


def check_shapes(shapes):
    """
    Refuse data of other shapes than declared, and of two different numbers of rows.

    :param shapes: dict from observed Variables to the shapes of their data, tuples of integers.
    :raises InferenceError: by the name of the first variable that does not fit.
    """
    sizes: dict = {}
    for variable, got in shapes.items():
        name, declared = name_of(variable), variable.shape
        fits = len(got) == len(declared) and all(_fits(size, mine) for size, mine in zip(declared, got))
        if not fits:
            refuse(name, f"shape {got}", checks.show_shape(declared), checks.shape_remedy(name, tuple(got), declared))
        for size, mine in zip(declared, got):
            if not isinstance(size, Variable):
                continue
            other, theirs = sizes.setdefault(size.uuid, (name, mine))
            if theirs != mine:
                refuse(
                    name,
                    f"shape {got}",
                    f"{checks.show_shape(declared)} with {size.name or 'the first size'} = {theirs} as in `{other}`",
                    "Check that the same rows are in both.",
                )


def _fits(size, got):
    return got > 0 and (isinstance(size, Variable) or size == got)


def _dense(name, array):
    if isinstance(array, mx.np.ndarray):
        return array.as_nd_ndarray()
    if array.stype != "default":
        refuse(name, f"a sparse {type(array).__name__}", "a dense array", f"Write {name}.tostype('default').")
    return array


def _from_pandas(name, frame):
    """A DataFrame or Series as a NumPy array, NaN where an entry is missing."""
    defect = checks.frame_defect(frame)
    if defect is not None:
        refuse(name, *defect)
    return frame.to_numpy(dtype="float64", na_value=np.nan)


def _remedy_of_type(value):
    if hasattr(value, "toarray"):
        return "x.toarray()"
    return "np.array([x])" if np.isscalar(value) else "np.array(x)"


def did_you_mean(keyword, known):
    """
    A question after a name that is near to a keyword.

    :param keyword: a text.
    :param known: list of names.
    :returns: a sentence, None if no name is near.
    """
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(keyword.lower(), lower, n=1)
    return f"Did you mean {lower[near[0]]}?" if near else None
