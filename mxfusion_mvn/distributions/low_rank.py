# SPDX-License-Identifier: Apache-2.0
"""The multivariate normal with a low-rank plus diagonal covariance, in an MXFusion model."""

from __future__ import annotations

from mxfusion_mvn import checks, structures
from mxfusion_mvn.checks.failure import check_positive
from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.linalg.axes import ArrayLike, broadcast_shapes
from mxfusion_mvn.totals.summed import total_by_structure

import mxnet as mx
from mxfusion.components.distributions.random_gen import RandomGenerator
from mxfusion.components.variables import Variable


class LowRankMultivariateNormal(VectorDistribution):
    """
    N(mean, W W^T + diag(d)) over the last axis of a random variable (B..., D), in O(D r^2).

    Parameters broadcast and constants are made as in :class:`~mxfusion_mvn.MultivariateNormal`. Learn d under
    :class:`~mxfusion_mvn.transformations.Positive`.

    :param mean: (B..., D) or (B..., 1), or a number.
    :param factor: W (B..., D, r).
    :param diagonal: d (B..., D) or (B..., 1), or a number; positive.
    :param shape: tuple (B..., D) of integers and Variables. With it the random Variable is declared and returned,
        without it the factor of the model's graph, for ``set_prior``.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: float32 or float64, of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the current one and the parameters' own.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    EVENT = {"random_variable": "D", "mean": "D", "factor": "DR", "diagonal": "D"}
    CHECKS = {"diagonal": checks.check_positive}

    def __init__(
        self,
        mean: Variable | ArrayLike,
        factor: Variable | ArrayLike,
        diagonal: Variable | ArrayLike,
        shape: tuple | None = None,
        *,
        rand_gen: RandomGenerator | None = None,
        dtype: str | None = None,
        ctx: mx.Context | None = None,
    ) -> None:
        inputs = {"mean": mean, "factor": factor, "diagonal": diagonal}
        super().__init__(inputs, rand_gen=rand_gen, dtype=dtype, ctx=ctx)

    def log_pdf_impl(self, mean, factor, diagonal, random_variable, F=None):
        """Log density, without ``log_pdf_scaling``."""
        structure = self._structure(factor, diagonal, random_variable.shape[-1])
        return Gaussian._of(mean, structure)._log_pdf(random_variable)

    def draw_samples_impl(self, mean, factor, diagonal, rv_shape, num_samples=1, F=None):
        """Reparametrised draws, an affine map of noise (S, B..., r + D) from the factor's random generator."""
        structure = self._structure(factor, diagonal, rv_shape[-1])
        noise = self._normal_noise((num_samples,) + rv_shape[:-1] + (structure.noise_size(rv_shape[-1]),), like=factor)
        return Gaussian._of(mean, structure)._color(noise)

    def _total(self, variables, arrays):
        mean, factor, diagonal = (arrays[name] for name in self.input_names)
        random_variable = arrays["random_variable"]
        structure = self._structure(factor, diagonal, random_variable.shape[-1])
        matrix_axes = broadcast_shapes(factor.shape[:-2], diagonal.shape[:-1])
        rows = self._reduced(variables, mean, random_variable, matrix_axes)
        return total_by_structure(rows, structure, matrix_axes)

    def _structure(self, factor, diagonal, dim):
        if self._policy() is not None:
            check_positive(diagonal, self._full_name("diagonal"))
        return structures.LowRank(_to_size(factor, -2, dim), _to_size(diagonal, -1, dim))


def _to_size(array, axis, dim):
    """The structure takes its D from these arrays, which may have been given as 1."""
    return array if array.shape[axis] == dim else array.broadcast_axes(axis=array.ndim + axis, size=dim)
