# SPDX-License-Identifier: Apache-2.0
"""Models and their Gaussian posteriors: of every kind of variable, known exactly, and as learned."""

from typing import NamedTuple

from mxfusion_mvn import InverseWishart, LKJCholesky, MultivariateNormal, Wishart
from mxfusion_mvn.inference import (
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
)

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxfusion.components import distributions as host
from mxfusion.inference import (
    StochasticVariationalInference,
)

from helpers.fitting import fit
from helpers.host import nd
from helpers.tolerances import assert_close


def every_kind(dtype="float64"):
    model = Model()
    counts = nd(np.full((4, 2), 3.0), dtype)  # of the full shape: the host takes samples for rows
    model.rate = host.Gamma.define_variable(counts, 0.2 * counts, (4, 2), dtype=dtype)
    model.mean = MultivariateNormal(shape=(3,), dtype=dtype)
    model.shares = host.Dirichlet.define_variable(nd([[2.0, 3.0, 5.0]], dtype), (1, 3), dtype=dtype)
    model.precision = Wishart(4.0, 1.0, shape=(2, 2), dtype=dtype)
    model.factor = LKJCholesky(2.0, shape=(3, 3), dtype=dtype)
    model.covariances = InverseWishart(5.0, 1.0, shape=(2, 2, 2), dtype=dtype)
    return model


CREATE = {
    "mean field": create_Gaussian_meanfield,
    "full rank": create_Gaussian_fullrank,
    "low rank": create_Gaussian_lowrank,
    "blocks": lambda m, o, **options: create_Gaussian_fullrank(
        m, o, blocks=[[m.precision, m.mean], [m.factor]], **options
    ),
}


def random_parameters(posterior, rng):
    """Values of the parameters of a posterior, NumPy arrays by uuid."""
    values = {}
    for parameter in posterior.get_parameters(excluded=set()):
        scale = 0.3 if parameter.transformation is None else 0.0
        values[parameter.uuid] = scale * rng.normal(size=parameter.shape)
        if parameter.transformation is not None:
            values[parameter.uuid] = rng.uniform(0.1, 0.5, size=parameter.shape)
    return values


def draw(posterior, values, num_samples, dtype="float64"):
    """Parameters and draws, NDArrays by uuid."""
    variables = {uuid: nd(value[None], dtype) for uuid, value in values.items()}
    variables.update(posterior.draw_samples(F=mx.nd, variables=variables, num_samples=num_samples))
    return variables


def log_pdf_per_sample(posterior, variables, num_samples):
    """The log density of all variables together, (S,), the terms of its factors added up."""
    total = np.zeros(num_samples)
    for factor in posterior.ordered_factors:
        term = factor.log_pdf(F=mx.nd, variables=variables).asnumpy()
        total = total + term.reshape(len(term), -1).sum(axis=1)
    return total


class Law(NamedTuple):
    """A Gaussian over the coordinates of some variables: factor of the posterior, and its latent variables."""

    factor: object
    latents: list


def laws(posterior, latent):
    """The independent Gaussians of a posterior, each with its variables in the order of its coordinates."""
    found = {}
    for variable in sorted(latent, key=lambda v: getattr(posterior[v].factor, "start", 0)):
        factor = posterior[variable].factor
        joint = dict(factor.inputs).get("joint")
        found.setdefault(factor if joint is None else joint.factor, []).append(variable)
    return [Law(factor, latents) for factor, latents in found.items()]


def covariance(values, factor):
    """Mean (B..., n) and covariance (B..., n, n) of z from the parameters of its law."""
    given = {name: values[variable.uuid] for name, variable in factor.inputs}
    mean, scale = given["mean"], given["scale"]
    root = np.eye(mean.shape[-1])
    if "below" in given:
        root[np.tril_indices(len(root), -1)] = given["below"]
    if "factor" in given:
        root = np.concatenate([root, given["factor"]], axis=1)
        root /= np.linalg.norm(root, axis=1, keepdims=True)
    colored = scale[..., None] * root
    return mean, colored @ np.swapaxes(colored, -1, -2)


# Gradients of the evidence lower bound, which for a latent variable without data is -KL(q || p)


TARGET_MEAN = np.array([1.0, -0.5, 2.0])
TARGETS = {
    "mean field": np.diag([0.5, 2.0, 1.0]),
    "full rank": np.array([[1.0, 0.7, 0.2], [0.7, 2.0, -0.4], [0.2, -0.4, 0.5]]),
    "low rank": np.diag([0.3, 0.5, 0.2]) + np.outer([1.0, -0.5, 0.7], [1.0, -0.5, 0.7]),
}
ENTROPIES = ["sampled", "closed_form", "sticking_the_landing"]


def target(name, entropy):
    model = Model()
    model.v = MultivariateNormal(mean=nd(TARGET_MEAN), covariance=nd(TARGETS[name]), shape=(3,), dtype="float64")
    create = {"low rank": lambda m, o, **options: create_Gaussian_lowrank(m, o, rank=1, **options)}.get(name)
    return model, (create or CREATE[name])(model, [], entropy=entropy)


def law_of(posterior, variable):
    """The factor of the Gaussian, and its parameters by name."""
    (law,) = laws(posterior, [variable])
    return law.factor, {name: parameter.uuid for name, parameter in law.factor.inputs}


def learned(inference, posterior, variable):
    """Mean and covariance of the law of a latent variable's coordinates, as learned."""
    factor, _ = law_of(posterior, variable)
    values = {parameter.uuid: inference.params[parameter].asnumpy() for _, parameter in factor.inputs}
    return covariance(values, factor)


def assert_same_gaussian(got, expected):
    """Means within 0.02 standard deviations; standard deviations and correlations within 2 percent."""
    (mean, cov), (exact_mean, exact_cov) = got, expected
    sd, exact_sd = np.sqrt(np.diag(cov)), np.sqrt(np.diag(exact_cov))
    assert (np.abs(mean - exact_mean) < 0.02 * exact_sd).all()
    assert_close(sd, exact_sd, rtol=0.02)
    assert_close(cov / np.outer(sd, sd), exact_cov / np.outer(exact_sd, exact_sd), rtol=0, atol=0.02)


def infer(model, observed, posterior, num_samples=5, max_iter=1000, **options):
    algorithm = StochasticVariationalInference(num_samples, model, posterior, observed)
    return fit(algorithm, max_iter, rate=0.1, factor=0.994, **options)


def latent_pairs():
    """A common mean w, a latent z for each row about it, and x about z."""
    model = Model()
    model.N = Variable()
    model.w = MultivariateNormal(covariance=4.0, shape=(1,), dtype="float64")
    model.z = MultivariateNormal(mean=model.w, shape=(model.N, 1), dtype="float64")
    model.x = MultivariateNormal(mean=model.z, covariance=0.5, shape=(model.N, 1), dtype="float64")
    return model
