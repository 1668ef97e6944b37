# SPDX-License-Identifier: Apache-2.0
"""How operators that are no formulas become views and instructions of a plan."""

from typing import Callable, Dict

from mxfusion_mvn.compiler.graph import CONSTANT
from mxfusion_mvn.compiler.library import invoke, operator_handle
from mxfusion_mvn.compiler.native.instructions import CAST, MAXIMUM, MOVE, NORMAL, SUM, UNIFORM, Instruction
from mxfusion_mvn.compiler.native.views import Unknown, checked, dense, strides_of
from mxfusion_mvn.compiler.operators import reduced_axes

import mxnet as mx
import numpy as np
from mxnet.ndarray import register

LOWERINGS: Dict[str, Callable] = {}


def lowering(*names):
    """For a function of a plan, a node and the views of its inputs, which returns a view, or one for each output."""

    def register_(function):
        LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register_


@lowering("Reshape", "_np_reshape", "reshape_like", "expand_dims", "squeeze", "Flatten")
def _reshape(plan, node, inputs):
    return plan.reshaped(inputs[0], node.shape)


@lowering("BlockGrad")
def _same(plan, node, inputs):
    return inputs[0]


@lowering("broadcast_to", "broadcast_axis", "broadcast_like")
def _broadcast(plan, node, inputs):
    return inputs[0].broadcast_to(node.shape)


@lowering("transpose")
def _transpose(plan, node, inputs):
    ndim = len(node.shape)
    return inputs[0].transposed([axis % ndim for axis in node["axes"]] or range(ndim)[::-1])


@lowering("SwapAxis")
def _swap_axes(plan, node, inputs):
    axes = list(range(len(node.shape)))
    one, two = node["dim1"], node["dim2"]
    axes[one], axes[two] = axes[two], axes[one]
    return inputs[0].transposed(axes)


@lowering("slice_axis")
def _slice_axis(plan, node, inputs):
    axis = node["axis"] % len(node.shape)
    return inputs[0].part(axis, node["begin"] % inputs[0].shape[axis], node.shape[axis])


@lowering("SliceChannel")
def _split(plan, node, inputs):
    axis = node["axis"] % len(inputs[0].shape)
    width = inputs[0].shape[axis] // len(node.shapes)
    parts = [inputs[0].part(axis, index * width, width) for index in range(len(node.shapes))]
    return [plan.reshaped(part, node.shape) for part in parts]


@lowering("_linalg_extractdiag")
def _diagonal(plan, node, inputs):
    if node["offset"] != 0:
        return _moved(plan, node, inputs)
    view = inputs[0]
    return view._replace(shape=node.shape, strides=(*view.strides[:-2], view.strides[-1] + view.strides[-2]))


@lowering("Concat", "stack")
def _joined(plan, node, inputs):
    axis = node["dim" if node.operator == "Concat" else "axis"] % len(node.shape)
    out, begin = plan.new(node.shape, node.dtype), 0
    for view in inputs:
        size = view.shape[axis] if node.operator == "Concat" else 1
        part = out.part(axis, begin, size)
        plan.copy(plan.reshaped(view, part.shape), part)
        begin += size
    return out


@lowering(
    *"slice reverse take pick tile repeat _linalg_makediag _linalg_maketrian _linalg_extracttrian".split(),
)
def _moved(plan, node, inputs):
    """Where the entries come from is seen when the operator is applied to their positions."""
    others = [_known(node, entry.node) for entry in node.inputs[1:]]
    source = plan.contiguous(inputs[0])
    if source.size >= 2**31:
        raise Unknown(f"`{node.operator}` of {source.size} entries")
    positions = mx.nd.array(np.arange(1.0, source.size + 1).reshape(source.shape), dtype="float64")
    with mx.autograd.pause():
        found = invoke(
            register._imperative_invoke, operator_handle(node.operator), [positions, *others], node.attributes
        )
    out = plan.new(node.shape, node.dtype)
    index = found.asnumpy().astype("int32").ravel() - 1
    plan.instructions.append(Instruction(MOVE, [out, source], [out.size], [[], []], table=index))
    return out


def _known(user, node):
    """An array that depends on constants alone."""
    if node.operator == CONSTANT:
        return node.array
    if node.is_leaf or node.is_random:
        raise Unknown(f"`{user.operator}` by entries that change")
    arrays = [_known(user, entry.node) for entry in node.inputs]
    return invoke(register._imperative_invoke, operator_handle(node.operator), arrays, node.attributes)


@lowering("Cast")
def _cast(plan, node, inputs):
    if inputs[0].memory.dtype == node.dtype:
        return inputs[0]
    out = plan.new(node.shape, checked(node.dtype))
    plan.emit(CAST, out, inputs)
    return out


@lowering("add_n")
def _add_all(plan, node, inputs):
    total = inputs[0]
    for view in inputs[1:]:
        out = plan.new(node.shape, node.dtype)
        plan.map("a + b", out, [total, view])
        total = out
    return total


@lowering("sum", "mean", "max")
def _reduction(plan, node, inputs):
    scale = node.size / node.inputs[0].size if node.operator == "mean" else 1.0
    kind = MAXIMUM if node.operator == "max" else SUM
    return plan.reduced(kind, plan.factors_of(node), reduced_axes(node), scale).reshaped(node.shape)


def _of_each(plan, formula, *inputs, scalar=0.0):
    out = plan.new(np.broadcast_shapes(*(view.shape for view in inputs)), inputs[0].memory.dtype)
    plan.map(formula, out, inputs, scalar)
    return out


@lowering("norm")
def _norm(plan, node, inputs):
    """The entries of a Euclidean norm are divided by the largest one before they are squared, as in MXNet."""
    axes, sizes = reduced_axes(node), _of_each(plan, "fabs(a)", inputs[0])
    if node["ord"] == 1:
        return plan.reduced(SUM, [sizes], axes).reshaped(node.shape)
    smallest = float(np.finfo(checked(node.dtype)).tiny)
    largest = _of_each(plan, "pick(a <= s, s, a)", plan.reduced(MAXIMUM, [sizes], axes), scalar=smallest)
    ratios = _of_each(plan, "a / b", sizes, largest)
    root = _of_each(plan, "sqrt(a)", plan.reduced(SUM, [ratios, ratios], axes))
    return _of_each(plan, "a * b", root, largest).reshaped(node.shape)


@lowering("softmax", "log_softmax")
def _softmax(plan, node, inputs):
    if len(inputs) > 1 or node["temperature"] not in (None, 1) or node.dtype != inputs[0].memory.dtype:
        raise Unknown(f"`{node.operator}` of parts of an array, with a temperature or in another type")
    axes = {node["axis"] % len(node.shape)}
    below = _of_each(plan, "a - b", inputs[0], plan.reduced(MAXIMUM, inputs, axes))
    exponentials = _of_each(plan, "exp(a)", below)
    total = plan.reduced(SUM, [exponentials], axes)
    if node.operator == "softmax":
        return _of_each(plan, "a / b", exponentials, total)
    return _of_each(plan, "a - b", below, _of_each(plan, "log(a)", total))


@lowering("_linalg_sumlogdiag")
def _sum_log_diagonal(plan, node, inputs):
    view = inputs[0]
    *leading, n, _ = view.shape
    logs = plan.new((*leading, n), node.dtype)
    plan.map("log(a)", logs, [view._replace(shape=logs.shape, strides=(*view.strides[:-2], sum(view.strides[-2:])))])
    out = plan.new(node.shape, node.dtype)
    wide = dense(out.memory, (*leading, 1))._replace(shape=logs.shape)
    wide = wide._replace(strides=(*strides_of(tuple(leading)), 0))
    plan.emit(SUM, wide, [logs], flags=(out.size,), scalar=1.0)
    return out


def _turned(view, is_transposed):
    axes = list(range(len(view.shape)))
    return view.transposed([*axes[:-2], axes[-1], axes[-2]]) if is_transposed else view


@lowering("_linalg_gemm2", "batch_dot")
def _products(plan, node, inputs):
    if node.operator == "_linalg_gemm2" and node["axis"] != -2:
        raise Unknown("`_linalg_gemm2` along another axis")
    out = plan.new(node.shape, node.dtype)
    a, b = _turned(inputs[0], node["transpose_a"]), _turned(inputs[1], node["transpose_b"])
    plan.product(out, a, b, node["alpha"] if node.operator == "_linalg_gemm2" else 1.0)
    return out


@lowering("_linalg_syrk")
def _square(plan, node, inputs):
    out = plan.new(node.shape, node.dtype)
    one, other = _turned(inputs[0], node["transpose"]), _turned(inputs[0], not node["transpose"])
    plan.product(out, one, other, node["alpha"])
    return out


def _flattened(plan, view, k, is_first):
    """As a matrix (the rest, k), where k is the size of the first or the last axis."""
    rest = view.size // k
    return _turned(plan.reshaped(view, (k, rest)), True) if is_first else plan.reshaped(view, (rest, k))


@lowering("dot")
def _dot(plan, node, inputs):
    """Of the last axis of the first factor and the first of the second; of the other one where one is transposed."""
    a, b = inputs
    k = a.shape[0 if node["transpose_a"] else -1]
    out = plan.new(node.shape, node.dtype)
    flat = (
        _flattened(plan, a, k, is_first=node["transpose_a"]),
        _turned(_flattened(plan, b, k, is_first=not node["transpose_b"]), True),
    )
    plan.product(out.reshaped((flat[0].shape[0], flat[1].shape[1])), *flat)
    return out


@lowering("FullyConnected")
def _layer(plan, node, inputs):
    rows, weights = inputs[:2]
    units, k = weights.shape
    product = plan.new(node.shape, node.dtype)
    rows = plan.reshaped(rows, (rows.size // k, k))
    plan.product(product.reshaped((rows.shape[0], units)), rows, _turned(weights, True))
    if node["no_bias"]:
        return product
    out = plan.new(node.shape, node.dtype)
    plan.map("a + b", out, [product, inputs[2]])
    return out


@lowering("_linalg_trmm")
def _triangular_product(plan, node, inputs):
    if not node["lower"]:
        raise Unknown("`_linalg_trmm` of an upper triangle")
    out = plan.new(node.shape, node.dtype)
    triangle, other = _turned(inputs[0], node["transpose"]), inputs[1]
    factors = (other, triangle) if node["rightside"] else (triangle, other)
    plan.product(out, *factors, node["alpha"], 2 if node["rightside"] else 1, not node["transpose"])
    return out


@lowering("_linalg_trsm")
def _triangular_solve(plan, node, inputs):
    if not node["lower"]:
        raise Unknown("`_linalg_trsm` of an upper triangle")
    out = plan.new(node.shape, node.dtype)
    if inputs[0].shape[-1] > 1:
        plan.solve(out, *inputs, node["transpose"], node["rightside"], node["alpha"])
        return out
    plan.map("a / b", out, inputs[::-1])
    return out if node["alpha"] == 1 else _scaled(plan, out, node["alpha"])


def _scaled(plan, view, scalar):
    out = plan.new(view.shape, view.memory.dtype)
    plan.map("a * s", out, [view], scalar)
    return out


@lowering("_linalg_potrf")
def _cholesky(plan, node, inputs):
    if not node["lower"]:
        raise Unknown("`_linalg_potrf` of an upper triangle")
    out = plan.new(node.shape, node.dtype)
    plan.factor(out, inputs[0])
    return out


@lowering("_random_normal", "random_normal")
def _normal(plan, node, inputs):
    return _draw(plan, node, NORMAL, "loc", "scale")


@lowering("_random_uniform", "random_uniform")
def _uniform(plan, node, inputs):
    return _draw(plan, node, UNIFORM, "low", "high")


def _draw(plan, node, kind, first, second):
    out = plan.drawn(node)
    if plan.draws and plan.draws[-1] is out:
        # MXNet keeps them in single precision.
        scalars = [float(np.float32(node.attributes.get(name, default))) for name, default in ((first, 0), (second, 1))]
        plan.instructions.append(
            Instruction(kind, [out], [1, 1, 1, out.size], [[]], scalar=scalars[0], second=scalars[1])
        )
    return out
