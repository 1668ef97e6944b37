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

import numpy as np
import pytest
from host import nd
from mxfusion import Model, Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.components.distributions.gp.kernels import RBF
from mxfusion.modules.gp_modules import GPRegression

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
    algorithm = MAP(model, [], supports={model.v: given})
    assert algorithm.bijections == {model.v: given}
    assert algorithm.location(model.v).transformation is given
    posterior = create_Gaussian_meanfield(model, [], supports={model.v: given})
    assert posterior.v.factor.bijection is given


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
