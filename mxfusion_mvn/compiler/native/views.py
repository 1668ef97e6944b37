# SPDX-License-Identifier: Apache-2.0
"""Arrays of a plan: views, with strides, of memory that has an array or gets a place when the plan is bound."""

import math
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np


class Unknown(Exception):
    """The native engine does not know an operator, or not with these attributes; the message says which."""


class Memory:
    """
    Memory of entries of one type.

    :param size: how many entries.
    :param dtype: NumPy dtype, float32 or float64.
    :param array: NDArray or NumPy array whose memory it is, None for memory of the engine's own.

    ``is_kept`` says that what is in it is read after a run, so that nothing else may be put there.
    """

    __slots__ = ("array", "dtype", "is_kept", "size")

    def __init__(self, size, dtype, array=None):
        self.size = size
        self.dtype = np.dtype(dtype)
        self.array = array
        self.is_kept = False


class View(NamedTuple):
    """Entries of a :class:`Memory`: where the first is, and the strides along the axes, in entries."""

    memory: Memory
    offset: int
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]

    @property
    def size(self):
        """How many entries it has."""
        return math.prod(self.shape)

    @property
    def is_contiguous(self):
        """Whether its entries lie one after the other."""
        dense = strides_of(self.shape)
        return all(mine == other for mine, other, n in zip(self.strides, dense, self.shape) if n > 1)

    def broadcast_to(self, shape):
        """
        The same entries again along other axes.

        :param shape: tuple of int.
        :returns: a view.
        """
        added = len(shape) - len(self.shape)
        own, strides = (1,) * added + self.shape, (0,) * added + self.strides
        return self._replace(
            shape=tuple(shape), strides=tuple(0 if n != m else s for n, m, s in zip(own, shape, strides))
        )

    def reshaped(self, shape) -> Optional[Any]:
        """
        The same entries in another shape.

        :param shape: tuple of int of as many entries.
        :returns: a view; None if that takes a copy.
        """
        shape = tuple(shape)
        if self.is_contiguous:
            return self._replace(shape=shape, strides=strides_of(shape))
        if [n for n in self.shape if n > 1] != [n for n in shape if n > 1]:
            return None
        strides = iter(s for s, n in zip(self.strides, self.shape) if n > 1)
        return self._replace(shape=shape, strides=tuple(next(strides) if n > 1 else 0 for n in shape))

    def transposed(self, axes):
        """
        The view with its axes in another order.

        :param axes: sequence of int.
        :returns: a view.
        """
        return self._replace(
            shape=tuple(self.shape[axis] for axis in axes), strides=tuple(self.strides[axis] for axis in axes)
        )

    def part(self, axis, begin, size):
        """
        Some of the entries along an axis.

        :param axis: int, not negative.
        :param begin: the first.
        :param size: how many.
        :returns: a view.
        """
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        return self._replace(offset=self.offset + begin * self.strides[axis], shape=shape)


def dense(memory, shape):
    """
    The first entries of a memory, one after the other.

    :param memory: :class:`Memory`.
    :param shape: tuple of int.
    :returns: a view.
    """
    return View(memory, 0, tuple(shape), strides_of(shape))


def strides_of(shape):
    """
    Strides of entries that lie one after the other, 0 along axes of one entry.

    :param shape: tuple of int.
    :returns: tuple of int.
    """
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step if size > 1 else 0)
        step *= size
    return tuple(reversed(strides))


def collapsed(shape, views):
    """
    As few axes as possible for a loop over all entries.

    :param shape: tuple of int.
    :param views: list of views of that shape.
    :returns: sizes, and for each view its strides: lists.
    """
    axes: List[Any] = []
    for size, *strides in zip(shape, *(view.strides for view in views)):
        if size == 1:
            continue
        if axes and all(outer == size * inner for outer, inner in zip(axes[-1][1:], strides)):
            axes[-1] = (axes[-1][0] * size, *strides)
        else:
            axes.append((size, *strides))
    axes = axes or [(1, *(0 for _ in views))]
    sizes, *strides = (list(column) for column in zip(*axes))
    return sizes, strides


def checked(dtype):
    """
    A type that the engine has.

    :param dtype: NumPy dtype.
    :returns: the same.
    :raises Unknown: if it is another one.
    """
    if np.dtype(dtype).name not in ("float32", "float64"):
        raise Unknown(f"entries of {np.dtype(dtype)}")
    return np.dtype(dtype)
