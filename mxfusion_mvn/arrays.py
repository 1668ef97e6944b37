# SPDX-License-Identifier: Apache-2.0
"""What the array level takes: MXNet arrays, and beside them numbers and NumPy arrays, checked as far as shapes go.

The arrays of the covariance say what everything else must be: NDArray or Symbol, dtype and context.
"""

import numbers
import operator

from mxfusion_mvn import structures
from mxfusion_mvn.axes import complement, namespace
from mxfusion_mvn.checks import FLOAT_DTYPES, kind_defect
from mxfusion_mvn.failure import RAISE, check_finite, check_positive, check_triangular_factor

import mxnet as mx
import numpy as np


def refuse(argument, got, expected, remedy):
    """
    Raise the array level's error for a bad argument.

    :param argument: the name of the argument.
    :param got: what was given.
    :param expected: what can be used instead.
    :param remedy: what to do next, a full sentence.
    :raises ValueError: always.
    """
    raise ValueError(f"`{argument}`: got {got}; expected {expected}. {remedy}")


def as_structure(given, on_failure):
    """
    The covariance structure of the forms in which :class:`~mxfusion_mvn.Gaussian` takes a covariance.

    :param given: dict from the name of each form to its value, None where it is not given.
    :param on_failure: an :class:`~mxfusion_mvn.OnFailure`; None not to look at any value, nor to wait for it.
    :returns: a :class:`~mxfusion_mvn.structures.Structure`.
    :raises ValueError: unless exactly one form is given, as arrays of fitting shapes and one dtype.
    :raises NotPositiveDefiniteError: for a variance that is not positive, or a zero on the diagonal of a factor.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if sorted(given) != ["diagonal", "factor"] and (len(given) != 1 or "factor" in given or "diagonal" in given):
        refuse(
            "covariance",
            ", ".join(given) or "nothing",
            "exactly one of covariance, precision, scale_tril, variance, or factor with diagonal",
            "They describe the same matrix; keep the one you have.",
        )
    if isinstance(given.get("covariance"), structures.Structure):
        if on_failure is not RAISE:
            refuse("on_failure", "a policy beside a structure", "one of them", "Give the policy to the structure.")
        return given["covariance"]
    for name, value in given.items():
        _check_form(name, value, on_failure)
    if "factor" in given:
        return _low_rank(**given)
    ((name, value),) = given.items()
    if name in ("covariance", "precision"):
        return {"covariance": structures.Dense, "precision": structures.Precision}[name](value, on_failure)
    return {"scale_tril": structures.Cholesky, "variance": structures.Diagonal}[name](value)


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
        _refuse_np(name, value)
        if namespace(value) is not namespace(like):
            got, wanted = (type(array).__name__ for array in (value, like))
            refuse(name, f"a {got} beside a {wanted}", "one kind of array", "Pass it to the block as an input, too.")
    elif namespace(like) is mx.nd and isinstance(value, (numbers.Real, np.ndarray, list, tuple)):
        _refuse_kind(name, value)
        value = mx.nd.array(np.atleast_1d(value), dtype=like.dtype, ctx=like.context)
    else:
        accepted = "a Symbol" if namespace(like) is mx.sym else "an NDArray, a NumPy array or a number"
        refuse(name, f"a {type(value).__name__}", accepted, "Pass an array (..., D).")
    if namespace(value) is mx.sym:
        return value
    if value.dtype != like.dtype:
        got, wanted = (np.dtype(array.dtype).name for array in (value, like))
        refuse(name, f"dtype {got}", f"{wanted}, as the other arrays", f"Convert it with .astype('{wanted}').")
    if size is not None and value.shape[-1] != size:
        refuse(name, f"shape {value.shape}", f"(..., {size})", "The last axis holds one vector.")
    return value


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
        # What has no length may never end; the iteration of a sparse array does not.
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
    :raises ValueError: for what is not an index, or a rest that is missing or not the rest of it.
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


def _check_form(name, value, on_failure):
    if not isinstance(value, (mx.nd.NDArray, mx.sym.Symbol)):
        _refuse_kind(name, value)
        refuse(
            name,
            f"a {type(value).__name__}",
            "an NDArray or a Symbol",
            "Convert it with mx.nd.array(x, dtype='float32'), or 'float64': these arrays say in which precision to "
            "compute.",
        )
    _refuse_np(name, value)
    if namespace(value) is mx.sym:
        return
    if np.dtype(value.dtype).name not in FLOAT_DTYPES:
        refuse(name, f"dtype {np.dtype(value.dtype).name}", "float32 or float64", "Convert it with .astype('float32').")
    is_matrix = name not in ("variance", "diagonal")
    if is_matrix and (value.ndim < 2 or (name != "factor" and value.shape[-1] != value.shape[-2])):
        wanted = "(..., D, r)" if name == "factor" else "(..., D, D)"
        refuse(name, f"shape {value.shape}", wanted, "Pass a vector of variances as `variance`.")
    if on_failure is None:
        return
    if name == "scale_tril":
        check_triangular_factor(value, name)
    elif name == "factor":
        check_finite(value, name)
    elif not is_matrix:
        check_positive(value, name)


def _low_rank(factor, diagonal):
    if namespace(factor) is mx.nd:
        as_array("diagonal", diagonal, factor, factor.shape[-2])
    return structures.LowRank(factor, diagonal)


def _refuse_kind(name, value):
    defect = kind_defect(value) if isinstance(value, (np.ndarray, list, tuple)) else None
    if defect is not None:
        refuse(name, *defect)


def _refuse_np(name, value):
    if isinstance(value, mx.np.ndarray):
        refuse(name, "an mx.np array", "one of MXNet's classic arrays", "Convert it with .as_nd_ndarray().")
