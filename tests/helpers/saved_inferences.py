# SPDX-License-Identifier: Apache-2.0
"""Inferences over small models, one of each kind that is saved."""

from mxfusion_mvn import InverseWishart, MultivariateNormal
from mxfusion_mvn.inference import (
    MAP,
    LaplaceApproximation,
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
)
from mxfusion_mvn.transformations import LowerCholesky, PositiveDefinite

import mxfusion.inference as host
import numpy as np
from mxfusion import Model, Variable
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.components.variables import PositiveTransformation
from mxfusion.inference import GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior
from mxfusion.modules.gp_modules import GPRegression

from helpers.host import nd

ROWS, DIM = 6, 2


def parameter_model(transformation=PositiveDefinite, dim=DIM, dtype="float32"):
    """X ~ N(mu, C): mu latent, C a parameter."""
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=np.eye(dim), shape=(dim,), dtype=dtype)
    start = nd(np.eye(dim), dtype) if transformation in (PositiveDefinite, LowerCholesky) else None
    model.C = Variable(shape=(dim, dim), transformation=transformation and transformation(), initial_value=start)
    model.X = MultivariateNormal(mean=model.mu, covariance=model.C, shape=(model.N, dim), dtype=dtype)
    return model


def latent_model(dtype="float32", swapped=False):
    """X ~ N(mu, C), all latent."""
    model = Model()
    model.N = Variable()

    def declare_mean():
        model.mu = MultivariateNormal(covariance=np.eye(DIM), shape=(DIM,), dtype=dtype)

    if not swapped:
        declare_mean()
    model.C = InverseWishart(5.0, np.eye(DIM), shape=(DIM, DIM), dtype=dtype)
    if swapped:
        declare_mean()
    model.X = MultivariateNormal(mean=model.mu, covariance=model.C, shape=(model.N, DIM), dtype=dtype)
    return model


def own_posterior(model):
    posterior = Posterior(model)
    scale_tril = Variable(shape=(DIM, DIM), transformation=LowerCholesky(), initial_value=nd(np.eye(DIM), "float32"))
    posterior.mu.set_prior(MultivariateNormal(mean=Variable(shape=(DIM,)), scale_tril=scale_tril))
    return posterior


def variational(model, posterior, dtype="float32"):
    algorithm = StochasticVariationalInference(2, model, posterior, [model.X])
    return GradBasedInference(algorithm, dtype=dtype)


def with_latents(create, dtype="float32", swapped=False, **options):
    model = latent_model(dtype, swapped)
    return variational(model, create(model, [model.X], dtype=dtype, **options), dtype)


def with_host_map(**options):
    model = parameter_model(**options)
    return GradBasedInference(host.MAP(model, [model.X]), dtype=options.get("dtype"))


def with_map(**options):
    model = latent_model()
    return GradBasedInference(MAP(model, [model.X], **options))


def with_host_meanfield():
    model = parameter_model()
    return variational(model, host.create_Gaussian_meanfield(model, [model.X]))


def with_own_posterior():
    model = parameter_model()
    return variational(model, own_posterior(model))


def with_laplace():
    data = np.random.default_rng(1).normal(size=(ROWS, DIM))
    model = latent_model("float64")
    inference = GradBasedInference(MAP(model, [model.X]), dtype="float64")
    inference.run(X=nd(data), max_iter=20, learning_rate=0.05)
    return LaplaceApproximation(inference, X=data).inference


def with_gaussian_process():
    model = Model()
    model.N = Variable()
    model.Z = Variable(shape=(model.N, 1))
    model.noise_var = Variable(shape=(1,), transformation=PositiveTransformation(), initial_value=0.5)
    model.X = GPRegression.define_variable(
        X=model.Z, kernel=RBF(input_dim=1), noise_var=model.noise_var, shape=(model.N, DIM)
    )
    return GradBasedInference(host.MAP(model, [model.Z, model.X]))


KINDS = {
    "host MAP": with_host_map,
    "host mean-field": with_host_meanfield,
    "own posterior": with_own_posterior,
    "MAP": with_map,
    "mean-field": lambda: with_latents(create_Gaussian_meanfield),
    "full rank": lambda: with_latents(create_Gaussian_fullrank),
    "full rank, float64": lambda: with_latents(create_Gaussian_fullrank, "float64"),
    "low rank": lambda: with_latents(create_Gaussian_lowrank),
    "Laplace": with_laplace,
    "Gaussian process": with_gaussian_process,
}
