# SPDX-License-Identifier: Apache-2.0
"""A finished inference: draws from its posterior, prior and predictive distribution, and the densities at them.

Arrays are keyed by the uuid of their variable. MXFusion aligns arrays of different rank from the right, so that samples
of a variance can be taken for rows of a variable. Here missing axes are inserted after the sample axis; and where a
factor may align them otherwise (a module, or a function that takes all samples at once), draws enter one by one.
"""

import contextlib
import threading
from typing import Any, Dict

from mxfusion_mvn.distributions._base import VectorDistribution, row_counts_key
from mxfusion_mvn.functions import SampledFunction
from mxfusion_mvn.inference.arguments import check_count, check_finished
from mxfusion_mvn.inference.from_statistics import as_observed, row_counts
from mxfusion_mvn.inference.last_runs import last_run_of
from mxfusion_mvn.inference.loops.observed import check_shapes
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.inference.results.host_draws import draw, insert_axes

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components import Distribution, VariableType
from mxfusion.components.distributions import PointMass
from mxfusion.components.distributions.univariate import UnivariateDistribution
from mxfusion.components.functions import FunctionEvaluation
from mxfusion.util.inference import discover_shape_constants

# How many draws enter a graph at once, and how many at first, while their memory is not known.
_AT_ONCE = 100
_FIRST = 10
# The largest number of entries that an array of all draws may have.
_MOST_ENTRIES = 2**20
# Held while the factors of a model are not scaled: another thread would take that for their scaling.
_SCALING = threading.RLock()


class FinishedInference:
    """
    The model and the posterior of an inference, with the values learned so far.

    :param inference: an Inference that has been run or loaded, whose algorithm is MAP or variational.
    :param data: the observed variables by name, as for a run. Without any, the data of the last run, if it was by a
        loop of this package; else there are no data.
    :raises InferenceError: if the inference has not been run, has latent variables but no posterior, or is given data
        that do not fit its observed variables.
    """

    def __init__(self, inference, **data):
        check_finished("inference", inference)
        algorithm = inference.inference_algorithm
        self.inference = inference
        self._last_run = last_run_of(inference.params.param_dict)
        #: How its last run ended, an :class:`~mxfusion_mvn.inference.last_runs.Ending`; None if that is not known.
        self.ending = self._last_run.ending
        self.model = algorithm.model
        self.observed = [self.model[uuid] for uuid in algorithm.observed_variable_UUIDs]
        known = {variable.uuid for variable in self.observed}
        #: The latent Variables, in the order of the model.
        self.latents = self.model.get_latent_variables(known)
        #: The Variables of the model whose values are learned.
        self.parameters = _learned_variables(self.model, inference.params)
        self.posterior: Any = getattr(algorithm, "posterior", None)
        if self.latents and self.posterior is None:
            raise InferenceError(
                f"`inference`: got the algorithm {type(algorithm).__name__}, which has no posterior for "
                f"`{name_of(self.latents[0])}`; expected MAP or variational inference."
            )
        #: The data as NDArrays; empty if there are none.
        self.data = {variable.uuid: array for variable, array in self._data(data)}
        #: The row counts of those that are statistics, by their keys.
        self.row_counts = self._row_counts(data)
        #: Parameters, constants and data, as MXFusion passes them to an algorithm: (1, ...), sizes as integers.
        self.variables = {**self._learned(), **self._constants(), **_with_sample_axis(self.data), **self.row_counts}

    def value(self, variable):
        """
        The learned value of a parameter of the model.

        :param variable: one of ``parameters``.
        :returns: NumPy array, in the shape of the variable.
        """
        return self.variables[variable.uuid].asnumpy()[0]

    def is_point(self, variable):
        """
        Whether the posterior of a latent variable is a single point, as after MAP.

        :param variable: one of ``latents``.
        :returns: a bool.
        """
        return isinstance(self.posterior[variable].factor, PointMass)

    def has_rows(self, variable):
        """
        Whether the rows of an observed variable are known.

        :param variable: one of ``observed``.
        :returns: a bool; False for statistics.
        """
        return row_counts_key(variable.uuid) not in self.row_counts

    def draw_posterior(self, num_samples):
        """
        Independent draws from the posterior.

        :param num_samples: S.
        :returns: dict from the uuid of each random variable of the posterior, the latents among them, to a NumPy array
            (S, ...).
        :raises InferenceError: if the posterior depends on data and there are none.
        """
        if self.posterior is None:
            return {}
        used = {variable.uuid for factor in self.posterior.ordered_factors for _, variable in factor.inputs}
        missing = [name_of(variable) for variable in self.observed if variable.uuid in used and not self.data]
        if missing:
            raise InferenceError(
                f"`data`: got none; expected {', '.join(missing)}, which the posterior depends on. Pass the observed "
                "variables by name, as to run."
            )
        return self._in_parts(
            self.posterior, {}, num_samples, lambda variables, count: _draw(self.posterior, variables, count)
        )

    def draw_model(self, draws, num_samples):
        """
        Draws of the random variables of the model given some of them: none for the prior, the latent ones to predict.

        The parameters have their learned values.

        :param draws: dict from uuid to NumPy array (S, ...).
        :param num_samples: S.
        :returns: dict from the uuids of the other random variables, the observed ones among them, to NumPy arrays
            (S, ...).
        """
        return self._in_parts(
            self.model,
            draws,
            num_samples,
            lambda variables, count: _draw(self.model, variables, count),
            hidden=[variable.uuid for variable in self.observed if variable.type == VariableType.RANDVAR],
        )

    def log_pdf(self, graph, draws, num_samples):
        """
        Log densities at draws and data, without the scaling of minibatches.

        :param graph: the model or the posterior.
        :param draws: dict from uuid to NumPy array (S, ...), for all random variables of the graph without data.
        :param num_samples: S.
        :returns: dict from the uuid of each random variable to the terms of its log density, NumPy array (S, ...).
        """
        with unscaled(graph):
            return self._in_parts(graph, draws, num_samples, lambda variables, _: log_pdf_terms(graph, variables))

    def _in_parts(self, graph, draws, num_samples, evaluate, hidden=()):
        num_samples = check_count("num_samples", num_samples, 1)
        base = {uuid: array for uuid, array in self.variables.items() if uuid not in hidden}
        ctx = self.inference.mxnet_context
        draws = {uuid: mx.nd.array(array, dtype=array.dtype, ctx=ctx) for uuid, array in draws.items()}
        goes_alone = draws_at_once(graph) == 1
        at_once, start, parts = 1 if goes_alone else _FIRST, 0, []
        while start < num_samples:
            stop = min(start + at_once, num_samples)
            variables = {**base, **{uuid: array[start:stop] for uuid, array in draws.items()}}
            arrays = evaluate(variables, stop - start)
            parts.append({uuid: _read(array, stop - start) for uuid, array in arrays.items()})
            if not goes_alone:
                at_once = max(1, _MOST_ENTRIES // _entries_of_a_draw(variables, stop - start))
            start = stop
        return {uuid: np.concatenate([part[uuid] for part in parts]) for uuid in parts[0]}

    def _learned(self):
        params, graphs = self.inference.params, self.inference.graphs
        variables = [next(graph[uuid] for graph in graphs if uuid in graph) for uuid in params.param_dict]
        return _with_sample_axis({v.uuid: params[v] for v in variables if _is_learned(v, params)})

    def _constants(self):
        constants = _with_sample_axis(self.inference.params.constants)
        # After a run in minibatches MXFusion's sizes are those of the last batch.
        shapes = {uuid: array.shape for uuid, array in self.data.items()}
        sizes = discover_shape_constants(shapes, self.inference.graphs)
        return {**constants, **{variable.uuid: size for variable, size in sizes.items()}}

    def _data(self, data):
        names = [variable.name for variable in self.observed]
        if not data:
            kept = self._last_run.data
            return [(variable, kept[variable.uuid]) for variable in self.observed if variable.uuid in kept]
        if set(data) != set(names):
            raise InferenceError(
                f"`data`: got {', '.join(sorted(data))}; expected the observed variables {', '.join(names)}. Pass each "
                "by its name, or none of them."
            )
        dtype, ctx = self.inference.dtype, self.inference.mxnet_context
        graphs = self.inference.graphs
        arrays = [(v, as_observed(v, data[v.name], graphs, dtype, ctx)) for v in self.observed]
        check_shapes({variable: array.shape for variable, array in arrays})
        return arrays

    def _row_counts(self, data):
        if data:
            return row_counts({variable: data[variable.name] for variable in self.observed})
        kept = self._last_run.data
        return {key: kept[key] for key in (row_counts_key(variable.uuid) for variable in self.observed) if key in kept}


def _learned_variables(model, params):
    """The parameters of a model, with those of the models inside its modules."""
    graphs = [model] + [module._module_graph for module in model.modules.values()]
    variables = {uuid: variable for graph in graphs for uuid, variable in graph.variables.items()}
    return [v for uuid, v in variables.items() if uuid in params.param_dict and _is_learned(v, params)]


def _is_learned(variable, params):
    # Asked for the value of any other variable, MXFusion creates an empty entry for it.
    return variable.type == VariableType.PARAMETER and variable.uuid not in params.constants


def _draw(graph, variables, num_samples):
    """Draws of the random variables of a graph that are not among the variables given."""
    drawn: Dict[str, Any] = {}
    for factor in graph.ordered_factors:
        outputs = [variable.uuid for _, variable in factor.outputs]
        if isinstance(factor, FunctionEvaluation):
            variables.update(_evaluate(factor, variables))
        elif not all(uuid in variables for uuid in outputs):
            if isinstance(factor, Distribution):
                values = [draw(factor, _aligned(factor, variables), num_samples)]
            else:
                values = factor.draw_samples(F=mx.nd, variables=variables, num_samples=num_samples, targets=outputs)
            drawn.update(zip(outputs, values))
            variables.update(drawn)
    return drawn


def log_pdf_terms(graph, variables):
    """
    The terms of the log density of each random variable of a graph.

    :param graph: Model or Posterior.
    :param variables: dict from uuid to NDArray (S or 1, ...) of all its variables except the outputs of functions,
        which are added.
    :returns: dict from uuid to NDArray (S or 1, ...).
    """
    terms = {}
    for factor in graph.ordered_factors:
        outputs = [variable.uuid for _, variable in factor.outputs]
        if isinstance(factor, FunctionEvaluation):
            variables.update(_evaluate(factor, variables))
        else:
            terms[outputs[0]] = factor.log_pdf(F=mx.nd, variables=_aligned(factor, variables), targets=outputs)
    return terms


def _evaluate(factor, variables):
    values = factor.eval(F=mx.nd, variables=variables, always_return_tuple=True)
    return {variable.uuid: value for (_, variable), value in zip(factor.outputs, values)}


def draws_at_once(graph):
    """
    How many samples may enter a graph together: one if its factors could take the sample axis for another axis.

    :param graph: Model or Posterior.
    :returns: an integer.
    """
    return _AT_ONCE if all(_keeps_samples_apart(factor) for factor in graph.ordered_factors) else 1


def _keeps_samples_apart(factor):
    """Whether a factor, called through :func:`_aligned`, never takes the sample axis of an input for another axis."""
    if isinstance(factor, SampledFunction):
        return True
    if isinstance(factor, FunctionEvaluation):
        return not factor.broadcastable  # MXFusion then calls it sample by sample
    return isinstance(factor, (VectorDistribution, UnivariateDistribution))


def _aligned(factor, variables):
    """The arrays for a factor; those of an elementwise distribution get the same number of axes."""
    if not isinstance(factor, UnivariateDistribution):
        return variables
    edges = [variable.uuid for _, variable in factor.inputs + factor.outputs]
    arrays = {uuid: variables[uuid] for uuid in edges if isinstance(variables.get(uuid), mx.nd.NDArray)}
    ndim = max([1 + len(factor.outputs[0][1].shape)] + [array.ndim for array in arrays.values()])
    return {**variables, **{uuid: insert_axes(array, ndim) for uuid, array in arrays.items()}}


@contextlib.contextmanager
def unscaled(graph):
    """Within a ``with`` block count each row of the data once, although a loop over minibatches may be running."""
    factors = list(graph.distributions.values()) + list(graph.modules.values())
    with _SCALING:
        scalings = [factor.log_pdf_scaling for factor in factors]
        try:
            for factor in factors:
                factor.log_pdf_scaling = 1
            yield
        finally:
            for factor, scaling in zip(factors, scalings):
                factor.log_pdf_scaling = scaling


def _entries_of_a_draw(variables, samples):
    """The size of the largest array in use for one sample, including outputs of functions."""
    arrays = [array for array in variables.values() if isinstance(array, mx.nd.NDArray)]
    return max([array.size // (samples if array.shape[0] == samples else 1) for array in arrays], default=1)


def _with_sample_axis(arrays):
    return {
        uuid: mx.nd.expand_dims(array, axis=0) if isinstance(array, mx.nd.NDArray) else array
        for uuid, array in arrays.items()
    }


def _read(array, num_samples):
    value = array.asnumpy()
    return value if len(value) == num_samples else np.repeat(value, num_samples, axis=0)
