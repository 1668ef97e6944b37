# SPDX-License-Identifier: Apache-2.0
"""Sensible arguments for the parameters of the public names, by the name of the parameter."""

import contextlib
import os
import tempfile

import mxfusion_mvn
from mxfusion_mvn import Gaussian, OnFailure, bijections, inference, structures

import mxnet as mx
import numpy as np
from mxfusion import Variable

from . import models
from .values import ANYTHING, spoil

MATRICES = [("covariance",), ("precision",), ("scale_tril",)]
# Of these exactly one set is given, most of the time.
ALTERNATIVES = {
    "Gaussian": [*MATRICES, ("variance",), ("factor", "diagonal")],
    "MultivariateNormal": [*MATRICES, ()],
    "MultivariateStudentT": MATRICES,
    "GaussianMixture": MATRICES,
    "Wishart": [("scale",), ("scale_tril",)],
    "InverseWishart": [("scale",), ("scale_tril",)],
    "MatrixNormal": [
        ("row_covariance", "column_covariance"),
        ("row_scale_tril", "column_covariance"),
        ("row_scale_tril", "column_scale_tril"),
    ],
    "ScaledCorrelation": [("correlation",), ("correlation_tril",)],
}
SQUARE = {"Wishart", "InverseWishart", "LKJCholesky", "MatrixNormal"}
STRUCTURES = {
    "Dense": lambda case: [case.covariance()],
    "Cholesky": lambda case: [case.root()],
    "Diagonal": lambda case: [case.positive(case.dim)],
    "Precision": lambda case: [case.covariance()],
    "LowRank": lambda case: [case.normal(case.dim, 2), case.positive(case.dim)],
    "ScaledCorrelation": lambda case: [case.positive(case.dim), case.correlation()],
}


def structure(case):
    """A structure for the vectors of the case."""
    kind = case.pick(list(STRUCTURES))
    return getattr(structures, kind)(*map(case.nd, STRUCTURES[kind](case)))


def gaussian(case, *leading):
    """A Gaussian of arrays, in one of its forms."""
    form = case.pick(["covariance", "precision", "scale_tril", "variance"])
    make = {"variance": lambda: case.positive(case.dim), "scale_tril": case.root}.get(form, case.covariance)
    matrix = make()
    matrix = np.broadcast_to(matrix, leading + matrix.shape[matrix.ndim - (1 if form == "variance" else 2) :])
    return Gaussian(case.nd(case.rng.normal(size=(*leading, case.dim))), **{form: case.nd(matrix)})


def _event(case, receiver):
    axes = getattr(receiver, "event_axes", 0)
    return case.leading + (case.dim + bool(axes),) * max(axes, 1)


def _raw(case, receiver):
    """A raw array of a bijection or a transformation."""
    shape = _event(case, receiver)
    if isinstance(receiver, bijections.Bijection):
        shape = receiver.raw_shape(shape)
    return case.nd(2 * case.rng.normal(size=shape))


def _shape(case, receiver):
    event = (case.dim,) * (2 if case.shared["owner"] in SQUARE else 1)
    return _event(case, receiver) if receiver is not None else case.pick([(), (4,), case.leading]) + event


def _noise(case, receiver):
    owner = receiver.structure if isinstance(receiver, Gaussian) else receiver
    size = owner.noise_size(case.dim) if isinstance(owner, structures.Structure) else case.dim
    noise = case.rng.normal(size=(*case.leading_axes(), size))
    return case.nd(noise) if isinstance(receiver, structures.Structure) else case.held(noise)


def _index(case, receiver):
    index = case.shared["index"] = case.index()
    return case.pick([index, index, np.array(index), tuple(index)])


def _with_missing(case, receiver):
    value = case.normal(case.dim)
    value[case.rng.random(value.shape) < 0.4] = np.nan
    return case.held(value)


def _file(case, receiver):
    folder = case.shared.setdefault("folder", tempfile.mkdtemp(prefix="fuzz"))
    file = os.path.join(folder, "inference.zip")
    if not os.path.exists(file) and case.is_chance(0.7):
        inference.save(models.inference(case, initialized=True), file)
    return file


def _held(make):
    return lambda case, receiver: case.held(make(case))


def _nd(make):
    return lambda case, receiver: case.nd(make(case))


def _choice(*choices):
    return lambda case, receiver: case.pick(list(choices))


def _new(make):
    return lambda case, receiver: make(case)


# What is made, for the parameters of which names; or of which class or function and name.
_BY_KIND = [
    (_nd(lambda case: case.covariance()), "covariance precision OnFailure.matrix"),
    (_nd(lambda case: case.root()), "scale_tril"),
    (_nd(lambda case: case.correlation()), "correlation"),
    (_nd(lambda case: np.linalg.cholesky(case.correlation())), "correlation_tril correlation_factor_defect.value"),
    (_nd(lambda case: case.positive(case.dim)), "variance variances diagonal standard_deviations y"),
    (_nd(lambda case: case.normal(case.dim, 2)), "factor"),
    (_nd(lambda case: case.normal(case.dim)), "residual x"),
    (_nd(lambda case: case.rng.normal(size=(3, case.dim))), "mixture.draw_samples.noise"),
    (_nd(lambda case: np.eye(case.components)[case.rng.integers(case.components, size=(4,))]), "assignment"),
    (_held(lambda case: case.normal(case.dim)), "mean value"),
    (_held(lambda case: case.normal(case.pick([1, case.dim, case.dim + 1]), case.dim)), "matrix"),
    (_held(lambda case: case.rng.dirichlet(np.ones(case.components))), "weights"),
    (_held(lambda case: case.rng.normal(size=(case.components, case.dim))), "GaussianMixture.mean"),
    (_held(lambda case: case.covariance()[..., None, :, :]), "GaussianMixture.covariance"),
    (_held(lambda case: case.covariance()), "scale row_covariance column_covariance"),
    (_held(lambda case: case.root()), "row_scale_tril column_scale_tril"),
    (_held(lambda case: case.rng.normal(size=(*case.leading_axes(), 3))), "features"),
    (_new(lambda case: case.rng.normal(size=(4, case.dim))), "design"),
    (_new(lambda case: case.root()), "scale_rows.factor"),
    (_new(lambda case: Variable(shape=(case.dim,))), "linear.weights scales"),
    (_new(lambda case: case.rng.normal(size=case.pick([0, 1, 10, 100]))), "losses loss"),
    (_new(structure), "structure row column"),
    (_new(lambda case: [case.nd(case.covariance())]), "arrays"),
    (_new(gaussian), "p q gaussian other"),
    (_new(lambda case: gaussian(case, case.components)), "components"),
    (_new(lambda case: case.pick([None, OnFailure(), OnFailure("jitter"), OnFailure("project")])), "on_failure"),
    (_new(lambda case: case.dim), "dim size"),
    (_new(lambda case: case.dtype), "dtype"),
    (_new(lambda case: case.pick([None, mx.cpu()])), "ctx context"),
    (_new(lambda case: case.dim + 1.5), "degrees_of_freedom"),
    (_new(lambda case: [i for i in range(case.dim) if i not in case.shared["index"]][::-1]), "condition.rest"),
    (_new(lambda case: bijections.Positive()), "transformation support check_is_bijection.value"),
    (lambda case, receiver: receiver.transform(_raw(case, receiver)), "out_var"),
    (_raw, "var raw"),
    (_shape, "shape"),
    (_noise, "noise"),
    (_index, "index given"),
    (_with_missing, "PartlyObserved.value"),
    (_held(lambda case: case.normal(len(case.shared["index"]))), "condition.value"),
    (_file, "zip_filename"),
    (_new(models.model), "model"),
    (_new(lambda case: [models.model(case).X]), "observed"),
    (_new(lambda case: case.pick(models.latents(case))), "variable"),
    (_new(lambda case: case.pick([None, [models.latents(case)[:1]]])), "blocks"),
    (_new(lambda case: case.pick([0, *models.latents(case)])), "block"),
    (_new(models.inference), "inference"),
    (_new(lambda case: models.inference(case, "MAP")), "map_inference"),
    (_new(models.algorithm), "inference_algorithm"),
    (_new(models.loop), "grad_loop"),
    (_new(lambda case: case.pick([None, lambda iteration: 0.1 / (1 + iteration)])), "schedule"),
    (_new(lambda case: case.pick([None, inference.Plateau(window=2)])), "stop"),
    (_new(lambda case: case.pick([None, lambda record: None])), "checkpoint"),
    (_new(lambda case: structures.Diagonal), "build"),
    (_new(lambda case: mxfusion_mvn.Wishart), "distribution"),
    (_new(lambda case: mxfusion_mvn.MultivariateNormal), "check_multivariate_normal.distribution"),
    (_choice({}), "supports"),
    (_choice(()), "excluded"),
    (_choice(None), "refine rest groups rand_gen prefix params constants rv_scaling PartlyObserved.noise"),
    (_choice(False), "hybridize verbose"),
    (_choice(False, True), "missing jacobian compiled has_arrived"),
    (_choice("raise", "jitter", "project"), "OnFailure.action"),
    (_choice("sampled", "closed_form", "sticking_the_landing"), "entropy"),
    (_choice("adam", "sgd", "adagrad"), "optimizer"),
    (_choice("covariance", "C"), "name argument reason message"),
    (_choice(None, 1, 2), "rank"),
    (_choice(None, 1e-6, 0.01), "tolerance"),
    (_choice(0.01, 1.0), "Plateau.tolerance seconds"),
    (_choice(0.0, -1.0), "lower"),
    (_choice(1.0, 2.5), "upper concentration MatrixNormal.mean offset"),
    (_choice(0.5, 0.95), "probability"),
    (_choice(0.1, 1.0), "initial_scale learning_rate"),
    (_choice(1, 3, 20), "num_samples num_points"),
    (_choice(0, 1, 3, 7), "max_iter in_units seed"),
    (_choice(1, 2, 3, 50), "check_every batch_size"),
    (_choice(2, 10), "window"),
    (_choice((1,), (2,)), "dims"),
    (_choice(("float64",)), "dtypes"),
]
SENSIBLE = {name: make for make, names in _BY_KIND for name in names.split()}


def argument(case, owner, function, name, receiver):
    """
    An argument for a parameter.

    :param case: :class:`~benchmarks.fuzz.values.Case`.
    :param owner: the name of the class, or of the module of a function.
    :param function: the name of the function; of a constructor that of the class.
    :param name: the name of the parameter.
    :param receiver: the object whose method is called, None if there is none.
    """
    case.shared["owner"] = owner
    chance = case.rng.random()
    if isinstance(receiver, structures.Structure):  # a Gaussian has prepared what it is given
        case.dim, chance = receiver.dim() if isinstance(receiver.dim(), int) else case.dim, 1.0
    keys = (f"{owner}.{function}.{name}", f"{owner}.{name}", f"{function}.{name}", name)
    make = next((SENSIBLE[key] for key in keys if key in SENSIBLE), None)
    if chance < 0.07 or make is None:
        return case.pick(ANYTHING)(case)
    try:
        value = make(case, receiver)
    except Exception:  # a receiver, or options of it, for which nothing makes sense
        return case.pick(ANYTHING)(case)
    if chance < 0.3 and (
        isinstance(value, (mx.nd.NDArray, np.ndarray)) or (isinstance(value, list) and _is_plain(value))
    ):
        with contextlib.suppress(mx.base.MXNetError):  # MXNet has not all arrays without entries
            return spoil(case, value)
    return value


def _is_plain(value):
    """Whether a list, however nested, holds numbers only."""
    return all(_is_plain(each) if isinstance(each, list) else isinstance(each, (int, float)) for each in value)
