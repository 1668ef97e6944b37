# SPDX-License-Identifier: Apache-2.0
"""Feeds of data: which rows each step sees, and how much the density of a random variable then counts.

A density that is a sum over N independent rows is estimated from a batch of B rows without bias by (N / B) times their
sum. The rows of an epoch are a random permutation cut into batches of B; the last one has fewer rows if B does not
divide N, and counts N divided by its own size: none is dropped, none seen twice. With B = N the objective is that of
the whole data, and the rows keep their order.
"""

from __future__ import annotations

from typing import Any

from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.inference.names import name_of

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import (
    ConditionalGaussianProcess,
    GaussianProcess,
    MultivariateNormal,
    MultivariateNormalMeanPrecision,
)
from mxfusion.components.variables import Variable, VariableType
from mxfusion.modules.gp_modules import GPRegression, SparseGPRegression

# In these distributions of MXFusion the last axis but one holds the points of a process; they depend on each other.
_PROCESSES = (GaussianProcess, ConditionalGaussianProcess, GPRegression, SparseGPRegression)
_VECTORS = (MultivariateNormal, MultivariateNormalMeanPrecision)


class Feed:
    """
    The data of each step: all rows; a :class:`Subsample` gives some of them.

    :param data: list of NDArrays, in the order of MXFusion's ObjectiveBlock.

    ``data`` are these, whole; ``step`` is the number of the next step, 0, 1, ..., which the stepper advances and sets
    back; ``is_changing`` is a list of bools: which of the data differ from step to step.
    """

    def __init__(self, data: list) -> None:
        self.data = data
        self.step = 0
        self.is_changing = [False] * len(data)

    @property
    def batch_rows(self) -> int | None:
        """The number of rows in the next batch, None for all rows: batches of one size have one program."""
        return None

    def next_data(self) -> list:
        """The data of the next step, list of NDArrays; the model is told their sizes."""
        return self.data

    def next_rows(self) -> list:
        """For each array of :meth:`next_data` its rows of the data, NumPy array, or None for all of them."""
        return [None] * len(self.data)

    def fill(self, buffers: list) -> None:
        """
        Copy those data of the next step that change to where a program reads them.

        :param buffers: list of NDArrays in the shapes of :meth:`next_data`.
        """
        return

    def finish(self) -> None:
        """Leave the model with the sizes of the whole data."""
        return


class Batches:
    """
    The rows of each step, as a function of the step alone, so that a step can be repeated.

    :param rows: N.
    :param batch_size: B, at most N.
    :param seed: an integer from which, with the number of the epoch, the order of its rows follows.
    :param ctx: MXNet context of the data.
    """

    def __init__(self, rows, batch_size, seed, ctx=None):
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._ctx = ctx
        self._epoch: int | None = None
        self._order: Any = None
        self.steps_per_epoch = -(-rows // batch_size)

    def rows_of(self, step):
        """
        The rows that a step sees.

        :param step: 0, 1, ...
        :returns: NDArray (at most B,) of int64, or None for all of them in their order.
        """
        if self.steps_per_epoch == 1:
            return None
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = np.random.RandomState([self._seed, epoch]).permutation(self._rows)
            self._epoch, self._order = epoch, mx.nd.array(order, dtype="int64", ctx=self._ctx)
        start = position * self._batch_size
        return self._order[start : min(start + self._batch_size, self._rows)]


class Subsample(Feed):
    """
    A model under subsampling: cuts its data into batches, and tells the model how much of them it sees.

    Everything about the rows that depends on neither parameters nor noise is here, for imperative and compiled loops.

    :param infr_executor: MXFusion's ObjectiveBlock.
    :param data: list of NDArrays, in the order of the block; those whose variable has a Variable as the size of its
        first axis are cut, the others are passed on whole.
    :param batch_size: B.
    :param rv_scaling: dict from uuid to scaling factor as the user gave it, or None.
    :param update_sizes: function of the data of a batch, which tells MXFusion the sizes in it.
    :raises InferenceError: if rows of the model cannot be left out, or the sizes or scalings do not fit.
    """

    def __init__(self, infr_executor, data, batch_size, rv_scaling, update_sizes):
        super().__init__(data)
        self._graphs = infr_executor._infr_method.graphs
        self._variables = {uuid: variable for graph in self._graphs for uuid, variable in graph.variables.items()}
        self._observed = [self._variables[uuid] for uuid in infr_executor._data_def]
        self._update_sizes = update_sizes
        self._present_rows = None
        self._sizes = {_rows_variable(variable) for variable in self._observed} - {None}
        self.is_cut = [_rows_variable(variable) is not None for variable in self._observed]
        self.rows = self._count_rows()
        self.batch_size = batch_size
        self._check_batch_size()
        self.batches = Batches(self.rows, batch_size, _seed(), data[0].context)
        self.is_changing = [cut and self.batches.steps_per_epoch > 1 for cut in self.is_cut]
        self._scaled = [v for graph in self._graphs for v in graph.variables.values() if self._is_scaled(v)]
        self._check_rows_are_independent()
        self._check_parameters()
        if rv_scaling is not None:
            self._check_scaling(rv_scaling)

    @property
    def batch_rows(self) -> int:
        """As :attr:`Feed.batch_rows`."""
        begin = self.step % self.batches.steps_per_epoch * self.batch_size
        return min(self.batch_size, self.rows - begin)

    def next_data(self) -> list:
        """As :meth:`Feed.next_data`; (at most B, ...) where the data is cut."""
        index = self.batches.rows_of(self.step)
        if index is None:
            batch = self.data
        else:
            batch = [mx.nd.take(array, index) if cut else array for array, cut in zip(self.data, self.is_cut)]
        self.announce(batch, self.rows if index is None else len(index))
        return batch

    def next_rows(self) -> list:
        """As :meth:`Feed.next_rows`."""
        rows = self.batches.rows_of(self.step)
        return [None if rows is None or not cut else rows.asnumpy() for cut in self.is_cut]

    def fill(self, buffers: list) -> None:
        """As :meth:`Feed.fill`."""
        index = self.batches.rows_of(self.step)
        for array, buffer, is_changing in zip(self.data, buffers, self.is_changing):
            if is_changing:
                mx.nd.take(array, index, out=buffer)

    def announce(self, batch, rows):
        """
        Tell the model how many rows it sees: its sizes, and N / rows as the scaling of each density of rows.

        :param batch: list of NDArrays, of which the shapes are read.
        :param rows: the number of rows in it.
        """
        if rows == self._present_rows:
            return
        self._update_sizes(batch)
        for variable in self._scaled:
            variable.factor.log_pdf_scaling = self.rows / rows
        self._present_rows = rows

    def finish(self):
        """As :meth:`Feed.finish`; each density counts once again."""
        self.announce(self.data, self.rows)

    def _count_rows(self):
        lengths = {name_of(v): len(array) for v, array, cut in zip(self._observed, self.data, self.is_cut) if cut}
        if not lengths:
            raise InferenceError(
                "The model has no rows to choose from; expected an observed variable whose first axis has a Variable "
                "as its size. Declare model.N = Variable() and shape=(model.N, D), or use BatchLoop()."
            )
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} rows of `{name}`" for name, length in lengths.items())
            raise InferenceError(f"got {found}; expected as many of each. Check the data.")
        return next(iter(lengths.values()))

    def _check_batch_size(self):
        if self.batch_size > self.rows:
            raise InferenceError(
                f"`batch_size`: got {self.batch_size} for data of {self.rows} rows; expected at most {self.rows}. Use "
                "a smaller one, or BatchLoop() for all rows at once."
            )

    def _is_scaled(self, variable):
        return variable.type == VariableType.RANDVAR and _rows_variable(variable) in self._sizes

    def _check_rows_are_independent(self):
        for variable in self._scaled:
            if len(variable.shape) <= _event_axes(variable.factor):
                kind = type(variable.factor).__name__
                raise InferenceError(
                    f"`{name_of(variable)}`: got a {kind}, whose rows depend on each other; expected independent rows, "
                    "for only a sum over rows can be estimated from some of them. Use BatchLoop()."
                )

    def _check_parameters(self):
        observed = {variable.uuid for variable in self._observed}
        for variable in self._variables.values():
            free = variable.type == VariableType.PARAMETER and variable.uuid not in observed
            if free and _rows_variable(variable) in self._sizes:
                raise InferenceError(
                    f"The parameter `{name_of(variable)}` has a row for each of the {self.rows} rows of the data; "
                    "expected parameters that all rows share. Compute it from the data, or use BatchLoop()."
                )

    def _check_scaling(self, given):
        """A wrong scaling changes the posterior and nothing shows it."""
        expected = {variable.uuid: self.rows / self.batch_size for variable in self._scaled}
        for uuid in dict.fromkeys([*expected, *given]):
            if not np.isclose(given.get(uuid, 1.0), expected.get(uuid, 1.0), rtol=1e-6):
                name = (
                    f"`{name_of(self._variables[uuid])}`" if uuid in self._variables else "a variable of another model"
                )
                raise InferenceError(
                    f"`rv_scaling`: got {given.get(uuid, 1.0):g} for {name}; expected "
                    f"{expected.get(uuid, 1.0):g}{self._reason(uuid, expected)}. Leave `rv_scaling` out: it is derived."
                )

    def _reason(self, uuid, expected):
        if uuid in expected:
            return f", that is {self.rows} rows / a batch of {self.batch_size}"
        return ", for it has no row for each row of the data"


def _rows_variable(variable):
    """The Variable that is the size of the first axis, or None."""
    first = variable.shape[0] if variable.shape else None
    return first if isinstance(first, Variable) else None


def _event_axes(factor):
    """How many axes, from the last, hold one draw whose entries depend on each other."""
    if isinstance(factor, VectorDistribution):
        return len(factor.EVENT["random_variable"])
    if isinstance(factor, _PROCESSES):
        return 2
    return 1 if isinstance(factor, _VECTORS) else 0


def _seed():
    """A seed from MXNet's stream, so that ``mx.random.seed`` alone makes a run reproducible."""
    return int(mx.nd.random.randint(0, 2**31 - 1, shape=(1,), dtype="int32").asscalar())
