# SPDX-License-Identifier: Apache-2.0
"""The Gaussian approximations of posteriors: in unconstrained coordinates, pushed through bijections.

With standard normal noise e and standard deviations s, which carry the whole scale::

    z = mean + s * (A e)        A = I    or I + (strictly lower triangle)    or [F, I] with rows scaled to norm 1
    v = b(z)                    log q(v) = log N(z; mean, diag(s) A A^T diag(s)) - log |db/dz|

In the form [F, I], s is the standard deviation of each coordinate, and F determines the part of it that coordinates
share: as the independent part goes to zero F grows, and s stays the same.

The approximation of a single variable holds its bijection. For several variables z is a variable of its own, in the
posterior only, and each of them is a :class:`Pushforward` of its part of z.

The first term of log q follows from the noise of a draw, -1/2 |e|^2 - log det diag(s) - n/2 log 2 pi, without a solve;
only low rank needs one. The evidence lower bound takes one of three estimates of its mean, minus the entropy of z:

- ``sampled``: that term. The bound has no variance if q is the posterior;
- ``closed_form``: the mean itself. Its gradient is that of ``sampled``, except for low rank, where the gradient of
  ``sampled`` varies;
- ``sticking_the_landing``: as ``sampled``, but with the parameters of the density held constant, so that the gradient,
  too, has no variance if q is the posterior (Roeder, Wu and Duvenaud, arXiv 1703.09194). In full rank it takes one
  solve, A^-T e; while A is too ill-conditioned for it, as in large models during training, its gradient goes over to
  that of ``closed_form``.

An optimizer moves each entry of A at random by about its learning rate, and the effect on z grows with the square root
of the number of entries in a row. The entries of large triangles are therefore scaled (:func:`triangle`).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from mxfusion_mvn import bijections, checks, linalg, structures
from mxfusion_mvn.checks import model_inputs
from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.inference.supports import check_is_bijection
from mxfusion_mvn.linalg import constant
from mxfusion_mvn.linalg.axes import add, multiply, subtract
from mxfusion_mvn.linalg.density import LOG_2PI
from mxfusion_mvn.transformations import Scaled

import mxnet as mx
import numpy as np
from mxfusion.components.model_component import ModelComponent
from mxfusion.components.variables import Variable
from mxnet import autograd

# A^-T e is mostly noise from this mean variance on, which is estimated from so many probes. In triangles of up to
# _SMALL_TRIANGLE rows it never is.
_LARGE_VARIANCE = 2.0
_PROBES = 4
_LARGEST_SLOPE = 1e6
_SMALL_TRIANGLE = 20
# From so many rows on, the entries of a triangle are scaled so that an optimizer moves them by less than its rate.
_LARGE_TRIANGLE = 50
Entropy = Literal["sampled", "closed_form", "sticking_the_landing"]


class TransformedGaussian(VectorDistribution):
    """
    The distribution of v = b(z), with z Gaussian over the last axis.

    :param mean: the mean of z, Variable (B..., n).
    :param scale: s, Variable (B..., n), positive.
    :param below: the entries of A below its diagonal, row by row, Variable (B..., n (n - 1) / 2), or None.
    :param factor: F, Variable (B..., n, r), or None.
    :param bijection: a :class:`~mxfusion_mvn.bijections.Bijection`, by default the identity.
    :param entropy: the estimate of its mean log density, see above.
    :param shape: tuple (B..., event of v). With it the random Variable is declared and returned.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: dtype of the constants made here.
    :param ctx: MXNet context of the constants made here.
    :raises ModelSpecificationError: if both below and factor are given, for an unknown entropy, and for shapes that do
        not fit.
    """

    ATTRIBUTES = ("_on_failure", "bijection", "entropy", "EVENT")
    EVENT = {"random_variable": "N", "mean": "N", "scale": "N", "below": "T", "factor": "NR"}
    # The last draw while recording, with its z and noise; MXFusion's copies of a factor have none.
    _drawn = None

    def __init__(
        self,
        mean=None,
        scale=None,
        below=None,
        factor=None,
        bijection=None,
        entropy="sampled",
        shape=None,
        *,
        rand_gen=None,
        dtype=None,
        ctx=None,
    ):
        if not isinstance(entropy, str) or entropy not in get_args(Entropy):
            checks.refuse(
                "entropy", repr(entropy), "one of " + ", ".join(get_args(Entropy)), "Choose how to estimate it."
            )
        if below is not None and factor is not None:
            checks.refuse("below` and `factor", "both", "at most one of them", "A is triangular or of low rank.")
        bijection = bijections.Real() if bijection is None else bijection
        check_is_bijection("bijection", bijection)
        event = {0: "N", 1: "V", 2: "VV"}[bijection.event_axes]
        given = {"mean": mean, "scale": scale, "below": below, "factor": factor}
        inputs = [
            (name, model_inputs.array_input(name, value, self.EVENT[name], None, dtype, ctx))
            for name, value in given.items()
            if value is not None
        ]
        super().__init__(inputs, rand_gen=rand_gen, dtype=dtype, ctx=ctx)
        self.bijection, self.entropy = bijection, entropy
        self.EVENT = {**self.EVENT, "random_variable": event}

    def draw_samples_impl(self, mean, scale, rv_shape, num_samples=1, F=None, **root):
        """
        Reparametrised draws of v.

        :param mean: NDArray (S or 1, B..., n).
        :param scale: NDArray (S or 1, B..., n).
        :param rv_shape: tuple (B..., event of v).
        :param num_samples: S.
        :param F: ``mxnet.ndarray``.
        :param root: ``below`` or ``factor``, with the sample axis.
        :returns: NDArray (S, B..., event of v).
        """
        shape = self.bijection.raw_shape(rv_shape)
        size = shape[-1] + (root["factor"].shape[-1] if "factor" in root else 0)
        noise = self._normal_noise((num_samples,) + shape[:-1] + (size,), like=mean)
        z = add(mean, multiply(scale, _color(noise, **root)))
        draw = self.bijection.transform(z)
        if autograd.is_recording():
            self._drawn = draw, z, noise
        return draw

    def log_pdf_impl(self, mean, scale, random_variable, F=None, **root):
        """
        Log density of v; for the factor's own last draw the chosen estimate of it.

        :param mean: NDArray (S or 1, B..., n).
        :param scale: NDArray (S or 1, B..., n).
        :param random_variable: v, NDArray (S or 1, B..., event).
        :param F: ``mxnet.ndarray``.
        :param root: ``below`` or ``factor``, with the sample axis.
        :returns: NDArray (S or 1, B...).
        """
        drawn, self._drawn = self._drawn, None
        if drawn is None or drawn[0] is not random_variable:
            z = self.bijection.inverseTransform(random_variable)
            log_pdf = gaussian(mean, scale, **root).log_pdf(z)
        else:
            _, z, noise = drawn
            log_pdf = self._log_pdf_of_draw(z, noise, mean, scale, root)
        if isinstance(self.bijection, bijections.Real):
            return log_pdf
        return subtract(log_pdf, self.bijection.log_det_jacobian(z))

    def _log_pdf_of_draw(self, z, noise, mean, scale, root):
        held = self.entropy == "sticking_the_landing"
        if self.entropy == "closed_form":
            return -gaussian(mean, scale, **root).entropy()
        if "factor" in root:
            if held:
                mean, scale, root = constant(mean), constant(scale), {"factor": constant(root["factor"])}
            return gaussian(mean, scale, **root).log_pdf(z)
        log_scale = mx.nd.sum(mx.nd.log(scale), axis=-1)
        standard = -0.5 * mx.nd.sum(mx.nd.square(noise), axis=-1) - 0.5 * LOG_2PI * z.shape[-1]
        return add(standard, _path(z, noise, scale, log_scale, **root) if held else -log_scale)

    def _check_fits(self, shape):
        self.bijection.raw_shape(shape)
        super()._check_fits(shape)


class JointVariable(Variable):
    """
    A variable whose parts are other variables of a posterior.

    For predictions MXFusion copies a posterior into the model one latent variable at a time, each with everything that
    it depends on. This variable is then copied once for each of its parts; the copies are equal, and the first one
    stays.
    """

    @ModelComponent.graph.setter
    def graph(self, graph):
        """Attach to a graph, unless an equal variable is there already, whose other parts would be cut off."""
        if graph is not None and self.graph is None and self in graph:
            self._parent_graph = graph
        else:
            ModelComponent.graph.fset(self, graph)

    def replicate_self(self, attribute_map=None):
        """
        A copy with the same identity; MXFusion calls it.

        :param attribute_map: unused, because the size is an integer.
        :returns: JointVariable.
        """
        replica = type(self)(shape=self.shape)
        replica._uuid = self.uuid
        return replica


class Pushforward(VectorDistribution):
    """
    The part of a joint vector that belongs to one variable, in the space of that variable: v = b(part of z).

    Its log density is -log |db/dz|. The sum over all parts and the log density of z is that of all variables.

    :param joint: z, Variable (n,).
    :param start: where the part of v begins.
    :param bijection: a :class:`~mxfusion_mvn.bijections.Bijection`.
    """

    ATTRIBUTES = ("_on_failure", "bijection", "start")
    EVENT = {"random_variable": "V", "joint": "N"}

    def __init__(self, joint=None, start=0, bijection=None, *, rand_gen=None, dtype=None, ctx=None):
        super().__init__([("joint", joint)], rand_gen=rand_gen, dtype=dtype, ctx=ctx)
        self.start = start
        self.bijection = bijection

    def draw_samples_impl(self, joint, rv_shape, num_samples=1, F=None):
        """
        The parts of draws of z that belong to v, as draws of v.

        :param joint: NDArray (S, 1..., n).
        :param rv_shape: tuple, the shape of v.
        :param num_samples: S.
        :param F: ``mxnet.ndarray``.
        :returns: NDArray (S,) + shape of v.
        """
        return self.bijection.transform(self._part(joint, rv_shape))

    def log_pdf_impl(self, joint, random_variable, F=None):
        """
        Minus the log volume of the bijection.

        :param joint: NDArray (S, 1..., n).
        :param random_variable: v, NDArray (S,) + shape of v.
        :param F: ``mxnet.ndarray``.
        :returns: NDArray (S, ...), a term for each event.
        """
        if isinstance(self.bijection, bijections.Real):
            return mx.nd.zeros((1,), dtype=joint.dtype, ctx=joint.context)
        return -self.bijection.log_det_jacobian(self._part(joint, random_variable.shape[1:]))

    def _part(self, joint, shape):
        raw = self.bijection.raw_shape(shape)
        stop = self.start + size_of(raw)
        part = mx.nd.slice_axis(joint, axis=-1, begin=self.start, end=stop)
        return part.reshape((joint.shape[0],) + raw)


def gaussian(mean, scale, below=None, factor=None):
    """
    The Gaussian of z.

    :param mean: NDArray (B..., n).
    :param scale: NDArray (B..., n).
    :param below: NDArray (B..., n (n - 1) / 2), or None.
    :param factor: NDArray (B..., n, r), or None.
    :returns: a :class:`~mxfusion_mvn.Gaussian`.
    """
    if below is not None:
        return Gaussian(mean, scale_tril=linalg.scale_rows(_unit_triangle(below), scale), on_failure=None)
    if factor is not None:
        own = multiply(scale, 1 / _row_norms(factor))
        return Gaussian(mean, factor=linalg.scale_rows(factor, own), diagonal=mx.nd.square(own), on_failure=None)
    return Gaussian(mean, variance=mx.nd.square(scale), on_failure=None)


def triangle(size, value=None):
    """
    The parameter of a triangle below its diagonal, scaled so that one learning rate suits few rows and many.

    :param size: n, at least 2.
    :param value: NumPy array (n (n - 1) / 2,), row by row, or None for zeros.
    :returns: Variable (n (n - 1) / 2,).
    """
    value = np.zeros(size * (size - 1) // 2) if value is None else value
    unit = math.sqrt(_LARGE_TRIANGLE / size)
    transformation = Scaled(unit) if unit < 1 else None
    initial_value = mx.nd.array(value, dtype="float64")
    return Variable(shape=value.shape, transformation=transformation, initial_value=initial_value)


def size_of(shape):
    """
    The number of entries of an array.

    :param shape: tuple of integers.
    :returns: an integer.
    """
    size = 1
    for axis in shape:
        size *= axis
    return size


def _color(noise, below=None, factor=None):
    if below is not None:
        return structures.RowMap(linalg.multiply_lower, _unit_triangle(below))(noise)
    if factor is not None:
        rank = factor.shape[-1]
        common = mx.nd.slice_axis(noise, axis=-1, begin=0, end=rank)
        own = mx.nd.slice_axis(noise, axis=-1, begin=rank, end=None)
        return multiply(add(structures.RowMap(linalg.multiply, factor)(common), own), 1 / _row_norms(factor))
    return noise


def _path(z, noise, scale, log_scale, below=None):
    """
    Minus log det, with a gradient through the draw: c h / s for z, with h = A^-T e, plus 1 - c times the closed form.

    Without correlations, or with few coordinates, c is one.
    """
    slope, weight = noise, None
    if below is not None:
        triangle = constant(_unit_triangle(below))
        slope = structures.RowMap(linalg.solve_upper, triangle)(noise)
        if triangle.shape[-1] > _SMALL_TRIANGLE:
            weight = _landing(triangle)
            # The entries that are clipped here are far beyond any h for which c is one.
            slope = multiply(mx.nd.clip(slope, -_LARGEST_SLOPE, _LARGEST_SLOPE), mx.nd.expand_dims(weight, axis=-1))
    slope = multiply(constant(slope), 1 / constant(scale))
    # The difference of z and its constant is zero, and has the gradient of z.
    followed = mx.nd.sum(multiply(slope, subtract(z, constant(z))), axis=-1)
    held = constant(log_scale)
    if weight is not None:
        held = add(held, multiply(1 - weight, subtract(log_scale, held)))
    return -add(held, followed)


def _landing(triangle):
    """
    The weight c of the gradient through the draw, (B...): one if A is well-conditioned, nearly zero if it is not.

    The gradient is unbiased for any weight c that does not depend on the noise. The gradient through the draw has the
    variance of A^-T e, which grows as a power of n in a triangle that an optimizer has moved at random, and then hides
    everything else. It is measured with a few fixed signs in place of e.
    """
    size = triangle.shape[-1]
    signs = np.random.RandomState(0).choice([-1.0, 1.0], size=(_PROBES, size))
    batch = triangle.shape[1:-2]
    probes = mx.nd.array(signs, dtype=triangle.dtype, ctx=triangle.context)
    probes = probes.reshape((_PROBES,) + (1,) * len(batch) + (size,)).broadcast_to((_PROBES,) + batch + (size,))
    slopes = structures.RowMap(linalg.solve_upper, triangle)(probes)
    slopes = mx.nd.clip(slopes, -_LARGEST_SLOPE, _LARGEST_SLOPE)
    variance = mx.nd.mean(mx.nd.mean(mx.nd.square(slopes), axis=-1), axis=0, keepdims=True)
    # Squared, so that c is small before the noise outweighs that of the closed form.
    return mx.nd.square(_LARGE_VARIANCE / mx.nd.maximum(variance, _LARGE_VARIANCE))


def _row_norms(factor):
    """The norms of the rows of [F, I], (..., n)."""
    return mx.nd.sqrt(1 + mx.nd.sum(mx.nd.square(factor), axis=-1))


def _unit_triangle(below):
    strict = mx.nd.linalg.maketrian(below, offset=-1)
    return add(strict, mx.nd.eye(strict.shape[-1], dtype=below.dtype, ctx=below.context))
