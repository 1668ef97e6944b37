# SPDX-License-Identifier: Apache-2.0
"""Matrices that are not positive definite: reported in full, or repaired as the policy says."""

import contextlib
import copy
import pickle
import re
import warnings

from mxfusion_mvn import Gaussian, MultivariateNormal, NotPositiveDefiniteError, OnFailure, RepairWarning, structures
from mxfusion_mvn.checks.failure import FLOORS, JITTERS, can_be_factored, factor

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import MAP, GradBasedInference

from helpers import oracles
from helpers.host import nd
from helpers.tolerances import assert_close

ACTIONS = ["raise", "jitter", "project"]
REPAIRS = ["jitter", "project"]
# Far from positive definite, and so near that 1e-4 times the mean diagonal helps.
INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])
NEARLY = np.array([[1.0, 1.0 + 1e-5], [1.0 + 1e-5, 1.0]])


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """MXNet reports a failure once, wherever something is read next: here nothing may be."""
    yield
    mx.nd.waitall()


@contextlib.contextmanager
def one_warning():
    """
    The message of the one RepairWarning there has to be, as the only entry of a list that is filled at the end.

    ``pytest.warns`` would also catch what MXNet warns of at each ``mx.nd.array``, and turn it into an error.
    """
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RepairWarning)
        yield messages
    messages.extend(str(warning.message) for warning in caught)
    assert len(messages) == 1


def repaired(matrix, action, dtype, name="matrix"):
    """The matrix whose factor is given, and the policy."""
    policy = OnFailure(action)
    with one_warning():
        lower = factor(nd(matrix, dtype), policy, name).asnumpy().astype("float64")
    return lower @ np.swapaxes(lower, -1, -2), policy


# The report


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_happens_to_positive_definite_matrices(action, dtype, rng):
    matrix = nd(oracles.random_spd(rng, (2, 3), 4), dtype)
    policy = OnFailure(action)
    got = factor(matrix, policy, "matrix").asnumpy()
    assert np.array_equal(got, mx.nd.linalg.potrf(matrix).asnumpy())
    assert policy.repairs == []


def test_the_error_says_which_matrix_where_and_by_how_much(dtype):
    matrices = np.stack([np.eye(2)] * 6).reshape(2, 3, 2, 2)
    matrices[1, 2] = [[1.0, 1.5], [2.5, 1.0]]
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factor(nd(matrices, dtype), OnFailure(), "noise")
    message = str(caught.value)
    assert message.startswith(
        "`noise` is not positive definite at batch index (1, 2): its smallest eigenvalue is -1 and its asymmetry 1, "
        f"at (0, 1); expected a matrix that is positive definite in {dtype}. If it is learned, declare it"
    )


def test_axes_of_size_one_are_left_out_of_the_batch_index():
    matrices = np.stack([np.eye(2), -np.eye(2)])[None, :, None]
    with pytest.raises(NotPositiveDefiniteError, match=r"at batch index \(1,\): its smallest eigenvalue is -1;"):
        factor(nd(matrices), OnFailure(), "matrix")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [(0, 0), (1, 0), (1, 1)])
def test_nan_and_infinity_are_said_to_be_that(position, number, action, dtype):
    matrices = np.stack([np.eye(2), INDEFINITE])
    matrices[0][position] = number
    index = (0,) + position
    message = rf"`matrix` is {number} at index \({index[0]}, {index[1]}, {index[2]}\); expected finite numbers"
    with pytest.raises(NotPositiveDefiniteError, match=message):
        factor(nd(matrices, dtype), OnFailure(action), "matrix")


@pytest.mark.parametrize("action", ACTIONS)
def test_an_earlier_failure_is_not_taken_for_this_one(action, dtype):
    """MXNet would report it once, inside the factorisation, and then hand out garbage."""
    failed = mx.nd.linalg.potrf(nd(INDEFINITE, dtype))
    matrix = mx.nd.dot(failed, failed, transpose_b=True) + nd(np.eye(2), dtype)
    with pytest.raises(NotPositiveDefiniteError, match="`matrix` comes from a computation that failed before"):
        factor(matrix, OnFailure(action), "matrix")


@pytest.mark.parametrize("action", ["ignore", {}, [], None, 1])
def test_unknown_action(action):
    message = f"`action`: got {action!r}; expected one of raise, jitter, project"
    with pytest.raises(ValueError, match=re.escape(message)):
        OnFailure(action)


# Jitter


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_jitter_is_a_multiple_of_the_mean_diagonal(scale, dtype):
    got, policy = repaired(scale * NEARLY, "jitter", dtype)
    step = 1e-4 if dtype == "float64" else policy.repairs[0].added / scale
    assert any(np.isclose(step, JITTERS[dtype], rtol=1e-5))
    assert_close(got, scale * (NEARLY + step * np.eye(2)), rtol=1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("needed", range(-9, -2))
def test_jitter_grows_only_as_far_as_needed(needed):
    """A smallest eigenvalue of -0.3 * 10^needed times the mean diagonal takes 10^needed."""
    excess = 0.3 * 10.0**needed
    _, policy = repaired([[5.0, 5.0 * (1 + excess)], [5.0 * (1 + excess), 5.0]], "jitter", "float64")
    assert_close(policy.repairs[0].added, 5.0 * 10.0**needed, rtol=1e-6)


def test_exhausted_jitter_says_so(dtype):
    with pytest.raises(
        NotPositiveDefiniteError,
        match="its smallest eigenvalue is -1, and adding up to 0.01 times the mean of its diagonal does not help; exp",
    ):
        factor(nd(INDEFINITE, dtype), OnFailure("jitter"), "matrix")


@pytest.mark.parametrize("action", REPAIRS)
def test_a_matrix_of_zeros_has_no_scale(action, dtype):
    with pytest.raises(NotPositiveDefiniteError, match="its smallest eigenvalue is 0, and .* does not help"):
        factor(nd(np.zeros((3, 3)), dtype), OnFailure(action), "matrix")


# Projection


def clipped(matrix, dtype):
    values, vectors = np.linalg.eigh(oracles.symmetric(matrix))
    floor = FLOORS[dtype][0] * np.abs(values).max(-1, keepdims=True)
    return (vectors * np.maximum(values, floor)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_projection_clips_the_eigenvalues(scale, dtype, rng):
    matrix = scale * oracles.symmetric(rng.normal(size=(4, 4)))
    got, policy = repaired(matrix, "project", dtype)
    # A factor is exact to rounding relative to the largest eigenvalue.
    assert_close(got, clipped(matrix, dtype), rtol=0, atol=scale * (1e-5 if dtype == "float32" else 1e-13))
    assert_close(policy.repairs[0].added, np.abs(got - matrix).max(), rtol=1e-4)


def test_projection_of_a_matrix_without_a_diagonal(dtype):
    got, _ = repaired([[0.0, 1.0], [1.0, 0.0]], "project", dtype)
    assert_close(got, np.full((2, 2), 0.5), rtol=0, atol=1e-4)


def test_projection_symmetrises(dtype):
    got, policy = repaired([[1.0, 0.0], [6.0, 1.0]], "project", dtype)
    assert_close(got, np.full((2, 2), 2.0), rtol=0, atol=1e-3)
    assert policy.repairs[0].asymmetry == 6.0


def test_projection_grows_where_rounding_is_in_the_way(rng):
    """In float32 a large matrix with one dominant eigenvalue has no factor at the first floor."""
    dim = 300
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    values = np.concatenate([[-1.0], np.zeros(dim - 2), [1e3]])
    got, _ = repaired((basis * values) @ basis.T, "project", "float32")
    assert np.isfinite(got).all()


# Batches, dtypes, gradients


@pytest.mark.parametrize("action", REPAIRS)
@pytest.mark.parametrize("failing", [[0], [4], [1, 2], [0, 3, 4], [0, 1, 2, 3, 4]])
def test_only_the_failing_entries_are_changed(failing, action, dtype, rng):
    matrices = oracles.random_spd(rng, (5,), 2)
    matrices[failing] = NEARLY
    policy = OnFailure(action)
    with one_warning():
        got = factor(nd(matrices, dtype), policy, "matrix").asnumpy()
    untouched = [i for i in range(5) if i not in failing]
    alone = [mx.nd.linalg.potrf(nd(matrices[i], dtype)).asnumpy() for i in untouched]
    assert all(np.array_equal(got[i], lower) for i, lower in zip(untouched, alone))
    assert [repair.batch_index for repair in policy.repairs] == [(i,) for i in failing]
    assert np.isfinite(got).all()


@pytest.mark.parametrize("action", REPAIRS)
def test_gradients_pass_to_the_matrix_as_it_was(action, dtype):
    """The change is a constant: the gradient is that of the factorisation at the repaired matrix."""
    matrix = nd(np.stack([np.eye(2), NEARLY]), dtype)
    change = nd(OnFailureQuietly(action).mend(matrix, "matrix"), dtype)
    gradients = []
    for compute in [
        lambda x: factor(x, OnFailureQuietly(action), "matrix"),
        lambda x: mx.nd.linalg.potrf(x + change),
    ]:
        x = matrix.copy()
        x.attach_grad()
        with mx.autograd.record():
            loss = (compute(x) * nd([[1.0, 0.0], [2.0, 3.0]], dtype)).sum()
        loss.backward()
        gradients.append(x.grad.asnumpy())
    assert np.abs(gradients[0][1]).max() > 1
    assert np.array_equal(*gradients)


class OnFailureQuietly(OnFailure):
    """The policy without its warning."""

    def mend(self, matrix, name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RepairWarning)
            return super().mend(matrix, name)


def test_mxnet_is_the_judge(rng):
    """Borderline matrices, on which another LAPACK may disagree: whatever is refused is repaired, all else is left."""
    root = rng.normal(size=(200, 3, 2)).astype("float32")
    matrices = mx.nd.array(root @ np.swapaxes(root, -1, -2))
    sound = [can_be_factored(matrix) for matrix in matrices.asnumpy()]
    policy = OnFailureQuietly("jitter")
    assert np.isfinite(factor(matrices, policy, "matrix").asnumpy()).all()
    assert 0 < sum(sound) < 200
    assert {repair.batch_index[0] for repair in policy.repairs} == {i for i, good in enumerate(sound) if not good}


# Record and warning


def test_warns_once_for_each_policy_and_name(dtype):
    policy = OnFailure("jitter")
    matrix = nd(NEARLY, dtype)
    with one_warning() as message:
        factor(matrix, policy, "first")
    assert message[0].startswith("`first` is not positive definite: its smallest eigenvalue is -1")
    assert f"jitter added up to {policy.repairs[0].added:.3g} to its diagonal." in message[0]
    factor(matrix, policy, "first")  # any warning is an error here
    factor(nd(1.1 * NEARLY, dtype), policy, "first")
    with one_warning() as message:
        factor(matrix, policy, "second")
    assert message[0].startswith("`second` is")
    with one_warning() as message:
        factor(matrix, OnFailure("project"), "first")
    assert "project added up to" in message[0]


def test_the_warning_names_the_largest_of_a_batch():
    matrices = np.stack([NEARLY, np.eye(2), 3.0 * NEARLY])
    with one_warning() as message:
        factor(nd(matrices), OnFailure("jitter"), "matrix")
    assert "at batch index (2,): " in message[0]
    assert "jitter added up to 0.0003 to its diagonal, the largest of 2 repairs." in message[0]


def test_the_largest_repair_is_kept():
    policy = OnFailureQuietly("jitter")
    for size in [1.0, 3.0, 2.0]:
        factor(nd(size * NEARLY), policy, "matrix")
    ((name, index, smallest, asymmetry, added),) = policy.repairs
    assert (name, index, asymmetry) == ("matrix", (), 0.0)
    assert_close(smallest, -3e-5, rtol=1e-6)
    assert_close(added, 3e-4, rtol=1e-6)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_policies_can_be_copied(duplicate):
    policy = OnFailureQuietly("jitter")
    factor(nd(NEARLY), policy, "matrix")
    twin = duplicate(policy)
    assert twin.action == "jitter"
    assert twin.repairs == policy.repairs
    assert repr(OnFailure("project")) == "OnFailure('project')"


# Through everything that takes a policy

HOLDERS = {
    "covariance": lambda bad, policy: Gaussian(0.0, covariance=bad, on_failure=policy),
    "precision": lambda bad, policy: Gaussian(0.0, precision=bad, on_failure=policy),
    "Dense": lambda bad, policy: Gaussian(0.0, structures.Dense(bad, policy)),
    "ScaledCorrelation": lambda bad, policy: Gaussian(
        0.0, structures.ScaledCorrelation(mx.nd.ones(2, dtype=bad.dtype), bad, on_failure=policy)
    ),
    "Kronecker": lambda bad, policy: Gaussian(
        0.0, structures.Kronecker(structures.Dense(bad, policy), structures.Precision(bad, policy))
    ),
}
METHODS = {
    "log_pdf": lambda p, dim, dtype: p.log_pdf(mx.nd.ones(dim, dtype=dtype)),
    "draw_samples": lambda p, dim, dtype: p.draw_samples(3),
    "entropy": lambda p, dim, dtype: p.entropy(),
    "kl_divergence": lambda p, dim, dtype: p.kl_divergence(Gaussian(0.0, variance=mx.nd.ones(dim, dtype=dtype))),
    "reverse kl_divergence": lambda p, dim, dtype: Gaussian(0.0, variance=mx.nd.ones(dim, dtype=dtype)).kl_divergence(
        p
    ),
    "condition": lambda p, dim, dtype: p.condition([0], 1.0).log_pdf(mx.nd.ones(dim - 1, dtype=dtype)),
    "affine": lambda p, dim, dtype: p.affine(mx.nd.ones((1, dim), dtype=dtype)).entropy(),
    "product": lambda p, dim, dtype: p.product(Gaussian(0.0, variance=mx.nd.ones(dim, dtype=dtype)))[1],
}


# The block of a precision that its conditional needs may be positive definite where the whole is not.
FACTORING = [
    (holder, method) for holder in HOLDERS for method in METHODS if (holder, method) != ("precision", "condition")
]


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize(("holder", "method"), FACTORING)
def test_every_method_reports_by_name(holder, method, recording, dtype):
    """No method ends in MXNet's own error, nor in garbage at the second reading."""
    dim = 4 if holder == "Kronecker" else 2
    bad = nd(INDEFINITE, dtype)
    with mx.autograd.record() if recording else mx.autograd.pause():
        for _ in range(2):
            with pytest.raises(NotPositiveDefiniteError, match="`(covariance|precision|correlation)` is not positive"):
                METHODS[method](HOLDERS[holder](bad, OnFailure()), dim, dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("action", REPAIRS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_every_method_repairs(holder, action, method, dtype):
    dim = 4 if holder == "Kronecker" else 2
    policy = OnFailureQuietly(action)
    result = METHODS[method](HOLDERS[holder](nd(NEARLY, dtype), policy), dim, dtype)
    assert np.isfinite(result.asnumpy()).all()
    assert policy.repairs or (holder, method) == ("precision", "condition")


def test_a_repair_under_record_trains(dtype):
    matrix = nd(NEARLY, dtype)
    matrix.attach_grad()
    policy = OnFailureQuietly("jitter")
    with mx.autograd.record():
        loss = -Gaussian(0.0, matrix, on_failure=policy).log_pdf(nd([[1.0, -1.0]], dtype)).sum()
    loss.backward()
    assert np.isfinite(matrix.grad.asnumpy()).all()
    assert np.abs(matrix.grad.asnumpy()).max() > 1


def test_without_a_policy_nothing_is_waited_for():
    """The caller has asked for MXNet's own, late error, and reads it here."""
    log_pdf = Gaussian(0.0, nd(INDEFINITE), on_failure=None).log_pdf(nd([1.0, 1.0]))
    with pytest.raises(mx.base.MXNetError, match="potrf failed"):
        log_pdf.asnumpy()


# In a model


def unconstrained(policy, initial):
    model = Model()
    model.N = Variable()
    model.C = Variable(shape=(2, 2), initial_value=nd(initial))
    model.X = MultivariateNormal(covariance=model.C, shape=(model.N, 2), dtype="float64", on_failure=policy)
    return model


def test_a_policy_survives_the_copies_of_a_model():
    policy = OnFailure("jitter")
    model = unconstrained(policy, np.eye(2))
    copied = model.clone()
    assert copied.X.factor._on_failure is policy


def test_training_goes_on_from_a_matrix_that_was_repaired(rng):
    """Without the policy the first step fails; with it the covariance leaves the boundary and is learned."""
    policy = OnFailureQuietly("project")
    model = unconstrained(policy, NEARLY)
    data = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]], size=200)
    inference = GradBasedInference(MAP(model, [model.X]), dtype="float64")
    inference.run(X=nd(data), optimizer="adam", learning_rate=0.02, max_iter=300)
    assert [repair.name for repair in policy.repairs] == ["covariance` of variable `X"]
    assert np.linalg.eigvalsh(inference.params[model.C].asnumpy())[0] > 0.1


def test_raising_at_every_step_stops_training_at_once(rng):
    model = unconstrained(OnFailure("raise"), INDEFINITE)
    inference = GradBasedInference(MAP(model, [model.X]), dtype="float64")
    with pytest.raises(NotPositiveDefiniteError, match="`covariance` of variable `X` is not positive definite: its"):
        inference.run(X=nd(rng.normal(size=(5, 2))), max_iter=3)
    mx.nd.waitall()
    assert np.array_equal(inference.params[model.C].asnumpy(), INDEFINITE)
