# SPDX-License-Identifier: Apache-2.0
"""Defects of arrays that users bring: their kind, and a shape other than the declared one."""

import warnings
from typing import Any

from mxfusion_mvn.checks.wording import show_shape

import numpy as np


def kind_defect(value):
    """
    Why an array, or a list that can become one, cannot be read as real numbers.

    :param value: NumPy array, list or tuple.
    :returns: None if it can; else three strings: the value, the expected value and what to do next.
    """
    masked = int(np.ma.getmaskarray(value).sum()) if isinstance(value, np.ma.MaskedArray) else 0
    if masked:
        remedy = "Fill them with x.filled(value); where missing entries are allowed, with x.filled(np.nan)."
        return f"a masked array with {masked} masked entries", "numbers in all entries", remedy
    if isinstance(value, (list, tuple)):
        value = _array_of(value)
    kind = "O" if value is None else value.dtype.kind
    if kind in "fiub":
        return None
    got = "a ragged list" if value is None else f"an array of dtype {value.dtype}"
    return got, "real numbers", _REMEDIES.get(kind, _REMEDIES["O"])


def frame_defect(frame):
    """
    Why a table cannot be read as real numbers.

    :param frame: DataFrame or Series of pandas.
    :returns: as of :func:`kind_defect`.
    """
    kinds: Any = getattr(frame, "dtypes", None)
    columns = list(kinds.items()) if hasattr(kinds, "items") else [(getattr(frame, "name", None), kinds)]
    for column, kind in columns:
        if getattr(kind, "kind", "O") not in "fiub":
            got = f"a {type(frame).__name__} whose column {column!r} is of dtype {kind}"
            remedy = (
                "Leave it out, or turn it into numbers, for example with np.unique(column, return_inverse=True)[1]."
            )
            return got, "columns of numbers", remedy
    return None


def fill_masked(value):
    """
    A masked array of numbers with NaN where it is masked; one of another kind as it is.

    :param value: NumPy masked array of any shape.
    :returns: NumPy array.
    """
    return value.astype("float64").filled(np.nan) if value.dtype.kind in "fiub" else value


_REMEDIES = {
    "c": "Take its real part, x.real, or real and imaginary part as two columns.",
    "m": "Divide by a unit: x / np.timedelta64(1, 'D').",
    "M": "Take the time since a beginning, in a unit: (x - x.min()) / np.timedelta64(1, 'D').",
    "V": "Stack its fields: np.stack([x[name] for name in x.dtype.names], axis=-1).",
    "O": "Convert it with np.array(x, dtype='float32'), which says what is not a number.",
    "S": "Convert it with x.astype('float32').",
    "U": "Convert it with x.astype('float32'); of labels take np.unique(x, return_inverse=True)[1].",
}


def _array_of(entries):
    """A list or tuple as a NumPy array; None if its parts differ in length."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of NumPy before 1.24, where ragged lists become arrays of objects
        try:
            return np.array(entries)
        except (ValueError, Warning):
            return None


def shape_remedy(name, got, declared):
    """
    What to do about data of another shape than declared.

    :param name: the name of the data.
    :param got: their shape, a tuple of integers.
    :param declared: the shape of the variable, a tuple of integers and Variables.
    :returns: a sentence.
    """
    known = [size if isinstance(size, int) else None for size in declared]
    if len(got) == 1 and len(known) == 2 and known[1] == 1:
        return f"Write {name}.reshape(-1, 1)."
    if len(got) == 1 and len(known) == 2 and known[1] == got[0]:
        return f"If it is a single row, write {name}.reshape(1, -1)."
    if len(got) == len(known) == 2 and _matches(got[::-1], known):
        return f"It fits when transposed: write {name}.T."
    lacks_rows = len(got) == len(known) + 1 and _matches(got[1:], known)
    if lacks_rows or (len(got) == len(known) and known[0] is not None and _matches(got[1:], known[1:])):
        event = declared if lacks_rows else declared[1:]
        sizes = f"(model.N, {show_shape(event)[1:-1].rstrip(',')})" if event else "(model.N,)"
        return f"For any number of rows declare it with shape={sizes}, where model.N = Variable()."
    return "Bring the data into that shape, or declare the variable with theirs."


def _matches(got, known):
    return all(size in (None, mine) for mine, size in zip(got, known))
