# SPDX-License-Identifier: Apache-2.0
"""What is refused at definition, and that every message names the argument, what was got and what to do."""

from mxfusion_mvn import MultivariateNormal, MultivariateNormalMeanPrecision
from mxfusion_mvn.transformations import LowerCholesky

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import GradBasedInference, StochasticVariationalInference
from mxfusion.models import Posterior

from helpers.host import nd

EYE = np.eye(3)
ASYMMETRIC = EYE + np.triu(np.ones((3, 3)), 1)
INDEFINITE = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
NAN = np.where(EYE > 0, np.nan, 0.0)


def declare(shape=(7, 3), **parameters):
    return MultivariateNormal(**parameters, shape=shape)


# (what, call, message)
DEFINITIONS = [
    (
        "two matrices",
        lambda: declare(covariance=EYE, scale_tril=EYE),
        "`covariance` and `scale_tril`: got 2 matrices; expected at most one .* keep the one you have",
    ),
    (
        "three matrices",
        lambda: declare(covariance=EYE, precision=EYE, scale_tril=EYE),
        "`covariance` and `precision` and `scale_tril`: got 3 matrices",
    ),
    (
        "not square",
        lambda: declare(covariance=np.ones((3, 2))),
        r"`covariance`: got shape \(3, 2\); expected square matrices .* Check the order",
    ),
    ("Variable not square", lambda: declare(precision=Variable(shape=(3, 2))), r"`precision`: got shape \(3, 2\)"),
    (
        "vector for a matrix",
        lambda: declare(scale_tril=np.ones(3)),
        r"`scale_tril`: got shape \(3,\); expected a matrix .* np.diag",
    ),
    ("Variable without shape for a matrix", lambda: declare(covariance=Variable()), r"`covariance`: got shape \(1,\)"),
    (
        "D of the matrix",
        lambda: declare(covariance=np.eye(2)),
        r"`covariance`: got shape \(2, 2\); expected \(7, 3, 3\), or what broadcasts to it, for .* shape \(7, 3\)",
    ),
    ("D of the mean", lambda: declare(mean=np.zeros(5)), r"`mean`: got shape \(5,\); expected \(7, 3\)"),
    ("batch of the mean", lambda: declare(mean=np.zeros((6, 3))), r"`mean`: got shape \(6, 3\); expected \(7, 3\)"),
    (
        "batch of the matrix",
        lambda: declare(covariance=Variable(shape=(6, 3, 3))),
        r"`covariance`: got shape \(6, 3, 3\); expected \(7, 3, 3\)",
    ),
    (
        "mean with too many axes",
        lambda: declare(mean=np.zeros((2, 7, 3))),
        r"`mean`: got shape \(2, 7, 3\); expected \(7, 3\)",
    ),
    ("a symbolic size in the message", lambda: symbolic_size(), r"expected \(N, 3\).* shape \(N, 3\)"),
    (
        "integer NumPy array",
        lambda: declare(covariance=np.eye(3, dtype=int)),
        r"`covariance`: got dtype int64; expected float32 or float64. Convert",
    ),
    ("integer NDArray", lambda: declare(mean=mx.nd.zeros(3, dtype="int32")), "`mean`: got dtype int32"),
    ("float16", lambda: declare(covariance=mx.nd.array(EYE, dtype="float16")), "`covariance`: got dtype float16"),
    ("bool", lambda: declare(covariance=True), "`covariance`: got True of type bool; expected a Variable, an NDArray"),
    ("list", lambda: declare(mean=[0.0, 0.0, 0.0]), r"`mean`: got a list; expected .* np.array"),
    ("string", lambda: declare(mean="zero"), "`mean`: got 'zero' of type str"),
    ("0-dimensional array", lambda: declare(mean=np.array(1.0)), r"`mean`: got an array without axes.* float\(\)"),
    (
        "NaN in the covariance",
        lambda: declare(covariance=NAN),
        r"`covariance`: got nan at index \(0, 0\) \(3 such entries\); expected finite",
    ),
    ("infinity in the mean", lambda: declare(mean=nd([0.0, np.inf, 0.0])), r"`mean`: got inf at index \(1,\)"),
    ("NaN number", lambda: declare(covariance=float("nan")), "`covariance`: got nan"),
    ("negative number", lambda: declare(covariance=-2.0), "`covariance`: .* smallest eigenvalue is -2"),
    ("zero factor", lambda: declare(scale_tril=0.0), "`scale_tril`: got 0 at diagonal position"),
    (
        "indefinite covariance",
        lambda: declare(covariance=INDEFINITE),
        "`covariance`: got a matrix whose smallest eigenvalue is -1; expected a positive definite matrix. Add",
    ),
    (
        "indefinite precision in a batch",
        lambda: declare((2, 3), precision=np.stack([EYE, INDEFINITE])),
        r"`precision`: got a matrix at batch index \(1,\) whose smallest eigenvalue is -1",
    ),
    (
        "asymmetric NumPy constant",
        lambda: declare(covariance=ASYMMETRIC),
        r"`covariance`: got 1.0 at index \(0, 1\) but 0.0 at .* symmetric matrix. Use \(A \+ A.T\) / 2",
    ),
    ("asymmetric NDArray constant", lambda: declare(precision=nd(ASYMMETRIC)), "`precision`: .* symmetric"),
    (
        "factor with entries above",
        lambda: declare(scale_tril=ASYMMETRIC),
        r"`scale_tril`: got 1.0 at index \(0, 1\), above the diagonal; expected a lower triangular .*cholesky",
    ),
    (
        "singular factor",
        lambda: declare(scale_tril=np.diag([1.0, 0.0, 1.0])),
        r"`scale_tril`: got 0 at diagonal position \(1,\); expected a non-zero diagonal",
    ),
    ("D = 0", lambda: declare((7, 0)), r"`shape`: got \(7, 0\); expected positive integers .* at least one entry"),
    (
        "empty matrix",
        lambda: declare(covariance=Variable(shape=(0, 0))),
        r"`covariance`: got shape \(0, 0\); expected at least one entry",
    ),
    ("empty shape", lambda: declare(()), r"`shape`: got \(\); expected at least one axis"),
    ("integer shape", lambda: declare(3), r"`shape`: got 3 of type int; expected a tuple .* write \(D,\)"),
    ("list shape", lambda: declare([7, 3]), "`shape`: got a list; expected a tuple"),
    ("negative size", lambda: declare((-1, 3)), r"`shape`: got \(-1, 3\); expected positive integers"),
    ("fractional size", lambda: declare((7, 3.0)), r"`shape`: got \(7, .*\); expected positive integers"),
    (
        "shape as the mean",
        lambda: MultivariateNormal((7, 3), 0.0, EYE),
        r"`mean`: got the tuple \(7, 3\); expected .* passed as shape=",
    ),
    (
        "mean before shape",
        lambda: MultivariateNormal.define_variable(np.zeros(3), EYE, (3,)),
        r"`shape`: got a ndarray; expected a tuple .* define_variable takes the shape first",
    ),
    ("define_variable without a shape", lambda: MultivariateNormal.define_variable(None), "`shape`: got a NoneType"),
    ("mx.np array", lambda: declare(mean=mx.np.zeros(3)), r"`mean`: got an mx.np array; .*as_nd_ndarray\(\)"),
    ("drop-in", lambda: MultivariateNormalMeanPrecision(precision=INDEFINITE, shape=(3,)), "`precision`: .* is -1"),
    (
        "a factor where the model needs a variable",
        lambda: forgotten_shape(),
        r"`X`: got the factor MultivariateNormal; expected its random variable. Write model.X = .*shape=\(N, D\)",
    ),
    ("a prior that does not fit", lambda: ill_fitting_prior(), r"`mean`: got shape \(2,\); expected \(3,\)"),
    ("a second prior", lambda: second_prior(), "`mu` has a distribution already .* Build the posterior .* anew"),
]


def symbolic_size():
    model = Model()
    model.N = Variable()
    declare((model.N, 3), mean=np.zeros(2))


def forgotten_shape():
    Model().X = MultivariateNormal(covariance=EYE)


def posterior_of_a_mean():
    model = Model()
    model.mu = MultivariateNormal(shape=(3,))
    return Posterior(model)


def ill_fitting_prior():
    posterior_of_a_mean().mu.set_prior(MultivariateNormal(mean=np.zeros(2)))


def second_prior():
    posterior = posterior_of_a_mean()
    posterior.mu.set_prior(MultivariateNormal())
    posterior.mu.set_prior(MultivariateNormal())


@pytest.mark.parametrize(("call", "message"), [pytest.param(*row[1:], id=row[0]) for row in DEFINITIONS])
def test_refused_at_definition(call, message):
    with pytest.raises(ModelSpecificationError, match=message):
        call()


def test_numpy_mode_is_refused():
    mx.npx.set_np()
    try:
        with pytest.raises(ModelSpecificationError, match=r"NumPy mode switched on; .* Call mx.npx.reset_np\(\)"):
            MultivariateNormal(shape=(3,))
    finally:
        mx.npx.reset_np()


def test_a_model_survives_a_forgotten_shape():
    model = Model()
    factor = MultivariateNormal(covariance=EYE)
    with pytest.raises(ModelSpecificationError, match="shape="):
        model.X = factor
    model.X = MultivariateNormal(covariance=EYE, shape=(7, 3))
    assert "X" in repr(model)
    assert len(model.variables) == 3


@pytest.mark.parametrize(
    "accepted",
    [
        {"mean": 1},
        {"mean": np.float64(1)},
        {"mean": np.zeros((7, 1))},
        {"mean": Variable()},
        {"covariance": EYE + 1e-9 * ASYMMETRIC},
        {"covariance": np.eye(3)[None]},
        {"scale_tril": -EYE},
        {"covariance": Variable(shape=(7, 3, 3))},
        {"covariance": Variable(shape=(1, 1))},
    ],
    ids=repr,
)
def test_accepted_at_definition(accepted):
    assert declare(**accepted).shape == (7, 3)


def test_sizes_may_be_numpy_integers():
    assert MultivariateNormal(shape=(np.int64(7), np.int32(3))).shape == (7, 3)
    assert all(type(size) is int for size in MultivariateNormal(shape=(np.int64(7), np.int32(3))).shape)


def test_a_variable_without_a_value_is_named():
    model = Model()
    model.w = MultivariateNormal(shape=(3,))
    factor = Variable(shape=(3, 3), transformation=LowerCholesky(), initial_value=mx.nd.eye(3))
    model.X = MultivariateNormal(mean=model.w, scale_tril=factor, shape=(7, 3))
    posterior = Posterior(model)  # in which w has no distribution
    algorithm = StochasticVariationalInference(model=model, posterior=posterior, observed=[model.X], num_samples=2)
    inference = GradBasedInference(algorithm)
    with pytest.raises(
        InferenceError, match="`random_variable`: got no value of w; expected .* Observe it, or give it one"
    ):
        inference.run(X=mx.nd.zeros((7, 3)), max_iter=1)
