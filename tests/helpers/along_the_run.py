# SPDX-License-Identifier: Apache-2.0
"""Two runs from one start with the same random numbers, compared at every iteration.

Runs agree to ``BOUND``. Some models enlarge rounding (Adam makes a step of the first gradient even if it is zero but
for rounding), so where that is not met a third run measures by how much: its data and its start are changed at random
in the last place. The compiled run may differ from the imperative one by ``SENSITIVITY`` times as much as that.
"""

import warnings
from typing import NamedTuple, Optional

import mxfusion_mvn.inference as ours

import mxnet as mx
import numpy as np
from mxfusion.inference import GradBasedInference

from helpers.host import nd

BOUND = {"float32": 1e-5, "float64": 1e-10}
SENSITIVITY = 20
STEPS = 30


class Run(NamedTuple):
    """Losses of all iterations, final parameters by uuid, and the record of the loop, if it has one."""

    losses: np.ndarray
    parameters: dict
    record: Optional[ours.RunRecord] = None


class Distance(NamedTuple):
    """The largest difference of two runs, relative to a loss, or to the largest entry of a parameter, above 1."""

    losses: float
    parameters: float


def run(loop, algorithm, data, dtype, steps=STEPS, perturbed=False, start=lambda inference: None, **options):
    """
    Train from the start that follows from the seed.

    :param loop: the GradLoop.
    :param algorithm: InferenceAlgorithm; several runs may share one.
    :param data: dict from name to NumPy array.
    :param dtype: "float32" or "float64".
    :param steps: max_iter.
    :param perturbed: whether to change data and start in the last place.
    :param start: function of the initialized inference, which may set parameters.
    :param options: of the host's ``run``.
    :returns: a :class:`Run`.
    """
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=dtype)
    data = {name: _perturbed(array, dtype) for name, array in data.items()} if perturbed else data
    arrays = {name: nd(array, dtype) for name, array in data.items()}
    with warnings.catch_warnings():
        for message in ("Function evaluation", "InferenceParameters has", "Trying to initialize"):
            warnings.filterwarnings("ignore", message=message)
        mx.random.seed(6)
        inference.initialize(**{name: array.shape for name, array in arrays.items()})
        parameters = inference.params.param_dict
        fix_averages(algorithm, parameters)
        start(inference)
        if perturbed:
            for parameter in parameters.values():
                parameter.set_data(nd(_perturbed(parameter.data().asnumpy(), dtype), dtype))
        mx.random.seed(7)
        np.random.seed(7)
        record = inference.run(max_iter=steps, **{"learning_rate": 0.01, **options}, **arrays)
    values = {uuid: parameter.data().asnumpy() for uuid, parameter in parameters.items()}
    return Run(np.asarray(getattr(record, "loss", ()), "float64"), values, record)


def distance(one, other):
    """
    How far two runs are apart.

    :param one: :class:`Run`.
    :param other: :class:`Run`, which the distance is relative to.
    :returns: a :class:`Distance`.
    """
    assert one.losses.shape == other.losses.shape
    losses = np.abs(one.losses - other.losses) / np.maximum(1, np.abs(other.losses))
    assert set(one.parameters) == set(other.parameters)
    found = []
    for uuid, expected in other.parameters.items():
        assert one.parameters[uuid].shape == expected.shape
        assert one.parameters[uuid].dtype == expected.dtype
        found.append(np.abs(one.parameters[uuid] - expected).max() / max(1, np.abs(expected).max()))
    assert np.isfinite(losses).all()
    assert np.isfinite(found).all()
    return Distance(losses.max(initial=0.0), max(found))


def compared(compiled, plain, algorithm, data, dtype, **options):
    """
    Run compiled, and run as the host does.

    :param compiled: function that makes the one loop.
    :param plain: function that makes the other.
    :param options: see :func:`run`.
    :returns: the compiled :class:`Run`, its :class:`Distance` from the other, and the tolerance.
    """
    arguments = algorithm, data, dtype
    one, other = run(compiled(), *arguments, **options), run(plain(), *arguments, **options)
    found, allowed = distance(one, other), Distance(BOUND[dtype], BOUND[dtype])
    if max(found) > BOUND[dtype]:
        sensitive = distance(run(plain(), *arguments, perturbed=True, **options), other)
        allowed = Distance(*(max(BOUND[dtype], SENSITIVITY * far) for far in sensitive))
    return one, found, allowed


def assert_same(compiled, plain, algorithm, data, dtype, **options):
    """The compiled run is compiled, and the same up to rounding; arguments as those of :func:`compared`."""
    one, found, allowed = compared(compiled, plain, algorithm, data, dtype, **options)
    assert one.record.fallback_reason is None
    assert one.record.compiled
    assert found.losses <= allowed.losses
    assert found.parameters <= allowed.parameters


def _perturbed(array, dtype):
    signs = np.random.RandomState(0).choice([-1, 1], size=array.shape)
    return array * (1 + signs * np.finfo(dtype).eps)


def fix_averages(algorithm, parameters):
    """MXNet has no gradient of the moving averages of BatchNorm, which the host takes for parameters like others."""
    for graph in algorithm.graphs:
        for variable in graph.variables.values():
            if "running" in getattr(variable, "inherited_name", "") and variable.uuid in parameters:
                parameters[variable.uuid].grad_req = "null"
