# SPDX-License-Identifier: Apache-2.0
"""The Gluon head: its densities against SciPy, its gradients against finite differences, and life as a block."""

import math

from mxfusion_mvn import Gaussian
from mxfusion_mvn.gluon import MultivariateNormalHead

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import HybridBlock, nn

from helpers import oracles
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

FEATURES = 4
LEADING = [(), (1,), (5,), (5, 3)]


class Density(HybridBlock):
    """The log density that a head gives a target, as users write it."""

    def __init__(self, head):
        super().__init__()
        with self.name_scope():
            self.head = head

    def hybrid_forward(self, F, features, target):
        mean, scale_tril = self.head(features)
        return Gaussian(mean, scale_tril=scale_tril).log_pdf(target)


def make_head(rng, dim, dtype="float64", size=1.0, **arguments):
    """A head with random parameters, not only those of the mean."""
    head = MultivariateNormalHead(dim, in_units=FEATURES, dtype=dtype, **arguments)
    head.initialize()
    randomise(head, rng, size)
    return head


def randomise(block, rng, size=1.0):
    for parameter in block.collect_params().values():
        parameter.set_data(mx.nd.array(size * rng.normal(size=parameter.shape), dtype=parameter.dtype))


def arrays(rng, leading, dim, dtype="float64"):
    shapes = [leading + (FEATURES,), leading + (dim,)]
    return [mx.nd.array(rng.normal(size=shape), dtype=dtype) for shape in shapes]


def values(head):
    """The parameters as NumPy arrays, by the last part of their names."""
    return {
        name[len(head.prefix) :]: parameter.data().asnumpy().astype("float64")
        for name, parameter in head.collect_params().items()
    }


def reference(parameters, features, dim, initial_scale=1.0):
    """The head's definition in NumPy, entry by entry of the factor."""

    def dense(name):
        return features @ parameters[f"{name}_weight"].T + parameters[f"{name}_bias"]

    scale_tril = np.zeros(features.shape[:-1] + (dim, dim))
    for i in range(dim):
        scale_tril[..., i, i] = np.logaddexp(0, dense("diagonal")[..., i]) / math.log(2) + 1e-6
        for j in range(i):
            scale_tril[..., i, j] = dense("below")[..., i * (i - 1) // 2 + j]
    return dense("mean"), initial_scale * scale_tril


def reference_log_pdf(parameters, features, target, dim):
    mean, scale_tril = reference(parameters, features, dim)
    return oracles.log_pdf(target, mean, scale_tril @ np.swapaxes(scale_tril, -1, -2))


def numpy_of(array):
    return array.asnumpy().astype("float64")


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("hybridize", [False, True], ids=["imperative", "hybridized"])
def test_mean_and_factor_are_what_the_definition_says(dim, leading, hybridize, dtype, rng):
    head = make_head(rng, dim, dtype, initial_scale=0.3)
    head.hybridize(hybridize)
    features, _ = arrays(rng, leading, dim, dtype)
    mean, scale_tril = head(features)
    expected_mean, expected_factor = reference(values(head), numpy_of(features), dim, initial_scale=0.3)
    assert mean.dtype == scale_tril.dtype == np.dtype(dtype)
    assert_close(mean, expected_mean, **TOLERANCE[dtype])
    assert_close(scale_tril, expected_factor, **TOLERANCE[dtype])


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("leading", LEADING[1:], ids=str)
@pytest.mark.parametrize("hybridize", [False, True], ids=["imperative", "hybridized"])
def test_log_density_equals_scipy(dim, leading, hybridize, rng):
    head = make_head(rng, dim)
    density = Density(head)
    density.hybridize(hybridize)
    features, target = arrays(rng, leading, dim)
    expected = reference_log_pdf(values(head), numpy_of(features), numpy_of(target), dim)
    assert_close(density(features, target), expected, rtol=1e-10)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("hybridize", [False, True], ids=["imperative", "hybridized"])
def test_gradients_equal_finite_differences_of_scipy(dim, hybridize, rng):
    head = make_head(rng, dim, size=0.5)
    density = Density(head)
    density.hybridize(hybridize)
    features, target = arrays(rng, (3,), dim)
    features.attach_grad()
    with autograd.record():
        loss = density(features, target).sum()
    loss.backward()
    parameters = values(head)
    fixed, goal = numpy_of(features), numpy_of(target)
    numeric = oracles.central_difference(lambda x: reference_log_pdf(parameters, x, goal, dim).sum(), fixed)
    assert_close(features.grad, numeric, **GRADIENT_TOLERANCE)
    for name, value in parameters.items():

        def total(changed, name=name):
            return reference_log_pdf(dict(parameters, **{name: changed}), fixed, goal, dim).sum()

        gradient = head.collect_params()[head.prefix + name].grad()
        assert_close(gradient, oracles.central_difference(total, value), **GRADIENT_TOLERANCE)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_hybridized_equals_imperative_in_value_and_gradient(dim, dtype, rng):
    head = make_head(rng, dim, dtype)
    features, target = arrays(rng, (6,), dim, dtype)
    results = []
    for hybridize in (False, True):
        density = Density(head)
        density.hybridize(hybridize)
        with autograd.record():
            log_pdf = density(features, target)
        log_pdf.backward()
        results.append([log_pdf.asnumpy()] + [p.grad().asnumpy() for p in head.collect_params().values()])
    for imperative, hybridized in zip(*results):
        assert_close(hybridized, imperative, **TOLERANCE[dtype])


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("initial_scale", [1.0, 0.05, 200.0])
def test_covariance_starts_as_initial_scale_squared_for_any_features(dim, initial_scale, rng):
    head = MultivariateNormalHead(dim, initial_scale=initial_scale)
    head.initialize(mx.init.Xavier())  # the zeros of the factor are not overruled
    features = mx.nd.array(100 * rng.normal(size=(5, FEATURES)))
    scale_tril = head(features)[1]
    assert_close(scale_tril, np.broadcast_to(initial_scale * np.eye(dim), (5, dim, dim)), rtol=2e-6)


def test_initial_scale_scales_the_whole_factor(rng):
    one = make_head(rng, 3)
    other = MultivariateNormalHead(3, initial_scale=7.0, in_units=FEATURES, dtype="float64", params=one.params)
    other.mean, other.diagonal, other.below = one.mean, one.diagonal, one.below
    features, _ = arrays(rng, (5,), 3)
    assert_close(other(features)[1], 7 * one(features)[1].asnumpy(), rtol=1e-14)
    assert_close(other(features)[0], one(features)[0].asnumpy(), rtol=0)


@pytest.mark.parametrize("size", [1e-30, 10.0, 1e3])
@pytest.mark.parametrize("dim", [1, 2])
def test_factor_is_regular_and_density_finite_for_large_weights(size, dim, dtype, rng):
    head = make_head(rng, dim, dtype, size=size)
    density = Density(head)
    density.hybridize()
    features, target = arrays(rng, (200,), dim, dtype)
    scale_tril = head(features)[1].asnumpy()
    assert np.isfinite(scale_tril).all()
    assert (np.diagonal(scale_tril, axis1=-2, axis2=-1) >= 1e-6 * (1 - 1e-6)).all()
    assert np.isfinite(density(features, target).asnumpy()).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_gradient_is_finite_where_softplus_has_underflowed(sign, dtype):
    head = MultivariateNormalHead(2, in_units=FEATURES, dtype=dtype)
    head.initialize()
    head.diagonal.bias.set_data(mx.nd.full(2, sign * 1e4, dtype=dtype))
    density = Density(head)
    density.hybridize()
    features, target = (mx.nd.ones((3, size), dtype=dtype) for size in (FEATURES, 2))
    with autograd.record():
        log_pdf = density(features, target)
    log_pdf.backward()
    for parameter in head.collect_params().values():
        assert np.isfinite(parameter.grad().asnumpy()).all()


def test_features_may_be_deferred_and_hybridized(rng):
    head = MultivariateNormalHead(2)
    head.initialize()
    head.hybridize()
    assert head(mx.nd.ones((5, 7)))[1].shape == (5, 2, 2)
    assert head.below.weight.shape == (1, 7)


@pytest.mark.parametrize("dim", [1, 3])
def test_parameters_survive_saving(dim, rng, tmp_path):
    head, other = make_head(rng, dim), MultivariateNormalHead(dim, dtype="float64")
    features, _ = arrays(rng, (5,), dim)
    head.save_parameters(str(tmp_path / "head.params"))
    other.load_parameters(str(tmp_path / "head.params"))
    for got, expected in zip(other(features), head(features)):
        assert_close(got, expected.asnumpy(), rtol=0)


@pytest.mark.filterwarnings("ignore:Cannot decide type:UserWarning:mxnet")  # at the import of any network
@pytest.mark.parametrize("dim", [1, 3])
def test_export_and_import_as_a_symbol_block(dim, rng, tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Dense(8, activation="tanh", flatten=False), MultivariateNormalHead(dim))
    net.initialize()
    net.hybridize()
    features = mx.nd.array(rng.normal(size=(5, FEATURES)))
    net(features)
    randomise(net, rng)
    expected = net(features)
    net.export(str(tmp_path / "net"))
    loaded = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    for got, wanted in zip(loaded(features), expected):
        assert_close(got, wanted.asnumpy(), rtol=0)


def test_cast_changes_the_precision(rng):
    head = make_head(rng, 2, "float32")
    head.cast("float64")
    assert all(output.dtype == np.float64 for output in head(arrays(rng, (5,), 2)[0]))


def test_maximum_likelihood_finds_a_linear_mean_and_a_correlated_covariance(rng):
    weight, factor = rng.normal(size=(2, FEATURES)), np.array([[0.5, 0.0], [-0.6, 0.3]])
    features = rng.normal(size=(4000, FEATURES))
    target = features @ weight.T + rng.normal(size=(4000, 2)) @ factor.T
    head = MultivariateNormalHead(2, dtype="float64")
    head.initialize()
    density = Density(head)
    density.hybridize()
    trainer = gluon.Trainer(head.collect_params(), "adam", {"learning_rate": 0.05})
    features, target = (mx.nd.array(array, dtype="float64") for array in (features, target))
    for _ in range(300):
        with autograd.record():
            loss = -density(features, target)
        loss.backward()
        trainer.step(len(features))
    assert_close(head.mean.weight.data(), weight, rtol=0, atol=0.04)
    assert_close(head(mx.nd.zeros((1, FEATURES), dtype="float64"))[1][0], factor, rtol=0, atol=0.04)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dim": 0}, r"`dim`: got 0; expected an integer of at least 1"),
        ({"dim": 2.0}, r"`dim`: got 2\.0; expected an integer"),
        ({"dim": 2, "initial_scale": 0}, r"`initial_scale`: got 0; expected a positive number"),
        ({"dim": 2, "initial_scale": -1.0}, r"`initial_scale`: got -1\.0"),
        ({"dim": 2, "initial_scale": math.inf}, r"`initial_scale`: got inf"),
        ({"dim": 2, "initial_scale": math.nan}, r"`initial_scale`: got nan"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        MultivariateNormalHead(**arguments)
