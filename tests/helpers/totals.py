# SPDX-License-Identifier: Apache-2.0
"""Factors whose log density is a total over rows, evaluated or traced, and the total in float64."""

from mxfusion_mvn.compiler.graph import DATA, PARAMETER, leaf
from mxfusion_mvn.compiler.tracing import tracing
from mxfusion_mvn.totals.summed import reading

import mxnet as mx
import numpy as np
from mxnet import autograd

from helpers import oracles
from helpers.host import declare, nd

FORMS = ("covariance", "precision", "scale_tril")
SAME = {"rtol": 1e-10, "atol": 1e-10}
# Leading axes (samples, batch...) of value, mean and matrix.
LAYOUTS = {
    "one vector": ((1,), (1,), (1,)),
    "one row": ((1, 1), (1,), (1,)),
    "fewer rows than entries": ((1, 2), (1,), (1,)),
    "shared": ((1, 9), (1,), (1,)),
    "shared, all with a batch axis": ((1, 9), (1, 1), (1, 1)),
    "samples of the mean": ((1, 9), (4,), (1,)),
    "samples of the mean, fewer rows than entries": ((1, 2), (4,), (1,)),
    "as many samples of the mean as rows": ((1, 7), (7,), (1,)),
    "samples of the matrix": ((1, 9), (1,), (4,)),
    "samples of both": ((1, 9), (4,), (4,)),
    "as many samples of both as rows": ((1, 5), (5,), (5,)),
    "a mean per row": ((1, 9), (1, 9), (1,)),
    "a mean per row and sample": ((1, 9), (4, 9), (1,)),
    "a matrix per row": ((1, 9), (1,), (1, 9)),
    "a matrix per row, samples of the mean": ((1, 9), (4,), (1, 9)),
    "everything per row and sample": ((1, 6), (6, 6), (6, 6)),
    "samples of the value": ((4, 9), (1,), (1,)),
    "samples of value and mean": ((4, 9), (4,), (1,)),
    "samples of everything": ((4, 9), (4,), (4,)),
    "as many samples of the value as rows": ((5, 5), (1,), (1,)),
    "means of groups": ((1, 3, 8), (1, 3, 1), (1,)),
    "means of groups in the last axis": ((1, 8, 3), (1, 3), (1,)),
    "matrices of groups": ((1, 3, 8), (2,), (1, 3, 1)),
    "matrices of groups in the last axis": ((1, 8, 3), (2,), (1, 3)),
    "means and matrices of groups": ((1, 3, 8), (2, 3, 1), (2, 3, 1)),
    "means across, matrices along": ((1, 3, 4), (1, 4), (1, 3, 1)),
    "samples of everything, grouped": ((1, 3, 8), (3, 3, 1), (3, 1, 8)),
    "three axes": ((1, 4, 3, 7), (1, 4, 1, 1), (1, 3, 1)),
}
CONSTANT_VALUE = [name for name, layout in LAYOUTS.items() if layout[0][0] == 1]


def draw(rng, name, form, dim=3):
    """Value, mean and matrix of a layout, and the covariance, in float64."""
    of_value, of_mean, of_matrix = LAYOUTS[name]
    covariance = oracles.random_spd(rng, of_matrix, dim)
    value, mean = 1 + rng.normal(size=of_value + (dim,)), rng.normal(size=of_mean + (dim,))
    return {"random_variable": value, "mean": mean, form: oracles.FROM_COVARIANCE[form](covariance)}, covariance


def aligned(array, batch_axes, event_axes):
    """Batch axes of size 1 inserted after the samples."""
    missing = batch_axes - (array.ndim - 1 - event_axes)
    return array.reshape(array.shape[:1] + (1,) * missing + array.shape[1:])


def expected_total(arrays, covariance):
    """SciPy's log densities, summed for each sample."""
    value, mean = arrays["random_variable"], arrays["mean"]
    axes = value.ndim - 2
    rows = oracles.log_pdf(value, aligned(mean, axes, 1), aligned(covariance, axes, 2))
    return rows.reshape(len(rows), -1).sum(axis=1)


def as_factor(distribution, arrays, dtype="float64", **options):
    """A factor and its variables, for arrays by name."""
    shapes = {name: array.shape[1:] for name, array in arrays.items() if name != "random_variable"}
    model = declare(
        lambda **inputs: distribution(**inputs, **options), arrays["random_variable"].shape[1:], dtype, **shapes
    )
    return model.X.factor


def evaluate(factor, arrays, summed, dtype="float64", latent=(), extra=()):
    """Total of each sample and the gradients of a combination of them, by name, with the flag on or off."""
    held = {name: nd(array, dtype) for name, array in arrays.items()}
    variables = {variable.uuid: held[name] for name, variable in factor.inputs + factor.outputs if name in held}
    variables.update(extra)
    for name in latent:
        held[name].attach_grad()
    with autograd.record():
        if summed:
            with reading(lambda array: True):
                log_pdf = factor.total_log_pdf(mx.nd, variables)
        else:
            log_pdf = factor.log_pdf(mx.nd, variables)
        total = log_pdf if log_pdf.ndim == 1 else log_pdf.sum(axis=0, exclude=True)
        combined = mx.nd.sum(total * mx.nd.arange(1, 1 + len(total), dtype=dtype))  # each sample has its own head
    if latent:
        combined.backward()
    return log_pdf, {name: held[name].grad.asnumpy() for name in latent}


def traced(factor, arrays, parameters, changing=()):
    """The graph of a total, of which some arrays are parameters."""
    held = {name: nd(array) for name, array in arrays.items()}
    variables = {variable.uuid: held[name] for name, variable in factor.inputs + factor.outputs}
    for name in parameters:
        held[name].attach_grad()
    leaves = [leaf(PARAMETER, held[name], name) for name in parameters]
    leaves += [leaf(DATA, held[name], name) for name in changing]
    with tracing(leaves) as trace, reading(lambda array: not trace.is_traced(array)), autograd.record():
        loss = mx.nd.sum(mx.nd.mean(factor.total_log_pdf(mx.nd, variables), axis=0))
    graph = trace.graph(loss, loss)
    assert trace.reason is None
    return graph


def sizes(graph):
    """The sizes of all axes, and of all arrays."""
    shapes = [shape for node in graph.nodes for shape in node.shapes]
    return {size for shape in shapes for size in shape}, [int(np.prod(shape)) for shape in shapes]
