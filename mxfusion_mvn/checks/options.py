# SPDX-License-Identifier: Apache-2.0
"""Defects of options that constructors share, in the words of an error: the value, the expected one, what to do."""

import math
import numbers

from mxfusion_mvn.checks import FLOAT_DTYPES

import mxnet as mx
import numpy as np


def dtype_defect(dtype):
    """
    Why an argument is no dtype to compute in.

    :param dtype: anything; None stands for MXFusion's default.
    :returns: None if it is one; else three strings: the value, the expected value and what to do next.
    """
    if dtype is None or _is_floating(dtype):
        return None
    return shown(dtype), "'float32' or 'float64'", "Leave it out for the host's default."


def context_defect(ctx):
    """
    Why an argument is no context for arrays.

    :param ctx: anything; None stands for the current context.
    :returns: as :func:`dtype_defect`.
    """
    if ctx is None or isinstance(ctx, mx.Context):
        return None
    return f"a {type(ctx).__name__}", "an MXNet context such as mx.cpu()", "Leave it out for the current one."


def is_positive(value):
    """
    Whether an argument is a positive, finite number.

    :param value: anything.
    :returns: a bool.
    """
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, (bool, np.bool_))
        and not value <= 0
        and value < math.inf
    )


def shown(value):
    """
    An argument of any kind in a few words.

    :param value: anything.
    :returns: a number or a string as it is written in Python, of everything else the type.
    """
    return repr(value) if isinstance(value, (numbers.Number, str)) or value is None else f"a {type(value).__name__}"


def _is_floating(dtype):
    try:
        return isinstance(dtype, (str, type, np.dtype)) and np.dtype(dtype).name in FLOAT_DTYPES
    except TypeError:
        return False
