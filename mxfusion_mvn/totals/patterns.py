# SPDX-License-Identifier: Apache-2.0
"""The total log density of Gaussian rows with missing entries, and its gradients in closed form.

Each pattern of missing entries has a few rows r that stand for n vectors
(:func:`~mxfusion_mvn.totals.statistics.rows_of_patterns`). With its mask m, whitened rows z and C as in
:mod:`mxfusion_mvn.missing`, its total and gradients are::

    C = diag(m) Sigma diag(m) + diag(1 - m) = L L^T        z = L^-1 r        a = L^-T z
    f = -1/2 (sum |z|^2 + n (log det C + |m| log 2 pi))
    df/dSigma = 1/2 diag(m) L^-T (sum z z^T - n I) L^-1 diag(m) = 1/2 (sum a a^T - n diag(m) C^-1 diag(m))
    df/dmean = sum scale a

They reach autograd as the gradients of :mod:`mxfusion_mvn.totals.closed_form` do. Where each row has a pattern of its
own, matrices for all patterns would take the memory, so patterns come in chunks: each adds to the total and to the
gradients, and leaves no matrix behind for each pattern. Patterns of many rows take the first form of the gradient, in
which digits do not cancel, and have few matrices.
"""

from typing import Any, List, NamedTuple

from mxfusion_mvn import linalg
from mxfusion_mvn.checks.failure import factor
from mxfusion_mvn.linalg import constant, is_differentiated
from mxfusion_mvn.linalg.density import log_density, normaliser
from mxfusion_mvn.totals.statistics import rows_of_patterns, standing_for_patterns

import mxnet as mx
import numpy as np

# Entries of the matrices of a chunk: so many that an operator spends its time on arithmetic.
_CHUNK = 2**20


class Bucket(NamedTuple):
    """
    Patterns with about as many rows, as NumPy arrays.

    Rows that fill up a pattern are zero, as are missing entries.
    """

    masks: np.ndarray  # (K, D)
    rows: np.ndarray  # (K, R, D)
    scales: np.ndarray  # (K, R)
    counts: np.ndarray  # (K,)


def total_of_observed(gaussian, value, on_failure, name, counts=None):
    """
    The sum of the log densities of what was observed.

    :param gaussian: a :class:`~mxfusion_mvn.Gaussian` of NDArrays with a regular covariance, its leading axes
        (S or 1, 1).
    :param value: NDArray (N, D), NaN where an entry is missing. It is read here.
    :param on_failure: what to do if an observed block is not positive definite, an :class:`~mxfusion_mvn.OnFailure`, or
        None not to look.
    :param name: what to call the covariance in messages.
    :param counts: None; where the rows stand for others, of how many each is the mean, NumPy array (N,).
    :returns: NDArray (S or 1,).
    """
    covariance, mean = gaussian.structure.dense(), gaussian.mean
    dim = value.shape[-1]
    covariance, mean = covariance.reshape((-1, 1, dim, dim)), mean.reshape((-1, 1, 1, mean.shape[-1]))
    wanted = is_differentiated(covariance), is_differentiated(mean)
    most = largest_chunk(max(len(covariance), len(mean)), dim)
    total: Any = 0
    gradients: List[Any] = [0, 0]
    previous: List[Any] = []
    for bucket in buckets_of(value.asnumpy(), most, counts):
        block = _Block(bucket, after(constant(covariance), *previous), constant(mean), on_failure, name)
        total = total + block.total()
        previous = [total]
        for i, compute in enumerate((block.covariance_gradient, block.mean_gradient)):
            if wanted[i]:
                gradients[i] = gradients[i] + compute()
                previous.append(gradients[i])
        if len(bucket.masks) < most / 2:
            previous = []
    for array, gradient, is_wanted in zip((covariance, mean), gradients, wanted):
        if is_wanted:
            gradient = gradient.reshape((gradient.shape[0], 1) + (1,) * (4 - 1 - gradient.ndim) + gradient.shape[1:])
            term = mx.nd.sum(mx.nd.broadcast_mul(array, gradient), axis=(1, 2, 3))
            total = total + (term - constant(term))
    return total


def largest_chunk(samples, dim):
    """
    How many patterns are computed at once.

    :param samples: the number of Monte Carlo samples.
    :param dim: D.
    :returns: an integer of at least 1.
    """
    return max(1, _CHUNK // (samples * dim**2))


def after(array, *previous):
    """
    An array that is computed after others, so that memory which they took can be used again.

    :param array: NDArray.
    :param previous: NDArrays of finite entries.
    :returns: NDArray of the same entries.
    """
    for other in previous:
        array = mx.nd.broadcast_add(array, (0 * mx.nd.sum(other)).reshape((1,) * array.ndim))
    return array


def buckets_of(value, most, counts=None):
    """
    The patterns of missing entries.

    :param value: NumPy array (N, D), NaN where an entry is missing.
    :param most: the largest number of patterns in a bucket.
    :param counts: as for :func:`total_of_observed`.
    :returns: a list of :class:`Bucket`; patterns whose numbers of rows are within a factor of two are together.
    """
    if counts is None:
        _, index = np.unique(codes(~np.isnan(value)), return_inverse=True)
        rows, scales, counts = rows_of_patterns(value, index.reshape(-1))
    else:
        rows, scales, counts = standing_for_patterns(value, counts)
    starts = np.flatnonzero(counts)
    sizes = np.diff(np.append(starts, len(rows)))
    return [_bucket(rows, scales, counts, starts[which], sizes[which]) for which in chunks(sizes, most)]


def chunks(sizes, most):
    """
    Patterns with about as many rows, a limited number of them together.

    :param sizes: NumPy array (K,) of integers, the number of rows of each pattern.
    :param most: the largest number of patterns.
    :returns: a list of NumPy arrays, the positions of the patterns; sizes within a factor of two are together.
    """
    found, widths = [], np.ceil(np.log2(sizes)).astype(int)
    for width in np.unique(widths):
        which = np.flatnonzero(widths == width)
        found.extend(np.array_split(which, -(-len(which) // most)))
    return found


def rectangle(starts, sizes):
    """
    Where the rows of patterns are, as many for each as the widest has.

    :param starts: NumPy array (K,) of integers, the position of the first row of each pattern.
    :param sizes: NumPy array (K,) of integers, the number of its rows.
    :returns: (positions, inside), NumPy arrays (K, R) of integers and booleans; outside stands the first row.
    """
    steps = np.arange(sizes.max())
    inside = steps < sizes[:, None]
    return starts[:, None] + np.where(inside, steps, 0), inside


def _bucket(rows, scales, counts, starts, sizes):
    members, inside = rectangle(starts, sizes)
    masks = ~np.isnan(rows[starts])
    filled = np.where(inside[:, :, None] & masks[:, None], rows[members], 0.0)
    return Bucket(masks.astype(float), filled, np.where(inside, scales[members], 0.0), counts[starts])


def codes(observed):
    """
    One entry for each pattern: sorting rows of booleans takes longer than all the algebra.

    :param observed: NumPy array (N, D) of booleans.
    :returns: NumPy array (N,), equal for equal rows: integers for up to 53 columns, else bytes.
    """
    dim = observed.shape[1]
    if dim > 53:
        packed = np.packbits(observed, axis=1)
        return packed.view(f"V{packed.shape[1]}").ravel()
    # Products of floats are calls of BLAS, and exact up to 2^24 and 2^53; 16 bits are sorted by counting.
    floats, integers = ("float32", "uint16") if dim <= 16 else ("float64", "int64")
    return (observed.astype(floats) @ (2.0 ** np.arange(dim)).astype(floats)).astype(integers)


def masked_covariance(covariance, masks):
    """
    C of each pattern: the missing rows and columns are replaced by rows and columns of the identity.

    :param covariance: NDArray (S, 1 or K, D, D).
    :param masks: NDArray (K, D).
    :returns: NDArray (S, K, D, D).
    """
    both = linalg.outer(masks, masks).expand_dims(0)
    missing = linalg.from_diagonal(1 - masks).expand_dims(0)
    return mx.nd.broadcast_add(mx.nd.broadcast_mul(covariance, both), missing)


def masked_factor(covariance, masks, on_failure, name):
    """
    L of each pattern, in two arrays of that size in all, where no gradient is wanted.

    :param covariance: NDArray (S, 1 or K, D, D) that passes no gradient on.
    :param masks: NDArray (K, D).
    :param on_failure: what to do about C that is not positive definite, an :class:`~mxfusion_mvn.OnFailure`, or None
        not to look.
    :param name: what to call it in messages.
    :returns: L (S, K, D, D), and an array of that shape to be written to.
    """
    masks = masks.expand_dims(0)
    blocks = mx.nd.broadcast_mul(covariance, masks.expand_dims(-1))
    # Computed from the covariance, the identity is no constant, of which a compiled program would keep a copy.
    ones = mx.nd.broadcast_add(1 - masks, 0 * linalg.diagonal(covariance))
    mx.nd.broadcast_mul(blocks, masks.expand_dims(-2), out=blocks)
    spare = linalg.from_diagonal(ones)
    mx.nd.elemwise_add(blocks, spare, out=blocks)
    if on_failure is None:
        return mx.nd.linalg.potrf(blocks, out=blocks), spare
    return factor(blocks, on_failure, name), spare


class _Block:
    """A bucket on arrays that pass no gradient on; of covariance (S or 1, 1, D, D) and mean (S or 1, 1, 1, D or 1)."""

    def __init__(self, bucket, covariance, mean, on_failure, name):
        masks, rows, scales, counts = (mx.nd.array(a, dtype=mean.dtype, ctx=mean.context) for a in bucket)
        self._masks, self._scales, self._counts = masks, scales, counts
        self._factor, self._spare = masked_factor(covariance, masks, on_failure, name)
        expected = mx.nd.broadcast_mul(mean, scales.expand_dims(-1).expand_dims(0))
        residual = mx.nd.broadcast_mul(mx.nd.broadcast_sub(rows.expand_dims(0), expected), masks.expand_dims(1))
        self._samples = max(self._factor.shape[0], residual.shape[0])
        self._flat = flat(self._factor, self._samples)
        self._whitened = linalg.solve_lower(self._flat, flat(residual, self._samples))

    def total(self):
        """f of each sample, (S,)."""
        constants = normaliser(2 * linalg.log_abs_det(self._factor), mx.nd.sum(self._masks, axis=-1))
        constants = mx.nd.broadcast_mul(constants, self._counts.expand_dims(0))
        squares = mx.nd.sum(mx.nd.square(self._whitened).reshape((self._samples, -1)), axis=-1)
        return log_density(squares, mx.nd.sum(constants, axis=-1))

    def covariance_gradient(self):
        """df/dSigma, (S, D, D)."""
        dim, rows = self._masks.shape[-1], self._scales.shape[-1]
        counts = mx.nd.broadcast_mul(self._counts.expand_dims(-1), mx.nd.ones_like(self._masks))
        if rows > dim:
            gram = linalg.gram(self._whitened).reshape((self._samples, -1, dim, dim))
            excess = mx.nd.broadcast_sub(gram, linalg.from_diagonal(counts).expand_dims(0))
            gradient = linalg.solve_columns(self._flat, excess.reshape((-1, dim, dim)), 0.5)
            gradient = linalg.solve_upper(self._flat, gradient).reshape((self._samples, -1, dim, dim)).sum(axis=1)
        else:
            inverse = mx.nd.linalg.potri(self._factor, out=self._spare)
            inverse = inverse.reshape((self._factor.shape[0], -1, dim * dim))
            weights = self._counts.reshape((1, 1, -1)).broadcast_to((len(inverse), 1, len(self._counts)))
            inverse = mx.nd.linalg.gemm2(weights, inverse).reshape((-1, dim, dim))
            gram = linalg.gram(self._solved().reshape((self._samples, -1, dim)))
            gradient = 0.5 * mx.nd.broadcast_sub(gram, inverse)
        # A missing entry has nothing but -n from the identity in C.
        missing = mx.nd.sum(0.5 * counts * (1 - self._masks), axis=0)
        return mx.nd.broadcast_add(gradient, linalg.from_diagonal(missing).expand_dims(0))

    def mean_gradient(self):
        """df/dmean, (S, D)."""
        solved = self._solved().reshape((self._samples,) + self._scales.shape + (-1,))
        scaled = mx.nd.broadcast_mul(solved, self._scales.expand_dims(-1).expand_dims(0))
        return mx.nd.sum(scaled, axis=(1, 2))

    def _solved(self):
        """a, (S K, R, D)."""
        return linalg.solve_upper(self._flat, self._whitened)


def flat(array, samples):
    """
    The axes of samples and patterns as one.

    :param array: NDArray (S or 1, K, ...).
    :param samples: S.
    :returns: NDArray (S K, ...).
    """
    if array.shape[0] != samples:
        array = array.broadcast_to((samples,) + array.shape[1:])
    return array.reshape((-1,) + array.shape[2:])
