# SPDX-License-Identifier: Apache-2.0
"""The protocol of a covariance structure. Each docstring is the equation to meet; Sigma is the covariance.

A structure *has* to give only :meth:`Structure.root`; everything else follows from it by way of the dense matrix, and
is overridden where the structure offers something better. Linear maps are given as a :class:`RowMap`, so that the same
kernel serves single vectors of any batch shape and the rows of matrices.
"""

import copy
import functools
from abc import ABC, abstractmethod

from mxfusion_mvn import arrays, linalg
from mxfusion_mvn.axes import broadcast_shapes, namespace, per_row, size_of_last
from mxfusion_mvn.failure import RAISE

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

    def then(self, following):
        """
        The composition x -> B A x. Neither map's arrays are broadcast to the leading axes of the other's.

        :param following: the :class:`RowMap` of B.
        :returns: a :class:`RowMap`.
        """
        return _Chain(self, following)


class _Chain(RowMap):
    def __init__(self, first, second):
        split = len(first.arrays)
        super().__init__(
            lambda *arguments: second.kernel(*arguments[split:-1], first.kernel(*arguments[:split], arguments[-1])),
            *first.arrays,
            *second.arrays,
        )
        self._first = first
        self._second = second

    def __call__(self, vectors):
        return self._second(self._first(vectors))

    def on_rows(self, rows):
        return self._second.on_rows(self._first.on_rows(rows))


def computed_once(method):
    """
    Keep the result of a method without arguments, one for recorded and one for unrecorded computation.

    A factor computed outside ``autograd.record()`` carries no gradient; serving it inside would silently cut the
    gradient of the matrix. Nothing is kept for arrays with a gradient attached: a trainer changes them in place, and
    the graph of one step is gone at the next.

    :param method: a method of a :class:`Structure` with one argument, ``self``.
    :returns: the method, evaluated at most twice per object.
    """

    @functools.wraps(method)
    def lookup(self):
        if self.is_trained() and not self._for_one_computation:
            return method(self)
        kept = self.__dict__.setdefault("_computed", {})
        key = (method.__qualname__, autograd.is_recording())
        if key not in kept:
            kept[key] = method(self)
        return kept[key]

    return lookup


class Structure(ABC):
    """
    A covariance Sigma over the last axis of vectors (B..., D), with leading axes (B'...) of its own.

    Arrays are NDArrays or Symbols. Leading axes of NDArrays broadcast from the right. Those of Symbols, whose shape
    cannot be read, must be equal; that a covariance is shared by the rows of a batch is declared by :class:`Shared`.

    What is computed of an array is kept (see :func:`computed_once`): do not change one in place that has no gradient.
    """

    # What a factorisation of the dense matrix does on failure, and what it calls the matrix.
    on_failure = RAISE
    name = "covariance"

    # Set on copies that do not outlive a computation, so that they may keep what they compute of trained arrays.
    _for_one_computation = False

    # Whether densities are wanted to more digits than one factorisation gives (see mxfusion_mvn.refinement).
    refine = True

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

    def measuring(self):
        """
        As :meth:`whitening`, for z^T z alone: only its gradient need be right, not those of the entries of z.

        :returns: a :class:`RowMap` from (..., D) to (..., any size).
        """
        return self.whitening()

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
        from mxfusion_mvn.structures.dense import Dense

        return Dense(linalg.submatrix(self.dense(), index, index), self.on_failure, self.name)

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
        aa, ba, bb = linalg.blocks(Structure.marginal(self, order).root(), len(given))
        return RowMap(regress, aa, ba), Cholesky(bb)

    def template(self):
        """
        Some array with the size, dtype and context of a vector, cheap to come by; its values do not matter.

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

    def check(self):
        """
        Refuse NDArrays whose values make no covariance; a matrix that is to be factored is looked at then.

        :raises ValueError: for a matrix that is not symmetric.
        :raises NotPositiveDefiniteError: for NaN and infinity, a variance that is not positive, or a zero on the
            diagonal of a factor.
        """
        for part in vars(self).values():
            if isinstance(part, Structure):
                part.check()

    def parameters(self):
        """
        The arrays it is made of, and those of its parts.

        :returns: an iterator of NDArrays or Symbols.
        """
        for part in vars(self).values():
            if isinstance(part, (mx.nd.NDArray, mx.sym.Symbol)):
                yield part
            elif isinstance(part, Structure):
                yield from part.parameters()

    def for_one_computation(self):
        """
        The same structure, free to keep what it computes also of arrays with a gradient attached.

        :returns: a copy, or the structure itself where that changes nothing.
        """
        if not self.is_trained():
            return self
        copied = copy.copy(self)
        copied.__dict__ = {
            name: value.for_one_computation() if isinstance(value, Structure) else value
            for name, value in vars(self).items()
            if name != "_computed"
        }
        copied._for_one_computation = True
        return copied

    @computed_once
    def in_float64(self):
        """
        The same structure in float64, for densities of float32 arrays; gradients pass through.

        :returns: a structure of the same kind.
        """
        return self.cast("float64")

    def cast(self, dtype):
        """
        The same structure in another precision; gradients pass through.

        :param dtype: float32 or float64.
        :returns: a structure of the same kind.
        """
        copied = copy.copy(self)
        copied.__dict__ = {name: _cast(value, dtype) for name, value in vars(self).items() if name != "_computed"}
        copied.refine = dtype != "float64"
        return copied

    def trains_in_float64(self):
        """
        Whether densities of float32 arrays are computed in float64 while training, too.

        :returns: a bool, False unless a part says otherwise.
        """
        return any(isinstance(part, Structure) and part.trains_in_float64() for part in vars(self).values())

    def may_be_repaired(self):
        """
        Whether a policy would change a matrix that is not positive definite.

        :returns: a bool.
        """
        if self.on_failure is not None and self.on_failure.action != "raise":
            return True
        return any(isinstance(part, Structure) and part.may_be_repaired() for part in vars(self).values())

    def off_support(self, residual):
        """
        Infinity where a residual has no density, 0 elsewhere.

        :param residual: (B..., D).
        :returns: (broadcast of B' and B...), or None for structures whose density is positive everywhere.
        """
        barrier = self.barrier()
        return None if barrier is None else namespace(residual).sum(barrier(residual), axis=-1)

    def is_trained(self):
        """
        Whether an array of this structure, or of one it is made of, has a gradient attached.

        :returns: a bool.
        """
        return any(isinstance(array, mx.nd.NDArray) and array.grad is not None for array in self.parameters())

    def whiten(self, residual):
        """
        z with z^T z = r^T Sigma^-1 r.

        :param residual: r (B..., D).
        :returns: (broadcast of B' and B..., any size).
        """
        return self.whitening()(residual)

    def distance(self, residual):
        """
        r^T Sigma^-1 r.

        :param residual: r (B..., D).
        :returns: (broadcast of B' and B...), (1,) for a single one.
        """
        return linalg.squared_norm(self.measuring()(residual))

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

        return Dense(self.dense(), self.on_failure, self.name).factored()


def check_structure(name, value):
    """
    Refuse what is no structure.

    :param name: the name of the argument.
    :param value: anything.
    :raises ValueError: unless it is a :class:`Structure`.
    """
    if not isinstance(value, Structure):
        arrays.refuse(name, f"a {type(value).__name__}", "a structure", "Write structures.Dense(x) for a matrix x.")


def regress(aa, ba, rows):
    """L_ba L_aa^-1 r for every row r, of the blocks of a lower triangular factor."""
    return linalg.multiply(ba, linalg.solve_lower(aa, rows))


def _cast(value, dtype):
    if isinstance(value, mx.nd.NDArray):
        return value.astype(dtype)
    return value.cast(dtype) if isinstance(value, Structure) else value
