# SPDX-License-Identifier: Apache-2.0
"""The protocol of a covariance structure, and the two structures that its defaults need.

Each docstring is the equation to meet; Sigma is the covariance. A structure *has* to give only :meth:`Structure.root`.
Everything else follows from it by way of the dense matrix and its factor, :class:`Dense` and :class:`Cholesky`, and is
overridden where a structure offers something better. Linear maps are given as a
:class:`~mxfusion_mvn.structures.row_map.RowMap`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Callable

from mxfusion_mvn import linalg
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import RAISE, OnFailure, check_triangular_factor, factor
from mxfusion_mvn.linalg.axes import Array, namespace, size_of_last
from mxfusion_mvn.linalg.refinement import refinement
from mxfusion_mvn.structures.array_holder import ArrayHolder, computed_once
from mxfusion_mvn.structures.row_map import RowMap, regress

import mxnet as mx


class Structure(ArrayHolder, ABC):
    """
    A covariance Sigma over the last axis of vectors (B..., D), with leading axes (B'...) of its own.

    Arrays are NDArrays or Symbols. Leading axes of NDArrays broadcast from the right. Those of Symbols, whose shape
    cannot be read, must be equal; that a covariance is shared by the rows of a batch is declared by :class:`Shared`.

    Results of computations are kept (see :func:`computed_once`): do not change an array without a gradient in place.
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
        return self.factored().whitening()

    def measuring(self):
        """
        As :meth:`whitening`, for z^T z alone: the gradients of the entries of z need not be right.

        :returns: a :class:`RowMap` from (..., D) to (..., any size).
        """
        return self.whitening()

    def log_det(self):
        """
        log det Sigma; of a singular Sigma the log of the product of its positive eigenvalues.

        :returns: (B'...), or (1,) for a single matrix: MXNet has no arrays without axes.
        """
        return self.factored().log_det()

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
        identity = linalg.identity_like(self.template())
        return linalg.squared_norm(self.measuring().on_rows(identity))

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
        return Dense(linalg.submatrix(self.dense(), index, index), self.on_failure, self.name)

    def condition(self, given, rest):
        """
        The distribution of the rest when some entries are given; a and b stand for given and rest.

        The factor of Sigma, in the order a, b, holds all of it (its block L_bb is the factor of the Schur complement)::

            L_aa L_aa^T = Sigma_aa      regression r_a -> L_ba L_aa^-1 r_a      Sigma_b|a = L_bb L_bb^T

        :param given: list of positions a.
        :param rest: list of the other positions b.
        :returns: (regression, structure): a :class:`RowMap` from (..., |a|) to (..., |b|), and b's structure given a.
        """
        order = list(given) + list(rest)
        aa, ba, bb = linalg.blocks(Structure.marginal(self, order).root(), len(given))
        return RowMap(regress, aa, ba), Cholesky(bb)

    def template(self):
        """
        An array with the size, dtype and context of a vector; its values do not matter, and it should be cheap.

        :returns: (..., D); for Symbols (B'..., D).
        """
        return self.variance()

    def leading(self):
        """
        The leading axes B' of NDArrays.

        :returns: a tuple.
        """
        return self.variance().shape[:-1]

    def dim(self):
        """
        D.

        :returns: an integer for NDArrays; for Symbols an array (B'...) with that value.
        """
        return size_of_last(self.template())

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

        :returns: D as :meth:`dim` gives it, unless the structure says otherwise; or an array (B'...).
        """
        return self.dim()

    def barrier(self):  # noqa: B027  (None is the answer for all but one)
        """
        A map to infinity for vectors without density, and to 0 for all others.

        :returns: a :class:`RowMap` from (..., D) to (..., 1), or None where the density is positive everywhere.
        """

    def off_support(self, residual):
        """
        Infinity where a residual has no density, 0 elsewhere.

        :param residual: (B..., D).
        :returns: (broadcast of B' and B...), or None for structures whose density is positive everywhere.
        """
        residual, barrier = self._checked("residual", residual), self.barrier()
        return None if barrier is None else namespace(residual).sum(barrier(residual), axis=-1)

    def whiten(self, residual):
        """
        z with z^T z = r^T Sigma^-1 r.

        :param residual: r (B..., D).
        :returns: (broadcast of B' and B..., any size).
        """
        return self.whitening()(self._checked("residual", residual))

    def distance(self, residual):
        """
        r^T Sigma^-1 r.

        :param residual: r (B..., D).
        :returns: (broadcast of B' and B...), (1,) for a single one.
        """
        return linalg.squared_norm(self.measuring()(self._checked("residual", residual)))

    def color(self, noise):
        """
        A noise with A A^T = Sigma.

        :param noise: (B..., E), E = :meth:`noise_size`.
        :returns: (broadcast of B' and B..., D).
        """
        return self.coloring()(self._checked("noise", noise, self.noise_size))

    def _checked(self, name, vectors, size_of=None):
        """Vectors as an array of D entries, or as many as a function of D says; refused by name if they do not fit."""
        like = next(self.parameters())
        if namespace(like) is mx.sym:
            return arguments.as_array(name, vectors, like)
        dim = self.dim()
        return arguments.as_array(name, vectors, like, dim if size_of is None else size_of(dim))

    @computed_once
    def factored(self):
        """
        The same covariance by the Cholesky factor of the dense matrix.

        :returns: a :class:`Cholesky`.
        """
        return Dense(self.dense(), self.on_failure, self.name).factored()


class SquareMatrix(Structure):
    """A structure that is held by one square matrix."""

    @abstractmethod
    def _matrix(self):
        """It, (B'..., D, D)."""

    def check(self):
        """Refuse an asymmetric matrix, unless nothing is to be looked at."""
        if self.on_failure is not None:
            arguments.check_symmetric(self.name, self._matrix())

    def template(self):
        """Its diagonal, (B'..., D)."""
        return linalg.diagonal(self._matrix())

    def leading(self):
        """B'."""
        return self._matrix().shape[:-2]

    def dim(self):
        """D."""
        return linalg.size(self._matrix())


class Dense(SquareMatrix):
    """
    Sigma, symmetric positive definite.

    :param covariance: Sigma (B'..., D, D), of which the factorisation reads the lower triangle.
    :param on_failure: the policy for a matrix that is not positive definite, an :class:`~mxfusion_mvn.OnFailure`.
    :param name: what to call it in messages.
    :raises ValueError: for another type, dtype or shape.
    """

    def __init__(self, covariance: Array, on_failure: OnFailure | None = RAISE, name: str = "covariance") -> None:
        arguments.check_parameter(name, covariance, "DD")
        arguments.check_policy(on_failure)
        self.covariance = covariance
        self.on_failure = on_failure
        self.name = name

    @computed_once
    def factored(self):
        """The same covariance by its Cholesky factor, a :class:`Cholesky`."""
        tril = factor(self.covariance, self.on_failure, self.name)
        return Cholesky(tril, partial(refinement, self.covariance, tril) if self.on_failure and self.refine else None)

    def root(self):
        """L with L L^T = Sigma, (B'..., D, D)."""
        return self.factored().scale_tril

    def coloring(self):
        """L."""
        return self.factored().coloring()

    def dense(self):
        """Sigma, (B'..., D, D)."""
        return self.covariance

    def variance(self):
        """The diagonal, (B'..., D)."""
        return linalg.diagonal(self.covariance)

    def _matrix(self):
        return self.covariance


class Cholesky(SquareMatrix):
    """
    Sigma = L L^T.

    :param scale_tril: L (B'..., D, D). Only its lower triangle is read, so that :class:`~mxfusion_mvn.Gaussian`
        refuses entries above the diagonal, but not while training; its diagonal may have any sign but not be 0.
    :param refine: function without arguments that gives K of :mod:`mxfusion_mvn.linalg.refinement` or None, called when
        Sigma = L K K^T L^T is needed to more digits than L L^T has.
    :param name: what to call it in messages.
    :raises ValueError: for another type, dtype or shape.
    """

    def __init__(self, scale_tril: Array, refine: Callable | None = None, name: str = "scale_tril") -> None:
        arguments.check_parameter(name, scale_tril, "DD")
        if refine is not None and not callable(refine):
            arguments.refuse(
                "refine", f"a {type(refine).__name__}", "a function without arguments or None", "Leave it out."
            )
        self.scale_tril = scale_tril
        self._refine = refine
        self.name = name

    def check(self):
        """Refuse a lower triangle that is not finite, a zero on the diagonal, and entries above it."""
        check_triangular_factor(self.scale_tril, self.name)
        arguments.check_lower_triangular(self.name, self.scale_tril)

    @computed_once
    def _second(self):
        second = self._refine() if self._refine else None
        if second is not None:
            arguments.check_parameter("refine", second, "DD")
        return second

    @computed_once
    def root(self):
        """L with zeros above the diagonal, (B'..., D, D)."""
        return linalg.lower_triangle(self.scale_tril)

    def whitening(self):
        """L^-1, by substitution; where there is a K, K^-1 L^-1."""
        first, second = RowMap(linalg.solve_lower, self.scale_tril), self._second()
        return first if second is None else first.then(RowMap(linalg.solve_lower, second))

    def coloring(self):
        """L."""
        return RowMap(linalg.multiply_lower, self.scale_tril)

    @computed_once
    def log_det(self):
        """2 sum log |L_ii|, (B'...), and as much of K."""
        log_det, second = linalg.log_abs_det(self.scale_tril), self._second()
        return 2 * (log_det if second is None else log_det + linalg.log_abs_det(second))

    def cast(self, dtype):
        """The refinement, of the digits of what was factored, is left out."""
        copied = super().cast(dtype)
        copied._refine = None
        return copied

    def marginal(self, index, rest=None):
        """A Cholesky, by a rotation of the rows of L, as in :meth:`condition`."""
        return Cholesky(_rotated(linalg.take(self.root(), index, axis=-2), index))

    def condition(self, given, rest):
        """A Cholesky, by a rotation of the rows of L: its product, which would lose digits, is not formed."""
        order = list(given) + list(rest)
        factor = _rotated(linalg.take(self.root(), order, axis=-2), order)
        aa, ba, bb = linalg.blocks(factor, len(given))
        return RowMap(regress, aa, ba), Cholesky(bb)

    def _matrix(self):
        return self.scale_tril


def check_structure(name, value):
    """
    Refuse anything that is no structure.

    :param name: the name of the argument.
    :param value: anything.
    :raises ValueError: unless it is a :class:`Structure`.
    """
    if not isinstance(value, Structure):
        arguments.refuse(name, f"a {type(value).__name__}", "a structure", "Write structures.Dense(x) for a matrix x.")


def _rotated(rows, order):
    """Rows of a lower triangular factor as such a factor: themselves, if they are its first ones."""
    if list(order) == list(range(len(order))):
        return namespace(rows).slice_axis(rows, axis=-1, begin=0, end=len(order))
    return linalg.triangular_factor(rows)
