# SPDX-License-Identifier: Apache-2.0
"""Rules that compute each product of matrices by the fastest kernel of MXNet for its size and type, on CPUs.

- MKLDNN, which only a dense layer calls, multiplies large matrices of float32 twice as fast as OpenBLAS if the
  processor has AVX-512; but it takes 30 us to set up.
- A symmetric product A^T A takes half of the operations of a general one, but MXNet copies its other triangle at
  11 ns an entry.
- MXNet's transposition of many rows takes 4 ns an entry.
"""

from mxfusion_mvn.compiler.graph import CONSTANT
from mxfusion_mvn.compiler.rewriter import rule
from mxfusion_mvn.compiler.thresholds import (
    DENSE_FROM,
    LARGE_PRODUCT,
    LONG_SUMS,
    SMALL_SQUARE,
    SMALL_SYSTEM,
    TALL,
    WIDE,
)

import mxnet as mx
import numpy as np
from mxnet import autograd


@rule("FullyConnected")
def _dense(rewriter, node):
    """A small dense layer is a product: MKLDNN takes longer to set it up than to compute it."""
    if len(node.inputs) != 3 or node.dtype != "float32":
        return None
    data, weight, bias = node.inputs
    units, features = weight.shape
    rows = data.size // features
    if rows * units * features > DENSE_FROM:
        return None
    rows_of_data = rewriter.reshaped(data, (rows, features))
    product = rewriter.call("dot", [rows_of_data, weight], (rows, units), {"transpose_b": True})
    spread = rewriter.broadcast(rewriter.reshaped(bias, (1, units)), (rows, units))
    return rewriter.reshaped(rewriter.call("broadcast_add", [product, spread], (rows, units)), node.shape)


@rule("_linalg_syrk", "_linalg_gemm2")
def _square(rewriter, node):
    """A^T A and A A^T are a dense layer, a syrk or a gemm2, by their size."""
    is_transposed = _transposed_in_square(node)
    if is_transposed is None:
        return None
    source, size = node.inputs[0], node.shape[-1]
    length = source.shape[-2 if is_transposed else -1]
    is_single = node.size == size**2 and node["alpha"] == 1
    if is_single and node.dtype == "float32" and size >= WIDE and (length <= TALL or not is_transposed):
        columns = rewriter.reshaped(source, source.shape[-2:])
        if is_transposed:
            columns = rewriter.call("transpose", [columns], (size, length))
        return _layer(rewriter, columns, columns, node.shape)
    is_half = length >= LONG_SUMS.get(node.dtype.name, 0) or node.size < SMALL_SQUARE
    operator = "_linalg_syrk" if is_half else "_linalg_gemm2"
    if operator == node.operator:
        return None
    if is_half:
        attributes = {"transpose": is_transposed, "alpha": node["alpha"]}
        return rewriter.call(operator, [source], node.shape, attributes)
    attributes = {"transpose_a": is_transposed, "transpose_b": not is_transposed, "alpha": node["alpha"]}
    return rewriter.call(operator, [source, source], node.shape, attributes)


def _transposed_in_square(node):
    """Whether the first of two equal factors is transposed; None if the node is not a product of such."""
    if node.operator == "_linalg_syrk":
        return node["transpose"]
    if node.inputs[0] != node.inputs[1] or "axis" in node.attributes or node["transpose_a"] == node["transpose_b"]:
        return None
    return node["transpose_a"]


@rule("_linalg_gemm2")
def _large(rewriter, node):
    """A B^T of large matrices is a dense layer."""
    is_plain = node["transpose_b"] and not node["transpose_a"] and node["alpha"] == 1 and "axis" not in node.attributes
    if node.dtype != "float32" or not is_plain:
        return None
    rows, columns = node.inputs
    features, units = rows.shape[-1], node.shape[-1]
    if columns.size != units * features or node.size * features < LARGE_PRODUCT:
        return None
    return _layer(rewriter, rows, rewriter.reshaped(columns, (units, features)), node.shape)


def _layer(rewriter, rows, weight, shape):
    units, features = weight.shape
    rows = rewriter.reshaped(rows, (rows.size // features, features))
    attributes = {"no_bias": True, "num_hidden": units, "flatten": False}
    product = rewriter.call("FullyConnected", [rows, weight], (rows.shape[0], units), attributes)
    return rewriter.reshaped(product, shape)


@rule("_linalg_trsm", "_linalg_trmm")
def constant_factor(rewriter, node):
    """A small triangular system with a constant factor is a product with the inverse."""
    factor, rows = node.inputs
    size = rows.shape[-1]
    is_small = factor.size == size**2 and rows.size * size <= SMALL_SYSTEM
    if not factor.is_a(CONSTANT) or not is_small or not node["rightside"] or not node["lower"]:
        return None
    matrix = factor.node.array.reshape((size, size)).astype("float64")
    matrix = _inverse(matrix) if node.operator == "_linalg_trsm" else np.tril(matrix.asnumpy())
    matrix = node["alpha"] * (matrix.T if node["transpose"] else matrix)
    if not np.isfinite(matrix).all():
        return None
    if size == 1:
        return rewriter.call("_mul_scalar", [rows], node.shape, {"scalar": repr(float(matrix[0, 0]))})
    matrix = rewriter.constant(np.ascontiguousarray(matrix, rows.dtype), rows.dtype)
    flat = rewriter.reshaped(rows, (rows.size // size, size))
    return rewriter.reshaped(rewriter.call("dot", [flat, matrix], flat.shape), node.shape)


def _inverse(factor):
    """
    X with X L = I, row by row by substitution.

    With such an inverse X r is as accurate as substitution; with one that solves L X = I it is not (Higham, Accuracy
    and Stability of Numerical Algorithms, section 14.2).
    """
    with autograd.pause():
        identity = mx.nd.eye(len(factor), dtype="float64", ctx=factor.context)
        return mx.nd.linalg.trsm(factor, identity, rightside=True).asnumpy()


@rule("dot")
def row(rewriter, node):
    """A row times a matrix is a vector times it."""
    left, matrix = node.inputs
    if left.shape[:-1] != (1,) or len(matrix.shape) != 2 or node["transpose_a"]:
        return None
    if node["transpose_b"]:
        if not matrix.is_a(CONSTANT):
            return None
        matrix = rewriter.constant(np.ascontiguousarray(matrix.node.array.asnumpy().T), matrix.dtype)
    vector = rewriter.reshaped(left, left.shape[1:])
    return rewriter.reshaped(rewriter.call("dot", [vector, matrix], node.shape[1:]), node.shape)


@rule("_linalg_gemm2")
def product_with_scalar(rewriter, node):
    """A product of (B..., m, 1) and (B..., 1, n), where m or n is 1, is an elementwise product."""
    if "axis" in node.attributes:
        return None
    rows, columns = node.shape[-2:]
    if min(rows, columns) > 1 or node.inputs[0].size != node.size // columns:
        return None
    batch = node.shape[:-2]
    left, right = node.inputs
    factors = [rewriter.reshaped(left, batch + (rows, 1)), rewriter.reshaped(right, batch + (1, columns))]
    product = rewriter.call("broadcast_mul", factors, node.shape)
    return rewriter.call("_mul_scalar", [product], node.shape, {"scalar": repr(node["alpha"])})


PRODUCTS = (_dense, _square, _large)
