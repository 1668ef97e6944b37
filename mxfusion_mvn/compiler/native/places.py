# SPDX-License-Identifier: Apache-2.0
"""Where the arrays of a plan lie in the memory of a program."""

import math
from typing import List, Tuple

ALIGNED = 64  # bytes: the longest vectors


class Places(dict):
    """The offset in bytes of each memory of the engine's own, and the size of all."""

    size = 0


def places_of(plan):
    """
    Give memory that is no longer read to what is computed later.

    :param plan: :class:`~mxfusion_mvn.compiler.native.plan.Plan`.
    :returns: :class:`Places`.
    """
    last = {view.memory: position for position, each in enumerate(plan.instructions) for view in each.operands}
    places = Places()
    free: List[Tuple[int, int]] = []
    for position, each in enumerate(plan.instructions):
        for memory in {view.memory: None for view in each.operands}:
            if memory.array is None and memory not in places:
                places[memory] = _place(places, free, bytes_of(memory))
        for memory in {view.memory: None for view in each.operands}:
            if memory.array is None and not memory.is_kept and last[memory] == position:
                free.append((places[memory], bytes_of(memory)))
    return places


def _place(places, free, size):
    """The smallest hole that is large enough, else new memory."""
    holes = sorted((hole for hole in free if hole[1] >= size), key=lambda hole: hole[1])
    if not holes:
        places.size += size
        return places.size - size
    begin, length = holes[0]
    free.remove(holes[0])
    if length > size:
        free.append((begin + size, length - size))
    return begin


def bytes_of(memory):
    """
    The bytes that a memory takes, with those up to the next aligned one.

    :param memory: :class:`~mxfusion_mvn.compiler.native.views.Memory`.
    :returns: an int.
    """
    return math.ceil(max(memory.size, 1) * memory.dtype.itemsize / ALIGNED) * ALIGNED
