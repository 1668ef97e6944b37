# SPDX-License-Identifier: Apache-2.0
"""Gaussian posteriors: densities of draws, clones, the Gaussian in unconstrained coordinates, files, refusals."""

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import (
    create_Gaussian_fullrank,
    create_Gaussian_lowrank,
    create_Gaussian_meanfield,
    unconstrained_gaussian,
)
from mxfusion_mvn.inference.supports import latent_variables
from mxfusion_mvn.inference.variational.gaussians import TransformedGaussian

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.inference import (
    GradBasedInference,
    StochasticVariationalInference,
)
from scipy import stats

from helpers.gaussian_posteriors import (
    CREATE,
    covariance,
    draw,
    every_kind,
    infer,
    latent_pairs,
    law_of,
    laws,
    learned,
    log_pdf_per_sample,
    random_parameters,
)
from helpers.host import nd
from helpers.tolerances import assert_close


def expected_terms(posterior, values, variables, latent):
    """By SciPy at the raw coordinates of the draws: log N(z) and the log volume, (S,) each; and the entropy of z."""
    log_pdf, volume, entropy = 0.0, 0.0, 0.0
    for law in laws(posterior, latent):
        mean, cov = covariance(values, law.factor)
        raws = []
        for variable in law.latents:
            bijection = posterior[variable].factor.bijection
            raw = bijection.inverseTransform(variables[variable.uuid])
            log_det = bijection.log_det_jacobian(raw).asnumpy()
            volume = volume + log_det.reshape(len(log_det), -1).sum(axis=1)
            raws.append(raw.asnumpy())
        z = raws[0] if mean.ndim > 1 else np.concatenate([raw.reshape(len(raw), -1) for raw in raws], axis=1)
        for index in np.ndindex(mean.shape[:-1]):
            normal = stats.multivariate_normal(mean[index], cov[index])
            log_pdf = log_pdf + normal.logpdf(z[(slice(None),) + index]).reshape(-1)
            entropy = entropy + normal.entropy()
    return log_pdf, volume, entropy


@pytest.mark.parametrize("entropy", ["sampled", "closed_form", "sticking_the_landing"])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(CREATE))
def test_the_log_density_of_a_draw(name, samples, entropy, dtype, rng):
    """Where the number of samples equals that of rows, a misplaced axis would go unnoticed elsewhere."""
    model = every_kind(dtype)
    posterior = CREATE[name](model, [], entropy=entropy)
    values = random_parameters(posterior, rng)
    with mx.autograd.record():
        variables = draw(posterior, values, samples, dtype)
        got = log_pdf_per_sample(posterior, variables, samples)
    latent = model.get_latent_variables([])
    assert all(variables[v.uuid].shape == (samples,) + v.shape for v in latent)
    assert all(variables[v.uuid].dtype == np.dtype(dtype) for v in latent)
    log_pdf, volume, exact = expected_terms(posterior, values, variables, latent)
    expected = (-exact if entropy == "closed_form" else log_pdf) - volume
    rounding = {"float32": 2e-3, "float64": 1e-8}[dtype]
    assert_close(got, np.broadcast_to(expected, (samples,)), rtol=rounding, atol=rounding)


def test_the_density_of_other_values_than_the_last_draw(rng):
    """By a solve; without recording the last draw is such a value, too."""
    model = every_kind()
    posterior = create_Gaussian_meanfield(model, [])
    values = random_parameters(posterior, rng)
    with mx.autograd.record():
        draw(posterior, values, 3)
        other = {**draw(posterior, values, 3)}
        other = {uuid: array.copy() for uuid, array in other.items()}
        got = log_pdf_per_sample(posterior, other, 3)
    log_pdf, volume, _ = expected_terms(posterior, values, other, model.get_latent_variables([]))
    assert_close(got, log_pdf - volume, rtol=1e-8)
    unrecorded = draw(posterior, values, 3)
    log_pdf, volume, _ = expected_terms(posterior, values, unrecorded, model.get_latent_variables([]))
    assert_close(log_pdf_per_sample(posterior, unrecorded, 3), log_pdf - volume, rtol=1e-8)


@pytest.mark.parametrize("name", sorted(CREATE))
def test_a_clone_of_a_posterior_has_the_same_law(name, rng):
    model = every_kind()
    posterior = CREATE[name](model, [])
    values = random_parameters(posterior, rng)
    copied = model.clone()
    clone = posterior.clone(copied)
    drawn = []
    for q in (posterior, clone):
        mx.random.seed(3)
        with mx.autograd.record():
            variables = draw(q, values, 3)
            drawn.append((log_pdf_per_sample(q, variables, 3), variables))
    assert_close(drawn[0][0], drawn[1][0], rtol=1e-14)
    for variable in model.get_latent_variables([]):
        assert_close(drawn[0][1][variable.uuid], drawn[1][1][variable.uuid].asnumpy(), rtol=1e-14)


# The Gaussian in unconstrained coordinates


@pytest.mark.parametrize("name", sorted(CREATE))
def test_the_gaussian_of_each_block_and_of_each_variable_in_none(name, dtype, rng):
    """Its mean and covariance are those of the parameters."""
    model = every_kind(dtype)
    posterior = CREATE[name](model, [])
    inference = GradBasedInference(StochasticVariationalInference(2, model, posterior, []), dtype=dtype)
    inference.initialize()
    values = random_parameters(posterior, rng)
    for parameter in posterior.get_parameters(excluded=set()):
        inference.params[parameter] = nd(values[parameter.uuid], dtype)
    for law in laws(posterior, model.get_latent_variables([])):
        joint = dict(posterior[law.latents[0]].factor.inputs).get("joint")
        block = law.latents[0] if joint is None else int(joint.name[len("joint_") :])
        found = unconstrained_gaussian(inference, block)
        mean, cov = covariance(values, law.factor)
        assert_close(found.mean, mean, rtol=1e-6)
        rounding = {"float32": 1e-5, "float64": 1e-10}[dtype]
        got = found.covariance.asnumpy()
        assert_close(got, np.broadcast_to(cov, got.shape), rtol=rounding, atol=rounding)


def test_what_has_no_gaussian_of_its_own_is_refused():
    model = every_kind()
    posterior = create_Gaussian_fullrank(model, [])
    inference = GradBasedInference(StochasticVariationalInference(2, model, posterior, []), dtype="float64")
    with pytest.raises(
        InferenceError, match=r"`inference`: got one without values; expected a finished one\. Call its"
    ):
        unconstrained_gaussian(inference)
    inference.initialize()
    for block in (1, model.mean):
        with pytest.raises(InferenceError, match=r"`block`: got .*, for which the posterior has no Gaussian; expected"):
            unconstrained_gaussian(inference, block)


# Files


@pytest.mark.parametrize("name", sorted(CREATE))
def test_save_and_load_are_bit_identical(name, rng, tmp_path):
    def inference():
        model = every_kind()
        posterior = CREATE[name](model, [])
        algorithm = StochasticVariationalInference(2, model, posterior, [])
        return GradBasedInference(algorithm, dtype="float64"), model, posterior

    trained, model, posterior = inference()
    trained.run(learning_rate=0.05, max_iter=3)
    path = str(tmp_path / "inference")
    trained.save(path)
    loaded, again, posterior_again = inference()
    loaded.initialize()
    loaded.load(path)
    for variable in model.get_latent_variables([]):
        factor = law_of(posterior, variable)[0]
        copied = law_of(posterior_again, getattr(again, variable.name))[0]
        for (_, before), (_, after) in zip(factor.inputs, copied.inputs):
            np.testing.assert_array_equal(trained.params[before].asnumpy(), loaded.params[after].asnumpy())


# What is refused


def two_sizes():
    model = latent_pairs()
    model.y = MultivariateNormal(shape=(3,), dtype="float64")
    return model


REFUSED = [
    (
        lambda m: create_Gaussian_meanfield(m, [m.x], entropy="exact"),
        r"`entropy`: got 'exact'; expected one of sampled, clo",
    ),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x]),
        r"`z`: got shape \(N, 1\), a size that only the data will tell; expect",
    ),
    (lambda m: create_Gaussian_lowrank(m, [m.x], blocks=[[m.z]]), r"`z`: got shape .*name the others in blocks="),
    (lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[m.w, m.y]), r"`blocks`: got .*w.*; expected a list of lists"),
    (lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[]]), r"`blocks`: got \[\]; expected a list of lists of Var"),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[m.w], [m.y, m.w]]),
        r"`blocks`: got .*w.*, twice; expected ea",
    ),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[m.x]]),
        r"`blocks`: got .*x.*, which is not a latent variable",
    ),
    (
        lambda m: create_Gaussian_fullrank(m, [m.x], blocks=[[m.y, m.z]], excluded=[m.y]),
        r"`blocks`: got .*y.*, which is n",
    ),
    (
        lambda m: create_Gaussian_lowrank(m, [m.x], rank=0),
        r"`rank`: got 0; expected a positive integer or None\. Start",
    ),
    (lambda m: create_Gaussian_lowrank(m, [m.x], rank=1.5), r"`rank`: got 1\.5; expected a positive integer"),
    (
        lambda m: create_Gaussian_meanfield(m, [m.x], initial_scale=0.0),
        r"`initial_scale`: got 0\.0; expected a positive",
    ),
]


@pytest.mark.parametrize(("create", "message"), REFUSED)
def test_refused(create, message):
    with pytest.raises(ModelSpecificationError, match=message):
        create(two_sizes())


@pytest.mark.parametrize("create", [create_Gaussian_fullrank, create_Gaussian_lowrank, create_Gaussian_meanfield])
def test_a_model_without_latent_variables(create, rng):
    """Its parameters alone are learned, as with the host's mean field."""
    model = Model()
    model.mean = Variable(shape=(2,))
    model.x = MultivariateNormal(mean=model.mean, shape=(2,), dtype="float64")
    inference = infer(model, [model.x], create(model, [model.x]), x=nd([1.0, -2.0]))
    assert_close(inference.params[model.mean], [1.0, -2.0], rtol=0, atol=0.01)


def test_a_law_has_one_root():
    sizes = {"mean": Variable(shape=(2,)), "scale": Variable(shape=(2,))}
    with pytest.raises(ModelSpecificationError, match=r"`below` and `factor`: got both; expected at most one"):
        TransformedGaussian(below=Variable(shape=(1,)), factor=Variable(shape=(2, 1)), **sizes)
    with pytest.raises(ModelSpecificationError, match=r"`bijection`: got 'log' as its support; expected a Bijection"):
        TransformedGaussian(bijection="log", **sizes)


def test_ranks_are_at_most_the_number_of_coordinates():
    model = every_kind()
    sizes = [b.raw_shape(v.shape) for v, b in latent_variables(model, []).items()]
    count = sum(int(np.prod(shape)) for shape in sizes)
    for rank, expected in ((None, int(np.ceil(np.sqrt(count)))), (2, 2), (np.int64(3), 3), (count + 3, count)):
        posterior = create_Gaussian_lowrank(model, [], rank=rank)
        assert posterior.joint_0.factor.factor.shape == (count, expected)
    alone = Model()
    alone.v = MultivariateNormal(shape=(1,))
    assert "factor" not in dict(create_Gaussian_lowrank(alone, []).joint_0.factor.inputs)


def test_the_initial_scale(rng):
    model = every_kind()
    posterior = create_Gaussian_fullrank(model, [], initial_scale=0.03)
    inference = GradBasedInference(StochasticVariationalInference(1, model, posterior, []), dtype="float64")
    inference.initialize()
    mean, cov = learned(inference, posterior, model.mean)
    assert_close(cov, 0.03**2 * np.eye(len(mean)), rtol=1e-10, atol=1e-14)
