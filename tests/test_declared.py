"""What was declared and what came: data with other axes, names that were assigned twice."""

import warnings

from mxfusion_mvn import (
    GaussianMixture,
    LowRankMultivariateNormal,
    MultivariateNormal,
    MultivariateStudentT,
)
from mxfusion_mvn.functions import linear
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    CompiledMinibatchLoop,
    MinibatchLoop,
    create_Gaussian_fullrank,
    create_Gaussian_meanfield,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import MAP as HostMAP
from mxfusion.inference import BatchInferenceLoop, GradBasedInference, StochasticVariationalInference

from helpers.host import nd

N = 20
X = np.random.default_rng(0).normal(size=(N, 2))
Y = X @ [2.0, -1.0] + 0.1 * np.random.default_rng(1).normal(size=N)

LOOPS = {
    "host": BatchInferenceLoop,
    "batch": BatchLoop,
    "compiled": CompiledLoop,
    "minibatch": lambda: MinibatchLoop(batch_size=N),
    "compiled minibatch": lambda: CompiledMinibatchLoop(batch_size=N),
}
LIKELIHOODS = {
    "normal": lambda mean, shape: MultivariateNormal(mean, 0.01, shape=shape),
    "missing": lambda mean, shape: MultivariateNormal(mean, 0.01, shape=shape, missing=True),
    "t": lambda mean, shape: MultivariateStudentT(4.0, mean, covariance=0.01, shape=shape),
    "low rank": lambda mean, shape: LowRankMultivariateNormal(
        mean, factor=np.ones((1, 1), "float32"), diagonal=np.ones(1, "float32"), shape=shape
    ),
}


def regression(likelihood, rows=None):
    model = Model()
    model.N = Variable()
    model.w = MultivariateNormal(0.0, 100.0, shape=(2,))
    model.y = LIKELIHOODS[likelihood](linear(X, model.w), (rows or model.N, 1))
    return model


def algorithms(model):
    posterior = create_Gaussian_meanfield(model, [model.y])
    return {
        "MAP": MAP(model, [model.y]),
        "host's MAP": HostMAP(model, [model.y]),
        "SVI": StochasticVariationalInference(3, model, posterior, [model.y]),
    }


def run(algorithm, loop, **data):
    inference = GradBasedInference(algorithm, grad_loop=loop)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="InferenceParameters")
        return inference.run(max_iter=3, **data)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("algorithm", ["MAP", "host's MAP", "SVI"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_vector_is_not_a_column(likelihood, algorithm, loop):
    with pytest.raises(InferenceError, match=r"`y`: got shape \(20,\); expected \(N, 1\)\. Write y\.reshape\(-1, 1\)"):
        run(algorithms(regression(likelihood))[algorithm], LOOPS[loop](), y=nd(Y))


@pytest.mark.parametrize("loop", ["batch", "compiled"])
def test_a_vector_is_not_a_column_where_the_rows_are_declared(loop):
    model = regression("normal", rows=N)
    with pytest.raises(InferenceError, match=r"`y`: got shape \(20,\); expected \(20, 1\)"):
        run(MAP(model, [model.y]), LOOPS[loop](), y=nd(Y))


def test_a_vector_is_not_a_column_of_a_mixture():
    model = Model()
    model.N = Variable()
    means = np.array([[-1.0], [1.0]], "float32")
    model.y = GaussianMixture(np.array([0.5, 0.5], "float32"), means, covariance=1.0, shape=(model.N, 1))
    model.w = MultivariateNormal(shape=(2,))
    with pytest.raises(InferenceError, match=r"`y`: got shape \(20,\); expected \(N, 1\)"):
        run(MAP(model, [model.y]), BatchLoop(), y=nd(Y))


def test_a_matrix_is_not_a_vector():
    model = Model()
    model.mean = Variable(shape=(2,))
    model.y = MultivariateNormal(model.mean, shape=(2,))
    with pytest.raises(InferenceError, match=r"`y`: got shape \(2, 20\); expected \(2,\)\. Bring"):
        run(MAP(model, [model.y]), BatchLoop(), y=nd(X.T))


def test_a_column_is_taken():
    model = regression("normal")
    inference = GradBasedInference(MAP(model, [model.y]), grad_loop=CompiledLoop())
    inference.run(y=nd(Y[:, None], "float32"), learning_rate=0.1, max_iter=400)
    found = inference.params[inference.inference_algorithm.location(model.w)].asnumpy()
    np.testing.assert_allclose(found, np.linalg.solve(X.T @ X + 1e-4 * np.eye(2), X.T @ Y), atol=1e-3)


# Names assigned twice


def assigned_twice():
    model = Model()
    model.N = Variable()
    for _ in range(2):
        model.mu = MultivariateNormal(0.0, 100.0, shape=(2,))
        model.X = MultivariateNormal(model.mu, shape=(model.N, 2))
    return model


TWICE = r"`\w+`: got two variables of this name; expected one.*build the model anew, starting from model = Model\(\)"


@pytest.mark.parametrize("create", [MAP, create_Gaussian_meanfield, create_Gaussian_fullrank])
def test_a_name_assigned_twice_is_refused(create):
    model = assigned_twice()
    with pytest.raises(ModelSpecificationError, match=TWICE):
        create(model, [model.X])


@pytest.mark.parametrize("loop", ["batch", "compiled", "minibatch", "compiled minibatch"])
def test_a_name_assigned_twice_is_refused_by_loops(loop):
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(2,))
    for _ in range(2):
        model.X = MultivariateNormal(model.mean, shape=(model.N, 2))
    with pytest.raises(ModelSpecificationError, match=TWICE):
        run(HostMAP(model, [model.X]), LOOPS[loop](), X=nd(X))


def test_a_parameter_assigned_twice_is_refused():
    model = Model()
    model.mean = Variable(shape=(2,))
    model.X = MultivariateNormal(model.mean, shape=(N, 2))
    model.mean = Variable(shape=(2,))
    with pytest.raises(ModelSpecificationError, match="`mean`: got two variables"):
        MAP(model, [model.X])


# A matrix that cannot be factored at once


@pytest.mark.parametrize("loop", ["batch", "compiled"])
def test_a_matrix_that_cannot_be_factored_at_once_is_named_by_each_loop(loop):
    model = Model()
    model.covariance = Variable(shape=(2, 2), initial_value=nd([[1.0, 2.0], [2.0, 1.0]]))
    model.X = MultivariateNormal(0.0, model.covariance, shape=(N, 2))
    inference = GradBasedInference(MAP(model, [model.X]), grad_loop=LOOPS[loop]())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = inference.run(X=nd(X), max_iter=5)
    said = [str(w.message) for w in caught if w.category.__name__ == "TrainingStoppedWarning"]
    assert record.reason == "not finite"
    assert record.loss.shape == (0,)
    assert len(said) == 1
    assert "`covariance` of variable `X` is not positive definite: its smallest eigenvalue is -1" in said[0]
    np.testing.assert_array_equal(inference.params[model.covariance].asnumpy(), [[1.0, 2.0], [2.0, 1.0]])
    mx.nd.waitall()
