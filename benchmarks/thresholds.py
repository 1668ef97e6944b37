# SPDX-License-Identifier: Apache-2.0
"""From which size on one form of a computation is faster than another, beside what the compiler assumes.

Each form is computed many times in a program of its own; the two programs are timed in turns, and the medians compared.
Prints a table; what it says is to be written into ``mxfusion_mvn/compiler/thresholds.py`` by hand.
"""

import functools
import itertools
import os
import statistics
import time
from typing import Callable, NamedTuple

from mxfusion_mvn.compiler import thresholds
from mxfusion_mvn.compiler.symbols import call

import mxnet as mx

ROUNDS, RUNS, COPIES = 15, 5, 50


_NUMBERS = itertools.count()
_variable = functools.lru_cache(maxsize=None)(mx.sym.var)


class Case(NamedTuple):
    """A threshold, the sizes to look at, and the Symbols of two forms from a function of a size."""

    name: str
    assumed: float
    sizes: tuple
    forms: Callable  # of a size: (inputs by name, shapes), the slower form for large sizes, the faster


def label():
    """A name that no other node has."""
    return f"node{next(_NUMBERS)}"


def _sum(size):
    x, ones = _variable("x"), _variable("ones")
    return {"x": (size,), "ones": (size,)}, call("sum", [x], {}, label()), call("dot", [x, ones], {}, label())


def _broadcast(size):
    x, ones = _variable("x"), _variable("ones")
    rows = size // 4
    plain = call("broadcast_to", [x], {"shape": f"({rows}, 4)"}, label())
    return {"x": (1, 4), "ones": (rows, 1)}, plain, call("dot", [ones, x], {}, label())


def _layer(size):
    x, weight, bias = (_variable(name) for name in ("x", "weight", "bias"))
    rows = max(1, size // 32**2)
    shapes = {"x": (rows, 32), "weight": (32, 32), "bias": (1, 32)}
    product = call("dot", [x, weight], {"transpose_b": "True"}, label())
    flat = call("Reshape", [bias], {"shape": "(32,)"}, label())
    layer = call("FullyConnected", [x, weight, flat], {"num_hidden": "32", "flatten": "False"}, label())
    return shapes, call("broadcast_add", [product, bias], {}, label()), layer


def _square(size):
    x = _variable("x")
    syrk = call("_linalg_syrk", [x], {"transpose": "True"}, label())
    product = call("_linalg_gemm2", [x, x], {"transpose_a": "True"}, label())
    return {"x": (1, size, 64)}, product, syrk


CASES = [
    Case("DOT_TO_SUM: sum by a dot product, entries", thresholds.DOT_TO_SUM, (16, 32, 64, 128, 256, 1024), _sum),
    Case(
        "DOT_TO_BROADCAST: broadcast by a dot product, entries",
        thresholds.DOT_TO_BROADCAST,
        (32, 64, 128, 256, 1024),
        _broadcast,
    ),
    Case(
        "DENSE_FROM: a dense layer by MKLDNN, multiplications",
        thresholds.DENSE_FROM,
        (4096, 16384, 65536, 262144, 1048576),
        _layer,
    ),
    Case(
        "LONG_SUMS: A^T A as a symmetric product, rows",
        thresholds.LONG_SUMS["float32"],
        (125, 250, 500, 1000, 2000, 4000),
        _square,
    ),
]


def ratio(case, size):
    """How many times as long the first form takes as the second, a median over rounds in turns."""
    copies = [case.forms(size) for _ in range(COPIES)]
    shapes, executors = copies[0][0], []
    for symbol in (mx.sym.Group([copy[form] for copy in copies]) for form in (1, 2)):
        names = symbol.list_arguments()
        arrays = {name: mx.nd.random.normal(shape=shapes[name]) for name in names}
        executors.append(symbol.bind(mx.cpu(), arrays, grad_req="null"))
    ratios = []
    for _ in range(ROUNDS):
        seconds = [_seconds(executor) for executor in executors]
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _seconds(executor):
    mx.nd.waitall()
    start = time.perf_counter()
    for _ in range(RUNS):
        executor.forward(is_train=False)
    mx.nd.waitall()
    return time.perf_counter() - start


def main():
    """Print for each threshold the ratios by size; above 1 the second form is faster."""
    os.environ["MXNET_SUBGRAPH_BACKEND"] = "default"  # as compiled programs are bound
    os.environ["MXNET_SUBGRAPH_VERBOSE"] = "0"
    os.environ["MXNET_EXEC_BULK_EXEC_MAX_NODE_INFERENCE"] = "1000"
    for case in CASES:
        print(f"{case.name}; assumed from {case.assumed:g} on")
        print("  " + "  ".join(f"{size}: {ratio(case, size):.2f}" for size in case.sizes))


if __name__ == "__main__":
    main()
