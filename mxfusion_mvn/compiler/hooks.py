# SPDX-License-Identifier: Apache-2.0
"""The hooks of a trace: replacements for functions of MXNet while an evaluation is traced.

Each hook acts in the thread of the trace only. It calls the function that it replaces, and notes the call.
"""

from contextlib import ExitStack, contextmanager

from mxfusion_mvn.compiler.library import invoke, operator_info
from mxfusion_mvn.compiler.operators import NATIVE, is_random

import mxnet as mx
import mxnet.ndarray.register as register
from mxnet import autograd
from mxnet.base import _LIB
from mxnet.gluon import HybridBlock, SymbolBlock
from mxnet.gluon.parameter import DeferredInitializationError
from mxnet.ndarray import NDArray
from mxnet.ndarray.sparse import BaseSparseNDArray

# Functions of MXNet's library that are not operators, and the reason why they cannot be traced.
_REFUSED_CALLS = {
    "MXRandomSeed": "the objective seeds the random streams",
    "MXRandomSeedContext": "the objective seeds the random streams",
    "MXAutogradBackwardEx": "the objective computes gradients of its own",
}


@contextmanager
def hooked(trace):
    """
    For the span of a ``with`` block, have a trace note what its thread computes.

    :param trace: :class:`~mxfusion_mvn.compiler.tracing.Trace`.
    """
    with ExitStack() as hooks:
        hooks.enter_context(replaced(register, "_imperative_invoke", _traced_operator(trace)))
        for name, hook in _ARRAY_HOOKS.items():
            hooks.enter_context(replaced(NDArray, name, hook(trace, getattr(NDArray, name))))
        hooks.enter_context(replaced(HybridBlock, "_call_cached_op", _traced_block(trace)))
        hooks.enter_context(replaced(autograd.Function, "__call__", _refused_function(trace)))
        for name, reason in _REFUSED_CALLS.items():
            hooks.enter_context(replaced(_LIB, name, _refused_call(trace, getattr(_LIB, name), reason)))
        yield


@contextmanager
def replaced(owner, name, hook):
    """
    Replace an attribute for the span of a ``with`` block, because MXNet offers no hook; it is put back in any case.

    :param owner: a module or a class.
    :param name: the name of the attribute.
    :param hook: its replacement.
    """
    original = getattr(owner, name)
    setattr(owner, name, hook)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _traced_operator(trace):
    call = register._imperative_invoke

    def hook(handle, arrays, keys, values, out, is_np_op, *flags):
        if not trace.is_listening():
            return call(handle, arrays, keys, values, out, is_np_op, *flags)
        name = operator_info(handle)[0]
        attributes = {key: str(value) for key, value in zip(keys, values)}
        if is_np_op or any(isinstance(array, BaseSparseNDArray) for array in arrays):
            trace.give_up(f"`{name}` works on sparse or mx.np arrays")
        if name == "Dropout" and out is None and autograd.is_training():
            return _traced_dropout(trace, call, handle, arrays, attributes)
        inputs = arrays if out is None else _before_writing(trace, arrays, out)
        result = _called(trace, name, out, lambda: call(handle, arrays, keys, values, out, is_np_op, *flags))
        outputs = list(result) if isinstance(result, (list, tuple)) else [result]
        name, attributes = _replayable(trace, name, attributes, inputs, outputs)
        noise = outputs if is_random(name) else None
        trace.note(name, inputs, attributes, outputs, noise, is_written=out is not None)
        return result

    return hook


def _called(trace, name, out, function):
    """The result of an operator; the trace may prescribe that of a random one."""
    if not is_random(name):
        return function()
    with trace.paused():
        drawn = trace.draw(function)
        return drawn if out is None or drawn is out else drawn.copyto(out)


def _before_writing(trace, inputs, out):
    """The inputs of an operator; those that it overwrites are copied, because a constant is remembered as it was."""
    written = [array.handle.value for array in (out if isinstance(out, (list, tuple)) else [out])]
    with trace.paused(), autograd.pause():
        return [
            array.copy() if array.handle.value in written and not trace.is_traced(array) else array for array in inputs
        ]


def _traced_dropout(trace, call, handle, arrays, attributes):
    """Dropout of ones draws the mask, from the same random numbers; its product with the input is the output."""
    with trace.paused():
        with autograd.pause(train_mode=True):
            mask = trace.draw(lambda: invoke(call, handle, [mx.nd.ones_like(arrays[0])], attributes))
        result = mx.nd.elemwise_mul(arrays[0], mask)
    trace.note("Dropout", arrays, attributes, [result], noise=[mask])
    return result


def _replayable(trace, name, attributes, inputs, outputs):
    """The operator that computes the same in a Symbol."""
    if name == "_copyto":
        if inputs[0].dtype == outputs[0].dtype:
            return "_copy", {}
        return "Cast", {"dtype": outputs[0].dtype.__name__}
    if name == "Custom":
        kind = attributes.get("op_type")
        if kind in NATIVE:
            return NATIVE[kind], {}
        trace.give_up(f"the operator `{kind}` is written in Python")
    draws = name == "LeakyReLU" and attributes.get("act_type") == "rrelu" or name.startswith("_image_random_")
    if draws or attributes.get("get_prob") == "True":
        trace.give_up(f"`{name}` returns random numbers together with other results")
    return name, attributes


def _traced_block(trace):
    """Run the parts of a hybridized block, which otherwise runs as a single operator."""
    call_cached_op = HybridBlock._call_cached_op

    def hook(block, *args):
        if not trace.is_listening():
            return call_cached_op(block, *args)
        if isinstance(block, SymbolBlock):
            trace.give_up("a SymbolBlock has no operators of its own")
            return call_cached_op(block, *args)
        try:
            parameters = {name: parameter.data(args[0].context) for name, parameter in block._reg_params.items()}
        except DeferredInitializationError:
            trace.give_up(f"the shapes of `{block.name}` are not known before its first evaluation")
            return call_cached_op(block, *args)
        return block.hybrid_forward(mx.nd, *args, **parameters)

    return hook


def _refused_function(trace):
    call_function = autograd.Function.__call__

    def hook(function, *inputs):
        if trace.is_listening():
            trace.give_up(f"`{type(function).__name__}` is an autograd.Function, written in Python")
        return call_function(function, *inputs)

    return hook


def _refused_call(trace, call, reason):
    def hook(*arguments):
        if trace.is_listening():
            trace.give_up(reason)
        return call(*arguments)

    return hook


def _traced_reshape(trace, reshape):
    def hook(array, *shape, **kwargs):
        view = reshape(array, *shape, **kwargs)
        if trace.is_listening():
            trace.note_view(array, view, "Reshape", {"shape": str(view.shape)})
        return view

    return hook


def _traced_slice(trace, take_slice):
    def hook(array, start, stop):
        view = take_slice(array, start, stop)
        if trace.is_listening():
            begin = slice(start, stop).indices(array.shape[0])[0]
            limits = {"axis": "0", "begin": str(begin), "end": str(begin + view.shape[0])}
            trace.note_view(array, view, "slice_axis", limits)
        return view

    return hook


def _traced_at(trace, at):
    def hook(array, index):
        view = at(array, index)
        if trace.is_listening():
            row = index % array.shape[0]
            limits = {"axis": "0", "begin": str(row), "end": str(row + 1)}
            trace.note_view(array, view, "slice_axis", limits, shape=(1,) + array.shape[1:])
        return view

    return hook


def _traced_indexing(trace, index):
    def hook(array, key):
        part = index(array, key)
        if trace.is_listening() and trace.is_traced(array) and not trace.is_traced(part):
            slices = NDArray._basic_indexing_key_int_to_slice(tuple(i for i in key if i is not None))[0]
            limits = NDArray._basic_indexing_key_to_begin_end_step(slices, array.shape, keep_none=True)
            shape = NDArray._basic_indexing_sliced_shape(slices, array.shape)
            trace.note_view(array, part, "slice", dict(zip(("begin", "end", "step"), map(str, limits))), shape=shape)
        return part

    return hook


def _traced_detach(trace, detach):
    def hook(array):
        part = detach(array)
        if trace.is_listening():
            trace.note_view(array, part, "BlockGrad", {})
        return part

    return hook


def _traced_filling(trace, fill):
    def hook(array, source):
        fill(array, source)
        if trace.is_listening():
            trace.note_overwritten(array)

    return hook


def _refused_read(trace, method):
    def hook(array, *args, **kwargs):
        if trace.is_listening() and trace.is_traced(array):
            trace.give_up(f"the objective reads the value of an array that depends on {trace.sources(array)}")
        return method(array, *args, **kwargs)

    return hook


def _refused(why):
    def hook_for(trace, method):
        def hook(array, *args, **kwargs):
            if trace.is_listening() and trace.is_traced(array):
                trace.give_up(why)
            return method(array, *args, **kwargs)

        return hook

    return hook_for


_ARRAY_HOOKS = {
    "reshape": _traced_reshape,
    "_slice": _traced_slice,
    "_at": _traced_at,
    "_get_nd_basic_indexing": _traced_indexing,
    "detach": _traced_detach,
    "_sync_copyfrom": _traced_filling,
    "asnumpy": _refused_read,
    "__getstate__": _refused_read,
    "to_dlpack_for_read": _refused_read,
    "to_dlpack_for_write": _refused_read,
    "as_np_ndarray": _refused("the objective turns an array into one of mx.np"),
    "attach_grad": _refused("the objective attaches a gradient to an array of its own"),
}
