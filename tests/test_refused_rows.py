# SPDX-License-Identifier: Apache-2.0
"""What GaussianStatistics refuses: by the name of the argument, and nothing is added."""

import pickle

from mxfusion_mvn import GaussianStatistics

import numpy as np
import pandas as pd
import pytest

NAN = np.nan
ROWS = np.arange(12.0).reshape(4, 3)

REFUSED = {
    "one row": (ROWS[0], "`rows`: got shape (3,); expected (n, D) with a column at least. Write rows.reshape(-1, 1)"),
    "a number": (3.0, "`rows`: got shape (); expected (n, D)"),
    "no columns": (np.zeros((4, 0)), "`rows`: got shape (4, 0); expected (n, D) with a column at least"),
    "other columns": (ROWS[:, :2], "`rows`: got shape (4, 2); expected (n, 3), as before. All chunks have the same"),
    "more axes": (ROWS[:, :, None], "`rows`: got shape (4, 3, 1); expected (n, 3), as before"),
    "infinite": (
        np.where(ROWS == 7, np.inf, ROWS),
        "`rows`: got inf in row 2, column 1; expected finite entries, or NaN",
    ),
    "infinite, and missing": (
        np.where(ROWS == 7, -np.inf, np.where(ROWS == 1, NAN, ROWS)),
        "`rows`: got -inf in row 2, column 1; expected finite entries, or NaN where one is missing. Look at the data.",
    ),
    "too large to be added": (
        np.where(ROWS % 2, 1.7e308, -1.7e308),
        "`rows`: got entries whose sum is beyond float64; expected entries that can be added. Use other units.",
    ),
    "texts": (ROWS.astype(str), "`rows`: got an array of dtype <U32; expected real numbers. Convert it"),
    "complex": (ROWS + 1j, "`rows`: got an array of dtype complex128; expected real numbers. Take its real part"),
    "objects": (ROWS.astype(object), "`rows`: got an array of dtype object; expected real numbers. Convert it"),
    "a ragged list": ([[1.0, 2.0, 3.0], [1.0]], "`rows`: got a ragged list; expected real numbers"),
    "a table with texts": (
        pd.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0]}),
        "`rows`: got a DataFrame whose column 'b' is of dtype ",  # its name depends on pandas
    ),
    "None": (None, "`rows`: got an array of dtype object; expected real numbers"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_rows_are_refused_and_nothing_is_added(kind):
    rows, message = REFUSED[kind]
    statistics = GaussianStatistics.of([ROWS])
    before = pickle.dumps(statistics)
    with pytest.raises(ValueError, match=".") as raised:
        statistics.update(rows)
    assert str(raised.value).startswith(message)
    assert pickle.dumps(statistics) == before


@pytest.mark.parametrize("chunks", ["rows.npy", b"rows", 5, None, dict], ids=repr)
def test_other_chunks_are_refused(chunks):
    message = "^`chunks`: got .*; expected arrays .n, D.. Of a file write of.np.load"
    with pytest.raises(ValueError, match=message):
        GaussianStatistics.of(chunks)


def test_scalars_in_place_of_chunks_are_refused():
    with pytest.raises(ValueError, match="^`chunks`: got 0.2 among them; expected arrays .n, D.. Write .rows. for a"):
        GaussianStatistics.of([0.2, 0.8])


@pytest.mark.parametrize("array", [ROWS[0], np.float64(3)], ids=["one row", "a scalar"])
def test_an_array_of_fewer_axes_is_no_table(array):
    with pytest.raises(
        ValueError, match="^`chunks`: got an array of shape .*; expected arrays .n, D.. Write .rows. for"
    ):
        GaussianStatistics.of(array)


def test_without_rows_none_stand_for_them():
    with pytest.raises(ValueError, match="^`standing_rows`: got no rows; expected one at least. Add rows by update"):
        GaussianStatistics().standing_rows()


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "many"])
def test_other_limits_are_refused(limit):
    with pytest.raises(ValueError, match="^`max_patterns`: got .*; expected a positive integer"):
        GaussianStatistics(max_patterns=limit)


def test_parts_of_other_kinds_are_refused():
    statistics = GaussianStatistics.of([ROWS])
    with pytest.raises(
        ValueError, match="^`other`: got a ndarray; expected GaussianStatistics. Rows are added by update"
    ):
        statistics.merge(ROWS)
    with pytest.raises(
        ValueError, match=r"^`other`: got rows of shape \(2,\); expected rows of shape \(3,\), as these"
    ):
        statistics.merge(GaussianStatistics.of([ROWS[:, :2]]))


@pytest.mark.parametrize("name", ["mean", "covariance"])
def test_mean_and_covariance_are_of_complete_rows(name):
    with pytest.raises(ValueError, match=f"^`{name}`: got no rows; expected complete rows"):
        getattr(GaussianStatistics(), name)
    for rows in (np.where(ROWS == 7, NAN, ROWS), np.where(ROWS % 3 == 0, NAN, ROWS)):
        with pytest.raises(ValueError, match=f"^`{name}`: got rows with missing entries; expected complete rows. With"):
            getattr(GaussianStatistics.of([rows]), name)
