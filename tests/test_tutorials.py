# SPDX-License-Identifier: Apache-2.0
"""MXFusion's tutorials end by compiled loops where they end by MXFusion's own, from the same seeds."""

from types import SimpleNamespace

from mxfusion_mvn.inference import CompiledLoop, CompiledMinibatchLoop
from mxfusion_mvn.inference.loops.batches import Batches, _seed

import pytest
from mxfusion.inference import BatchInferenceLoop, MinibatchInferenceLoop
from mxnet.gluon.data import ArrayDataset, DataLoader

from helpers import tutorials
from helpers.along_the_run import assert_same

STEPS = 60
TUTORIALS = [
    tutorials.normal,
    tutorials.normal_with_prior,
    tutorials.principal_components,
    tutorials.process,
    tutorials.sparse_process,
    tutorials.variational_process,
    tutorials.neural_regression,
    tutorials.neural_classification,
    tutorials.auto_encoder,
]


class _Noted:
    """MXFusion's loops do not record losses: note them where the objective is called."""

    def run(self, infr_executor, *args, **kwargs):
        losses = []

        def executor(*arrays):
            loss, objective = infr_executor(*arrays)
            losses.append(loss)
            return loss, objective

        super().run(executor, *args, **kwargs)
        return SimpleNamespace(loss=[loss.asscalar() for loss in losses])


class HostLoop(_Noted, BatchInferenceLoop):
    """MXFusion's, which evaluates the objective once more after the last step."""

    def run(self, *args, **kwargs):
        return SimpleNamespace(loss=super().run(*args, **kwargs).loss[:-1])


class HostMinibatchLoop(_Noted, MinibatchInferenceLoop):
    """
    MXFusion's, on the batches of our loop.

    It takes a DataLoader for the rows of its batches, and divides gradients by its batch size, which ours do not and
    which is therefore given as 1.
    """

    def __init__(self, batch_size, variables):
        super().__init__(1, {variable: tutorials.ROWS / batch_size for variable in variables})
        self._rows = batch_size

    def run(self, infr_executor, data, *args, **kwargs):
        loader = DataLoader(ArrayDataset(*data), batch_sampler=_Order(Batches(tutorials.ROWS, self._rows, _seed())))
        return super().run(infr_executor, loader, *args, **kwargs)


class _Order:
    def __init__(self, batches):
        self._batches = batches
        self._step = 0

    def __iter__(self):
        for _ in range(self._batches.steps_per_epoch):
            yield self._batches.rows_of(self._step).asnumpy().tolist()
            self._step += 1


def loops(tutorial):
    """Functions that make our loop and MXFusion's."""
    if tutorial.batch_size is None:
        return CompiledLoop, HostLoop
    size = tutorial.batch_size
    return lambda: CompiledMinibatchLoop(size), lambda: HostMinibatchLoop(size, tutorial.scaled)


@pytest.mark.parametrize("make", TUTORIALS, ids=lambda make: make.__name__)
def test_ends_where_mxfusion_ends(make, dtype):
    tutorial = make(dtype)
    epoch = tutorials.ROWS // (tutorial.batch_size or tutorials.ROWS)  # in steps
    options = {"learning_rate": tutorial.learning_rate, "start": tutorial.start, "steps": STEPS // epoch}
    assert_same(*loops(tutorial), tutorial.algorithm, tutorial.data, dtype, **options)
