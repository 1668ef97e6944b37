# SPDX-License-Identifier: Apache-2.0
"""The models of problems.py in Pyro, and the log density in torch. Runs in the peers' environment (see the Makefile).

Samples are drawn side by side (``vectorize_particles``), constant covariances are factored beforehand, and arguments
are not validated. ``jit`` is Pyro's ``JitTrace_ELBO``.
"""

import math
import os

import more_models_pyro
import numpy as np
import problems
import pyro
import pyro.distributions as dist
import torch
from more_models_pyro import prior, without_plate
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO, autoguide
from pyro.infer.autoguide import init_to_feasible
from torch.distributions import constraints
from worker import serve

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
pyro.enable_validation(False)


def mean_model(data):
    """The mean of a normal, its covariance known."""
    mean = pyro.sample("mean", prior(data["x"].shape[-1:]))
    with pyro.plate("rows", len(data["x"])):
        pyro.sample("x", dist.MultivariateNormal(mean, scale_tril=data["factor"]), obs=data["x"])


def mean_and_covariance(data):
    """The mean of a normal, its Cholesky factor a parameter."""
    dim = data["x"].shape[-1]
    mean = pyro.sample("mean", prior((dim,)))
    factor = pyro.param("factor", lambda: torch.eye(dim), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(data["x"])):
        pyro.sample("x", dist.MultivariateNormal(mean, scale_tril=factor), obs=data["x"])


def regression(data):
    """Bayesian linear regression."""
    weights = pyro.sample("weights", prior(data["x"].shape[-1:]))
    law = dist.Normal(without_plate(weights, 1) @ data["x"].T, problems.REGRESSION_SD)
    with pyro.plate("rows", len(data["y"])):
        pyro.sample("y", law, obs=data["y"])


def sleepstudy(data):
    """Correlated intercepts and slopes."""
    beta = pyro.sample("beta", prior((2,)))
    sd = pyro.sample("sd", dist.Gamma(*problems.GAMMA).expand((2,)).to_event(1))
    correlation = pyro.sample("correlation", dist.LKJCholesky(2, problems.LKJ))
    noise = pyro.sample("noise", dist.Gamma(*problems.GAMMA))
    with pyro.plate("subjects", len(data["y"])):
        law = dist.MultivariateNormal(beta, scale_tril=sd.unsqueeze(-1) * correlation)
        coefficients = pyro.sample("coefficients", law)
        law = dist.Normal(coefficients @ data["design"].T, noise.sqrt().unsqueeze(-1))
        pyro.sample("y", law.to_event(1), obs=data["y"])


def neural_net(data):
    """A Bayesian neural net."""
    hidden = data["x"]
    weights = {
        name: pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
        for name, shape in problems.net_shapes().items()
    }
    for layer in range(3):
        weight, bias = weights[f"weight{layer}"], weights[f"bias{layer}"]
        hidden = hidden @ without_plate(weight, 2) + without_plate(bias, 1).unsqueeze(-2)
        hidden = torch.tanh(hidden) if layer < 2 else hidden
    with pyro.plate("rows", len(data["y"])):
        pyro.sample("y", dist.Normal(hidden, problems.NET_SD).to_event(1), obs=data["y"])


def process(data):
    """A Gaussian process."""
    variance, length, noise = (
        without_plate(pyro.sample(name, dist.Gamma(*problems.GAMMA)), 0)[..., None, None]
        for name in ("variance", "length", "noise")
    )
    squared = torch.square(data["x"] - data["x"].T)
    covariance = variance * torch.exp(-0.5 * squared / length**2)
    covariance = covariance + noise * torch.eye(len(data["y"]))
    law = dist.MultivariateNormal(torch.zeros(len(data["y"])), covariance.unsqueeze(-3))
    with pyro.plate("once", 1):
        pyro.sample("y", law, obs=data["y"].unsqueeze(0))


MODELS = {
    "mean": mean_model,
    "mean and covariance": mean_and_covariance,
    "regression": regression,
    "sleepstudy": sleepstudy,
    "neural net": neural_net,
    "process": process,
    **more_models_pyro.MODELS,
}


class Training:
    """A model, its guide and Adam, in Pyro's ``svi.step``."""

    ELBO = Trace_ELBO

    def __init__(self, case):
        pyro.clear_param_store()
        pyro.set_rng_seed(case["seed"])
        arrays = np.load(case["data"])
        self.data = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if "covariance" in self.data:
            self.data["factor"] = torch.linalg.cholesky(self.data["covariance"])
        model = MODELS[case["model"]]
        self.guide = _guide(case["guide"], model)
        loss = self.ELBO(num_particles=case["samples"], vectorize_particles=True, max_plate_nesting=1)
        self.svi = SVI(model, self.guide, pyro.optim.Adam({"lr": case["learning_rate"]}), loss)

    def run(self, steps):
        """Take so many steps."""
        for _ in range(steps):
            self.svi.step(self.data)

    def watch(self, steps, every, report):
        """Run, and report mean and covariance of the posterior each so many steps."""
        for _ in range(0, steps, every):
            self.run(every)
            normal = self.guide.get_posterior()
            report(normal.mean.detach().numpy(), normal.covariance_matrix.detach().numpy())


class JitTraining(Training):
    """The same with the objective traced by torch."""

    @staticmethod
    def ELBO(**options):
        """Pyro's compiled objective; the data stay the same, so it may take them as they are."""
        return JitTrace_ELBO(ignore_jit_warnings=True, **options)


class Density:
    """The summed log density and its gradient for the mean and the covariance."""

    def __init__(self, case):
        arrays = np.load(case["data"])
        self.mean, self.covariance, self.x = (torch.from_numpy(arrays[name]) for name in ("mean", "covariance", "x"))
        self.leaves = [self.mean.requires_grad_(), self.covariance.requires_grad_()]

    def run(self, steps):
        """Evaluate so many times."""
        for _ in range(steps):
            torch.autograd.grad(log_density(self.mean, self.covariance, self.x), self.leaves)


def log_density(mean, covariance, x):
    """
    The summed log density of rows that share a covariance; if batched, one row for each.

    :param mean: (D,) or (B, 1, D).
    :param covariance: (D, D) or (B, D, D).
    :param x: (N, D) or (B, 1, D).
    :returns: a number.
    """
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (x - mean).mT, upper=False)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum() * x.shape[-2]
    return -0.5 * white.square().sum() - log_det - 0.5 * x.numel() * math.log(2 * math.pi)


def _guide(kind, model):
    if kind == "delta":
        return autoguide.AutoDelta(model, init_loc_fn=init_to_feasible)
    family = {"fullrank": autoguide.AutoMultivariateNormal, "meanfield": autoguide.AutoNormal}[kind]
    return family(model, init_loc_fn=init_to_feasible, init_scale=problems.SCALE)


if __name__ == "__main__":
    serve({"density": Density, "step": Training, "jit": JitTraining})
