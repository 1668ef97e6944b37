# SPDX-License-Identifier: Apache-2.0
"""Each objective of a long list trains as the host trains it, compiled, or not compiled for the right reason."""

import warnings

from mxfusion_mvn.compiler.native.shared_library import why_never
from mxfusion_mvn.inference import CompiledLoop, NotCompiledWarning

import mxnet as mx
import numpy as np
import pytest
from mxfusion.inference import BatchInferenceLoop, GradBasedInference

from helpers import objectives
from helpers.host import nd

STEPS = 8
# Why MXNet's operators run an objective, not the native engine.
NOT_NATIVE = {
    "batch_norm": "MXNet has to find the gradients",
    "dropout": "MXNet has to find the gradients",
    "gamma_posterior": "it does not know `_sample_gamma`",
}


def trained(loop, algorithm, data, dtype):
    """Parameters by uuid after a few steps from the same draws."""
    mx.random.seed(6)
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=dtype)
    inference.initialize(**{name: array.shape for name, array in data.items()})
    for variable in algorithm.model.variables.values():
        # MXNet has no gradient of the moving averages of BatchNorm, which the host takes for parameters like others.
        if "running" in getattr(variable, "inherited_name", ""):
            inference.params.param_dict[variable.uuid].grad_req = "null"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Function evaluation in FactorGraph")
        warnings.simplefilter("ignore", NotCompiledWarning)
        arrays = {name: nd(array, dtype) for name, array in data.items()}
        inference.run(max_iter=STEPS, learning_rate=0.01, **arrays)
    return {uuid: parameter.data().asnumpy() for uuid, parameter in inference.params.param_dict.items()}


def assert_trained_as_the_host(algorithm, data, loop, dtype="float32"):
    compiled, host = (trained(each, algorithm, data, dtype) for each in (loop, BatchInferenceLoop()))
    for uuid, expected in host.items():
        np.testing.assert_allclose(compiled[uuid], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(objectives.COMPILED))
def test_compiled(name):
    loop = CompiledLoop()
    dtype = "float64" if name in objectives.IN_FLOAT64 else "float32"
    assert_trained_as_the_host(*objectives.COMPILED[name](), loop, dtype)
    assert loop.record.fallback_reason is None
    assert loop.record.compiled
    engine, *_ = loop.explain().splitlines()
    reason = why_never(mx.cpu()) or NOT_NATIVE.get(name)
    assert engine == "Run by: the native engine" if reason is None else reason in engine


@pytest.mark.parametrize("name", sorted(objectives.NOT_COMPILED))
def test_not_compiled(name):
    create, reason = objectives.NOT_COMPILED[name]
    loop = CompiledLoop()
    assert_trained_as_the_host(*create(), loop)
    assert reason in loop.record.fallback_reason
    assert not loop.record.compiled
