# SPDX-License-Identifier: Apache-2.0
"""Statistics of rows: those of all rows at once, however they are cut, ordered, stored and joined."""

import functools
import pickle
import re

from mxfusion_mvn import GaussianStatistics
from mxfusion_mvn.totals import gaussian_statistics, moments

import mpmath
import mxnet as mx
import numpy as np
import pandas as pd
import pytest

from helpers.tolerances import assert_close

NAN = np.nan


def rows_of(rng, count=500, dim=4, mean=0.0, condition=10.0, dtype="float64"):
    """Rows whose covariance has a condition number, in no direction of an axis."""
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    root = basis * np.geomspace(condition**-0.5, 1.0, dim)
    return (mean + rng.normal(size=(count, dim)) @ root.T).astype(dtype)


def exact(rows):
    """Mean and covariance, in two passes of 64 bits of mantissa."""
    rows = np.asarray(rows).astype(np.longdouble)
    mean = rows.mean(axis=0)
    centred = rows - mean
    return mean, (centred[:, :, None] * centred[:, None, :]).mean(axis=0)


def assert_statistics_of(statistics, rows, rtol=1e-13):
    mean, covariance = exact(rows)
    assert statistics.count == len(rows)
    assert statistics.shape == rows.shape[1:]
    assert_close(statistics.mean, mean.astype(float), rtol=2e-15, atol=1e-15)
    assert_close(statistics.covariance, covariance.astype(float), rtol=0, atol=rtol * float(abs(covariance).max()))


def chunks_of(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def with_gaps(rng, rows, share=0.2):
    rows = rows.copy()
    rows[rng.random(rows.shape) < share] = NAN
    return rows


# Complete rows


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 499, 500, 1000])
@pytest.mark.parametrize("mean", [0.0, 900.0, 1e8])
def test_chunks_have_the_statistics_of_all_rows(size, mean, rng):
    rows = rows_of(rng, mean=mean)
    assert_statistics_of(GaussianStatistics.of(chunks_of(rows, size)), rows)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_rows_fewer_than_columns(count, rng):
    rows = rows_of(rng, count, dim=5)
    assert_statistics_of(GaussianStatistics.of(rows), rows)
    assert_statistics_of(GaussianStatistics.of(chunks_of(rows, 2)), rows)


@pytest.mark.parametrize("dim", [1, 2, 50, 120])
def test_any_number_of_columns(dim, rng):
    rows = rows_of(rng, 700, dim)
    assert_statistics_of(GaussianStatistics.of(chunks_of(rows, 350)), rows)


def test_float32_rows_far_from_zero_are_added_in_float64(rng):
    rows = rows_of(rng, 20_000, mean=900.0, dtype="float32")
    statistics = GaussianStatistics.of(chunks_of(rows, 3000))
    assert statistics.covariance.dtype == statistics.mean.dtype == np.float64
    assert_statistics_of(statistics, rows)


def test_sorted_rows_lose_no_digits(rng):
    rows = 1e6 + np.sort(1e3 * rng.normal(size=(6000, 2)), axis=0) + rng.normal(size=(6000, 2))
    assert_statistics_of(GaussianStatistics.of(chunks_of(rows, 250)), rows)


def test_a_first_chunk_that_lies_apart_loses_no_digits(rng):
    rows = rows_of(rng, 3000, condition=2.0)
    rows[:10] += 1e6
    covariance = exact(rows)[1]
    root = GaussianStatistics.of(chunks_of(rows, 10)).standing_rows()[0][1:]
    difference = np.array([1.0, -1.0, 0.0, 0.0])  # which does not see that they do
    expected = float(difference @ covariance @ difference)
    assert_close(np.square(root @ difference).sum() / len(rows), expected, rtol=1e-8)


@pytest.mark.parametrize("size", [20, 500])
def test_columns_of_very_different_sizes(size, rng):
    """The squares of the first underflow, and those of the last overflow."""
    scales = np.array([1e-200, 1e-6, 1.0, 1e200])
    rows = rows_of(rng)
    parts = [moments.of_rows(chunk) for chunk in chunks_of(rows * scales, size)]
    root = functools.reduce(moments.joined, parts).factor / scales
    expected = exact(rows)[1].astype(float)
    assert_close(root.T @ root / len(rows), expected, rtol=1e-11, atol=1e-13)


def test_constant_columns_have_no_variance(rng):
    rows = rows_of(rng)
    rows[:, 2] = 1e8
    statistics = GaussianStatistics.of(chunks_of(rows, 60))
    assert_statistics_of(statistics, rows)
    assert np.abs(statistics.covariance[2]).max() < 1e-20


# Stability, against 50 digits


def log_det_of_scatter(rows):
    """By mpmath; the smallest direction counts in it as much as the largest."""
    with mpmath.workdps(60):
        rows = mpmath.matrix(rows.tolist())
        means = [sum(rows[i, j] for i in range(rows.rows)) / rows.rows for j in range(rows.cols)]
        centred = mpmath.matrix(rows.rows, rows.cols)
        for i in range(rows.rows):
            for j in range(rows.cols):
                centred[i, j] = rows[i, j] - means[j]
        return float(mpmath.log(mpmath.det(centred.T * centred)))


@pytest.mark.parametrize(("condition", "error"), [(1.0, 1e-13), (1e2, 1e-13), (1e3, 1e-12), (1e6, 1e-10), (1e12, 1e-7)])
@pytest.mark.parametrize("mean", [0.0, 1e8])
@pytest.mark.parametrize("size", [9, 200])
def test_the_smallest_direction_keeps_its_digits(condition, mean, error, size, rng):
    """A scatter that is formed loses as many digits as the condition number has, a factor half of them."""
    rows = rows_of(rng, 200, mean=mean, condition=condition)
    parts = [moments.of_rows(chunk) for chunk in chunks_of(rows, size)]
    part = functools.reduce(moments.joined, parts)
    got = 2 * np.log(np.abs(part.factor.diagonal())).sum()
    assert abs(got - log_det_of_scatter(rows)) < error


def test_the_mean_is_kept_to_more_than_its_last_digit(rng):
    rows = rows_of(rng, 1000, mean=1e8)
    parts = [moments.of_rows(chunk) for chunk in chunks_of(rows, 30)]
    part = functools.reduce(moments.joined, parts)
    with mpmath.workdps(50):
        for j in range(4):
            mean = sum(mpmath.mpf(value) for value in rows[:, j].tolist()) / len(rows)
            assert abs(mpmath.mpf(part.mean[j]) + mpmath.mpf(part.rest[j]) - mean) < 1e-15


def test_products_are_used_only_where_they_lose_no_digits(rng, monkeypatch):
    factored, compress = [], moments.compress
    monkeypatch.setattr(moments, "compress", lambda *args: factored.append(True) or compress(*args))
    for condition, is_factored in ((10.0, False), (1e6, True)):
        factored.clear()
        moments.of_rows(rows_of(rng, condition=condition))
        assert bool(factored) == is_factored


# Parts


def test_parts_are_joined_in_any_order(rng):
    rows = rows_of(rng, mean=1e3)
    parts = [GaussianStatistics.of([chunk]) for chunk in chunks_of(rows, 37)]
    for order in (range(len(parts)), rng.permutation(len(parts)), rng.permutation(len(parts))):
        assert_statistics_of(functools.reduce(GaussianStatistics.merge, [parts[i] for i in order]), rows)
    halves = [functools.reduce(GaussianStatistics.merge, half) for half in (parts[:5], parts[5:])]
    assert_statistics_of(halves[0].merge(halves[1]), rows)


def test_merge_changes_neither_part(rng):
    rows = with_gaps(rng, rows_of(rng))
    one, other = (GaussianStatistics.of([half]) for half in (rows[:200], rows[200:]))
    before = [pickle.dumps(statistics) for statistics in (one, other)]
    one.merge(other)
    assert [pickle.dumps(statistics) for statistics in (one, other)] == before


def test_parts_may_be_read_only(rng):
    rows = rows_of(rng)
    one, other = (GaussianStatistics.of([half]) for half in (rows[:200], rows[200:]))
    for statistics in (one, other):
        for part in statistics._parts.values():
            for array in (part.mean, part.rest, part.factor):
                array.flags.writeable = False
    assert_statistics_of(one.merge(other), rows)
    assert_statistics_of(one.update(rows[200:]), rows)


def test_empty_parts_change_nothing(rng):
    rows = rows_of(rng)
    statistics = GaussianStatistics.of([rows[:0], rows, rows[:0]])
    for merged in (statistics, GaussianStatistics().merge(statistics), statistics.merge(GaussianStatistics())):
        assert_statistics_of(merged, rows)
    assert GaussianStatistics().merge(GaussianStatistics()).count == 0


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_statistics_are_the_same(protocol, rng):
    rows = rows_of(rng)
    statistics = GaussianStatistics(max_patterns=7).update(rows[:300])
    copy = pickle.loads(pickle.dumps(statistics, protocol))
    assert (copy.max_patterns, copy.count, copy.shape) == (7, 300, (4,))
    np.testing.assert_array_equal(copy.mean, statistics.mean)
    np.testing.assert_array_equal(copy.covariance, statistics.covariance)
    assert_statistics_of(copy.update(rows[300:]), rows)
    assert statistics.count == 300


# Missing entries


def expected_patterns(rows):
    """From the mask of each pattern to its rows, of the observed entries."""
    found = {}
    for row in rows:
        observed = ~np.isnan(row)
        if observed.any():
            found.setdefault(tuple(observed), []).append(row[observed])
    return {pattern: np.array(members) for pattern, members in found.items()}


def assert_patterns_of(statistics, rows):
    expected = expected_patterns(rows)
    assert statistics.patterns == len(expected)
    assert statistics.count == sum(map(len, expected.values()))
    standing, counts = statistics.standing_rows()
    starts = np.append(np.flatnonzero(counts), len(counts))
    for start, stop in zip(starts[:-1], starts[1:]):
        observed = ~np.isnan(standing[start])
        members = expected.pop(tuple(observed))
        own = standing[start:stop]
        assert (np.isnan(own) == ~observed).all()
        assert counts[start:stop].tolist() == [len(members)] + [0] * (stop - start - 1)
        assert stop - start <= min(len(members), observed.sum() + 1)
        mean, covariance = exact(members)
        root = own[1:, observed]
        assert_close(own[0, observed], mean.astype(float), rtol=2e-15, atol=1e-15)
        assert_close(root.T @ root / len(members), covariance.astype(float), rtol=1e-12, atol=1e-13)
    assert not expected


@pytest.mark.parametrize("size", [1, 50, 600])
@pytest.mark.parametrize("dim", [1, 4, 17])
def test_each_pattern_has_its_own_statistics(size, dim, rng):
    rows = with_gaps(rng, rows_of(rng, 600, dim), 0.3 if dim < 10 else 0.01)
    assert_patterns_of(GaussianStatistics.of(chunks_of(rows, size)), rows)


@pytest.mark.parametrize("dim", [16, 17, 53, 54, 64, 65])
def test_patterns_of_many_columns_are_told_apart(dim, rng):
    rows = rng.normal(size=(4 * dim, dim))
    rows[np.arange(dim), np.arange(dim)] = NAN
    rows[dim + np.arange(dim), np.arange(dim)[::-1]] = NAN
    assert_patterns_of(GaussianStatistics.of([rows]), rows)


def test_patterns_of_parts_are_joined(rng):
    rows = with_gaps(rng, rows_of(rng))
    parts = [GaussianStatistics.of([chunk]) for chunk in chunks_of(rows, 61)]
    assert_patterns_of(functools.reduce(GaussianStatistics.merge, parts), rows)


def test_the_order_of_the_rows_that_stand_for_all_is_that_of_the_patterns(rng):
    rows = with_gaps(rng, rows_of(rng))
    one, other = (GaussianStatistics.of([order]) for order in (rows, rows[::-1]))
    assert_close(one.standing_rows()[1], other.standing_rows()[1], rtol=0)
    assert_close(np.isnan(one.standing_rows()[0]), np.isnan(other.standing_rows()[0]), rtol=0)


def test_masked_entries_are_missing(rng):
    rows = with_gaps(rng, rows_of(rng))
    assert_patterns_of(GaussianStatistics.of([np.ma.masked_invalid(rows)]), rows)


def test_there_is_a_limit_of_patterns(rng):
    rows = np.where(np.eye(8, dtype=bool), NAN, rng.normal(size=(8, 8)))
    statistics = GaussianStatistics.of(rows, max_patterns=8)
    before = pickle.dumps(statistics)
    message = (
        "`rows`: got more than 8 patterns of missing entries; expected at most max_patterns=8, because each is kept by "
        "itself. Leave out rows or columns that have few entries, or make GaussianStatistics(max_patterns=...) larger."
    )
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        statistics.update(np.zeros((1, 8)))
    with pytest.raises(ValueError, match="got more than 8 patterns"):
        statistics.merge(GaussianStatistics.of([np.zeros((1, 8))]))
    with pytest.raises(ValueError, match="got more than 7 patterns"):
        GaussianStatistics.of(rows, max_patterns=7)
    assert pickle.dumps(statistics) == before


# Kinds of data


class Dataset:
    """As one of h5py: a shape, and slices of rows that are read when they are asked for."""

    def __init__(self, rows):
        self._rows = rows
        self.shape = rows.shape
        self.read = []

    def __getitem__(self, index):
        part = self._rows[index]
        self.read.append(part.size)
        return part


INTEGERS = np.random.default_rng(0).poisson(7, size=(200, 3))
KINDS = {
    "float64": lambda: INTEGERS.astype("float64"),
    "float32": lambda: INTEGERS.astype("float32"),
    "float16": lambda: INTEGERS.astype("float16"),
    "int64": lambda: INTEGERS,
    "uint8": lambda: INTEGERS.astype("uint8"),
    "not contiguous": lambda: np.asfortranarray(INTEGERS.astype("float32"))[::1],
    "NDArray": lambda: mx.nd.array(INTEGERS),
    "NDArray of integers": lambda: mx.nd.array(INTEGERS, dtype="int32"),
    "mx.np array": lambda: mx.np.array(INTEGERS),
    "DataFrame": lambda: pd.DataFrame(INTEGERS),
    "DataFrame of several dtypes": lambda: pd.DataFrame(INTEGERS).astype({0: "int64", 1: "Int64", 2: "float64"}),
    "masked array": lambda: np.ma.masked_less(INTEGERS, -1),
    "dataset": lambda: Dataset(INTEGERS),
    "list": lambda: INTEGERS.tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_any_kind(kind):
    rows = INTEGERS.astype("float64")
    assert_statistics_of(GaussianStatistics().update(KINDS[kind]()), rows)
    if kind != "list":
        data = KINDS[kind]()
        assert_statistics_of(GaussianStatistics.of(data), rows)
        assert_statistics_of(GaussianStatistics.of(data[a : a + 30] for a in range(0, 200, 30)), rows)


@pytest.mark.parametrize("storage", ["csr", "row_sparse"])
def test_sparse_rows_are_read_whole(storage):
    rows = mx.nd.array(INTEGERS).tostype(storage)
    assert_statistics_of(GaussianStatistics.of(rows), INTEGERS.astype("float64"))
    assert_statistics_of(GaussianStatistics().update(rows), INTEGERS.astype("float64"))


def test_a_file_is_read_in_blocks(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(gaussian_statistics, "_BLOCK", 300)
    rows = rows_of(rng, 1000, dtype="float32")
    np.save(tmp_path / "rows.npy", rows)
    assert_statistics_of(GaussianStatistics.of(np.load(tmp_path / "rows.npy", mmap_mode="r")), rows)
    dataset = Dataset(rows)
    assert_statistics_of(GaussianStatistics.of(dataset), rows)
    assert max(dataset.read) <= 300
    assert sum(dataset.read) == rows.size


def test_a_block_has_more_rows_than_columns(rng, monkeypatch):
    """Else to join blocks would take most of the time."""
    monkeypatch.setattr(gaussian_statistics, "_BLOCK", 1)
    dataset = Dataset(rows_of(rng, 100, 3))
    assert_statistics_of(GaussianStatistics.of(dataset), dataset._rows)
    assert dataset.read == [72, 72, 72, 72, 12]


def test_rows_may_have_several_axes(rng):
    rows = rows_of(rng, 300, 6).reshape(300, 2, 3)
    statistics = GaussianStatistics.of(chunks_of(rows, 50))
    assert statistics.shape == (2, 3)
    flat = GaussianStatistics.of([rows.reshape(300, 6)])
    assert_close(statistics.mean, flat.mean.reshape(2, 3), rtol=1e-14, atol=1e-15)
    assert_close(statistics.covariance, flat.covariance, rtol=1e-12, atol=1e-14)
    assert statistics.standing_rows()[0].shape == (7, 2, 3)


def test_rows_that_stand_for_all_have_their_sums_of_products(rng):
    rows = rows_of(rng, mean=5.0)
    standing, counts = GaussianStatistics.of([rows]).standing_rows()
    assert standing.shape == (5, 4)
    assert counts.tolist() == [500, 0, 0, 0, 0]
    weighted = standing * np.sqrt(np.maximum(counts, 1))[:, None]
    assert_close(weighted.T @ weighted, rows.T @ rows, rtol=1e-13)


def test_says_what_it_holds(rng):
    assert repr(GaussianStatistics()) == "GaussianStatistics(no rows)"
    rows = rows_of(rng)
    assert repr(GaussianStatistics.of([rows])) == "GaussianStatistics(500 rows of shape (4,))"
    rows[0, 0] = NAN
    expected = "GaussianStatistics(500 rows of shape (4,), 2 patterns of missing entries)"
    assert repr(GaussianStatistics.of([rows])) == expected


# Errors


def test_an_infinite_entry_of_a_later_block_is_found_and_nothing_is_added(monkeypatch, rng):
    monkeypatch.setattr(gaussian_statistics, "_BLOCK", 300)
    rows = rows_of(rng)
    rows[321, 2] = np.inf
    statistics = GaussianStatistics()
    with pytest.raises(ValueError, match=r"got inf in row 321, column 2"):
        statistics.update(rows)
    assert (statistics.count, statistics.shape) == (0, None)


def test_an_update_that_is_interrupted_has_added_nothing(rng, monkeypatch):
    rows = with_gaps(rng, rows_of(rng))
    statistics = GaussianStatistics.of([rows])
    before, joined, calls = pickle.dumps(statistics), moments.joined, []

    def interrupted(one, other):
        calls.append(one)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return joined(one, other)

    monkeypatch.setattr(moments, "joined", interrupted)
    with pytest.raises(KeyboardInterrupt):
        statistics.update(rows)
    assert pickle.dumps(statistics) == before
