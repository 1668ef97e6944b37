# SPDX-License-Identifier: Apache-2.0
"""Bijections in float32: nothing overflows, and values stay inside their support."""

import re

from mxfusion_mvn import LKJCholesky, Wishart, bijections, transformations
from mxfusion_mvn.bijections import (
    CorrelationCholesky,
    Interval,
    Positive,
    PositiveDefinite,
    Simplex,
)

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Variable
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host

from helpers.bijection_cases import BOUNDS, CASES, SIZES, gradient_of
from helpers.host import nd
from helpers.tolerances import assert_close

EXTREMES = np.array([-1000.0, -200.0, -90.0, -50.0, -10.0, 0.0, 10.0, 50.0, 90.0, 200.0, 1000.0])


def extreme_raw(rng, size, rows=40):
    """Random choices of the extremes, and each of them in all entries at once."""
    return np.concatenate([rng.choice(EXTREMES, size=(rows, size)), np.repeat(EXTREMES[:, None], size, axis=1)])


@pytest.mark.parametrize(("name", "dim"), SIZES)
def test_nothing_overflows_in_float32(name, dim, rng):
    case = CASES[name]
    raw = extreme_raw(rng, case.count(dim))
    for function in (case.bijection.transform, case.bijection.log_det_jacobian):
        assert np.isfinite(function(nd(raw, "float32")).asnumpy()).all()
        assert np.isfinite(gradient_of(function, raw, "float32")).all()


def of_one_scale(rng, size):
    """Extremes for both scales of two rows, equal within a few powers of e, and a moderate number below."""
    raw = np.repeat(EXTREMES, 4)[:, None] + 3 * rng.normal(size=(4 * len(EXTREMES), size))
    raw[:, 1] = rng.normal(size=len(raw))
    return raw


def constant(value):
    return Variable(value=nd(value, "float32"))


INSIDE = {
    "Gamma": (Positive(), 2, extreme_raw, lambda: host.Gamma.define_variable(constant([2.0]), constant([3.0]), (2,))),
    "Gamma of mean and variance": (
        Positive(),
        2,
        extreme_raw,
        lambda: host.GammaMeanVariance.define_variable(constant([2.0]), constant([3.0]), (2,)),
    ),
    "Beta": (Interval(), 2, extreme_raw, lambda: host.Beta.define_variable(constant([2.0]), constant([0.5]), (2,))),
    "Uniform": (
        Interval(*BOUNDS),
        2,
        extreme_raw,
        lambda: host.Uniform.define_variable(constant([-1.0] * 2), constant([2.5] * 2), (2,)),
    ),
    "Uniform far from zero": (
        Interval(1e6, 1e6 + 1),
        2,
        extreme_raw,
        lambda: host.Uniform.define_variable(constant([1e6] * 2), constant([1e6 + 1] * 2), (2,)),
    ),
    "Dirichlet": (
        Simplex(),
        2,
        extreme_raw,
        lambda: host.Dirichlet.define_variable(constant([[1.5, 1.5, 0.5]]), (1, 3)),
    ),
    "LKJ": (CorrelationCholesky(), 6, extreme_raw, lambda: LKJCholesky(2.0, shape=(4, 4))),
    "Wishart": (PositiveDefinite(), 3, of_one_scale, lambda: Wishart(5.0, 1.0, shape=(2, 2))),
}


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_in_float32_values_stay_where_the_density_is_finite(name, rng):
    bijection, size, make, declare = INSIDE[name]
    variable = declare()
    raw = make(rng, size)
    leading = (1,) * (len(variable.shape) - max(1, bijection.event_axes))  # host.Dirichlet wants a batch axis

    def log_pdf(array):
        value = bijection.transform(array.reshape((len(raw),) + leading + (size,)))
        variables = {v.uuid: v.constant.expand_dims(0) for _, v in variable.factor.inputs}
        variables[variable.uuid] = value
        return variable.factor.log_pdf(F=mx.nd, variables=variables)

    got = log_pdf(nd(raw, "float32")).asnumpy()
    assert np.isfinite(got).all(), raw[~np.isfinite(got.reshape(len(raw), -1)).all(-1)]
    assert np.isfinite(gradient_of(log_pdf, raw, "float32")).all()


def round_trip(bijection, value):
    """The value again, NumPy array, or the words in which it is refused."""
    try:
        return bijection.transform(bijection.inverseTransform(value)).asnumpy()
    except ModelSpecificationError as error:
        return str(error)


@pytest.mark.parametrize("bound", [1.0, 5.0, 15.0])
@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("name", sorted(CASES))
def test_what_came_out_in_float32_goes_back_in_either_precision(name, dim, bound, rng):
    """Or is refused by name where rounding has made entries equal, or a matrix singular, and there is no way back."""
    case = CASES[name]
    size = case.count(dim)
    for row in np.concatenate([rng.uniform(-bound, bound, (20, size)), rng.choice([-bound, bound], (20, size))]):
        value = case.bijection.transform(nd(row, "float32"))
        for given in (value, value.astype("float64")):
            again = round_trip(case.bijection, given)
            if isinstance(again, str):
                assert name in ("Ordered", "PositiveDefinite")
                assert bound == 15.0
                assert re.search("got .* before|smallest eigenvalue|singular within the rounding", again)
            else:
                assert_close(again, value.asnumpy(), rtol=0, atol=1e-5 * np.abs(value.asnumpy()).max())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["Simplex", "CorrelationCholesky"])
@pytest.mark.parametrize("module", [bijections, transformations], ids=["bijection", "transformation"])
def test_values_rounded_in_float32_are_taken_in_float64(module, kind, seed):
    """They satisfy the constraint to the rounding of float32; what is further off is refused, in all digits."""
    rng = np.random.default_rng(seed)
    if kind == "Simplex":
        exact = rng.dirichlet(np.ones(7), size=4)
    else:
        exact = np.linalg.cholesky(0.3 * np.eye(4) + 0.7)[None]
    value = exact.astype("float32").astype("float64")
    bijection = getattr(module, kind)()
    raw = bijection.inverseTransform(nd(value, "float64"))
    assert_close(bijection.transform(raw), value, rtol=1e-6, atol=1e-6)
    with pytest.raises(ModelSpecificationError, match=r"got (numbers that sum to )?1\.00000\d+"):
        bijection.inverseTransform(nd(exact * (1 + 1.23456e-6), "float64"))
