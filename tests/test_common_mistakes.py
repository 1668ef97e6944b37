# SPDX-License-Identifier: Apache-2.0
"""What people write at first, and what they are told: each answer names what is wrong, and says what to write."""

import re
import warnings

from mxfusion_mvn import Gaussian, InverseWishart, MultivariateNormal, NotPositiveDefiniteError
from mxfusion_mvn.functions import linear, scale_rows
from mxfusion_mvn.inference import (
    MAP,
    BatchLoop,
    CompiledLoop,
    GradBasedInference,
    TrainingStoppedWarning,
    create_Gaussian_fullrank,
    create_Gaussian_meanfield,
    summary,
)
from mxfusion_mvn.transformations import PositiveDefinite

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import MAP as HostMAP
from mxfusion.inference import BatchInferenceLoop, StochasticVariationalInference

from helpers.host import nd

ROWS = 40
X = np.random.default_rng(0).multivariate_normal([1, 2, 3], [[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 0.5]], size=ROWS)
SPD = np.array([[2, 0.5], [0.5, 1]], "float32")
ASYMMETRIC = np.array([[1, 0.5], [0, 1]], "float32")
LOOPS = {"host": BatchInferenceLoop, "batch": BatchLoop, "compiled": CompiledLoop}


def model_of_rows(rows=None, covariance=None, shape=None):
    """A mean, a covariance and rows; the covariance is learned unless it is given."""
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(3,), initial_value=mx.nd.zeros(3))
    if covariance is None:
        covariance = Variable(shape=(3, 3), transformation=PositiveDefinite(), initial_value=mx.nd.eye(3))
    model.cov = covariance
    model.X = MultivariateNormal(model.mean, model.cov, shape=shape or (rows or model.N, 3))
    return model


def model_with_priors():
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(0.0, 100.0, shape=(3,))
    model.cov = InverseWishart(6.0, 1.0, shape=(3, 3))
    model.X = MultivariateNormal(model.mu, model.cov, shape=(model.N, 3))
    return model


def regression():
    model = Model()
    model.N = Variable()
    model.w = Variable(shape=(2,))
    model.y = MultivariateNormal(linear(X[:, :2], model.w), 1.0, shape=(model.N, 1))
    return model


def run(model, loop, observed=("X",), algorithm=MAP, max_iter=20, learning_rate=0.05, **data):
    """Train as a user would; the result is the record of our loops, None of MXFusion's."""
    mx.random.seed(0)
    inference = GradBasedInference(algorithm(model, [getattr(model, name) for name in observed]), LOOPS[loop]())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="InferenceParameters has")
        return inference.run(max_iter=max_iter, learning_rate=learning_rate, **data)


def said(call):
    """What a run that cannot go on says: an error in MXFusion's loop, a warning in ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except InferenceError as error:
            return str(error)
    assert RuntimeWarning not in [warning.category for warning in caught]
    (message,) = [str(warning.message) for warning in caught if warning.category is TrainingStoppedWarning]
    return message


def changed(value):
    """The data with one bad entry."""
    data = nd(X, "float32")
    data[3, 1] = value
    return data


def assigned_twice():
    model = model_of_rows()
    model.X = MultivariateNormal(model.mean, model.cov, shape=(model.N, 3))
    return model


def variational(loop, observed):
    model = model_with_priors()
    posterior = create_Gaussian_fullrank(model, [model.X])
    return GradBasedInference(StochasticVariationalInference(3, model, posterior, observed), LOOPS[loop]())


# What the data are.

DATA = {
    "transposed": (
        lambda loop: run(model_of_rows(), loop, X=nd(X.T)),
        r"`X`: got shape \(3, 40\); expected \(N, 3\)\. .*write X\.T",
    ),
    "a vector for a column": (
        lambda loop: run(regression(), loop, ["y"], y=nd(X[:, 2])),
        r"`y`: got shape \(40,\); expected \(N, 1\)\. Write y\.reshape\(-1, 1\)",
    ),
    "a vector for rows": (
        lambda loop: run(model_of_rows(), loop, X=nd(X[:, 0])),
        r"`X`: got shape \(40,\); expected \(N, 3\)\. Bring the data into that shape",
    ),
    "other columns": (
        lambda loop: run(model_of_rows(), loop, X=nd(X[:, :2])),
        r"`X`: got shape \(40, 2\); expected \(N, 3\)\. Bring the data into that shape",
    ),
    "another N": (
        lambda loop: run(model_of_rows(rows=100), loop, X=nd(X)),
        r"`X`: got shape \(40, 3\); expected \(100, 3\)\. For any number of rows .*shape=\(model\.N, 3\)",
    ),
    "no N": (
        lambda loop: run(model_of_rows(shape=(3,)), loop, X=nd(X)),
        r"`X`: got shape \(40, 3\); expected \(3,\)\. For any number of rows .*shape=\(model\.N, 3\)",
    ),
    "a list": (
        lambda loop: run(model_of_rows(), loop, X=X.tolist()),
        r"`X`: got a list; expected an NDArray, a NumPy array or a DataFrame.* Write X=np\.array\(x\)",
    ),
    "a misspelt keyword": (lambda loop: run(model_of_rows(), loop, x=nd(X)), r"`x`: .*expected `X`\. Did you mean X\?"),
    "a misspelt option": (
        lambda loop: run(model_of_rows(), loop, X=nd(X), learning_rat=0.1),
        r"`learning_rat`: .*Did you mean learning_rate\?",
    ),
    "a superfluous keyword": (
        lambda loop: run(model_of_rows(), loop, X=nd(X), Z=nd(X)),
        r"`Z`: got data for what is not observed; expected `X`\. Leave it out, or name the variable among the observed",
    ),
    "no data": (lambda loop: run(model_of_rows(), loop), r"`X`: got no data; .*Pass it by name: run\(X=\.\.\.\)"),
    "nothing observed, MXFusion's MAP": (
        lambda loop: run(model_of_rows(), loop, [], HostMAP, X=nd(X)),
        "`X`: .*no variable is observed.*name the variable among the observed ones",
    ),
    "nothing observed, SVI": (
        lambda loop: variational(loop, []).run(max_iter=3),
        "got no value of X; expected an observed variable.* Observe it, or give it one",
    ),
}


@pytest.mark.filterwarnings("ignore:InferenceParameters has")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("mistake", DATA)
def test_data(mistake, loop):
    make, message = DATA[mistake]
    with pytest.raises(InferenceError, match=message):
        make(loop)


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "NumPy", "DataFrame"])
@pytest.mark.parametrize("loop", LOOPS)
def test_data_that_are_taken(loop, kind):
    """Of any dtype and kind, where there is no doubt; the mean of rounded data is their own."""
    pandas = pytest.importorskip("pandas")
    rounded = np.round(X)
    data = {"NumPy": rounded, "DataFrame": pandas.DataFrame(rounded)}.get(kind)
    data = mx.nd.array(rounded, dtype=kind) if data is None else data
    model = model_of_rows(covariance=Variable(value=mx.nd.eye(3)))
    inference = GradBasedInference(MAP(model, [model.X]), LOOPS[loop]())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="InferenceParameters has")
        inference.run(X=data, learning_rate=0.3, max_iter=250)
    assert inference.params[model.mean].shape == (3,)
    np.testing.assert_allclose(inference.params[model.mean].asnumpy(), rounded.mean(0), atol=1e-3)


@pytest.mark.parametrize("loop", LOOPS)
def test_another_number_of_rows_in_a_second_run(loop):
    model = model_of_rows(covariance=Variable(value=mx.nd.eye(3)))
    inference = GradBasedInference(MAP(model, [model.X]), LOOPS[loop]())
    with warnings.catch_warnings():
        for message in ("InferenceParameters has", "Trying to initialize"):
            warnings.filterwarnings("ignore", message=message)
        for data in (X, X[:7]):
            inference.run(X=data, learning_rate=0.3, max_iter=250)
    np.testing.assert_allclose(inference.params[model.mean].asnumpy(), X[:7].mean(0), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (model_of_rows, np.nan, r"`X` is nan at index \(3, 1\); expected finite numbers\. .*missing=True"),
        (model_with_priors, np.nan, r"`X` is nan at index \(3, 1\); expected finite numbers\. .*missing=True"),
        (model_of_rows, np.inf, r"`X` is inf at index \(3, 1\); expected finite numbers\. Look at the data"),
        (model_with_priors, np.inf, r"`X` is inf at index \(3, 1\); expected finite numbers\. Look at the data"),
    ],
    ids=["NaN", "NaN, with priors", "infinity", "infinity, with priors"],
)
@pytest.mark.parametrize("loop", LOOPS)
def test_entries_of_the_data(loop, make, value, message):
    assert re.match(message, said(lambda: run(make(), loop, X=changed(value))).split(": ", loop != "host")[-1])


# How the model is written.

MODELS = {
    "nothing observed": (
        lambda: MAP(model_of_rows(), []),
        r"`observed`: got no variable; expected `X` of shape \(N, 3\), .*Name what is observed: \[model\.X\]",
    ),
    "nothing observed, full rank": (
        lambda: create_Gaussian_fullrank(model_with_priors(), []),
        r"`observed`: got no variable; expected `X` .*Name what is observed: \[model\.X\]",
    ),
    "nothing observed, mean field": (
        lambda: create_Gaussian_meanfield(model_with_priors(), []),
        r"`observed`: got no variable; expected `X` .*Name what is observed: \[model\.X\]",
    ),
    "an asymmetric covariance": (
        lambda: MultivariateNormal(covariance=ASYMMETRIC, shape=(2,)),
        r"`covariance`: got 0\.5 at index \(0, 1\) but 0\.0 at \(1, 0\); .*Use \(A \+ A\.T\) / 2",
    ),
    "standard deviations for a covariance": (
        lambda: MultivariateNormal(covariance=np.ones(2, "float32"), shape=(2,)),
        r"`covariance`: got shape \(2,\); expected a matrix .*np\.diag\(variances\)",
    ),
    "a covariance for its factor": (
        lambda: MultivariateNormal(scale_tril=SPD, shape=(2,)),
        r"`scale_tril`: got 0\.5 at index \(0, 1\), above the diagonal; .*Take the lower factor",
    ),
    "an upper factor": (
        lambda: MultivariateNormal(scale_tril=np.linalg.cholesky(SPD).T, shape=(2,)),
        r"`scale_tril`: .*above the diagonal; .*Take the lower factor of np\.linalg\.cholesky",
    ),
    "a singular covariance": (
        lambda: MultivariateNormal(covariance=np.ones((2, 2), "float32"), shape=(2,)),
        "`covariance`: got a matrix whose smallest eigenvalue is .*Add a multiple of the identity",
    ),
    "integers": (
        lambda: MultivariateNormal(np.array([1, 2]), shape=(2,)),
        r"`mean`: got dtype int64; expected float32 or float64\. Convert it first, .*astype\('float32'\)",
    ),
    "a list": (
        lambda: MultivariateNormal([1.0, 2.0], shape=(2,)),
        r"`mean`: got a list; .*Convert it with np\.array\(\.\.\., dtype='float32'\)",
    ),
    "a mean of another size": (
        lambda: MultivariateNormal(np.zeros(4, "float32"), shape=(2,)),
        r"`mean`: got shape \(4,\); expected \(2,\), or what broadcasts to it",
    ),
    "no shape": (
        lambda: setattr(Model(), "X", MultivariateNormal(0.0, 1.0)),
        r"`X`: got the factor .*Write model\.X = MultivariateNormal\(\.\.\., shape=\(N, D\)\)",
    ),
    "factor and scale exchanged": (
        lambda: scale_rows(np.ones(2, "float32"), SPD),
        r"`factor`: got shape \(2,\); expected a matrix",
    ),
    "a name twice": (
        lambda: MAP(assigned_twice(), []),
        r"`X`: got two variables of this name; .*build the model anew, starting from model = Model\(\)",
    ),
    **{
        f"the name {name}": (
            lambda name=name: setattr(Model(), name, MultivariateNormal(shape=(2,))),
            rf"`{name}`: .*MXFusion's models have an attribute of this one\. Write model\.{name}_ = ",
        )
        for name in ("variables", "components", "log_pdf", "name")
    },
}


@pytest.mark.parametrize("mistake", MODELS)
def test_models(mistake):
    make, message = MODELS[mistake]
    with pytest.raises(ModelSpecificationError, match=message):
        make()


@pytest.mark.parametrize("name", ["clone", "log_pdf", "name"])
def test_names_of_mxfusion_are_refused_for_any_variable(name):
    model = Model()
    setattr(model, name, Variable(shape=(2,)))
    model.X = MultivariateNormal(getattr(model, name), shape=(5, 2))
    with pytest.raises(ModelSpecificationError, match=f"`{name}`: .*Write model.{name}_ = "):
        MAP(model, [model.X])


@pytest.mark.parametrize("name", ["variables", "components", "log_pdf", "name"])
def test_a_model_can_be_used_after_a_refused_name(name):
    model = model_of_rows()
    with pytest.raises(ModelSpecificationError, match=f"`{name}`"):
        setattr(model, name, MultivariateNormal(shape=(2,)))
    assert {variable.name for variable in model.variables.values()} == {"N", "mean", "cov", "X"}
    assert len(run(model, "batch", X=X).loss) == 20


@pytest.mark.parametrize("loop", LOOPS)
def test_a_name_twice_with_the_map_of_mxfusion(loop):
    with pytest.raises(ModelSpecificationError, match="`X`: got two variables of this name; .*build the model anew"):
        run(assigned_twice(), loop, algorithm=HostMAP, X=nd(X))


GAUSSIANS = {
    "standard deviations": (
        lambda: Gaussian(covariance=mx.nd.ones(2)),
        r"`covariance`: got shape \(2,\); .*Pass a vector of variances as `variance`",
    ),
    "a list": (
        lambda: Gaussian(covariance=[[1.0, 0.0], [0.0, 1.0]]),
        r"`covariance`: got a list; .*mx\.nd\.array\(x, dtype='float32'\)",
    ),
    "a number": (lambda: Gaussian(covariance=1.0), r"`covariance`: got a float; .*mx\.nd\.array\(x, dtype='float32'\)"),
    "a singular covariance": (
        lambda: Gaussian(covariance=mx.nd.ones((2, 2))).log_pdf(mx.nd.ones(2)),
        "`covariance` is not positive definite: its smallest eigenvalue is ",
    ),
}


@pytest.mark.parametrize("mistake", GAUSSIANS)
def test_gaussians(mistake):
    make, message = GAUSSIANS[mistake]
    with pytest.raises((ValueError, NotPositiveDefiniteError), match=message):
        make()


# How it is trained.


@pytest.mark.parametrize("initial", [{}, {"initial_value": 0.3 * mx.nd.eye(3)}], ids=["at once", "late"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_covariance_without_transformation(loop, initial):
    model = model_of_rows(covariance=Variable(shape=(3, 3), **initial))
    message = said(lambda: run(model, loop, max_iter=300, X=0.01 * X))
    assert "`covariance` of variable `X` " in message
    assert "is not positive definite: its smallest eigenvalue is -" in message or loop == "host"
    assert "declare it as Variable(..., transformation=PositiveDefinite())" in message


@pytest.mark.parametrize("loop", ["batch", "compiled"])
def test_a_learning_rate_too_large_for_map(loop):
    message = run(model_of_rows(), loop, learning_rate=10.0, max_iter=300, X=np.tile(X, (5, 1))).message
    assert "the loss wanders" in message
    assert "Use a smaller learning rate" in message


@pytest.mark.parametrize("loop", LOOPS)
def test_a_learning_rate_too_large_for_a_posterior(loop):
    """The summary says so, too, below its table."""
    model = model_with_priors()
    posterior = create_Gaussian_fullrank(model, [model.X])
    algorithm = StochasticVariationalInference(3, model, posterior, [model.X])
    inference = GradBasedInference(algorithm, LOOPS[loop]())
    mx.random.seed(0)
    assert "use a smaller learning rate" in said(lambda: inference.run(X=X, learning_rate=10.0, max_iter=200))
    if loop != "host":
        assert "use a smaller learning rate" in str(summary(inference))
