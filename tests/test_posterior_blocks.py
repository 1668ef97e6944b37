# SPDX-License-Identifier: Apache-2.0
"""Blocks of Gaussian posteriors, and latent variables that are left out of them."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    create_Gaussian_fullrank,
)
from mxfusion_mvn.transformations import PositiveDefinite

import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.components.functions.operators import add
from mxfusion.inference import (
    GradBasedInference,
    MinibatchInferenceLoop,
    StochasticVariationalInference,
)

from helpers.gaussian_posteriors import infer, latent_pairs, laws, learned
from helpers.host import nd
from helpers.tolerances import assert_close


def chain(dtype="float64"):
    """Four variables in a row, each about the one before: all are correlated."""
    model = Model()
    model.a = MultivariateNormal(covariance=2.0, shape=(1,), dtype=dtype)
    model.b = MultivariateNormal(mean=model.a, covariance=0.5, shape=(1,), dtype=dtype)
    model.c = MultivariateNormal(mean=model.b, covariance=0.5, shape=(1,), dtype=dtype)
    model.d = MultivariateNormal(mean=model.c, covariance=0.5, shape=(1,), dtype=dtype)
    return model


CHAIN_PRECISION = np.array([[2.5, -2, 0, 0], [-2, 4, -2, 0], [0, -2, 4, -2], [0, 0, -2, 2]])


def test_blocks_are_independent_of_each_other(rng):
    """The covariance of a block is then the inverse of its part of the precision."""
    model = chain()
    posterior = create_Gaussian_fullrank(
        model, [], blocks=[[model.a, model.b], [model.d]], entropy="sticking_the_landing"
    )
    assert posterior.joint_0.shape == (2,)
    assert posterior.joint_1.shape == (1,)
    inference = infer(model, [], posterior, 200)
    for variable, index in ((model.a, [0, 1]), (model.d, [3]), (model.c, [2])):
        mean, cov = learned(inference, posterior, variable)
        expected = np.linalg.inv(CHAIN_PRECISION[np.ix_(index, index)])
        assert_close(mean, np.zeros(len(index)), rtol=0, atol=0.03)
        assert_close(cov, expected, rtol=0.03)


def test_a_posterior_without_blocks_is_a_mean_field(rng):
    model = chain()
    posterior = create_Gaussian_fullrank(model, [], blocks=[])
    assert {v.name for v in model.get_latent_variables([])} == {"a", "b", "c", "d"}
    assert all("below" not in dict(posterior[v].factor.inputs) for v in model.get_latent_variables([]))
    assert_close(infer(model, [], posterior, max_iter=2).params[posterior.c.factor.scale], [0.1], rtol=1)


def independent_optimum(x):
    """Of q(w) prod q(z_n): mean and variance of w, means and variance of the z_n."""
    precision = 0.25 + len(x)
    w, z = 0.0, x
    for _ in range(200):
        w = z.sum() / precision
        z = (w + 2 * x) / 3
    return w, 1 / precision, z, 1 / 3


def test_local_latent_variables_in_a_mean_field(rng):
    """Whose number only the data tell, beside a variable in a block."""
    x = 1 + 1.2 * rng.normal(size=9)
    model = latent_pairs()
    posterior = create_Gaussian_fullrank(model, [model.x], blocks=[[model.w]], entropy="sticking_the_landing")
    inference = infer(model, [model.x], posterior, 30, x=nd(x[:, None]))
    w, w_variance, z, z_variance = independent_optimum(x)
    mean, cov = learned(inference, posterior, model.w)
    assert_close(mean, [w], rtol=0.02)
    assert_close(cov, [[w_variance]], rtol=0.03)
    mean, cov = learned(inference, posterior, model.z)
    assert_close(mean, z[:, None], rtol=0, atol=0.03)
    assert_close(cov, np.full((9, 1, 1), z_variance), rtol=0.04)


# The host evaluates a function in a posterior twice, and says so at each step.
@pytest.mark.filterwarnings("ignore:Function evaluation in FactorGraph:UserWarning")
def test_an_amortised_posterior_of_the_users_own_in_minibatches(rng):
    """q(z | x) = N(slope x + offset, variance) beside a Gaussian of w, in the host's minibatch loop."""
    x = 1 + 1.2 * rng.normal(size=60)
    model = latent_pairs()
    posterior = create_Gaussian_fullrank(model, [model.x], excluded=[model.z], entropy="closed_form")
    assert [v.name for v in laws(posterior, [model.w])[0].latents] == ["w"]
    posterior.slope = Variable(shape=(1,), initial_value=nd([0.5]))
    posterior.offset = Variable(shape=(1,), initial_value=nd([0.5]))
    posterior.variance = Variable(shape=(1, 1), transformation=PositiveDefinite(), initial_value=nd([[0.5]]))
    posterior.predicted = add(linear(posterior.x, posterior.slope), posterior.offset)
    posterior.z.set_prior(MultivariateNormal(mean=posterior.predicted, covariance=posterior.variance, dtype="float64"))
    loop = MinibatchInferenceLoop(batch_size=20, rv_scaling={model.x: 3.0, model.z: 3.0})
    algorithm = StochasticVariationalInference(10, model, posterior, [model.x])
    inference = GradBasedInference(algorithm, grad_loop=loop, dtype="float64")
    for rate in (0.05, 0.01):
        inference.run(x=nd(x[:, None]), learning_rate=rate, max_iter=30)
    w, w_variance, _, z_variance = independent_optimum(x)
    mean, cov = learned(inference, posterior, model.w)
    assert_close(mean, [w], rtol=0, atol=0.1)
    assert_close(cov, [[w_variance]], rtol=0.2)
    assert_close(inference.params[posterior.slope], [2 / 3], rtol=0.1)
    assert_close(inference.params[posterior.offset], [w / 3], rtol=0, atol=0.1)
    assert_close(inference.params[posterior.variance], [[z_variance]], rtol=0.2)
