# SPDX-License-Identifier: Apache-2.0
"""What rows or draws share is not copied for each of them, and what patterns of missing entries take is bounded."""

import subprocess
import sys

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.inference import CompiledLoop, CompiledMinibatchLoop, create_Gaussian_fullrank
from mxfusion_mvn.transformations import LowerCholesky, PositiveDefinite

import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import GradBasedInference, StochasticVariationalInference

from helpers.host import nd

ROWS, BATCH, SAMPLES, DIM = 100, 12, 8, 40
MATRICES = {
    "number": lambda: {"covariance": 2.0},
    "known": lambda: {"covariance": 2 * np.eye(DIM)},
    "covariance": lambda: {"covariance": Variable(shape=(DIM, DIM), transformation=PositiveDefinite())},
    "precision": lambda: {"precision": Variable(shape=(DIM, DIM), transformation=PositiveDefinite())},
    "scale_tril": lambda: {"scale_tril": Variable(shape=(DIM, DIM), transformation=LowerCholesky())},
}
LOOPS = {"all rows": lambda: CompiledLoop(), "minibatches": lambda: CompiledMinibatchLoop(batch_size=BATCH)}


@pytest.fixture
def largest(monkeypatch):
    """A list that gets the largest size of an array in each graph that is bound."""
    found = []
    for kind in (Program, NativeProgram):
        monkeypatch.setattr(kind, "__init__", noting_the_largest(kind.__init__, found))
    return found


def noting_the_largest(bind, found):
    """A function that binds a graph, and notes the largest size of an array in it."""

    def noting(self, graph, *args, **kwargs):
        found.append(max(int(np.prod(shape)) for node in graph.nodes for shape in node.shapes))
        bind(self, graph, *args, **kwargs)

    return noting


def fit(loop, rng, **matrix):
    model = Model()
    model.N = Variable()
    model.mean = MultivariateNormal(covariance=100.0, shape=(DIM,))
    model.x = MultivariateNormal(mean=model.mean, shape=(model.N, DIM), **matrix)
    posterior = create_Gaussian_fullrank(model, [model.x])
    algorithm = StochasticVariationalInference(SAMPLES, model, posterior, [model.x])
    inference = GradBasedInference(algorithm, grad_loop=loop)
    record = inference.run(x=nd(rng.normal(size=(ROWS, DIM)), "float32"), max_iter=5, learning_rate=1e-3)
    assert record.compiled, record.fallback_reason


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("loop", LOOPS)
def test_shared_matrix_is_not_copied_for_each_row_or_draw(loop, matrix, largest, rng):
    fit(LOOPS[loop](), rng, **MATRICES[matrix]())
    assert largest
    # The data, a row for each draw, some matrices; and what is held for each row and draw of a minibatch.
    assert max(largest) <= max(ROWS * DIM, DIM**2, SAMPLES * BATCH * DIM) < SAMPLES * DIM**2


# The largest memory of a process, in MB, that learns a covariance from rows with a pattern of missing entries each.
MISSING = """
import resource, sys
from mxfusion_mvn import MultivariateNormal, inference
from mxfusion_mvn.transformations import PositiveDefinite
import mxnet as mx, numpy as np
from mxfusion import Model, Variable
from mxfusion.inference import BatchInferenceLoop, GradBasedInference
rows, dim, loop = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
data = rng.normal(size=(rows, dim))
data[rng.random(data.shape) < 0.1] = np.nan
model = Model()
model.N = Variable()
model.C = Variable(shape=(dim, dim), transformation=PositiveDefinite(), initial_value=mx.nd.eye(dim, dtype="float64"))
model.x = MultivariateNormal(0.0, model.C, shape=(model.N, dim), missing=True, dtype="float64")
loop = BatchInferenceLoop() if loop == "host's" else getattr(inference, loop)()
inference = GradBasedInference(inference.MAP(model, [model.x]), grad_loop=loop, dtype="float64")
inference.run(x=mx.nd.array(data, dtype="float64"), learning_rate=0.01, max_iter=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


@pytest.mark.parametrize("loop", ["host's", "BatchLoop", "CompiledLoop"])
def test_missing_entries_take_less_than_three_matrices_for_each_pattern(loop):
    dim, few, many = 100, 40, 640

    def peak(rows):
        command = [sys.executable, "-W", "ignore", "-c", MISSING, str(rows), str(dim), loop]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)

    assert (peak(many) - peak(few)) * 1e6 < 3 * (many - few) * dim**2 * 8
