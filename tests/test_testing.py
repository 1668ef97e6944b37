# SPDX-License-Identifier: Apache-2.0
"""The conformance suite passes what is right and, no less important, fails what is not."""

import re

import mxfusion_mvn.testing
from mxfusion_mvn import MultivariateNormal, linalg, structures
from mxfusion_mvn.linalg import axes
from mxfusion_mvn.structures import RowMap
from mxfusion_mvn.testing import check_multivariate_normal, check_structure

import mxnet as mx
import numpy as np
import pytest
from mxfusion.components import distributions as host

from helpers.structure_cases import CASES


@pytest.mark.parametrize("name", CASES)
def test_every_structure_conforms(name):
    check_structure(**CASES[name]._asdict())


@pytest.mark.parametrize("form", ["covariance", "precision", "scale_tril"])
def test_every_form_of_the_multivariate_normal_conforms(form):
    check_multivariate_normal(MultivariateNormal, form)


class ScaledIdentity(structures.Structure):
    """s I, by the one method a structure has to give."""

    def __init__(self, scale, dim):
        self.scale = scale
        self._dim = dim

    def root(self):
        F = axes.namespace(self.scale)
        return linalg.from_diagonal(F.repeat(F.sqrt(self.scale), repeats=self._dim, axis=-1))


class FastScaledIdentity(ScaledIdentity):
    """s I, with everything overridden that can be."""

    def _vector(self):
        return axes.namespace(self.scale).repeat(self.scale, repeats=self._dim, axis=-1)

    def _deviation(self):
        return linalg.as_row(axes.namespace(self.scale).sqrt(self.scale))

    def dense(self):
        return linalg.from_diagonal(self._vector())

    def whitening(self):
        return RowMap(linalg.divide_entries, self._deviation())

    def coloring(self):
        return RowMap(linalg.multiply_entries, self._deviation())

    def log_det(self):
        F = axes.namespace(self.scale)
        return self._dim * F.sum(F.log(self.scale), axis=-1)

    def variance(self):
        return self._vector()

    def inverse_diagonal(self):
        return 1 / self._vector()

    def diagonal_and_root(self):
        return self._vector(), None

    def template(self):
        return self._vector()

    def dim(self):
        return self._dim

    def marginal(self, index, rest=None):
        return type(self)(self.scale, len(index))

    def condition(self, given, rest):
        F = axes.namespace(self.scale)
        zeros = F.zeros_like(F.repeat(self.scale, repeats=len(rest), axis=-1))
        cross = linalg.outer(zeros, F.zeros_like(F.repeat(self.scale, repeats=len(given), axis=-1)))
        return RowMap(linalg.multiply, cross), type(self)(self.scale, len(rest))


@pytest.mark.parametrize("structure", [ScaledIdentity, FastScaledIdentity])
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_a_structure_of_ones_own_takes_one_class_and_one_row(structure, dim):
    check_structure(
        build=lambda scale: structure(scale, dim),
        arrays=lambda rng, leading, dim: {"scale": rng.uniform(0.5, 2.0, (*leading, 1))},
        dense=lambda scale: scale[..., None] * np.eye(dim),
        degrees={"scale": 1},
        invalid=lambda scale: {"scale": -scale},
        dims=(dim,),
    )


def mutant(base, **methods):
    """A structure with methods replaced by functions of the structure and what the method should have returned."""

    def replaced(name, change):
        right = getattr(base, name)
        return lambda self, *args, **kwargs: change(self, right(self, *args, **kwargs))

    return type("Mutant", (base,), {name: replaced(name, change) for name, change in methods.items()})


class AbsoluteJitter(structures.Dense):
    """Adds 1e-6, as many libraries do, whatever the scale."""

    def __init__(self, covariance):
        jitter = 1e-9 * linalg.identity_like(linalg.diagonal(covariance))
        super().__init__(covariance + jitter)


class NaNToMinusInfinity(structures.Cholesky):
    """Takes NaN for an impossible value."""

    def check(self):
        pass

    def log_det(self):
        return _without_nan(super().log_det(), np.inf)

    def distance(self, residual):
        return _without_nan(super().distance(residual), 0.0)


class NDArraysOnly(structures.Dense):
    def log_det(self):
        assert self.covariance.shape
        return super().log_det()


class KeptTooLong(structures.Dense):
    """Its factor is computed where nothing records."""

    def root(self):
        with mx.autograd.pause():
            return super().root()


class StoppedVector(structures.Dense):
    def whiten(self, residual):
        return super().whiten(_stopped(self, residual))


def _without_nan(values, instead):
    F = axes.namespace(values)
    return F.where(values == values, values, F.ones_like(values) * instead)


def _doubled(self, value):
    return axes.namespace(value).cast(value, dtype="float64")


def _stopped(self, value):
    return axes.namespace(value).stop_gradient(value)


def _padded(self, value):
    return axes.namespace(value).expand_dims(value, axis=0)


def _negated(self, value):
    regression, remaining = value
    return RowMap(lambda *arguments: -regression.kernel(*arguments), *regression.arrays), remaining


Dense, LowRank, Singular = structures.Dense, structures.LowRank, structures.Singular
BROKEN = {
    "log_det ": ("dense", mutant(Dense, log_det=lambda self, value: 0.5 * value)),
    "log_det .*shape": ("dense", mutant(Dense, log_det=_padded)),
    "log_det .*float64": ("dense", mutant(Dense, log_det=lambda self, value: value * (1 + 1e-9))),
    "variance ": ("dense", mutant(Dense, variance=lambda self, value: value + 1e-3)),
    "inverse_diagonal .*dtype": ("dense", mutant(Dense, inverse_diagonal=_doubled)),
    "inverse_diagonal ": ("low rank", mutant(LowRank, inverse_diagonal=lambda self, value: 1 / self.diagonal)),
    "diagonal_and_root ": ("low rank", mutant(LowRank, diagonal_and_root=lambda self, value: (None, value[1]))),
    "coloring ": ("precision", mutant(structures.Precision, coloring=lambda self, value: self.whitening())),
    "root ": ("dense", mutant(Dense, root=lambda self, value: linalg.transpose(value))),
    "whiten ": ("low rank", mutant(LowRank, whiten=lambda self, value: 1.001 * value)),
    "distance ": ("low rank", mutant(LowRank, distance=lambda self, value: 1.001 * value)),
    "gradient of factor ": ("low rank", mutant(LowRank, measuring=lambda self, value: self._held().whitening())),
    "condition ": ("dense", mutant(Dense, condition=lambda self, value: (value[0], self.marginal([0])))),
    "regression ": ("dense", mutant(Dense, condition=_negated)),
    "marginal ": ("dense", mutant(Dense, marginal=lambda self, value: Dense(2 * value.dense()))),
    "gradient of covariance ": ("dense", mutant(Dense, log_det=_stopped)),
    "gradient of covariance .*NDArrays": ("dense", KeptTooLong),
    "gradient of residual ": ("dense", StoppedVector),
    "scale 1e-12": ("dense", AbsoluteJitter),
    "on Symbols .*raised": ("dense", NDArraysOnly),
    "refusal of NaN": ("cholesky", NaNToMinusInfinity),
    "off the support": ("singular", mutant(Singular, barrier=lambda self, value: None)),
    "entropy .*D = 2": ("singular", mutant(Singular, rank=lambda self, value: structures.Structure.rank(self))),
}


@pytest.mark.parametrize("failure", BROKEN)
def test_broken_structures_fail_by_the_name_of_the_property(failure):
    name, structure = BROKEN[failure]
    case = CASES[name]
    extra = {"singular": {"tolerance": 1e-4}, "low rank": {"rank": 2}}.get(name, {})
    with pytest.raises(AssertionError, match=failure):
        check_structure(**{**case._asdict(), "build": lambda **arrays: structure(**arrays, **extra), "dims": (2,)})


def test_a_structure_for_ndarrays_alone_can_be_checked_as_such():
    check_structure(**{**CASES["dense"]._asdict(), "build": NDArraysOnly, "symbols": False, "dims": (2,)})


def test_other_dtypes_are_refused():
    message = "^`dtypes`: got .None.; expected a list of 'float32', 'float64' or both"
    with pytest.raises(ValueError, match=message):
        check_structure(**CASES["dense"]._asdict(), dtypes=[None])
    with pytest.raises(ValueError, match=message):
        check_multivariate_normal(MultivariateNormal, dtypes=[None])


def test_arrays_that_measure_rounding_are_refused():
    case = CASES["dense"]._asdict()
    case["arrays"] = lambda rng, leading, dim: {"covariance": np.ones((*leading, dim, dim)) + 1e-6 * np.eye(dim)}
    with pytest.raises(ValueError, match="`arrays`: got a correlation matrix of condition number"):
        check_structure(**case)


@pytest.mark.parametrize(
    ("distribution", "form"),
    [(host.MultivariateNormal, "covariance"), (host.MultivariateNormalMeanPrecision, "precision")],
    ids=["covariance", "precision"],
)
def test_the_host_s_own_classes_fail(distribution, form):
    with pytest.raises(AssertionError, match=r"log_pdf \(float32, D = 1, one mean and matrix for all rows\): raised"):
        check_multivariate_normal(distribution, form)


class DrawsAsTheHost(MultivariateNormal):
    """With the draws of the host's MultivariateNormalMeanPrecision: potri of a matrix that is no factor."""

    def draw_samples_impl(self, mean, precision, rv_shape, num_samples=1, F=None):
        noise = self._normal_noise((num_samples, *rv_shape), like=precision)
        root = mx.nd.linalg.potri(precision)
        return axes.add(structures.Cholesky(root).color(noise), mean)


class AlignsAsTheHost(MultivariateNormal):
    """Aligns whole shapes from the right, as the host's Normal does: a mean (S, D) is taken for the rows."""

    def log_pdf(self, F, variables, targets=None):
        arrays = {name: variables[variable.uuid] for name, variable in self.inputs + self.outputs}
        return self.log_pdf_impl(F=F, **arrays) * self.log_pdf_scaling


class IgnoresScaling(MultivariateNormal):
    def log_pdf(self, F, variables, targets=None):
        return super().log_pdf(F, variables) / self.log_pdf_scaling


class WithoutGradient(MultivariateNormal):
    def log_pdf_impl(self, mean, random_variable, F=None, **matrix):
        return super().log_pdf_impl(mean.detach(), random_variable, **matrix)


class OneDrawForAllRows(MultivariateNormal):
    def draw_samples_impl(self, mean, rv_shape, num_samples=1, F=None, **matrix):
        draws = super().draw_samples_impl(mean, (1, *rv_shape[1:]), num_samples, **matrix)
        return draws.broadcast_to((num_samples, *rv_shape))


class NeverRefuses(MultivariateNormal):
    def log_pdf_impl(self, mean, random_variable, F=None, **matrix):
        clipped = {name: mx.nd.abs(value) for name, value in matrix.items()}
        return super().log_pdf_impl(mean, random_variable, **(clipped if mean.shape[-1] == 1 else matrix))


class Shifted(MultivariateNormal):
    def draw_samples_impl(self, mean, rv_shape, num_samples=1, F=None, **matrix):
        return super().draw_samples_impl(mean + 1, rv_shape, num_samples, **matrix)


@pytest.mark.parametrize(
    ("distribution", "form", "failure"),
    [
        (DrawsAsTheHost, "precision", "covariance of draws"),
        (AlignsAsTheHost, "covariance", "log_pdf .*a mean per sample"),
        (IgnoresScaling, "covariance", "log_pdf_scaling"),
        (WithoutGradient, "covariance", "gradient of mean"),
        (OneDrawForAllRows, "covariance", "covariance of draws"),
        (NeverRefuses, "covariance", "refusal of what is no covariance"),
        (Shifted, "scale_tril", "mean of draws"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_distributions_fail_by_the_name_of_the_property(distribution, form, failure):
    with pytest.raises(AssertionError, match=failure):
        check_multivariate_normal(distribution, form)


def test_other_parameters_come_with_their_conversions():
    class ByVariance(MultivariateNormal):
        @classmethod
        def define_variable(cls, shape, mean, half, dtype):
            return MultivariateNormal.define_variable(shape, mean=mean, covariance=half, dtype=dtype)

    check_multivariate_normal(ByVariance, "half", (lambda c: c, lambda h: h), dims=(2,))
    with pytest.raises(AssertionError, match="log_pdf .*expected"):
        check_multivariate_normal(ByVariance, "half", (lambda c: c / 2, lambda h: 2 * h), dims=(2,))


def test_a_failure_says_what_was_got_and_what_expected():
    case = CASES["diagonal"]._asdict()
    case["dense"] = lambda variances: 2 * variances[..., None] * np.eye(variances.shape[-1])
    message = (
        r"dense \(float32, D = 1, leading axes \(\) and \(\)\): got [\d.]+ at index \(0, 0\), .*; expected [\d.]+ up"
    )
    with pytest.raises(AssertionError, match=message):
        check_structure(**case)


def test_the_example_of_the_documentation_runs():
    example = mxfusion_mvn.testing.__doc__.split("::\n\n", 1)[1]
    exec(re.sub("^    ", "", example, flags=re.MULTILINE), {})
