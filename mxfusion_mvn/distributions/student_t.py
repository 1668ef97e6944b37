# SPDX-License-Identifier: Apache-2.0
"""The multivariate Student t in an MXFusion model.

With q = (x - mean)^T Sigma^-1 (x - mean) and nu degrees of freedom (Kotz and Nadarajah, Multivariate t Distributions,
2004, equation 1.1)::

    log p = log Gamma((nu + D)/2) - log Gamma(nu/2) - D/2 log(nu pi) - 1/2 log det Sigma - (nu + D)/2 log(1 + q/nu)

For nu = inf it is the normal; all that is above 1e30 (float32), or 1e200, counts as such. A draw is
mean + A z / sqrt(g), z standard normal, A A^T = Sigma and g ~ Gamma(nu/2) / (nu/2).
"""

from __future__ import annotations

import math
import numbers

from mxfusion_mvn import checks
from mxfusion_mvn.checks import model_inputs
from mxfusion_mvn.checks.failure import OnFailure
from mxfusion_mvn.distributions._matrix import MatrixDistribution
from mxfusion_mvn.distributions._special import log_gamma_excess
from mxfusion_mvn.linalg.axes import ArrayLike, add, multiply, subtract

import mxnet as mx
import numpy as np
from mxfusion.components.distributions.random_gen import RandomGenerator
from mxfusion.components.variables import Variable
from mxnet import autograd

# More degrees of freedom than these change no digit; q / nu is still a normal number.
_AS_INFINITE = {"float32": 1e30, "float64": 1e200}
# Residuals beyond these are scaled before they are squared; q / nu is of size 1 or more, whatever nu is.
_LARGEST = {name: math.sqrt(value) for name, value in _AS_INFINITE.items()}


class MultivariateStudentT(MatrixDistribution):
    """
    t(degrees of freedom, mean, Sigma) over the last axis of a random variable (B..., D).

    Sigma is the scale matrix; the covariance is nu / (nu - 2) Sigma for nu > 2. It is given, broadcast and reported as
    in :class:`~mxfusion_mvn.MultivariateNormal`. Learn nu under :class:`~mxfusion_mvn.transformations.Positive`.

    Draws carry gradients for mean and scale matrix, but MXNet's gamma draws carry none for nu: asking for it is an
    error. The log density has the gradients of all.

    :param degrees_of_freedom: nu, (B..., 1) or a number; positive, ``float("inf")`` for the normal.
    :param mean: (B..., D) or (B..., 1), or a number.
    :param covariance: Sigma (B..., D, D); a number or 1 x 1 matrix is that multiple of the identity.
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

    EVENT = {**MatrixDistribution.EVENT, "degrees_of_freedom": "1", "mean": "D"}
    CHECKS = {**MatrixDistribution.CHECKS, "degrees_of_freedom": checks.check_positive}

    def __init__(
        self,
        degrees_of_freedom: Variable | ArrayLike,
        mean: Variable | ArrayLike = 0.0,
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
        inputs = {"degrees_of_freedom": _finite(degrees_of_freedom), "mean": mean, "matrix": matrix}
        super().__init__(inputs, on_failure, rand_gen, dtype, ctx)

    def log_pdf_impl(self, degrees_of_freedom, mean, random_variable, F=None, **matrix):
        """Log density, without ``log_pdf_scaling``."""
        dim = random_variable.shape[-1]
        gaussian = self._gaussian(mean, matrix, dim)
        # First, because MXNet raises an old failure at whatever is read first; the factorisation reports it by name.
        log_det = gaussian.structure.log_det()
        freedom = self._freedom(degrees_of_freedom)
        excess = log_gamma_excess(0.5 * freedom.astype("float64"), np.array([0.5 * dim]))
        freedom = freedom.reshape(freedom.shape[:-1])
        constant = excess.reshape(freedom.shape).astype(freedom.dtype) - 0.5 * dim * math.log(2 * math.pi)
        constant = subtract(constant, 0.5 * log_det)
        return subtract(constant, multiply(0.5 * (freedom + dim), self._spread(gaussian, random_variable, freedom)))

    def draw_samples_impl(self, degrees_of_freedom, mean, rv_shape, num_samples=1, F=None, **matrix):
        """Draws, reparametrised in mean and scale matrix; a gradient of the degrees of freedom is refused."""
        self._refuse_gradient("degrees_of_freedom", degrees_of_freedom)
        gaussian = self._gaussian(mean, matrix, rv_shape[-1])
        if self._policy() is not None:
            gaussian.structure.log_det()
        freedom = self._freedom(degrees_of_freedom)
        noise = self._normal_noise((num_samples,) + rv_shape, like=mean)
        half = (0.5 * freedom).broadcast_to((num_samples,) + rv_shape[:-1] + (1,))
        # A gamma draw of few degrees of freedom may underflow to 0; the noise divided by it would be infinite.
        smallest = float(np.finfo(half.dtype).tiny)
        scale = mx.nd.sqrt(mx.nd.maximum(self._gamma_noise(half), smallest) / half)
        return add(gaussian.structure.color(mx.nd.broadcast_div(noise, scale)), mean)

    def _freedom(self, degrees_of_freedom):
        freedom = mx.nd.minimum(degrees_of_freedom, _AS_INFINITE[np.dtype(degrees_of_freedom.dtype).name])
        if self._policy() is not None:
            self._check_positive("degrees_of_freedom", freedom)
        return freedom

    def _spread(self, gaussian, value, freedom):
        """log(1 + q/nu), (S or 1, B...)."""
        inverse = 1 / freedom
        if autograd.is_recording():  # at such distances there is nothing to learn
            return mx.nd.log1p(multiply(gaussian.mahalanobis(value), inverse))
        name = np.dtype(value.dtype).name
        whitened = gaussian.structure.whiten(subtract(value, gaussian.mean))
        scale = mx.nd.max(mx.nd.abs(whitened), axis=-1, keepdims=True) / _LARGEST[name]
        scale = mx.nd.minimum(mx.nd.maximum(scale, 1.0), float(np.finfo(name).max))
        ratio = multiply(mx.nd.sum(mx.nd.square(mx.nd.broadcast_div(whitened, scale)), axis=-1), inverse)
        scale = scale.reshape(scale.shape[:-1])
        # log(1 + s^2 r) = log(s^-2 + r) + 2 log s
        return add(mx.nd.log1p(add(ratio, mx.nd.square(1 / scale) - 1)), 2 * mx.nd.log(scale))


def _finite(degrees_of_freedom):
    """Infinitely many as a number that is taken for it."""
    if isinstance(degrees_of_freedom, numbers.Real) and degrees_of_freedom == math.inf:
        return _AS_INFINITE["float32"]
    if isinstance(degrees_of_freedom, np.ndarray) and degrees_of_freedom.dtype.name in _AS_INFINITE:
        return np.where(degrees_of_freedom == np.inf, _AS_INFINITE["float32"], degrees_of_freedom)
    if type(degrees_of_freedom) is mx.nd.NDArray and np.dtype(degrees_of_freedom.dtype).name in _AS_INFINITE:
        return mx.nd.minimum(degrees_of_freedom, _AS_INFINITE[np.dtype(degrees_of_freedom.dtype).name])
    return degrees_of_freedom
