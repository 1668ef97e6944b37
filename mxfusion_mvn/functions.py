# SPDX-License-Identifier: Apache-2.0
"""Functions of variables for MXFusion models, evaluated for all Monte Carlo samples in one call.

The host's own ``dot`` and ``*`` are evaluated once per sample, in a loop.
"""

import numbers

from mxfusion_mvn import axes, checks, linalg
from mxfusion_mvn.distributions._inputs import array_input

import mxnet as mx
import numpy as np
from mxfusion.components.functions import FunctionEvaluation
from mxfusion.components.variables import Variable


def linear(design, weights, groups=None):
    """
    The linear predictor of a regression, a row for each observation: design @ weights.T.

    :param design: one row of P predictors for each observation, Variable, NDArray or NumPy array (N, P).
    :param weights: Variable (P,) for one response, or (K, P) for K of them; with groups (J, P), a row for each group.
    :param groups: which row of the weights belongs to each observation, integers (N,); None where all have the same.
    :returns: Variable (N, 1) or (N, K); with groups (N, 1). Its shape is known at run time only.
    :raises ModelSpecificationError: for other types and shapes.
    """
    function = Linear([("design", _input("design", design, "NP")), ("weights", _input("weights", weights, "P"))])
    function.groups = None if groups is None else _check_groups(groups)
    return function.outputs[0][1]


def scale_rows(factor, scales):
    """
    A Cholesky factor with its rows scaled, diag(scales) @ factor.

    For the factor of a correlation matrix and standard deviations it is the factor of the covariance.

    :param factor: Variable, NDArray or NumPy array (B..., D, D).
    :param scales: Variable, NDArray or NumPy array (B..., D).
    :returns: Variable (B..., D, D). Its shape is known at run time only.
    :raises ModelSpecificationError: for other types and shapes.
    """
    inputs = [("factor", _input("factor", factor, "DD")), ("scales", _input("scales", scales, "D"))]
    return ScaleRows(inputs).outputs[0][1]


class SampledFunction(FunctionEvaluation):
    """
    A function with one output that takes care of the sample axis itself; a leaf writes ``eval_impl``.

    :param inputs: list of (name, Variable).
    """

    def __init__(self, inputs):
        super().__init__(inputs, [("output", Variable())], [name for name, _ in inputs], ["output"])

    def eval(self, F, variables, always_return_tuple=False):
        """
        The output.

        :param F: ``mxnet.ndarray``.
        :param variables: dict from uuid to NDArray, (S or 1, ...).
        :param always_return_tuple: whether to wrap it in a list.
        :returns: NDArray (S or 1, ...).
        """
        output = self.eval_impl(F, **{name: variables[variable.uuid] for name, variable in self.inputs})
        return [output] if always_return_tuple else output


class Linear(SampledFunction):
    """The function behind :func:`linear`."""

    groups = None

    def replicate_self(self, attribute_map=None):
        """
        A copy without inputs and outputs, for the host's copies of models.

        :param attribute_map: unused here; the host passes it.
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
        if self.groups is not None:
            groups = mx.nd.array(self.groups, dtype="int32", ctx=weights.context)
            rows = mx.nd.take(weights, groups, axis=1)
            return mx.nd.sum(mx.nd.broadcast_mul(design, rows), axis=-1, keepdims=True)
        if weights.ndim == 2:
            weights = weights.expand_dims(axis=1)
        if design.shape[0] == 1:  # one product for all samples
            samples, responses, size = weights.shape
            rows = linalg.multiply(design, weights.reshape((1, samples * responses, size)))
            return linalg.transpose(rows.reshape((samples, responses, design.shape[1])))
        return linalg.multiply(*axes.broadcast_leading(weights, design))


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


def _input(name, value, letters):
    return array_input(name, value, letters)


def _check_groups(groups):
    groups = np.asarray(groups)
    if groups.ndim != 1 or not issubclass(groups.dtype.type, numbers.Integral) or (groups < 0).any():
        checks.refuse(
            "groups",
            f"an array {groups.shape} of {groups.dtype}",
            "integers (N,), the position of the group of each observation",
            "Use np.unique(labels, return_inverse=True)[1].",
        )
    return groups
