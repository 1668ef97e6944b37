# SPDX-License-Identifier: Apache-2.0
"""The means of priors, near which inference begins."""

from mxfusion_mvn import (
    GaussianMixture,
    InverseWishart,
    LKJCholesky,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateNormal,
    MultivariateStudentT,
    Wishart,
)
from mxfusion_mvn.inference.prior_means import prior_mean

import numpy as np
import pytest
from mxfusion import Model
from mxfusion.components import distributions as host
from scipy import stats

from helpers.host import nd
from helpers.prior_parameters import FACTOR, MEAN, SCALE
from helpers.tolerances import assert_close

# Name -> (declares a variable, its mean)
MEANS = {
    "Normal": (lambda: host.Normal.define_variable(nd(MEAN), nd([2.0]), (4, 3)), MEAN),
    "NormalMeanPrecision": (lambda: host.NormalMeanPrecision.define_variable(nd(MEAN), nd([2.0]), (3,)), MEAN),
    "Laplace": (lambda: host.Laplace.define_variable(nd(MEAN), nd([2.0]), (3,)), stats.laplace(MEAN, 2.0).mean()),
    "Gamma": (lambda: host.Gamma.define_variable(nd([3.0]), nd([0.5]), (2,)), [stats.gamma(3.0, scale=2.0).mean()]),
    "GammaMeanVariance": (lambda: host.GammaMeanVariance.define_variable(nd([6.0]), nd([12.0]), (1,)), [6.0]),
    "Beta": (lambda: host.Beta.define_variable(nd([3.0]), nd([1.5]), (1,)), [stats.beta(3.0, 1.5).mean()]),
    "Uniform": (lambda: host.Uniform.define_variable(nd([-1.0]), nd([5.0]), (2,)), [stats.uniform(-1, 6).mean()]),
    "Dirichlet": (
        lambda: host.Dirichlet.define_variable(nd([2.0, 3.0, 5.0]), (3,)),
        stats.dirichlet([2.0, 3.0, 5.0]).mean(),
    ),
    "Dirichlet of a number": (lambda: host.Dirichlet.define_variable(nd([2.0]), (3,)), [1 / 3] * 3),
    "host MultivariateNormal": (
        lambda: host.MultivariateNormal.define_variable((1, 3), nd(MEAN[None]), nd(SCALE[None])),
        MEAN[None],
    ),
    "host Wishart": (
        lambda: host.Wishart.define_variable((1, 3, 3), nd([7.0]), nd(SCALE[None])),
        stats.wishart(7, SCALE).mean()[None],
    ),
    "MultivariateNormal": (lambda: MultivariateNormal(MEAN, SCALE, shape=(2, 3)), MEAN),
    "MultivariateStudentT": (lambda: MultivariateStudentT(4.0, MEAN, SCALE, shape=(3,)), MEAN),
    "LowRank": (lambda: LowRankMultivariateNormal(MEAN, np.ones((3, 1)), np.ones(3), shape=(3,)), MEAN),
    "MatrixNormal": (
        lambda: MatrixNormal(
            np.outer([1.0, 2.0], MEAN), row_covariance=np.eye(2), column_covariance=SCALE, shape=(2, 3)
        ),
        np.outer([1.0, 2.0], MEAN),
    ),
    "GaussianMixture": (
        lambda: GaussianMixture(np.array([0.25, 0.75]), np.stack([MEAN, -MEAN]), 1.0, shape=(3,)),
        -0.5 * MEAN,
    ),
    "Wishart": (lambda: Wishart(7.0, SCALE, shape=(3, 3)), stats.wishart(7, SCALE).mean()),
    "Wishart by factor": (lambda: Wishart(7.0, scale_tril=FACTOR, shape=(3, 3)), stats.wishart(7, SCALE).mean()),
    "Wishart of a number": (lambda: Wishart(7.0, 2.0, shape=(4, 3, 3)), stats.wishart(7, 2 * np.eye(3)).mean()),
    "InverseWishart": (  # the inverse of the mean of the precision
        lambda: InverseWishart(7.0, SCALE, shape=(3, 3)),
        np.linalg.inv(stats.wishart(7, np.linalg.inv(SCALE)).mean()),
    ),
    "LKJCholesky": (lambda: LKJCholesky(2.0, shape=(3, 3)), np.eye(3)),
}


@pytest.mark.parametrize("name", MEANS)
def test_means_are_those_of_scipy(name):
    declare, expected = MEANS[name]
    model = Model()
    model.v = declare()
    given = {key: np.atleast_1d(constant(variable)) for key, variable in model.v.factor.inputs}
    got = prior_mean(model.v.factor, model.v.shape, given)
    assert_close(got, np.asarray(expected), rtol=1e-6, atol=1e-6)


def constant(variable):
    return np.asarray(variable.constant.asnumpy(), dtype="float64")


@pytest.mark.parametrize(
    ("declare", "left_out"),
    [(lambda: host.Gamma.define_variable(nd([3.0]), nd([0.5]), (2,)), "beta"), (MEANS["Normal"][0], "mean")],
    ids=["rate", "mean"],
)
def test_without_a_parameter_there_is_no_mean(declare, left_out):
    factor = declare().factor
    given = {key: constant(variable) for key, variable in factor.inputs if key != left_out}
    assert prior_mean(factor, (2,), given) is None


def test_a_mean_that_is_not_finite_is_none():
    factor = host.Gamma.define_variable(nd([3.0]), nd([0.5]), (2,)).factor
    assert prior_mean(factor, (2,), {"alpha": np.array([1.0]), "beta": np.array([0.0])}) is None
