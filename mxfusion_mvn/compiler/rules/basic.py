# SPDX-License-Identifier: Apache-2.0
"""Rules that leave out operators that do nothing, and move computations in front of broadcasts and reshapes.

Examples are x * 1, a sum over an axis of size 1, a reshape of a reshape, and a constant that repeats itself. One more
rule takes ``prod`` apart into what has derivatives everywhere.
"""

from mxfusion_mvn.compiler.graph import CONSTANT
from mxfusion_mvn.compiler.operators import BINARY, BROADCASTING, having, reduced_axes, traits
from mxfusion_mvn.compiler.rewriter import evaluated, rule
from mxfusion_mvn.compiler.rules.products import constant_factor
from mxfusion_mvn.compiler.rules.shared_factors import factor_once, solve_together
from mxfusion_mvn.compiler.thresholds import LARGE_CONSTANT

import numpy as np


@rule(CONSTANT)
def _constant(rewriter, node):
    """A constant that repeats itself along an axis is a smaller one, broadcast."""
    if node.size > LARGE_CONSTANT or node.dtype.kind != "f":
        return None
    values = small = node.array.asnumpy()
    for axis in range(values.ndim):
        first = small.take([0], axis=axis)
        if small.shape[axis] > 1 and (small == first).all():
            small = first
    constant = rewriter.constant(small, values.dtype, node if small.size == values.size else None)
    return rewriter.broadcast(constant, values.shape)


@rule(*having("changes_shape_only", "reduction"))
def _only_reshapes(rewriter, node):
    """An operator that only changes the shape is a reshape; so is a reduction along axes of size 1."""
    if node.size == node.inputs[0].size and len(node.shapes) == 1:
        return rewriter.reshaped(node.inputs[0], node.shape)
    return None


@rule("Reshape")
def _reshape(rewriter, node):
    source = node.inputs[0]
    is_plain = not source.is_a("Reshape") and source.shape != node.shape
    if not is_plain or node.attributes != {"shape": str(node.shape)}:
        return rewriter.reshaped(source, node.shape)
    return _reshape_of_broadcast(rewriter, source, node.shape)


def _reshape_of_broadcast(rewriter, source, shape):
    """Axes of size 1 may be added and removed before a broadcast as well as after it."""
    if not source.is_a("broadcast_to"):
        return None
    inner = source.inputs[0]
    if inner.size == 1:
        return rewriter.broadcast(rewriter.reshaped(inner, (1,) * len(shape)), shape)
    sizes = [own for own, size in zip(inner.shape, source.shape) if size != 1]
    if [size for size in source.shape if size != 1] != [size for size in shape if size != 1]:
        return None
    remaining = iter(sizes)
    return rewriter.broadcast(rewriter.reshaped(inner, tuple(1 if n == 1 else next(remaining) for n in shape)), shape)


@rule("ones_like", "zeros_like")
def _filled(rewriter, node):
    """Arrays of ones and zeros are constants, because the shape is known."""
    fill = np.ones if node.operator == "ones_like" else np.zeros
    dtype = node.dtype
    return rewriter.broadcast(rewriter.constant(fill((1,) * len(node.shape), dtype), dtype), node.shape)


@rule("SwapAxis", "transpose")
def _transposition(rewriter, node):
    """MXNet swaps two axes much more slowly than it transposes; where no entry moves, a reshape is enough."""
    shape = node.inputs[0].shape
    axes = _permutation(node, len(shape))
    moved = [axis for axis in axes if shape[axis] > 1]
    if moved == sorted(moved):
        return rewriter.reshaped(node.inputs[0], node.shape)
    if node.operator == "transpose":
        return None
    return rewriter.call("transpose", node.inputs, node.shape, {"axes": tuple(axes)})


def _permutation(node, ndim):
    axes = list(range(ndim))
    if node.operator == "transpose":
        return [axis % ndim for axis in node["axes"]] or axes[::-1]
    one, other = node["dim1"], node["dim2"]
    axes[one], axes[other] = axes[other], axes[one]
    return axes


@rule(*having("copies"))
def _copy(rewriter, node):
    """Leave out a copy, and a slice of the whole array."""
    return node.inputs[0] if node.inputs[0].shape == node.shape else None


@rule("Cast")
def _cast(rewriter, node):
    """Leave out a cast to the dtype that the array has."""
    return node.inputs[0] if node.inputs[0].dtype == node.dtype else None


@rule("BlockGrad")
def _block(rewriter, node):
    """Leave out BlockGrad where there is no gradient to block."""
    return None if rewriter.has_gradient(node.inputs[0]) else node.inputs[0]


@rule(*(name for name in having("elementwise") if traits(name).neutral is not None))
def _neutral(rewriter, node):
    """x * 1 and x + 0 are x."""
    (source,) = node.inputs
    return source if node["scalar"] == traits(node.operator).neutral and source.dtype == node.dtype else None


@rule(*having("broadcasts_only"))
def _only_broadcasts(rewriter, node):
    return rewriter.broadcast(node.inputs[0], node.shape)


@rule("broadcast_to")
def _broadcast(rewriter, node):
    """A broadcast of a broadcast is one."""
    (source,) = node.inputs
    if source.shape == node.shape:
        return source
    if source.is_a("broadcast_to") or node.attributes != {"shape": str(node.shape)}:
        return rewriter.broadcast(_before_broadcast(source), node.shape)
    return None


def _before_broadcast(entry):
    return entry.inputs[0] if entry.is_a("broadcast_to") else entry


@rule("_power_scalar")
def _second_power(rewriter, node):
    return rewriter.call("square", node.inputs, node.shape) if node["scalar"] == 2 else None


@rule(*having("elementwise"))
def _unary(rewriter, node):
    """An elementwise function is computed before a broadcast or a reshape."""
    if not node.inputs[0].is_a("broadcast_to", "Reshape"):
        return None
    source = node.inputs[0].inputs[0]
    value = rewriter.call(node.operator, [source], source.shape, node.attributes, node.dtype)
    is_broadcast = node.inputs[0].is_a("broadcast_to")
    return (rewriter.broadcast if is_broadcast else rewriter.reshaped)(value, node.shape)


@rule("prod")
def _product_along_axes(rewriter, node):
    """A product of entries, half by half; so its gradient is right where one is zero, while MXNet's is nan there."""
    (value,) = node.inputs
    for axis in reduced_axes(node):
        value = _multiplied(rewriter, value, axis)
    return rewriter.reshaped(value, node.shape)


def _multiplied(rewriter, entry, axis):
    left_over = []
    while entry.shape[axis] > 1:
        size, half = entry.shape[axis], entry.shape[axis] // 2
        if size % 2:
            left_over.append(_part(rewriter, entry, axis, size - 1, size))
        halves = [_part(rewriter, entry, axis, begin, begin + half) for begin in (0, half)]
        entry = rewriter.call("broadcast_mul", halves, halves[0].shape)
    for other in left_over:
        entry = rewriter.call("broadcast_mul", [entry, other], entry.shape)
    return entry


def _part(rewriter, entry, axis, begin, end):
    shape = entry.shape[:axis] + (end - begin,) + entry.shape[axis + 1 :]
    return rewriter.call("slice_axis", [entry], shape, {"axis": axis, "begin": begin, "end": end})


@rule(*BINARY, *BROADCASTING)
def _binary(rewriter, node):
    """A function of two arrays is computed in the smallest shape, by the operator for that shape."""
    operator = BROADCASTING.get(node.operator, node.operator)
    reshaped = _before_reshape(rewriter, operator, node) or _difference(operator, node)
    if reshaped is not None:
        return reshaped
    sources = [_before_broadcast(entry) for entry in node.inputs]
    shape = np.broadcast_shapes(*(entry.shape for entry in sources)) if sources != node.inputs else node.shape
    if shape != node.shape:
        return rewriter.broadcast(rewriter.call(operator, sources, shape), node.shape)
    with_scalar = _with_scalar(rewriter, operator, sources, shape)
    if with_scalar is not None:
        return with_scalar
    if operator != node.operator and sources == node.inputs:
        return None
    is_plain = all(entry.shape == shape for entry in sources)
    if is_plain or sources != node.inputs:
        return rewriter.call(BINARY[operator].equal_shapes if is_plain else operator, sources, shape)
    return None


def _before_reshape(rewriter, operator, node):
    """f(reshape(x), reshape(y)) is reshape(f(x, y)); a scalar broadcasts to any shape."""
    sources = [entry.inputs[0] if entry.is_a("Reshape") else entry for entry in node.inputs]
    if sources == node.inputs:
        return None
    for one, other in ((0, 1), (1, 0)):
        if node.inputs[one].is_a(CONSTANT) and node.inputs[0].shape == node.inputs[1].shape:
            sources[one] = rewriter.reshaped(node.inputs[one], sources[other].shape)
    shapes = [entry.shape for entry in sources]
    if shapes[0] == shapes[1] and node.inputs[0].shape == node.inputs[1].shape:
        return rewriter.reshaped(rewriter.call(operator, sources, shapes[0]), node.shape)
    inputs = [
        source if source.size == 1 and len(source.shape) <= len(node.shape) else entry
        for entry, source in zip(node.inputs, sources)
    ]
    if inputs == node.inputs:
        return None
    shape = np.broadcast_shapes(*(entry.shape for entry in inputs))
    return rewriter.reshaped(rewriter.call(operator, inputs, shape), node.shape)


def _difference(operator, node):
    """(a + b) - b is a."""
    left, right = node.inputs
    if operator != "broadcast_sub" or not left.is_a("broadcast_add", "elemwise_add"):
        return None
    others = [entry for entry in left.inputs if entry != right]
    same = len(others) == 1 and others[0].shape == node.shape and left.shape == node.shape
    return others[0] if same else None


def _with_scalar(rewriter, operator, sources, shape):
    """x + c, for a constant c of one entry, is an operator with a scalar."""
    left, right = sources
    forms = BINARY[operator]
    for entry, scalar, form in ((left, right, forms.scalar_right), (right, left, forms.scalar_left)):
        if form and scalar.is_a(CONSTANT) and scalar.size == 1 and entry.shape == shape and entry.dtype == scalar.dtype:
            value = float(scalar.node.array.asnumpy().ravel()[0])
            if np.isfinite(value):
                return rewriter.call(form, [entry], shape, {"scalar": repr(value)})
    return None


@rule()
def _folded(rewriter, node):
    """Constants are evaluated, but not broadcast."""
    return None if node.operator == "broadcast_to" else evaluated(rewriter, node)


BASIC = (
    _constant,
    _filled,
    _only_reshapes,
    _reshape,
    _transposition,
    _copy,
    _cast,
    _block,
    _neutral,
    _only_broadcasts,
    _broadcast,
    _second_power,
    _product_along_axes,
    _unary,
    _binary,
    factor_once,
    solve_together,
    constant_factor,
    _folded,
)
