# SPDX-License-Identifier: Apache-2.0
"""Saved inferences: what comes back is equal bit by bit, or refused with nothing changed."""

import json
import warnings
import zipfile
from pathlib import Path

from mxfusion_mvn import MultivariateNormal, bijections
from mxfusion_mvn.inference import (
    MAP,
    create_Gaussian_fullrank,
    create_Gaussian_meanfield,
    load,
    save,
    unconstrained_gaussian,
)
from mxfusion_mvn.transformations import LowerCholesky, Positive, PositiveDefinite

import mxfusion.inference as host
import networkx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions import Normal
from mxfusion.components.variables import PositiveTransformation
from mxfusion.components.variables.var_trans import Logistic, Softplus
from mxfusion.inference import GradBasedInference
from mxfusion.models import Posterior

from helpers.host import nd
from helpers.runs import warned
from helpers.saved_inferences import (
    DIM,
    KINDS,
    ROWS,
    latent_model,
    parameter_model,
    variational,
    with_host_map,
    with_host_meanfield,
    with_latents,
    with_map,
    with_own_posterior,
)


def run(inference, rng, max_iter=3):
    shapes = {"X": (ROWS, DIM), "Z": (ROWS, 1)}
    data = {name: nd(rng.normal(size=shapes[name]), inference.dtype) for name in inference.observed_variable_names}
    inference.run(max_iter=max_iter, learning_rate=0.05, **data)
    return inference


def initialised(inference):
    if not inference._initialized:
        shapes = {"X": (ROWS, DIM), "Z": (ROWS, 1)}
        inference.initialize(**{name: shapes[name] for name in inference.observed_variable_names})
    return inference


def parameters(inference):
    return [parameter.data().asnumpy() for parameter in inference.params.param_dict.values()]


def are_equal(first, second):
    pairs = list(zip(parameters(first), parameters(second)))
    assert len(parameters(first)) == len(parameters(second)) == len(pairs) > 0
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def refuses(inference, file, message):
    """Loading fails with a message, and changes nothing."""
    before = parameters(initialised(inference))
    with pytest.raises(InferenceError, match=message):
        load(inference, file)
    assert all(np.array_equal(a, b) for a, b in zip(before, parameters(inference)))


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "inference.zip")


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_parameters_are_equal_bit_by_bit(rng, file, kind):
    saved = run(KINDS[kind](), rng)
    save(saved, file)
    loaded = initialised(KINDS[kind]())
    # A Laplace approximation starts where the other does.
    assert kind == "Laplace" or not are_equal(saved, loaded)
    load(loaded, file)
    assert are_equal(saved, loaded)
    run(loaded, rng, max_iter=1)


def test_a_loaded_inference_keeps_its_dtype_and_takes_the_constants_of_the_file(rng, file):
    saved = with_latents(create_Gaussian_fullrank, "float64")
    save(run(saved, rng), file)
    loaded = with_latents(create_Gaussian_fullrank, "float64")
    loaded.initialize(X=(ROWS + 1, DIM))
    load(loaded, file)
    assert loaded.params.dtype == "float64"
    assert loaded.params.constants[loaded.inference_algorithm.model.N.uuid] == ROWS


def test_a_size_without_a_name_does_no_harm(rng, file):
    # The host, which matches variables by their names, cannot load it.
    def with_unnamed_size():
        model = Model()
        model.m = Variable(shape=(DIM,))
        model.X = MultivariateNormal(mean=model.m, shape=(Variable(), DIM))
        return GradBasedInference(host.MAP(model, [model.X]))

    saved = run(with_unnamed_size(), rng)
    save(saved, file)
    loaded = initialised(with_unnamed_size())
    load(loaded, file)
    assert are_equal(saved, loaded)
    assert ROWS in loaded.params.constants.values()


def test_a_parameter_under_another_transformation_is_refused(rng, file):
    save(run(with_host_map(), rng), file)
    message = (
        r"`C`: got the transformation mxfusion_mvn.transformations.PositiveDefinite\(\) in .*inference.zip; expected "
        r"mxfusion_mvn.transformations.LowerCholesky\(\)"
    )
    refuses(with_host_map(transformation=LowerCholesky), file, message)
    refuses(with_host_map(transformation=None), file, "`C`: got the transformation .*; expected none")


@pytest.mark.parametrize(
    ("stored", "today", "message"),
    [
        (lambda: Softplus(0.5), lambda: Softplus(0.25), r"Softplus\(offset=0.5\) .*Softplus\(offset=0.25\)"),
        (lambda: Logistic(0, 1), lambda: Logistic(0, 2), r"Logistic\(.*upper=1\) .*Logistic\(.*upper=2\)"),
        (PositiveTransformation, Positive, r"var_trans.PositiveTransformation.*transformations.Positive\(\)"),
    ],
    ids=["Softplus", "Logistic", "class"],
)
def test_the_bounds_of_a_transformation_count(rng, file, stored, today, message):
    save(run(with_host_map(transformation=stored), rng, max_iter=0), file)
    refuses(with_host_map(transformation=today), file, "`C`: got the transformation .*" + message)


def test_a_parameter_of_the_posterior_is_named_by_what_it_feeds(rng, file):
    save(run(with_host_meanfield(), rng), file)
    model = parameter_model()
    posterior = Posterior(model)
    variance = Variable(shape=(DIM,), transformation=Positive())
    posterior.mu.set_prior(Normal(mean=Variable(shape=(DIM,)), variance=variance))
    refuses(variational(model, posterior), file, "`variance of mu` of the posterior: got the transformation")


@pytest.mark.parametrize("create", [create_Gaussian_meanfield, create_Gaussian_fullrank], ids=["mean-field", "full"])
def test_a_latent_variable_under_another_bijection_is_refused(rng, file, create):
    save(run(with_latents(create), rng), file)
    model = latent_model()
    with warned("`mu` is Positive in place of Real"):
        other = create(model, [model.X], supports={model.mu: bijections.Positive()})
    refuses(variational(model, other), file, r"`mu`.*: got the transformation .*Real\(\).*; expected .*Positive\(\)")


def test_a_map_under_another_bijection_is_refused(rng, file):
    save(run(with_map(), rng), file)
    model = latent_model()
    with warned("`mu` is Interval in place of Real"):
        algorithm = MAP(model, [model.X], supports={model.mu: bijections.Interval(-1, 1)})
    inference = GradBasedInference(algorithm)
    refuses(
        inference, file, r"`location of mu` of the posterior: .*Real\(\) in .*; expected .*Interval\(lower=-1.0, up"
    )


def test_another_order_of_the_variables_in_a_joint_posterior_is_refused(rng, file):
    save(run(with_latents(create_Gaussian_fullrank), rng), file)
    refuses(
        with_latents(create_Gaussian_fullrank, swapped=True), file, r"from joint_0\[0\] on in .* from joint_0\[3\] on"
    )


def test_another_order_of_the_blocks_is_refused(rng, file):
    """Else the Gaussian of one variable would become that of the other."""

    def with_blocks(order):
        model = latent_model()
        model.nu = MultivariateNormal(shape=(DIM,))
        blocks = [[getattr(model, name)] for name in order]
        return variational(model, create_Gaussian_fullrank(model, [model.X], blocks=blocks))

    saved = run(with_blocks(["mu", "nu"]), rng)
    save(saved, file)
    refuses(with_blocks(["nu", "mu"]), file, r"`mu`.*: got .* from joint_0\[0\] on in .* from joint_1\[0\] on")
    loaded = initialised(with_blocks(["mu", "nu"]))
    load(loaded, file)
    assert are_equal(saved, loaded)


def test_another_size_is_refused(rng, file):
    save(run(with_host_map(), rng), file)
    model = parameter_model(dim=3)
    inference = GradBasedInference(host.MAP(model, [model.X]))
    inference.initialize(X=(ROWS, 3))
    refuses(inference, file, r"got the shape \(2,? ?2?\) in .*; expected \(3")


def test_another_number_of_axes_is_refused(rng, file):
    # The host compares as many axes as both have.
    def with_mean(shape):
        model = Model()
        model.m = Variable(shape=shape)
        model.X = MultivariateNormal(mean=model.m, shape=(ROWS, DIM))
        return GradBasedInference(host.MAP(model, [model.X]))

    save(run(with_mean((1, DIM)), rng), file)
    refuses(with_mean((DIM,)), file, r"`m`: got the shape \(1, 2\) in .*; expected \(2,\)")


def test_another_dtype_is_refused(rng, file):
    save(run(with_host_map(dtype="float64"), rng), file)
    refuses(with_host_map(), file, "got the dtype float64 in .*; expected float32")


def test_another_structure_is_refused(rng, file):
    save(run(with_host_meanfield(), rng), file)
    refuses(
        with_own_posterior(), file, "its model or posterior has another structure than when .*inference.zip was saved"
    )
    refuses(with_host_map(), file, "its model or posterior has another structure")


def test_a_renamed_variable_is_refused_by_name(rng, file):
    save(run(with_host_map(), rng), file)
    model = Model()
    model.N = Variable()
    model.mu = MultivariateNormal(covariance=np.eye(DIM), shape=(DIM,))
    model.Sigma = Variable(
        shape=(DIM, DIM), transformation=PositiveDefinite(), initial_value=nd(np.eye(DIM), "float32")
    )
    model.X = MultivariateNormal(mean=model.mu, covariance=model.Sigma, shape=(model.N, DIM))
    refuses(GradBasedInference(host.MAP(model, [model.X])), file, "no match for 'C'")


def test_a_parameter_the_file_does_not_have_is_refused(rng, file):
    def with_extra(is_constant):
        model = Model()
        model.m = Variable(value=nd(np.zeros(DIM), "float32")) if is_constant else Variable(shape=(DIM,))
        model.C = Variable(shape=(DIM, DIM), transformation=PositiveDefinite())
        model.X = MultivariateNormal(mean=model.m, covariance=model.C, shape=(ROWS, DIM))
        return GradBasedInference(host.MAP(model, [model.X]))

    save(run(with_extra(True), rng), file)
    refuses(with_extra(False), file, "`m`: no value in .*inference.zip; expected one")
    save(run(with_extra(False), rng), file)
    refuses(with_extra(True), file, "`m`: a value in .*inference.zip; expected none")


def edit(file, entry, change):
    """Rewrite one entry of a file."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[entry] = json.dumps(change(json.loads(content[entry]))).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def renamed(old, new, value):
    if isinstance(value, list):
        return [renamed(old, new, item) for item in value]
    if isinstance(value, dict):
        return {new if key == old else key: renamed(old, new, item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("written", ["links", "edges"])
@pytest.mark.parametrize("kind", ["full rank", "Gaussian process"])
def test_files_cross_versions_of_networkx(rng, file, kind, written):
    saved = run(KINDS[kind](), rng)
    save(saved, file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = "edges" if "edges" in networkx.node_link_data(networkx.MultiDiGraph()) else "links"
    edit(file, "graphs.json", lambda graphs: renamed(read, written, graphs))
    loaded = initialised(KINDS[kind]())
    load(loaded, file)
    assert are_equal(saved, loaded)


def test_a_file_of_the_host_is_read_without_a_warning(rng, file):
    saved = run(with_host_meanfield(), rng)
    saved.save(file)
    loaded = initialised(with_host_meanfield())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="mxnet")
        load(loaded, file)
    assert are_equal(saved, loaded)


def test_the_host_reads_our_files(rng, file):
    saved = run(with_host_meanfield(), rng)
    save(saved, file)
    loaded = initialised(with_host_meanfield())
    loaded.load(file)
    assert are_equal(saved, loaded)


def test_a_full_rank_posterior_that_was_saved_before_triangles_had_units():
    path = Path(__file__).parent / "data" / "full_rank_before_units.zip"
    model = Model()
    model.w = MultivariateNormal(0.0, 1.0, shape=(60,))
    model.y = MultivariateNormal(model.w, 0.1, shape=(60,))
    algorithm = host.StochasticVariationalInference(3, model, create_Gaussian_fullrank(model, [model.y]), [model.y])
    inference = GradBasedInference(algorithm)
    inference.initialize(y=(60,))
    load(inference, path)
    with zipfile.ZipFile(path) as archive, archive.open("mxnet_parameters.npz") as stream:
        below = next(array for array in np.load(stream).values() if array.size == 60 * 59 // 2)
    root = np.eye(60)
    root[np.tril_indices(60, -1)] = below
    expected = root @ root.T / np.outer(*[np.linalg.norm(root, axis=1)] * 2)
    covariance = unconstrained_gaussian(inference).structure.dense().asnumpy()
    got = covariance / np.outer(*[np.sqrt(np.diag(covariance))] * 2)
    assert got.shape == (60, 60)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_failed_save_leaves_the_file_that_was_there(rng, file, monkeypatch):
    saved = run(with_host_map(), rng)
    save(saved, file)

    def fail(zip_filename):
        raise OSError("no space left")

    monkeypatch.setattr(saved, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save(saved, file)
    loaded = initialised(with_host_map())
    load(loaded, file)
    assert are_equal(saved, loaded)


def test_an_inference_without_parameters_is_neither_saved_nor_loaded(file):
    with pytest.raises(InferenceError, match="`inference`: got one without parameters.* Call its run first"):
        save(with_host_map(), file)
    with pytest.raises(
        InferenceError, match=r"`inference`: got one without parameters.* such as initialize\(X=X.shape\)"
    ):
        load(with_host_map(), file)


def test_a_file_of_another_kind_is_refused(tmp_path):
    text = tmp_path / "text.zip"
    text.write_text("not a zip")
    refuses(with_host_map(), text, "`zip_filename`: .*text.zip cannot be read .*expected a file that save has written")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    refuses(with_host_map(), tmp_path / "other.zip", "`zip_filename`: .*other.zip cannot be read .*entry 'readme'")
    with pytest.raises(FileNotFoundError):
        load(initialised(with_host_map()), tmp_path / "none.zip")


def test_a_file_of_another_version_is_refused(rng, file):
    save(run(with_host_map(), rng), file)
    edit(file, "version.json", lambda version: {"serialization_version": "1.0"})
    refuses(with_host_map(), file, r"has version 1.0; expected 2.0")
