# SPDX-License-Identifier: Apache-2.0
"""The arguments of the fuzz: sensible ones, the same spoilt, or anything; and texts for arguments."""

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable


class Case:
    """
    The sizes and the dtype that the arguments of one input share; without it few would pass the first check.

    :param rng: NumPy generator; it makes all choices of the input.
    """

    def __init__(self, rng):
        self.rng = rng
        self.dim = self.pick([1, 2, 2, 3, 5])
        self.leading = self.pick([(), (), (), (2,), (3, 1), (2, 3)])
        self.dtype = self.pick(["float32", "float64"])
        self.scale = self.pick([1.0, 1.0, 1.0, 1e-3, 1e3])
        self.components = self.pick([1, 2, 3])
        #: What the arguments of one input have in common, such as a model.
        self.shared = {}

    def pick(self, choices):
        """One of a list."""
        return choices[self.rng.integers(len(choices))]

    def is_chance(self, probability):
        """True with a probability."""
        return self.rng.random() < probability

    def leading_axes(self):
        """The leading axes of one argument, which broadcast with those of the others."""
        axes = self.leading[self.pick([0, 0, len(self.leading)]) :]
        return tuple(size if self.is_chance(0.8) else 1 for size in axes)

    def normal(self, *event):
        """Standard normals times the scale, with leading axes."""
        return self.scale * self.rng.normal(size=(*self.leading_axes(), *event))

    def positive(self, *event):
        """Positive entries, with leading axes."""
        return self.scale * self.rng.uniform(0.3, 3.0, size=(*self.leading_axes(), *event))

    def covariance(self):
        """Well-conditioned covariance matrices (B..., D, D)."""
        root = self.rng.normal(size=(*self.leading_axes(), self.dim, self.dim + 2))
        return self.scale**2 * (root @ np.swapaxes(root, -1, -2) + 0.3 * np.eye(self.dim))

    def root(self):
        """Their Cholesky factors."""
        return np.linalg.cholesky(self.covariance())

    def correlation(self):
        """Correlation matrices (B..., D, D)."""
        covariance = self.covariance()
        deviations = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
        return covariance / (deviations[..., None] * deviations[..., None, :])

    def index(self):
        """Some positions, fewer than all where there is more than one."""
        return [int(i) for i in self.rng.permutation(self.dim)[: self.rng.integers(1, max(2, self.dim))]]

    def nd(self, value):
        """An NDArray of the case's dtype."""
        return mx.nd.array(value, dtype=self.dtype)

    def held(self, value):
        """An array as an NDArray, or sometimes as a type that is converted to one."""
        kinds = [lambda: value.astype(self.dtype), lambda: value, lambda: value.tolist()]
        return self.nd(value) if self.is_chance(0.8) else self.pick(kinds)()


def spoil(case, value):
    """
    A sensible argument, changed in one way.

    :param case: :class:`Case`.
    :param value: NDArray, NumPy array or list of numbers.
    """
    array = np.array(value.asnumpy() if hasattr(value, "asnumpy") else value, dtype="float64")
    changed = case.pick(SPOILT)(case, array)
    is_plain = isinstance(changed, np.ndarray) and changed.dtype == "float64" and changed.size and changed.ndim
    return case.nd(changed) if is_plain and case.is_chance(0.8) else changed


def _with(entry):
    def change(case, array):
        array = array.copy()
        if array.size:
            array.flat[case.rng.integers(array.size)] = entry
        return array

    return change


def _rows(array):
    return array.reshape(-1, array.shape[-1] if array.ndim and array.size else 1)


def _integers(array):
    return np.rint(np.clip(np.nan_to_num(array), -1e6, 1e6)).astype("int64")


def _frame(case, array):
    import pandas

    return pandas.DataFrame(_rows(array))


# Each takes a Case and a float64 NumPy array.
SPOILT = [
    *map(_with, (np.nan, np.inf, -np.inf, 1e30, 1e300, 1e-40, 0.0, -3.0)),
    *(lambda case, array, factor=factor: factor * array for factor in (0.0, -1.0, 1e25, 1e-25)),
    lambda case, array: np.ones_like(array),
    lambda case, array: array[None],
    lambda case, array: np.stack([array] * case.pick([2, 7])),
    lambda case, array: array[0] if array.ndim and len(array) else array,
    lambda case, array: np.array(1.5),
    lambda case, array: np.concatenate([array, array[..., :1]], axis=-1) if array.ndim else array,
    lambda case, array: array[..., :-1] if array.ndim else array,
    lambda case, array: array.reshape(-1)[:1],
    lambda case, array: np.zeros((0,) + array.shape[1:]),
    lambda case, array: mx.nd.array(np.zeros((0,) + array.shape[1:]), dtype=case.dtype),
    lambda case, array: array.T,
    lambda case, array: array[..., ::-1].copy() if array.ndim else array,
    lambda case, array: _integers(array),
    lambda case, array: mx.nd.array(np.atleast_1d(_integers(array)), dtype="int32"),
    lambda case, array: mx.nd.array(np.atleast_1d(array), dtype="float16"),
    lambda case, array: mx.nd.array(np.atleast_1d(array), dtype="float64" if case.dtype == "float32" else "float32"),
    *(lambda case, array, dtype=dtype: array.astype(dtype) for dtype in ("f2", "longdouble", "c16", "O", "U", ">f8")),
    lambda case, array: array > 0,
    lambda case, array: np.ma.masked_array(array, mask=case.rng.random(array.shape) < 0.3),
    lambda case, array: _integers(array).astype("datetime64[D]"),
    lambda case, array: np.zeros(array.shape, dtype=[("a", "f4"), ("b", "f4")]),
    lambda case, array: np.asfortranarray(array),
    lambda case, array: array.tolist(),
    lambda case, array: tuple(array.tolist()) if array.ndim else (float(array),),
    lambda case, array: [[1.0], [1.0, 2.0]],
    lambda case, array: mx.nd.array(_rows(array)).tostype("csr"),
    lambda case, array: mx.np.array(array),
    _frame,
]

_CONSTANTS = (
    *(None, 0, 1, 2, -1, 7, 1.5, -0.5, np.nan, np.inf, 1e300, 5e-324, 1j, True, False, "", "x", b"x", (1, 2), 2**10),
    *(np.float64(2.0), np.int64(2), np.bool_(True), range(2), dict, mx),
)
ANYTHING = [
    *(lambda case, value=value: value for value in _CONSTANTS),
    *(lambda case, make=make: make() for make in (list, dict, object, Model, lambda: {1, 2}, lambda: {"a": 1})),
    *(lambda case, value=value: list(value) for value in ((0.2, 0.8), (None,), (2**40,), ("a", "b"))),
    lambda case: lambda *arguments: None,
    lambda case: (4, case.dim),
    lambda case: np.ones(case.dim),
    lambda case: np.array(2.0),
    lambda case: np.zeros((0, 2)),
    lambda case: np.eye(case.dim),
    lambda case: case.nd(np.ones(case.dim)),
    lambda case: case.nd(np.eye(case.dim)),
    lambda case: case.nd(np.ones((1, 1))),
    lambda case: mx.nd.array(np.eye(3)).tostype(case.pick(["csr", "row_sparse"])),
    lambda case: mx.sym.Variable("x"),
    lambda case: Variable(shape=(case.dim,)),
]


def numbers_in(value, depth=0):
    """All arrays of real numbers in an argument or a result, as float64 NumPy arrays."""
    if depth > 3 or isinstance(value, (str, bytes, type)):
        return []
    if isinstance(value, mx.nd.NDArray):
        return [value.asnumpy().astype("float64")]
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, (np.ndarray, float, np.floating)):
        value = np.ma.getdata(value)
        return [value.astype("float64")] if value.dtype.kind in "fiub" else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and all(isinstance(each, (int, float)) for each in value):
        return [np.array(value, dtype="float64")] if value else []
    if isinstance(value, (list, tuple)):
        return [array for each in value for array in numbers_in(each, depth + 1)]
    return []


def in_words(value):
    """A short text for an argument."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        entries = numbers_in(value)[0].ravel().tolist() if numbers_in(value) else []
        return f"{type(value).__name__} {value.shape} {entries if len(entries) < 5 else np.dtype(value.dtype)}"
    return " ".join(repr(value).split())[:80]
