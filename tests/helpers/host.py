# SPDX-License-Identifier: Apache-2.0
"""Small helpers that speak the host's language."""

import mxnet as mx
from mxfusion import Model, Variable
from mxfusion.components.distributions.random_gen import MXNetRandomGenerator


def nd(array, dtype="float64"):
    """An NDArray of a dtype (``mx.nd.array`` of a float64 array alone would be float32)."""
    return mx.nd.array(array, dtype=dtype)


def declare(distribution, shape, dtype="float64", **shapes):
    """A model whose X follows a distribution with one parameter Variable per name, and the model's Variables."""
    model = Model()
    for name, parameter_shape in shapes.items():
        setattr(model, name, Variable(shape=parameter_shape))
    model.X = distribution(shape=shape, dtype=dtype, **{name: getattr(model, name) for name in shapes})
    return model


class FixedNoise(MXNetRandomGenerator):
    """A random generator that returns the noise it was given, and remembers what it was asked for."""

    def __init__(self, noise):
        self.noise = noise
        self.asked = []

    def sample_normal(self, loc=0, scale=1, shape=None, dtype=None, out=None, ctx=None, F=None):
        """The fixed noise in the wanted shape."""
        self.asked.append((shape, dtype, ctx))
        return mx.nd.array(self.noise, dtype=dtype, ctx=ctx).reshape(shape)
