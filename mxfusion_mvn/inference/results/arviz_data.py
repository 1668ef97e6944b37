# SPDX-License-Identifier: Apache-2.0
"""A finished inference as the InferenceData of ArviZ, for its tables, plots and model comparison."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import mxfusion_mvn
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.inference.results.draws import FinishedInference

import mxnet as mx
import numpy as np
from mxfusion.components import Variable, VariableType
from mxfusion.inference import Inference

if TYPE_CHECKING:
    import arviz


def to_arviz(inference: Inference, num_samples: int = 1000, **data: mx.nd.NDArray | np.ndarray) -> arviz.InferenceData:
    """
    Draws and densities of a finished inference, in one chain.

    The groups are::

        posterior             the latent variables
        posterior_predictive  the observed random variables, new ones for each draw of the posterior
        log_likelihood        log p(x_n | draw), a term for each row of an observed random variable
        sample_stats          lp = log p(x, draw); log_weight = lp - log q(draw)
        prior                 the latent variables without the data, at the learned parameters of the model
        prior_predictive      the observed random variables without the data, likewise
        observed_data         the observed random variables; the other observed ones are in constant_data

    ``arviz.psislw(idata.sample_stats.log_weight.values.ravel())`` says how good the posterior is: its k should be below
    0.7. The draws are independent, so that diagnostics of Markov chains do not apply.

    If the last run was by a loop of this package, the attributes ``run_ended`` and ``run_has_arrived`` of the posterior
    say how it ended: a sentence, and 1 if the loss had levelled off, else 0.

    After MAP all draws of the posterior are equal, and there is no log_weight. Without data there is only a posterior.
    Observed variables that were given as :class:`~mxfusion_mvn.GaussianStatistics` have no rows, and are in lp alone. A
    group that cannot be computed (not every distribution can be drawn from) is left out, with a warning that gives
    the reason.

    :param inference: an Inference that has been run or loaded, whose algorithm is MAP or variational.
    :param num_samples: S, the number of draws in each group. They come from MXNet's generator.
    :param data: the observed variables by name, NDArrays or NumPy arrays; without any, the data of the last run, if
        that was by a loop of this package.
    :returns: ``arviz.InferenceData``. The axes of arrays go by the names of the size Variables in their shapes.
    :raises ImportError: if ArviZ is not installed, or cannot be imported; the message says which.
    :raises InferenceError: as :func:`~mxfusion_mvn.inference.summary` does, and for data that do not fit.
    """
    arviz = _import_arviz()
    finished = FinishedInference(inference, **data)
    draws = finished.draw_posterior(num_samples)
    groups = {"posterior": [(variable, draws[variable.uuid]) for variable in finished.latents]}
    if finished.data:
        groups.update(_densities(finished, draws, num_samples))
        groups.update(_from_model(finished, draws, num_samples))
    else:
        warnings.warn(
            "to_arviz has no data, and so makes a posterior only. Pass the observed variables by name, as to run.",
            stacklevel=2,
        )
    datasets = {group: _dataset(arviz, group, arrays) for group, arrays in groups.items() if arrays}
    if finished.ending is not None and "posterior" in datasets:
        datasets["posterior"].attrs.update(
            run_ended=finished.ending.message, run_has_arrived=int(finished.ending.has_arrived)
        )
    return arviz.InferenceData(**datasets)


def _densities(finished, draws, num_samples):
    """The groups of the data, and of the densities at them."""
    random, fixed = _observed(finished)
    terms = finished.log_pdf(finished.model, draws, num_samples)
    log_joint = _total(terms)
    statistics = [("lp", log_joint)]
    if finished.latents and not any(finished.is_point(variable) for variable in finished.latents):
        terms_of_q = _attempt("log_weight", finished.log_pdf, finished.posterior, draws, num_samples)
        if terms_of_q is not None:
            statistics.append(("log_weight", log_joint - _total(terms_of_q)))
    return {
        "log_likelihood": [(variable, terms[variable.uuid]) for variable in random],
        "sample_stats": statistics,
        "observed_data": [(variable, finished.data[variable.uuid].asnumpy()) for variable in random],
        "constant_data": [(variable, finished.data[variable.uuid].asnumpy()) for variable in fixed],
    }


def _from_model(finished, draws, num_samples):
    """The groups of draws from the model."""
    random, _ = _observed(finished)
    latents = {variable.uuid: draws[variable.uuid] for variable in finished.latents}
    groups = {}
    for names, given in ((("posterior_predictive",), latents), (("prior_predictive", "prior"), {})):
        drawn = _attempt(" and ".join(names), finished.draw_model, given, num_samples)
        if drawn is not None:
            for name, variables in zip(names, (random, finished.latents)):
                groups[name] = [(variable, drawn[variable.uuid]) for variable in variables]
    return groups


def _attempt(what, function, *arguments):
    """Call a function; if a distribution does not support it, warn and return None."""
    try:
        return function(*arguments)
    except Exception as error:  # distributions of users may raise anything, and the other groups are worth having
        warnings.warn(f"to_arviz leaves out {what}: {error}", stacklevel=4)
        return None


def _observed(finished):
    of_rows = [variable for variable in finished.observed if finished.has_rows(variable)]
    random = [variable for variable in of_rows if variable.type == VariableType.RANDVAR]
    return random, [variable for variable in finished.observed if variable.type != VariableType.RANDVAR]


def _total(terms):
    """The log density of each draw, (S,)."""
    return sum(term.reshape((len(term), -1)).sum(axis=1, dtype="float64") for term in terms.values())


def _dataset(arviz, group, arrays):
    is_drawn = group not in ("observed_data", "constant_data")
    values, dims = {}, {}
    for variable, array in arrays:
        name = variable if isinstance(variable, str) else name_of(variable)
        values[name] = array[None] if is_drawn else array
        if isinstance(variable, Variable):
            dims[name] = _axes(variable, name)[: array.ndim - is_drawn]
    return arviz.dict_to_dataset(values, library=mxfusion_mvn, dims=dims, default_dims=None if is_drawn else [])


def _axes(variable, name):
    axes = []
    for axis, size in enumerate(variable.shape):
        named = isinstance(size, Variable) and size.name is not None and size.name not in axes
        axes.append(size.name if named else f"{name}_dim_{axis}")
    return axes


def _import_arviz():
    try:
        import arviz
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "arviz"
        what = "is not installed" if is_missing else f"is installed, but cannot be imported ({error})"
        remedy = "Install it" if is_missing else "Install versions that fit together"
        raise ImportError(
            f"to_arviz needs ArviZ, which {what}. {remedy} with: pip install 'mxfusion-mvn[arviz]'"
        ) from error
    return arviz
