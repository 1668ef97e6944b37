# SPDX-License-Identifier: Apache-2.0
"""The instructions of the native engine, as engine.h has them."""

from typing import List, NamedTuple, Optional

from mxfusion_mvn.compiler.native.views import View

import numpy as np

# The kinds of instructions, in the order of engine.h.
KINDS = "map sum maximum move cast product solve factor normal uniform".split()
MAP, SUM, MAXIMUM, MOVE, CAST, PRODUCT, SOLVE, FACTOR, NORMAL, UNIFORM = range(len(KINDS))


class Instruction(NamedTuple):
    """As ``instruction`` in engine.h; ``operands`` are views, the output first."""

    kind: int
    operands: List[View]
    sizes: List[int]
    strides: List[List[int]]
    operation: int = 0
    flags: tuple = ()
    table: Optional[np.ndarray] = None
    scalar: float = 0.0
    second: float = 0.0
