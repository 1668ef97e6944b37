# SPDX-License-Identifier: Apache-2.0
"""Mixtures of Gaussians on arrays: the density with the assignment summed out, and the assignment's probabilities.

With l_k = log N(x; mean_k, Sigma_k) and m = max_k (l_k + log w_k), held constant in gradients::

    log p(x) = m + log sum_k w_k exp(l_k - m)        P(k | x) = w_k exp(l_k) / p(x)

The weights are not taken to the logarithm in the sum, so that the gradient exists where one of them is zero; the
exponents, which are at most -log w_k, are cut where e^x would overflow, beyond the weights that have all their digits.
"""

from mxfusion_mvn.axes import add, multiply, subtract
from mxfusion_mvn.linalg import constant

import mxnet as mx
import numpy as np

# 1 / e^x is not an ordinary number of the dtype any more.
_LARGEST_EXPONENT = {"float32": 88.0, "float64": 709.0}


def log_pdf(value, weights, components):
    """
    Log density of a mixture.

    :param value: x (B..., D), an NDArray.
    :param weights: (B..., K), summing to one.
    :param components: a :class:`~mxfusion_mvn.Gaussian` with leading axes (B..., K).
    :returns: NDArray (B...), the broadcast of all leading axes but K; -inf where the density underflows in each
        component.
    """
    largest, terms = _terms(value, weights, components)
    return add(largest, mx.nd.log(mx.nd.sum(terms, axis=-1)))


def responsibilities(value, weights, components):
    """
    The probability of each component, given a value.

    :param value: x (B..., D), an NDArray.
    :param weights: (B..., K), summing to one.
    :param components: a :class:`~mxfusion_mvn.Gaussian` with leading axes (B..., K).
    :returns: NDArray (B..., K), summing to one.
    """
    _, terms = _terms(value, weights, components)
    return mx.nd.broadcast_div(terms, mx.nd.sum(terms, axis=-1, keepdims=True))


def draw_samples(assignment, noise, components):
    """
    Draws from the component each row is assigned to, reparametrised in its mean and covariance.

    :param assignment: one-hot NDArray (B..., K).
    :param noise: standard normals (B..., D).
    :param components: a :class:`~mxfusion_mvn.Gaussian` with leading axes (B..., K).
    :returns: NDArray (B..., D).
    """
    # Every component is drawn from and one is kept: a matrix for each row would be larger than K rows.
    drawn = components.draw_samples(noise=noise.expand_dims(-2))
    _check_count(assignment, drawn.shape[-2])
    return mx.nd.sum(multiply(drawn, assignment.expand_dims(-1)), axis=-2)


def _terms(value, weights, components):
    """m (B...) and w_k exp(l_k - m), (B..., K)."""
    log_pdf = components.log_pdf(value.expand_dims(-2))
    _check_count(weights, log_pdf.shape[-1])
    largest = mx.nd.max(constant(add(log_pdf, mx.nd.log(weights))), axis=-1, keepdims=True)
    name = np.dtype(log_pdf.dtype).name
    largest = mx.nd.maximum(largest, float(np.finfo(name).min))  # a difference of two infinities would be NaN
    exponent = mx.nd.minimum(subtract(log_pdf, largest), _LARGEST_EXPONENT[name])
    return largest.reshape(largest.shape[:-1]), multiply(mx.nd.exp(exponent), weights)


def _check_count(weights, components):
    """One weight would broadcast to many components, and the density would no longer integrate to one."""
    if weights.shape[-1] < components:
        raise ValueError(
            f"`weights`: got {weights.shape[-1]} for {components} components; expected one for each. "
            "Write them out, each 1 / K for equal weights."
        )
