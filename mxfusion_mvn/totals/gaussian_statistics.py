# SPDX-License-Identifier: Apache-2.0
"""The statistics of Gaussian rows that need not fit into memory, nor lie on one machine."""

from __future__ import annotations

import math
from typing import Any, Iterable, Iterator

from mxfusion_mvn import checks
from mxfusion_mvn.checks.arguments import check_count, refuse
from mxfusion_mvn.checks.options import shown
from mxfusion_mvn.totals import moments
from mxfusion_mvn.totals.moments import Moments
from mxfusion_mvn.totals.patterns import codes

import mxnet as mx
import numpy as np

# Entries that are taken into memory at once,
_BLOCK = 2**20
# and how many rows at least for each column: with fewer to join them takes longer than to multiply them.
_ROWS_FOR_A_COLUMN = 8


class GaussianStatistics:
    """
    Count, mean and scatter of rows, which for a Gaussian say as much as the rows.

    ``inference.run(X=statistics)`` of :class:`~mxfusion_mvn.inference.GradBasedInference` fits
    :class:`~mxfusion_mvn.MultivariateNormal`, :class:`~mxfusion_mvn.LowRankMultivariateNormal` and
    :class:`~mxfusion_mvn.MatrixNormal` as to all rows, at the cost of D + 1 of them.

    Rows come in chunks of any size and in any order, and statistics of parts are joined::

        statistics = GaussianStatistics.of(np.load("rows.npy", mmap_mode="r"))
        statistics = functools.reduce(GaussianStatistics.merge, parts)  # made by other processes, and pickled

    All is computed in float64, whatever the dtype of the rows, and stays exact to rounding for rows far from zero and
    for columns that are nearly collinear (:mod:`mxfusion_mvn.totals.moments`). A chunk is multiplied by itself where
    that loses no digits, and else factored, which takes about six times as long.

    Entries that are NaN are missing. Rows with the same observed entries, D' of them, have statistics of their own,
    which take (D' + 1)^2 numbers of memory. Rows in which nothing is observed say nothing, and are not counted.

    :param max_patterns: how many sets of observed entries there may be.
    :raises ValueError: unless that is a positive integer.
    """

    def __init__(self, max_patterns: int = 1000) -> None:
        check_count("max_patterns", max_patterns)
        self.max_patterns = max_patterns
        self._shape: tuple[int, ...] | None = None
        # By the bytes of a mask (D,) of booleans, which entries are observed.
        self._parts: dict[bytes, Moments] = {}

    @classmethod
    def of(cls, chunks: Iterable[Any], max_patterns: int = 1000) -> GaussianStatistics:
        """
        The statistics of rows in chunks.

        :param chunks: iterable of what :meth:`update` takes, each of which is read once; or a single one of these, read
            block by block, so that it may be larger than memory.
        :param max_patterns: as for the class.
        :returns: :class:`GaussianStatistics`.
        :raises ValueError: as :meth:`update` does, and for anything else.
        """
        is_array, shape = hasattr(chunks, "shape"), getattr(chunks, "shape", None) or ()
        if isinstance(chunks, (str, bytes, type)) or not (is_array or hasattr(chunks, "__iter__")):
            refuse("chunks", shown(chunks), "arrays (n, D)", "Of a file write of(np.load(file, mmap_mode='r')).")
        if is_array and len(shape) < 2:
            refuse("chunks", f"an array of shape {shape}", "arrays (n, D)", "Write [rows] for a list of arrays.")
        statistics = cls(max_patterns)
        for chunk in [chunks] if is_array else chunks:
            if not (hasattr(chunk, "shape") or isinstance(chunk, (list, tuple))):
                remedy = "Write [rows] for a single list of rows."
                refuse("chunks", f"{shown(chunk)} among them", "arrays (n, D)", remedy)
            statistics.update(chunk)
        return statistics

    def update(self, rows: Any) -> GaussianStatistics:
        """
        Add rows.

        :param rows: (n, D), or (n, ...) for rows of more axes, such as the matrices of a ``MatrixNormal``: NumPy array,
            memory map, NDArray, DataFrame, or another object with ``shape`` and slices of rows that NumPy can read, as
            a dataset of h5py or zarr is. NaN, and what is masked, is missing.
        :returns: these statistics.
        :raises ValueError: for arrays of another shape than those before, or of anything but numbers; for infinite
            entries; and if there are more patterns of missing entries than ``max_patterns``. Then nothing was added.
        """
        rows = rows if hasattr(rows, "shape") else _from_list(rows)
        if isinstance(rows, mx.nd.sparse.BaseSparseNDArray):
            rows = rows.tostype("default")
        shape = self._checked_shape(tuple(rows.shape))
        found: dict[bytes, Moments] = {}
        size = max(_BLOCK // math.prod(shape), _ROWS_FOR_A_COLUMN * math.prod(shape))
        for start in range(0, rows.shape[0], size):
            block = _as_numpy(rows[start : start + size])
            for observed, part in _moments_by_pattern(block.reshape(len(block), -1), start):
                _add(found, observed, part)
            self._check_patterns(found)
        if found:
            self._parts, self._shape = _joined(self._parts, found), shape
        return self

    def merge(self, other: GaussianStatistics) -> GaussianStatistics:
        """
        The statistics of two sets of rows together; these and the others stay as they are.

        :param other: the others.
        :returns: :class:`GaussianStatistics`, with ``max_patterns`` of these.
        :raises ValueError: if they are of rows of another shape, or together have too many patterns of missing entries.
        """
        if not isinstance(other, GaussianStatistics):
            refuse("other", f"a {type(other).__name__}", "GaussianStatistics", "Rows are added by update.")
        if None not in (self.shape, other.shape) and self.shape != other.shape:
            got, expected = f"rows of shape {other.shape}", f"rows of shape {self.shape}, as these"
            refuse("other", got, expected, "Look at where the parts come from.")
        self._check_patterns(other._parts)
        both = GaussianStatistics(self.max_patterns)
        both._shape = self._shape or other._shape
        both._parts = _joined(self._parts, other._parts)
        return both

    @property
    def count(self) -> int:
        """How many rows there are, without those in which nothing is observed."""
        return sum(part.count for part in self._parts.values())

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of a row, None before the first one."""
        return self._shape

    @property
    def patterns(self) -> int:
        """How many sets of observed entries there are: 1 where nothing is missing."""
        return len(self._parts)

    @property
    def has_missing(self) -> bool:
        """Whether entries are missing."""
        return not all(map(all, self._parts))

    @property
    def mean(self) -> np.ndarray:
        """
        The mean of the rows, NumPy array in the shape of a row.

        :raises ValueError: if there are no rows, or entries are missing.
        """
        part = self._complete("mean")
        return (part.mean + part.rest).reshape(self._shape)

    @property
    def covariance(self) -> np.ndarray:
        """
        The covariance of the rows, NumPy array (D, D): their scatter over their number, as maximum likelihood has it.

        Rows of more axes are read entry by entry, the last axis first.

        :raises ValueError: if there are no rows, or entries are missing.
        """
        return self._complete("covariance").covariance

    def standing_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """
        The rows that stand for all in an inference.

        For each pattern they are the mean, and below it the rows of a factor C of the scatter C^T C, at most D.

        :returns: (rows (M, ...), NaN where an entry is missing, and how many rows each mean is of, (M,): 0 for the rows
            of a factor), NumPy arrays of float64 and int64.
        :raises ValueError: if there are no rows.
        """
        if not self._parts:
            refuse("standing_rows", "no rows", "one at least", "Add rows by update(rows).")
        rows, counts = [], []
        for observed, part in sorted(self._parts.items()):
            own = np.vstack([part.mean + part.rest, part.factor])
            filled = np.full((len(own), len(observed)), np.nan)
            filled[:, np.frombuffer(observed, bool)] = own
            rows.append(filled)
            counts.append([part.count] + [0] * len(part.factor))
        return np.concatenate(rows).reshape((-1, *(self._shape or ()))), np.concatenate(counts)

    def __repr__(self):
        rows = f"{self.count} rows of shape {self._shape}" if self._shape else "no rows"
        patterns = f", {self.patterns} patterns of missing entries" if self.patterns > 1 else ""
        return f"GaussianStatistics({rows}{patterns})"

    def _checked_shape(self, shape):
        """The shape of a row of an array of rows."""
        if len(shape) < 2 or 0 in shape[1:]:
            remedy = "Write rows.reshape(-1, 1) for one column, rows.reshape(1, -1) for one row."
            refuse("rows", f"shape {shape}", "(n, D) with a column at least", remedy)
        if self._shape not in (None, shape[1:]):
            expected = f"(n, {', '.join(map(str, self._shape or ()))}), as before"
            refuse("rows", f"shape {shape}", expected, "All chunks have the same columns.")
        return shape[1:]

    def _check_patterns(self, others):
        count = len(set(self._parts) | set(others))
        if count > self.max_patterns:
            refuse(
                "rows",
                f"more than {self.max_patterns} patterns of missing entries",
                f"at most max_patterns={self.max_patterns}, because each is kept by itself",
                "Leave out rows or columns that have few entries, or make GaussianStatistics(max_patterns=...) larger.",
            )

    def _complete(self, what):
        """The moments of complete rows."""
        if self.has_missing or not self._parts:
            got = "rows with missing entries" if self._parts else "no rows"
            refuse(what, got, "complete rows", "With entries missing it has to be fitted: inference.run(X=statistics).")
        return next(iter(self._parts.values()))


def _joined(parts, others):
    both = dict(parts)
    for observed, part in others.items():
        _add(both, observed, part)
    return both


def _add(parts, observed, part):
    parts[observed] = moments.joined(parts[observed], part) if observed in parts else part


def _moments_by_pattern(rows, start):
    """Pairs of the bytes of a mask (D,) and the moments of its rows; the first row has the number start."""
    part = moments.of_rows(rows)
    if part is not None:
        yield np.ones(rows.shape[1], bool).tobytes(), part
        return
    infinite = np.isinf(rows)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        got = f"{rows[row, column]} in row {start + row}, column {column}"
        refuse("rows", got, "finite entries, or NaN where one is missing", "Look at the data.")
    for observed, members in _patterns(rows):
        part = moments.of_rows(members)
        if part is None:
            refuse("rows", "entries whose sum is beyond float64", "entries that can be added", "Use other units.")
        yield observed.tobytes(), part


def _patterns(rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a mask (D,) and the observed entries (n, D') of the rows that have it."""
    observed = ~np.isnan(rows)
    code = codes(observed)
    order = np.argsort(code, kind="stable")
    code = code[order]
    rows = np.take(rows, order, axis=0)
    starts = np.concatenate([[0], np.flatnonzero(code[1:] != code[:-1]) + 1, [len(rows)]])
    for start, stop in zip(starts[:-1], starts[1:]):
        mask = observed[order[start]]
        if mask.any():
            yield mask, rows[start:stop, mask]


def _as_numpy(rows):
    if isinstance(rows, mx.nd.NDArray):
        return rows.asnumpy()
    if hasattr(rows, "to_numpy"):  # a DataFrame
        _refuse(checks.frame_defect(rows))
        return rows.to_numpy(dtype="float64", na_value=np.nan)
    if isinstance(rows, np.ma.MaskedArray):
        rows = checks.fill_masked(rows)
    return _checked(np.asarray(rows))


def _from_list(rows):
    return _checked(rows if isinstance(rows, (list, tuple)) else np.asarray(rows))


def _checked(rows):
    """Real numbers as a NumPy array."""
    _refuse(checks.kind_defect(rows))
    return np.asarray(rows)


def _refuse(defect):
    if defect is not None:
        refuse("rows", *defect)
