# SPDX-License-Identifier: Apache-2.0
"""Rules that leave out what does nothing, and compute before a broadcast or a reshape what can be.

x * 1, a sum over an axis of size 1, a reshape of a reshape, a constant that repeats itself: none of these is needed.
"""

import ast

from mxfusion_mvn.inference.compiler.graph import CONSTANT
from mxfusion_mvn.inference.compiler.rewriter import dtype_of, evaluated, is_operator, shape_of, size_of
from mxfusion_mvn.inference.compiler.rules.matrices import factor_once, solve_together
from mxfusion_mvn.inference.compiler.rules.products import constant_factor

import numpy as np

# Operators that only change the shape, and reductions that do where nothing is reduced.
_RESHAPES = {"expand_dims", "squeeze", "Flatten"}
_REDUCTIONS = {"sum", "mean", "max", "min", "prod"}
_BROADCASTS = {"broadcast_axis", "broadcast_like"}
# Operators that copy where the shape stays.
_COPIES = {"slice_axis", "_copy"}
# Operators with a number that copy, for one number.
_NEUTRAL = {"_mul_scalar": 1.0, "_div_scalar": 1.0, "_power_scalar": 1.0, "_plus_scalar": 0.0, "_minus_scalar": 0.0}
# Functions of each number by itself.
_UNARY = set(
    "abs sign negative reciprocal square sqrt rsqrt cbrt rcbrt exp log log10 log2 log1p expm1 sin cos tan sinh "
    "cosh tanh arcsin arccos arctan arcsinh arccosh arctanh relu sigmoid softsign hard_sigmoid erf erfinv gamma "
    "gammaln digamma Activation clip BlockGrad Cast _plus_scalar _minus_scalar _rminus_scalar _mul_scalar "
    "_div_scalar _rdiv_scalar _power_scalar _rpower_scalar _maximum_scalar _minimum_scalar _greater_scalar "
    "_lesser_scalar _greater_equal_scalar _lesser_equal_scalar _equal_scalar _not_equal_scalar smooth_l1 "
    "logical_not".split()
)
# Functions of two numbers: for equal shapes, with a number on the right, with a number on the left.
_BINARY = {
    "broadcast_add": ("elemwise_add", "_plus_scalar", "_plus_scalar"),
    "broadcast_sub": ("elemwise_sub", "_minus_scalar", "_rminus_scalar"),
    "broadcast_mul": ("elemwise_mul", "_mul_scalar", "_mul_scalar"),
    "broadcast_div": ("elemwise_div", "_div_scalar", "_rdiv_scalar"),
    "broadcast_power": ("_power", "_power_scalar", "_rpower_scalar"),
    # With the number on the left MXNet gives the gradient of a tie to the number.
    "broadcast_maximum": ("_maximum", "_maximum_scalar", None),
    "broadcast_minimum": ("_minimum", "_minimum_scalar", None),
}
_BROADCASTING = {names[0]: operator for operator, names in _BINARY.items()}
# Constants larger than this are not searched for repeated numbers.
_LARGE = 10**7


def _constant(rewriter, node):
    """A constant that repeats itself along an axis is a smaller one, broadcast; equal constants are one."""
    if node.operator != CONSTANT or size_of((node, 0)) > _LARGE or np.dtype(node.dtypes[0]).kind != "f":
        return None
    values = small = node.array.asnumpy()
    for axis in range(values.ndim):
        first = small.take([0], axis=axis)
        if small.shape[axis] > 1 and (small == first).all():
            small = first
    constant = rewriter.constant(small, values.dtype, node if small.size == values.size else None)
    return rewriter.broadcast(constant, values.shape)


def _reshape(rewriter, node):
    if node.operator in _RESHAPES:
        return rewriter.reshaped(node.inputs[0], node.shapes[0])
    if node.operator in _REDUCTIONS and size_of((node, 0)) == size_of(node.inputs[0]) and len(node.shapes) == 1:
        return rewriter.reshaped(node.inputs[0], node.shapes[0])
    if node.operator != "Reshape":
        return None
    source = node.inputs[0]
    is_plain = not is_operator(source, "Reshape") and shape_of(source) != node.shapes[0]
    if not is_plain or node.attributes != {"shape": str(node.shapes[0])}:
        return rewriter.reshaped(source, node.shapes[0])
    return _reshape_of_broadcast(rewriter, source, node.shapes[0])


def _reshape_of_broadcast(rewriter, source, shape):
    """Axes of size 1 may come and go before as well as after a broadcast."""
    if not is_operator(source, "broadcast_to"):
        return None
    inner = source[0].inputs[0]
    if size_of(inner) == 1:
        return rewriter.broadcast(rewriter.reshaped(inner, (1,) * len(shape)), shape)
    sizes = [own for own, size in zip(shape_of(inner), shape_of(source)) if size != 1]
    if [size for size in shape_of(source) if size != 1] != [size for size in shape if size != 1]:
        return None
    remaining = iter(sizes)
    return rewriter.broadcast(rewriter.reshaped(inner, tuple(1 if n == 1 else next(remaining) for n in shape)), shape)


def _filled(rewriter, node):
    """Of what is asked for an array like another, the shape is known."""
    if node.operator not in ("ones_like", "zeros_like"):
        return None
    fill = np.ones if node.operator == "ones_like" else np.zeros
    dtype = dtype_of((node, 0))
    return rewriter.broadcast(rewriter.constant(fill((1,) * len(node.shapes[0]), dtype), dtype), node.shapes[0])


def _transposition(rewriter, node):
    """MXNet exchanges two axes much more slowly than it transposes, and a reshape does where no number moves."""
    if node.operator not in ("SwapAxis", "transpose"):
        return None
    shape = shape_of(node.inputs[0])
    axes = _permutation(node, len(shape))
    moved = [axis for axis in axes if shape[axis] > 1]
    if moved == sorted(moved):
        return rewriter.reshaped(node.inputs[0], node.shapes[0])
    if node.operator == "transpose":
        return None
    return rewriter.call("transpose", node.inputs, node.shapes[0], {"axes": tuple(axes)})


def _permutation(node, ndim):
    axes = list(range(ndim))
    if node.operator == "transpose":
        return [axis % ndim for axis in ast.literal_eval(node.attributes.get("axes", "()"))] or axes[::-1]
    one, other = (int(node.attributes.get(name, "0")) for name in ("dim1", "dim2"))
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def _copy(rewriter, node):
    source = node.inputs[0] if node.inputs else None
    if node.operator in _COPIES and shape_of(source) == node.shapes[0]:
        return source
    if node.operator == "Cast" and dtype_of(source) == np.dtype(node.dtypes[0]):
        return source
    if node.operator == "BlockGrad" and not rewriter.has_gradient(source):
        return source
    if node.operator in _NEUTRAL and float(node.attributes.get("scalar", "nan")) == _NEUTRAL[node.operator]:
        return source if dtype_of(source) == np.dtype(node.dtypes[0]) else None
    return None


def _broadcast(rewriter, node):
    if node.operator in _BROADCASTS:
        return rewriter.broadcast(node.inputs[0], node.shapes[0])
    if node.operator != "broadcast_to":
        return None
    if shape_of(node.inputs[0]) == node.shapes[0]:
        return node.inputs[0]
    if is_operator(node.inputs[0], "broadcast_to") or node.attributes != {"shape": str(node.shapes[0])}:
        return rewriter.broadcast(_before_broadcast(node.inputs[0]), node.shapes[0])
    return None


def _before_broadcast(entry):
    return entry[0].inputs[0] if is_operator(entry, "broadcast_to") else entry


def _unary(rewriter, node):
    if node.operator == "_power_scalar" and float(node.attributes["scalar"]) == 2:
        return rewriter.call("square", node.inputs, node.shapes[0])
    if node.operator not in _UNARY or not is_operator(node.inputs[0], "broadcast_to", "Reshape"):
        return None
    source = node.inputs[0][0].inputs[0]
    value = rewriter.call(node.operator, [source], shape_of(source), node.attributes, node.dtypes[0])
    is_broadcast = is_operator(node.inputs[0], "broadcast_to")
    return (rewriter.broadcast if is_broadcast else rewriter.reshaped)(value, node.shapes[0])


def _binary(rewriter, node):
    operator = _BROADCASTING.get(node.operator, node.operator)
    if operator not in _BINARY:
        return None
    reshaped = _before_reshape(rewriter, operator, node) or _difference(operator, node)
    if reshaped is not None:
        return reshaped
    sources = [_before_broadcast(entry) for entry in node.inputs]
    shape = np.broadcast_shapes(*map(shape_of, sources)) if sources != node.inputs else node.shapes[0]
    if shape != node.shapes[0]:
        return rewriter.broadcast(rewriter.call(operator, sources, shape), node.shapes[0])
    number = _with_number(rewriter, operator, sources, shape)
    if number is not None:
        return number
    if operator != node.operator and sources == node.inputs:
        return None
    is_plain = all(shape_of(entry) == shape for entry in sources)
    if is_plain or sources != node.inputs:
        return rewriter.call(_BINARY[operator][0] if is_plain else operator, sources, shape)
    return None


def _before_reshape(rewriter, operator, node):
    """A function of reshaped arrays is the reshaped function; one number goes with any shape."""
    sources = [entry[0].inputs[0] if is_operator(entry, "Reshape") else entry for entry in node.inputs]
    if sources == node.inputs:
        return None
    for one, other in ((0, 1), (1, 0)):
        if is_operator(node.inputs[one], CONSTANT) and shape_of(node.inputs[0]) == shape_of(node.inputs[1]):
            sources[one] = rewriter.reshaped(node.inputs[one], shape_of(sources[other]))
    shapes = [shape_of(entry) for entry in sources]
    if shapes[0] == shapes[1] and shape_of(node.inputs[0]) == shape_of(node.inputs[1]):
        return rewriter.reshaped(rewriter.call(operator, sources, shapes[0]), node.shapes[0])
    inputs = [
        source if size_of(source) == 1 and len(shape_of(source)) <= len(node.shapes[0]) else entry
        for entry, source in zip(node.inputs, sources)
    ]
    if inputs == node.inputs:
        return None
    shape = np.broadcast_shapes(*map(shape_of, inputs))
    return rewriter.reshaped(rewriter.call(operator, inputs, shape), node.shapes[0])


def _difference(operator, node):
    """(a + b) - b is a."""
    left, right = node.inputs
    if operator != "broadcast_sub" or not is_operator(left, "broadcast_add", "elemwise_add"):
        return None
    others = [entry for entry in left[0].inputs if entry != right]
    same = len(others) == 1 and shape_of(others[0]) == node.shapes[0] and shape_of(left) == node.shapes[0]
    return others[0] if same else None


def _with_number(rewriter, operator, sources, shape):
    """x + c for a constant c of one number."""
    left, right = sources
    for entry, number, position in ((left, right, 1), (right, left, 2)):
        if is_operator(number, CONSTANT) and size_of(number) == 1 and shape_of(entry) == shape:
            value = float(number[0].array.asnumpy().ravel()[0])
            if dtype_of(entry) == dtype_of(number) and np.isfinite(value) and _BINARY[operator][position]:
                scalar = {"scalar": repr(value)}
                return rewriter.call(_BINARY[operator][position], [entry], shape, scalar)
    return None


def _folded(rewriter, node):
    return None if node.operator == "broadcast_to" else evaluated(rewriter, node)


BASIC = (
    _constant,
    _filled,
    _reshape,
    _transposition,
    _copy,
    _broadcast,
    _unary,
    _binary,
    factor_once,
    solve_together,
    constant_factor,
    _folded,
)
