# SPDX-License-Identifier: Apache-2.0
"""Matrices that are not positive definite: they are reported, and repaired if the user says how.

MXNet reports a failed factorisation once, at the first reading, and hands out garbage after that. So every
factorisation of NDArrays that goes through :func:`factor` is read here, at the price of waiting for it; a Symbol has
no values yet, and its executor is left to MXNet's own error.
"""

from __future__ import annotations

import warnings
from operator import attrgetter
from typing import NamedTuple

from mxfusion_mvn import checks, linalg

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxnet import autograd

# The values that are tried in turn. Jitter is relative to the mean of the diagonal, the floor of a projection to the
# eigenvalue of largest size, because rounding errors of a factorisation scale with them.
JITTERS = {"float32": 10.0 ** np.arange(-6, -1), "float64": 10.0 ** np.arange(-10, -1)}
FLOORS = {"float32": 10.0 ** np.arange(-5, -1), "float64": 10.0 ** np.arange(-10, -1)}

_REMEDY = (
    "If it is learned, declare it as Variable(..., transformation=PositiveDefinite()), or its factor with "
    "LowerCholesky(), or use a smaller learning rate; on_failure=OnFailure('jitter') repairs rounding."
)


class NotPositiveDefiniteError(InferenceError):
    """A matrix has no Cholesky factor; the message says which, where and by how much."""


class NotFiniteError(NotPositiveDefiniteError):
    """A matrix has NaN or infinity in it, without any computation having failed; the message says where."""


class RepairWarning(UserWarning):
    """A matrix was not positive definite and has been repaired; the message says what was added."""


class Repair(NamedTuple):
    """
    A change that was made to one matrix.

    ``added`` is the largest change of an entry; ``batch_index``, () for a single matrix, leaves out axes of size 1.
    """

    name: str
    batch_index: tuple[int, ...]
    smallest_eigenvalue: float
    asymmetry: float
    added: float


class OnFailure:
    """
    A policy for matrices that are not positive definite.

    ``raise`` refuses them. ``jitter`` adds to the diagonal, in steps of ten from 1e-6 (float64: 1e-10) to 1e-2 times
    its mean, as little as lets the factorisation succeed; beyond that it refuses. ``project`` takes the nearest matrix,
    in the Frobenius norm, whose eigenvalues are at least 1e-5 (float64: 1e-10) times the largest in size (Higham, 1988,
    doi:10.1016/0024-3795(88)90223-6), or ten times that while rounding is in the way.
    Only the failing matrices of a batch are changed. The change is a constant: gradients pass to the matrix as it was.
    NaN and infinity are always refused.

    :param action: one of ``raise``, ``jitter`` and ``project``.
    :raises ValueError: for another action.
    """

    def __init__(self, action: str = "raise") -> None:
        if not isinstance(action, str) or action not in _CHANGES:
            raise ValueError(f"`action`: got {action!r}; expected one of {', '.join(_CHANGES)}. Choose how to go on.")
        self.action = action
        self._repairs: dict[tuple, Repair] = {}

    @property
    def repairs(self):
        """List of :class:`Repair`, the largest one for each name and batch index so far."""
        return list(self._repairs.values())

    def __repr__(self):
        return f"OnFailure({self.action!r})"

    def mend(self, matrix, name):
        """
        The change that lets the failing matrices of a batch be factored.

        :param matrix: NDArray (B..., D, D).
        :param name: what to call it in messages.
        :returns: NumPy array (B..., D, D), zero where nothing is wrong.
        :raises NotPositiveDefiniteError: if the action is ``raise`` or cannot help, and for NaN and infinity.
        """
        value = check_finite(matrix, name)
        stack = value.reshape((-1,) + value.shape[-2:])
        change = np.zeros_like(stack)
        repairs = []
        for position in _failing(stack):
            index = _own_index(np.unravel_index(position, value.shape[:-2]), value.shape)
            found = _CHANGES[self.action](stack[position])
            if found is None:
                raise NotPositiveDefiniteError(_message(name, stack[position], index, self.action))
            change[position] = found
            smallest, asymmetry, _ = _diagnosis(stack[position])
            repairs.append(Repair(name, index, smallest, asymmetry, float(np.abs(found).max())))
        self._record(repairs)
        return change.reshape(value.shape)

    def _record(self, repairs):
        if not repairs:
            return
        is_new = not any(known.name == repairs[0].name for known in self.repairs)
        for repair in repairs:
            key = repair.name, repair.batch_index
            self._repairs[key] = max(repair, self._repairs.get(key, repair), key=attrgetter("added"))
        if is_new:
            worst = max(repairs, key=attrgetter("added"))
            where = "its diagonal" if self.action == "jitter" else "its entries"
            others = f", the largest of {len(repairs)} repairs" if len(repairs) > 1 else ""
            warnings.warn(
                f"`{worst.name}` is not positive definite{checks.at_index(worst.batch_index)}: its smallest eigenvalue "
                f"is {worst.smallest_eigenvalue:.6g} and its asymmetry {worst.asymmetry:.3g}; {self.action} added up "
                f"to {worst.added:.3g} to {where}{others}. Further ones are recorded in `repairs` without a warning.",
                RepairWarning,
                stacklevel=2,
            )


def may_repair(on_failure):
    """
    Whether a policy changes matrices that are not positive definite.

    :param on_failure: an :class:`OnFailure`, or None.
    :returns: a bool.
    """
    return on_failure is not None and on_failure.action != "raise"


def factor(matrix, on_failure, name):
    """
    Lower Cholesky factor under a policy.

    :param matrix: NDArray or Symbol (B..., D, D).
    :param on_failure: an :class:`OnFailure`, or None not to look at the result, which then need not be waited for.
    :param name: what to call the matrix in messages.
    :returns: (B..., D, D).
    :raises NotPositiveDefiniteError: as the policy says.
    """
    if on_failure is None or isinstance(matrix, mx.sym.Symbol):
        return linalg.cholesky(matrix)
    # An error of what the matrix is computed from would surface in the factor, be taken for its own, and be gone.
    _wait(matrix, name)
    attempt = linalg.cholesky(matrix)
    if _is_sound(attempt):
        return attempt
    change = on_failure.mend(matrix, name)
    mended = linalg.cholesky(matrix + mx.nd.array(change, dtype=matrix.dtype, ctx=matrix.context))
    if not _is_sound(mended):  # where this device rounds differently from the one that judged
        raise NotPositiveDefiniteError(f"`{name}` is not positive definite, and {on_failure.action} failed. {_REMEDY}")
    return mended


def check_triangular_factor(matrix, name):
    """
    Refuse a factor with NaN or infinity in its lower triangle, or zeros on its diagonal.

    :param matrix: NDArray (B..., D, D), of which the lower triangle is read.
    :param name: what to call it in messages.
    :raises NotPositiveDefiniteError: naming the batch index.
    """
    _wait(matrix, name)
    with autograd.pause():
        read = linalg.lower_triangle(matrix)
    pivots = np.diagonal(check_finite(read, name), axis1=-2, axis2=-1)
    if pivots.all():
        return
    *index, row = np.argwhere(pivots == 0)[0]
    index = _own_index(index, pivots.shape)
    raise NotPositiveDefiniteError(
        f"`{name}` is singular{checks.at_index(index)}: its diagonal is 0 at position {row}; expected a "
        "non-zero diagonal. If it is learned, declare it as Variable(..., transformation=LowerCholesky())."
    )


def check_positive(array, name):
    """
    Refuse variances that are zero, negative, NaN or infinite.

    :param array: NDArray (B..., D).
    :param name: what to call it in messages.
    :raises NotPositiveDefiniteError: naming the smallest entry.
    """
    value = check_finite(array, name, event_axes=1)
    if value.min() > 0:
        return
    raise NotPositiveDefiniteError(
        f"`{name}` has an entry of {value.min():.6g}; expected positive numbers. If it is learned, declare it as "
        "Variable(..., transformation=Positive()), or use a smaller learning rate."
    )


def check_finite(array, name, event_axes=2):
    """
    Refuse NaN and infinity.

    :param array: NDArray (B..., event).
    :param name: what to call it in messages.
    :param event_axes: how many axes an event has.
    :returns: the entries, a NumPy array of that shape.
    :raises NotFiniteError: naming the first such entry.
    :raises NotPositiveDefiniteError: for the result of a failed computation.
    """
    _wait(array, name)
    value = array.asnumpy()
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
        leading = value.ndim - event_axes
        index = _own_index(bad[0][:leading], value.shape) + checks.plain_index(bad[0][leading:])
        raise NotFiniteError(
            f"`{name}` is {value[tuple(bad[0])]} at index {index}; expected finite numbers. "
            "Look at what it is computed from; no repair is tried."
        )
    return value


def can_be_factored(value):
    """
    Whether MXNet finds a Cholesky factor; NumPy's LAPACK decides differently on a few borderline matrices.

    :param value: NumPy array (..., D, D).
    :returns: a bool, for all matrices together.
    """
    with autograd.pause():
        return _is_sound(linalg.cholesky(mx.nd.array(value, dtype=value.dtype)))


def _is_sound(attempt):
    try:
        with autograd.pause():
            pivots = linalg.diagonal(attempt).asnumpy()
    except mx.base.MXNetError:
        return False
    return bool((np.isfinite(pivots) & (pivots > 0)).all())


def _failing(stack):
    """The positions of those matrices (K, D, D) that have no factor, by halving: most often there are few."""
    if can_be_factored(stack):
        return []
    if len(stack) == 1:
        return [0]
    half = len(stack) // 2
    return _failing(stack[:half]) + [half + position for position in _failing(stack[half:])]


def _wait(array, name):
    try:
        array.wait_to_read()
    except mx.base.MXNetError as error:
        raise NotPositiveDefiniteError(
            f"`{name}` comes from a computation that failed before, most often a factorisation; expected numbers. "
            f"The error of MXNet above this one says which. {_REMEDY}"
        ) from error


def _own_index(index, shape):
    """A batch index without the axes of size 1, which may have been inserted for alignment: the one the user knows."""
    return tuple(int(i) for i, size in zip(index, shape) if size > 1)


def _message(name, value, index, action):
    smallest, asymmetry, where = _diagnosis(value)
    skew = f" and its asymmetry {asymmetry:.6g}, at {where}" if asymmetry else ""
    return (
        f"`{name}` is not positive definite{checks.at_index(index)}: its smallest eigenvalue is {smallest:.6g}{skew}"
        f"{_IN_VAIN[action]}; expected a matrix that is positive definite in {value.dtype}. {_REMEDY}"
    )


def _diagnosis(value):
    """Smallest eigenvalue of the symmetric part, largest asymmetry and where it is."""
    value = value.astype("float64")
    difference = np.abs(value - value.T)
    where = checks.plain_index(np.unravel_index(np.argmax(difference), difference.shape))
    return float(np.linalg.eigvalsh((value + value.T) / 2)[0]), float(difference.max()), where


def _jitter(value):
    """The smallest multiple of the identity that helps, or None."""
    scale = np.abs(np.diagonal(value)).mean(dtype="float64")
    changes = (step * scale * np.eye(len(value)) for step in JITTERS[value.dtype.name])
    return _first_that_helps(value, changes)


def _projection(value):
    """The change by clipping the eigenvalues of the symmetric part, or None."""
    exact = value.astype("float64")
    eigenvalues, vectors = np.linalg.eigh((exact + exact.T) / 2)
    floors = np.abs(eigenvalues).max() * FLOORS[value.dtype.name]
    changes = ((vectors * np.maximum(eigenvalues, floor)) @ vectors.T - exact for floor in floors)
    return _first_that_helps(value, changes)


def _first_that_helps(value, changes):
    changes = (change.astype(value.dtype) for change in changes)
    return next((change for change in changes if can_be_factored(value + change)), None)


# From a matrix (D, D) that cannot be factored to a change that helps, or to None.
_CHANGES = {"raise": lambda value: None, "jitter": _jitter, "project": _projection}

_IN_VAIN = {
    "raise": "",
    "jitter": ", and adding up to 0.01 times the mean of its diagonal does not help",
    "project": ", and clipping its eigenvalues does not help",
}

RAISE = OnFailure("raise")
