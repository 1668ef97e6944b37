# SPDX-License-Identifier: Apache-2.0
"""The eight models of other kinds of problems.py in NumPyro."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import problems
from supports_numpyro import DirichletByLogRatios, InverseWishartFactor


def prior(shape):
    """N(0, 10^2) for each entry."""
    return normal(shape, problems.PRIOR_SD)


def normal(shape, sd=1.0):
    """N(0, sd^2) for each entry."""
    return dist.Normal(0.0, sd).expand(shape).to_event(len(shape))


def gamma(shape):
    """Gamma(2, 2) for each entry."""
    return dist.Gamma(*problems.GAMMA).expand(shape).to_event(len(shape))


def eight_schools(data):
    """Effects that vary about a mean, not centred."""
    mu = numpyro.sample("mu", dist.Normal(0.0, problems.PRIOR_SD))
    tau = numpyro.sample("tau", dist.Gamma(*problems.TAU))
    eta = numpyro.sample("eta", normal(data["y"].shape))
    numpyro.sample("y", dist.Normal(mu + tau * eta, data["sd"]).to_event(1), obs=data["y"])


def conjugate_normal(data):
    """Mean and covariance of a normal under a normal-inverse-Wishart prior."""
    dim = data["x"].shape[-1]
    factor = numpyro.sample("covariance", InverseWishartFactor(problems.freedom(dim), dim))
    mean = numpyro.sample("mean", dist.MultivariateNormal(0.0, scale_tril=factor))
    with numpyro.plate("rows", len(data["x"])):
        numpyro.sample("x", dist.MultivariateNormal(mean, scale_tril=factor), obs=data["x"])


def mixture(data):
    """A mixture of normals, its weights, means and covariances unknown."""
    count, dim = problems.COMPONENTS, data["x"].shape[-1]
    weights = numpyro.sample("weights", DirichletByLogRatios(jnp.full(count, problems.DIRICHLET)))
    means = numpyro.sample("means", prior((count, dim)))
    law = InverseWishartFactor(problems.freedom(dim), dim).expand((count,)).to_event(1)
    factors = numpyro.sample("covariances", law)
    components = dist.MultivariateNormal(means, scale_tril=factors)
    with numpyro.plate("rows", len(data["x"])):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=data["x"])


def lkj_hierarchy(data):
    """Correlated coefficients, each group with its own design."""
    dim = data["x"].shape[-1]
    beta = numpyro.sample("beta", prior((dim,)))
    sd = numpyro.sample("sd", gamma((dim,)))
    correlation = numpyro.sample("correlation", dist.LKJCholesky(dim, problems.LKJ))
    noise = numpyro.sample("noise", dist.Gamma(*problems.GAMMA))
    law = dist.MultivariateNormal(beta, scale_tril=sd[:, None] * correlation)
    coefficients = numpyro.sample("coefficients", law.expand((problems.GROUPS,)).to_event(1))
    mean = jnp.sum(data["x"] * coefficients[data["groups"]], axis=-1)
    numpyro.sample("y", dist.Normal(mean, jnp.sqrt(noise)).to_event(1), obs=data["y"])


def factor_model(data):
    """Loadings and noise of a factor analysis, its factors summed out."""
    dim = data["x"].shape[-1]
    mean = numpyro.sample("mean", prior((dim,)))
    loadings = numpyro.sample("loadings", normal((dim, problems.FACTORS)))
    noise = numpyro.sample("noise", gamma((dim,)))
    with numpyro.plate("rows", len(data["x"])):
        numpyro.sample("x", dist.LowRankMultivariateNormal(mean, loadings, noise), obs=data["x"])


def student_t(data):
    """A regression whose residuals have heavy tails; how heavy is learned."""
    weights = numpyro.sample("weights", prior(data["x"].shape[-1:]))
    noise = numpyro.sample("noise", dist.Gamma(*problems.GAMMA))
    freedom = numpyro.sample("freedom", dist.Gamma(*problems.FREEDOM))
    law = dist.StudentT(freedom, data["x"] @ weights, jnp.sqrt(noise))
    numpyro.sample("y", law.to_event(1), obs=data["y"])


def logistic(data):
    """A logistic regression."""
    weights = numpyro.sample("weights", prior(data["x"].shape[-1:]))
    numpyro.sample("y", dist.Bernoulli(logits=data["x"] @ weights).to_event(1), obs=data["y"])


def volatility(data):
    """Returns whose log variance is a process."""
    mu = numpyro.sample("mu", dist.Normal(0.0, problems.PRIOR_SD))
    mean = jnp.broadcast_to(mu, data["y"].shape)
    h = numpyro.sample("h", dist.MultivariateNormal(mean, scale_tril=data["factor"]))
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(0.5 * h)).to_event(1), obs=data["y"])


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
