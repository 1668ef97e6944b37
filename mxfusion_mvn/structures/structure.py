# SPDX-License-Identifier: Apache-2.0
"""The protocol of a covariance structure. Each docstring is the equation to meet; Sigma is the covariance.

A structure *has* to give only :meth:`Structure.root`; everything else follows from it by way of the dense matrix, and
is overridden where the structure offers something better. Linear maps are given as a :class:`RowMap`, so that the same
kernel serves single vectors of any batch shape and the rows of matrices.
"""

import functools
from abc import ABC, abstractmethod

from mxfusion_mvn import linalg
from mxfusion_mvn.axes import broadcast_shapes, namespace, per_row, size_of_last

import mxnet as mx
from mxnet import autograd


class RowMap:
    """
    A linear map x -> A x, held by arrays with leading axes of their own.

    :param kernel: function of the arrays, each (K, ., .), and of rows (K, R, D), that returns A x for every row x.
    :param arrays: NDArrays or Symbols (B'..., ., .).
    """

    def __init__(self, kernel, *arrays):
        self.kernel = kernel
        self.arrays = arrays

    def __call__(self, vectors):
        """
        Map vectors; leading axes broadcast.

        :param vectors: (B..., D).
        :returns: A x, (broadcast of B' and B..., E).
        """
        return per_row(self.kernel, self.arrays, vectors)

    def on_rows(self, rows):
        """
        Map the rows of matrices; leading axes broadcast.

        :param rows: (B..., R, D).
        :returns: A x for every row x, (broadcast of B' and B..., R, E).
        """
        if namespace(rows) is mx.sym or all(array.shape[:-2] == rows.shape[:-2] for array in self.arrays):
            return self.kernel(*self.arrays, rows)
        # Rows first: there they do not meet the arrays' leading axes.
        axes = len(broadcast_shapes(rows.shape[:-2], *(array.shape[:-2] for array in self.arrays)))
        rows = rows.reshape((1,) * (axes + 2 - rows.ndim) + rows.shape)
        mapped = self(rows.transpose([axes] + list(range(axes)) + [axes + 1]))
        return mapped.transpose(list(range(1, axes + 1)) + [0, axes + 1])


def computed_once(method):
    """
    Keep the result of a method without arguments, one for recorded and one for unrecorded computation.

    A factor computed outside ``autograd.record()`` carries no gradient; serving it inside would silently cut the
    gradient of the matrix.

    :param method: a method of one argument, ``self``.
    :returns: the method, evaluated at most twice per object.
    """

    @functools.wraps(method)
    def lookup(self):
        kept = self.__dict__.setdefault("_computed", {})
        key = (method.__qualname__, autograd.is_recording())
        if key not in kept:
            kept[key] = method(self)
        return kept[key]

    return lookup


class Structure(ABC):
    """
    A covariance Sigma over the last axis of vectors (B..., D), with leading axes (B'...) of its own.

    Arrays are NDArrays or Symbols. Leading axes of NDArrays broadcast from the right; those of Symbols must be equal.
    """

    @abstractmethod
    def root(self):
        """
        A matrix A with A A^T = Sigma.

        :returns: (B'..., D, E).
        """

    def coloring(self):
        """
        A linear map A with A A^T = Sigma, which gives standard normal noise the covariance Sigma.

        :returns: a :class:`RowMap` from (..., E) to (..., D).
        """
        return RowMap(linalg.multiply, self.root())

    def whitening(self):
        """
        A linear map W with W^T W = Sigma^-1, so that z = W r has z^T z = r^T Sigma^-1 r.

        :returns: a :class:`RowMap` from (..., D) to (..., any size).
        """
        return self._factored().whitening()

    def log_det(self):
        """
        log det Sigma; of a singular Sigma the log of the product of its positive eigenvalues.

        :returns: (B'...), or (1,) for a single matrix: MXNet has no arrays without axes.
        """
        return self._factored().log_det()

    def dense(self):
        """
        Sigma itself.

        :returns: (B'..., D, D).
        """
        return linalg.outer_square(self.root())

    def variance(self):
        """
        The diagonal of Sigma.

        :returns: (B'..., D).
        """
        root = self.root()
        F = namespace(root)
        return F.sum(F.square(root), axis=-1)

    def inverse_diagonal(self):
        """
        The diagonal of Sigma^-1.

        :returns: (B'..., D).
        """
        identity = linalg.identity_like(self.variance())
        F = namespace(identity)
        return F.sum(F.square(self.whitening().on_rows(identity)), axis=-1)

    def diagonal_and_root(self):
        """
        A split Sigma = diag(d) + A A^T with as few columns of A as the structure allows.

        :returns: (d, A), of shapes (B'..., D) and (B'..., D, E); either may be None.
        """
        return None, self.root()

    def marginal(self, index, rest=None):
        """
        The structure of some of the entries.

        :param index: list of distinct positions, in the order wanted.
        :param rest: list of all other positions; needed only for the Symbol of a precision.
        :returns: a structure, of the same kind where that exists.
        """
        from mxfusion_mvn.structures.dense import Dense

        dense = self.dense()
        return Dense(linalg.take(linalg.take(dense, index, axis=-1), index, axis=-2))

    def condition(self, given, rest):
        """
        What is left of the rest when some entries are given, a and b standing for given and rest.

        The factor of Sigma, in the order a, b, holds all of it (its block L_bb is the factor of the Schur complement)::

            L_aa L_aa^T = Sigma_aa      regression r_a -> L_ba L_aa^-1 r_a      Sigma_b|a = L_bb L_bb^T

        :param given: list of positions a.
        :param rest: list of the other positions b.
        :returns: (regression, structure): a :class:`RowMap` from (..., |a|) to (..., |b|), and that of b given a.
        """
        from mxfusion_mvn.structures.cholesky import Cholesky

        order = list(given) + list(rest)
        factor = linalg.cholesky(linalg.take(linalg.take(self.dense(), order, axis=-1), order, axis=-2))
        aa, ba, bb = linalg.blocks(factor, len(given))
        return RowMap(_regress, aa, ba), Cholesky(bb)

    def dim(self):
        """
        D, for NDArrays.

        :returns: an integer.
        """
        return self.variance().shape[-1]

    def noise_size(self, dim):
        """
        How many independent standard normals one draw takes.

        :param dim: D, the size of the vector.
        :returns: D unless the structure says otherwise.
        """
        return dim

    def rank(self):
        """
        The rank of Sigma, for the normaliser.

        :returns: D, as an integer for NDArrays and of shape (B'...) for Symbols, unless the structure says otherwise.
        """
        return size_of_last(self.variance())

    def off_support(self, residual):  # noqa: B027  (None is the answer for all but one)
        """
        Infinity where a residual has no density, 0 elsewhere.

        :param residual: (B..., D).
        :returns: (B...), or None for structures whose density is positive everywhere.
        """

    def whiten(self, residual):
        """
        z with z^T z = r^T Sigma^-1 r.

        :param residual: r (B..., D).
        :returns: (broadcast of B' and B..., any size).
        """
        return self.whitening()(residual)

    def color(self, noise):
        """
        A noise with A A^T = Sigma.

        :param noise: (B..., E), E = :meth:`noise_size`.
        :returns: (broadcast of B' and B..., D).
        """
        return self.coloring()(noise)

    @computed_once
    def _factored(self):
        from mxfusion_mvn.structures.dense import Dense

        return Dense(self.dense()).factored()


def _regress(aa, ba, rows):
    return linalg.multiply(ba, linalg.solve_lower(aa, rows))
