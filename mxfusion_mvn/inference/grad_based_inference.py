# SPDX-License-Identifier: Apache-2.0
"""MXFusion's gradient-based inference for data of any common type, with messages that say what is wrong with them."""

from __future__ import annotations

import numbers
from typing import Any

from mxfusion_mvn.checks.options import context_defect, dtype_defect, shown
from mxfusion_mvn.inference.arguments import check_count, refuse
from mxfusion_mvn.inference.from_statistics import as_observed, row_counts
from mxfusion_mvn.inference.loops.observed import check_keywords, check_shapes
from mxfusion_mvn.inference.loops.optimizers import create_optimizer
from mxfusion_mvn.inference.loops.record import RunRecord
from mxfusion_mvn.inference.names import check_names, name_of
from mxfusion_mvn.totals.gaussian_statistics import GaussianStatistics

import mxfusion.inference as host
import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.variables import Variable, VariableType
from mxfusion.inference.grad_loop import GradLoop
from mxfusion.inference.inference_alg import InferenceAlgorithm

_OPTIONS = ("optimizer", "learning_rate", "max_iter", "verbose")


class GradBasedInference(host.GradBasedInference):
    """
    A drop-in replacement for MXFusion's class of this name, with any algorithm and any loop.

    Data may also be NumPy arrays, memory maps (which are copied into memory) and DataFrames; they are converted to the
    dtype of the inference. In place of the rows of a Gaussian, which need not fit into memory, there may be
    :class:`~mxfusion_mvn.GaussianStatistics`: at most D + 1 rows stand for all, and their number is ``model.N``.

    Data that do not fit are refused before anything is learned, by the name of the variable: keywords that are missing,
    misspelt or not observed, arrays that do not hold numbers, shapes other than the declared ones, and two variables
    that disagree about N.

    With MXFusion's own class, too, the loops of this package check the types, dtypes and shapes of arrays, and the
    distributions check the number of axes in any loop. But MXFusion then drops unknown keywords, checks the shapes
    first, with messages of its own, and takes NDArrays only.

    :param inference_algorithm: as in MXFusion, such as :class:`~mxfusion_mvn.inference.MAP`.
    :param grad_loop: as in MXFusion, such as :class:`~mxfusion_mvn.inference.CompiledLoop`.
    :param constants: as in MXFusion.
    :param hybridize: False; MXFusion's own class accepts True, and fails in its first iteration.
    :param dtype: float32 or float64; None for MXFusion's default.
    :param context: MXNet context; None for MXFusion's default.
    :raises InferenceError: for arguments of another kind.
    """

    def __init__(
        self,
        inference_algorithm: InferenceAlgorithm,
        grad_loop: GradLoop | None = None,
        constants: dict[Variable, Any] | None = None,
        hybridize: bool = False,
        dtype: str | None = None,
        context: mx.Context | None = None,
    ) -> None:
        if not isinstance(inference_algorithm, InferenceAlgorithm):
            got, remedy = shown(inference_algorithm), "Write GradBasedInference(MAP(model, observed))."
            refuse("inference_algorithm", got, "an algorithm such as MAP", remedy)
        if grad_loop is not None and not isinstance(grad_loop, GradLoop):
            refuse("grad_loop", shown(grad_loop), "a loop such as CompiledLoop(), or None", "Leave it out.")
        if hybridize is not False:
            got, remedy = shown(hybridize), "For speed take grad_loop=CompiledLoop()."
            refuse("hybridize", got, "False, because models read shapes, which Symbols have not", remedy)
        if constants is not None and not isinstance(constants, dict):
            refuse("constants", shown(constants), "a dict from Variables to their values, or None", "Leave it out.")
        for option, defect in (("dtype", dtype_defect(dtype)), ("context", context_defect(context))):
            if defect is not None:
                refuse(option, *defect)
        super().__init__(inference_algorithm, grad_loop, constants, hybridize, dtype, context)
        self._row_counts: dict[str, np.ndarray] = {}  # of the data of the present run that are statistics

    def create_executor(self):
        """
        As MXFusion's; during a run with statistics the distributions are told of how many rows these are.

        :returns: MXFusion's ObjectiveBlock.
        """
        executor = super().create_executor()
        executor._constants = {**executor._constants, **self._row_counts}
        return executor

    def initialize(self, **kw: mx.nd.NDArray | np.ndarray | GaussianStatistics | tuple) -> None:
        """
        Create the parameters, with the sizes of the data.

        :param kw: the observed variables by name: data as in :meth:`run`, or tuples of integers, their shapes.
        :raises ModelSpecificationError: if two variables of the model or the posterior have one name.
        :raises InferenceError: as :meth:`run`, and for arrays beside shapes.
        """
        if not all(isinstance(value, (tuple, list)) for value in kw.values()):
            super().initialize(**self._as_data(kw))
            return
        self._check_graphs(kw)
        check_shapes({variable: kw[variable.name] for variable in self._observed()})
        super().initialize(**kw)

    def run(
        self,
        optimizer: str | mx.optimizer.Optimizer = "adam",
        learning_rate: float = 1e-3,
        max_iter: int = 2000,
        verbose: bool = False,
        **kwargs: mx.nd.NDArray | np.ndarray | GaussianStatistics,
    ) -> RunRecord:
        """
        Train.

        :param optimizer: as in MXFusion, its name; in the loops of this package also an Optimizer.
        :param learning_rate: its learning rate.
        :param max_iter: the number of iterations, or of epochs in a loop over minibatches.
        :param verbose: whether to show the progress.
        :param kwargs: the observed variables by name, NDArrays, NumPy arrays or DataFrames of the declared shapes.
            Masked entries become NaN, which only variables declared with ``missing=True`` may have. Rows of a
            ``MultivariateNormal``, ``LowRankMultivariateNormal`` or ``MatrixNormal`` may be
            :class:`~mxfusion_mvn.GaussianStatistics`, in loops over all data, where all share a mean and a covariance
            and nothing else depends on them.
        :returns: the result of the loop; the loops of this package return a
            :class:`~mxfusion_mvn.inference.RunRecord`.
        :raises ModelSpecificationError: if two variables of the model or the posterior have one name.
        :raises InferenceError: by the name of the keyword or the variable, if the data or options do not fit.
        """
        max_iter = check_count("max_iter", max_iter, 0)
        if not isinstance(learning_rate, numbers.Real):
            refuse("learning_rate", shown(learning_rate), "a number", "Start with 0.01.")
        data = self._as_data(kwargs)
        self._row_counts = self._counts(kwargs)
        try:
            return super().run(
                optimizer=optimizer, learning_rate=learning_rate, max_iter=max_iter, verbose=verbose, **data
            )
        except mx.base.MXNetError as error:
            if "Incompatible attr" in str(error):  # MXNet's words for two dtypes
                create_optimizer(optimizer, learning_rate, self.params.param_dict)  # refuses some for float64
                self._refuse_constants(error)
            raise
        finally:
            self._row_counts = {}

    def _refuse_constants(self, error):
        """Name a constant whose dtype is not that of the inference, because MXNet does not mix dtypes."""
        wanted = np.dtype(self.dtype).name
        for variable in (variable for graph in self.graphs for variable in graph.variables.values()):
            value = variable.constant if variable.type == VariableType.CONSTANT else None
            if isinstance(value, mx.nd.NDArray) and np.dtype(value.dtype).name != wanted:
                raise InferenceError(
                    f"`{name_of(variable)}`: got dtype {np.dtype(value.dtype).name}; expected {wanted}, that of the "
                    "inference. Write GradBasedInference(..., dtype=...), and dtype= of each distribution, all alike."
                ) from error

    def _as_data(self, given):
        self._check_graphs(given)
        observed = self._observed()
        data = {v.name: as_observed(v, given[v.name], self.graphs, self.dtype, self.mxnet_context) for v in observed}
        check_shapes({variable: data[variable.name].shape for variable in observed})
        return data

    def _counts(self, given):
        """What the distributions are told of statistics, which are all of the data."""
        for name, value in given.items():
            if isinstance(value, GaussianStatistics) and isinstance(self._grad_loop, host.MinibatchInferenceLoop):
                refuse(
                    name,
                    f"GaussianStatistics in a {type(self._grad_loop).__name__}",
                    "a loop over all data",
                    "Use CompiledLoop(), a step of which takes as long as with D + 1 rows.",
                )
        return row_counts({variable: given[variable.name] for variable in self._observed()})

    def _check_graphs(self, given):
        for graph in self.graphs:
            check_names(graph)
        if None in self.observed_variable_names:
            raise InferenceError(
                "`observed`: got a variable without a name; expected variables of the model, because data are passed "
                "by name. Write model.y = ... first."
            )
        check_keywords(given, self.observed_variable_names, _OPTIONS)

    def _observed(self):
        model = self.inference_algorithm.model
        return [model[uuid] for uuid in self.observed_variable_UUIDs]
