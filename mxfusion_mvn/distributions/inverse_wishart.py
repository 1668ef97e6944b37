# SPDX-License-Identifier: Apache-2.0
"""The inverse Wishart distribution in an MXFusion model, a prior of covariance matrices.

With nu degrees of freedom and scale Psi, as in SciPy's ``invwishart`` (Gupta and Nagar, Matrix Variate Distributions,
2000, definition 3.4.1, whose m is nu + D + 1)::

    log p = nu/2 log|Psi| - (nu + D + 1)/2 log|X| - 1/2 tr(Psi X^-1) - nu D/2 log 2 - log Gamma_D(nu/2)

The inverse of X is Wishart(nu, Psi^-1). It is drawn as L^-T A^T A L^-1 with L L^T = Psi and a lower triangular A of
Bartlett's kind in reversed order, A_ii^2 ~ chi^2 with nu - D + 1 + i degrees of freedom, i = 0, 1, ...; so L A^-1 is
the lower factor of X.
"""

from mxfusion_mvn.distributions import _bartlett

import mxnet as mx


class InverseWishart(_bartlett.BartlettDistribution):
    """
    IW(nu, Psi) over symmetric positive definite matrices, the last two axes of a random variable (B..., D, D).

    Its mean is Psi / (nu - D - 1) for nu > D + 1, its mode Psi / (nu + D + 1). It is the conjugate prior of the
    covariance of a :class:`~mxfusion_mvn.MultivariateNormal`. Parameters, gradients and reports are as in
    :class:`~mxfusion_mvn.Wishart`.

    :param degrees_of_freedom: nu, (B..., 1) or a number; greater than D - 1.
    :param scale: Psi (B..., D, D); a number or 1 x 1 matrix is that multiple of the identity, which is the default.
    :param scale_tril: L with L L^T = Psi, likewise, instead of Psi; only the lower triangle is read.
    :param shape: tuple (B..., D, D) of integers and Variables. With it the random Variable is declared and returned,
        without it the factor, for ``set_prior``.
    :param on_failure: as in :class:`~mxfusion_mvn.MultivariateNormal`, for the scale and the random variable.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: float32 or float64, of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the current one and the parameters' own.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    def _ratio(self, value, scale):
        return _bartlett.solve_left(value, scale)

    def _diagonal_freedom(self, freedom, steps):
        return mx.nd.broadcast_sub(freedom, steps.shape[0] - 1 - steps)

    def _color(self, scale, noise):
        return _bartlett.solve_right(scale, noise)
