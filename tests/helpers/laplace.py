# SPDX-License-Identifier: Apache-2.0
"""Laplace's approximation of a posterior, and draws from it."""

from mxfusion_mvn.inference import MAP, BatchLoop, LaplaceApproximation

import mxnet as mx
import numpy as np
from mxfusion.inference import GradBasedInference

from helpers.host import nd


def roughly(algorithm, dtype="float64", begin=(), **data):
    """A MAP that has hardly begun: the approximation goes on to the mode by itself."""
    inference = GradBasedInference(algorithm, grad_loop=BatchLoop(), dtype=dtype)
    inference.initialize(**data)
    for variable, value in dict(begin).items():
        inference.params[algorithm.location(variable)] = nd(value, dtype)
    inference.run(max_iter=1, **data)
    return inference


def laplace_of(model, observed=(), jacobian=False, **options):
    return LaplaceApproximation(roughly(MAP(model, list(observed), jacobian=jacobian), **options))


SCALE = np.array([[2.0, 0.6], [0.6, 1.0]])


def raw_draws(laplace, num_samples):
    """Draws of the coordinates from the posterior that is handed out, (S, n)."""
    posterior, params = laplace.posterior, laplace.inference.params
    variables = {p.uuid: params[p].expand_dims(0) for p in posterior.get_parameters(excluded=set())}
    drawn = posterior.draw_samples(F=mx.nd, variables=variables, num_samples=num_samples)
    raws = []
    for part in laplace._density.parts:
        raw = part.bijection.inverseTransform(drawn[part.variable.uuid])
        raws.append(raw.asnumpy().reshape(num_samples, -1))
    return np.concatenate(raws, axis=1)
