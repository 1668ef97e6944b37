# SPDX-License-Identifier: Apache-2.0
"""A mixture of multivariate normals in an MXFusion model, its assignments summed out.

The mathematics is in :mod:`mxfusion_mvn.mixture`; this file connects it.
"""

from __future__ import annotations

from mxfusion_mvn import checks, mixture
from mxfusion_mvn.checks import model_inputs
from mxfusion_mvn.checks.failure import OnFailure
from mxfusion_mvn.distributions._matrix import MatrixDistribution
from mxfusion_mvn.linalg.axes import ArrayLike
from mxfusion_mvn.structures import forms

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions.random_gen import RandomGenerator
from mxfusion.components.variables import Variable, VariableType


def _check_weights(name, value):
    checks.check_not_negative(name, value)
    total = value.sum(axis=-1)
    wrong = np.abs(total - 1) > 1e3 * checks.rounding(value)
    if wrong.any():
        checks.refuse(name, f"weights that sum to {total[wrong].flat[0]!s}", "a sum of 1", "Divide them by their sum.")


class GaussianMixture(MatrixDistribution):
    """
    sum_k w_k N(mean_k, Sigma_k) over the last axis of a random variable (B..., D).

    The component axis K comes before the event axes and may be 1 for what the components share. Matrices are given and
    reported as in :class:`~mxfusion_mvn.MultivariateNormal`. Learn weights under
    :class:`~mxfusion_mvn.transformations.Simplex`. Start the means apart: equal components have equal gradients.

    :param weights: w (B..., K), not negative, summing to one.
    :param mean: (B..., K, D), either of the last two being 1 where it is the same along that axis, or a number.
    :param covariance: Sigma (B..., K, D, D), or (B..., 1, D, D) for all components.
    :param precision: Sigma^-1, likewise.
    :param scale_tril: L with L L^T = Sigma, likewise.
    :param shape: tuple (B..., D) of integers and Variables. With it the random Variable is declared and returned,
        without it the factor, for ``set_prior``.
    :param on_failure: as in :class:`~mxfusion_mvn.MultivariateNormal`.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: float32 or float64, of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the current one and the parameters' own.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    EVENT = {"random_variable": "D", "weights": "K", "mean": "KD", **dict.fromkeys(forms.MATRICES, "KDD")}
    CHECKS = {**MatrixDistribution.CHECKS, "weights": _check_weights}

    def __init__(
        self,
        weights: Variable | ArrayLike,
        mean: Variable | ArrayLike,
        covariance: Variable | ArrayLike | None = None,
        precision: Variable | ArrayLike | None = None,
        scale_tril: Variable | ArrayLike | None = None,
        shape: tuple | None = None,
        *,
        on_failure: OnFailure | None = None,
        rand_gen: RandomGenerator | None = None,
        dtype: str | None = None,
        ctx: mx.Context | None = None,
    ) -> None:
        matrix = model_inputs.OneOf(covariance=covariance, precision=precision, scale_tril=scale_tril)
        super().__init__({"weights": weights, "mean": mean, "matrix": matrix}, on_failure, rand_gen, dtype, ctx)

    def log_pdf_impl(self, weights, mean, random_variable, F=None, **matrix):
        """Log density, without ``log_pdf_scaling``."""
        return mixture.log_pdf(random_variable, weights, self._gaussian(mean, matrix, random_variable.shape[-1]))

    def responsibilities(self, variables):
        """
        The probability of each component for each observed row.

        :param variables: dict from uuid to NDArray (S or 1, B..., event), as MXFusion hands it to ``log_pdf``.
        :returns: NDArray (S or 1, B..., K).
        :raises InferenceError: for anything but such a dict.
        """
        if not isinstance(variables, dict):
            raise InferenceError(
                f"`variables`: got a {type(variables).__name__}; expected a dict from uuids of Variables to NDArrays. "
                "Write {model.X.uuid: data.expand_dims(0), ...}."
            )
        arrays = self._arrays(self.inputs + self.outputs, variables)
        value, weights, mean = (arrays.pop(name) for name in ("random_variable", "weights", "mean"))
        return mixture.responsibilities(value, weights, self._gaussian(mean, arrays, value.shape[-1]))

    def draw_samples_impl(self, weights, mean, rv_shape, num_samples=1, F=None, **matrix):
        """Draws, reparametrised in means and matrices; a gradient of the weights is refused."""
        self._refuse_gradient("weights", weights)
        leading = (num_samples,) + rv_shape[:-1]
        chances = weights.broadcast_to(leading + weights.shape[-1:])
        chosen = self._rand_gen.sample_multinomial(chances.reshape((-1, chances.shape[-1])))
        assignment = mx.nd.one_hot(chosen.reshape(leading), chances.shape[-1], dtype=mean.dtype)
        noise = self._normal_noise((num_samples,) + rv_shape, like=mean)
        return mixture.draw_samples(assignment, noise, self._gaussian(mean, matrix, rv_shape[-1]))

    def _check_fits(self, shape):
        super()._check_fits(shape)
        known = {name: v.shape[-len(self.EVENT[name])] for name, v in self.inputs if v.type != VariableType.FUNCVAR}
        counts = [size for size in known.values() if size != 1]
        if known.get("weights") == 1 and counts:
            checks.refuse(
                "weights",
                f"shape {checks.show_shape(self.inputs[0][1].shape)}",
                f"(..., {counts[0]}), one for each component",
                "Write np.full(K, 1 / K) for equal weights.",
            )
