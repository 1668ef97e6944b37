# SPDX-License-Identifier: Apache-2.0
"""THE table of expressions whose gradients the compiler derives, and the arrays that they are of.

An operator with an adjoint is in one of them.
"""

import mxnet as mx
import numpy as np

from helpers.host import nd

F, internal, la = mx.nd, mx.nd._internal, mx.nd.linalg

POSITIVE = "log log1p log2 log10 square rsqrt rcbrt reciprocal gammaln gamma sqrt cbrt arcsin tan negative".split()
ANY = "abs expm1 sin cos sinh arctan softsign erf tanh sigmoid relu exp".split()
STEPS = "sign floor ceil round logical_not ones_like zeros_like".split()
COMPARISONS = [f"broadcast_{name}" for name in "greater lesser greater_equal lesser_equal equal not_equal".split()]
OF_TWO = [f"broadcast_{name}" for name in "add sub mul div power maximum minimum".split()]
EQUAL = {f: getattr(F, f"elemwise{f[9:]}", None) or getattr(internal, f[9:]) for f in COMPARISONS + OF_TWO}
AXES = [0, 1, -1, (0, 2), (1, 2), (0, 1)]
# What is taken: some entries several times, some never, some from outside; in two axes; each once; one only.
TAKEN = [[1, 0, 1, 1, -3, 9], [[1, 0, 1], [0, 0, 1]], [1, 0], [0]]
FLAGS = [(False, False), (False, True), (True, False), (True, True)]


def _each(label, names, case):
    return {f"{label} {name}": case(name) for name in names}


def _turned(matrix, is_turned):
    return matrix.swapaxes(-1, -2) if is_turned else matrix


def _taken(array, axis, dtype="int32"):
    """Entries along an axis, by positions of a type."""
    kinds = [(positions, mode) for positions in TAKEN for mode in ("clip", "wrap")]
    return [F.take(array.sin(), nd(positions, dtype), axis=axis, mode=mode) for positions, mode in kinds]


def _picked(array, axis, **attributes):
    """One entry of each line along an axis, some by positions from outside."""
    lines = np.delete(array.shape, axis)
    positions = np.arange(np.prod(lines)).reshape(lines) % 7 - 2
    kinds = [(dtype, mode) for dtype in ("float32", "int32") for mode in ("clip", "wrap")]
    return [F.pick(array.sin(), nd(positions, dtype), axis=axis, mode=mode, **attributes) for dtype, mode in kinds]


# Expressions, or lists of them, of the arrays that ``arguments`` makes.
CASES = {
    **_each("function", POSITIVE, lambda name: lambda p: getattr(F, name)(p.u)),
    **_each("function", ANY, lambda f: lambda p: [getattr(F, f)(p.x), getattr(F, f)(p.row.broadcast_to(p.x.shape))]),
    **_each("step", STEPS, lambda name: lambda p: getattr(F, name)(p.x * 3) * p.y),
    **_each("activation", ["softrelu", "tanh", "sigmoid", "relu"], lambda kind: lambda p: F.Activation(p.x, kind)),
    "clip": lambda p: p.x.clip(-0.5, 0.7),
    "numbers": lambda p: [2 / p.u, 2**p.x, p.u**1.5, p.y**-1, F.maximum(p.x, 0.1), F.minimum(p.y, 0.1)],
    "linear": lambda p: 3 - ((p.x * 2 + 1) / 4 - 2) * -1 + F.smooth_l1(p.x, scalar=1.5),
    **_each("compare number", COMPARISONS, lambda f: lambda p: getattr(internal, f"{f[9:]}_scalar")(p.x, 0.1) * p.y),
    **_each("compare", COMPARISONS, lambda f: lambda p: [getattr(F, f)(p.u, p.row) * p.y, EQUAL[f](p.x, p.y) * p.y]),
    **_each("equal", OF_TWO, lambda f: lambda p: [EQUAL[f](p.u, p.z), EQUAL[f](p.z, p.z), EQUAL[f](p.z, p.c)]),
    **_each("row", OF_TWO, lambda f: lambda p: [getattr(F, f)(p.u, p.row), getattr(F, f)(p.row, p.u)]),
    **_each("outer", OF_TWO, lambda f: lambda p: [getattr(F, f)(p.row, p.column), getattr(F, f)(p.c, p.row)]),
    **_each("number", OF_TWO, lambda f: lambda p: [getattr(F, f)(p.u, p.number), getattr(F, f)(p.each, p.u)]),
    **_each("fewer axes", OF_TWO, lambda name: lambda p: getattr(F, name)(p.u, p.v.square() + 0.1)),
    "add_n": lambda p: F.add_n(p.x, p.y, p.x, p.x * p.y, p.c) + internal._copy(p.y * 2),
    "where": lambda p: [F.where(p.mask, p.x, p.y.square()), F.where(p.x > p.row, p.x * p.y, F.zeros_like(p.u))],
    "where of broadcast": lambda p: F.where(p.mask, p.row.broadcast_to(p.x.shape), p.number.broadcast_to(p.x.shape)),
    "cast": lambda p: p.x.astype("float64").sin().astype("float32").astype(p.x.dtype) + p.x * 0.5,
    "reshape": lambda p: p.x.sin().reshape((-1, p.x.shape[1])).cos().expand_dims(1).sin(),
    "reshape_like": lambda p: F.reshape_like(p.x, p.x.swapaxes(0, 2)) + F.reshape_like(p.y.sin(), p.c.swapaxes(0, 2)),
    **_each("transpose", [(2, 0, 1), (1, 2, 0), (0, 2, 1), ()], lambda axes: lambda p: p.x.sin().transpose(axes)),
    "broadcast": lambda p: F.broadcast_like(p.each.sin(), p.x) * p.column.sin().broadcast_to(p.x.shape),
    "broadcast with more axes": lambda p: p.v.sin().broadcast_to(p.x.shape).square() - p.x,
    **_each("sum", AXES, lambda k: lambda p: [F.sum(p.x.sin(), axis=k).square(), F.mean(p.y.sin(), axis=k).square()]),
    **_each("sum kept", AXES, lambda axis: lambda p: F.broadcast_mul(p.x, F.sum(p.x.sin(), axis=axis, keepdims=True))),
    "sum of all others": lambda p: F.sum(p.x.sin(), axis=1, exclude=True).square() * F.mean(p.y, axis=-2, exclude=True),
    "sliced": lambda p: [p.x[:, :, :3] * p.x[:, :, 1:4], p.y[:, 1:3, 1:].sin(), p.u[0].sin() * p.u[-1]],
    "sliced from the end": lambda p: F.slice(p.x, begin=(None, -2, -3), end=(None, None, -1), step=(None, 1, 1)).sin(),
    "sliced from before the beginning": lambda p: F.slice(p.x, begin=(-9, None), end=(1, 2)).sin(),
    **_each("sliced along", [0, 1, -1], lambda axis: lambda p: F.slice_axis(p.x, axis=axis, begin=-1, end=None).sin()),
    **_each("join", [0, 1, -1], lambda k: lambda p: [F.concat(p.x, p.y, dim=k), F.split(p.u, p.u.shape[k], k)[-1] * 2]),
    "concat of different sizes": lambda p: F.concat(p.x[:, :, :1], p.y, p.y[:, :, 1:3], dim=2),
    "concat without axis": lambda p: (F.concat(p.x, p.y.sin()) + F.concat(p.y, p.x)).square(),
    **_each("stack", [0, 1, 3, -1, -2], lambda axis: lambda p: F.stack(p.x, p.y.sin(), p.x, axis=axis).square()),
    "split in all": lambda p: F.add_n(*[part.sin() * i for i, part in enumerate(F.split(p.x, p.x.shape[1]))]),
    "split in one": lambda p: [F.split(p.x.sin(), 1), F.concat(p.y.sin(), dim=0)],
    **_each("take", [0, 1, 2, -1, -2], lambda axis: lambda p: _taken(p.x, axis)),
    "take by floats": lambda p: _taken(p.y, 1, "float32") + _taken(p.v, 0, "float64"),
    "take of all": lambda p: F.take(p.x.sin(), nd(np.arange(p.x.shape[1])[::-1], "int32"), axis=1),
    "take of a row": lambda p: F.take(p.row.sin(), nd(TAKEN[1], "int32"), axis=2).square() + p.number,
    **_each("pick", [0, 1, -1], lambda axis: lambda p: _picked(p.x, axis)),
    "pick kept": lambda p: _picked(p.y, -2, keepdims=True),
    **_each("prod", AXES, lambda k: lambda p: [F.prod(p.u, axis=k), F.prod(p.z.sin(), axis=k, keepdims=True)]),
    "prod of others": lambda p: [F.prod(p.u), F.prod(p.row), F.prod(p.u, axis=(0, -1), exclude=True), F.prod(p.each)],
    **_each("norm", [0, 1, -1, (0, 2), None], lambda k: lambda p: [F.norm(p.x, ord=i, axis=k) for i in (1, 2)]),
    "norm kept": lambda p: [F.norm(p.y, axis=axis, keepdims=True) for axis in (1, (0, 1))] + [F.norm(p.v)],
    **_each("softmax", [0, 1, -1], lambda k: lambda p: [F.softmax(p.x, axis=k), F.log_softmax(3 * p.y, axis=k)]),
    "softmax of one": lambda p: [F.softmax(p.each), F.log_softmax(p.number), F.softmax(p.v, temperature=1.0)],
    "loop": lambda p: F.stack(*[p.x[i].sin() * (i + 1) for i in range(len(p.x))], axis=1),
}
MATRIX_CASES = {
    **_each("gemm2", FLAGS, lambda f: lambda p: la.gemm2(_turned(p.x, f[0]), _turned(p.y, not f[1]), *f, alpha=1.5)),
    **_each("gemm2 of one", FLAGS, lambda f: lambda p: la.gemm2(_turned(p.x[0], f[0]), _turned(p.w, not f[1]), *f)),
    "gemm2 of others": lambda p: [la.gemm2(p.x.expand_dims(0), p.y.expand_dims(0), True), la.gemm2(p.factor, p.factor)],
    "gemm2 of 1": lambda p: [la.gemm2(p.x[i], p.y[i], False, True, alpha=-2) for i in (np.s_[:, :, :1], np.s_[:, :1])],
    **_each("batch_dot", FLAGS, lambda f: lambda p: F.batch_dot(_turned(p.x, f[0]), _turned(p.y, not f[1]), *f)),
    **_each("dot", FLAGS, lambda f: lambda p: F.dot(_turned(p.x[0], f[0]), _turned(p.w, not f[1]), *f)),
    "dot of other axes": lambda p: [F.dot(a, _turned(p.w, not b), False, b) for a in (p.x, p.v) for b in (0, 1)],
    "dot of vector": lambda p: [F.dot(p.x[0], p.v) * F.dot(p.y[0].T, p.v, True), F.dot(p.v, p.row.reshape((-1,)))],
    "dot of row": lambda p: F.dot(p.x[0][:1], p.w.T) * F.dot(p.x[0][:1], p.v),
    "syrk": lambda p: [la.syrk(p.x, alpha=0.5), la.syrk(p.x, transpose=True, alpha=-2.0), la.syrk(p.w)],
    "syrk of few columns": lambda p: la.syrk(p.x[:, :, :3], alpha=0.5),
    "potrf": lambda p: [la.potrf(la.syrk(matrix)) for matrix in (p.factor, p.factor[0], p.factor.expand_dims(1))],
    **_each("trsm", FLAGS, lambda f: lambda p: la.trsm(p.factor, _turned(p.x, not f[1]), *f, alpha=-0.5)),
    **_each("trsm of one", FLAGS, lambda f: lambda p: la.trsm(p.factor[0], _turned(p.w, not f[1]), *f)),
    **_each("trsm of constant", FLAGS, lambda f: lambda p: la.trsm(p.fixed, _turned(p.x, not f[1]), *f, alpha=2.0)),
    **_each("trmm", FLAGS, lambda f: lambda p: la.trmm(p.factor, _turned(p.x, not f[1]), *f, alpha=-0.5)),
    **_each("trmm of constant", FLAGS, lambda f: lambda p: la.trmm(p.fixed, _turned(p.x, not f[1]), *f)),
    "sumlogdiag": lambda p: [la.sumlogdiag(matrix) for matrix in (p.factor, p.factor[0], la.potrf(la.syrk(p.factor)))],
    **_each("diagonal", [-1, 0, 2], lambda k: lambda p: [la.extractdiag(p.factor.sin(), k), la.makediag(p.x.sin(), k)]),
    **_each("triangle", [-1, 0, 1], lambda k: lambda p: [la.extracttrian(p.factor, k), la.maketrian(p.x[:, :, :3], k)]),
    "upper": lambda p: [la.extracttrian(p.factor, lower=False), la.maketrian(p.x[:, :, :3], lower=False)],
    "dense": lambda p: F.FullyConnected(p.x, p.w, p.b, num_hidden=5, flatten=False),
    "dense without bias": lambda p: F.FullyConnected(p.x, p.w, num_hidden=5, no_bias=True, flatten=False),
    "dense of flat": lambda p: [F.FullyConnected(a, w, p.b, num_hidden=5) for a, w in ((p.x, p.wide), (p.x[0], p.w))],
    "dense of flat without bias": lambda p: F.FullyConnected(p.x, p.wide, num_hidden=5, no_bias=True),
}
SHAPES = [(2, 3, 4), (3, 20, 10), (1, 6, 16)]
ALL = [(name, shape) for name in (*CASES, *MATRIX_CASES) for shape in SHAPES[: 3 if name in MATRIX_CASES else 2]]
CASES = {**CASES, **MATRIX_CASES}


def arguments(rng, shape, dtype):
    """Parameters, and constants: of a shape (S, N, D), of what can be broadcast to it, and matrices (S, D, D)."""
    samples, rows, columns = shape
    normal = {"x": shape, "y": shape, "v": columns, "w": (5, columns), "b": 5, "wide": (5, rows * columns)}
    positive = {"u": shape, "z": shape, "row": (1, 1, columns), "column": (1, rows, 1), "number": (1, 1, 1)}
    positive["each"] = (samples, 1, 1)
    factors = 0.1 * rng.normal(size=(2, samples, columns, columns)) + 2 * np.eye(columns)
    parameters = {name: rng.normal(size=size) for name, size in normal.items()}
    parameters.update({name: rng.uniform(0.2, 0.8, size=size) for name, size in positive.items()}, factor=factors[0])
    constants = {"c": rng.uniform(0.2, 0.8, size=shape), "mask": rng.integers(2, size=shape), "fixed": factors[1]}
    return [{name: nd(array, dtype) for name, array in group.items()} for group in (parameters, constants)]
