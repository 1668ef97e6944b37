# SPDX-License-Identifier: Apache-2.0
"""The arrays and parts of a structure: what is kept, copied, cast and looked at."""

from __future__ import annotations

import copy
import functools

from mxfusion_mvn.checks.failure import RAISE, OnFailure, may_repair

import mxnet as mx
from mxnet import autograd


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


class ArrayHolder:
    """
    Holds arrays, and other holders, as attributes.

    Results of computations are kept (see :func:`computed_once`): do not change an array without a gradient in place.
    """

    # The policy of a factorisation of the dense matrix, and the name of the matrix in messages.
    on_failure: OnFailure | None = RAISE
    name = "covariance"

    # Set on copies that do not outlive a computation, so that they may keep what they compute of trained arrays.
    _for_one_computation = False

    # Whether densities are wanted to more digits than one factorisation gives (see mxfusion_mvn.linalg.refinement).
    refine = True

    def check(self):
        """
        Refuse NDArrays whose values make no covariance; a matrix that is to be factored is looked at then.

        :raises ValueError: for a matrix that is not symmetric.
        :raises NotPositiveDefiniteError: for NaN and infinity, a variance that is not positive, or a zero on the
            diagonal of a factor.
        """
        for part in vars(self).values():
            if isinstance(part, ArrayHolder):
                part.check()

    def parameters(self):
        """
        The arrays it is made of, and the arrays of its parts.

        :returns: an iterator of NDArrays or Symbols.
        """
        for part in vars(self).values():
            if isinstance(part, (mx.nd.NDArray, mx.sym.Symbol)):
                yield part
            elif isinstance(part, ArrayHolder):
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
            name: value.for_one_computation() if isinstance(value, ArrayHolder) else value
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
        return any(isinstance(part, ArrayHolder) and part.trains_in_float64() for part in vars(self).values())

    def may_be_repaired(self):
        """
        Whether a policy would change a matrix that is not positive definite.

        :returns: a bool.
        """
        parts = (part for part in vars(self).values() if isinstance(part, ArrayHolder))
        return may_repair(self.on_failure) or any(part.may_be_repaired() for part in parts)

    def is_trained(self):
        """
        Whether an array of this structure, or of one it is made of, has a gradient attached.

        :returns: a bool.
        """
        return any(isinstance(array, mx.nd.NDArray) and array.grad is not None for array in self.parameters())


def _cast(value, dtype):
    if isinstance(value, mx.nd.NDArray):
        return value.astype(dtype)
    return value.cast(dtype) if isinstance(value, ArrayHolder) else value
