# SPDX-License-Identifier: Apache-2.0
"""Inputs of distributions: Variables, NDArrays, NumPy arrays and numbers, checked at definition."""

import numbers

from mxfusion_mvn import checks
from mxfusion_mvn.checks.options import context_defect, dtype_defect

import mxnet as mx
import numpy as np
from mxfusion.common.config import get_default_dtype
from mxfusion.components.variables import Variable, VariableType

ACCEPTED = "a Variable, an NDArray, a NumPy array or a number"


def refuse_numpy_mode():
    """
    Refuse to define anything while MXNet's NumPy mode is on: MXFusion cannot run in it.

    :raises ModelSpecificationError: after ``mx.npx.set_np()``.
    """
    if mx.util.is_np_array() or mx.util.is_np_shape():
        checks.refuse(
            "mx.npx",
            "NumPy mode switched on",
            "MXNet's classic arrays, the only ones MXFusion can run",
            "Call mx.npx.reset_np() first.",
        )


def array_input(name, value, letters, check_value=None, dtype=None, ctx=None):
    """
    An input as a Variable.

    :param name: the name of the argument.
    :param value: Variable, NDArray or NumPy array (B..., event), any event axis of which may be 1; or a number, which
        for a square matrix is that multiple of the identity.
    :param letters: the event axes, a letter for each: ``"D"`` a vector, ``"DD"`` a square matrix.
    :param check_value: function of name and NumPy array that refuses the values a constant must not have.
    :param dtype: dtype of a constant made here; None for MXFusion's default, or an NDArray's own.
    :param ctx: MXNet context of a constant made here; None for the current one.
    :returns: a Variable.
    :raises ModelSpecificationError: for anything else, another dtype or context, for constants that are not finite,
        for matrices that are not square, and as check_value says.
    """
    for option, defect in (("dtype", dtype_defect(dtype)), ("ctx", context_defect(ctx))):
        if defect is not None:
            checks.refuse(option, *defect)
    array = _constant(name, value, dtype, ctx, len(letters))
    if array is None and value.type == VariableType.FUNCVAR:
        return value  # MXFusion gives function outputs the shape (1,), whatever they are
    shape = value.shape if array is None else array.shape
    if 0 in shape:
        checks.refuse(name, f"shape {checks.show_shape(shape)}", "at least one entry", "Check how it is computed.")
    if len(letters) > 1:
        checks.check_matrix(name, shape, square=letters[-1] == letters[-2])
    if array is None:
        return value
    checks.check_finite(name, array.asnumpy())
    if check_value is not None:
        check_value(name, array.asnumpy())
    return Variable(value=array)


class OneOf(dict):
    """Matrices by the name of the input, None where one is not given: at most one may be."""

    def given(self):
        """
        The one that was given.

        :returns: (name, value); the first name and 1, an identity, if none was given.
        :raises ModelSpecificationError: if more than one was given.
        """
        given = {name: value for name, value in self.items() if value is not None}
        if len(given) > 1:
            checks.refuse(
                "` and `".join(given),
                f"{len(given)} matrices",
                "at most one of " + ", ".join(self),
                "They describe the same covariance; keep the one you have.",
            )
        return next(iter(given.items())) if given else (next(iter(self)), 1.0)


def as_variables(inputs, event, checks_by_name, dtype, ctx):
    """
    The inputs of a distribution as Variables, checked in their order.

    :param inputs: dict from name to value, as :func:`array_input` takes it; a :class:`OneOf` stands for the one given.
    :param event: dict from name to the letters of its event axes.
    :param checks_by_name: dict from name to the function that refuses its constants, for some of the inputs.
    :param dtype: of constants made here, as in :func:`array_input`.
    :param ctx: of constants made here, as in :func:`array_input`.
    :returns: list of (name, Variable).
    :raises ModelSpecificationError: as :func:`array_input` does, for several matrices, and in MXNet's NumPy mode.
    """
    refuse_numpy_mode()
    variables = []
    for name, value in inputs.items():
        name, value = value.given() if isinstance(value, OneOf) else (name, value)
        variables.append((name, array_input(name, value, event[name], checks_by_name.get(name), dtype, ctx)))
    return variables


def check_shape(shape, event_axes=1):
    """
    Refuse anything that is not the shape of a random variable.

    :param shape: tuple of positive integers and Variables, (B..., event).
    :param event_axes: how many axes an event has.
    :returns: the shape, with NumPy integers turned into Python's, the only ones MXFusion takes for a size.
    :raises ModelSpecificationError: for anything else.
    """
    if not isinstance(shape, tuple):
        checks.refuse(
            "shape",
            f"{_describe(shape)}",
            "a tuple such as (N, D)",
            "For a single vector write (D,). define_variable takes the shape first; the class takes shape=.",
        )
    if len(shape) < event_axes:
        axes = "at least one axis, the last being D" if event_axes == 1 else f"at least {event_axes} axes"
        checks.refuse("shape", checks.show_shape(shape), axes, "Write 1 for an axis that holds a single number.")
    if not all(
        isinstance(s, Variable) or (isinstance(s, numbers.Integral) and s is not True and int(s) > 0) for s in shape
    ):
        checks.refuse(
            "shape",
            checks.show_shape(shape),
            "positive integers and Variables",
            "A Gaussian vector has at least one entry.",
        )
    return tuple(s if isinstance(s, Variable) else int(s) for s in shape)


def check_fits(name, variable, shape, batch, event):
    """
    Refuse an input that cannot be broadcast to the random variable, as far as both sizes are known.

    :param name: the name of the input.
    :param variable: the input, a Variable.
    :param shape: the shape of the random variable, for the message.
    :param batch: the batch axes of the random variable, a tuple.
    :param event: the sizes that the event axes of the input must have, a letter where any will do.
    :raises ModelSpecificationError: if a size differs that is not 1, an event axis is missing, or the input has more
        batch axes.
    """
    if variable.type == VariableType.FUNCVAR:
        return
    got, expected = variable.shape, batch + tuple(event)
    if not len(event) <= len(got) <= len(expected) or not all(
        _compatible(mine, wanted) for mine, wanted in zip(reversed(got), reversed(expected))
    ):
        checks.refuse(
            name,
            f"shape {checks.show_shape(got)}",
            f"{checks.show_shape(expected)}, or what broadcasts to it, for a random variable of shape "
            f"{checks.show_shape(shape)}",
            "Leading axes are batch axes and may be left out; any axis may be 1.",
        )


def is_event(event, letters, sizes):
    """
    Whether sizes fit an event, or are 1; equal letters are equal sizes: D entries in a row are no matrix.

    :param event: the sizes of the event axes, a tuple of integers.
    :param letters: a letter for each axis.
    :param sizes: dict from letters to the sizes that are known.
    :returns: a bool.
    """
    return (
        len(event) == len(letters)
        and all(size in (1, sizes.get(letter, size)) for letter, size in zip(letters, event))
        and len(set(zip(letters, event))) == len(set(letters))
    )


def _compatible(size, wanted):
    if isinstance(size, Variable) or isinstance(wanted, (Variable, str)):
        return True
    return size in (1, wanted)


def _constant(name, value, dtype, ctx, event_axes):
    """A constant as an NDArray; None for a Variable, which is left as it is."""
    if isinstance(value, Variable):
        return None
    if isinstance(value, tuple):
        checks.refuse(name, f"the tuple {value}", ACCEPTED, "A shape is passed as shape=(N, D).")
    if isinstance(value, mx.np.ndarray):
        checks.refuse(name, "an mx.np array", ACCEPTED, "Convert it with .as_nd_ndarray().")
    if isinstance(value, mx.nd.NDArray):
        checks.check_floating(name, value.dtype)
        return value if dtype is None else value.astype(dtype, copy=False)
    dtype = get_default_dtype() if dtype is None else dtype
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        value = np.full((1,) * event_axes, value, dtype=dtype)
    if not isinstance(value, np.ndarray):
        checks.refuse(name, _describe(value), ACCEPTED, "Convert it with np.array(..., dtype='float32').")
    checks.check_kind(name, value)
    checks.check_floating(name, value.dtype)
    if value.ndim == 0:
        checks.refuse(name, "an array without axes", ACCEPTED, "Convert it with float().")
    return mx.nd.array(value, dtype=dtype, ctx=ctx)


def _describe(value):
    return f"{value!r} of type {type(value).__name__}" if np.isscalar(value) else f"a {type(value).__name__}"
