# SPDX-License-Identifier: Apache-2.0
"""The LKJ distribution of correlation matrices in an MXFusion model, by their Cholesky factors.

A correlation matrix R = L L^T has density proportional to |R|^(eta - 1); its factor L, whose rows have norm 1, then has
independent rows. With D - 1 - i rows after row i = 0, 1, ..., and a_i = eta + (D - 1 - i)/2::

    log p(L) = sum over i >= 1 of (2 a_i - 2) log L_ii - i/2 log pi - log Gamma(a_i) + log Gamma(eta + (D - 1)/2)

with respect to the entries below the diagonal. The constant is from Lewandowski, Kurowicka and Joe ("Generating
random correlation matrices based on vines and extended onion method", J. Multivariate Analysis 100, 2009, page 1999),
and the product of L_ii^(D - 1 - i) is the Jacobian from R to L (Stan Functions Reference, "Cholesky LKJ correlation
distribution"). Each row by itself integrates (1 - |w|^2)^(a_i - 1) over the unit ball of dimension i.

Such a row is (z, sqrt(2 g)) divided by its norm, with i standard normals z and g ~ Gamma(a_i): a Bartlett matrix again.
"""

from __future__ import annotations

import math

from mxfusion_mvn import checks, linalg
from mxfusion_mvn.checks import failure
from mxfusion_mvn.distributions import _bartlett
from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.distributions._special import log_gamma_excess
from mxfusion_mvn.linalg.axes import ArrayLike
from mxfusion_mvn.transformations import correlation_factor_defect

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions.random_gen import RandomGenerator
from mxfusion.components.variables import Variable


class LKJCholesky(VectorDistribution):
    """
    LKJ(eta) over lower Cholesky factors of correlation matrices, the last two axes of a random variable (B..., D, D).

    With eta = 1 all correlation matrices are alike, with more the weak correlations are preferred; (r + 1)/2 of each
    correlation r is Beta(eta + D/2 - 1, eta + D/2 - 1). Times standard deviations along its rows, L is the
    ``scale_tril`` of a :class:`~mxfusion_mvn.MultivariateNormal`. Under MAP keep it a factor with
    :class:`~mxfusion_mvn.transformations.CorrelationCholesky`.

    The log density has the gradients of eta and L. Draws depend on eta only, for which MXNet's gamma draws carry no
    gradient: asking for it is an error.

    :param concentration: eta, (B..., 1) or a number; positive.
    :param shape: tuple (B..., D, D) of integers and Variables. With it the random Variable is declared and returned,
        without it the factor of the model's graph, for ``set_prior``.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: float32 or float64, of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the current one and the parameters' own.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    EVENT = {"random_variable": "DD", "concentration": "1"}
    CHECKS = {"concentration": checks.check_positive}

    def __init__(
        self,
        concentration: Variable | ArrayLike = 1.0,
        shape: tuple | None = None,
        *,
        rand_gen: RandomGenerator | None = None,
        dtype: str | None = None,
        ctx: mx.Context | None = None,
    ) -> None:
        super().__init__({"concentration": concentration}, rand_gen=rand_gen, dtype=dtype, ctx=ctx)

    def log_pdf_impl(self, concentration, random_variable, F=None):
        """Log density, without ``log_pdf_scaling``."""
        if self._policy() is not None:
            self._check_value(random_variable)
            self._check_positive("concentration", concentration)
        dim = random_variable.shape[-1]
        rows = mx.nd.arange(dim, dtype=concentration.dtype, ctx=concentration.context)
        shape = _shapes(concentration, rows)
        # Each row but the first has Gamma(a_i + i / 2) / (Gamma(a_i) pi^(i / 2)).
        halves = 0.5 * np.arange(dim)
        exact = _shapes(concentration.astype("float64"), rows.astype("float64"))
        powers = mx.nd.broadcast_mul(mx.nd.log(exact / math.pi), mx.nd.array(halves, dtype="float64", ctx=rows.context))
        constant = mx.nd.sum(log_gamma_excess(exact, halves) + powers, axis=-1).astype(concentration.dtype)
        exponents = mx.nd.broadcast_mul(2 * shape - 2, rows > 0)  # the first row is fixed
        kernel = mx.nd.sum(mx.nd.broadcast_mul(exponents, mx.nd.log(linalg.diagonal(random_variable))), axis=-1)
        return mx.nd.broadcast_add(kernel, constant)

    def draw_samples_impl(self, concentration, rv_shape, num_samples=1, F=None):
        """Draws, all rows at once; a gradient of the concentration is refused."""
        self._refuse_gradient("concentration", concentration)
        if self._policy() is not None:
            self._check_positive("concentration", concentration)
        rows = mx.nd.arange(rv_shape[-1], dtype=concentration.dtype, ctx=concentration.context)
        shape = _shapes(concentration, rows).broadcast_to((num_samples,) + rv_shape[:-1])
        normals = self._normal_noise((num_samples,) + rv_shape, like=concentration)
        noise = _bartlett.triangular_noise(self._gamma_noise(shape), normals)
        return mx.nd.broadcast_div(noise, mx.nd.sqrt(mx.nd.sum(mx.nd.square(noise), axis=-1, keepdims=True)))

    def _check_value(self, random_variable):
        name = self._full_name("random_variable")
        defect = correlation_factor_defect(failure.check_finite(random_variable, name, event_axes=2))
        if defect is not None:
            got, expected = defect
            raise InferenceError(
                f"`{self._full_name('random_variable')}`: got {got}; expected {expected}. If it is learned, keep it a "
                "factor with the transformation CorrelationCholesky()."
            )

    def _check_fits(self, shape):
        checks.check_matrix("shape", shape)
        super()._check_fits(shape)


def _shapes(concentration, rows):
    """The a_i of each row, (S or 1, B..., D)."""
    return mx.nd.broadcast_add(concentration, 0.5 * (rows.shape[0] - 1 - rows))
