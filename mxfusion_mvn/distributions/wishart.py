# SPDX-License-Identifier: Apache-2.0
"""The Wishart distribution in an MXFusion model, a prior of precision matrices.

With nu degrees of freedom and scale V (Gupta and Nagar, Matrix Variate Distributions, 2000, definition 3.2.1)::

    log p = (nu - D - 1)/2 log|X| - 1/2 tr(V^-1 X) - nu D/2 log 2 - nu/2 log|V| - log Gamma_D(nu/2)

A draw is (L A) (L A)^T with L L^T = V and Bartlett's A, A_ii^2 ~ chi^2 with nu - i degrees of freedom, i = 0, 1, ...
"""

from mxfusion_mvn.distributions import _bartlett

import mxnet as mx


class Wishart(_bartlett.BartlettDistribution):
    """
    W(nu, V) over symmetric positive definite matrices, the last two axes of a random variable (B..., D, D); mean nu V.

    Give one of scale and scale_tril. Parameters broadcast, and constants are made and matrices reported, as in
    :class:`~mxfusion_mvn.MultivariateNormal`; so is a value that is not positive definite.

    The log density has the gradients of all parameters. Draws carry gradients for the scale, but MXNet's gamma draws
    carry none for nu: asking for it is an error. The density of a draw, as variational inference wants it, uses the
    factor that made the draw.

    :param degrees_of_freedom: nu, (B..., 1) or a number; greater than D - 1.
    :param scale: V (B..., D, D); a number or 1 x 1 matrix is that multiple of the identity, which is the default.
    :param scale_tril: L with L L^T = V, likewise, instead of V; only the lower triangle is read.
    :param shape: tuple (B..., D, D) of integers and Variables. With it the random Variable is declared and returned,
        without it the factor, for ``set_prior``.
    :param on_failure: as in :class:`~mxfusion_mvn.MultivariateNormal`, for the scale and the random variable.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: float32 or float64, of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the current one and the parameters' own.
    :raises ModelSpecificationError: naming the argument, for wrong types, shapes and values.
    """

    def _ratio(self, value, scale):
        return _bartlett.solve_left(scale, value)

    def _diagonal_freedom(self, freedom, steps):
        return mx.nd.broadcast_sub(freedom, steps)

    def _color(self, scale, noise):
        return _bartlett.multiply_left(scale, noise)
