# SPDX-License-Identifier: Apache-2.0
"""Arguments of the array level: MXNet arrays, and beside them numbers and NumPy arrays, whose shapes are checked.

The arrays of the covariance say what everything else must be: NDArray or Symbol, dtype and context.
"""

import numbers
import operator

from mxfusion_mvn.checks import FLOAT_DTYPES, above_diagonal, asymmetry, kind_defect, rounding
from mxfusion_mvn.checks.failure import OnFailure
from mxfusion_mvn.checks.wording import refusal
from mxfusion_mvn.linalg.axes import complement, do_broadcast, namespace

import mxnet as mx
import numpy as np
from mxnet import autograd

_SHAPE_REMEDIES = {
    "D": "The last axis holds one vector.",
    "DD": "Pass a vector of variances as `variance`.",
    "Dr": "Write W.expand_dims(-1) for a single column.",
}


def refuse(argument, got, expected, remedy):
    """
    Raise the array level's error for a bad argument.

    :param argument: the name of the argument.
    :param got: what was given.
    :param expected: what can be used instead.
    :param remedy: what to do next, a full sentence.
    :raises ValueError: always.
    """
    raise ValueError(refusal(argument, got, expected, remedy))


def as_array(name, value, like, size=None):
    """
    An argument as an array that can meet another one.

    :param name: the name of the argument.
    :param value: NDArray or Symbol as ``like`` is; beside NDArrays also a NumPy array, list or number.
    :param like: the array that says of which kind, dtype and context.
    :param size: what the last axis of an NDArray must be.
    :returns: NDArray or Symbol; of a number shape (1,).
    :raises ValueError: for another type, dtype or size, masked entries, and arrays of anything but real numbers.
    """
    if isinstance(value, (mx.nd.NDArray, mx.sym.Symbol)):
        _refuse_other_arrays(name, value)
        check_alike(name, value, like)
    elif namespace(like) is mx.nd and isinstance(value, (numbers.Real, np.ndarray, list, tuple)):
        _refuse_kind(name, value)
        value = mx.nd.array(np.atleast_1d(np.asarray(value)), dtype=like.dtype, ctx=like.context)
    else:
        accepted = "a Symbol" if namespace(like) is mx.sym else "an NDArray, a NumPy array or a number"
        refuse(name, f"a {type(value).__name__}", accepted, "Pass an array (..., D).")
    if size is not None and namespace(value) is mx.nd and value.shape[-1] != size:
        refuse(name, f"shape {value.shape}", f"(..., {size})", "The last axis holds one vector.")
    return value


def as_mean(mean, like, dim):
    """
    The mean of a Gaussian as an array.

    :param mean: as in :func:`as_array`; one entry stands for all.
    :param like: an array with the size of a vector, which says of which kind, dtype and context.
    :param dim: D; None for Symbols.
    :returns: NDArray (B..., D) or (B..., 1), or Symbol.
    :raises ValueError: as :func:`as_array` does.
    """
    if isinstance(mean, numbers.Real):
        # MXNet cannot read scalars that are smaller than the smallest normal one.
        is_tiny = abs(float(mean)) < np.finfo("float64").tiny
        return namespace(like).zeros_like(like) + (0.0 if is_tiny else mean)
    return as_array("mean", mean, like, None if isinstance(mean, mx.nd.NDArray) and mean.shape[-1] == 1 else dim)


def check_leading(name, shape, event_axes, held):
    """
    Refuse an argument whose leading axes do not broadcast with the leading axes of other arrays.

    :param name: the name of the argument.
    :param shape: its shape, a tuple.
    :param event_axes: how many of its axes are not leading ones.
    :param held: dict from the name of each array to (its leading axes, its other axes), two tuples.
    :raises ValueError: naming the first of the others that does not fit.
    """
    own = shape[: len(shape) - event_axes]
    for other, (leading, event) in held.items():
        if other != name and not do_broadcast(own, leading):
            refuse(
                name,
                f"shape {shape} beside `{other}` of shape {leading + event}",
                "leading axes that are equal or 1, aligned from the right",
                "Write x.expand_dims(1) to evaluate all rows under each of several Gaussians.",
            )


def check_parameter(name, value, event):
    """
    Refuse anything that is no array of a covariance structure. Its values are not looked at.

    :param name: the name of the argument.
    :param value: anything.
    :param event: letters for the last axes, equal ones for equal sizes: ``D``, ``DD`` or ``Dr``.
    :raises ValueError: unless it is a Symbol, or an NDArray of float32 or float64 with such axes.
    """
    if not isinstance(value, (mx.nd.NDArray, mx.sym.Symbol)):
        _refuse_kind(name, value)
        refuse(
            name,
            f"a {type(value).__name__}",
            "an NDArray or a Symbol",
            "Convert it with mx.nd.array(x, dtype='float32'), or 'float64': these arrays say in which precision to "
            "compute.",
        )
    _refuse_other_arrays(name, value)
    if namespace(value) is mx.sym:
        return
    dtype, shape = np.dtype(value.dtype).name, value.shape
    if dtype not in FLOAT_DTYPES:
        refuse(name, f"dtype {dtype}", "float32 or float64", "Convert it with .astype('float32').")
    if len(shape) < len(event) or (event == "DD" and shape[-1] != shape[-2]):
        refuse(name, f"shape {shape}", f"(..., {', '.join(event)})", _SHAPE_REMEDIES[event])
    if 0 in shape:
        refuse(name, f"shape {shape}", "at least one entry", "Check how it is computed.")


def check_scaling(name, value, matrix_name, matrix):
    """
    Refuse a vector that does not fit the rows of a matrix.

    :param name: the name of the vector.
    :param value: (B..., D), which passes :func:`check_parameter`.
    :param matrix_name: the name of the matrix.
    :param matrix: (B'..., D, E), which does, too.
    :raises ValueError: unless both are of one kind and dtype, and of NDArrays D is the same and the others broadcast.
    """
    as_array(name, value, matrix, None if namespace(matrix) is mx.sym else matrix.shape[-2])
    if namespace(matrix) is mx.nd and not do_broadcast(value.shape[:-1], matrix.shape[:-2]):
        refuse(
            name,
            f"shape {value.shape} beside `{matrix_name}` of shape {matrix.shape}",
            "leading axes that are equal or 1, aligned from the right",
            "Insert axes of size 1 with .expand_dims(axis).",
        )


def check_alike(name, value, like):
    """
    Refuse an array that cannot meet another one in a computation.

    :param name: the name of the argument.
    :param value: NDArray or Symbol.
    :param like: NDArray or Symbol.
    :raises ValueError: for another kind or dtype.
    """
    if namespace(value) is not namespace(like):
        got, wanted = (type(array).__name__ for array in (value, like))
        refuse(name, f"a {got} beside a {wanted}", "one kind of array", "Pass it to the block as an input, too.")
    if namespace(value) is mx.nd and value.dtype != like.dtype:
        got, wanted = (np.dtype(array.dtype).name for array in (value, like))
        refuse(name, f"dtype {got}", f"{wanted}, as the other arrays", f"Convert it with .astype('{wanted}').")


def check_count(name, value):
    """
    Refuse anything that is no count.

    :param name: the name of the argument.
    :param value: anything.
    :raises ValueError: unless it is a positive integer.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        refuse(name, repr(value), "a positive integer", f"Write {name}=3, for example.")


def check_policy(on_failure):
    """
    Refuse anything that is no policy for matrices that cannot be factored.

    :param on_failure: anything.
    :raises ValueError: unless it is an :class:`~mxfusion_mvn.OnFailure` or None.
    """
    if on_failure is not None and not isinstance(on_failure, OnFailure):
        refuse("on_failure", f"{on_failure!r}", "an OnFailure or None", "Write OnFailure('jitter').")


def check_symmetric(name, matrix):
    """
    Refuse a matrix of which a factorisation would ignore one half. It is not looked at while training.

    :param name: the name of the argument.
    :param matrix: NDArray (B..., D, D).
    :raises ValueError: for a finite one that is asymmetric beyond rounding, naming the worst entry.
    """
    if autograd.is_recording() or matrix.grad is not None:
        return
    value = matrix.asnumpy()
    if np.array_equal(value, np.swapaxes(value, -1, -2)) or not np.isfinite(value).all():
        return
    defect = asymmetry(value)
    if defect is not None:
        refuse(name, *defect)


def check_lower_triangular(name, matrix):
    """
    Refuse a factor of which one half would be ignored. It is not looked at while training.

    :param name: the name of the argument.
    :param matrix: NDArray (B..., D, D), finite in the lower triangle.
    :raises ValueError: for entries above the diagonal that are more than rounding, naming the worst.
    """
    if autograd.is_recording() or matrix.grad is not None:
        return
    value = matrix.asnumpy()
    defect = above_diagonal(value, np.sqrt(rounding(value)))
    if defect is not None:
        refuse(name, *defect)


def as_positions(index, dim):
    """
    Positions within a vector.

    :param index: list, range or NumPy array of integers.
    :param dim: D.
    :returns: a list of integers.
    :raises ValueError: unless they are distinct integers from 0 to D - 1.
    """
    if isinstance(index, range) and len(index) > dim:  # which as a list might not fit into memory
        refuse("index", f"{index}", f"distinct positions from 0 to {dim - 1}", "List each once.")
    positions = as_integers("index", index)
    if not positions or len(set(positions)) < len(positions) or not all(0 <= i < dim for i in positions):
        refuse("index", f"{positions}", f"distinct positions from 0 to {dim - 1}", "List each once.")
    return positions


def as_integers(name, index):
    """
    A list of integers, whose range is not checked: for Symbols, which have no size.

    :param name: the name of the argument.
    :param index: list, range or NumPy array of integers.
    :returns: a list of integers.
    :raises ValueError: for anything else, masks among them.
    """
    try:
        # Iterating over an object without a length may never end, and over a sparse array does not.
        if isinstance(index, (mx.nd.NDArray, str, bytes, dict, set, frozenset)) or not hasattr(index, "__len__"):
            raise TypeError
        index = list(index)
        if any(isinstance(i, (bool, np.bool_)) for i in index):
            raise TypeError
        return [operator.index(i) for i in index]
    except TypeError:
        got = f"a {type(index).__name__}" if isinstance(index, mx.nd.NDArray) else f"{index!r}"
        return refuse(name, got, "a list of integers", "Write [2] for one position, np.flatnonzero(mask) for a mask.")


def split(index, rest, dim, needs_rest=True):
    """
    Positions and all others.

    :param index: list, range or NumPy array of integers.
    :param rest: the other positions, which only Symbols need; else None or the same.
    :param dim: D, or None for Symbols.
    :param needs_rest: whether Symbols do need it.
    :returns: (index, rest), lists of integers; rest is None where nobody knows.
    :raises ValueError: unless index is an index and rest, where it is needed, all other positions.
    """
    if dim is None:
        if rest is None and needs_rest:
            refuse("rest", "None for Symbols, which have no shape", "the list of all other positions", "Pass it, too.")
        return as_integers("index", index), None if rest is None else as_integers("rest", rest)
    index = as_positions(index, dim)
    others = complement(index, dim)
    if rest is None:
        return index, others
    rest = as_integers("rest", rest)
    if sorted(rest) != others:
        refuse("rest", f"{rest}", f"the positions {others} in any order", "Leave it out; only Symbols need it.")
    return index, rest


def _refuse_kind(name, value):
    defect = kind_defect(value) if isinstance(value, (np.ndarray, list, tuple)) else None
    if defect is not None:
        refuse(name, *defect)


def _refuse_other_arrays(name, value):
    if isinstance(value, mx.np.ndarray):
        refuse(name, "an mx.np array", "one of MXNet's classic arrays", "Convert it with .as_nd_ndarray().")
    if isinstance(value, mx.nd.sparse.BaseSparseNDArray):
        refuse(name, f"a sparse {type(value).__name__}", "a dense array", "Convert it with .tostype('default').")
