# SPDX-License-Identifier: Apache-2.0
"""Right draws from distributions of MXFusion whose own draws do not follow their ``log_pdf``.

In MXFusion 0.3.1::

    Bernoulli                        is true with probability 1 - p
    Beta                             refuses parameters that have to be broadcast
    Categorical                      reads log probabilities as probabilities
    Dirichlet                        divides by the sum over all rows and samples
    Gamma, GammaMeanVariance         multiply by the rate, and ignore the shape of the variable
    MultivariateNormalMeanPrecision  takes the precision for a Cholesky factor

Noise comes from the generator of the factor, as in MXFusion. These draws have no gradients.
"""

from typing import Any, Callable, Dict

from mxfusion_mvn.gaussian import Gaussian

import mxnet as mx
from mxfusion.components import Distribution
from mxfusion.components import distributions as host
from mxfusion.util.inference import realize_shape


def draw(factor: Distribution, variables: Dict[str, Any], num_samples: int) -> mx.nd.NDArray:
    """
    Draws of the random variable of any distribution.

    :param factor: Distribution.
    :param variables: dict from uuid to NDArray (1 or S, ...), and to the sizes in the shape.
    :param num_samples: S.
    :returns: NDArray (S, ...).
    """
    right_draws = _RIGHT_DRAWS.get(type(factor))
    if right_draws is None:
        return factor.draw_samples(F=mx.nd, variables=variables, num_samples=num_samples)
    shape = (num_samples,) + realize_shape(factor.outputs[0][1].shape, variables)
    return right_draws(factor, shape, **{name: variables[variable.uuid] for name, variable in factor.inputs})


def _bernoulli(factor, shape, prob_true):
    prob_true = _broadcast(prob_true, shape)
    noise = factor._rand_gen.sample_uniform(shape=shape, dtype=prob_true.dtype, ctx=prob_true.context)
    return noise < prob_true


def _beta(factor, shape, alpha, beta):
    true, false = (_unit_gamma(factor, _broadcast(count, shape)) for count in (alpha, beta))
    return true / (true + false)


def _gamma(factor, shape, alpha, beta):
    return _unit_gamma(factor, _broadcast(alpha, shape)) / _broadcast(beta, shape)


def _gamma_mean_variance(factor, shape, mean, variance):
    mean, variance = _broadcast(mean, shape), _broadcast(variance, shape)
    return _unit_gamma(factor, mx.nd.square(mean) / variance) * variance / mean


def _dirichlet(factor, shape, alpha):
    parts = _unit_gamma(factor, _broadcast(alpha, shape))
    return mx.nd.broadcast_div(parts, mx.nd.sum(parts, axis=-1, keepdims=True))


def _categorical(factor, shape, log_prob):
    log_prob = _broadcast(log_prob, shape[:-1] + (factor.num_classes,))
    probability = mx.nd.softmax(log_prob, axis=-1) if factor.normalization else mx.nd.exp(log_prob)
    drawn = factor._rand_gen.sample_multinomial(probability.reshape((-1, factor.num_classes)))
    if factor.one_hot_encoding:
        drawn = mx.nd.one_hot(drawn, depth=factor.num_classes)
    return drawn.astype(log_prob.dtype).reshape(shape)


def _normal_mean_precision(factor, shape, mean, precision):
    mean = _broadcast(mean, shape)
    noise = factor._rand_gen.sample_normal(shape=shape, dtype=mean.dtype, ctx=mean.context)
    return Gaussian(mean, precision=_broadcast(precision, shape + shape[-1:])).draw_samples(noise=noise)


def _unit_gamma(factor, alpha):
    ones = mx.nd.ones_like(alpha)
    drawn = factor._rand_gen.sample_gamma(alpha=alpha, beta=ones, shape=1, dtype=alpha.dtype, ctx=alpha.context)
    return drawn.reshape(alpha.shape)


def insert_axes(array, ndim):
    """
    Insert axes after the sample axis.

    :param array: NDArray (S, ...).
    :param ndim: the number of axes that the result has at least.
    :returns: NDArray (S, 1..., ...).
    """
    return array.reshape(array.shape[:1] + (1,) * (ndim - array.ndim) + array.shape[1:])


def _broadcast(array, shape):
    return insert_axes(array, len(shape)).broadcast_to(shape)


_RIGHT_DRAWS: Dict[type, Callable] = {
    host.Bernoulli: _bernoulli,
    host.Beta: _beta,
    host.Categorical: _categorical,
    host.Dirichlet: _dirichlet,
    host.Gamma: _gamma,
    host.GammaMeanVariance: _gamma_mean_variance,
    host.MultivariateNormalMeanPrecision: _normal_mean_precision,
}
