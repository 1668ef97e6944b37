# SPDX-License-Identifier: Apache-2.0
"""Gaussian vectors with missing entries: their exact density, and the distribution of the missing entries.

A pattern is a set of observed entries, with mask m. If the missing rows and columns are replaced by rows and columns
of the identity, the matrix is block diagonal, so its factor gives everything about the observed block, and no size
changes::

    C = diag(m) Sigma diag(m) + diag(1 - m) = L L^T        a = C^-1 diag(m) (x - mean)
    log p(x_observed) = -1/2 (|L^-1 diag(m) (x - mean)|^2 + |m| log 2 pi + 2 sum log L_ii)
    E[x | x_observed] = mean + Sigma a

There is one factor for each distinct pattern, not for each row. The rows of a pattern are solved together, and patterns
with about as many rows (up to a factor of two) in one call, so the work does not depend on how many patterns there are.

Where patterns are many they have few rows, and the gradients of a density are those in closed form of
:mod:`mxfusion_mvn.totals.patterns`. With a and C^-1 held constant, a term that is added and subtracted passes them on::

    1/2 a^T Sigma a - 1/2 tr(C^-1 diag(m) Sigma diag(m)) - a^T diag(m) (x - mean)

It keeps one matrix for each pattern, where the derivative of each step of the computation would keep six.
"""

from __future__ import annotations

import functools
from numbers import Integral

from mxfusion_mvn import checks, linalg
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import RAISE, OnFailure, factor
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.linalg import constant, is_differentiated
from mxfusion_mvn.linalg.axes import ArrayLike, broadcast_shapes, namespace, size_of
from mxfusion_mvn.linalg.density import log_density, normaliser
from mxfusion_mvn.structures.pairs import is_singular
from mxfusion_mvn.totals.patterns import (
    after,
    chunks,
    codes,
    flat,
    largest_chunk,
    masked_covariance,
    masked_factor,
    rectangle,
)

import mxnet as mx
import numpy as np
from mxnet import autograd


class PartlyObserved:
    """
    A Gaussian of which some entries of some rows are known.

    :param gaussian: a :class:`~mxfusion_mvn.Gaussian` of NDArrays with a regular covariance, its leading axes
        (E..., V...) ending in the leading axes of value, or broadcasting to them.
    :param value: NDArray or NumPy array (V..., D), NaN where an entry is missing, or masked there. It is read here,
        which waits for it.
    :param on_failure: what to do if an observed block is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :param name: what to call the covariance in messages.
    :raises ValueError: for arguments of other types and shapes, and for a singular or symbolic Gaussian.
    """

    def __init__(
        self, gaussian: Gaussian, value: ArrayLike, on_failure: OnFailure | None = RAISE, name: str = "covariance"
    ) -> None:
        _check_gaussian(gaussian)
        if isinstance(value, np.ma.MaskedArray):
            value = checks.fill_masked(value)
        value = arguments.as_array("value", value, gaussian.mean, gaussian.structure.dim())
        arguments.check_policy(on_failure)
        if 0 in value.shape:
            arguments.refuse("value", f"shape {value.shape}", "at least one row", "Check how it is computed.")
        leading = gaussian._leading
        own = leading[max(0, len(leading) - value.ndim + 1) :]
        if any(size not in (1, rows) for size, rows in zip(reversed(own), reversed(value.shape[:-1]))):
            arguments.refuse(
                "value",
                f"leading axes {value.shape[:-1]}",
                f"those of the Gaussian, {leading}, to broadcast to them, or to end in them",
                "Rows are (V..., D).",
            )
        self._on_failure = on_failure
        self._name = name
        self._value_axes = value.shape[:-1]
        self._dim = value.shape[-1]
        self._count = size_of(self._value_axes)
        covariance = gaussian.structure.dense()
        self._extra = broadcast_shapes(gaussian.mean.shape[:-1], covariance.shape[:-2], self._value_axes)
        self._extra = self._extra[: len(self._extra) - len(self._value_axes)]
        self._covariance = self._canonical(covariance, 2)
        self._mean = self._canonical(gaussian.mean, 1)
        observed = ~np.isnan(value.asnumpy().reshape(self._count, self._dim))
        self._mask = mx.nd.array(observed, dtype=value.dtype, ctx=value.context).expand_dims(0)
        flat = value.reshape((1, self._count, self._dim))
        self._value = mx.nd.where(self._mask, flat, mx.nd.zeros_like(flat))
        most = largest_chunk(size_of(self._extra), self._dim)
        self._patterns = _Patterns(observed, self._covariance.shape[1] == 1, most)
        self._masks = mx.nd.array(self._patterns.masks, dtype=value.dtype, ctx=value.context)

    @functools.cached_property
    def _factor(self):
        return factor(masked_covariance(self._covariance, self._masks), self._on_failure, self._name)

    def log_pdf(self) -> mx.nd.NDArray:
        """
        Log density of what was observed; 0 for a row with nothing in it.

        :returns: NDArray (E..., V...), (1,) where there are no such axes.
        """
        return self._log_pdf(self._residual()).reshape((self._extra + self._value_axes) or (1,))

    def _log_pdf(self, residual):
        """The log density of masked residuals (S or 1, N, D): (S or 1, N)."""
        samples = max(len(residual), len(self._covariance))
        densities: list = []
        previous: list = []
        for patterns, members in self._patterns.buckets:
            is_shared = self._covariance.shape[1] == 1
            covariance = self._covariance if is_shared else _pick(self._covariance, patterns, len(self._covariance))
            rows = _pick(residual, members.ravel(), samples).reshape((samples,) + members.shape + (self._dim,))
            masks = mx.nd.take(self._masks, mx.nd.array(patterns, dtype="int32", ctx=rows.context))
            density, previous = self._log_pdf_of(rows, covariance, after(masks, *previous))
            densities.append(density.reshape((samples, -1)))
        return self._in_order(densities)

    def _log_pdf_of(self, rows, covariance, masks):
        """
        The log density of rows (S, K, R, D) of patterns (K, D), with a covariance (S or 1, 1 or K, D, D).

        Returns the density (S, K, R) and a list of arrays: once these are computed, the matrices are needed no more.
        """
        is_short = rows.shape[2] <= self._dim
        if is_short or not autograd.is_recording():
            blocks, spare = masked_factor(constant(covariance), masks, self._on_failure, self._name)
            residual = constant(rows)
        else:
            blocks = factor(masked_covariance(covariance, masks), self._on_failure, self._name)
            residual = rows
        roots = flat(blocks, len(rows))
        whitened = linalg.solve_lower(roots, flat(residual, len(rows)))
        constants = normaliser(2 * linalg.log_abs_det(blocks), mx.nd.sum(masks, axis=-1))
        log_pdf = log_density(linalg.squared_norm(whitened).reshape(rows.shape[:-1]), constants.expand_dims(-1))
        if not is_short or not (is_differentiated(rows) or is_differentiated(covariance)):
            return log_pdf, []
        solved = linalg.solve_upper(roots, whitened).reshape(rows.shape)
        term = -mx.nd.sum(solved * rows, axis=-1)
        if is_differentiated(covariance):
            inverse = mx.nd.linalg.potri(blocks, out=spare)
            term = mx.nd.broadcast_add(term, 0.5 * _gradient_term(covariance, inverse, solved, masks))
        return log_pdf + (term - constant(term)), [constant(term)]

    def mean(self) -> mx.nd.NDArray:
        """
        The values with the conditional mean where they are missing.

        :returns: NDArray (E..., V..., D).
        """
        filled = mx.nd.broadcast_add(self._mean, self._regress(self._residual()))
        return self._with_observed(filled).reshape(self._extra + self._value_axes + (self._dim,))

    def covariance(self) -> tuple[mx.nd.NDArray, np.ndarray]:
        """
        Conditional covariances, one for each pattern, zero in the rows and columns that were observed.

        :returns: (covariances (E..., K, D, D), index (V...)): row v has the covariance of pattern index[v].
        """
        prior = mx.nd.broadcast_like(self._covariance, self._factor)
        whitened = linalg.solve_lower(self._factor, linalg.transpose(linalg.scale_rows(prior, self._masks)))
        conditional = prior - linalg.outer_square(whitened)
        missing = 1 - self._masks
        conditional = mx.nd.broadcast_mul(conditional, linalg.outer(missing, missing).expand_dims(0))
        count = self._factor.shape[1]
        conditional = conditional.reshape(self._extra + (count, self._dim, self._dim))
        return conditional, self._patterns.index.reshape(self._value_axes)

    def variance(self) -> mx.nd.NDArray:
        """
        Conditional variances, zero where an entry was observed.

        :returns: NDArray (E..., V..., D).
        """
        covariances, index = self.covariance()
        axis = len(self._extra)
        variances = linalg.diagonal(covariances)
        picked = mx.nd.take(variances, mx.nd.array(index.ravel(), dtype="int32", ctx=variances.context), axis=axis)
        return picked.reshape(self._extra + self._value_axes + (self._dim,))

    def draw_samples(self, num_samples: int | None = None, noise: ArrayLike | None = None) -> mx.nd.NDArray:
        """
        Values with draws of what is missing, given what was observed.

        By Matheron's rule: a draw of the whole vector, corrected by the regression on its observed part.

        :param num_samples: S; None for one draw without a sample axis. Needs no extra axes E.
        :param noise: standard normals (S, V..., D) instead of fresh ones.
        :returns: NDArray (S, V..., D).
        """
        if any(size > 1 for size in self._extra):
            arguments.refuse(
                "gaussian", f"extra leading axes {self._extra}", "none for draws", "Draw from each by itself."
            )
        is_count = isinstance(num_samples, Integral) and not isinstance(num_samples, bool) and int(num_samples) > 0
        if num_samples is not None and not is_count:
            arguments.refuse("num_samples", f"{num_samples!r}", "a positive integer or None", "Write 1 for one draw.")
        if noise is None:
            shape = (1 if num_samples is None else num_samples,) + self._value_axes + (self._dim,)
            noise = mx.nd.random.normal(shape=shape, dtype=self._value.dtype, ctx=self._value.context)
        own = self._value_axes + (self._dim,)
        normals = arguments.as_array("noise", noise, self._value)
        if normals.shape[-len(own) :] != own or normals.ndim > len(own) + 1:
            arguments.refuse(
                "noise", f"shape {normals.shape}", f"(S,) + {own}", "Standard normals for each entry of value."
            )
        root = factor(self._covariance, self._on_failure, self._name)
        prior = _multiply_rows(root, normals.reshape((-1, self._count, self._dim)))
        correction = self._regress(mx.nd.broadcast_sub(self._residual(), mx.nd.broadcast_mul(prior, self._mask)))
        drawn = mx.nd.broadcast_add(self._mean, prior + correction)
        drawn = self._with_observed(drawn).reshape((-1,) + self._value_axes + (self._dim,))
        return drawn[0] if num_samples is None and drawn.shape[0] == 1 else drawn

    def _canonical(self, array, event_axes):
        """As (S or 1, N or 1, event): the extra axes as one, and the axes of value as one."""
        event = array.shape[array.ndim - event_axes :]
        leading = array.shape[: array.ndim - event_axes]
        leading = (1,) * (len(self._extra) + len(self._value_axes) - len(leading)) + leading
        extra, own = leading[: len(self._extra)], leading[len(self._extra) :]
        if any(size > 1 for size in own) and own != self._value_axes:
            array = array.reshape(leading + event).broadcast_to(extra + self._value_axes + event)
            own = self._value_axes
        if any(size > 1 for size in extra) and extra != self._extra:
            array = array.reshape(extra + own + event).broadcast_to(self._extra + own + event)
            extra = self._extra
        return array.reshape((size_of(extra), size_of(own)) + event)

    def _residual(self):
        """diag(m) (x - mean), (S, N, D)."""
        return mx.nd.broadcast_mul(mx.nd.broadcast_sub(self._value, self._mean), self._mask)

    def _index(self):
        return mx.nd.array(self._patterns.index, dtype="int32", ctx=self._value.context)

    def _by_pattern(self, kernel, rows):
        """Apply a kernel with the factor of its pattern to every row (S, N, D)."""
        samples = max(rows.shape[0], self._factor.shape[0])
        solved = []
        for patterns, members in self._patterns.buckets:
            picked = _pick(self._factor, patterns, samples)
            right = _pick(rows, members.ravel(), samples).reshape((samples,) + members.shape + (self._dim,))
            solved.append(kernel(picked, right).reshape((samples, -1, self._dim)))
        return self._in_order(solved)

    def _in_order(self, parts):
        """The rows of all buckets, (S, N, ...), in the order of the value."""
        stacked = parts[0] if len(parts) == 1 else mx.nd.concat(*parts, dim=1)
        return mx.nd.take(stacked, mx.nd.array(self._patterns.place, dtype="int32", ctx=stacked.context), axis=1)

    def _regress(self, residual):
        """Sigma C^-1 r for masked residuals, (S, N, D)."""
        solved = self._by_pattern(linalg.solve_upper, self._by_pattern(linalg.solve_lower, residual))
        return _multiply_rows(self._covariance, solved)

    def _with_observed(self, filled):
        mask = self._mask.broadcast_to(filled.shape)
        return mx.nd.where(mask, self._value.broadcast_to(filled.shape), filled)


def _gradient_term(covariance, inverse, solved, masks):
    """a^T Sigma a - tr(C^-1 diag(m) Sigma diag(m)), (S, K, R), of constants a (S, K, R, D) and C^-1 (S, K, D, D)."""
    samples, count, _, dim = solved.shape
    products = _multiply_rows(covariance, solved.reshape((samples, -1, dim))).reshape(solved.shape)
    squares = mx.nd.sum(solved * products, axis=-1)
    # C^-1 is the identity where an entry is missing.
    missing = mx.nd.broadcast_mul(1 - masks, linalg.diagonal(covariance)).sum(axis=-1)
    if covariance.shape[1] == 1:
        own = len(covariance)
        trace = mx.nd.batch_dot(inverse.reshape((own, count, -1)), covariance.reshape((own, -1, 1))).reshape(
            (own, count)
        )
    else:
        trace = mx.nd.sum(inverse * covariance, axis=(2, 3))
    return mx.nd.broadcast_sub(squares, (trace - missing).expand_dims(-1))


def _check_gaussian(gaussian):
    if not isinstance(gaussian, Gaussian):
        got = f"a {type(gaussian).__name__}"
        arguments.refuse("gaussian", got, "a Gaussian", "Build it with Gaussian(mean, covariance).")
    if namespace(gaussian.mean) is not mx.nd or is_singular(gaussian.structure):
        kind = "one of Symbols" if namespace(gaussian.mean) is not mx.nd else "a singular one"
        arguments.refuse("gaussian", kind, "one of NDArrays with a regular covariance", "Give it as NDArrays, dense.")


class _Patterns:
    """Which rows share a pattern, and which patterns are solved together."""

    def __init__(self, observed, shared, most) -> None:
        count = len(observed)
        if shared:
            _, first, index = np.unique(codes(observed), return_index=True, return_inverse=True)
            self.masks, self.index = observed[first], index.reshape(-1)
        else:
            self.masks, self.index = observed, np.arange(count)
        order = np.argsort(self.index, kind="stable")
        sizes = np.bincount(self.index, minlength=len(self.masks))
        starts = np.cumsum(sizes) - sizes
        self.buckets, self.place, offset = [], np.empty(count, dtype=int), 0
        for patterns in chunks(sizes, most):
            # Where a pattern has fewer rows than the widest of its bucket, its first row stands in, to be ignored.
            members, inside = rectangle(starts[patterns], sizes[patterns])
            members = order[members]
            self.place[members[inside]] = offset + np.flatnonzero(inside.ravel())
            self.buckets.append((patterns, members))
            offset += members.size


def _pick(array, index, samples):
    """Some of axis 1, as many samples as wanted along axis 0; no copy of what is taken whole."""
    if len(index) != array.shape[1] or (index != np.arange(len(index))).any():
        array = mx.nd.take(array, mx.nd.array(index, dtype="int32", ctx=array.context), axis=1)
    return array if array.shape[0] == samples else array.broadcast_to((samples,) + array.shape[1:])


def _multiply_rows(matrix, rows):
    """A x for every row x (S, N, D), with A (S or 1, 1 or N, D, D)."""
    samples = max(matrix.shape[0], rows.shape[0])
    if matrix.shape[0] == matrix.shape[1] == 1:
        return linalg.multiply(matrix.reshape(matrix.shape[2:]), rows.reshape((-1, rows.shape[-1]))).reshape(rows.shape)
    matrix = _pick(matrix, np.arange(matrix.shape[1]), samples)
    rows = _pick(rows, np.arange(rows.shape[1]), samples)
    if matrix.shape[1] == 1:
        return linalg.multiply(matrix.reshape((samples,) + matrix.shape[2:]), rows)
    return linalg.multiply(matrix, rows.expand_dims(-2)).reshape(rows.shape)
