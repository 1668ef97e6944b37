# SPDX-License-Identifier: Apache-2.0
"""Large products of matrices: by which operator they are computed, and that they and their gradients are right."""

from typing import Callable, NamedTuple

from mxfusion_mvn.inference.compiler.program import Program
from mxfusion_mvn.inference.compiler.simplify import simplify

import mxnet as mx
import numpy as np
import pytest
from host import nd
from test_simplify import traced
from tolerances import assert_close

LAYER, GEMM, SYRK = "FullyConnected", "_linalg_gemm2", "_linalg_syrk"
gemm2, syrk = mx.nd.linalg.gemm2, mx.nd.linalg.syrk


class Product(NamedTuple):
    """What is computed of x (K, N, D), in MXNet and in NumPy, and the operator that is to compute it in each dtype."""

    shape: tuple
    compute: Callable
    expected: Callable
    float32: str
    float64: str


def _columns(x):
    return np.swapaxes(x, -1, -2) @ x


def _rows(x):
    return x @ np.swapaxes(x, -1, -2)


PRODUCTS = {
    "wide": Product((1, 300, 260), lambda x: gemm2(x, x, transpose_a=True), _columns, LAYER, GEMM),
    "wide and tall": Product((1, 3200, 256), lambda x: syrk(x, transpose=True), _columns, SYRK, SYRK),
    "long": Product((1, 1200, 40), lambda x: gemm2(x, x, transpose_a=True), _columns, SYRK, SYRK),
    "less long": Product((1, 700, 40), lambda x: syrk(x, transpose=True), _columns, GEMM, SYRK),
    "several": Product((2, 10, 260), lambda x: syrk(x, transpose=True), _columns, GEMM, GEMM),
    "small": Product((3, 50, 4), lambda x: gemm2(x, x, transpose_a=True), _columns, SYRK, SYRK),
    "rows": Product((1, 260, 30), lambda x: syrk(x), _rows, LAYER, GEMM),
    "scaled rows": Product((1, 260, 30), lambda x: syrk(x, alpha=-3), lambda x: -3 * _rows(x), *[GEMM] * 2),
    "two": Product(
        (1, 150, 120),
        lambda x: gemm2(x, 2 + x, transpose_b=True),
        lambda x: x @ np.swapaxes(2 + x, -1, -2),
        LAYER,
        GEMM,
    ),
    "two scaled": Product(
        (1, 150, 120),
        lambda x: gemm2(x, 2 + x, transpose_b=True, alpha=0.5),
        lambda x: x @ np.swapaxes(2 + x, -1, -2) / 2,
        *[GEMM] * 2,
    ),
}
# Of entries that are sums of up to 3200 products.
ROUNDING = {"float32": 3e-5, "float64": 1e-13}


@pytest.mark.parametrize("name", PRODUCTS)
def test_large_product(name, dtype, rng):
    product = PRODUCTS[name]
    x = nd(rng.normal(size=product.shape), dtype)
    expected = product.expected(x.asnumpy().astype("float64"))
    weights = rng.normal(size=expected.shape).astype(dtype)
    loss, graph = traced(lambda: (product.compute(x) * nd(weights, dtype)).sum(), {"x": x})
    graph = simplify(graph)
    assert getattr(product, dtype) in graph.operators()
    gradients = {"x": mx.nd.zeros_like(x)}
    program = Program(graph, {"x": x}, gradients, mx.cpu())
    program.run()
    scale = np.abs(expected * weights).sum()
    assert_close(program.loss / scale, [(expected * weights).sum() / scale], rtol=0, atol=ROUNDING[dtype])
    scale = np.abs(x.grad.asnumpy()).max()
    assert_close(gradients["x"] / scale, x.grad.asnumpy() / scale, rtol=0, atol=ROUNDING[dtype])
