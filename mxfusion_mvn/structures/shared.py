# SPDX-License-Identifier: Apache-2.0
"""One covariance for all the rows of a batch, declared by the caller.

NDArrays need no declaration: their shapes show what is shared. A Symbol has no shape, so this says that vectors have
one axis more, N, than the covariance::

    structure (B'..., D, D)        vectors (B..., N, D)

The N rows become right-hand sides of one solve; the covariance is neither copied nor factored again.
"""

from __future__ import annotations

from mxfusion_mvn.checks import arguments
from mxfusion_mvn.linalg.axes import namespace
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.structure import Structure, check_structure

import mxnet as mx


class Shared(Structure):
    """
    A covariance with leading axes (B'..., 1), to meet vectors (B..., N, D).

    :param structure: any :class:`Structure`, with leading axes (B'...). The axes before N of Symbols must be equal.
    :raises ValueError: if it is no structure.
    """

    def __init__(self, structure: Structure) -> None:
        check_structure("structure", structure)
        self.structure = structure

    def root(self):
        """That of the structure, (B'..., 1, D, E)."""
        return _with_axis(self.structure.root(), 2)

    def dense(self):
        """Sigma, (B'..., 1, D, D)."""
        return _with_axis(self.structure.dense(), 2)

    def whitening(self):
        """That of the structure, on the rows."""
        return _OnRows(self.structure.whitening())

    def measuring(self):
        """That of the structure, on the rows."""
        return _OnRows(self.structure.measuring())

    def coloring(self):
        """That of the structure, on the rows."""
        return _OnRows(self.structure.coloring())

    def log_det(self):
        """Log det Sigma, (B'..., 1)."""
        return self._per_matrix(self.structure.log_det())

    def variance(self):
        """The diagonal of Sigma, (B'..., 1, D)."""
        return _with_axis(self.structure.variance(), 1)

    def inverse_diagonal(self):
        """The diagonal of Sigma^-1, (B'..., 1, D)."""
        return _with_axis(self.structure.inverse_diagonal(), 1)

    def diagonal_and_root(self):
        """Those of the structure, (B'..., 1, D) and (B'..., 1, D, E)."""
        diagonal, root = self.structure.diagonal_and_root()
        return (
            None if diagonal is None else _with_axis(diagonal, 1),
            None if root is None else _with_axis(root, 2),
        )

    def template(self):
        """That of the structure, (..., 1, D)."""
        return _with_axis(self.structure.template(), 1)

    def leading(self):
        """B'."""
        return (*self.structure.leading(), 1)

    def dim(self):
        """D, for Symbols (B'..., 1)."""
        return self._per_matrix(self.structure.dim())

    def noise_size(self, dim):
        """That of the structure."""
        return self.structure.noise_size(dim)

    def rank(self):
        """That of the structure; where it is an array, (B'..., 1)."""
        return self._per_matrix(self.structure.rank())

    def barrier(self):
        """That of the structure, on the rows."""
        barrier = self.structure.barrier()
        return None if barrier is None else _OnRows(barrier)

    def marginal(self, index, rest=None):
        """Shared, as the structure's."""
        return Shared(self.structure.marginal(index, rest))

    def condition(self, given, rest):
        """Shared, as the structure's."""
        regression, remaining = self.structure.condition(given, rest)
        return _OnRows(regression), Shared(remaining)

    def _checked(self, name, vectors, size_of=None):
        vectors = super()._checked(name, vectors, size_of)
        if namespace(vectors) is mx.nd and vectors.ndim < 2:
            arguments.refuse(name, f"shape {vectors.shape}", "(..., N, D)", "Write x.expand_dims(0) for a single row.")
        return vectors

    def _per_matrix(self, values):
        """(B'...) to (B'..., 1); for a single matrix both are (1,), which no expansion of axes would give."""
        if isinstance(values, int):
            return values
        variance = self.structure.variance()
        F = namespace(variance)
        return F.reshape_like(values, F.slice_axis(variance, axis=-1, begin=0, end=1))


class _OnRows(RowMap):
    """A map of vectors (B..., N, D), the N rows of each matrix being mapped in one call."""

    def __init__(self, inner) -> None:
        super().__init__(inner.kernel, *(_with_axis(array, 2) for array in inner.arrays))
        self._inner = inner

    def __call__(self, vectors):
        return self._inner.on_rows(vectors)


def _with_axis(array, event_axes):
    """A leading axis of size 1, the last of them."""
    return namespace(array).expand_dims(array, axis=-event_axes - 1)
