# SPDX-License-Identifier: Apache-2.0
"""The same as supports_numpyro.py for Pyro, whose own transformation of covariances has D x D coordinates."""

import math

import pyro.distributions as dist
import torch
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform


class CovarianceFactor(type(constraints.lower_cholesky)):
    """Lower Cholesky factors (..., D, D) of covariances, whose densities are those of the covariances."""


class CovarianceFactorTransform(Transform):
    """From x to the factor L = diag(d) (I + T), with the volume of the covariance L L^T; d = exp of the last D x."""

    domain = constraints.real_vector
    codomain = CovarianceFactor()
    bijective = True

    def _call(self, x):
        dim = _dim(x.shape[-1])
        unit = x.new_zeros(x.shape[:-1] + (dim, dim))
        unit[(..., *torch.tril_indices(dim, dim, -1))] = x[..., :-dim]
        return x[..., -dim:].exp().unsqueeze(-1) * (unit + torch.eye(dim))

    def _inverse(self, y):
        scales = y.diagonal(dim1=-2, dim2=-1)
        below = (y / scales.unsqueeze(-1))[(..., *torch.tril_indices(y.shape[-1], y.shape[-1], -1))]
        return torch.cat([below, scales.log()], dim=-1)

    def log_abs_det_jacobian(self, x, y):
        """The sum of (D + 1) log d_i, plus D log 2."""
        dim = y.shape[-1]
        return (dim + 1) * x[..., -dim:].sum(-1) + dim * math.log(2)

    def forward_shape(self, shape):
        """(..., D, D)."""
        return shape[:-1] + (_dim(shape[-1]),) * 2

    def inverse_shape(self, shape):
        """(..., D (D + 1) / 2)."""
        return shape[:-2] + (shape[-1] * (shape[-1] + 1) // 2,)


class InverseWishartFactor(dist.TorchDistribution):
    """The inverse Wishart distribution with scale I, of a covariance that is represented by its factor."""

    arg_constraints = {}
    support = CovarianceFactor()

    def __init__(self, degrees_of_freedom, dim, batch_shape=()):
        self.degrees_of_freedom, self.dim = degrees_of_freedom, dim
        super().__init__(torch.Size(batch_shape), torch.Size((dim, dim)))

    def expand(self, batch_shape, _instance=None):
        """A batch of them."""
        return InverseWishartFactor(self.degrees_of_freedom, self.dim, batch_shape)

    def sample(self, sample_shape=()):
        """No draw but an example: Pyro asks for the shape."""
        return torch.eye(self.dim).expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value):
        """Log density of the covariance."""
        dim, freedom = self.dim, self.degrees_of_freedom
        inverse = torch.linalg.solve_triangular(value, torch.eye(dim).expand(value.shape), upper=False)
        log_det = value.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * freedom * dim * math.log(2) + torch.mvlgamma(torch.tensor(0.5 * freedom), dim)
        return -(freedom + dim + 1) * log_det - 0.5 * inverse.square().sum((-2, -1)) - constant


class LogRatios(type(constraints.simplex)):
    """A simplex whose coordinates treat all its entries alike."""


class LogRatioTransform(Transform):
    """From x to softmax(V x), the columns of V orthonormal and orthogonal to 1 (Helmert's)."""

    domain = constraints.real_vector
    codomain = LogRatios()
    bijective = True

    def _call(self, x):
        return self._log_shares(x).exp()

    def _inverse(self, y):
        return y.log() @ _basis(y.shape[-1])

    def log_abs_det_jacobian(self, x, y):
        """The sum of log y, plus half the log of the number of entries."""
        return self._log_shares(x).sum(-1) + 0.5 * math.log(y.shape[-1])

    def forward_shape(self, shape):
        """(..., K)."""
        return shape[:-1] + (shape[-1] + 1,)

    def inverse_shape(self, shape):
        """(..., K - 1)."""
        return shape[:-1] + (shape[-1] - 1,)

    def _log_shares(self, x):
        return torch.log_softmax(x @ _basis(x.shape[-1] + 1).T, dim=-1)


class DirichletByLogRatios(dist.Dirichlet):
    """The Dirichlet distribution in these coordinates."""

    support = LogRatios()


for registry in (biject_to, transform_to):
    registry.register(CovarianceFactor, lambda _: CovarianceFactorTransform())
    registry.register(LogRatios, lambda _: LogRatioTransform())


def _dim(size):
    return (math.isqrt(8 * size + 1) - 1) // 2


def _basis(size):
    """(K, K - 1)."""
    columns = torch.ones(size, size - 1).triu() - torch.arange(1.0, size).diag(-1)[:, : size - 1]
    return columns / columns.norm(dim=0)
