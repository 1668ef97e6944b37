# SPDX-License-Identifier: Apache-2.0
"""The Gaussian on arrays: a mean and a covariance structure, without a model around them.

With r = x - mean and the structure's whitening z, |z|^2 = r^T Sigma^-1 r::

    log p(x) = -1/2 (|z|^2 + D log 2 pi + log det Sigma)

Everything is differentiable, and the same for NDArrays and for Symbols inside a hybridized Gluon block. NDArrays
broadcast their leading axes from the right; the leading axes of Symbols must be equal, because a Symbol has no
shape.
"""

from __future__ import annotations

import functools
import numbers
from typing import Sequence

from mxfusion_mvn import linalg, structures
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import RAISE, OnFailure
from mxfusion_mvn.linalg import ellipsoids
from mxfusion_mvn.linalg.axes import Array, ArrayLike, add, broadcast_shapes, namespace, subtract
from mxfusion_mvn.linalg.density import LOG_2PI, log_density, normaliser, plus_rank
from mxfusion_mvn.structures import forms, pairs

import mxnet as mx
import numpy as np
from mxnet import autograd


class Gaussian:
    """
    N(mean, Sigma) over the last axis. Give Sigma in exactly one way.

    Beside NDArrays, mean, value and noise may also be NumPy arrays or lists, which take their dtype and context.

    :param mean: NDArray or Symbol (B..., D), or (B..., 1) or a number for the same mean in all D entries.
    :param covariance: Sigma (B'..., D, D), symmetric, or any :class:`~mxfusion_mvn.structures.Structure`.
    :param precision: Sigma^-1 (B'..., D, D), symmetric.
    :param scale_tril: L (B'..., D, D) with L L^T = Sigma, of which the lower triangle is read.
    :param variance: the diagonal (B'..., D) of a diagonal Sigma.
    :param factor: W (B'..., D, r), together with diagonal: Sigma = W W^T + diag(diagonal).
    :param diagonal: (B'..., D).
    :param on_failure: what to do with a matrix that is not positive definite, an :class:`~mxfusion_mvn.OnFailure`;
        None not to look at any value, nor to wait for the factorisation. A structure has its own; beside it, give None
        or leave it at the default, ``OnFailure("raise")``.
    :raises ValueError: unless Sigma is given in exactly one way; for types, dtypes and shapes that do not fit; for a
        matrix that is not symmetric. The last is not looked at while ``autograd.record()`` is on, nor of a matrix that
        has a gradient attached.
    :raises NotPositiveDefiniteError: for a variance that is not positive or a zero on the diagonal of a factor; those
        of a structure are not looked at while ``autograd.record()`` is on. Whether a matrix is positive definite shows
        when it is first factored, by a method.
    """

    def __init__(
        self,
        mean: ArrayLike = 0.0,
        covariance: Array | structures.Structure | None = None,
        precision: Array | None = None,
        scale_tril: Array | None = None,
        variance: Array | None = None,
        factor: Array | None = None,
        diagonal: Array | None = None,
        on_failure: OnFailure | None = RAISE,
    ) -> None:
        self.structure = forms.as_structure(
            {
                "covariance": covariance,
                "precision": precision,
                "scale_tril": scale_tril,
                "variance": variance,
                "factor": factor,
                "diagonal": diagonal,
            },
            on_failure,
        )
        like = self.structure.template()
        self.mean = arguments.as_mean(mean, like, None if namespace(like) is mx.sym else self.structure.dim())
        if namespace(self.mean) is mx.nd:
            self._check_leading("mean", self.mean.shape)

    @classmethod
    def _of(cls, mean: Array, structure: structures.Structure) -> Gaussian:
        """
        The Gaussian of a mean and a covariance that are known to fit: nothing is checked.

        :param mean: NDArray or Symbol (B..., D) or (B..., 1).
        :param structure: a :class:`~mxfusion_mvn.structures.Structure`.
        :returns: a :class:`Gaussian`.
        """
        gaussian = cls.__new__(cls)
        gaussian.mean, gaussian.structure = mean, structure
        return gaussian

    def __repr__(self):
        mean = "Symbol" if namespace(self.mean) is mx.sym else self.mean.shape
        return f"Gaussian(mean: {mean}, covariance: {type(self.structure).__name__})"

    @property
    def covariance(self) -> Array:
        """Sigma, (B'..., D, D)."""
        if not _is_widened(self):
            return self.structure.dense()
        return self.structure.in_float64().dense().astype("float32")

    @property
    def variance(self) -> Array:
        """The diagonal of Sigma, (B'..., D)."""
        if not _is_widened(self):
            return self.structure.variance()
        return self.structure.in_float64().variance().astype("float32")

    def log_pdf(self, value: ArrayLike) -> Array:
        """
        Log density; -inf off the support of a singular covariance.

        Float32 arrays are computed in float64 and the result is rounded, except for singular and repaired
        covariances, and while ``autograd.record()`` is on unless the covariance is of low rank. Every other method but
        the draws does the same.

        :param value: x (B..., D).
        :returns: the broadcast of the leading axes of value, mean and covariance; (1,) where there are none.
        """
        return self._log_pdf(self._as_vector("value", value, self._dim()))

    def _log_pdf(self, value):
        """As :meth:`log_pdf`, of an array that is known to fit."""
        if _is_widened(self):
            return self._widened()._log_pdf(value.astype("float64")).astype("float32")
        residual, structure = subtract(value, self.mean), self.structure.for_one_computation()
        constants = normaliser(structure.log_det(), structure.rank())
        log_pdf = log_density(structure.distance(residual), constants)
        off_support = structure.off_support(residual)
        return log_pdf if off_support is None else subtract(log_pdf, off_support)

    def mahalanobis(self, value: ArrayLike) -> Array:
        """
        Squared distance from the mean, r^T Sigma^-1 r.

        :param value: x (B..., D).
        :returns: the broadcast of the leading axes.
        """
        vectors = self._as_vector("value", value, self._dim())
        if _is_widened(self):
            return self._widened().mahalanobis(vectors.astype("float64")).astype("float32")
        return self.structure.distance(subtract(vectors, self.mean))

    def draw_samples(self, num_samples: int | None = None, noise: ArrayLike | None = None) -> Array:
        """
        Reparametrised draws: an affine map of the noise, differentiable in mean and covariance.

        :param num_samples: S; None for one draw without a sample axis.
        :param noise: standard normals (..., E), E = ``structure.noise_size(D)``, instead of fresh ones. Symbols need
            it.
        :returns: (S, B..., D), B... the broadcast of the leading axes of mean and covariance; with noise the broadcast
            of its leading axes too.
        :raises ValueError: for both, or for Symbols without noise.
        """
        if noise is not None and num_samples is not None:
            arguments.refuse(
                "num_samples", "both it and noise", "one of them", "The noise says how many draws there are."
            )
        return self._color(self._noise(num_samples) if noise is None else self._as_vector("noise", noise))

    def _color(self, noise):
        """Draws from an array of noise whose leading axes are known to fit."""
        return add(self.structure.color(noise), self.mean)

    def entropy(self) -> Array:
        """
        Differential entropy, rank/2 (1 + log 2 pi) + 1/2 log det Sigma, in nats.

        :returns: (B'...), (1,) for a single covariance.
        """
        if _is_widened(self):
            return self._widened().entropy().astype("float32")
        return 0.5 * plus_rank(self.structure.log_det(), self.structure.rank(), 1 + LOG_2PI)

    def kl_divergence(self, other: Gaussian) -> Array:
        """
        Kullback-Leibler divergence KL(self || other) in nats, for every pair of structures in closed form.

        It is infinite if self has mass where other has none, or other has no density there. The formula is in
        :func:`mxfusion_mvn.structures.pairs.kl_divergence`.

        :param other: a :class:`Gaussian` over the same space.
        :returns: the broadcast of all leading axes.
        """
        self._check_other(other)
        if _is_widened(self, other):
            return self._widened().kl_divergence(other._widened()).astype("float32")
        return pairs.kl_divergence(self._difference(other), self.structure, other.structure)

    def marginal(self, index: Sequence[int], rest: Sequence[int] | None = None) -> Gaussian:
        """
        The distribution of some of the entries.

        :param index: list of distinct positions, in the order wanted.
        :param rest: list of all other positions; needed only for the precision of Symbols.
        :returns: a :class:`Gaussian` whose structure is of the same kind where that exists.
        :raises ValueError: for an index that is empty, repeated or out of range.
        """
        index, rest = arguments.split(index, rest, self._dim(), isinstance(self.structure, structures.Precision))
        mean = linalg.take(self._full_mean(), index, axis=-1)
        if _is_widened(self):  # without looking at more of the matrix than the marginal takes
            structure = self.structure.in_float64().marginal(index, rest).cast("float32")
        else:
            structure = self.structure.marginal(index, rest)
        return Gaussian._of(mean, structure)

    def condition(self, index: Sequence[int], value: ArrayLike, rest: Sequence[int] | None = None) -> Gaussian:
        """
        The distribution of the other entries when some are known.

        :param index: list of distinct positions.
        :param value: their values, (B..., len(index)).
        :param rest: list of all other positions, in the order wanted; needed only for Symbols.
        :returns: a :class:`Gaussian` over the other positions, ascending unless rest says otherwise.
        :raises ValueError: for an index that is empty, repeated, out of range or complete.
        """
        index, rest = arguments.split(index, rest, self._dim())
        if not rest:
            arguments.refuse("index", f"all {len(index)} positions", "fewer", "Nothing would be left to describe.")
        vectors = self._as_vector("value", value, len(index))
        if _is_widened(self):
            return self._widened().condition(index, vectors.astype("float64"), rest)._narrowed()
        mean = self._full_mean()
        regression, structure = self.structure.condition(index, rest)
        shift = regression(subtract(vectors, linalg.take(mean, index, axis=-1)))
        return Gaussian._of(add(linalg.take(mean, rest, axis=-1), shift), structure)

    def affine(self, matrix: ArrayLike, offset: ArrayLike = 0.0) -> Gaussian:
        """
        The distribution of A x + b.

        :param matrix: A (B..., K, D), of full rank.
        :param offset: b (B..., K), or a number.
        :returns: a :class:`Gaussian`. It is singular if A has more rows than columns (NDArrays only) or self is.
        """
        dim = self._dim()
        matrix = arguments.as_array("matrix", matrix, self.mean, dim)
        if dim is not None and (matrix.ndim < 2 or not matrix.size):
            arguments.refuse("matrix", f"shape {matrix.shape}", f"(..., K, {dim})", "Write [a] for a single row a.")
        if dim is not None:
            self._check_leading("matrix", matrix.shape, event_axes=2)
        if not isinstance(offset, numbers.Real):
            offset = self._as_vector("offset", offset, dim and matrix.shape[-2])
        if _is_widened(self):
            offset = offset if isinstance(offset, numbers.Real) else offset.astype("float64")
            return self._widened().affine(matrix.astype("float64"), offset)._narrowed()
        transform = structures.RowMap(linalg.multiply, matrix)
        root = linalg.transpose(transform.on_rows(linalg.transpose(self.structure.root())))
        mean = transform(self._full_mean())
        mean = mean + offset if isinstance(offset, numbers.Real) else add(mean, offset)
        structure = pairs.dense_like(self.structure, linalg.outer_square(root))
        if dim is not None and matrix.shape[-2] > dim and isinstance(structure, structures.Dense):
            structure = structures.Singular(structure.covariance, rank=dim)
        return Gaussian._of(mean, structure)

    def product(self, other: Gaussian) -> tuple[Gaussian, Array]:
        """
        The product of two densities, which is a density times a constant.

        It is::

            N(x; m1, S1) N(x; m2, S2) = N(m2; m1, S1 + S2) N(x; m, S),        S = (S1^-1 + S2^-1)^-1

        :param other: a :class:`Gaussian` over the same space; at most one of the two may be singular.
        :returns: (the :class:`Gaussian` N(m, S), log N(m2; m1, S1 + S2)).
        :raises ValueError: if both are singular.
        """
        self._check_other(other)
        if _is_widened(self, other):
            both, log_constant = self._widened().product(other._widened())
            return both._narrowed(), log_constant.astype("float32")
        if pairs.is_singular(other.structure) or pairs.is_wider(self.structure, other.structure):
            self, other = other, self
        shift, structure, log_constant = pairs.product(other._difference(self), self.structure, other.structure)
        return Gaussian._of(add(self.mean, shift), structure), log_constant

    def credible_radius(self, probability: float) -> float | np.ndarray:
        """
        The radius, in standard deviations, of the ellipsoid around the mean that holds a given probability.

        :param probability: between 0 and 1.
        :returns: r, a float; for a singular covariance, whose rank may differ within a batch, a NumPy array (B'...).
            The region is ``mahalanobis(x) <= r ** 2``.
        :raises ValueError: if it is not a probability.
        :raises ImportError: without SciPy, unless D is 2.
        """
        if not isinstance(probability, numbers.Real) or not 0 < probability < 1:
            arguments.refuse("probability", probability, "a number between 0 and 1", "Write 0.95 for 95 %.")
        rank = self.structure.rank()
        return ellipsoids.radius_of(probability, rank if isinstance(rank, numbers.Integral) else rank.asnumpy())

    def ellipse(self, probability: float, num_points: int = 100) -> np.ndarray:
        """
        The outline of the credible region of a two-dimensional Gaussian, for a picture.

        :param probability: the probability that the ellipse holds, between 0 and 1.
        :param num_points: P.
        :returns: NumPy array (P, B..., 2), a closed curve along its first axis.
        :raises ValueError: unless D is 2.
        """
        if self.structure.dim() != 2:
            arguments.refuse("ellipse", f"a Gaussian of D = {self.structure.dim()}", "D = 2", "Take a marginal.")
        arguments.check_count("num_points", num_points)
        mean, covariance = self._full_mean().asnumpy(), self.covariance.asnumpy()
        return ellipsoids.outline(mean, covariance, self.credible_radius(probability), num_points)

    def _widened(self):
        """The same in float64, where each power of ten of the condition number does not cost a digit of seven."""
        if not autograd.is_recording():
            self.structure.log_det()  # a matrix that float32 takes for indefinite is so for every method
        return Gaussian._of(self.mean.astype("float64"), self.structure.in_float64())

    def _narrowed(self):
        return Gaussian._of(self.mean.astype("float32"), self.structure.cast("float32"))

    def _noise(self, num_samples):
        if namespace(self.mean) is mx.sym:
            arguments.refuse(
                "noise",
                "None for Symbols, which have no shape",
                "standard normals (..., D)",
                "Pass noise=F.random.normal(shape=...).",
            )
        if num_samples is not None and not (isinstance(num_samples, numbers.Integral) and int(num_samples) > 0):
            arguments.refuse(
                "num_samples", f"{num_samples!r}", "a positive integer or None", "None is for a single draw."
            )
        samples = () if num_samples is None else (num_samples,)
        shape = samples + self._leading + (self.structure.noise_size(self._dim()),)
        return mx.nd.random.normal(shape=shape, dtype=self.mean.dtype, ctx=self.mean.context)

    def _dim(self):
        """D; None for Symbols."""
        if namespace(self.mean) is mx.sym:
            return None
        return self.structure.dim() if self.mean.shape[-1] == 1 else self.mean.shape[-1]

    def _as_vector(self, name, value, size=None):
        """An argument (B..., size), or of any size, whose leading axes meet those of mean and covariance."""
        value = arguments.as_array(name, value, self.mean, size)
        if namespace(value) is mx.nd:
            self._check_leading(name, value.shape)
        return value

    @functools.cached_property
    def _leading(self):
        """The broadcast of the leading axes of mean and covariance, of NDArrays."""
        return broadcast_shapes(self.mean.shape[:-1], self.structure.leading())

    def _check_leading(self, name, shape, event_axes=1):
        """Refuse an argument whose leading axes do not broadcast with those of mean and covariance."""
        dim = self._dim()
        held = {"mean": (self.mean.shape[:-1], (dim,)), "covariance": (self.structure.leading(), (dim, dim))}
        arguments.check_leading(name, shape, event_axes, held)

    def _full_mean(self):
        dim = self._dim()
        if dim is None or self.mean.shape[-1] == dim:
            return self.mean
        return self.mean.broadcast_axes(axis=self.mean.ndim - 1, size=dim)

    def _difference(self, other):
        """The mean minus the mean of another, (B..., D)."""
        return subtract(self._full_mean(), other.mean)

    def _check_other(self, other):
        if not isinstance(other, Gaussian):
            arguments.refuse("other", f"a {type(other).__name__}", "a Gaussian", "Write Gaussian(mean, ...).")
        arguments.as_array("other", other.mean, self.mean)
        if self._dim() != other._dim():
            arguments.refuse("other", f"D = {other._dim()}", f"D = {self._dim()}", "Take a marginal of the larger one.")
        if self._dim() is not None:
            self._check_leading("other", other.mean.shape)
            self._check_leading("other", other.structure.leading() + (self._dim(),) * 2, event_axes=2)


def _is_widened(*gaussians):
    """Whether float64 is used: not while training unless digits would be lost, nor under a policy that repairs."""
    for gaussian in gaussians:
        if namespace(gaussian.mean) is mx.sym or gaussian.mean.dtype != np.float32:
            return False
    parts = [gaussian.structure for gaussian in gaussians]
    if autograd.is_recording() and not any(structure.trains_in_float64() for structure in parts):
        return False
    return not any(pairs.is_singular(structure) or structure.may_be_repaired() for structure in parts)
