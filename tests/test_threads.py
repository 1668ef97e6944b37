# SPDX-License-Identifier: Apache-2.0
"""Programs of small matrices keep MXNet's linear algebra to one thread, and no longer than they run."""

import ctypes
import queue

from mxfusion_mvn.compiler import threads
from mxfusion_mvn.compiler.threads import one_blas_thread
from mxfusion_mvn.inference import CompiledLoop

import mxnet as mx
import numpy as np
import pytest
from mxnet.base import _LIB

from helpers.compiled_runs import fitted, variational
from helpers.host import nd
from helpers.tracing import traced

CPU = mx.cpu()


replies = queue.SimpleQueue()


@threads._FUNCTION
def tell(_, wanted):
    """Answer how many threads OpenMP has where MXNet's operators run, and set them if a number is wanted."""
    replies.put(_LIB.omp_get_max_threads())
    if wanted:
        _LIB.omp_set_num_threads(wanted)


def count(wanted=0):
    ctx = ctypes.byref(threads._Context(threads._CPU, CPU.device_id))
    _LIB.MXEnginePushSync(tell, ctypes.c_void_p(wanted), None, ctx, None, 0, None, 0, None, 0, b"tell")
    return replies.get()


@pytest.fixture(autouse=True)
def two_threads():
    before = count(2)
    yield
    assert count(before) == 2


GRAPHS = {
    "small factorisation": (mx.nd.linalg.potrf, (399, 399), 1),
    "large factorisation": (mx.nd.linalg.potrf, (400, 400), 2),
    "small product": (lambda x: mx.nd.dot(x, x, transpose_b=True), (316, 100), 1),
    "large product": (lambda x: mx.nd.dot(x, x, transpose_b=True), (317, 100), 2),
    "small square": (mx.nd.linalg.syrk, (316, 100), 1),
    "many small squares": (lambda x: mx.nd.linalg.syrk(x.reshape((-1, 20, 20))), (9000, 100), 1),
    "large square": (mx.nd.linalg.syrk, (317, 100), 2),
    "convolution": (lambda x: mx.nd.Convolution(x, x, None, (2, 2), num_filter=1, no_bias=True), (1, 1, 2, 2), 2),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_large_matrices_get_all(name):
    compute, shape, expected = GRAPHS[name]
    graphs = [_graph(lambda x: x, (1, 1)), _graph(compute, shape)]
    with one_blas_thread(graphs, CPU):
        assert count() == expected


def _graph(compute, shape):
    x = nd(np.eye(*shape) if len(shape) == 2 else np.ones(shape), "float32")
    return traced(lambda: compute(x).sum(), {"x": x})[1]


@pytest.mark.parametrize(("setting", "expected"), [(None, 2), ("2", 1)])
def test_large_arrays_get_all_unless_the_environment_sees_to_it(setting, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    with one_blas_thread([_graph(mx.nd.sin, (1, 10**6))], CPU):
        assert count() == expected


def test_none_are_put_back():
    with one_blas_thread([], CPU):
        assert count() == 1
    assert count() == 2


def test_another_device_is_left_alone():
    with one_blas_thread([], mx.gpu()):
        assert count() == 2


def test_several_workers_of_mxnet_are_left_alone(monkeypatch):
    monkeypatch.setenv("MXNET_CPU_WORKER_NTHREADS", "2")
    with one_blas_thread([], CPU):
        assert count() == 2


def test_one_within_the_other():
    with one_blas_thread([], CPU):
        with one_blas_thread([], CPU):
            assert count() == 1
        assert count() == 1


def test_they_are_put_back_after_an_exception():
    with pytest.raises(ZeroDivisionError), one_blas_thread([], CPU):
        raise ZeroDivisionError
    assert count() == 2


def test_a_run_puts_them_back():
    seen = []
    fitted(CompiledLoop(checkpoint=lambda _: seen.append(count()), check_every=5), variational(), max_iter=20)
    assert seen[-1] == 1
    assert count() == 2
