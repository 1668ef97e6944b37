# SPDX-License-Identifier: Apache-2.0
"""What missing entries cost: log density and gradient of 10000 rows with 12 patterns, against complete data."""

import time

from mxfusion_mvn import Gaussian
from mxfusion_mvn.missing import PartlyObserved

import mxnet as mx
import numpy as np

ROWS, PATTERNS, ROUNDS = 10000, 12, 9


def evaluation(dim, holes):
    """A function that evaluates the summed log density and its gradients, and waits for them."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(ROWS, dim))
    if holes:
        missing = rng.random((PATTERNS, dim)) < 0.3
        data[missing[rng.integers(0, PATTERNS, ROWS)]] = np.nan
    value, mean = mx.nd.array(data, dtype="float64"), mx.nd.zeros(dim, dtype="float64")
    covariance = mx.nd.array(np.eye(dim) + 0.1, dtype="float64")
    for leaf in (mean, covariance):
        leaf.attach_grad()

    def evaluate():
        with mx.autograd.record():
            gaussian = Gaussian(mean, covariance=covariance)
            log_pdf = PartlyObserved(gaussian, value).log_pdf() if holes else gaussian.log_pdf(value)
            log_pdf.sum().backward()
        covariance.grad.wait_to_read()
        mean.grad.wait_to_read()

    return evaluate


def seconds(evaluate):
    """How long one evaluation takes."""
    start = time.perf_counter()
    evaluate()
    return time.perf_counter() - start


def main():
    """Print the table."""
    print(f"{'D':>4} {'complete ms':>12} {'missing ms':>11} {'missing / complete':>19}")
    for dim in (4, 10, 20):
        complete, partly = evaluation(dim, holes=False), evaluation(dim, holes=True)
        complete(), partly()
        pairs = np.array([(seconds(complete), seconds(partly)) for _ in range(ROUNDS)])
        one, other = np.median(pairs, axis=0) * 1e3
        print(f"{dim:>4} {one:>12.2f} {other:>11.2f} {np.median(pairs[:, 1] / pairs[:, 0]):>19.1f}")


if __name__ == "__main__":
    main()
