# SPDX-License-Identifier: Apache-2.0
"""Tiny models for the fuzz, one for each input, and inferences over them."""

from mxfusion_mvn import GaussianMixture, LKJCholesky, MultivariateNormal, functions
from mxfusion_mvn import inference as ours
from mxfusion_mvn.transformations import PositiveDefinite, Simplex

import mxfusion.inference as host
import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxfusion.components.distributions import Gamma

from .values import ANYTHING, spoil

DIM = 2


def means(model, nd, **missing):
    """X ~ N(mu, I), mu ~ N(0, I)."""
    options = {"covariance": nd(np.eye(DIM)), "dtype": np.dtype(nd([0.0]).dtype).name}
    model.mu = MultivariateNormal(shape=(DIM,), **options)
    model.X = MultivariateNormal(mean=model.mu, shape=(model.N, DIM), **options, **missing)


def _missing(model, nd):
    means(model, nd, missing=True)


def _learned_covariance(model, nd):
    model.C = Variable(shape=(DIM, DIM), transformation=PositiveDefinite(), initial_value=nd(np.eye(DIM)))
    model.mu = MultivariateNormal(covariance=nd(np.eye(DIM)), shape=(DIM,))
    model.X = MultivariateNormal(mean=model.mu, covariance=model.C, shape=(model.N, DIM))


def _scales(model, nd):
    dtype = np.dtype(nd([0.0]).dtype).name
    model.L = LKJCholesky(nd([2.0]), shape=(DIM, DIM), dtype=dtype)
    model.s = Gamma.define_variable(alpha=nd([2.0]), beta=nd([1.0]), shape=(DIM,), dtype=dtype)
    root = functions.scale_rows(model.L, model.s, dtype=dtype)
    model.X = MultivariateNormal(scale_tril=root, shape=(model.N, DIM), dtype=dtype)


def _mixture(model, nd):
    model.w = Variable(shape=(2,), transformation=Simplex(), initial_value=nd([0.5, 0.5]))
    model.m = MultivariateNormal(covariance=nd(np.eye(DIM)), shape=(2, DIM))
    model.X = GaussianMixture(model.w, model.m, covariance=nd(np.eye(DIM)[None]), shape=(model.N, DIM))


MODELS = (means, means, _missing, _learned_covariance, _scales, _mixture)


def model(case):
    """The model of an input, with observed rows X and latent variables."""
    if "model" not in case.shared:
        built = case.shared["model"] = Model()
        built.N = Variable()
        declare = case.pick(MODELS)
        declare(built, case.nd)
        vars(built)["kind"] = declare.__name__  # for the oracle
    return case.shared["model"]


def latents(case):
    """List of the latent variables of the model."""
    return list(model(case).get_latent_variables([model(case).X.uuid]))


def data(case):
    """Keywords with the data of a run, which mostly fit."""
    rows = case.rng.normal(size=(case.pick([2, 5]), DIM))
    value = case.pick([lambda: case.nd(rows), lambda: rows, lambda: rows.astype("float32")])()
    chance = case.rng.random()
    if chance < 0.25:
        value = spoil(case, value) if chance < 0.2 else case.pick(ANYTHING)(case)
    extra = {case.pick(["Y", "x", "mu"]): value} if case.is_chance(0.04) else {}
    return {} if case.is_chance(0.04) else {"X": value, **extra}


def algorithm(case, kind=None):
    """An inference algorithm on the model."""
    kind = kind or case.pick(["MAP", "MAP", "host MAP", "meanfield", "fullrank", "lowrank"])
    observed = [model(case).X]
    if kind == "MAP":
        return ours.MAP(model(case), observed, jacobian=case.is_chance(0.3))
    if kind == "host MAP":
        return host.MAP(model(case), observed)
    posterior = getattr(ours, f"create_Gaussian_{kind}")(model(case), observed, dtype=case.dtype)
    return host.StochasticVariationalInference(case.pick([1, 3]), model(case), posterior, observed)


def loop(case):
    """A loop of any kind."""
    kind = case.pick(["BatchLoop", "BatchLoop", "CompiledLoop", "MinibatchLoop", "CompiledMinibatchLoop"])
    options = {"batch_size": case.pick([1, 2])} if "Minibatch" in kind else {}
    return getattr(ours, kind)(check_every=case.pick([1, 50]), **options)


def inference(case, kind=None, initialized=False):
    """An inference, mostly one that has been run; one without parameters only if that is allowed."""
    built = ours.GradBasedInference(algorithm(case, kind), grad_loop=ours.BatchLoop(), dtype=case.dtype)
    built.rows = case.rng.normal(size=(4, DIM)).astype(case.dtype)  # for the oracle
    chance = case.rng.random()
    if chance < 0.3:
        if chance < 0.15 or initialized:
            built.initialize(X=built.rows.shape)
        return built
    mx.random.seed(int(case.rng.integers(1000)))
    built.run(X=built.rows, max_iter=case.pick([1, 3]), learning_rate=0.05)
    return built
