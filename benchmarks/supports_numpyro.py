# SPDX-License-Identifier: Apache-2.0
"""Supports of NumPyro's distributions in the coordinates that this package gives them, so that guides are the same.

A covariance is represented by its Cholesky factor, which spares NumPyro the factorisation.
"""

import math

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp, multigammaln
from numpyro.distributions import constraints
from numpyro.distributions.transforms import ParameterFreeTransform, biject_to


class CovarianceFactor(constraints._LowerCholesky):
    """Lower Cholesky factors (..., D, D) of covariances, whose densities are those of the covariances."""


class CovarianceFactorTransform(ParameterFreeTransform):
    """From x to the factor L = diag(d) (I + T), with the volume of the covariance L L^T; d = exp of the last D x."""

    domain = constraints.real_vector
    codomain = CovarianceFactor()

    def __call__(self, x):
        """L."""
        dim = _dim(x.shape[-1])
        unit = jnp.zeros(x.shape[:-1] + (dim, dim)).at[(..., *jnp.tril_indices(dim, -1))].set(x[..., :-dim])
        return jnp.exp(x[..., -dim:])[..., None] * (unit + jnp.eye(dim))

    def _inverse(self, y):
        scales = jnp.diagonal(y, axis1=-2, axis2=-1)
        below = (y / scales[..., None])[(..., *jnp.tril_indices(y.shape[-1], -1))]
        return jnp.concatenate([below, jnp.log(scales)], axis=-1)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """The sum of (D + 1) log d_i, plus D log 2."""
        dim = y.shape[-1]
        return (dim + 1) * jnp.sum(x[..., -dim:], axis=-1) + dim * math.log(2)

    def forward_shape(self, shape):
        """(..., D, D)."""
        return shape[:-1] + (_dim(shape[-1]),) * 2

    def inverse_shape(self, shape):
        """(..., D (D + 1) / 2)."""
        return shape[:-2] + (shape[-1] * (shape[-1] + 1) // 2,)


class InverseWishartFactor(dist.InverseWishartCholesky):
    """The inverse Wishart distribution with scale I, of a covariance that is represented by its factor."""

    support = CovarianceFactor()

    def __init__(self, degrees_of_freedom, dim):
        super().__init__(degrees_of_freedom, scale_tril=jnp.eye(dim))

    def log_prob(self, value):
        """Log density of the covariance."""
        dim, freedom = value.shape[-1], self.concentration
        inverse = solve_triangular(value, jnp.broadcast_to(jnp.eye(dim), value.shape), lower=True)
        log_det = jnp.sum(jnp.log(jnp.diagonal(value, axis1=-2, axis2=-1)), axis=-1)
        constant = 0.5 * freedom * dim * math.log(2) + multigammaln(0.5 * freedom, dim)
        return -(freedom + dim + 1) * log_det - 0.5 * jnp.sum(jnp.square(inverse), axis=(-2, -1)) - constant


class LogRatios(constraints._Simplex):
    """A simplex whose coordinates treat all its entries alike."""


class LogRatioTransform(ParameterFreeTransform):
    """From x to softmax(V x), the columns of V orthonormal and orthogonal to 1 (Helmert's)."""

    domain = constraints.real_vector
    codomain = LogRatios()

    def __call__(self, x):
        """The shares."""
        return jnp.exp(self._log_shares(x))

    def _inverse(self, y):
        return jnp.log(y) @ _basis(y.shape[-1])

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """The sum of log y, plus half the log of the number of entries."""
        return jnp.sum(self._log_shares(x), axis=-1) + 0.5 * math.log(y.shape[-1])

    def forward_shape(self, shape):
        """(..., K)."""
        return shape[:-1] + (shape[-1] + 1,)

    def inverse_shape(self, shape):
        """(..., K - 1)."""
        return shape[:-1] + (shape[-1] - 1,)

    def _log_shares(self, x):
        z = x @ _basis(x.shape[-1] + 1).T
        return z - logsumexp(z, axis=-1, keepdims=True)


class DirichletByLogRatios(dist.Dirichlet):
    """The Dirichlet distribution in these coordinates."""

    support = LogRatios()


biject_to.register(CovarianceFactor, lambda _: CovarianceFactorTransform())
biject_to.register(LogRatios, lambda _: LogRatioTransform())


def _dim(size):
    return (math.isqrt(8 * size + 1) - 1) // 2


def _basis(size):
    """(K, K - 1)."""
    columns = jnp.triu(jnp.ones((size, size - 1))) - jnp.diag(jnp.arange(1.0, size), -1)[:, : size - 1]
    return columns / jnp.linalg.norm(columns, axis=0)
