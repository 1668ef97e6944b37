# SPDX-License-Identifier: Apache-2.0
"""What transformations give, in float64, and how they are evaluated and differentiated."""

from decimal import Decimal, localcontext

from mxfusion_mvn.transformations import (
    CorrelationCholesky,
    LowerCholesky,
    Positive,
    PositiveDefinite,
)

import mxnet as mx
import numpy as np

TRANSFORMATIONS = {t.__name__: t for t in (Positive, LowerCholesky, PositiveDefinite, CorrelationCholesky)}
MATRIX_TRANSFORMATIONS = {"LowerCholesky": LowerCholesky, "PositiveDefinite": PositiveDefinite}
LEADING = [(), (2,), (3, 2)]
DIMENSIONS = [1, 2, 5]


# Oracles: decimal arithmetic for the scalars, NumPy float64 for the matrices.


def _decimals(function, values):
    with localcontext() as context:
        context.prec = 400
        return np.array([float(function(Decimal(float(v)))) for v in values])


def exact_softplus(values):
    return _decimals(lambda x: (1 + x.exp()).ln() if x < 800 else x, values)


def exact_sigmoid(values):
    return _decimals(lambda x: 1 / (1 + (-x).exp()) if x < 800 else Decimal(1), values)


def exact_inverse_softplus(values):
    return _decimals(lambda y: y + (1 - (-y).exp()).ln() if y < 800 else y, values)


def expected_transform(name, raw):
    """Float64, one matrix at a time."""
    if name == "Positive":
        return np.logaddexp(0, raw)
    out = np.empty_like(raw)
    for index in np.ndindex(raw.shape[:-2]):
        x = raw[index]
        if name == "CorrelationCholesky":
            rows = np.tril((x + x.T) / 2, -1) + np.eye(len(x))
            out[index] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            continue
        factor = np.tril((x + x.T) / 2, -1) + np.diag(np.logaddexp(0, np.diag(x)))
        out[index] = factor if name == "LowerCholesky" else factor @ factor.T
    return out


def central_differences(function, x, step=1e-6):
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        gradient[index] = (function(x + shift) - function(x - shift)) / (2 * step)
    return gradient


def random_raw(rng, leading, dim, dtype):
    return rng.normal(size=leading + (dim, dim)).astype(dtype)


def symmetric(x):
    return (x + np.swapaxes(x, -1, -2)) / 2


def gradient_of(function, x, head=None):
    array = mx.nd.array(x, dtype=x.dtype)
    array.attach_grad()
    with mx.autograd.record():
        out = function(array)
    out.backward(None if head is None else mx.nd.array(head, dtype=x.dtype))
    return array.grad.asnumpy()


def evaluate_symbol(function, x):
    symbol = function(mx.sym.Variable("x"))
    return symbol.eval(ctx=mx.cpu(), x=mx.nd.array(x, dtype=x.dtype))[0].asnumpy()
