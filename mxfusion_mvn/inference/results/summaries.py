# SPDX-License-Identifier: Apache-2.0
"""A table of the results: every latent variable and every parameter of the model, in its own space and units.

A latent variable gets the mean, the standard deviation and quantiles of draws from its posterior; a parameter, or a
latent variable after MAP, its value.
"""

from __future__ import annotations

import difflib
from typing import Iterator, NamedTuple

from mxfusion_mvn.checks.options import shown
from mxfusion_mvn.inference.arguments import check_count
from mxfusion_mvn.inference.names import entry_names, name_of
from mxfusion_mvn.inference.results.draws import FinishedInference

import mxnet as mx
import numpy as np
from mxfusion.inference import Inference

QUANTILES = (0.05, 0.5, 0.95)
_HEADERS = ("", "mean", "sd", "5 %", "50 %", "95 %")
# Of a variable with more entries the rest is not printed.
_PRINTED_ENTRIES = 40


class Row(NamedTuple):
    """
    One entry of a variable.

    Without a distribution ``mean`` is the value, and the rest is None.
    """

    name: str
    mean: float
    sd: float | None = None
    lower: float | None = None
    median: float | None = None
    upper: float | None = None


class Summary:
    """
    Rows by name: ``table["beta[0]"].mean``. Printed, it is a table.

    :param groups: list of lists of :class:`Row`, one list for each variable.
    :param note: a last line, None for none.
    """

    def __init__(self, groups: list[list[Row]], note: str | None = None):
        self._groups = groups
        #: A warning about the run, to be read before the table is believed, or None.
        self.note = note

    @property
    def rows(self) -> list[Row]:
        """List of all rows."""
        return [row for group in self._groups for row in group]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        name = name if isinstance(name, str) else shown(name)
        for row in self.rows:
            if row.name == name:
                return row
        close = difflib.get_close_matches(name, [row.name for row in self.rows])
        raise KeyError(f"`{name}` is not in the summary" + (f"; close to it: {', '.join(close)}" if close else ""))

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [_HEADERS] if any(row.sd is not None for row in self) else [("", "value")]
        for group in self._groups:
            for row in group[:_PRINTED_ENTRIES]:
                lines.append((row.name, *("" if number is None else f"{number:.4g}" for number in row[1:])))
            if len(group) > _PRINTED_ENTRIES:
                lines.append((f"... {len(group) - _PRINTED_ENTRIES} more in .rows",))
        table = _align(lines, len(lines[0]))
        return table if self.note is None else f"{table}\n{self.note}"

    __repr__ = __str__


def summary(inference: Inference, num_samples: int = 1000, **data: mx.nd.NDArray | np.ndarray) -> Summary:
    """
    A table of the results.

    Entries of symmetric and triangular matrices above the diagonal have no rows. The row of an array of one entry has
    the name of its variable. A variable without a name is called by its part in a distribution, such as
    ``covariance of X``.

    If the last run was by a loop of this package, and ended before its loss had levelled off, the last line says so.

    Quantiles of draws are rough: with 1000 draws the 5 % quantile has an error of a tenth of a standard deviation.

    :param inference: an Inference that has been run or loaded, whose algorithm is MAP or variational.
    :param num_samples: the number of draws from the posterior, at least 2. They come from MXNet's generator.
    :param data: the observed variables by name, needed only if the posterior depends on them and the last run was not
        by a loop of this package.
    :returns: :class:`Summary`.
    :raises InferenceError: if the inference has not been run, or its algorithm has no posterior.
    """
    finished = FinishedInference(inference, **data)
    is_point = all(finished.is_point(variable) for variable in finished.latents)
    # A single draw has no standard deviation.
    draws = finished.draw_posterior(1 if is_point else check_count("num_samples", num_samples, 2))
    groups = []
    for variable in finished.latents:
        rows = _value_rows if finished.is_point(variable) else _draw_rows
        groups.append(rows(name_of(variable), draws[variable.uuid]))
    for variable in finished.parameters:
        groups.append(_value_rows(name_of(variable), finished.value(variable)[None]))
    ending = finished.ending
    return Summary(groups, None if ending is None or ending.has_arrived else ending.message)


def _value_rows(name, draws):
    names, entries = _entries(name, draws)
    return [Row(*row) for row in zip(names, entries[0].tolist())]


def _draw_rows(name, draws):
    names, entries = _entries(name, draws)
    columns = [entries.mean(axis=0), entries.std(axis=0, ddof=1), *np.quantile(entries, QUANTILES, axis=0)]
    return [Row(*row) for row in zip(names, *(column.tolist() for column in columns))]


def _entries(name, draws):
    """The names of the entries of an array that are not zero or copies by structure, and their draws (S, entries)."""
    kept = _distinct(draws)
    names = np.array(entry_names(name, draws.shape[1:]))[kept]
    return names.tolist(), draws.reshape((len(draws), -1))[:, kept].astype("float64")


def _distinct(draws):
    """Which entries are not zero or copies because a matrix is triangular or symmetric, (entries of one draw,)."""
    shape = draws.shape[1:]
    kept = np.ones(shape, dtype=bool)
    if len(shape) > 1 and shape[-1] == shape[-2]:
        above = np.triu(draws, 1)
        if not above.any() or np.array_equal(above, np.triu(np.swapaxes(draws, -1, -2), 1)):
            kept &= np.tri(shape[-1], dtype=bool)
    return kept.reshape(-1)


def _align(lines, columns):
    lines = [(line + ("",) * columns)[:columns] for line in lines]
    first, *rest = (max(len(text) for text in column) for column in zip(*lines))
    return "\n".join(
        (line[0].ljust(first) + "".join(f"  {text.rjust(width)}" for text, width in zip(line[1:], rest))).rstrip()
        for line in lines
    )
