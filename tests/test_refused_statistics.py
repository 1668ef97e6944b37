# SPDX-License-Identifier: Apache-2.0
"""Statistics where more of the rows is needed than their mean and scatter: refused, by the name of the variable."""

from mxfusion_mvn import (
    GaussianMixture,
    GaussianStatistics,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateNormal,
    MultivariateStudentT,
)
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import MAP, BatchLoop, CompiledMinibatchLoop, GradBasedInference, MinibatchLoop
from mxfusion_mvn.transformations import PositiveDefinite

import mxfusion.components.distributions as host_distributions
import mxfusion.inference as host
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Posterior, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.functions.operators import broadcast_to
from mxfusion.inference import StochasticVariationalInference

ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
GAPS = np.where(np.arange(60).reshape(20, 3) % 7 == 0, np.nan, ROWS)


class Weighted(MultivariateNormal):
    """A user's, whose density is another one."""

    def log_pdf_impl(self, mean, random_variable, F=None, **matrix):
        """Half of it."""
        return 0.5 * super().log_pdf_impl(mean, random_variable, F, **matrix)


class Shown(MultivariateNormal):
    """A user's, with the density of its base."""

    def __repr__(self):
        return "shown"


def model(declare):
    m = Model()
    m.N = Variable()
    m.V = Variable(shape=(3, 3), transformation=PositiveDefinite(), initial_value=mx.nd.eye(3))
    m.mu = Variable(shape=(3,), initial_value=mx.nd.zeros(3))
    declare(m)
    return m


def normal(m, kind=MultivariateNormal, **options):
    m.X = kind(m.mu, m.V, shape=(m.N, 3), **options)


def student_t(m):
    m.X = MultivariateStudentT(5.0, m.mu, m.V, shape=(m.N, 3))


def mixture(m):
    m.X = GaussianMixture(np.ones(2) / 2, np.eye(2, 3), np.ones((2, 1, 1)), shape=(m.N, 3))


def hosts(m):
    m.X = host_distributions.MultivariateNormal.define_variable(shape=(m.N, 3), mean=m.mu, covariance=m.V)


def no_distribution(m):
    m.X = Variable(shape=(m.N, 3))
    m.Y = MultivariateNormal(0.0, 1.0, shape=(3,))


def another_density(m):
    normal(m, Weighted)


def fixed_number(m):
    m.X = MultivariateNormal(m.mu, m.V, shape=(20, 3))


def groups(m):
    m.X = MultivariateNormal(m.mu, m.V, shape=(m.N, 2, 3))


def one_vector(m):
    m.X = MultivariateNormal(m.mu, m.V, shape=(3,))


def low_rank(m):
    m.X = LowRankMultivariateNormal(m.mu, np.ones((3, 1)), np.ones(3), shape=(m.N, 3))


def matrix_normal(m):
    m.X = MatrixNormal(0.0, row_covariance=m.V, shape=(m.N, 3, 1))


def input_of_another(m):
    normal(m)
    m.Y = MultivariateNormal(m.X, 1.0, shape=(m.N, 3))


def another_of_as_many_rows(m):
    normal(m)
    m.Z = MultivariateNormal(m.mu, 1.0, shape=(m.N, 3))


def latent_rows(m):
    m.Z = MultivariateNormal(0.0, 1.0, shape=(m.N, 2))
    normal(m)


def mean_of_each_row(m):
    m.Z = Variable(shape=(m.N, 3))
    m.X = MultivariateNormal(m.Z, m.V, shape=(m.N, 3))


def broadcast_mean(m):
    m.X = MultivariateNormal(broadcast_to(m.mu, (m.N, 3)), m.V, shape=(m.N, 3))


def regression(m):
    m.W = Variable(shape=(3, 2), initial_value=mx.nd.zeros((3, 2)))
    m.X = MultivariateNormal(linear(np.ones((20, 2)), m.W), m.V, shape=(m.N, 3))


def constant_means(m):
    m.X = MultivariateNormal(np.ones((4, 3), "float32"), m.V, shape=(m.N, 3))


ROWS_NEEDED = "expected rows, because there they are needed. Pass the rows."
ONE_AXIS = "expected a variable with one axis of rows, of any number. Declare it with shape=(model.N, 3), where model.N"
REFUSED = {
    student_t: "for a MultivariateStudentT; expected rows, because statistics say all about them only for "
    "MultivariateNormal, LowRankMultivariateNormal, MatrixNormal. Pass the rows; if there are many of them, in a loop "
    "over minibatches.",
    mixture: "for a GaussianMixture; expected rows",
    hosts: "for a MultivariateNormal of MXFusion; expected rows",
    no_distribution: "for a variable without a distribution; expected rows",
    another_density: "for a Weighted; expected rows, because statistics say all about them only for",
    fixed_number: f"for shape (20, 3); {ONE_AXIS}",
    groups: f"for shape (N, 2, 3); {ONE_AXIS}",
    one_vector: f"for shape (3,); {ONE_AXIS}",
    input_of_another: f"while `X` is an input of `Y`; {ROWS_NEEDED}",
    another_of_as_many_rows: f"while `Z` has an entry for each row; {ROWS_NEEDED}",
    latent_rows: f"while `Z` has an entry for each row; {ROWS_NEEDED}",
    mean_of_each_row: f"while `Z` has an entry for each row; {ROWS_NEEDED}",
}


@pytest.mark.parametrize("declare", REFUSED, ids=lambda declare: declare.__name__)
def test_models_that_need_the_rows(declare):
    m = model(declare)
    inference = GradBasedInference(MAP(m, [m.X]), grad_loop=BatchLoop())
    for call in (inference.run, inference.initialize):
        with pytest.raises(InferenceError) as raised:
            call(X=GaussianStatistics.of(ROWS))
        assert str(raised.value).startswith(f"`X`: got GaussianStatistics {REFUSED[declare]}")
    assert not inference._initialized


PER_ROW = {
    broadcast_mean: "`mean` of variable `X`: got shape (4, 3); expected (3,), the same for all rows, because of these "
    "there are GaussianStatistics only. Compute it without the number of rows, or pass the rows.",
    regression: "`mean` of variable `X`: got shape (20, 3); expected (3,), the same for all rows",
    constant_means: "`mean` of variable `X`: got shape (4, 3); expected (3,), the same for all rows",
}


@pytest.mark.parametrize("declare", PER_ROW, ids=lambda declare: declare.__name__)
def test_means_that_differ_from_row_to_row(declare):
    m = model(declare)
    with pytest.raises(InferenceError) as raised:
        GradBasedInference(MAP(m, [m.X]), grad_loop=BatchLoop()).run(X=GaussianStatistics.of(ROWS))
    assert str(raised.value).startswith(PER_ROW[declare])


STATISTICS = {
    "none": (
        normal,
        lambda: GaussianStatistics(),
        "of no rows; expected one at least. Add rows by statistics.update(rows).",
    ),
    "other columns": (
        normal,
        lambda: GaussianStatistics.of(ROWS[:, :2]),
        "of rows of shape (2,); expected rows of shape (3,). Add rows in the shape of the variable.",
    ),
    "vectors for matrices": (
        matrix_normal,
        lambda: GaussianStatistics.of(ROWS),
        "of rows of shape (3,); expected rows of",
    ),
    "missing": (
        normal,
        lambda: GaussianStatistics.of(GAPS),
        "of rows with missing entries; expected complete rows. Declare it as MultivariateNormal(..., missing=True).",
    ),
    "missing, low rank": (
        low_rank,
        lambda: GaussianStatistics.of(GAPS),
        "of rows with missing entries; expected complete rows. Add complete rows only, or declare it as a "
        "MultivariateNormal(..., missing=True).",
    ),
    "one pattern": (
        normal,
        lambda: GaussianStatistics.of(np.where(np.arange(3) == 1, np.nan, ROWS)),
        "of rows with missing entries; expected complete rows",
    ),
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_that_do_not_fit(case):
    declare, statistics, message = STATISTICS[case]
    m = model(declare)
    with pytest.raises(InferenceError) as raised:
        GradBasedInference(MAP(m, [m.X]), grad_loop=BatchLoop()).run(X=statistics())
    assert str(raised.value).startswith(f"`X`: got GaussianStatistics {message}")


@pytest.mark.parametrize("loop", [MinibatchLoop, CompiledMinibatchLoop, host.MinibatchInferenceLoop])
def test_loops_over_minibatches(loop):
    m = model(normal)
    message = f"^`X`: got GaussianStatistics in a {loop.__name__}; expected a loop over all data. Use CompiledLoop"
    with pytest.raises(InferenceError, match=message):
        GradBasedInference(MAP(m, [m.X]), grad_loop=loop(batch_size=5)).run(X=GaussianStatistics.of(ROWS))


def test_a_posterior_that_needs_the_rows():
    m = Model()
    m.N = Variable()
    m.mu = MultivariateNormal(covariance=1.0, shape=(3,))
    m.X = MultivariateNormal(m.mu, 1.0, shape=(m.N, 3))
    q = Posterior(m)
    q.mu.set_prior(MultivariateNormal(linear(q.X, mx.nd.zeros((3, 3))), 1.0))
    inference = GradBasedInference(StochasticVariationalInference(2, m, q, [m.X]), grad_loop=BatchLoop())
    with pytest.raises(InferenceError, match="^`X`: got GaussianStatistics while `X` is an input of"):
        inference.run(X=GaussianStatistics.of(ROWS))


def test_subclasses_with_the_density_of_their_base_are_fitted():
    m = model(lambda m: normal(m, Shown))
    record = GradBasedInference(MAP(m, [m.X]), grad_loop=BatchLoop()).run(X=GaussianStatistics.of(ROWS), max_iter=3)
    assert np.isfinite(record.loss).all()


def test_mxfusions_own_class_takes_rows():
    m = model(normal)
    inference = host.GradBasedInference(MAP(m, [m.X]), grad_loop=BatchLoop())
    inference.initialize(X=(4, 3))
    message = "^`X`: got GaussianStatistics in MXFusion's own GradBasedInference; expected rows. Run it by"
    with pytest.raises(InferenceError, match=message):
        inference.run(X=GaussianStatistics.of(ROWS))
