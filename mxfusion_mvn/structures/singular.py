# SPDX-License-Identifier: Apache-2.0
"""A positive semi-definite covariance: a Gaussian on a subspace, with density on it and none off it.

V holds the eigenvectors of Sigma and a mask m says which belong to its range. Within that subspace the covariance is
regular, so the ordinary factor does everything::

    M = diag(m) V^T Sigma V diag(m) + diag(1 - m) = L L^T
    |z|^2 = |diag(m) L^-1 V^T r|^2        log det = 2 sum log L_ii        Cov[V diag(m) L noise] = Sigma

V and m are held constant in gradients, so these are the derivatives within the subspace, exact also where eigenvalues
coincide, which those of an eigenvalue routine are not.
"""

from mxfusion_mvn import linalg
from mxfusion_mvn.axes import add, namespace
from mxfusion_mvn.checks import at_index
from mxfusion_mvn.failure import NotPositiveDefiniteError
from mxfusion_mvn.structures.structure import RowMap, Structure, computed_once

import mxnet as mx
import numpy as np

# An eigenvalue counts as zero below this multiple of the largest one, as in SciPy's multivariate_normal.
TOLERANCE = {"float32": 1e3 * np.finfo("float32").eps, "float64": 1e6 * np.finfo("float64").eps}


class Singular(Structure):
    """
    Sigma, symmetric positive semi-definite.

    :param covariance: Sigma (B'..., D, D).
    :param rank: how many eigenvalues are positive; None to count those above 1e6 machine epsilons (float32: 1e3) times
        the largest, as SciPy does. It may then differ within a batch.
    :param tolerance: what to count by instead, needed for Symbols, whose dtype is not known.
    :param name: what to call it in messages.
    :raises NotPositiveDefiniteError: for NDArrays, if an eigenvalue is negative beyond that tolerance.
    """

    def __init__(self, covariance, rank=None, tolerance=None, name="covariance"):
        self.covariance = covariance
        self._rank = rank
        self._tolerance = tolerance
        self.name = name
        self._scale = None

    @computed_once
    def _support(self):
        """V^T as rows (B'..., D, D), the mask (B'..., D) and the scale (B'..., 1), all constant in gradients."""
        F = namespace(self.covariance)
        vectors, values = F.linalg.syevd(F.stop_gradient(self.covariance))
        scale = F.max(F.abs(values), axis=-1, keepdims=True) if self._scale is None else self._scale
        bound = scale * self._bound()
        if F is mx.nd:
            self._refuse_negative(values.asnumpy(), bound.asnumpy())
        if self._rank is None:
            mask = F.broadcast_greater(values, bound)
        else:
            mask = F.topk(values, k=self._rank, ret_typ="mask", axis=-1)
        return F.stop_gradient(vectors), F.stop_gradient(mask), F.stop_gradient(scale)

    @computed_once
    def _factor(self):
        """L (B'..., D, D)."""
        vectors, mask, _ = self._support()
        F = namespace(vectors)
        within = F.linalg.gemm2(linalg.scale_rows(vectors, mask), self.covariance)
        within = linalg.symmetric_part(F.linalg.gemm2(within, linalg.scale_rows(vectors, mask), transpose_b=True))
        return linalg.cholesky(within + linalg.from_diagonal(1 - mask))

    def root(self):
        """V diag(m) L, (B'..., D, D)."""
        vectors, mask, _ = self._support()
        F = namespace(vectors)
        return F.linalg.gemm2(linalg.scale_rows(vectors, mask), self._factor(), transpose_a=True)

    def dense(self):
        """Sigma, (B'..., D, D)."""
        return self.covariance

    def variance(self):
        """The diagonal, (B'..., D)."""
        return linalg.diagonal(self.covariance)

    def whitening(self):
        """diag(m) L^-1 V^T; its square is that of the pseudo-inverse."""
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

    def off_support(self, residual):
        """Infinity where the part of a residual outside the range exceeds rounding, 0 elsewhere, (B...)."""
        vectors, mask, scale = self._support()
        F = namespace(residual)
        residual = F.stop_gradient(residual)
        outside = _length(RowMap(linalg.multiply, linalg.scale_rows(vectors, 1 - mask))(residual))
        bound = self._bound() * add(_length(residual), F.sqrt(F.sum(scale, axis=-1)))
        return F.where(F.broadcast_greater(outside, bound), F.ones_like(outside) * np.inf, F.zeros_like(outside))

    def marginal(self, index, rest=None):
        """A Singular."""
        dense = linalg.take(linalg.take(self.covariance, index, axis=-1), index, axis=-2)
        return Singular(dense, tolerance=self._tolerance, name=self.name)

    def condition(self, given, rest):
        """A Singular, with the pseudo-inverse of Sigma_aa in place of its inverse."""
        whitening = self.marginal(given).whitening()
        cross = linalg.take(linalg.take(self.covariance, rest, axis=-2), given, axis=-1)
        own = linalg.take(linalg.take(self.covariance, rest, axis=-1), rest, axis=-2)
        whitened = whitening.on_rows(cross)
        remaining = Singular(own - linalg.outer_square(whitened), tolerance=self._tolerance, name=self.name)
        # What is left may be nothing but rounding: it is small against Sigma, not against itself.
        remaining._scale = self._support()[2]

        def regress(*arguments):
            *arrays, coefficients, rows = arguments
            return linalg.multiply(coefficients, whitening.kernel(*arrays, rows))

        return RowMap(regress, *whitening.arrays, whitened), remaining

    def _bound(self):
        """What counts as zero, relative to the scale."""
        if self._tolerance is not None:
            return self._tolerance
        if isinstance(self.covariance, mx.sym.Symbol):
            raise ValueError(
                "`tolerance`: got None for a Symbol, whose dtype is unknown; expected a number. "
                "Pass 1.2e-4 for float32, 2.2e-10 for float64."
            )
        return TOLERANCE[np.dtype(self.covariance.dtype).name]

    def _refuse_negative(self, values, bound):
        bad = np.argwhere(~(values >= -bound))
        if len(bad):
            index = tuple(int(i) for i in bad[0][:-1])
            raise NotPositiveDefiniteError(
                f"`{self.name}` is not positive semi-definite{at_index(index)}: its smallest eigenvalue is "
                f"{values[tuple(bad[0])]:.6g}; expected none below {-bound[index].max():.3g}. "
                "Clip the eigenvalues, or check how it was estimated."
            )


def _whiten(basis, factor, rows):
    return linalg.solve_lower(factor, linalg.multiply(basis, rows))


def _length(vectors):
    F = namespace(vectors)
    return F.sqrt(F.sum(F.square(vectors), axis=-1))
