# SPDX-License-Identifier: Apache-2.0
"""What happens to a matrix that is not positive definite: it is reported, and repaired if the user says how.

MXNet reports a failed factorisation once, at the first reading, and hands out garbage after that. So every
factorisation of NDArrays that goes through :func:`factor` is read here, at the price of waiting for it; a Symbol has
no values yet, and its executor is left to MXNet's own error.
"""

import warnings
from typing import NamedTuple, Tuple

from mxfusion_mvn import checks, linalg

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError

ACTIONS = ("raise", "jitter", "project")
# Relative to the mean of the diagonal.
SMALLEST_JITTER = {"float32": 1e-6, "float64": 1e-10}
LARGEST_JITTER = 1e-2
FLOOR = {"float32": 1e-5, "float64": 1e-10}


class NotPositiveDefiniteError(InferenceError):
    """A matrix has no Cholesky factor; the message says which, where and by how much."""


class RepairWarning(UserWarning):
    """A matrix was not positive definite and has been repaired; the message says what was added."""


class Repair(NamedTuple):
    """
    What was done to one matrix.

    ``added`` is the largest change of an entry; ``batch_index`` is () for a single matrix.
    """

    name: str
    batch_index: Tuple[int, ...]
    smallest_eigenvalue: float
    asymmetry: float
    added: float


class OnFailure:
    """
    A policy for matrices that are not positive definite.

    ``raise`` refuses them. ``jitter`` adds to the diagonal, in steps of ten from 1e-6 (float64: 1e-10) to 1e-2 times
    its mean, as little as lets the factorisation succeed; beyond that it refuses. ``project`` takes the nearest matrix,
    in the Frobenius norm, whose eigenvalues are at least 1e-5 (float64: 1e-10) times the mean diagonal (Higham, 1988).
    Only the failing matrices of a batch are changed. The change is a constant: gradients pass to the matrix as it was.
    NaN and infinity are always refused.

    :param action: one of ``raise``, ``jitter`` and ``project``.
    :raises ValueError: for another action.
    """

    def __init__(self, action="raise"):
        if action not in ACTIONS:
            raise ValueError(f"`action`: got {action!r}; expected one of {', '.join(ACTIONS)}. Choose how to go on.")
        self.action = action
        self._repairs = {}

    @property
    def repairs(self):
        """List of :class:`Repair`, the largest one for each name and batch index so far."""
        return list(self._repairs.values())

    def __repr__(self):
        return f"OnFailure({self.action!r})"

    def mend(self, matrix, name):
        """
        The change that lets the failing matrices of a batch be factored.

        :param matrix: NDArray (B..., D, D), of which at least one cannot be factored.
        :param name: what to call it in messages.
        :returns: NumPy array (B..., D, D), zero where nothing is wrong.
        :raises NotPositiveDefiniteError: if the action is ``raise``, or cannot help.
        """
        value = _own_axes(_read(matrix, name))
        change = np.zeros_like(value)
        for index in np.ndindex(value.shape[:-2]):
            if not can_be_factored(value[index]):
                change[index] = self._change(value[index], name, index)
        return change.reshape(matrix.shape)

    def _change(self, value, name, index):
        if self.action == "raise":
            raise NotPositiveDefiniteError(_message(name, value, index))
        change = _jitter(value) if self.action == "jitter" else _projection(value)
        if change is None:
            raise NotPositiveDefiniteError(_message(name, value, index, tried=self.action))
        self._record(Repair(name, index, *_diagnosis(value)[:2], float(np.abs(change).max())))
        return change

    def _record(self, repair):
        known = self._repairs.get((repair.name, repair.batch_index))
        if known is None or known.added < repair.added:
            self._repairs[repair.name, repair.batch_index] = repair
        if not any(name == repair.name for name, _ in list(self._repairs)[:-1]) and known is None:
            warnings.warn(
                f"`{repair.name}` is not positive definite{checks.at_index(repair.batch_index)} (smallest eigenvalue "
                f"{repair.smallest_eigenvalue:.3g}, asymmetry {repair.asymmetry:.3g}); {self.action} added up to "
                f"{repair.added:.3g} to its entries. Further repairs are recorded in `repairs` without a warning.",
                RepairWarning,
                stacklevel=2,
            )


RAISE = OnFailure("raise")


def factor(matrix, on_failure, name):
    """
    Lower Cholesky factor under a policy.

    :param matrix: NDArray or Symbol (B..., D, D).
    :param on_failure: an :class:`OnFailure`, or None not to look at the result, which then need not be waited for.
    :param name: what to call the matrix in messages.
    :returns: (B..., D, D).
    :raises NotPositiveDefiniteError: as the policy says.
    """
    attempt = linalg.cholesky(matrix)
    if on_failure is None or isinstance(matrix, mx.sym.Symbol) or _is_sound(attempt):
        return attempt
    change = on_failure.mend(matrix, name)
    return linalg.cholesky(matrix + mx.nd.array(change, dtype=matrix.dtype, ctx=matrix.context))


def check_triangular_factor(matrix, name):
    """
    Refuse a factor with zeros, NaN or infinity on its diagonal.

    :param matrix: NDArray (B..., D, D).
    :param name: what to call it in messages.
    :raises NotPositiveDefiniteError: naming the batch index.
    """
    if _is_sound(matrix) and linalg.diagonal(matrix).asnumpy().all():
        return
    pivots = np.diagonal(_own_axes(_read(matrix, name)), axis1=-2, axis2=-1)
    index = tuple(int(i) for i in np.argwhere(pivots == 0)[0])
    raise NotPositiveDefiniteError(
        f"`{name}` is singular{checks.at_index(index[:-1])}: its diagonal is 0 at position {index[-1]}; expected a "
        "non-zero diagonal. If it is learned, declare it as Variable(..., transformation=LowerCholesky())."
    )


def check_positive(array, name):
    """
    Refuse variances that are zero, negative, NaN or infinite.

    :param array: NDArray (B..., D).
    :param name: what to call it in messages.
    :raises NotPositiveDefiniteError: naming the smallest entry.
    """
    value = array.asnumpy()
    if np.isfinite(value).all() and (value > 0).all():
        return
    smallest = value.min() if np.isfinite(value).all() else value[~np.isfinite(value)][0]
    raise NotPositiveDefiniteError(
        f"`{name}` has an entry of {smallest:.6g}; expected positive numbers. If it is learned, declare it as "
        "Variable(..., transformation=Positive()), or use a smaller learning rate."
    )


def can_be_factored(value):
    """
    Whether MXNet finds a Cholesky factor; NumPy's LAPACK decides differently on a few borderline matrices.

    :param value: NumPy array (D, D).
    :returns: a bool.
    """
    return _is_sound(linalg.cholesky(mx.nd.array(value, dtype=value.dtype)))


def _is_sound(attempt):
    try:
        return bool(np.isfinite(linalg.diagonal(attempt).asnumpy()).all())
    except mx.base.MXNetError:
        return False


def _read(matrix, name):
    try:
        value = matrix.asnumpy()
    except mx.base.MXNetError as error:
        raise NotPositiveDefiniteError(
            f"`{name}` comes from a computation that failed before; expected a positive definite matrix. "
            f"Look for the first error. {_REMEDY}"
        ) from error
    own = _own_axes(value)
    if not np.isfinite(own).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(own))[0])
        raise NotPositiveDefiniteError(
            f"`{name}` is {own[index]} at index {index}; expected finite numbers. "
            "Look at what it is computed from; no repair is tried."
        )
    return value


def _own_axes(value):
    """Without the leading axes of size 1, which were inserted for alignment: the index the user knows."""
    return value.reshape([size for size in value.shape[:-2] if size > 1] + list(value.shape[-2:]))


_REMEDY = (
    "If it is learned, declare it as Variable(..., transformation=PositiveDefinite()), or its factor with "
    "LowerCholesky(), or use a smaller learning rate; on_failure=OnFailure('jitter') repairs rounding."
)


def _message(name, value, index, tried=None):
    smallest, asymmetry, where = _diagnosis(value)
    skew = f" and asymmetry {asymmetry:.6g} at {where}" if asymmetry else ""
    without = f", which {tried} cannot mend" if tried else ""
    return (
        f"`{name}` is not positive definite{checks.at_index(index)}: its smallest eigenvalue is {smallest:.6g}{skew}"
        f"{without}; expected a positive definite matrix. {_REMEDY}"
    )


def _diagnosis(value):
    """Smallest eigenvalue of the symmetric part, largest asymmetry and where it is."""
    value = value.astype("float64")
    difference = np.abs(value - value.T)
    where = tuple(int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))
    return float(np.linalg.eigvalsh((value + value.T) / 2)[0]), float(difference.max()), where


def _jitter(value):
    step = SMALLEST_JITTER[value.dtype.name]
    scale = np.abs(np.diagonal(value)).mean()
    while step <= LARGEST_JITTER * 1.5:
        change = (step * scale * np.eye(len(value))).astype(value.dtype)
        if can_be_factored(value + change):
            return change
        step *= 10
    return None


def _projection(value):
    eigenvalues, vectors = np.linalg.eigh((value + value.T).astype("float64") / 2)
    floor = FLOOR[value.dtype.name] * np.abs(np.diagonal(value)).mean()
    if floor == 0:
        return None
    nearest = (vectors * np.maximum(eigenvalues, floor)) @ vectors.T
    return nearest.astype(value.dtype) - value
