# SPDX-License-Identifier: Apache-2.0
"""The means of priors, at which inference begins.

For an inverse Wishart the inverse of the mean precision is taken, Psi / nu, which always exists and lies between the
mode and the mean; for the Cholesky factor of a correlation matrix the identity.
"""

from typing import Any, Dict

from mxfusion_mvn import distributions
from mxfusion_mvn.linalg.axes import broadcast_shapes

import numpy as np
from mxfusion.components import distributions as host


def prior_mean(factor, shape, given):
    """
    The mean of a distribution.

    :param factor: Distribution.
    :param shape: tuple of integers, the shape of its variable, with 1 for an unknown size.
    :param given: dict from the names of its parameters to NumPy arrays; unknown parameters are left out.
    :returns: NumPy array that broadcasts with the shape; None if the mean is not known, or not finite.
    """
    function = next((_MEANS[kind] for kind in type(factor).__mro__ if kind in _MEANS), None)
    if function is None:
        return None
    with np.errstate(all="ignore"):
        try:
            mean = function(shape, given)
        except (KeyError, ValueError):  # an unknown parameter, or shapes that training will refuse
            return None
    return mean if np.isfinite(mean).all() else None


def _parameter(name):
    return lambda shape, given: given[name]


def _mixture(shape, given):
    return (given["weights"][..., None] * given["mean"]).sum(axis=-2)


def _gamma(shape, given):
    return given["alpha"] / given["beta"]


def _beta(shape, given):
    return given["alpha"] / (given["alpha"] + given["beta"])


def _uniform(shape, given):
    return (given["low"] + given["high"]) / 2


def _dirichlet(shape, given):
    alpha = np.broadcast_to(given["alpha"], broadcast_shapes(given["alpha"].shape, shape[-1:]))
    return alpha / alpha.sum(axis=-1, keepdims=True)


def _wishart(shape, given):
    return given["degrees_of_freedom"][..., None] * _scale(shape, given)


def _inverse_wishart(shape, given):
    return _scale(shape, given) / given["degrees_of_freedom"][..., None]


def _lkj(shape, given):
    return np.eye(shape[-1])


def _scale(shape, given):
    if "scale_tril" in given:
        factor = np.tril(given["scale_tril"])
        scale = factor @ np.swapaxes(factor, -1, -2)
    else:
        scale = given["scale"]
    return scale * np.eye(shape[-1]) if scale.shape[-1] == 1 else scale


_MEANS: Dict[type, Any] = {
    **{
        distribution: _parameter("mean")
        for distribution in (
            distributions.LowRankMultivariateNormal,
            distributions.MatrixNormal,
            distributions.MultivariateNormal,
            distributions.MultivariateStudentT,
            host.GammaMeanVariance,
            host.MultivariateNormal,
            host.MultivariateNormalMeanPrecision,
            host.Normal,
            host.NormalMeanPrecision,
        )
    },
    distributions.GaussianMixture: _mixture,
    distributions.InverseWishart: _inverse_wishart,
    distributions.LKJCholesky: _lkj,
    distributions.Wishart: _wishart,
    host.Beta: _beta,
    host.Dirichlet: _dirichlet,
    host.Gamma: _gamma,
    host.Laplace: _parameter("location"),
    host.Uniform: _uniform,
    host.Wishart: _wishart,
}
