# SPDX-License-Identifier: Apache-2.0
"""Mixtures of Gaussians on arrays: the density with the assignment summed out, and the assignment's probabilities.

With l_k = log N(x; mean_k, Sigma_k) and m = max_k (l_k + log w_k), held constant in gradients::

    log p(x) = m + log sum_k w_k exp(l_k - m)        P(k | x) = w_k exp(l_k) / p(x)

The weights are not taken to the logarithm in the sum, so that the gradient exists where one of them is zero; the
exponents, which are at most -log w_k, are cut where e^x would overflow, beyond the weights that have all their digits.

Far from all components l_k is so large that the differences, which are all that the probabilities need, are lost in its
rounding, or that it is infinite. They are taken from the whitened residuals z_k, with r the nearest component::

    l_k - l_r = 1/2 (z_r - z_k)^T (z_r + z_k) + 1/2 (log det Sigma_r - log det Sigma_k)
    z_r - z_k = L_r^-1 (x - mean_r) - L_k^-1 (x - mean_r) + L_k^-1 (mean_k - mean_r)

where the first two terms cancel to the last bit if the covariances are equal.
"""

from __future__ import annotations

from mxfusion_mvn.checks import arguments
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.linalg import axes, constant
from mxfusion_mvn.linalg.axes import ArrayLike, add, multiply, namespace, subtract
from mxfusion_mvn.structures.pairs import is_singular

import mxnet as mx
import numpy as np

# Beyond these, 1 / e^x is not a normal number of the dtype.
_LARGEST_EXPONENT = {"float32": 88.0, "float64": 709.0}


def log_pdf(value: ArrayLike, weights: ArrayLike, components: Gaussian) -> mx.nd.NDArray:
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


def responsibilities(value: ArrayLike, weights: ArrayLike, components: Gaussian) -> mx.nd.NDArray:
    """
    The probability of each component, given a value.

    :param value: x (B..., D), an NDArray.
    :param weights: (B..., K), summing to one.
    :param components: a :class:`~mxfusion_mvn.Gaussian` with leading axes (B..., K).
    :returns: NDArray (B..., K), summing to one, however far the value is from all components. Float32 arrays are
        computed in float64. NaN off the support of all components, where they are singular.
    """
    value, weights, components = _checked(value, weights, components)
    dtype = components.mean.dtype
    value, weights, components = _widened(value, weights, components)
    if is_singular(components.structure):
        _, terms = _terms(value, weights, components)
    else:
        log_ratios, scale = _log_ratios(value, weights, components)
        joint = constant(add(log_ratios, multiply(mx.nd.log(weights), 1 / scale)))
        exponent = subtract(log_ratios, mx.nd.max(joint, axis=-1, keepdims=True))
        terms = _weighted(multiply(exponent, scale), weights)
    return mx.nd.broadcast_div(terms, mx.nd.sum(terms, axis=-1, keepdims=True)).astype(dtype, copy=False)


def draw_samples(assignment: ArrayLike, noise: ArrayLike, components: Gaussian) -> mx.nd.NDArray:
    """
    Draws from the component each row is assigned to, reparametrised in its mean and covariance.

    :param assignment: one-hot NDArray (B..., K).
    :param noise: standard normals (B..., D).
    :param components: a :class:`~mxfusion_mvn.Gaussian` with leading axes (B..., K).
    :returns: NDArray (B..., D).
    """
    _check_components(components)
    assignment = arguments.as_array("assignment", assignment, components.mean)
    noise = arguments.as_array("noise", noise, components.mean)
    _check_entries(assignment=assignment, noise=noise)
    _check_leading("noise", noise.shape[:-1], components)
    # Every component is drawn from and one is kept: a matrix for each row would be larger than K rows.
    drawn = components.draw_samples(noise=noise.expand_dims(-2))
    _check_weights("assignment", assignment, drawn.shape[:-1])
    return mx.nd.sum(multiply(drawn, assignment.expand_dims(-1)), axis=-2)


def _terms(value, weights, components):
    """m (B...) and w_k exp(l_k - m), (B..., K)."""
    value, weights, components = _checked(value, weights, components)
    log_pdf = components.log_pdf(value.expand_dims(-2))
    _check_weights("weights", weights, log_pdf.shape)
    largest = mx.nd.max(constant(add(log_pdf, mx.nd.log(weights))), axis=-1, keepdims=True)
    largest = mx.nd.maximum(largest, float(np.finfo(log_pdf.dtype).min))  # a difference of two infinities would be NaN
    return largest.reshape(largest.shape[:-1]), _weighted(subtract(log_pdf, largest), weights)


def _widened(value, weights, components):
    """In float64, but where that would change a repair."""
    structure = components.structure
    if value.dtype != np.float32 or is_singular(structure) or structure.may_be_repaired():
        return value, weights, components
    structure.log_det()  # a matrix that float32 takes for indefinite is so for every method
    value, weights, mean = (array.astype("float64") for array in (value, weights, components.mean))
    return value, weights, Gaussian(mean, structure.in_float64())


def _log_ratios(value, weights, components):
    """l_k / c (B..., K), up to a term that the components share, and c >= 1 (B..., 1), which keeps it finite."""
    structure = components.structure.for_one_computation()
    value, mean = value.expand_dims(-2), components._full_mean()
    joint = constant(add(Gaussian(mean, structure).log_pdf(value), mx.nd.log(weights)))
    # MXNet gives the position in a single vector an axis of its own.
    is_nearest = mx.nd.one_hot(mx.nd.argmax(joint, axis=-1), joint.shape[-1], dtype=joint.dtype)
    is_nearest = is_nearest.reshape(joint.shape + (1,))

    def of_nearest(array):
        return mx.nd.sum(multiply(array, is_nearest), axis=-2, keepdims=True)

    middle, own = of_nearest(mean), structure.whiten(subtract(value, mean))
    alike, shift = structure.whiten(subtract(value, middle)), structure.whiten(subtract(mean, middle))
    turn, reference = subtract(of_nearest(alike), alike), of_nearest(own)
    direct, by_parts = subtract(reference, own), add(turn, shift)
    rounds_less = subtract(add(_size(turn), _size(shift)), add(_size(reference), _size(own))) < 0
    shape = axes.broadcast_shapes(direct.shape, by_parts.shape)
    difference = mx.nd.where(*(array.broadcast_to(shape) for array in (rounds_less, by_parts, direct)))
    total = add(reference, own)
    scale = mx.nd.maximum(mx.nd.max(constant(_size(total)), axis=-2), 1.0)
    products = mx.nd.sum(multiply(difference, multiply(total, 1 / scale.expand_dims(-1))), axis=-1)
    return 0.5 * subtract(products, multiply(structure.log_det(), 1 / scale)), scale


def _size(vectors):
    return mx.nd.max(mx.nd.abs(vectors), axis=-1, keepdims=True)


def _weighted(exponent, weights):
    """w e^x."""
    return multiply(mx.nd.exp(mx.nd.minimum(exponent, _LARGEST_EXPONENT[np.dtype(exponent.dtype).name])), weights)


def _checked(value, weights, components):
    _check_components(components)
    value = arguments.as_array("value", value, components.mean, components.structure.dim())
    weights = arguments.as_array("weights", weights, components.mean)
    _check_leading("value", value.shape[:-1], components)
    _check_entries(value=value, weights=weights)
    leading = axes.broadcast_shapes(value.shape[:-1] + (1,), components._leading)
    _check_weights("weights", weights, leading)
    return value, weights, components


def _check_entries(**given):
    for name, array in given.items():
        if 0 in array.shape:
            arguments.refuse(name, f"shape {array.shape}", "at least one entry", "Check how it is computed.")


def _check_components(components):
    if not isinstance(components, Gaussian) or namespace(components.mean) is not mx.nd:
        arguments.refuse(
            "components",
            "one of Symbols" if isinstance(components, Gaussian) else f"a {type(components).__name__}",
            "a Gaussian of NDArrays (B..., K, D)",
            "Build it with Gaussian(mean, covariance).",
        )
    if not components._leading:
        arguments.refuse("components", "a single Gaussian", "leading axes (B..., K)", "Write mean[None] for one.")


def _check_leading(name, own, components):
    if not axes.do_broadcast(own, components._leading[:-1]):
        arguments.refuse(
            name,
            f"leading axes {own}",
            f"what broadcasts with {components._leading[:-1]}, those of the components before K",
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
        arguments.refuse(name, f"shape {weights.shape}", f"what broadcasts with {leading}", "They are (B..., K).")
