# SPDX-License-Identifier: Apache-2.0
"""Rules for matrices that are broadcast along batch axes: a shared matrix is factored once, and solved with once.

With one factor L for the vectors r_1, ..., r_M of a batch::

    L^-1 r_m for all m    is    R L^-T    for the matrix R with the rows r_m
"""

from mxfusion_mvn.compiler.operators import OPERATORS, traits
from mxfusion_mvn.compiler.rewriter import rule

import numpy as np


@rule(*(name for name, row in OPERATORS.items() if row.event_axes is not None))
def factor_once(rewriter, node):
    """f(broadcast A) = broadcast f(A), for a function of a matrix."""
    (matrix,) = node.inputs
    if len(node.shapes) > 1 or not _is_batch(matrix):
        return None
    (source,) = matrix.inputs
    event = node.shape[len(node.shape) - traits(node.operator).event_axes :]
    value = rewriter.call(node.operator, [source], (source.shape[:-2] + event) or (1,), node.attributes)
    return rewriter.broadcast(value, node.shape)


@rule("_linalg_trsm", "_linalg_trmm")
def solve_together(rewriter, node):
    """Triangular systems of vectors (B..., n, 1) that share a factor are one system of rows (M, n)."""
    factor, vectors = node.inputs
    if not _is_batch(factor) or node["rightside"]:
        return None
    shape, own = node.shape, factor.inputs[0].shape[:-2]
    kept = max([axis + 1 for axis, size in enumerate(own) if size > 1], default=0)
    if shape[-1] != 1 or own[:kept] != shape[:kept]:
        return None
    groups, size = int(np.prod(shape[:kept], dtype="int64")), shape[-2]
    batch = (groups,) if groups > 1 else ()
    matrix = rewriter.reshaped(factor.inputs[0], batch + (size, size))
    rows = rewriter.reshaped(vectors, batch + (int(np.prod(shape[kept:-2], dtype="int64")), size))
    attributes = {**node.attributes, "rightside": "True", "transpose": str(not node["transpose"])}
    return rewriter.reshaped(rewriter.call(node.operator, [matrix, rows], rows.shape, attributes), shape)


def _is_batch(entry):
    """Whether an entry is a matrix that is broadcast along its leading axes."""
    return entry.is_a("broadcast_to") and entry.inputs[0].shape[-2:] == entry.shape[-2:]
