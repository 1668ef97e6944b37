# SPDX-License-Identifier: Apache-2.0
"""The Gaussian on arrays: a mean and a covariance structure, without a model around them.

With r = x - mean and the structure's whitening z, |z|^2 = r^T Sigma^-1 r::

    log p(x) = -1/2 (|z|^2 + D log 2 pi + log det Sigma)

Everything is differentiable, and the same for NDArrays and for Symbols inside a hybridized Gluon block. NDArrays
broadcast their leading axes from the right; those of Symbols must be equal, for a Symbol has no shape.
"""

import math
import numbers

from mxfusion_mvn import linalg, structures
from mxfusion_mvn.axes import add, broadcast_shapes, complement, multiply, namespace, subtract
from mxfusion_mvn.failure import RAISE

import mxnet as mx
import numpy as np

LOG_2PI = math.log(2 * math.pi)


class Gaussian:
    """
    N(mean, Sigma) over the last axis. Give Sigma in exactly one way.

    :param mean: NDArray or Symbol (B..., D), or (B..., 1) or a number for the same mean in all D entries.
    :param covariance: Sigma (B'..., D, D), or any :class:`~mxfusion_mvn.structures.Structure`.
    :param precision: Sigma^-1 (B'..., D, D).
    :param scale_tril: L (B'..., D, D) with L L^T = Sigma.
    :param variance: the diagonal (B'..., D) of a diagonal Sigma.
    :param factor: W (B'..., D, r), together with diagonal: Sigma = W W^T + diag(diagonal).
    :param diagonal: (B'..., D).
    :param on_failure: what to do with a matrix that is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :raises ValueError: unless Sigma is given in exactly one way.
    """

    def __init__(
        self,
        mean=0.0,
        covariance=None,
        precision=None,
        scale_tril=None,
        variance=None,
        factor=None,
        diagonal=None,
        on_failure=RAISE,
    ):
        self.structure = _structure(
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
        if isinstance(mean, numbers.Real):
            mean = self.structure.variance() * 0 + mean
        self.mean = mean

    @property
    def covariance(self):
        """Sigma, (B'..., D, D)."""
        return self.structure.dense()

    @property
    def variance(self):
        """The diagonal of Sigma, (B'..., D)."""
        return self.structure.variance()

    def log_pdf(self, value):
        """
        Log density; -inf off the support of a singular covariance.

        :param value: x (B..., D).
        :returns: the broadcast of the leading axes of value, mean and covariance; (1,) where there are none.
        """
        residual = subtract(value, self.mean)
        normaliser = _plus(self.structure.log_det(), self.structure.rank(), LOG_2PI)
        log_pdf = -0.5 * add(_squared_norm(self.structure.whiten(residual)), normaliser)
        off_support = self.structure.off_support(residual)
        return log_pdf if off_support is None else subtract(log_pdf, off_support)

    def mahalanobis(self, value):
        """
        Squared distance from the mean, r^T Sigma^-1 r.

        :param value: x (B..., D).
        :returns: the broadcast of the leading axes.
        """
        return _squared_norm(self.structure.whiten(subtract(value, self.mean)))

    def draw_samples(self, num_samples=None, noise=None):
        """
        Reparametrised draws: an affine map of the noise, differentiable in mean and covariance.

        :param num_samples: S; None for one draw without a sample axis.
        :param noise: standard normals (..., E), E = ``structure.noise_size(D)``, instead of fresh ones. Symbols need
            it, and it needs no num_samples.
        :returns: (S, B..., D), B... the broadcast of the leading axes of mean and covariance; with noise the broadcast
            of its leading axes too.
        :raises ValueError: for both, or for Symbols without noise.
        """
        if noise is None:
            noise = self._noise(num_samples)
        elif num_samples is not None:
            raise ValueError(
                "`num_samples` and `noise`: expected one of them; the noise says how many draws there are."
            )
        return add(self.structure.color(noise), self.mean)

    def entropy(self):
        """
        Differential entropy, rank/2 (1 + log 2 pi) + 1/2 log det Sigma, in nats.

        :returns: (B'...), (1,) for a single covariance.
        """
        return 0.5 * _plus(self.structure.log_det(), self.structure.rank(), 1 + LOG_2PI)

    def kl_divergence(self, other):
        """
        Kullback-Leibler divergence KL(self || other) in nats, for every pair of structures in closed form.

        It is::

            1/2 (tr(Sigma_q^-1 Sigma_p) + |z_q(mean_p - mean_q)|^2 - D + log det Sigma_q - log det Sigma_p)

        It is infinite if self has mass where other has none, or other has no density there.

        :param other: a :class:`Gaussian` over the same space.
        :returns: the broadcast of all leading axes.
        """
        p, q = self.structure, other.structure
        difference = subtract(self.mean, other.mean)
        log_ratio = subtract(q.log_det(), _plus(p.log_det(), p.rank(), 1.0))
        divergence = 0.5 * add(add(_trace(q, p), _squared_norm(q.whiten(difference))), log_ratio)
        if isinstance(p, structures.Singular) or isinstance(q, structures.Singular):
            divergence = add(divergence, _support_gap(q, p, difference))
        return divergence

    def marginal(self, index, rest=None):
        """
        The distribution of some of the entries.

        :param index: list of distinct positions, in the order wanted.
        :param rest: list of all other positions; needed for Symbols only.
        :returns: a :class:`Gaussian` whose structure is of the same kind where that exists.
        :raises ValueError: for an index that is empty, repeated or out of range.
        """
        index, rest = self._split(index, rest, may_be_all=True)
        return Gaussian(linalg.take(self._full_mean(), index, axis=-1), self.structure.marginal(index, rest))

    def condition(self, index, value, rest=None):
        """
        The distribution of the other entries when some are known.

        :param index: list of distinct positions.
        :param value: what they are, (B..., len(index)).
        :param rest: list of all other positions; needed for Symbols only.
        :returns: a :class:`Gaussian` over the other positions, in ascending order or that of rest.
        :raises ValueError: for an index that is empty, repeated, out of range or complete.
        """
        index, rest = self._split(index, rest)
        mean = self._full_mean()
        regression, structure = self.structure.condition(index, rest)
        shift = regression(subtract(value, linalg.take(mean, index, axis=-1)))
        return Gaussian(add(linalg.take(mean, rest, axis=-1), shift), structure)

    def affine(self, matrix, offset=0.0):
        """
        The distribution of A x + b.

        :param matrix: A (B..., K, D).
        :param offset: b (B..., K), or a number.
        :returns: a :class:`Gaussian`. With more rows than the noise has entries (NDArrays only) it is singular.
        """
        transform = structures.RowMap(linalg.multiply, matrix)
        root = linalg.transpose(transform.on_rows(linalg.transpose(self.structure.root())))
        covariance = linalg.outer_square(root)
        singular = namespace(root) is mx.nd and root.shape[-2] > root.shape[-1]
        structure = structures.Singular(covariance, root.shape[-1]) if singular else structures.Dense(covariance)
        mean = transform(self._full_mean())
        return Gaussian(mean + offset if isinstance(offset, numbers.Real) else add(mean, offset), structure)

    def product(self, other):
        """
        The product of two densities, which is a density times a constant.

        It is::

            N(x; m1, S1) N(x; m2, S2) = N(m2; m1, S1 + S2) N(x; m, S),        S = (S1^-1 + S2^-1)^-1

        With S1 = A A^T and B the whitening by S2 of A, S = A (I + B^T B)^-1 A^T, without an inverse or a difference.

        :param other: a :class:`Gaussian` over the same space, its covariance regular.
        :returns: (the :class:`Gaussian` N(m, S), log N(m2; m1, S1 + S2)).
        """
        root = self.structure.root()
        whitened = linalg.transpose(other.structure.whitening().on_rows(linalg.transpose(root)))
        ridge = linalg.ridge_factor(whitened)
        difference = subtract(other.mean, self.mean)
        split = structures.RowMap(_concatenated_split, whitened, ridge)(other.structure.whiten(difference))
        columns = structures.RowMap(linalg.solve_lower, ridge).on_rows(root)
        shift = structures.RowMap(_shift, root, whitened, ridge)(other.structure.whiten(difference))
        log_det = add(other.structure.log_det(), 2 * linalg.log_abs_det(ridge))
        log_constant = -0.5 * add(_squared_norm(split), _plus(log_det, other.structure.rank(), LOG_2PI))
        return Gaussian(
            add(self.mean, shift), _product_structure(self.structure, other.structure, columns)
        ), log_constant

    def credible_radius(self, probability):
        """
        The radius, in standard deviations, of the ellipsoid around the mean that holds a given probability.

        :param probability: between 0 and 1.
        :returns: a float r; the region is ``mahalanobis(x) <= r ** 2``.
        :raises ImportError: for D other than 2, without SciPy.
        """
        if not 0 < probability < 1:
            raise ValueError(
                f"`probability`: got {probability}; expected a number between 0 and 1. Write 0.95 for 95 %."
            )
        dim = self.structure.dim()
        if dim == 2:
            return math.sqrt(-2 * math.log1p(-probability))
        from scipy.stats import chi2

        return math.sqrt(chi2.ppf(probability, dim))

    def ellipse(self, probability, num_points=100):
        """
        The outline of the credible region of a two-dimensional Gaussian, for a picture.

        :param probability: what the ellipse holds, between 0 and 1.
        :param num_points: P.
        :returns: NumPy array (P, B..., 2), a closed curve along its first axis.
        :raises ValueError: unless D is 2.
        """
        if self.structure.dim() != 2:
            raise ValueError(f"`ellipse`: got a Gaussian of D = {self.structure.dim()}; expected 2. Take a marginal.")
        angle = np.linspace(0, 2 * np.pi, num_points)
        circle = self.credible_radius(probability) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        root = self.structure.root().asnumpy()
        mean = self._full_mean().asnumpy()
        axes = (1,) * (max(root.ndim - 1, mean.ndim) - 1)
        return mean + (root @ circle.reshape((num_points,) + axes + (2, 1)))[..., 0]

    def _noise(self, num_samples):
        variance = self.structure.variance()
        if namespace(variance) is mx.sym:
            raise ValueError(
                "`noise`: got None for Symbols, which have no shape; expected standard normals (..., D). "
                "Pass noise=F.random.normal(shape=...)."
            )
        leading = broadcast_shapes(variance.shape[:-1], self.mean.shape[:-1])
        samples = () if num_samples is None else (num_samples,)
        shape = samples + leading + (self.structure.noise_size(variance.shape[-1]),)
        return mx.nd.random.normal(shape=shape, dtype=variance.dtype, ctx=variance.context)

    def _full_mean(self):
        if namespace(self.mean) is mx.sym or self.mean.shape[-1] != 1:
            return self.mean
        return self.mean.broadcast_to(self.mean.shape[:-1] + (self.structure.dim(),))

    def _split(self, index, rest, may_be_all=False):
        index = [int(i) for i in index]
        if namespace(self.mean) is mx.sym:
            return index, rest
        dim = self.structure.dim()
        if not index or len(set(index)) < len(index) or not all(0 <= i < dim for i in index):
            raise ValueError(f"`index`: got {index}; expected distinct positions from 0 to {dim - 1}. List each once.")
        if len(index) == dim and not may_be_all:
            raise ValueError(f"`index`: got all {dim} positions; expected fewer. Nothing would be left to describe.")
        return index, complement(index, dim)


def log_pdf(value, mean=0.0, **covariance):
    """
    Log density of a Gaussian, for use inside a ``hybrid_forward``.

    :param value: (B..., D).
    :param mean: as in :class:`Gaussian`.
    :param covariance: one of the forms of :class:`Gaussian`, by name.
    :returns: (B...).
    """
    return Gaussian(mean, **covariance).log_pdf(value)


def draw_samples(noise, mean=0.0, **covariance):
    """
    Reparametrised draws of a Gaussian, for use inside a ``hybrid_forward``.

    :param noise: standard normals (B..., D), for low rank (B..., r + D).
    :param mean: as in :class:`Gaussian`.
    :param covariance: one of the forms of :class:`Gaussian`, by name.
    :returns: (B..., D).
    """
    return Gaussian(mean, **covariance).draw_samples(noise=noise)


def _structure(given, on_failure):
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != (2 if "factor" in given else 1) or ("factor" in given) != ("diagonal" in given):
        raise ValueError(
            f"`covariance`: got {', '.join(given) or 'nothing'}; expected exactly one of covariance, precision, "
            "scale_tril, variance, or factor with diagonal. They describe the same matrix; keep the one you have."
        )
    if "factor" in given:
        return structures.LowRank(given["factor"], given["diagonal"])
    ((name, value),) = given.items()
    if isinstance(value, structures.Structure):
        return value
    if name in ("covariance", "precision"):
        return {"covariance": structures.Dense, "precision": structures.Precision}[name](value, on_failure)
    return {"scale_tril": structures.Cholesky, "variance": structures.Diagonal}[name](value)


def _squared_norm(vectors):
    F = namespace(vectors)
    return F.sum(F.square(vectors), axis=-1)


def _plus(log_det, rank, constant):
    """log det + constant * rank, where the rank is an integer or an array like log det."""
    return log_det + constant * rank if isinstance(rank, numbers.Real) else add(log_det, constant * rank)


def _trace(q, p):
    """tr(Sigma_q^-1 Sigma_p), from whichever of diagonal and root p has."""
    diagonal, root = p.diagonal_and_root()
    parts = []
    if root is not None:
        whitened = q.whitening().on_rows(linalg.transpose(root))
        parts.append(namespace(whitened).sum(_squared_norm(whitened), axis=-1))
    if diagonal is not None:
        weighted = multiply(q.inverse_diagonal(), diagonal)
        parts.append(namespace(weighted).sum(weighted, axis=-1))
    return parts[0] if len(parts) == 1 else add(*parts)


def _support_gap(q, p, difference):
    """Infinity where p has mass off the support of q, or a smaller support; 0 elsewhere."""
    root = p.root()
    F = namespace(root)
    ranks = [structure.rank() for structure in (q, p)]
    ranks = [p.log_det() * 0 + r if isinstance(r, numbers.Real) else r for r in ranks]
    gap = F.abs(subtract(*ranks))
    gap = F.where(gap > 0, F.ones_like(gap) * np.inf, F.zeros_like(gap))
    if q.off_support(difference) is not None:
        columns = F.transpose(root, axes=[root.ndim - 1] + list(range(root.ndim - 1)))
        gap = add(gap, add(q.off_support(difference), F.max(q.off_support(columns), axis=0)))
    return gap


def _concatenated_split(whitened, ridge, rows):
    return namespace(rows).concat(*linalg.ridge_split(whitened, ridge, rows), dim=-1)


def _shift(root, whitened, ridge, rows):
    return linalg.multiply(root, linalg.ridge_split(whitened, ridge, rows)[0])


def _product_structure(first, second, columns):
    if isinstance(first, structures.Precision) and isinstance(second, structures.Precision):
        return structures.Precision(add(first.precision, second.precision))
    if isinstance(first, structures.Diagonal) and isinstance(second, structures.Diagonal):
        return structures.Diagonal(1 / add(1 / first.variances, 1 / second.variances))
    return structures.Dense(linalg.outer_square(columns))
