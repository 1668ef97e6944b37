# SPDX-License-Identifier: Apache-2.0
"""Functions of variables for MXFusion models, evaluated for all Monte Carlo samples in one call.

MXFusion's own ``dot`` and ``*`` are evaluated once per sample, in a loop.
"""

from __future__ import annotations

import numbers
from abc import abstractmethod
from typing import Any, Sequence

from mxfusion_mvn import checks, linalg
from mxfusion_mvn.checks.model_inputs import array_input
from mxfusion_mvn.linalg import axes
from mxfusion_mvn.linalg.axes import ArrayLike
from mxfusion_mvn.totals.statistics import design_and_response
from mxfusion_mvn.totals.summed import is_constant

import mxnet as mx
import numpy as np
from mxfusion.common.config import get_default_dtype
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components.functions import FunctionEvaluation
from mxfusion.components.variables import Variable, VariableType


def linear(
    design: Variable | ArrayLike,
    weights: Variable | ArrayLike,
    groups: Sequence[int] | np.ndarray | None = None,
    dtype: str | None = None,
    ctx: mx.Context | None = None,
) -> Variable:
    """
    The linear predictor of a regression, a row for each observation: design @ weights.T.

    In a loop over minibatches the design has to be an observed Variable, and there can be no groups.

    :param design: one row of P predictors for each observation, Variable, NDArray or NumPy array (N, P).
    :param weights: Variable (P,) for one response, or (K, P) for K of them; with groups (J, P), a row for each group.
    :param groups: which row of the weights belongs to each observation, integers (N,); None where all have the same.
    :param dtype: of constants made here, float32 or float64; None for MXFusion's default, or an NDArray's own.
    :param ctx: MXNet context of constants made here; None for the current one.
    :returns: Variable (N, 1) or (N, K); with groups (N, 1). Its shape is known at run time only.
    :raises ModelSpecificationError: for other types and shapes, as far as they are known.
    """
    given = {"design": (design, "NP"), "weights": (weights, "P")}
    return Linear(_inputs(given, dtype, ctx), None if groups is None else _check_groups(groups)).outputs[0][1]


def scale_rows(
    factor: Variable | ArrayLike, scales: Variable | ArrayLike, dtype: str | None = None, ctx: mx.Context | None = None
) -> Variable:
    """
    A Cholesky factor with its rows scaled, diag(scales) @ factor.

    For the factor of a correlation matrix and standard deviations it is the factor of the covariance.

    :param factor: Variable, NDArray or NumPy array (B..., D, D).
    :param scales: Variable, NDArray or NumPy array (B..., D), or (B..., 1) for the same in all rows.
    :param dtype: as in :func:`linear`.
    :param ctx: as in :func:`linear`.
    :returns: Variable (B..., D, D). Its shape is known at run time only.
    :raises ModelSpecificationError: for other types and shapes, as far as they are known.
    """
    return ScaleRows(_inputs({"factor": (factor, "DD"), "scales": (scales, "D")}, dtype, ctx)).outputs[0][1]


class SampledFunction(FunctionEvaluation):
    """
    A function with one output that handles the sample axis itself; a leaf writes ``eval_impl`` and ``_shape_error``.

    :param inputs: list of (name, Variable).
    :raises ModelSpecificationError: for shapes that do not fit, as far as they are known.
    """

    def __init__(self, inputs: list[tuple[str, Variable]]) -> None:
        super().__init__(inputs, [("output", Variable())], [name for name, _ in inputs], ["output"])
        # MXFusion gives outputs of functions the shape (1,), whatever they are.
        if all(variable.type != VariableType.FUNCVAR for _, variable in inputs):
            self._check({name: variable.shape for name, variable in inputs}, ModelSpecificationError)

    def eval(self, F, variables, always_return_tuple=False):
        """
        The output.

        :param F: ``mxnet.ndarray``.
        :param variables: dict from uuid to NDArray, (S or 1, ...). The wider of two floating dtypes counts.
        :param always_return_tuple: whether to wrap it in a list.
        :returns: NDArray (S or 1, ...).
        :raises InferenceError: for shapes that do not fit.
        """
        arrays = {name: variables[variable.uuid] for name, variable in self.inputs}
        self._check({name: array.shape[1:] for name, array in arrays.items()}, InferenceError)
        dtype = checks.floating_dtype(array.dtype for array in arrays.values()) or get_default_dtype()
        output = self.eval_impl(F, **{name: array.astype(dtype, copy=False) for name, array in arrays.items()})
        return [output] if always_return_tuple else output

    def _check(self, shapes, error):
        expected = self._shape_error(**shapes)
        if expected is not None:
            names = "` and `".join(shapes)
            got = " and ".join(checks.show_shape(shape) for shape in shapes.values())
            raise error(f"`{names}`: got shapes {got}; expected {expected}. Check the order of the axes.")

    @abstractmethod
    def _shape_error(self, *args: Any, **shapes: Any) -> str | None:
        """The expected shapes of the inputs in words, if these cannot be right; else None."""


class Linear(SampledFunction):
    """
    The function behind :func:`linear`.

    :param inputs: list of (name, Variable).
    :param groups: NumPy array (N,) of integers, or None.
    """

    def __init__(self, inputs: list[tuple[str, Variable]], groups: np.ndarray | None = None) -> None:
        self.groups = groups
        super().__init__(inputs)

    def replicate_self(self, attribute_map=None):
        """
        A copy without inputs and outputs, for MXFusion's copies of models.

        :param attribute_map: unused here; MXFusion passes it.
        :returns: Linear.
        """
        replica = super().replicate_self(attribute_map)
        replica.groups = self.groups
        return replica

    def eval_impl(self, F, design, weights):
        """
        The predictors.

        :param F: ``mxnet.ndarray``.
        :param design: NDArray (S or 1, N, P).
        :param weights: NDArray (S or 1, P), (S or 1, K, P), or with groups (S or 1, J, P).
        :returns: NDArray (S or 1, N, 1), or (S or 1, N, K).
        """
        return _predicted(design, weights, self.groups)

    def reduced(self, variables, value, isotropic=False):
        """
        A few rows that stand for all, if the design is constant.

        :param variables: dict from uuid to NDArray (S or 1, ...), the inputs among them.
        :param value: the response, constant NDArray (1, N, D).
        :param isotropic: whether the covariance is a multiple of the identity: only the sum of squares matters then.
        :returns: (value, output), NDArrays (1, M, D) and (S or 1, M, 1 or K), whose residuals have the same sums of
            squares and products as all rows together; None if these are not fewer.
        """
        design, weights = (variables[variable.uuid] for _, variable in self.inputs)
        if design.shape[0] > 1 or design.shape[1] != value.shape[1] or not is_constant(design):
            return None
        design, response, groups = design_and_response(design[0].asnumpy(), value[0].asnumpy(), self.groups, isotropic)
        if len(response) >= value.shape[1]:
            return None
        design, response = (mx.nd.array(x[None], dtype=value.dtype, ctx=value.context) for x in (design, response))
        return response, _predicted(design, weights.astype(value.dtype, copy=False), groups)

    def _shape_error(self, design, weights):
        axes = (1, 2) if self.groups is None else (2,)
        fits = len(design) == 2 and len(weights) in axes and _may_equal(design[-1], weights[-1])
        if self.groups is None:
            return None if fits else "(N, P), and (P,) or (K, P)"
        last = int(self.groups.max())
        # MXNet would take a position beyond the last row for the last row.
        if fits and _may_equal(len(self.groups), design[0]) and (not isinstance(weights[0], int) or last < weights[0]):
            return None
        return f"(N, P) and (J, P) with N = {len(self.groups)} and J > {last}, as `groups` has it"


class ScaleRows(SampledFunction):
    """The function behind :func:`scale_rows`."""

    def eval_impl(self, F, factor, scales):
        """
        The scaled factors.

        :param F: ``mxnet.ndarray``.
        :param factor: NDArray (S or 1, B..., D, D).
        :param scales: NDArray (S or 1, B..., D).
        :returns: NDArray (S or 1, B..., D, D).
        """
        aligned = axes.align_samples({"factor": factor, "scales": scales}, {"factor": 2, "scales": 1})
        return linalg.scale_rows(aligned["factor"], aligned["scales"])

    def _shape_error(self, factor, scales):
        if len(factor) < 2 or not scales or not _may_equal(*factor[-2:]):
            return "(B..., D, D) and (B..., D)"
        fits = scales[-1] == 1 or _may_equal(factor[-1], scales[-1])
        return None if fits else "(B..., D, D) and (B..., D)"


def _predicted(design, weights, groups):
    """The predictors of :meth:`Linear.eval_impl`."""
    if groups is not None:
        groups = mx.nd.array(groups, dtype="int32", ctx=weights.context)
        rows = mx.nd.take(weights, groups, axis=1)
        return mx.nd.sum(mx.nd.broadcast_mul(design, rows), axis=-1, keepdims=True)
    if weights.ndim == 2:
        weights = weights.expand_dims(axis=1)
    if design.shape[0] == 1:  # one product for all samples
        samples, responses, size = weights.shape
        rows = linalg.multiply(design, weights.reshape((1, samples * responses, size)))
        return linalg.transpose(rows.reshape((samples, responses, design.shape[1])))
    return linalg.multiply(*axes.broadcast_leading(weights, design))


def _inputs(given, dtype, ctx):
    """A list of (name, Variable) of a dict from names to (value, letters of its event axes)."""
    return [(name, array_input(name, value, letters, None, dtype, ctx)) for name, (value, letters) in given.items()]


def _may_equal(size, other):
    return size == other or not (isinstance(size, int) and isinstance(other, int))


def _check_groups(groups):
    checks.check_kind("groups", groups)
    if not isinstance(groups, (np.ndarray, list, tuple, range)) and not hasattr(groups, "__array__"):
        got = f"a {type(groups).__name__}"
        checks.refuse("groups", got, "integers (N,), the position of the group of each observation", "Pass an array.")
    groups = np.asarray(groups)
    if groups.ndim != 1 or not groups.size or not issubclass(groups.dtype.type, numbers.Integral) or (groups < 0).any():
        checks.refuse(
            "groups",
            f"an array {groups.shape} of {groups.dtype}",
            "integers (N,), the position of the group of each observation",
            "Use np.unique(labels, return_inverse=True)[1].",
        )
    return groups
