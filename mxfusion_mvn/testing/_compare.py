# SPDX-License-Identifier: Apache-2.0
"""Comparisons of arrays for the conformance suite, and conversions between NumPy and MXNet."""

import warnings
from contextlib import contextmanager

import mxnet as mx
import numpy as np

# Relative errors, for correlation matrices of a condition number up to MAX_CONDITION.
TOLERANCE = {"float32": 3e-5, "float64": 1e-11}
MAX_CONDITION = 300
GRADIENT_TOLERANCE = 1e-7
# Symbols run the same operators as NDArrays.
ROUNDING = {"float32": 2e-6, "float64": 4e-15}
SCALES = (1e-12, 1e12)
# Leading axes of the matrix and of the vectors. Symbols take the first three.
EQUAL_AXES = [((), ()), ((3,), (3,)), ((2, 3), (2, 3))]
LEADING_AXES = EQUAL_AXES + [((), (4,)), ((), (2, 3)), ((3,), ()), ((3,), (2, 1)), ((1, 3), (2, 1)), ((2, 1), (3,))]
NUM_DRAWS = 4000
# Standard errors: a right sampler exceeds this many in one of a million entries.
Z_BOUND = 5.0


@contextmanager
def raising(name, case):
    """Turn any error into the failure of a property."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{name} ({case}): raised {type(error).__name__}: {error}; expected no error") from error


def refused(name, case, log_pdf):
    """Check that the density of bad input is NaN, or raises an error of any type."""
    try:
        got = log_pdf().asnumpy()
    except Exception:
        return
    if not np.isnan(got).any():
        raise AssertionError(f"refusal of {name} ({case}): got log_pdf {got}; expected an error or NaN")


def compare(name, case, got, expected, size, tolerance, dtype):
    """Compare shape and dtype, then values, up to a tolerance relative to the value plus a size."""
    if got.shape != expected.shape:
        raise AssertionError(f"{name} ({case}): got shape {got.shape}; expected {expected.shape}")
    if got.dtype != np.dtype(dtype):
        raise AssertionError(f"{name} ({case}): got dtype {got.dtype}; expected {dtype}")
    size = np.broadcast_to(size, expected.shape)
    with np.errstate(invalid="ignore"):
        error = np.where(got == expected, 0, np.abs(got - expected) / (np.abs(expected) + size))
    if not np.all(error <= tolerance):
        index = tuple(int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape))
        raise AssertionError(
            f"{name} ({case}): got {got[index]} at index {index}, a relative error of {error[index]:.3g}; "
            f"expected {expected[index]} up to {tolerance}"
        )


def compare_derivative(name, case, gradient, direction, objective, values):
    """Compare a gradient along a direction with a difference of fourth order."""
    step = 2e-5

    def moved(steps):
        return objective(**{**values, name: values[name] + steps * step * direction})

    expected = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step)
    got = np.sum(gradient * direction)
    size = np.sum(np.abs(gradient * direction))
    compare(f"gradient of {name}", case, got, expected, size, GRADIENT_TOLERANCE, "float64")


def compare_moments(case, draws, mean, covariance):
    """Check that sample mean and covariance of draws (S, D) are right within their standard errors."""
    draws = draws.astype("float64") - mean
    moments = {"mean": draws.mean(0), "covariance": draws.T @ draws / len(draws)}
    variance = np.diagonal(covariance)
    errors = {
        "mean": np.sqrt(variance / len(draws)),
        "covariance": np.sqrt((np.outer(variance, variance) + covariance**2) / len(draws)),
    }
    expected = {"mean": 0 * mean, "covariance": covariance}
    for name, got in moments.items():
        off = np.abs(got - expected[name]) / errors[name]
        if not off.max() < Z_BOUND:
            shown = got if name == "covariance" else got + mean
            wanted = covariance if name == "covariance" else mean
            raise AssertionError(
                f"{name} of draws ({case}): got {shown}, {off.max():.3g} standard errors off; expected {wanted}"
            )


def describe(dtype, dim, remark="", scale=1.0):
    """A text for a case, for messages."""
    return f"{dtype}, D = {dim}" + (f", {remark}" if remark else "") + (f", scale {scale:g}" if scale != 1 else "")


def diagonals(matrices):
    """The diagonals of NumPy matrices (B..., D, D), (B..., D)."""
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def in_float64(arrays):
    """A dict of NumPy arrays, converted to float64."""
    return {name: array.astype("float64") for name, array in arrays.items()}


def to_nd(arrays):
    """NDArrays with the dtypes of NumPy arrays; a dict for a dict, a list for a list."""
    if isinstance(arrays, dict):
        return {name: to_nd(array) for name, array in arrays.items()}
    if isinstance(arrays, list):
        return [to_nd(array) for array in arrays]
    return mx.nd.array(arrays, dtype=arrays.dtype)


def to_numpy(arrays):
    """A dict of NDArrays, converted to NumPy arrays."""
    return {name: array.asnumpy() for name, array in arrays.items()}


class _Block(mx.gluon.HybridBlock):
    """A function of arrays that returns a dict, as a Gluon block."""

    def __init__(self, function):
        super().__init__()
        self._function = function
        self.names = []

    def hybrid_forward(self, F, *arrays):
        results = self._function(*arrays)
        self.names = list(results)
        return list(results.values())


def hybridized(function, arrays):
    """The results of a function, evaluated on Symbols: dict from name to NDArray."""
    block = _Block(function)
    block.hybridize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is not used by any computation", UserWarning)
        values = block(*arrays)
    return dict(zip(block.names, values))


def check_dtypes(dtypes):
    """Raise a ValueError unless they are float32 and float64, or one of these."""
    if not set(dtypes) <= {"float32", "float64"}:
        raise ValueError(f"`dtypes`: got {dtypes!r}; expected a list of 'float32', 'float64' or both.")
