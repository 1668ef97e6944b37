# SPDX-License-Identifier: Apache-2.0
"""Checks where a model is defined: on plain NumPy arrays and shape tuples, before anything is learned.

They raise MXFusion's own ``ModelSpecificationError``.
"""

from mxfusion_mvn.checks.data import kind_defect
from mxfusion_mvn.checks.wording import at_index, plain_index, refusal, show_shape

import numpy as np
from mxfusion import Model
from mxfusion.common.exceptions import ModelSpecificationError

FLOAT_DTYPES = ("float32", "float64")


def refuse(argument, got, expected, remedy):
    """
    Raise the package's error for a bad argument.

    :param argument: the name of the argument, as the user wrote it.
    :param got: what was given.
    :param expected: what can be used instead.
    :param remedy: what to do next, a full sentence.
    :raises ModelSpecificationError: always.
    """
    raise ModelSpecificationError(refusal(argument, got, expected, remedy))


def check_name(name):
    """
    Refuse a name that MXFusion's models use for something else.

    :param name: the name of a variable, or None.
    :raises ModelSpecificationError: if models have an attribute of this name.
    """
    if name == "name" or name is not None and hasattr(Model, name):
        refuse(
            name,
            "a variable of this name",
            "another name, because MXFusion's models have an attribute of this one",
            f"Write model.{name}_ = ..., for example.",
        )


def check_floating(argument, dtype):
    """
    Refuse arrays that MXNet's linear algebra cannot factor.

    :param argument: the name of the argument.
    :param dtype: the dtype of the array.
    :raises ModelSpecificationError: unless the dtype is float32 or float64.
    """
    if np.dtype(dtype).name not in FLOAT_DTYPES:
        refuse(
            argument,
            f"dtype {np.dtype(dtype).name}",
            "float32 or float64",
            "Convert it first, for example with .astype('float32').",
        )


def floating_dtype(dtypes):
    """
    The dtype in which arrays of several dtypes meet: never an integer dtype, which drops the digits behind the point.

    :param dtypes: iterable of dtypes.
    :returns: float32 or float64, a NumPy dtype: the widest; None if none of them is one.
    """
    floating = [dtype for dtype in map(np.dtype, dtypes) if dtype.name in FLOAT_DTYPES]
    return np.result_type(*floating) if floating else None


def check_kind(argument, value):
    """
    Refuse arrays that are not real numbers in all entries.

    :param argument: the name of the argument.
    :param value: anything; what is no NumPy array, list or tuple passes.
    :raises ModelSpecificationError: for masked entries, and for complex numbers, times, records, objects and strings.
    """
    defect = kind_defect(value) if isinstance(value, (np.ndarray, list, tuple)) else None
    if defect is not None:
        refuse(argument, *defect)


def check_finite(argument, value):
    """
    Refuse NaN and infinity.

    :param argument: the name of the argument.
    :param value: NumPy array of any shape.
    :raises ModelSpecificationError: naming the first entry that is not finite.
    """
    _refuse_entries(argument, value, ~np.isfinite(value), "finite numbers", "Remove or impute these entries.")


def check_matrix(argument, shape, square=True):
    """
    Refuse anything but matrices, batched or not.

    :param argument: the name of the argument.
    :param shape: the shape, of which the last two entries are compared where both are integers.
    :param square: whether these must be equal.
    :raises ModelSpecificationError: if there are fewer than two axes, or the matrix is empty or not square.
    """
    if len(shape) < 2:
        refuse(
            argument,
            f"shape {show_shape(shape)}",
            "a matrix (..., D, D)" if square else "a matrix",
            "Write a vector of variances as np.diag(variances)." if square else "Add an axis of size 1.",
        )
    rows, columns = shape[-2:]
    if square and isinstance(rows, int) and isinstance(columns, int) and rows != columns:
        refuse(argument, f"shape {show_shape(shape)}", "square matrices (..., D, D)", "Check the order of the axes.")
    if 0 in (rows, columns):
        refuse(argument, f"shape {show_shape(shape)}", "D >= 1", "A Gaussian vector has at least one entry.")


def check_symmetric(argument, value):
    """
    Refuse matrices that are asymmetric beyond rounding, of which the Cholesky factorisation would read one half only.

    :param argument: the name of the argument.
    :param value: finite NumPy array (..., D, D).
    :raises ModelSpecificationError: naming the worst entry, as :func:`asymmetry` does.
    """
    defect = asymmetry(value)
    if defect is not None:
        refuse(argument, *defect)


def asymmetry(value):
    """
    The worst entry of a matrix that is asymmetric beyond rounding.

    The bound is sqrt(machine epsilon) times the geometric mean of the two diagonal entries involved; entries that
    float32 holds exactly are taken to be rounded to it.

    :param value: finite NumPy array (..., D, D).
    :returns: None if there is none; else three strings: the value, the expected value and what to do next.
    """
    scale = np.sqrt(np.abs(np.diagonal(value, axis1=-2, axis2=-1)))
    scale = scale[..., :, None] * scale[..., None, :]
    difference = np.abs(value - np.swapaxes(value, -1, -2))
    excess = difference - np.sqrt(rounding(value)) * scale
    if excess.max() <= 0:
        return None
    index = np.unravel_index(np.argmax(excess), excess.shape)
    mirror = index[:-2] + (index[-1], index[-2])
    got = f"{value[index]} at index {plain_index(index)} but {value[mirror]} at {plain_index(mirror)}"
    return got, "a symmetric matrix", "Use (A + A.T) / 2 if the difference is rounding."


def check_positive_definite(argument, value):
    """
    Refuse matrices that have no Cholesky factor in their own precision.

    :param argument: the name of the argument.
    :param value: finite symmetric NumPy array (..., D, D).
    :raises ModelSpecificationError: naming the batch index and the smallest eigenvalue of the first such matrix.
    """
    index = first_not_positive_definite(value)
    if index is not None:
        refuse(
            argument,
            f"a matrix{at_index(index)} whose smallest eigenvalue is {smallest_eigenvalue(value[index])}",
            "a positive definite matrix",
            "Add a multiple of the identity, or check how it was estimated.",
        )


def check_covariance(argument, value):
    """
    Refuse what is not a covariance matrix, or a precision matrix.

    :param argument: the name of the argument.
    :param value: finite NumPy array (..., D, D).
    :raises ModelSpecificationError: if a matrix is not symmetric or not positive definite.
    """
    check_symmetric(argument, value)
    check_positive_definite(argument, value)


def first_not_positive_definite(value):
    """
    Find a matrix that has no Cholesky factor in its own precision.

    :param value: finite NumPy array (B..., D, D).
    :returns: its batch index, a tuple, or None if all have one.
    """
    try:
        np.linalg.cholesky(value)
    except np.linalg.LinAlgError:
        for index in np.ndindex(value.shape[:-2]):
            try:
                np.linalg.cholesky(value[index])
            except np.linalg.LinAlgError:
                return index
    return None


def smallest_eigenvalue(matrix):
    """
    The smallest eigenvalue in words, computed in float64.

    :param matrix: finite symmetric NumPy array (D, D).
    :returns: a string of six significant digits.
    """
    return f"{np.linalg.eigvalsh(matrix.astype('float64'))[0]:.6g}"


def check_positive(argument, value):
    """
    Refuse zero and negative entries.

    :param argument: the name of the argument.
    :param value: finite NumPy array of any shape.
    :raises ModelSpecificationError: naming the first such entry.
    """
    remedy = "Replace them, for example by a small positive number."
    _refuse_entries(argument, value, value <= 0, "positive numbers", remedy)


def check_not_negative(argument, value):
    """
    Refuse negative entries.

    :param argument: the name of the argument.
    :param value: finite NumPy array of any shape.
    :raises ModelSpecificationError: naming the first such entry.
    """
    bad = np.argwhere(value < 0)
    if len(bad):
        index = plain_index(bad[0])
        refuse(argument, f"{value[index]} at index {index}", "numbers that are not negative", "Check the sign.")


def check_lower_triangular(argument, value):
    """
    Refuse matrices that are no factor of a covariance.

    :param argument: the name of the argument.
    :param value: finite NumPy array (..., D, D).
    :raises ModelSpecificationError: for entries above the diagonal, or a zero on it.
    """
    defect = above_diagonal(value, 0.0)
    if defect is not None:
        refuse(argument, *defect)
    zeros = np.argwhere(np.diagonal(value, axis1=-2, axis2=-1) == 0)
    if len(zeros):
        refuse(
            argument,
            f"0 at diagonal position {plain_index(zeros[0])}",
            "a non-zero diagonal",
            "A zero makes the covariance singular.",
        )


def above_diagonal(value, tolerance):
    """
    The worst entry above the diagonal of a factor, of which only the lower triangle is read.

    :param value: NumPy array (..., D, D), finite in the lower triangle.
    :param tolerance: the largest entry that counts as zero, relative to the norm of the row of the lower triangle.
    :returns: as :func:`asymmetry`.
    """
    if not np.triu(value, 1).any():
        return None
    norms = np.sqrt(np.square(np.tril(value)).sum(axis=-1, keepdims=True))
    excess = np.triu(np.abs(value) - tolerance * norms, 1)
    if excess.max() <= 0:
        return None
    index = plain_index(np.unravel_index(np.argmax(excess), excess.shape))
    got = f"{value[index]} at index {index}, above the diagonal"
    remedy = "Take the lower factor of np.linalg.cholesky; a full matrix is another argument."
    return got, "a lower triangular matrix", remedy


def rounding(value):
    """
    The machine epsilon of the precision that values were rounded to, which in a float64 array may be float32.

    :param value: NumPy array of float32 or float64.
    :returns: a number.
    """
    with np.errstate(over="ignore"):
        narrow = value.astype("float32")
    return np.finfo("float32" if np.array_equal(narrow, value) else value.dtype).eps


def _refuse_entries(argument, value, bad, expected, remedy):
    positions = np.argwhere(bad)
    if len(positions):
        index = plain_index(positions[0])
        refuse(argument, f"{value[index]} at index {index} ({len(positions)} such entries)", expected, remedy)
