# SPDX-License-Identifier: Apache-2.0
"""Runs that arrive: Adam with a short memory at rates that fall, or one run after the other at smaller rates."""

from mxfusion_mvn.inference import CompiledLoop

import mxnet as mx
from mxfusion.inference import GradBasedInference


def adam():
    """Adam that forgets the large gradients of the first steps within twenty more."""
    return mx.optimizer.Adam(beta1=0.8, beta2=0.95)


def fit(algorithm, max_iter=130, rate=0.3, factor=0.95, begin=(), dtype="float64", **data):
    """An inference of an algorithm, run from given values of parameters, a dict from Variables to NDArrays."""
    loop = CompiledLoop(schedule=lambda iteration: rate * factor**iteration)
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=dtype)
    inference.initialize(**data)
    for variable, value in dict(begin).items():
        inference.params[variable] = value
    inference.run(optimizer=adam(), max_iter=max_iter, **data)
    return inference


def last_losses(inference, count=10):
    """The mean of the last losses of a run: minus the evidence lower bound, or the log density of MAP."""
    return float(inference._grad_loop.record.loss[-count:].mean())


def fit_at_rates(inference, data, rates=(0.1, 0.02, 0.004), max_iter=300):
    """An inference, after runs one after the other."""
    for rate in rates:
        inference.run(X=data, learning_rate=rate, max_iter=max_iter)
    return inference
