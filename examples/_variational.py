# SPDX-License-Identifier: Apache-2.0
"""Variational inference as the examples run it: compiled, in float64, with ever smaller steps."""

import warnings

# On Python 3.12 MXNet can only be imported by way of this package, so it comes before mxnet.
from mxfusion_mvn.inference import CompiledLoop, GradBasedInference

import mxnet as mx
from _common import DTYPE, double
from mxfusion.inference import StochasticVariationalInference

__all__ = ["approximate", "run"]

NUM_SAMPLES = 30  # draws for each gradient
NUM_BOUND = 500  # iterations, at the last learning rate, over which the lower bound is averaged


def approximate(model, posterior, iterations, learning_rates, **data):
    """
    Fit a posterior.

    :param model: Model.
    :param posterior: Posterior of the model, with parameters.
    :param iterations: per learning rate.
    :param learning_rates: of Adam.
    :param data: array of each observed variable, by its name in the model.
    :returns: the inference, and the evidence lower bound it arrived at.
    """
    mx.random.seed(1)
    observed = [getattr(model, name) for name in data]
    algorithm = StochasticVariationalInference(
        num_samples=NUM_SAMPLES, model=model, posterior=posterior, observed=observed
    )
    inference, record = run(algorithm, iterations, learning_rates, **data)
    return inference, -record.loss[-min(iterations, NUM_BOUND) :].mean()


def run(algorithm, iterations, learning_rates, **data):
    """
    Run an inference algorithm.

    :param algorithm: of MXFusion, or of this package.
    :param iterations: per learning rate.
    :param learning_rates: of Adam.
    :param data: array of each observed variable, by its name in the model.
    :returns: the inference and the record of its run.
    """
    loop = CompiledLoop(schedule=lambda iteration: learning_rates[iteration // iterations])
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype=DTYPE)
    with warnings.catch_warnings():
        # MXFusion warns when an inference makes its parameters.
        warnings.filterwarnings("ignore", message="InferenceParameters has already been")
        data = {name: double(array) for name, array in data.items()}
        record = inference.run(max_iter=iterations * len(learning_rates), **data)
    return inference, record
