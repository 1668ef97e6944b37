# SPDX-License-Identifier: Apache-2.0
"""One log pdf and its backward pass, against the host's class given one covariance per row. Prints ratios.

Both classes are timed in turn in one process, so that a machine that slows down slows both; what is printed is the
median of each and of the ratio pair by pair.
"""

import time

import mxfusion_mvn

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxfusion.components.distributions import MultivariateNormal as HostMultivariateNormal

CASES = [(200, 5, 1), (1000, 10, 1), (1000, 20, 5), (100, 100, 1)]  # N, D, S
ROUNDS = 9


def evaluation(distribution, rows, dim, samples, shared):
    """A function that evaluates the summed log pdf and its gradients, and waits for them."""
    rng = np.random.default_rng(0)
    model = Model()
    model.mean = Variable(shape=(rows, dim))
    model.covariance = Variable(shape=(dim, dim) if shared else (rows, dim, dim))
    model.X = distribution.define_variable(shape=(rows, dim), mean=model.mean, covariance=model.covariance)
    covariance = mx.nd.array(np.eye(dim) + 0.1)
    mean = mx.nd.array(rng.normal(size=(samples, rows, dim)))
    data = mx.nd.array(rng.normal(size=(1, rows, dim)))
    for leaf in (mean, covariance):
        leaf.attach_grad()

    def evaluate():
        with mx.autograd.record():
            # The broadcast is what the host's class needs from a model that shares one covariance.
            matrix = covariance.expand_dims(0)
            if not shared:
                matrix = mx.nd.broadcast_to(matrix.expand_dims(0), (1, rows, dim, dim))
            variables = {model.mean.uuid: mean, model.covariance.uuid: matrix, model.X.uuid: data}
            loss = mx.nd.sum(model.X.factor.log_pdf(mx.nd, variables))
        loss.backward()
        mean.grad.wait_to_read()
        covariance.grad.wait_to_read()
        return loss.asscalar()

    return evaluate


def seconds(evaluate):
    """How long one evaluation takes."""
    start = time.perf_counter()
    evaluate()
    return time.perf_counter() - start


def main():
    """Print the table."""
    print(f"{'N':>6} {'D':>4} {'S':>3} {'ours ms':>9} {'host ms':>9} {'host / ours':>12}")
    for rows, dim, samples in CASES:
        ours = evaluation(mxfusion_mvn.MultivariateNormal, rows, dim, samples, shared=True)
        host = evaluation(HostMultivariateNormal, rows, dim, samples, shared=False)
        np.testing.assert_allclose(ours(), host(), rtol=1e-4)
        pairs = np.array([(seconds(ours), seconds(host)) for _ in range(ROUNDS)])
        own, theirs = np.median(pairs, axis=0) * 1e3
        ratio = np.median(pairs[:, 1] / pairs[:, 0])
        print(f"{rows:>6} {dim:>4} {samples:>3} {own:>9.2f} {theirs:>9.2f} {ratio:>12.1f}")


if __name__ == "__main__":
    main()
