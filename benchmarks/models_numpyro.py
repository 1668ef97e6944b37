# SPDX-License-Identifier: Apache-2.0
"""The models of problems.py in NumPyro, and the log density in JAX. Runs in the peers' environment (see the Makefile).

Constant covariances are factored beforehand. ``svi.update`` is jitted, as its documentation advises. ``svi.run`` is the
``lax.scan`` that ``svi.run(progress_bar=False)`` builds anew, and compiles anew, at every call: here it is compiled
once, so that only the steps are timed.
"""

import math

import jax
import jax.numpy as jnp
import more_models_numpyro
import numpy as np
import numpyro
import numpyro.distributions as dist
import problems
from jax import lax, random
from jax.scipy.linalg import solve_triangular
from more_models_numpyro import prior
from numpyro.infer import SVI, Trace_ELBO, autoguide, init_to_feasible
from worker import serve

# Entering a compiled loop of so many steps costs nothing beside them; fewer where data times samples are larger.
LONGEST, LARGE = 200, 2_000_000


def mean_model(data):
    """The mean of a normal, its covariance known."""
    mean = numpyro.sample("mean", prior(data["x"].shape[-1:]))
    with numpyro.plate("rows", len(data["x"])):
        numpyro.sample("x", dist.MultivariateNormal(mean, scale_tril=data["factor"]), obs=data["x"])


def mean_and_covariance(data):
    """The mean of a normal, its Cholesky factor a parameter."""
    dim = data["x"].shape[-1]
    mean = numpyro.sample("mean", prior((dim,)))
    factor = numpyro.param("factor", jnp.eye(dim), constraint=dist.constraints.lower_cholesky)
    with numpyro.plate("rows", len(data["x"])):
        numpyro.sample("x", dist.MultivariateNormal(mean, scale_tril=factor), obs=data["x"])


def regression(data):
    """Bayesian linear regression."""
    weights = numpyro.sample("weights", prior(data["x"].shape[-1:]))
    law = dist.Normal(data["x"] @ weights, problems.REGRESSION_SD)
    numpyro.sample("y", law.to_event(1), obs=data["y"])


def sleepstudy(data):
    """Correlated intercepts and slopes."""
    beta = numpyro.sample("beta", prior((2,)))
    sd = numpyro.sample("sd", dist.Gamma(*problems.GAMMA).expand((2,)).to_event(1))
    correlation = numpyro.sample("correlation", dist.LKJCholesky(2, problems.LKJ))
    noise = numpyro.sample("noise", dist.Gamma(*problems.GAMMA))
    law = dist.MultivariateNormal(beta, scale_tril=sd[:, None] * correlation)
    coefficients = numpyro.sample("coefficients", law.expand((len(data["y"]),)).to_event(1))
    numpyro.sample("y", dist.Normal(coefficients @ data["design"].T, jnp.sqrt(noise)).to_event(2), obs=data["y"])


def neural_net(data):
    """A Bayesian neural net."""
    hidden = data["x"]
    weights = {
        name: numpyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
        for name, shape in problems.net_shapes().items()
    }
    for layer in range(3):
        hidden = hidden @ weights[f"weight{layer}"] + weights[f"bias{layer}"]
        hidden = jnp.tanh(hidden) if layer < 2 else hidden
    numpyro.sample("y", dist.Normal(hidden, problems.NET_SD).to_event(2), obs=data["y"])


def process(data):
    """A Gaussian process."""
    variance, length, noise = (
        numpyro.sample(name, dist.Gamma(*problems.GAMMA)) for name in ("variance", "length", "noise")
    )
    squared = jnp.square(data["x"] - data["x"].T)
    covariance = variance * jnp.exp(-0.5 * squared / length**2)
    covariance = covariance + noise * jnp.eye(len(data["y"]))
    numpyro.sample("y", dist.MultivariateNormal(0.0, covariance), obs=data["y"])


MODELS = {
    "mean": mean_model,
    "mean and covariance": mean_and_covariance,
    "regression": regression,
    "sleepstudy": sleepstudy,
    "neural net": neural_net,
    "process": process,
    **more_models_numpyro.MODELS,
}


class Training:
    """A model, its guide and Adam; the loop is a subclass's."""

    def __init__(self, case):
        arrays = np.load(case["data"])
        self.data = {name: jnp.asarray(array) for name, array in arrays.items()}
        if "covariance" in self.data:
            self.data["factor"] = jnp.linalg.cholesky(self.data["covariance"])
        model = MODELS[case["model"]]
        loss = Trace_ELBO(num_particles=case["samples"], vectorize_particles=True)
        self.guide = _guide(case["guide"], model)
        self.svi = SVI(model, self.guide, numpyro.optim.Adam(case["learning_rate"]), loss)
        self.state = self.svi.init(random.PRNGKey(case["seed"]), self.data)

    def watch(self, steps, every, report):
        """Run, and report mean and covariance of the posterior each so many steps."""
        for _ in range(0, steps, every):
            self.run(every)
            normal = self.guide.get_posterior(self.svi.get_params(self.state))
            report(np.asarray(normal.mean), np.asarray(normal.covariance_matrix))


class PythonLoop(Training):
    """``svi.update`` in a Python loop."""

    def __init__(self, case):
        super().__init__(case)
        self.update = jax.jit(self.svi.update)

    def run(self, steps):
        """Take so many steps."""
        for _ in range(steps):
            self.state, loss = self.update(self.state, self.data)
        loss.block_until_ready()


class CompiledLoop(Training):
    """The loop of ``svi.run``, ``chunk`` steps long."""

    def __init__(self, case):
        super().__init__(case)
        size = case["samples"] * self.data["x" if "x" in self.data else "y"].size
        self.chunk = case.get("every") or max(1, min(LONGEST, LARGE // size))
        self.loop = jax.jit(self._steps)

    def run(self, steps):
        """Take so many steps, a multiple of the chunk."""
        for _ in range(0, steps, self.chunk):
            self.state, losses = self.loop(self.state, self.data)
        losses.block_until_ready()

    def _steps(self, state, data):
        return lax.scan(lambda state, _: self.svi.update(state, data), state, None, length=self.chunk)


class Density:
    """The summed log density and its gradient for the mean and the covariance."""

    def __init__(self, case):
        self.arrays = [jnp.asarray(np.load(case["data"])[name]) for name in ("mean", "covariance", "x")]
        self.value_and_gradient = jax.jit(jax.value_and_grad(log_density, argnums=(0, 1)))

    def run(self, steps):
        """Evaluate so many times."""
        for _ in range(steps):
            found = self.value_and_gradient(*self.arrays)
        jax.block_until_ready(found)


def log_density(mean, covariance, x):
    """
    The summed log density of rows that share a covariance; if batched, one row for each.

    :param mean: (D,) or (B, 1, D).
    :param covariance: (D, D) or (B, D, D).
    :param x: (N, D) or (B, 1, D).
    :returns: a number.
    """
    factor = jnp.linalg.cholesky(covariance)
    white = solve_triangular(factor, jnp.swapaxes(x - mean, -1, -2), lower=True)
    log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1))) * x.shape[-2]
    return -0.5 * jnp.sum(jnp.square(white)) - log_det - 0.5 * x.size * math.log(2 * math.pi)


def _guide(kind, model):
    if kind == "delta":
        return autoguide.AutoDelta(model, init_loc_fn=init_to_feasible)
    family = {"fullrank": autoguide.AutoMultivariateNormal, "meanfield": autoguide.AutoNormal}[kind]
    return family(model, init_loc_fn=init_to_feasible, init_scale=problems.SCALE)


if __name__ == "__main__":
    serve({"density": Density, "update": PythonLoop, "scan": CompiledLoop})
