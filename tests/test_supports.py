# SPDX-License-Identifier: Apache-2.0
"""Which bijection each latent variable gets, how to change that, and which variables are refused."""

from mxfusion_mvn import (
    GaussianMixture,
    InverseWishart,
    LKJCholesky,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateNormal,
    MultivariateNormalMeanPrecision,
    MultivariateStudentT,
    Wishart,
    bijections,
)
from mxfusion_mvn.inference import (
    MAP,
    create_Gaussian_meanfield,
    register_support,
    support_of,
    supports,
    unregister_support,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.inference import GradBasedInference
from mxfusion.modules.gp_modules import GPRegression

from helpers.host import nd
from helpers.runs import warned

ONE, TWO = nd([1.0], "float32"), nd([1.0, 2.0], "float32")


def kernel():
    return RBF(input_dim=1)


def points(model):
    model.inputs = Variable(shape=(3, 1))
    return model.inputs


# Name -> (declares a variable of a model, its bijection)
DISTRIBUTIONS = {
    "host Normal": (lambda m: host.Normal.define_variable(ONE, ONE, (2,)), bijections.Real),
    "host NormalMeanPrecision": (lambda m: host.NormalMeanPrecision.define_variable(ONE, ONE, (2,)), bijections.Real),
    "host Laplace": (lambda m: host.Laplace.define_variable(ONE, ONE, (2,)), bijections.Real),
    "host PointMass": (lambda m: host.PointMass.define_variable(Variable(value=TWO), (2,)), bijections.Real),
    "host MultivariateNormal": (
        lambda m: host.MultivariateNormal.define_variable((1, 2), nd(np.zeros((1, 2))), nd(np.eye(2)[None])),
        bijections.Real,
    ),
    "host MultivariateNormalMeanPrecision": (
        lambda m: host.MultivariateNormalMeanPrecision.define_variable(
            (1, 2), nd(np.zeros((1, 2))), nd(np.eye(2)[None])
        ),
        bijections.Real,
    ),
    "host GaussianProcess": (
        lambda m: host.GaussianProcess.define_variable(points(m), kernel(), shape=(3, 1)),
        bijections.Real,
    ),
    "host ConditionalGaussianProcess": (
        lambda m: host.ConditionalGaussianProcess.define_variable(
            points(m), Variable(shape=(2, 1)), Variable(shape=(2, 1)), kernel(), shape=(3, 1)
        ),
        bijections.Real,
    ),
    "host GPRegression": (
        lambda m: GPRegression.define_variable(points(m), kernel(), Variable(shape=(1,)), shape=(3, 1)),
        bijections.Real,
    ),
    "host Gamma": (lambda m: host.Gamma.define_variable(ONE, ONE, (2,)), bijections.Positive),
    "host GammaMeanVariance": (lambda m: host.GammaMeanVariance.define_variable(ONE, ONE, (2,)), bijections.Positive),
    "host Beta": (lambda m: host.Beta.define_variable(ONE, ONE, (2,)), bijections.Interval),
    "host Uniform": (lambda m: host.Uniform.define_variable(ONE, TWO + 1, (2,)), bijections.Interval),
    "host Dirichlet": (lambda m: host.Dirichlet.define_variable(TWO, (1, 2)), bijections.Simplex),
    "host Wishart": (
        lambda m: host.Wishart.define_variable((1, 2, 2), nd([4], "int32"), nd(np.eye(2)[None])),
        bijections.PositiveDefinite,
    ),
    "MultivariateNormal": (lambda m: MultivariateNormal(shape=(2,)), bijections.Real),
    "MultivariateNormalMeanPrecision": (
        lambda m: MultivariateNormalMeanPrecision(precision=1.0, shape=(2,)),
        bijections.Real,
    ),
    "LowRankMultivariateNormal": (
        lambda m: LowRankMultivariateNormal(mean=0.0, factor=np.ones((2, 1)), diagonal=np.ones(2), shape=(2,)),
        bijections.Real,
    ),
    "MatrixNormal": (
        lambda m: MatrixNormal(row_covariance=np.eye(2), column_covariance=np.eye(3), shape=(2, 3)),
        bijections.Real,
    ),
    "MultivariateStudentT": (
        lambda m: MultivariateStudentT(degrees_of_freedom=4.0, covariance=1.0, shape=(2,)),
        bijections.Real,
    ),
    "GaussianMixture": (
        lambda m: GaussianMixture(weights=np.full(2, 0.5), mean=np.zeros((2, 2)), covariance=1.0, shape=(2,)),
        bijections.Real,
    ),
    "Wishart": (lambda m: Wishart(4.0, 1.0, shape=(2, 2)), bijections.PositiveDefinite),
    "InverseWishart": (lambda m: InverseWishart(4.0, 1.0, shape=(2, 2)), bijections.PositiveDefinite),
    "LKJCholesky": (lambda m: LKJCholesky(2.0, shape=(2, 2)), bijections.CorrelationCholesky),
}


def model_with(declare):
    model = Model()
    model.v = declare(model)
    return model


@pytest.fixture
def registry():
    """The registered supports, put back afterwards."""
    before = dict(supports._REGISTERED)
    yield supports._REGISTERED
    supports._REGISTERED.clear()
    supports._REGISTERED.update(before)


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_the_support_of_each_distribution(name):
    declare, bijection = DISTRIBUTIONS[name]
    model = model_with(declare)
    assert type(support_of(model.v)) is bijection
    assert list(supports.latent_variables(model, [])) == [model.v]
    assert supports.latent_variables(model, [model.v]) == {}


def test_every_distribution_of_the_package_has_a_support():
    from mxfusion_mvn import distributions

    assert {getattr(distributions, name) for name in distributions.__all__} - set(supports._SUPPORTS) == {
        MultivariateNormalMeanPrecision  # inherits that of MultivariateNormal
    }


def test_every_distribution_of_the_host_has_a_support():
    missing = {
        member
        for member in vars(host).values()
        if isinstance(member, type) and issubclass(member, host.Distribution) and member not in supports._SUPPORTS
    }
    assert missing == {host.Distribution}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (ONE, nd([3.0], "float32"), (1.0, 3.0)),
        (0, 2, (0.0, 2.0)),
        (TWO, TWO + 1, ([1.0, 2.0], [2.0, 3.0])),
        (Variable(value=-1.5), Variable(value=nd([2.0, 4.0])), (-1.5, [2.0, 4.0])),
    ],
    ids=["arrays", "numbers", "vectors", "variables"],
)
def test_the_interval_of_a_uniform_variable(low, high, expected):
    interval = support_of(model_with(lambda m: host.Uniform.define_variable(low, high, (2,))).v)
    np.testing.assert_array_equal(interval.lower, expected[0])
    np.testing.assert_array_equal(interval.upper, expected[1])


@pytest.mark.parametrize("name", ["low", "high"])
def test_a_uniform_variable_needs_constant_bounds(name):
    model = Model()
    model.bound = Variable(shape=(1,))
    bounds = {"low": ONE, "high": ONE + 1, name: model.bound}
    model.u = host.Uniform.define_variable(shape=(1,), **bounds)
    message = (
        rf"`{name}` of the Uniform variable `u` is not a constant; expected constant bounds\. Write it as a number"
    )
    with pytest.raises(ModelSpecificationError, match=message):
        support_of(model.u)


@pytest.mark.parametrize(
    ("declare", "name"),
    [
        (lambda m: host.Bernoulli.define_variable(prob_true=nd([0.5]), shape=(1,)), "Bernoulli"),
        (lambda m: host.Categorical.define_variable(log_prob=TWO, num_classes=2, shape=(1,)), "Categorical"),
    ],
)
def test_discrete_variables_are_refused_if_latent(declare, name):
    model = model_with(declare)
    message = rf"`v` is discrete \({name}\); expected continuous latent variables\. Sum it out, .*excluded="
    for create in (MAP, create_Gaussian_meanfield):
        with pytest.raises(ModelSpecificationError, match=message):
            create(model, [])
        create(model, [model.v])
    create_Gaussian_meanfield(model, [], excluded=[model.v])


class Unknown(host.Distribution):
    """A law that nobody registered."""

    def __init__(self):
        super().__init__([], [("random_variable", Variable(shape=(2,)))], [], ["random_variable"])


class Derived(host.Gamma):
    """A law over positive numbers, by its base class."""


def unknown(model):
    model.v = Unknown().outputs[0][1]
    return model.v


def test_an_unknown_distribution_is_refused_until_it_is_registered(registry):
    model = Model()
    variable = unknown(model)
    message = r"`v`: the support of Unknown is not known\. Pass supports=\{variable: bijection\}, or call register_supp"
    with pytest.raises(ModelSpecificationError, match=message):
        MAP(model, [])
    assert MAP(model, [], supports={variable: bijections.Positive()}).bijections.keys() == {variable}
    ordered = bijections.Ordered()
    register_support(Unknown, ordered)
    assert support_of(variable) is ordered


def test_a_registered_function_gets_the_factor(registry):
    model = Model()
    variable = unknown(model)
    asked = []
    register_support(Unknown, lambda factor: asked.append(factor) or bijections.Positive())
    assert isinstance(support_of(variable), bijections.Positive)
    assert asked == [variable.factor]


def test_a_subclass_inherits_the_support_and_can_have_its_own(registry):
    variable = Derived(ONE, ONE)
    variable._generate_outputs(shape=(1,))
    variable = variable.random_variable
    assert isinstance(support_of(variable), bijections.Positive)
    register_support(Derived, bijections.Interval(0, 10))
    assert isinstance(support_of(variable), bijections.Interval)


@pytest.mark.parametrize("name", ["MultivariateNormal", "host Gamma"])
def test_a_registration_can_be_taken_back(name, registry):
    variable = model_with(DISTRIBUTIONS[name][0]).v
    distribution = type(variable.factor)
    first = support_of(variable)
    register_support(distribution, bijections.Interval(-1, 1))
    assert isinstance(support_of(variable), bijections.Interval)
    unregister_support(distribution)
    assert support_of(variable) is first
    with pytest.raises(ModelSpecificationError, match="`distribution`: got .*; expected one that was registered"):
        unregister_support(distribution)


def test_a_support_that_is_given_goes_first():
    model = model_with(DISTRIBUTIONS["host Normal"][0])
    given = bijections.Interval(-3, 3)
    assert support_of(model.v, {model.v: given}) is given
    with warned("`v` is Interval in place of Real"):
        algorithm = MAP(model, [], supports={model.v: given})
    assert algorithm.bijections == {model.v: given}
    assert algorithm.location(model.v).transformation is given
    with warned("`v` is Interval in place of Real"):
        posterior = create_Gaussian_meanfield(model, [], supports={model.v: given})
    assert posterior.v.factor.bijection is given


def location(center, **matrix):
    return lambda m: MultivariateNormal(np.array(center), shape=(3, 2), **matrix)


ZERO = nd([0.0], "float32")
# Name -> (declares a variable, how many entries have to be positive that are as often negative; None if that is not so)
HALVES = {
    "Normal": (lambda m: host.Normal.define_variable(ZERO, ONE, (4,)), 4),
    "NormalMeanPrecision": (lambda m: host.NormalMeanPrecision.define_variable(ZERO, ONE, (1,)), 1),
    "Laplace": (lambda m: host.Laplace.define_variable(ZERO, ONE, (2, 3)), 6),
    "of a number": (location([0.0, 0.0], covariance=3.0), 6),
    "diagonal": (location([0.0, 0.0], covariance=np.diag([3.0, 1.0])), 6),
    "diagonal precision": (location([0.0, 0.0], precision=np.diag([3.0, 1.0])), 6),
    "one entry": (lambda m: MultivariateNormal(0.0, m.C, shape=(5, 1)), 5),
    "Student t": (lambda m: MultivariateStudentT(3.0, 0.0, 2.0, shape=(2,)), 2),
    "a latent scale": (lambda m: host.Normal.define_variable(ZERO, m.s, (2,)), 2),
    "correlated": (location([0.0, 0.0], covariance=np.array([[3.0, 1.0], [1.0, 1.0]])), None),
    "a learned matrix": (lambda m: MultivariateNormal(0.0, m.D, shape=(2,)), None),
    "not around zero": (lambda m: host.Normal.define_variable(TWO, ONE, (2,)), None),
    "a latent mean": (lambda m: host.Normal.define_variable(m.s, ONE, (2,)), None),
    "a mixture": (lambda m: GaussianMixture(np.array([0.5, 0.5]), np.zeros((2, 1)), 1.0, shape=(1,)), None),
}


def restricted(declare):
    model = Model()
    model.s = host.Gamma.define_variable(ONE, ONE, (1,))
    model.C = Variable(shape=(1, 1))
    model.D = Variable(shape=(2, 2))
    model.v = declare(model)
    return model


@pytest.mark.parametrize("create", [MAP, create_Gaussian_meanfield], ids=["MAP", "mean-field"])
@pytest.mark.parametrize("name", HALVES)
def test_what_a_restricted_prior_lacks_is_said(name, create):
    declare, entries = HALVES[name]
    model = restricted(declare)
    lacking = "minus the log of that probability. Where it depends on other variables the posterior is another one"
    if entries is not None:
        lacking = f"{entries} log 2 = {entries * np.log(2):.4g} nats: add them where these are compared with others."
    kind = type(model.v.factor).__name__
    message = f"`supports`: `v` is Positive in place of Real, and the density of {kind} is not divided by the "
    with warned(f"{message}probability of that. Log densities, bounds and evidences lack {lacking}"):
        create(model, [], supports={model.v: bijections.Positive()})


def test_of_rows_that_only_the_data_count_each_entry_lacks_log_2():
    model = Model()
    model.N = Variable()
    model.v = MultivariateNormal(shape=(model.N, 2))
    model.x = MultivariateNormal(model.v, shape=(model.N, 2))
    with warned("evidences lack log 2 for each entry: add it where these are compared with those of other models."):
        create_Gaussian_meanfield(model, [model.x], supports={model.v: bijections.Positive()})


def test_what_is_lacking_is_log_2():
    """Laplace's evidence of a half-normal scale without data, whose integral is one half, by what is said."""
    model = Model()
    model.v = host.Normal.define_variable(ZERO.astype("float64"), nd([4.0]), (1,), dtype="float64")
    with warned("lack 1 log 2 = 0.6931 nats"):
        algorithm = MAP(model, [], jacobian=True, supports={model.v: bijections.Positive()})
    inference = GradBasedInference(algorithm, dtype="float64")
    inference.initialize()
    raw = np.linspace(-30, 10, 4001)
    log_density = []
    for x in raw:
        inference.params.param_dict[algorithm.location(model.v).uuid].set_data(nd([x]))
        loss = algorithm.compute(mx.nd, variables_at(inference, model, algorithm))[0]
        log_density.append(-loss.asscalar())
    assert np.trapz(np.exp(log_density), raw) == pytest.approx(0.5, rel=1e-6)


def variables_at(inference, model, algorithm):
    location = algorithm.location(model.v)
    variables = {v.uuid: v.constant.expand_dims(0) for v in model.get_constants()}
    variables[location.uuid] = inference.params.param_dict[location.uuid].data().expand_dims(0)
    return variables


@pytest.mark.parametrize("given", [bijections.Real(), bijections.Positive()], ids=["Real", "Positive"])
def test_a_support_that_is_the_own_one_lacks_nothing(given):
    declare = DISTRIBUTIONS["host Normal" if isinstance(given, bijections.Real) else "host Gamma"][0]
    model = model_with(declare)
    MAP(model, [], supports={model.v: given})  # warnings are errors


@pytest.mark.parametrize("support", [bijections.Positive, 3.0, None, "positive"])
def test_what_is_no_bijection_cannot_be_registered(support, registry):
    with pytest.raises(
        ModelSpecificationError, match=r"`Unknown`: got .* as its support; expected a Bijection\. Choose"
    ):
        register_support(Unknown, support)
    assert Unknown not in registry


def test_a_function_that_gives_no_bijection_is_reported(registry):
    model = Model()
    variable = unknown(model)
    register_support(Unknown, lambda factor: bijections.Positive)
    with pytest.raises(ModelSpecificationError, match=r"`v`: got .*Positive.* as its support; expected a Bijection"):
        support_of(variable)


def test_a_given_support_must_be_a_bijection():
    model = model_with(DISTRIBUTIONS["host Gamma"][0])
    with pytest.raises(ModelSpecificationError, match=r"`v`: got <class .*Positive'> as its support; expected a Bijec"):
        MAP(model, [], supports={model.v: bijections.Positive})


@pytest.mark.parametrize("keyword", ["supports", "excluded"])
def test_variables_that_are_not_latent_are_refused(keyword):
    model = Model()
    model.mean = Variable(shape=(2,))
    model.v = MultivariateNormal(mean=model.mean, shape=(2,))
    model.x = MultivariateNormal(mean=model.v, shape=(2,))
    for variable in (model.mean, model.x):
        given = {"supports": {variable: bijections.Real()}, "excluded": [variable]}[keyword]
        message = rf"`{keyword}`: got .*{variable.name}.*, which is not a latent variable of the model; expected latent"
        with pytest.raises(ModelSpecificationError, match=message):
            create_Gaussian_meanfield(model, [model.x], **{keyword: given})


def test_what_is_observed_are_variables_of_the_model():
    """A name, or the variable of another model, would leave the observed one latent."""
    model = model_with(DISTRIBUTIONS["host Normal"][0])
    other = model_with(DISTRIBUTIONS["host Normal"][0])
    message = r"`observed`: got .*; expected a list of variables of the model\. Write \[model\.x, model\.y\]"
    for observed in (["v"], [other.v], model.v, [model.v, 3]):
        for create in (MAP, create_Gaussian_meanfield):
            with pytest.raises(ModelSpecificationError, match=message):
                create(model, observed)
    assert supports.latent_variables(model.clone(), [model.v]) == {}  # a copy has the same variables


def test_variables_of_the_model_are_in_its_order():
    model = Model()
    model.scale = host.Gamma.define_variable(ONE, ONE, (1,))
    model.mean = MultivariateNormal(shape=(1,))
    model.x = host.Normal.define_variable(model.mean, model.scale, (1,))
    latent = supports.latent_variables(model, [model.x])
    assert [v.name for v in latent] == [v.name for v in model.get_latent_variables({model.x.uuid})]
    assert {v.name: type(b).__name__ for v, b in latent.items()} == {"scale": "Positive", "mean": "Real"}
