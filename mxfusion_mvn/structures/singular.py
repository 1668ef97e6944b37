# SPDX-License-Identifier: Apache-2.0
"""A positive semi-definite covariance: a Gaussian on a subspace, with density on it and none off it.

V holds the eigenvectors of Sigma and a mask m says which belong to its range. Within that subspace the covariance is
regular, so the ordinary factor does everything::

    M = diag(m) V^T Sigma V diag(m) + diag(1 - m) = L L^T
    |z|^2 = |diag(m) L^-1 V^T r|^2        log det = 2 sum log L_ii        Cov[V diag(m) L noise] = Sigma

V and m are held constant in gradients, so these are the derivatives within the subspace, exact also where eigenvalues
coincide, where the derivatives of an eigenvalue routine are not.
"""

from __future__ import annotations

import numbers

from mxfusion_mvn import linalg
from mxfusion_mvn.checks import arguments, at_index, plain_index
from mxfusion_mvn.checks.failure import NotPositiveDefiniteError
from mxfusion_mvn.linalg.axes import Array, namespace
from mxfusion_mvn.structures.array_holder import computed_once
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.structure import SquareMatrix

import mxnet as mx
import numpy as np

# An eigenvalue counts as zero below this multiple of the largest one, as in SciPy's multivariate_normal.
TOLERANCE = {"float32": 1e3 * np.finfo("float32").eps, "float64": 1e6 * np.finfo("float64").eps}


class Singular(SquareMatrix):
    """
    Sigma, symmetric positive semi-definite.

    :param covariance: Sigma (B'..., D, D).
    :param rank: how many eigenvalues are positive; all others are taken to be rounding, and are dropped. None to count
        those above 1e6 machine epsilons (float32: 1e3) times the largest, as SciPy does: that may differ in a batch.
    :param tolerance: another such multiple; needed for Symbols, whose dtype is not known. A vector lies on the support
        if what sticks out is below it, relative to the vector and to the largest standard deviation.
    :param name: what to call it in messages.
    :raises ValueError: for another type, dtype or shape, a rank that is not a positive integer, and a tolerance that is
        not between 0 and 1.
    :raises NotPositiveDefiniteError: for NDArrays, if an entry is not finite, an eigenvalue is negative beyond the
        tolerance, or there are fewer positive ones than the rank says.
    """

    def __init__(
        self, covariance: Array, rank: int | None = None, tolerance: float | None = None, name: str = "covariance"
    ) -> None:
        arguments.check_parameter(name, covariance, "DD")
        if rank is not None:
            arguments.check_count("rank", rank)
            if namespace(covariance) is mx.nd and rank > covariance.shape[-1]:
                arguments.refuse(
                    "rank", rank, f"at most {covariance.shape[-1]}, the size of the matrix", "Leave it out."
                )
        if tolerance is not None and not (isinstance(tolerance, numbers.Real) and 0 <= tolerance < 1):
            arguments.refuse("tolerance", repr(tolerance), "a number from 0 to 1", "Leave it out for that of SciPy.")
        self.covariance = covariance
        self._rank = rank
        self._tolerance = tolerance
        self.name = name
        self._scale = None

    @computed_once
    def _support(self):
        """V^T as rows (B'..., D, D), the mask (B'..., D) and the scale (B'..., 1), all constant in gradients."""
        F = namespace(self.covariance)
        vectors, values = F.linalg.syevd(linalg.constant(self.covariance))
        scale = F.max(F.abs(values), axis=-1, keepdims=True) if self._scale is None else self._scale
        bound = scale * self._bound()
        if F is mx.nd:
            self._check(values.asnumpy(), bound.asnumpy())
        if self._rank is None:
            mask = F.broadcast_greater(values, bound)
        else:
            mask = F.topk(values, k=self._rank, ret_typ="mask", axis=-1)
        return linalg.constant(vectors), linalg.constant(mask), linalg.constant(scale)

    @computed_once
    def _factor(self):
        """L (B'..., D, D)."""
        vectors, mask, _ = self._support()
        F = namespace(vectors)
        within = F.linalg.gemm2(linalg.scale_rows(vectors, mask), self.covariance)
        within = linalg.symmetric_part(F.linalg.gemm2(within, linalg.scale_rows(vectors, mask), transpose_b=True))
        return linalg.cholesky(within + linalg.from_diagonal(1 - mask))

    @computed_once
    def root(self):
        """V diag(m) L, (B'..., D, D)."""
        vectors, mask, _ = self._support()
        F = namespace(vectors)
        return F.linalg.gemm2(linalg.scale_rows(vectors, mask), self._factor(), transpose_a=True)

    def dense(self):
        """Sigma, without what a given rank drops, (B'..., D, D)."""
        return self.covariance if self._rank is None else linalg.outer_square(self.root())

    def variance(self):
        """The diagonal, (B'..., D)."""
        return linalg.diagonal(self.dense())

    def whitening(self):
        """diag(m) L^-1 V^T; its square is the pseudo-inverse."""
        vectors, mask, _ = self._support()
        return RowMap(_whiten, linalg.scale_rows(vectors, mask), self._factor())

    @computed_once
    def log_det(self):
        """Log of the product of the positive eigenvalues, (B'...)."""
        return 2 * linalg.log_abs_det(self._factor())

    def rank(self):
        """The number of positive eigenvalues, (B'...)."""
        mask = self._support()[1]
        return namespace(mask).sum(mask, axis=-1)

    def barrier(self):
        """Infinity where the part outside the range exceeds rounding, 0 elsewhere."""
        vectors, mask, scale = self._support()
        F = namespace(vectors)
        return RowMap(self._blocked, linalg.scale_rows(vectors, 1 - mask), F.expand_dims(F.sqrt(scale), axis=-1))

    def _matrix(self):
        return self.covariance

    def marginal(self, index, rest=None):
        """A Singular."""
        return self._alike(linalg.submatrix(self.covariance, index, index))

    def condition(self, given, rest):
        """A Singular, with the pseudo-inverse of Sigma_aa in place of its inverse."""
        whitening = self.marginal(given).whitening()
        whitened = whitening.on_rows(linalg.submatrix(self.covariance, rest, given))
        own = linalg.submatrix(self.covariance, rest, rest)
        remaining = self._alike(own - linalg.outer_square(whitened))
        # The rest may be nothing but rounding: it is small against Sigma, not against itself.
        remaining._scale = self._support()[2]
        return whitening.then(RowMap(linalg.multiply, whitened)), remaining

    def _alike(self, covariance):
        alike = Singular(covariance, tolerance=self._tolerance, name=self.name)
        alike._scale = self._scale
        return alike

    def _blocked(self, outside, scale, rows):
        """Relative to the vector too: far from the mean its own rounding is larger than the rounding of Sigma."""
        F = namespace(rows)
        rows = linalg.constant(rows)
        bound = self._bound() * F.broadcast_add(_length(rows), scale)
        off = F.broadcast_greater(_length(linalg.multiply(outside, rows)), bound)
        return F.where(off, F.ones_like(off) * np.inf, F.zeros_like(off))

    def _bound(self):
        """The largest eigenvalue that counts as zero, relative to the scale."""
        if self._tolerance is not None:
            return self._tolerance
        if isinstance(self.covariance, mx.sym.Symbol):
            raise ValueError(
                "`tolerance`: got None for a Symbol, whose dtype is unknown; expected a number. "
                "Pass 1.2e-4 for float32, 2.2e-10 for float64."
            )
        return TOLERANCE[np.dtype(self.covariance.dtype).name]

    def _check(self, values, bound):
        """
        Refuse a matrix that is no covariance, or of a smaller rank than given.

        :param values: eigenvalues in ascending order, NumPy array (B'..., D).
        :param bound: what counts as zero, (B'..., 1).
        """
        if not np.isfinite(values).all():
            covariance = self.covariance.asnumpy()
            index = plain_index(np.argwhere(~np.isfinite(covariance))[0])
            raise NotPositiveDefiniteError(
                f"`{self.name}` is {covariance[index]} at index {index}; expected finite numbers. "
                "Look at what it is computed from."
            )
        smallest = values[..., 0]
        for index in map(plain_index, np.argwhere(smallest < -bound[..., 0])[:1]):
            raise NotPositiveDefiniteError(
                f"`{self.name}` is not positive semi-definite{at_index(index)}: its smallest eigenvalue is "
                f"{smallest[index]:.6g}; expected none below {-bound[index][0]:.3g}. "
                "Clip the eigenvalues, or check how it was estimated."
            )
        if self._rank is None:
            return
        rounding = np.finfo(values.dtype).eps * values.shape[-1] * np.abs(values).max(axis=-1, keepdims=True)
        positive = np.sum(values > rounding, axis=-1)
        for index in map(plain_index, np.argwhere(positive < self._rank)[:1]):
            raise NotPositiveDefiniteError(
                f"`rank`: got {self._rank}, but `{self.name}` has{at_index(index)} {positive[index]} positive "
                "eigenvalues; expected at least as many as the rank. Give a smaller rank, or none to have it detected."
            )


def _whiten(basis, factor, rows):
    return linalg.solve_lower(factor, linalg.multiply(basis, rows))


def _length(vectors):
    F = namespace(vectors)
    return F.sqrt(F.sum(F.square(vectors), axis=-1, keepdims=True))
