# SPDX-License-Identifier: Apache-2.0
"""The matrix normal in an MXFusion model: rows and columns each have a covariance.

Read row by row, a matrix X that is distributed as MN(mean, R, C) is a vector with covariance R x C (Kronecker), so
``Cov[X_ij, X_kl] = R_ik C_jl``; its density needs the factors of R and C only.
"""

from __future__ import annotations

from mxfusion_mvn import structures
from mxfusion_mvn.checks import model_inputs
from mxfusion_mvn.checks.failure import OnFailure
from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.linalg import flatten
from mxfusion_mvn.linalg.axes import ArrayLike, broadcast_shapes
from mxfusion_mvn.structures import forms
from mxfusion_mvn.totals.summed import total_by_structure

import mxnet as mx
from mxfusion.components.distributions.random_gen import RandomGenerator
from mxfusion.components.variables import Variable


class MatrixNormal(VectorDistribution):
    """
    MN(mean, R, C) over the last two axes of a random variable (B..., n, m).

    Only the product of the scales of R and C matters: fix one of them when both are learned. Parameters broadcast, and
    constants are made and matrices reported, as in :class:`~mxfusion_mvn.MultivariateNormal`.

    :param mean: (B..., n, m), either of the last two being 1 where it is the same along that axis, or a number.
    :param row_covariance: R (B..., n, n), between rows; a number or 1 x 1 matrix is that multiple of the identity.
    :param column_covariance: C (B..., m, m), between columns, likewise.
    :param row_scale_tril: the lower Cholesky factor of R, instead of R.
    :param column_scale_tril: the lower Cholesky factor of C, instead of C.
    :param shape: tuple (B..., n, m) of integers and Variables. With it the random Variable is declared and returned,
        without it the factor of the model's graph, for ``set_prior``.
    :param on_failure: as in :class:`~mxfusion_mvn.MultivariateNormal`.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: float32 or float64, of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the current one and the parameters' own.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    EVENT = {
        "random_variable": "NM",
        "mean": "NM",
        "row_covariance": "NN",
        "row_scale_tril": "NN",
        "column_covariance": "MM",
        "column_scale_tril": "MM",
    }
    CHECKS = {f"{side}_{name}": form.check for side in ("row", "column") for name, form in forms.MATRICES.items()}

    def __init__(
        self,
        mean: Variable | ArrayLike = 0.0,
        row_covariance: Variable | ArrayLike | None = None,
        column_covariance: Variable | ArrayLike | None = None,
        row_scale_tril: Variable | ArrayLike | None = None,
        column_scale_tril: Variable | ArrayLike | None = None,
        shape: tuple | None = None,
        *,
        on_failure: OnFailure | None = None,
        rand_gen: RandomGenerator | None = None,
        dtype: str | None = None,
        ctx: mx.Context | None = None,
    ) -> None:
        row = model_inputs.OneOf(row_covariance=row_covariance, row_scale_tril=row_scale_tril)
        column = model_inputs.OneOf(column_covariance=column_covariance, column_scale_tril=column_scale_tril)
        super().__init__({"mean": mean, "row": row, "column": column}, on_failure, rand_gen, dtype, ctx)

    def log_pdf_impl(self, mean, random_variable, F=None, **matrices):
        """Log density, without ``log_pdf_scaling``."""
        event = random_variable.shape[-2:]
        return self._gaussian(mean, event, matrices)._log_pdf(flatten(random_variable))

    def draw_samples_impl(self, mean, rv_shape, num_samples=1, F=None, **matrices):
        """Reparametrised draws, mean + A_R noise A_C^T with noise (S, B..., n, m)."""
        noise = self._normal_noise((num_samples,) + rv_shape, like=mean)
        draws = self._gaussian(mean, rv_shape[-2:], matrices)._color(flatten(noise))
        return draws.reshape(draws.shape[:-1] + rv_shape[-2:])

    def _total(self, variables, arrays):
        matrices = dict(arrays)
        mean, random_variable = matrices.pop("mean"), matrices.pop("random_variable")
        gaussian = self._gaussian(mean, random_variable.shape[-2:], matrices)
        matrix_axes = broadcast_shapes(*(matrix.shape[:-2] for matrix in matrices.values()))
        rows = self._reduced(variables, gaussian.mean, flatten(random_variable), matrix_axes)
        return total_by_structure(rows, gaussian.structure, matrix_axes)

    def _gaussian(self, mean, event, matrices):
        sides = [
            forms.of_matrix(_form(name), matrices[name], size, self._policy(), self._full_name(name))
            for name, size in zip(self.input_names[1:], event)
        ]
        if mean.shape[-2:] != event:
            mean = mean.broadcast_to(mean.shape[:-2] + event)
        return Gaussian._of(flatten(mean), structures.Kronecker(*sides))


def _form(name):
    return name.split("_", 1)[1]
