# SPDX-License-Identifier: Apache-2.0
"""What is no option, no inference, no model: refused by the name of the argument wherever it is passed."""

import mxfusion_mvn
from mxfusion_mvn import bijections, functions, inference, mixture, structures
from mxfusion_mvn.gluon import MultivariateNormalHead
from mxfusion_mvn.inference import MAP
from mxfusion_mvn.missing import PartlyObserved
from mxfusion_mvn.testing import check_multivariate_normal, check_structure
from mxfusion_mvn.transformations import Scaled, inverse_softplus

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import StochasticVariationalInference

MATRIX = np.eye(2)
# Arguments that each distribution accepts, and its shape.
DISTRIBUTIONS = {
    "GaussianMixture": ({"weights": np.full(2, 0.5), "mean": MATRIX, "covariance": MATRIX[None]}, (3, 2)),
    "InverseWishart": ({"degrees_of_freedom": 3.0, "scale": MATRIX}, (2, 2)),
    "LKJCholesky": ({"concentration": 1.0}, (2, 2)),
    "LowRankMultivariateNormal": ({"mean": np.zeros(2), "factor": np.ones((2, 1)), "diagonal": np.ones(2)}, (3, 2)),
    "MatrixNormal": ({"mean": 0.0, "row_covariance": MATRIX, "column_covariance": MATRIX}, (2, 2)),
    "MultivariateNormal": ({"covariance": MATRIX}, (3, 2)),
    "MultivariateNormalMeanPrecision": ({"precision": MATRIX}, (3, 2)),
    "MultivariateStudentT": ({"degrees_of_freedom": 3.0, "mean": 0.0, "covariance": MATRIX}, (3, 2)),
    "Wishart": ({"degrees_of_freedom": 3.0, "scale": MATRIX}, (2, 2)),
}
NO_DTYPES = {
    "x": "'x'",
    "int32": "'int32'",
    "float16": "'float16'",
    np.float16: "a type",
    3: "3",
    1.5: "1.5",
    (): "a tuple",
}
NO_CONTEXTS = {"cpu": "a str", 1.5: "a float", 0: "a int", mx.cpu: "a function"}


def model():
    made = Model()
    made.N = Variable()
    made.mu = mxfusion_mvn.MultivariateNormal(covariance=MATRIX, shape=(2,))
    made.X = mxfusion_mvn.MultivariateNormal(made.mu, MATRIX, shape=(made.N, 2))
    return made


def declare(name, **options):
    arguments, shape = DISTRIBUTIONS[name]
    return getattr(mxfusion_mvn, name)(**{**arguments, "shape": shape, **options})


def test_every_distribution_is_in_the_table():
    classes = {
        name
        for name in mxfusion_mvn.__all__
        if isinstance(getattr(mxfusion_mvn, name), type) and hasattr(getattr(mxfusion_mvn, name), "define_variable")
    }
    assert classes == set(DISTRIBUTIONS)
    for name in DISTRIBUTIONS:
        assert isinstance(declare(name, dtype="float64", ctx=mx.cpu(), rand_gen=None), Variable)


WITH_DTYPE = {
    **{name: lambda dtype, name=name: declare(name, dtype=dtype) for name in DISTRIBUTIONS},
    "GradBasedInference": lambda dtype: _inference(dtype=dtype),
    "MultivariateNormalHead": lambda dtype: MultivariateNormalHead(2, dtype=dtype),
    "linear": lambda dtype: functions.linear(np.ones((3, 2)), Variable(shape=(2,)), dtype=dtype),
    "scale_rows": lambda dtype: functions.scale_rows(MATRIX, Variable(shape=(2,)), dtype=dtype),
    **{
        kind: lambda dtype, kind=kind: getattr(inference, f"create_Gaussian_{kind}")(*_observing(), dtype=dtype)
        for kind in ("meanfield", "fullrank", "lowrank")
    },
}
WITH_CONTEXT = {
    **{name: ("ctx", lambda ctx, name=name: declare(name, ctx=ctx)) for name in DISTRIBUTIONS},
    "GradBasedInference": ("context", lambda context: _inference(context=context)),
    "linear": ("ctx", lambda ctx: functions.linear(np.ones((3, 2)), Variable(shape=(2,)), ctx=ctx)),
    "scale_rows": ("ctx", lambda ctx: functions.scale_rows(MATRIX, Variable(shape=(2,)), ctx=ctx)),
}
ERRORS = (InferenceError, ModelSpecificationError, ValueError)


def _observing():
    made = model()
    return made, [made.X]


def _inference(**options):
    return inference.GradBasedInference(MAP(*_observing()), **options)


@pytest.mark.parametrize("name", WITH_DTYPE)
def test_what_is_no_dtype_is_refused(name):
    for value, shown in NO_DTYPES.items():
        with pytest.raises(ERRORS, match=f"`dtype`: got {shown}; expected 'float32' or 'float64'. Leave it out"):
            WITH_DTYPE[name](value)
    for value in ("float64", np.float32, np.dtype("float64")):
        assert WITH_DTYPE[name](value) is not None


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_what_is_no_context_is_refused(name):
    argument, call = WITH_CONTEXT[name]
    for value, shown in NO_CONTEXTS.items():
        with pytest.raises(ERRORS, match=rf"`{argument}`: got {shown}; expected an MXNet context such as mx.cpu\(\)"):
            call(value)
    assert call(mx.cpu()) is not None


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_draws_nothing_is_no_generator(name):
    for value, shown in {3: "3", "x": "'x'", np.random: "a module"}.items():
        with pytest.raises(ModelSpecificationError, match=f"`rand_gen`: got {shown}; expected a RandomGenerator"):
            declare(name, rand_gen=value)


NO_INFERENCES = {
    "None": lambda: None,
    "number": lambda: 1.5,
    "string": lambda: "inference",
    "array": lambda: mx.nd.ones(2),
    "model": model,
    "algorithm": lambda: MAP(*_observing()),
    "record": lambda: inference.RunRecord(np.zeros(1), 0.0, "max_iter", ""),
}


@pytest.mark.parametrize("value", NO_INFERENCES)
@pytest.mark.parametrize("function", ["summary", "to_arviz", "LaplaceApproximation", "unconstrained_gaussian", "save"])
def test_what_is_no_inference_is_refused(function, value):
    argument = "map_inference" if function == "LaplaceApproximation" else "inference"
    given = NO_INFERENCES[value]()
    with pytest.raises(
        InferenceError, match=f"`{argument}`: got a {type(given).__name__}; expected an Inference of MXFusion"
    ):
        getattr(inference, function)(given)


@pytest.mark.parametrize("function", ["summary", "to_arviz", "LaplaceApproximation", "unconstrained_gaussian"])
def test_an_inference_without_values_is_refused(function):
    argument = "map_inference" if function == "LaplaceApproximation" else "inference"
    with pytest.raises(InferenceError, match=f"`{argument}`: got one without values; expected a finished one"):
        getattr(inference, function)(_inference())


REFUSED = [
    (lambda: _trained_summary(num_samples=1), "`num_samples`: got 1; expected an integer of at least 2"),
    (lambda: _trained_summary(num_samples=2.5), "`num_samples`: got 2.5; expected an integer of at least 2"),
    (lambda: _trained_summary(num_samples="x"), "`num_samples`: got 'x'; expected an integer of at least 2"),
    (
        lambda: _law_of(mxfusion_mvn.LKJCholesky(shape=(3, 3)), np.ones((7, 3, 3))),
        r"`random_variable`: got shape \(7, 3, 3\); expected \(3, 3\)",
    ),
    (
        lambda: _law_of(mxfusion_mvn.LKJCholesky(shape=(3, 3)), np.full((3, 3), -np.inf)),
        r"`random_variable` is -inf at index \(0, 0\); expected finite numbers",
    ),
    (lambda: _inference(hybridize=True), "`hybridize`: got True; expected False"),
    (
        lambda: _of_dtype("float64").run(X=np.zeros((3, 2)), max_iter=1),
        "`[a-z]+ of [a-zX]+`: got dtype float64; expect",
    ),
    *(
        (
            lambda loop=loop: _of_dtype("float64", "float64", loop).run("adagrad", X=np.zeros((3, 2)), max_iter=3),
            "`optimizer`: got AdaGrad for float64 parameters; expected one that MXNet has in float64",
        )
        for loop in (None, "BatchLoop", "CompiledLoop")
    ),
    (lambda: MAP(*_observing()).location([3]), "`variable`: got .*; expected a latent variable"),
    (lambda: inference.create_Gaussian_fullrank(*_observing(), initial_scale="x"), "`initial_scale`: got 'x'; expect"),
    (lambda: inference.create_Gaussian_meanfield(*_observing(), initial_scale=mx.nd.ones(2)), "`initial_scale`: got a"),
    (lambda: Scaled("x"), "`unit`: got 'x'; expected a positive number"),
    (lambda: Scaled([1.0]), "`unit`: got a list; expected a positive number"),
    (lambda: Scaled(-1.0), "`unit`: got -1.0; expected a positive number"),
    (lambda: inference.RunRecord(np.ones(2), 0.1, 3, ""), "`reason`: got 3; expected a string"),
    (
        lambda: inference.RunRecord(np.ones(2), 0.1, "error", "", True, mx.nd.ones(2)),
        "`fallback_reason`: got a NDA",
    ),
    (
        lambda: mixture.draw_samples(mx.nd.ones((4, 1)), np.zeros((0, 2)), _gaussian(1)),
        r"`noise`: got shape \(0, 2\); expected at least one entry",
    ),
    (lambda: check_structure(structures.Diagonal, 3, 3, {}), "`arrays`: got 3; expected a function"),
    (lambda: check_structure(structures.Diagonal, dict, dict, 3), "`degrees`: got 3; expected a dict"),
    (lambda: check_multivariate_normal(mxfusion_mvn.MultivariateNormal, form=True), "`form`: got True; expected cov"),
    (lambda: _inference().run(max_iter=[3]), "`max_iter`: got a list; expected an integer of at least 0"),
    (lambda: _inference().run(max_iter=1e3), "`max_iter`: got 1000.0; expected an integer of at least 0"),
    (lambda: _inference().run(learning_rate="x"), "`learning_rate`: got 'x'; expected a number"),
    (lambda: _mixture().responsibilities(3), "`variables`: got a int; expected a dict from uuids"),
    (
        lambda: mixture.responsibilities(np.zeros((0, 2)), mx.nd.ones(1), _gaussian(1)),
        r"`value`: got shape \(0, 2\); expected at least one entry",
    ),
    (lambda: inference.create_Gaussian_fullrank(*_observing(), blocks=3), "`blocks`: got 3; expected a list of lists"),
    (lambda: inference.create_Gaussian_lowrank(*_observing(), blocks=[3]), "`blocks`: got 3; expected a list of lists"),
    (
        lambda: check_multivariate_normal(mxfusion_mvn.MultivariateNormal, conversions={}),
        "`conversions`: got {}; expected two functions",
    ),
    (lambda: inference.GradBasedInference(3), "`inference_algorithm`: got 3; expected an algorithm such as MAP"),
    (lambda: _inference(grad_loop=3), r"`grad_loop`: got 3; expected a loop such as CompiledLoop\(\)"),
    (lambda: _inference(constants=[1]), "`constants`: got a list; expected a dict from Variables"),
    (lambda: MAP(3, []), "`model`: got 3; expected a Model"),
    (lambda: MAP(model(), 3), r"`observed`: got 3; expected a list of variables"),
    (lambda: MAP(model(), "X"), r"`observed`: got 'X'; expected a list of variables"),
    (lambda: MAP(*_observing(), supports=3), "`supports`: got 3; expected a dict from Variables to bijections"),
    (lambda: MAP(*_observing(), supports={1: 2}), "`supports`: got 1, which is not a latent variable"),
    (lambda: inference.create_Gaussian_meanfield(None, []), "`model`: got None; expected a Model"),
    (lambda: inference.create_Gaussian_meanfield(*_observing(), excluded=3), "`excluded`: got 3; expected a list of"),
    (lambda: inference.create_Gaussian_lowrank(*_observing(), excluded=[3]), "`excluded`: got 3, which is not a lat"),
    (lambda: inference.create_Gaussian_fullrank(*_observing(), entropy=[]), r"`entropy`: got \[\]; expected one of"),
    (lambda: inference.support_of(3), "`variable`: got 3; expected a random Variable"),
    (lambda: inference.support_of(Variable()), "`variable`: got .*; expected a random Variable"),
    (lambda: inference.support_of(model().mu, 3), "`supports`: got 3; expected a dict from Variables"),
    (lambda: inference.register_support(3, bijections.Real()), "`distribution`: got 3; expected a class"),
    (lambda: inference.register_support({}, bijections.Real()), "`distribution`: got a dict; expected a class"),
    (lambda: inference.unregister_support([]), "`distribution`: got a list; expected a class"),
    (lambda: inference.Plateau(window="x"), "`window`: got 'x'; expected an integer of at least 2"),
    (lambda: inference.Plateau(window=True), "`window`: got True; expected an integer of at least 2"),
    (lambda: inference.Plateau(tolerance="x"), "`tolerance`: got 'x'; expected a positive number of nats"),
    (lambda: inference.Plateau(tolerance=None), "`tolerance`: got None; expected a positive number of nats"),
    (lambda: inference.Plateau(tolerance=float("nan")), "`tolerance`: got nan; expected a positive number of nats"),
    (lambda: MultivariateNormalHead(True), "`dim`: got True; expected an integer of at least 1"),
    (lambda: MultivariateNormalHead(2, "x"), "`initial_scale`: got 'x'; expected a positive number"),
    (lambda: MultivariateNormalHead(2, None), "`initial_scale`: got None; expected a positive number"),
    (lambda: MultivariateNormalHead(2, in_units=-1), "`in_units`: got -1; expected an integer of at least 0"),
    (lambda: MultivariateNormalHead(2**17), "`dim`: got 131072; expected an integer of at most 65535"),
    (lambda: MultivariateNormalHead(2, prefix=3), "`prefix`: got 3; expected a string or None"),
    (lambda: MultivariateNormalHead(2, params=[3]), "`params`: got a list; expected a ParameterDict"),
    (lambda: _head()(np.ones((3, 4))), "`features`: got a ndarray; expected an NDArray or a Symbol"),
    (lambda: _head()(None), "`features`: got None; expected an NDArray or a Symbol"),
    (lambda: _head()(mx.np.ones((3, 4))), "`features`: got a ndarray; expected an NDArray or a Symbol"),
    (lambda: _head()(mx.nd.ones((3, 4), dtype="int32")), "`features`: got dtype int32; expected float32"),
    (lambda: _head()(mx.nd.ones((3, 4)).tostype("csr")), "`features`: got a CSRNDArray; expected a dense array"),
    (lambda: _head()(mx.nd.ones(3)), r"`features`: got shape \(3,\); expected \(B..., 4\). The last axis holds one"),
    (lambda: _head()(mx.nd.ones((3, 5))), r"`features`: got shape \(3, 5\); expected \(B..., 4\)"),
    (lambda: inference.Plateau()(mx.nd.ones(3)), r"`losses`: got a NDArray; expected an array \(iterations,\)"),
    (lambda: inference.Plateau()(None), r"`losses`: got None; expected an array \(iterations,\)"),
    (lambda: inference.Plateau()(np.ones((2, 2))), r"`losses`: got a ndarray; expected an array \(iterations,\)"),
    (lambda: inference.RunRecord([1.0], 0.1, "error", ""), "`loss`: got a list; expected a NumPy array of numbers"),
    (lambda: inference.RunRecord(np.ones(2), "x", "error", ""), "`seconds`: got 'x'; expected a number"),
    (lambda: declare("Wishart", scale=np.zeros((0, 2, 2))), r"`scale`: got shape \(0, 2, 2\); expected at least one"),
    (lambda: declare("MultivariateNormal", mean=np.zeros((0, 2))), r"`mean`: got shape \(0, 2\); expected at least"),
    (lambda: PartlyObserved(_gaussian(), np.zeros((0, 2))), r"`value`: got shape \(0, 2\); expected at least one row"),
    (
        lambda: inverse_softplus(mx.nd.array([1.0, -3.0])),
        r"`y`: got -3.0 at index \(1,\) .*; expected positive numbers",
    ),
    (lambda: MultivariateNormalHead(2, in_units="x"), "`in_units`: got 'x'; expected an integer of at least 0"),
]
NO_SCALINGS = {
    "number": lambda: 3,
    "list": lambda: [1],
    "string": lambda: "x",
    "of numbers": lambda: {1: 2},
    "of strings": lambda: {model().X: "2"},
    "negative": lambda: {model().X: -2.0},
    "NaN": lambda: {model().X: float("nan")},
}


def _of_dtype(dtype, own="float32", loop="BatchLoop"):
    """An inference over a model that may be of another dtype."""
    made = Model()
    made.N = Variable()
    made.mu = mxfusion_mvn.MultivariateNormal(covariance=mx.nd.array(MATRIX, dtype=dtype), shape=(2,), dtype=dtype)
    made.X = mxfusion_mvn.MultivariateNormal(made.mu, mx.nd.array(MATRIX, dtype=dtype), shape=(made.N, 2), dtype=dtype)
    return inference.GradBasedInference(MAP(made, [made.X]), grad_loop=loop and getattr(inference, loop)(), dtype=own)


def _head(in_units=4):
    head = MultivariateNormalHead(2, in_units=in_units)
    head.initialize()
    return head


def _gaussian(*leading):
    return mxfusion_mvn.Gaussian(mx.nd.zeros((*leading, 2)), variance=mx.nd.ones(2))


def _law_of(variable, value):
    inputs = {v.uuid: v.constant.expand_dims(0) for _, v in variable.factor.inputs}
    return variable.factor.log_pdf(mx.nd, {**inputs, variable.uuid: mx.nd.array(value[None])})


def _mixture():
    return declare("GaussianMixture").factor


def _trained_summary(num_samples):
    made, observed = _observing()
    posterior = inference.create_Gaussian_meanfield(made, observed)
    algorithm = StochasticVariationalInference(1, made, posterior, observed)
    trained = inference.GradBasedInference(algorithm, grad_loop=inference.BatchLoop())
    trained.run(X=np.zeros((3, 2)), max_iter=1)
    return inference.summary(trained, num_samples=num_samples)


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_said(call, message):
    with pytest.raises(ERRORS, match=message):
        call()


@pytest.mark.parametrize("given", NO_SCALINGS)
@pytest.mark.parametrize("loop", ["MinibatchLoop", "CompiledMinibatchLoop"])
def test_what_is_no_scaling_is_refused(loop, given):
    with pytest.raises(InferenceError, match=r"`rv_scaling`: got .*; expected a dict from random Variables"):
        getattr(inference, loop)(rv_scaling=NO_SCALINGS[given]())
    variable = model().X
    assert getattr(inference, loop)(rv_scaling={variable: 2.0}).rv_scaling == {variable.uuid: 2.0}
