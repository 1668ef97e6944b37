# SPDX-License-Identifier: Apache-2.0
"""The base of the Wishart and the inverse Wishart: both are distributions of a Cholesky factor.

With X = L_X L_X^T, the lower factor L of the scale matrix, nu degrees of freedom and a triangular C, which is L^-1 L_X
for the Wishart and L_X^-1 L for the inverse Wishart, both log densities are::

    log p(X) = nu (log |det C| - D/2 log 2) - (D + 1) log det L_X - 1/2 |C|_F^2 - log Gamma_D(nu / 2)

With many degrees of freedom C_ii is near sqrt(nu), and terms of size nu log nu cancel. With E = C / sqrt(nu) they are
taken out of all of them, and what is left is stationary at E = I::

    log p(X) = nu sum_i (log E_ii - (E_ii^2 - 1) / 2) - 1/2 sum_i>j C_ij^2 - (D + 1) log det L_X
               - (log Gamma_D(nu / 2) - D (nu/2 log nu/2 - nu/2))

(Gupta and Nagar, Matrix Variate Distributions, 2000, definitions 3.2.1 and 3.4.1, with traces and determinants written
by factors). Draws come from one triangular matrix A by Bartlett (1933), with standard normals below a diagonal of
A_ii^2 ~ chi^2, and give the factor L_X of a draw together with it: nothing is factored but the scale.
"""

from __future__ import annotations

from abc import abstractmethod

from mxfusion_mvn import checks, linalg
from mxfusion_mvn.checks import failure, model_inputs
from mxfusion_mvn.checks.failure import OnFailure
from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.distributions._special import log_multivariate_gamma_excess
from mxfusion_mvn.linalg import axes
from mxfusion_mvn.linalg.axes import ArrayLike
from mxfusion_mvn.structures import forms

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions.random_gen import RandomGenerator
from mxfusion.components.variables import Variable, VariableType
from mxnet import autograd

# The form of the scale matrix, by the name of the input.
_FORMS = {"scale": "covariance", "scale_tril": "scale_tril"}


def triangular_noise(gammas, normals):
    """
    Bartlett's matrix: sqrt(2 g) on the diagonal, which is chi^2 with nu degrees of freedom for g ~ Gamma(nu/2, 1).

    :param gammas: g, NDArray (B..., D).
    :param normals: NDArray (B..., D, D), of which the entries below the diagonal are used.
    :returns: NDArray (B..., D, D), lower triangular.
    """
    # Draws with less than one degree of freedom can underflow; a zero would make the matrix singular.
    diagonal = mx.nd.sqrt(2 * mx.nd.maximum(gammas, float(np.finfo(gammas.dtype).tiny)))
    return mx.nd.where(linalg.identity_like(diagonal), linalg.from_diagonal(diagonal), linalg.lower_triangle(normals))


def multiply_left(factor, matrix):
    """
    L A; leading axes broadcast, and what shares a factor meets it in one call.

    :param factor: L, lower triangular, NDArray (B..., D, D).
    :param matrix: A, NDArray (B..., D, E).
    :returns: NDArray (B..., D, E).
    """
    return linalg.transpose(_on_rows(linalg.multiply_lower, factor, linalg.transpose(matrix)))


def solve_left(factor, matrix):
    """
    L^-1 A, likewise.

    :param factor: L, lower triangular, NDArray (B..., D, D).
    :param matrix: A, NDArray (B..., D, E).
    :returns: NDArray (B..., D, E).
    """
    return linalg.transpose(_on_rows(linalg.solve_lower, factor, linalg.transpose(matrix)))


def solve_right(matrix, factor):
    """
    A L^-1, likewise.

    :param matrix: A, NDArray (B..., E, D).
    :param factor: L, lower triangular, NDArray (B..., D, D).
    :returns: NDArray (B..., E, D).
    """
    return _on_rows(linalg.solve_upper, factor, matrix)


def _on_rows(kernel, factor, matrix):
    # The rows of the matrix are one more batch axis, along which the factor does not vary.
    return axes.per_row(kernel, (factor.expand_dims(axis=-3),), matrix)


class BartlettDistribution(VectorDistribution):
    """
    A distribution of positive definite matrices (B..., D, D) with degrees of freedom and a scale matrix.

    A leaf says how the factors of X, of the scale and Bartlett's matrix hang together.
    """

    EVENT = {"random_variable": "DD", "degrees_of_freedom": "1", "scale": "DD", "scale_tril": "DD"}
    CHECKS = {
        "degrees_of_freedom": checks.check_positive,
        **{name: forms.MATRICES[form].check for name, form in _FORMS.items()},
    }

    # The last draw and its factor, between a recorded draw and its density; MXFusion copies factors without __init__.
    _drawn = None

    def __init__(
        self,
        degrees_of_freedom: Variable | ArrayLike,
        scale: Variable | ArrayLike | None = None,
        scale_tril: Variable | ArrayLike | None = None,
        shape: tuple | None = None,
        *,
        on_failure: OnFailure | None = None,
        rand_gen: RandomGenerator | None = None,
        dtype: str | None = None,
        ctx: mx.Context | None = None,
    ) -> None:
        matrix = model_inputs.OneOf(scale=scale, scale_tril=scale_tril)
        super().__init__({"degrees_of_freedom": degrees_of_freedom, "matrix": matrix}, on_failure, rand_gen, dtype, ctx)

    def log_pdf_impl(self, degrees_of_freedom, random_variable, F=None, **matrix):
        """Log density, without ``log_pdf_scaling``."""
        dim, dtype = random_variable.shape[-1], random_variable.dtype
        if not autograd.is_recording() and self._on_failure is None:  # nothing here is in a hurry, or to be repaired
            random_variable = random_variable.astype("float64", copy=False)
            matrix = {form: value.astype("float64", copy=False) for form, value in matrix.items()}
        # First, because MXNet raises an old failure at whatever is read first; a factorisation reports it by name.
        value = self._factor_of(random_variable)
        ratio = self._ratio(value, self._scale_factor(matrix, dim)).astype("float64", copy=False)
        self._check_freedom(degrees_of_freedom, dim)
        freedom = degrees_of_freedom.astype("float64", copy=False)
        pivots = mx.nd.abs(linalg.diagonal(ratio))
        scaled = mx.nd.broadcast_div(pivots, mx.nd.sqrt(freedom))
        kernel = mx.nd.broadcast_mul(mx.nd.log(scaled) - 0.5 * (scaled - 1) * (scaled + 1), freedom)
        below = linalg.with_diagonal(mx.nd.zeros_like(pivots), ratio)
        log_pdf = mx.nd.sum(kernel, axis=-1) - 0.5 * mx.nd.sum(mx.nd.square(below), axis=(-2, -1))
        log_pdf = axes.subtract(log_pdf, (dim + 1) * linalg.log_abs_det(value).astype("float64", copy=False))
        return axes.subtract(log_pdf, log_multivariate_gamma_excess(0.5 * freedom, dim)).astype(dtype, copy=False)

    def draw_samples_impl(self, degrees_of_freedom, rv_shape, num_samples=1, F=None, **matrix):
        """Draws, reparametrised in the scale; a gradient of the degrees of freedom is refused."""
        self._refuse_gradient("degrees_of_freedom", degrees_of_freedom)
        dim = rv_shape[-1]
        scale = self._scale_factor(matrix, dim)
        self._check_freedom(degrees_of_freedom, dim)
        steps = mx.nd.arange(dim, dtype=degrees_of_freedom.dtype, ctx=degrees_of_freedom.context)
        freedom = self._diagonal_freedom(degrees_of_freedom, steps).broadcast_to((num_samples,) + rv_shape[:-1])
        normals = self._normal_noise((num_samples,) + rv_shape, like=scale)
        factor = self._color(scale, triangular_noise(self._gamma_noise(0.5 * freedom), normals))
        draw = linalg.outer_square(factor)
        if autograd.is_recording():  # where nothing can be written into an array, so that the pair stays true
            self._drawn = draw, factor
        return draw

    @abstractmethod
    def _ratio(self, value, scale):
        """The triangular C, (S, B..., D, D), of the factors of random variable and scale."""

    @abstractmethod
    def _diagonal_freedom(self, freedom, steps):
        """The degrees of freedom of A_ii^2, (S or 1, B..., D); the steps are 0, ..., D - 1."""

    @abstractmethod
    def _color(self, scale, noise):
        """The factor of a draw from the factor of the scale and Bartlett's matrix."""

    def _factor_of(self, random_variable):
        """The factor of the random variable, which is known already if it is the last draw, as in SVI."""
        drawn, self._drawn = self._drawn, None
        if drawn is not None and drawn[0] is random_variable:
            return drawn[1]
        return failure.factor(random_variable, self._policy(), self._full_name("random_variable"))

    def _scale_factor(self, matrix, dim):
        ((name, value),) = matrix.items()
        return forms.of_matrix(_FORMS[name], value, dim, self._policy(), self._full_name(name)).root()

    def _check_freedom(self, freedom, dim):
        if self._policy() is None:
            return
        value = failure.check_finite(freedom, self._full_name("degrees_of_freedom"), event_axes=1)
        if not (value > dim - 1).all():
            raise InferenceError(
                f"`{self._full_name('degrees_of_freedom')}`: got {value.min():.6g}; expected more than D - 1 = "
                f"{dim - 1}. If it is learned, declare it as D - 1 plus a Variable under Positive()."
            )

    def _check_fits(self, shape):
        checks.check_matrix("shape", shape)
        super()._check_fits(shape)
        freedom, dim = self.inputs[0][1], shape[-1]
        if freedom.type != VariableType.CONSTANT or not isinstance(dim, int):
            return
        value = (
            freedom.constant.asnumpy() if isinstance(freedom.constant, mx.nd.NDArray) else np.array(freedom.constant)
        )
        if not (value > dim - 1).all():
            checks.refuse(
                "degrees_of_freedom",
                f"{value.min():.6g}",
                f"more than D - 1 = {dim - 1}",
                f"With fewer, matrices of size {dim} x {dim} are singular.",
            )
