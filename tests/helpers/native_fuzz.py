# SPDX-License-Identifier: Apache-2.0
"""Random graphs, with their gradients, in the native engine.

    PYTHONPATH=tests python -m helpers.native_fuzz --graphs 2000

Loss and gradients are held against MXNet's evaluation of the same graph in float64. What may be between them is what
MXNet's own evaluation in the type of the graph has between, times ten, and some units of the last digit.
"""

import argparse
import math
import sys
import traceback
from collections import Counter
from typing import NamedTuple

from mxfusion_mvn.compiler.graph import PARAMETER, leaf
from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.native.views import Unknown
from mxfusion_mvn.compiler.passes import passes
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.compiler.tracing import tracing

import mxnet as mx
import numpy as np
from mxnet import autograd

from helpers.host import nd
from helpers.native_graphs import exact

F, L = mx.nd, mx.nd.linalg
SIZES = [1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33]
LARGEST = 3000
CALLS = 14


class Value(NamedTuple):
    """An array of a graph, and whether it only holds entries of leaves, of which every type has the same."""

    array: object
    is_moved: bool


# Functions that have no edges, and whose values stay of the order of one.
SMOOTH = [
    F.sin, F.cos, F.tanh, F.sigmoid, F.arctan, F.softsign, F.erf, F.negative,
    lambda x: F.exp(F.tanh(x)),
    lambda x: F.expm1(F.sin(x)),
    lambda x: F.log(x.square() + 1.2),
    lambda x: F.log1p(x.square()) - x * 0.5,
    lambda x: F.sqrt(x.square() + 0.5),
    lambda x: F.rsqrt(x.square() + 0.5),
    lambda x: F.reciprocal(x.square() + 1),
    lambda x: F.gammaln(F.sigmoid(x) + 0.5),
    lambda x: F.Activation(x, act_type="softrelu"),
    lambda x: (F.sigmoid(x) + 0.2) ** 1.7,
    lambda x: 1.3 ** F.tanh(x),
    lambda x: 2.5 - x / 3,
    lambda x: 0.7 / (x.square() + 1) - 0.1,
]  # fmt: skip
# These have edges, so that they are applied to leaves only.
WITH_EDGES = [
    F.relu, F.abs, F.sign, F.floor, F.ceil,
    lambda x: F.clip(x, -0.5, 0.7),
    lambda x: F.maximum(x, 0.25),
    lambda x: F.minimum(x, 0.25) * (x > 0.1),
    lambda x: F.where(x > 0, x, x * 0.1) + (x <= -0.5) - (x == 0.3),
]  # fmt: skip
TWO = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: F.broadcast_mul(x, y) * 0.5,
    lambda x, y: F.broadcast_div(x, y.square() + 1),
    lambda x, y: F.broadcast_power(F.sigmoid(x) + 0.3, F.tanh(y)),
]


def reshaped(rng, x):
    sizes = [int(n) for n in rng.permutation([n for n in x.shape if n > 1])]
    if len(sizes) > 1 and rng.integers(2):
        sizes = [sizes[0] * sizes[1], *sizes[2:]]
    return x.reshape(tuple(sizes[:1] + [1] * int(rng.integers(2)) + sizes[1:]) or (1,))


def moved(rng, x):
    """The same entries, some of them or some of them several times, elsewhere."""
    axis = int(rng.integers(x.ndim))
    n = x.shape[axis]
    kind = rng.integers(12)
    if kind == 0:
        return F.transpose(x, axes=tuple(int(i) for i in rng.permutation(x.ndim)))
    if kind == 1:
        return x.swapaxes(axis, int(rng.integers(x.ndim)))
    if kind in (2, 3):
        return reshaped(rng, x)
    if kind == 4 and n > 1:
        begin = int(rng.integers(n - 1))
        return F.slice_axis(x, axis=axis, begin=begin, end=int(rng.integers(begin + 1, n + 1)))
    if kind == 5 and n % 2 == 0:
        first, second = F.split(x, num_outputs=2, axis=axis)
        return first - 0.5 * second
    if kind == 6:
        return F.concat(x, x * 2, dim=axis)
    if kind == 7:
        return F.stack(x, x.square(), axis=axis)
    if kind == 8:
        return without_gradient(rng, F.BlockGrad(x), axis)
    if kind == 9:
        return F.slice(x, begin=(0,) * x.ndim, end=x.shape, step=tuple(int(rng.integers(1, 3)) for _ in x.shape))
    if kind == 10:
        return x.expand_dims(int(rng.integers(x.ndim + 1)))
    return x.broadcast_to(tuple(m if m > 1 else int(rng.choice([1, 2, 5])) for m in x.shape))


def without_gradient(rng, x, axis):
    """What has no adjoint."""
    kind, n = rng.integers(4), x.shape[axis]
    if kind == 0:
        return F.reverse(x, axis=axis)
    if kind == 1:
        return F.repeat(x, axis=axis, repeats=2)
    if kind == 2:
        return F.take(x, F.array(rng.integers(n, size=3)), axis=axis)
    return F.max(x, axis=axis, keepdims=bool(rng.integers(2)))


def reduced(rng, x):
    axes = tuple(int(i) for i in rng.permutation(x.ndim)[: 1 + rng.integers(x.ndim)])
    flags = {
        "axis": axes,
        "keepdims": bool(rng.integers(2)),
        "exclude": bool(rng.integers(4) == 0 and len(axes) < x.ndim),
    }
    y = x if rng.integers(2) else x * x if rng.integers(2) else x * F.cos(x)
    return F.mean(y, **flags) if rng.integers(2) else F.sum(y, **flags) / math.sqrt(x.size)


def entries(rng, x, count):
    """Some of the entries of an array, or one of them times several constants."""
    if count <= x.size:
        return F.slice_axis(x.reshape((-1,)), axis=0, begin=0, end=count)
    return F.broadcast_mul(F.slice_axis(x.reshape((-1,)), axis=0, begin=0, end=1), nd(rng.normal(size=count), x.dtype))


def with_rows(rng, x, columns):
    """A matrix of as many columns, or a batch, made of the entries of an array."""
    rows = max(1, min(20, x.size // columns))
    picked = entries(rng, x, rows * columns)
    if rows % 2 == 0 and rng.integers(3) == 0:
        return picked.reshape((2, rows // 2, columns))
    return picked.reshape((rows, columns))


def multiplied(rng, x, y):
    k = int(rng.choice(SIZES))
    a, b = with_rows(rng, x, k), with_rows(rng, y, k)
    scale = 1 / math.sqrt(k)
    if a.ndim == 2 and b.ndim == 2:
        kind = rng.integers(4)
        if kind == 0:
            return F.dot(a, b, transpose_b=True) * scale
        if kind == 1:
            return F.FullyConnected(a, b, b[:, 0], num_hidden=b.shape[0], no_bias=False) * scale
        if kind == 2:
            return L.syrk(a, transpose=bool(rng.integers(2)), alpha=scale)
        return L.gemm2(a, b.T, alpha=scale)
    if a.ndim == 3 and b.ndim == 3:
        kind = rng.integers(3)
        if kind == 0:
            return F.batch_dot(a, b, transpose_b=True) * scale
        if kind == 1 and a.shape == b.shape:
            return L.gemm2(a, b, transpose_a=True, alpha=scale)
    one, other = (c if c.ndim == 3 else c.expand_dims(0).broadcast_to((2, *c.shape)) for c in (a, b))
    return L.gemm2(one, other, transpose_b=True, alpha=scale)


def positive_definite(rng, x):
    """A matrix of each batch of entries, far from singular."""
    d = int(rng.choice(SIZES))
    rows = with_rows(rng, x, d)
    square = L.syrk(F.tanh(rows), transpose=True, alpha=1 / rows.shape[-2])
    eye = nd(np.broadcast_to(np.eye(d), square.shape), x.dtype)
    if rng.integers(3) == 0 and square.ndim == 2:
        count = int(rng.choice([2, 3, 9, 17]))
        square = F.broadcast_mul(square.expand_dims(0), nd(1 + np.arange(count).reshape((-1, 1, 1)) / count, x.dtype))
        eye = nd(np.broadcast_to(np.eye(d), square.shape), x.dtype)
    return square + eye


def solved(rng, x, y):
    factor = L.potrf(positive_definite(rng, x))
    d, batch = factor.shape[-1], factor.shape[:-2]
    kind = rng.integers(6)
    if kind == 0:
        return L.sumlogdiag(factor).reshape((-1,))
    if kind == 1:
        return L.extractdiag(factor)
    if kind == 2:
        return L.maketrian(L.extracttrian(factor) * 0.5)
    columns = int(rng.choice([1, 2, 5]))
    other = entries(rng, y, d * columns).reshape((d, columns))
    is_right, is_transposed = bool(rng.integers(2)), bool(rng.integers(2))
    other = other.T if is_right else other
    other = other.reshape((1,) * len(batch) + other.shape).broadcast_to((*batch, *other.shape))
    operator = L.trsm if kind > 3 else L.trmm
    return operator(factor, other, transpose=is_transposed, rightside=is_right, alpha=float(rng.choice([1.0, -0.5])))


def fits(one, other):
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other)))


def grown(rng, pool, draws):
    """A value computed from others of a pool."""
    x = pool[rng.integers(len(pool))]
    kind = rng.integers(20)
    if kind < 5:
        return Value(SMOOTH[rng.integers(len(SMOOTH))](x.array), False)
    if kind < 6:
        moves = [value for value in pool if value.is_moved]
        x = moves[rng.integers(len(moves))]
        return Value(WITH_EDGES[rng.integers(len(WITH_EDGES))](x.array), False)
    if kind < 10:
        others = [value for value in pool if fits(x.array.shape, value.array.shape)]
        y = others[rng.integers(len(others))]
        a, b = (x.array, y.array) if rng.integers(2) else (y.array, x.array)
        while a.ndim != b.ndim:
            a, b = (a.expand_dims(0), b) if a.ndim < b.ndim else (a, b.expand_dims(0))
        function = TWO[rng.integers(len(TWO))]
        return Value(function(a, b), False)
    if kind < 14:
        found = moved(rng, x.array)
        return Value(found, False)
    if kind < 15 and draws:
        return Value(x.array + mx.nd.random.normal(0.1, 0.5, shape=x.array.shape, dtype=x.array.dtype), False)
    if kind < 17:
        return Value(reduced(rng, x.array), False)
    y = pool[rng.integers(len(pool))]
    return Value((multiplied if kind < 18 else solved)(rng, x.array, y.array), False)


def loss_of(rng, arrays, constants, calls=CALLS):
    """A sum that depends on each of the last values of a pool, entry by entry."""
    pool = [Value(array, True) for array in (*arrays, *constants)]
    for _ in range(calls):
        value = grown(rng, pool, draws=True)
        if value.array.size <= LARGEST and value.array.ndim <= 4:
            pool.append(value)
    loss = F.zeros((1,), dtype=arrays[0].dtype)
    for value in [*pool[-5:], *pool[: len(arrays)]]:
        weights = nd(rng.normal(size=value.array.shape), value.array.dtype)
        loss = loss + F.sum(F.sin(value.array) * weights).reshape((1,))
    return loss


def made(seed, dtype):
    """
    A random graph.

    :returns: the graph after the pass `absorbed`, None if MXNet finds its gradients, and its parameters.
    """
    rng = np.random.default_rng(seed)
    mx.random.seed(seed % 2**31)

    def array(most):
        shape = tuple(int(n) for n in rng.choice(SIZES, size=1 + rng.integers(3)))
        shape = shape if math.prod(shape) <= most else shape[:1]
        return nd(np.round(rng.normal(size=shape), 3).astype("float32"), dtype)

    parameters = {f"p{i}": array(1000) for i in range(1 + rng.integers(3))}
    constants = [array(1000) for _ in range(2)]
    leaves = [leaf(PARAMETER, array, name) for name, array in parameters.items()]
    with autograd.record(), tracing(leaves) as trace:
        loss = loss_of(rng, list(parameters.values()), constants)
    # Not by autograd, too: some of its backward operators end the process on small arrays.
    return dict(passes(trace.graph(loss, loss))).get("absorbed"), parameters


def evaluated(kind, graph, parameters):
    gradients = {name: mx.nd.zeros_like(array) for name, array in parameters.items()}
    program = kind(graph, parameters, gradients, mx.cpu(), fixed_noise=True)
    program.run()
    program.deliver()
    return [program.loss.asnumpy(), *(gradients[name].asnumpy() for name in graph.results)]


def check(seed, dtype):
    """
    Hold the engine against MXNet on one graph.

    :returns: "right", or a text that says what is wrong or why it was left out.
    """
    graph, parameters = made(seed, dtype)
    if graph is None:
        return "left out: MXNet finds the gradients"
    try:
        got = evaluated(NativeProgram, graph, parameters)
    except Unknown as reason:
        return f"left out: {reason}"
    values = exact(graph.nodes)
    for entry, mine, mxnets in zip([graph.loss, *graph.results.values()], got, evaluated(Program, graph, parameters)):
        wanted = values[entry].asnumpy().reshape(mine.shape)
        if not np.isfinite(wanted).all():
            return "left out: infinite"
        scale = max(1.0, np.abs(wanted).max())
        between = np.abs(mxnets.reshape(mine.shape) - wanted).max()
        if dtype == "float64":
            between = 1e-11 * scale  # what is exact is MXNet's own
        error = np.abs(mine - wanted).max()
        if not error <= 10 * between + 300 * np.finfo(dtype).eps * scale:
            return f"wrong: {error / scale:.1e} of {scale:.1e}, MXNet {between / scale:.1e}"
    return "right"


def main():
    """Check many graphs and say how many are right."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found, failures = Counter(), 0
    for seed in range(arguments.seed, arguments.seed + arguments.graphs):
        for dtype in ("float32", "float64"):
            try:
                outcome = check(seed, dtype)
            except Exception:
                outcome = f"failed: {traceback.format_exc(limit=-3)}"
            found[outcome.split(":")[0] if not outcome.startswith("left") else outcome] += 1
            if outcome.startswith(("wrong", "failed")):
                failures += 1
                print(seed, dtype, outcome, flush=True)
    print(*(f"{count:6d} {outcome}" for outcome, count in found.most_common()), sep="\n")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
