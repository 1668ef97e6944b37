# SPDX-License-Identifier: Apache-2.0
"""Products of matrices, each by the kernel of MXNet that is fastest for its size and type; measured on CPUs.

- MKLDNN, which only a dense layer calls, multiplies large matrices of float32 twice as fast as OpenBLAS where the
  processor has AVX-512, and takes 30 us to set up.
- A symmetric product A^T A takes half of the operations of a general one, but MXNet copies its other triangle at
  11 ns per number.
- MXNet's transposition of many rows takes 4 ns per number.
"""

from mxfusion_mvn.inference.compiler.graph import CONSTANT
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, is_operator, shape_of, size_of

import mxnet as mx
import numpy as np
from mxnet import autograd

_TRUE = ("True", "1")
_SMALL_LAYER = 50_000  # multiplications
_SMALL_SYSTEM = 200_000
_LARGE_LAYER = 2_000_000
_WIDE = 256  # columns
_TALL = 3000  # rows
_SMALL_MATRIX = 1024  # numbers
_LONG = {"float32": 1000, "float64": 500}  # sums that a triangle is copied for


def _dense(rewriter, node):
    """A small layer takes MKLDNN longer to set up than to compute."""
    if node.operator != "FullyConnected" or len(node.inputs) != 3 or dtype_of((node, 0)) != "float32":
        return None
    data, weight, bias = node.inputs
    units, features = shape_of(weight)
    rows = size_of(data) // features
    if rows * units * features > _SMALL_LAYER:
        return None
    rows_of_data = rewriter.reshaped(data, (rows, features))
    product = rewriter.call("dot", [rows_of_data, weight], (rows, units), {"transpose_b": True})
    spread = rewriter.broadcast(rewriter.reshaped(bias, (1, units)), (rows, units))
    return rewriter.reshaped(rewriter.call("broadcast_add", [product, spread], (rows, units)), node.shapes[0])


def _square(rewriter, node):
    """A^T A and A A^T."""
    is_transposed = _transposed_in_square(node)
    if is_transposed is None:
        return None
    source, size = node.inputs[0], shape_of((node, 0))[-1]
    length = shape_of(source)[-2 if is_transposed else -1]
    dtype, alpha = dtype_of((node, 0)).name, node.attributes.get("alpha", "1.0")
    is_single = size_of((node, 0)) == size**2 and float(alpha) == 1
    if is_single and dtype == "float32" and size >= _WIDE and (length <= _TALL or not is_transposed):
        columns = rewriter.reshaped(source, shape_of(source)[-2:])
        if is_transposed:
            columns = rewriter.call("transpose", [columns], (size, length))
        return _layer(rewriter, columns, columns, node.shapes[0])
    is_half = length >= _LONG.get(dtype, 0) or size_of((node, 0)) < _SMALL_MATRIX
    operator = "_linalg_syrk" if is_half else "_linalg_gemm2"
    if operator == node.operator:
        return None
    if is_half:
        attributes = {"transpose": is_transposed, "alpha": alpha}
        return rewriter.call(operator, [source], node.shapes[0], attributes)
    attributes = {"transpose_a": is_transposed, "transpose_b": not is_transposed, "alpha": alpha}
    return rewriter.call(operator, [source, source], node.shapes[0], attributes)


def _transposed_in_square(node):
    """Whether the first of two equal factors is transposed; None if the node is not a product of such."""
    if node.operator == "_linalg_syrk":
        return _is_transposed(node)
    if node.operator != "_linalg_gemm2" or not _is_square(*node.inputs) or "axis" in node.attributes:
        return None
    first, second = (node.attributes.get(name, "False") in _TRUE for name in ("transpose_a", "transpose_b"))
    return None if first == second else first


def _is_transposed(node):
    return node.attributes.get("transpose", "False") in _TRUE


def _is_square(left, right):
    return left[0] is right[0] and left[1] == right[1]


def _large(rewriter, node):
    """A B^T of large matrices."""
    if node.operator != "_linalg_gemm2" or dtype_of((node, 0)) != "float32" or not _is_plain(node.attributes):
        return None
    rows, columns = node.inputs
    features, units = shape_of(rows)[-1], shape_of((node, 0))[-1]
    if size_of(columns) != units * features or size_of((node, 0)) * features < _LARGE_LAYER:
        return None
    return _layer(rewriter, rows, rewriter.reshaped(columns, (units, features)), node.shapes[0])


def _is_plain(attributes):
    is_product = attributes.get("transpose_b", "False") in _TRUE and attributes.get("transpose_a", "False") not in _TRUE
    return is_product and float(attributes.get("alpha", "1.0")) == 1 and "axis" not in attributes


def _layer(rewriter, rows, weight, shape):
    units, features = shape_of(weight)
    rows = rewriter.reshaped(rows, (size_of(rows) // features, features))
    attributes = {"no_bias": True, "num_hidden": units, "flatten": False}
    product = rewriter.call("FullyConnected", [rows, weight], (shape_of(rows)[0], units), attributes)
    return rewriter.reshaped(product, shape)


def constant_factor(rewriter, node):
    """
    A rule: a small triangular system is a product with the inverse, if that is a constant.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param node: the node that is to be made.
    :returns: an entry, or None.
    """
    if node.operator not in ("_linalg_trsm", "_linalg_trmm") or not is_operator(node.inputs[0], CONSTANT):
        return None
    factor, rows = node.inputs
    size = shape_of(rows)[-1]
    is_small = size_of(factor) == size**2 and size_of(rows) * size <= _SMALL_SYSTEM
    if not is_small or node.attributes.get("rightside") not in _TRUE or node.attributes.get("lower", "1") not in _TRUE:
        return None
    matrix = factor[0].array.reshape((size, size)).astype("float64")
    matrix = _inverse(matrix) if node.operator == "_linalg_trsm" else np.tril(matrix.asnumpy())
    matrix = float(node.attributes.get("alpha", "1.0")) * (matrix.T if _is_transposed(node) else matrix)
    if not np.isfinite(matrix).all():
        return None
    if size == 1:
        return rewriter.call("_mul_scalar", [rows], node.shapes[0], {"scalar": repr(float(matrix[0, 0]))})
    matrix = rewriter.constant(np.ascontiguousarray(matrix, dtype_of(rows)), dtype_of(rows))
    flat = rewriter.reshaped(rows, (size_of(rows) // size, size))
    return rewriter.reshaped(rewriter.call("dot", [flat, matrix], shape_of(flat)), node.shapes[0])


def _inverse(factor):
    """
    X with X L = I, row by row by substitution.

    For such an inverse X r is as near to L^-1 r as what substitution gives, but not for one with L X = I (Higham,
    Accuracy and Stability of Numerical Algorithms, section 14.2).
    """
    with autograd.pause():
        identity = mx.nd.eye(len(factor), dtype="float64", ctx=factor.context)
        return mx.nd.linalg.trsm(factor, identity, rightside=True).asnumpy()


def row(rewriter, node):
    """
    A rule: a row times a matrix is a vector times it.

    :param rewriter: :class:`~mxfusion_mvn.inference.compiler.rewriter.Rewriter`.
    :param node: the node that is to be made.
    :returns: an entry, or None.
    """
    if node.operator != "dot" or shape_of(node.inputs[0])[:-1] != (1,) or node.attributes.get("transpose_a") in _TRUE:
        return None
    left, matrix = node.inputs
    if node.attributes.get("transpose_b") in _TRUE:
        if not is_operator(matrix, CONSTANT):
            return None
        matrix = rewriter.constant(np.ascontiguousarray(matrix[0].array.asnumpy().T), dtype_of(matrix))
    vector = rewriter.reshaped(left, shape_of(left)[1:])
    return rewriter.reshaped(rewriter.call("dot", [vector, matrix], node.shapes[0][1:]), node.shapes[0])


PRODUCTS = (_dense, _square, _large)
