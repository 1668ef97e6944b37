# SPDX-License-Identifier: Apache-2.0
"""THE table of large products of matrices, and by which operator each is computed."""

from typing import Callable, NamedTuple

import mxnet as mx
import numpy as np

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
