# SPDX-License-Identifier: Apache-2.0
"""The eight models of other kinds of problems.py in Pyro."""

import problems
import pyro
import pyro.distributions as dist
import torch
from supports_pyro import DirichletByLogRatios, InverseWishartFactor


def prior(shape):
    """N(0, 10^2) for each entry."""
    return normal(shape, problems.PRIOR_SD)


def normal(shape, sd=1.0):
    """N(0, sd^2) for each entry."""
    return dist.Normal(0.0, sd).expand(shape).to_event(len(shape))


def gamma(shape):
    """Gamma(2, 2) for each entry."""
    return dist.Gamma(*problems.GAMMA).expand(shape).to_event(len(shape))


def without_plate(draws, event_axes):
    """Draws (S, 1, event) as (S, event): the axis of 1 is there for the plate."""
    return draws.squeeze(-1 - event_axes) if draws.dim() > event_axes + 1 else draws


def eight_schools(data):
    """Effects that vary about a mean, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, problems.PRIOR_SD))
    tau = pyro.sample("tau", dist.Gamma(*problems.TAU))
    with pyro.plate("schools", len(data["y"])):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, data["sd"]), obs=data["y"])


def conjugate_normal(data):
    """Mean and covariance of a normal under a normal-inverse-Wishart prior."""
    dim = data["x"].shape[-1]
    factor = pyro.sample("covariance", InverseWishartFactor(problems.freedom(dim), dim))
    mean = pyro.sample("mean", dist.MultivariateNormal(torch.zeros(dim), scale_tril=factor))
    with pyro.plate("rows", len(data["x"])):
        pyro.sample("x", dist.MultivariateNormal(mean, scale_tril=factor), obs=data["x"])


def mixture(data):
    """A mixture of normals, its weights, means and covariances unknown."""
    count, dim = problems.COMPONENTS, data["x"].shape[-1]
    weights = pyro.sample("weights", DirichletByLogRatios(torch.full((count,), problems.DIRICHLET)))
    means = pyro.sample("means", prior((count, dim)))
    law = InverseWishartFactor(problems.freedom(dim), dim).expand((count,)).to_event(1)
    components = dist.MultivariateNormal(means, scale_tril=pyro.sample("covariances", law))
    with pyro.plate("rows", len(data["x"])):
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=data["x"])


def lkj_hierarchy(data):
    """Correlated coefficients, each group with its own design."""
    dim = data["x"].shape[-1]
    beta = pyro.sample("beta", prior((dim,)))
    sd = pyro.sample("sd", gamma((dim,)))
    correlation = pyro.sample("correlation", dist.LKJCholesky(dim, problems.LKJ))
    noise = pyro.sample("noise", dist.Gamma(*problems.GAMMA))
    with pyro.plate("groups", problems.GROUPS):
        law = dist.MultivariateNormal(beta, scale_tril=sd.unsqueeze(-1) * correlation)
        coefficients = pyro.sample("coefficients", law)
    mean = (data["x"] * coefficients[..., data["groups"], :]).sum(-1)
    with pyro.plate("rows", len(data["y"])):
        pyro.sample("y", dist.Normal(mean, noise.sqrt()), obs=data["y"])


def factor_model(data):
    """Loadings and noise of a factor analysis, its factors summed out."""
    dim = data["x"].shape[-1]
    mean = pyro.sample("mean", prior((dim,)))
    loadings = pyro.sample("loadings", normal((dim, problems.FACTORS)))
    noise = pyro.sample("noise", gamma((dim,)))
    with pyro.plate("rows", len(data["x"])):
        pyro.sample("x", dist.LowRankMultivariateNormal(mean, loadings, noise), obs=data["x"])


def student_t(data):
    """A regression whose residuals have heavy tails; how heavy is learned."""
    weights = pyro.sample("weights", prior(data["x"].shape[-1:]))
    noise = pyro.sample("noise", dist.Gamma(*problems.GAMMA))
    freedom = pyro.sample("freedom", dist.Gamma(*problems.FREEDOM))
    mean = without_plate(weights, 1) @ data["x"].T
    with pyro.plate("rows", len(data["y"])):
        pyro.sample("y", dist.StudentT(freedom, mean, noise.sqrt()), obs=data["y"])


def logistic(data):
    """A logistic regression."""
    weights = pyro.sample("weights", prior(data["x"].shape[-1:]))
    law = dist.Bernoulli(logits=without_plate(weights, 1) @ data["x"].T)
    with pyro.plate("rows", len(data["y"])):
        pyro.sample("y", law, obs=data["y"])


def volatility(data):
    """Returns whose log variance is a process."""
    mu = pyro.sample("mu", dist.Normal(0.0, problems.PRIOR_SD))
    mean = mu.unsqueeze(-1).expand(mu.shape + data["y"].shape)
    h = pyro.sample("h", dist.MultivariateNormal(mean, scale_tril=data["factor"]))
    pyro.sample("y", dist.Normal(0.0, (0.5 * h).exp()).to_event(1), obs=data["y"])


MODELS = {
    "eight schools": eight_schools,
    "conjugate normal": conjugate_normal,
    "mixture": mixture,
    "LKJ hierarchy": lkj_hierarchy,
    "factor model": factor_model,
    "Student t": student_t,
    "logistic": logistic,
    "volatility": volatility,
}
