# SPDX-License-Identifier: Apache-2.0
"""The multivariate normal in an MXFusion model, by covariance, precision or Cholesky factor.

The mathematics is in :mod:`mxfusion_mvn.gaussian` and :mod:`mxfusion_mvn.structures`; this file connects it.
"""

from __future__ import annotations

from mxfusion_mvn.checks import model_inputs
from mxfusion_mvn.checks.failure import OnFailure
from mxfusion_mvn.distributions._matrix import MatrixDistribution
from mxfusion_mvn.linalg.axes import ArrayLike
from mxfusion_mvn.missing import PartlyObserved
from mxfusion_mvn.totals import closed_form
from mxfusion_mvn.totals.patterns import total_of_observed
from mxfusion_mvn.totals.statistics import all_rows
from mxfusion_mvn.totals.summed import is_constant, reduced, total_by_structure

import mxnet as mx
import numpy as np
from mxfusion.components.distributions.random_gen import RandomGenerator
from mxfusion.components.variables import Variable


class MultivariateNormal(MatrixDistribution):
    """
    N(mean, Sigma) over the last axis of a random variable (B..., D).

    Give at most one of covariance, precision and scale_tril; with none, Sigma is the identity. Every parameter may
    lack the batch axes or have 1 there: one matrix for all rows is factored once, whatever their number. Parameters
    are Variables, NDArrays, NumPy arrays or numbers; constants become float32 unless ``dtype`` or an NDArray's own
    dtype says otherwise.

    A matrix that is not positive definite is refused here if it is a constant. While training, MXNet computes in the
    background and only learns of the failure when a result is read; asking at every step would stall it. So during
    ``autograd.record()`` nothing is checked, unless on_failure is given. Everywhere else (drawing, predicting, and the
    evaluation with which MXFusion's batch loop ends a run) a ``NotPositiveDefiniteError``, an ``InferenceError`` of
    MXFusion, names the variable. If something reads a loss or a parameter earlier, as ``verbose=True`` does, MXNet's
    own error surfaces there. A minibatch run ends without such an evaluation; its first prediction reports the failure.

    :param mean: (B..., D) or (B..., 1), or a number.
    :param covariance: Sigma (B..., D, D); a number or 1 x 1 matrix is that multiple of the identity.
    :param precision: Sigma^-1, likewise.
    :param scale_tril: L with L L^T = Sigma, likewise; only the lower triangle is read.
    :param shape: tuple (B..., D) of integers and Variables. With it the random Variable is declared and returned,
        without it the factor, for ``set_prior``.
    :param missing: whether NaN in observed data means a missing entry. It is summed out exactly, with one factorisation
        for each distinct pattern of missing entries; :class:`~mxfusion_mvn.missing.PartlyObserved` fills them in.
    :param on_failure: an :class:`~mxfusion_mvn.OnFailure` to apply at every evaluation, training included, which then
        waits for each factorisation. A constant is checked here all the same.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: float32 or float64, of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the current one and the parameters' own.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    NAN_REMEDY = (
        "If entries of the data are missing, declare it as MultivariateNormal(..., missing=True); if it is learned, "
        "use a smaller learning rate."
    )
    ATTRIBUTES = ("_on_failure", "_missing")
    EVENT = {**MatrixDistribution.EVENT, "mean": "D"}

    def __init__(
        self,
        mean: Variable | ArrayLike = 0.0,
        covariance: Variable | ArrayLike | None = None,
        precision: Variable | ArrayLike | None = None,
        scale_tril: Variable | ArrayLike | None = None,
        shape: tuple | None = None,
        missing: bool = False,
        *,
        on_failure: OnFailure | None = None,
        rand_gen: RandomGenerator | None = None,
        dtype: str | None = None,
        ctx: mx.Context | None = None,
    ) -> None:
        matrix = model_inputs.OneOf(covariance=covariance, precision=precision, scale_tril=scale_tril)
        super().__init__({"mean": mean, "matrix": matrix}, on_failure, rand_gen, dtype, ctx)
        self._missing = missing

    @property
    def MAY_BE_NAN(self):
        """Whether NaN means a missing entry."""
        return self._missing

    @property
    def form(self):
        """Which matrix this was declared with: ``covariance``, ``precision`` or ``scale_tril``."""
        return self.input_names[1]

    def log_pdf_impl(self, mean, random_variable, F=None, **matrix):
        """Log density, without ``log_pdf_scaling``."""
        gaussian = self._gaussian(mean, matrix, random_variable.shape[-1])
        # Draws of a latent variable have nothing missing, and would only be waited for.
        if self._missing and random_variable.shape[0] == 1:
            if self._policy() is not None:
                gaussian.structure.log_det()  # reports a failure of training; the data, read first, would hide it
            if not np.isnan(random_variable.asnumpy()).any():
                return gaussian._log_pdf(random_variable)
            observed = random_variable.reshape(random_variable.shape[1:])
            return PartlyObserved(gaussian, observed, self._policy(), self._full_name(self.form)).log_pdf()
        return gaussian._log_pdf(random_variable)

    def draw_samples_impl(self, mean, rv_shape, num_samples=1, F=None, **matrix):
        """Reparametrised draws, an affine map of noise from the factor's random generator."""
        noise = self._normal_noise((num_samples,) + rv_shape, like=matrix[self.form])
        return self._gaussian(mean, matrix, rv_shape[-1])._color(noise)

    def _total(self, variables, arrays):
        value, mean, matrix = arrays["random_variable"], arrays["mean"], arrays[self.form]
        counts = self._row_counts(variables)
        if self._missing and value.shape[0] == 1:
            may_be_read = counts is not None or is_constant(value)
            if not may_be_read or np.isnan(value.asnumpy()).any():
                return self._total_of_observed(mean, value, matrix, counts)
        if matrix.shape[-1] == 1 and counts is None:
            return self._total_of_entries(variables, mean, value, matrix)
        rows = self._reduced(variables, mean, value, matrix.shape[:-2])
        return self._total_of_rows(rows, matrix)

    def _total_of_entries(self, variables, mean, value, matrix):
        """Independent entries of one variance: each is a vector by itself, and there is no matrix to factor."""
        vectors = all_rows(value, mean, matrix.shape[:-2]).vectors * value.shape[-1]
        value, mean = self._regressed(variables, mean, value, matrix.shape[:-2], isotropic=True)
        matrix = matrix.expand_dims(-3)
        rows = reduced(value.expand_dims(-1), mean.expand_dims(-1), matrix.shape[:-2])
        return self._total_of_rows(rows._replace(vectors=vectors), matrix)

    def _total_of_rows(self, rows, matrix):
        dim = rows.value.shape[-1]
        # A policy may change the matrix.
        if self._policy() is None and matrix.shape[-1] == dim and closed_form.pays(rows, matrix):
            return closed_form.total(self.form, rows, matrix)
        structure = self._structure(self.form, matrix, dim)
        return total_by_structure(rows, structure, matrix.shape[:-2])

    def _total_of_observed(self, mean, value, matrix, counts):
        """With entries missing: by patterns, where all rows share their mean and covariance."""
        shared = all(size == 1 for size in mean.shape[1:-1] + matrix.shape[1:-2])
        if counts is None and not (shared and is_constant(value)):
            return self.log_pdf_impl(mean, value, **{self.form: matrix})
        dim = value.shape[-1]
        mean, matrix = mean.reshape((-1, 1, mean.shape[-1])), matrix.reshape((-1, 1) + matrix.shape[-2:])
        gaussian = self._gaussian(mean, {self.form: matrix}, dim)
        observed = value.reshape((-1, dim))
        return total_of_observed(gaussian, observed, self._policy(), self._full_name(self.form), counts)


class MultivariateNormalMeanPrecision(MultivariateNormal):
    """
    N(mean, precision^-1), a drop-in for MXFusion's class of this name.

    :param mean: (B..., D) or (B..., 1), or a number.
    :param precision: (B..., D, D); a number or 1 x 1 matrix is that multiple of the identity, and None the identity.
    :param shape: as in :class:`MultivariateNormal`.
    :param on_failure: as in :class:`MultivariateNormal`.
    :param rand_gen: as in :class:`MultivariateNormal`.
    :param dtype: as in :class:`MultivariateNormal`.
    :param ctx: as in :class:`MultivariateNormal`.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    def __init__(
        self,
        mean: Variable | ArrayLike = 0.0,
        precision: Variable | ArrayLike | None = None,
        shape: tuple | None = None,
        *,
        on_failure: OnFailure | None = None,
        rand_gen: RandomGenerator | None = None,
        dtype: str | None = None,
        ctx: mx.Context | None = None,
    ) -> None:
        super().__init__(
            mean=mean,
            precision=1.0 if precision is None else precision,
            on_failure=on_failure,
            rand_gen=rand_gen,
            dtype=dtype,
            ctx=ctx,
        )
