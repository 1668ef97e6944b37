# SPDX-License-Identifier: Apache-2.0
"""Mixtures of Gaussians on arrays: the density with the assignment summed out, and the assignment's probabilities.

With l_k = log N(x; mean_k, Sigma_k) and m = max_k (l_k + log w_k), held constant in gradients::

    log p(x) = m + log sum_k w_k exp(l_k - m)        P(k | x) = w_k exp(l_k) / p(x)

The weights are not taken to the logarithm in the sum, so that the gradient exists where one of them is zero; the
exponents, which are at most -log w_k, are cut where e^x would overflow, beyond the weights that have all their digits.
"""

from mxfusion_mvn import arrays, axes
from mxfusion_mvn.axes import add, multiply, namespace, subtract
from mxfusion_mvn.gaussian import Gaussian
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
    :raises ValueError: for other types and shapes; likewise below.
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
    _check_components(components)
    assignment = arrays.as_array("assignment", assignment, components.mean)
    noise = arrays.as_array("noise", noise, components.mean)
    _check_leading("noise", noise.shape[:-1], components)
    # Every component is drawn from and one is kept: a matrix for each row would be larger than K rows.
    drawn = components.draw_samples(noise=noise.expand_dims(-2))
    _check_weights("assignment", assignment, drawn.shape[:-1])
    return mx.nd.sum(multiply(drawn, assignment.expand_dims(-1)), axis=-2)


def _terms(value, weights, components):
    """m (B...) and w_k exp(l_k - m), (B..., K)."""
    _check_components(components)
    value = arrays.as_array("value", value, components.mean, components.structure.dim())
    weights = arrays.as_array("weights", weights, components.mean)
    _check_leading("value", value.shape[:-1], components)
    log_pdf = components.log_pdf(value.expand_dims(-2))
    _check_weights("weights", weights, log_pdf.shape)
    largest = mx.nd.max(constant(add(log_pdf, mx.nd.log(weights))), axis=-1, keepdims=True)
    name = np.dtype(log_pdf.dtype).name
    largest = mx.nd.maximum(largest, float(np.finfo(name).min))  # a difference of two infinities would be NaN
    exponent = mx.nd.minimum(subtract(log_pdf, largest), _LARGEST_EXPONENT[name])
    return largest.reshape(largest.shape[:-1]), multiply(mx.nd.exp(exponent), weights)


def _check_components(components):
    if not isinstance(components, Gaussian) or namespace(components.mean) is not mx.nd:
        arrays.refuse(
            "components",
            "one of Symbols" if isinstance(components, Gaussian) else f"a {type(components).__name__}",
            "a Gaussian of NDArrays (B..., K, D)",
            "Build it with Gaussian(mean, covariance).",
        )
    if not _leading(components):
        arrays.refuse("components", "a single Gaussian", "leading axes (B..., K)", "Write mean[None] for one.")


def _leading(components):
    """The leading axes (B..., K) of the components, () if there are none."""
    return axes.broadcast_shapes(components.mean.shape[:-1], components.structure.leading())


def _check_leading(name, own, components):
    if not axes.do_broadcast(own, _leading(components)[:-1]):
        arrays.refuse(
            name,
            f"leading axes {own}",
            f"what broadcasts with {_leading(components)[:-1]}, those of the components before K",
            "Rows are (B..., D), components (B..., K, D).",
        )


def _check_weights(name, weights, leading):
    """One weight would broadcast to many components, and the density would no longer integrate to one."""
    if weights.shape[-1] < leading[-1]:
        raise ValueError(
            f"`{name}`: got {weights.shape[-1]} for {leading[-1]} components; expected one for each. "
            "Write them out, each 1 / K for equal weights."
        )
    if not axes.do_broadcast(weights.shape, leading):
        arrays.refuse(name, f"shape {weights.shape}", f"what broadcasts with {leading}", "They are (B..., K).")
