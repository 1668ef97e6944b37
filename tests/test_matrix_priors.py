# SPDX-License-Identifier: Apache-2.0
"""Wishart, inverse Wishart and LKJ: the density and its gradient, over the table of cases, and what is refused."""

import warnings

from mxfusion_mvn import InverseWishart, LKJCholesky, OnFailure, RepairWarning, Wishart

import mpmath
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from scipy import stats

from helpers import oracles
from helpers.host import declare, nd
from helpers.matrix_prior_cases import (
    CASES,
    DIMENSIONS,
    GRADIENT_LAYOUTS,
    SIZES,
    correlation_factor,
    event_axes,
    expected_log_pdf,
    layouts_of,
    make,
    runtime,
    square,
)
from helpers.tolerances import GRADIENT_TOLERANCE, TOLERANCE, assert_close

# Densities


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_log_pdf_matches_the_oracle(name, sizes, dim, dtype, rng):
    case = CASES[name]
    for layouts in layouts_of(case):
        arrays = make(rng, case, sizes, dim, layouts, dtype)
        distribution, variables = runtime(case, arrays, sizes[1], dim, dtype)
        got = distribution.log_pdf(mx.nd, variables)
        assert got.dtype == np.dtype(dtype)
        assert_close(got, expected_log_pdf(case, arrays), **TOLERANCE[dtype])


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("layouts", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_central_differences(name, layouts, dim, rng):
    case = CASES[name]
    parameters, value = GRADIENT_LAYOUTS[layouts]
    arrays = make(rng, case, (2, 3), dim, [parameters] * len(case.parameters) + [value])
    distribution, variables = runtime(case, arrays, 3, dim)
    leaves = dict(zip(arrays, variables.values()))
    for leaf in leaves.values():
        leaf.attach_grad()
    weights = rng.normal(size=expected_log_pdf(case, arrays).shape)
    with mx.autograd.record():
        mx.nd.sum(distribution.log_pdf(mx.nd, variables) * nd(weights)).backward()
    for key, leaf in leaves.items():
        expected = oracles.central_difference(
            lambda array, key=key: np.sum(weights * expected_log_pdf(case, {**arrays, key: array})),
            arrays[key],
            symmetrical=event_axes(key) == 2 and key != "scale_tril" and name != "LKJ",
        )
        expected = np.tril(expected) if key == "scale_tril" else expected
        assert_close(leaf.grad, expected, **GRADIENT_TOLERANCE)


@pytest.mark.parametrize("recorded", [False, True], ids=["evaluated", "recorded"])
@pytest.mark.parametrize("freedom", [10.0, 1e4, 1e6, 1e9])
@pytest.mark.parametrize(("cls", "law"), [(Wishart, stats.wishart), (InverseWishart, stats.invwishart)])
def test_many_degrees_of_freedom(cls, law, freedom, recorded, dtype, rng):
    """Terms of size nu log nu cancel; the reference has 50 digits, of the very numbers that are passed."""
    dim = 5
    scale = oracles.random_spd(rng, (), dim, condition=20).astype(dtype).astype("float64")
    values = law.rvs(freedom, scale, size=2, random_state=rng).astype(dtype).astype("float64")
    factor = declare(cls, (dim, dim), dtype, degrees_of_freedom=(1,), scale=(dim, dim)).X.factor
    arrays = {"degrees_of_freedom": nd([[freedom]], dtype), "scale": nd(scale[None], dtype)}
    freedoms = arrays["degrees_of_freedom"]
    freedoms.attach_grad()
    expected = []
    with mpmath.workdps(60):
        nu = mpmath.mpf(freedoms.asscalar().item())
        for value in values:
            one, other = (mpmath.matrix(a.tolist()) for a in (value, scale))
            signed = 1 if cls is Wishart else -1
            ratio = other**-1 * one if cls is Wishart else one**-1 * other
            trace = sum(ratio[i, i] for i in range(dim))
            log_p = (nu - dim - 1 if cls is Wishart else -nu - dim - 1) * mpmath.log(mpmath.det(one)) / 2 - trace / 2
            log_p -= signed * nu / 2 * mpmath.log(mpmath.det(other)) + nu * dim / 2 * mpmath.log(2)
            gammas = sum(mpmath.loggamma(nu / 2 - mpmath.mpf(i) / 2) for i in range(dim))
            expected.append(float(log_p - gammas - mpmath.log(mpmath.pi) * dim * (dim - 1) / 4))
    if recorded:
        with mx.autograd.record():
            got = factor.log_pdf_impl(random_variable=nd(values, dtype), **arrays)
        got.backward()
        assert np.isfinite(freedoms.grad.asnumpy()).all()
    else:
        got = factor.log_pdf_impl(random_variable=nd(values, dtype), **arrays)
    assert got.dtype == np.dtype(dtype)
    # While training, factors are those of float32, whose errors nu does not multiply but by its root.
    atol = {"float32": 3e-7 * np.sqrt(freedom) if recorded else 0.0, "float64": 1e-15 * np.sqrt(freedom)}[dtype]
    assert_close(got, expected, rtol={"float32": 1e-6, "float64": 1e-12}[dtype], atol=atol)


@pytest.mark.parametrize("eta", [0.5, 30.0, 1e6, 1e12])
def test_many_concentrations(eta, dtype):
    """The constant is a sum of differences of log gammas; the reference is that of the vine, with 60 digits."""
    dim, value = 4, np.eye(4)
    factor = declare(LKJCholesky, (dim, dim), dtype, concentration=(1,)).X.factor
    got = factor.log_pdf_impl(concentration=nd([[eta]], dtype), random_variable=nd(value[None], dtype))
    with mpmath.workdps(60):
        exact, constant = mpmath.mpf(float(nd([eta], dtype).asscalar())), mpmath.mpf(0)
        for k in range(1, dim):
            shape = exact + mpmath.mpf(dim - k - 1) / 2
            constant += (2 * exact - 2 + dim - k) * (dim - k) * mpmath.log(2)
            constant += (dim - k) * mpmath.log(mpmath.beta(shape, shape))
    assert_close(got, [-float(constant)], rtol={"float32": 1e-6, "float64": 1e-13}[dtype])


def lkj_at(value, eta):
    """Log densities of a stack of factors (K, D, D)."""
    model = declare(LKJCholesky, value.shape, concentration=(1,))
    return model.X.factor.log_pdf(mx.nd, {model.concentration.uuid: nd([[eta]]), model.X.uuid: nd(value[None])})


@pytest.mark.parametrize("eta", [1.0, 1.5, 3.0])
def test_the_lkj_density_integrates_to_one(eta):
    """Numerically, D = 2 over the interval and D = 3 over interval times disc, both by angles."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t, weights = nodes * np.pi / 2, weights * np.pi / 2
    zero = np.zeros_like(t)
    two = np.stack([np.stack([1 + zero, zero], -1), np.stack([np.sin(t), np.cos(t)], -1)], -2)
    total = np.sum(weights * np.cos(t) * np.exp(lkj_at(two, eta).asnumpy()))
    np.testing.assert_allclose(total, 1, rtol=1e-10)
    t, r, angle = np.meshgrid(t, (nodes + 1) * np.pi / 4, np.arange(6) * np.pi / 3, indexing="ij")
    value = np.zeros(t.shape + (3, 3))
    value[..., 0, 0], value[..., 1, 0], value[..., 1, 1] = 1, np.sin(t), np.cos(t)
    value[..., 2, 0], value[..., 2, 1] = np.sin(r) * np.cos(angle), np.sin(r) * np.sin(angle)
    value[..., 2, 2] = np.cos(r)
    volume = np.cos(t) * np.sin(r) * np.cos(r) * weights[:, None, None] * weights[:, None] / 2 * np.pi / 3
    density = np.exp(lkj_at(value.reshape(-1, 3, 3), eta).asnumpy()).reshape(t.shape)
    np.testing.assert_allclose(np.sum(volume * density), 1, rtol=1e-10)


def test_the_lkj_density_is_a_power_of_the_determinant_and_a_jacobian(rng):
    """p(L) = p(R) |dR/dL|, with the Jacobian of the entries below the diagonal by differences."""
    dim, eta = 4, 1.7
    below = np.tril_indices(dim, -1)

    def correlations(entries):
        lower = np.zeros((dim, dim))
        lower[below] = entries
        lower += np.diag(np.sqrt(1 - np.sum(lower**2, axis=-1)))
        return square(lower)[below]

    values = correlation_factor(rng, (2,), dim)

    def kernel(lower):
        steps = 1e-6 * np.eye(len(below[0]))
        jacobian = [correlations(lower[below] + e) - correlations(lower[below] - e) for e in steps]
        return (eta - 1) * np.linalg.slogdet(square(lower))[1] + np.linalg.slogdet(jacobian)[1]

    got = lkj_at(values, eta).asnumpy()[0]
    np.testing.assert_allclose(got[1] - got[0], kernel(values[1]) - kernel(values[0]), rtol=1e-7)


@pytest.mark.parametrize("distribution", [Wishart, InverseWishart])
def test_the_scale_is_the_identity_unless_it_is_given(distribution, rng):
    """As in MXFusion's Wishart, declared by its own method too."""
    value = nd(oracles.random_spd(rng, (), 3, condition=10)[None])
    model = Model()
    model.plain = distribution(5.0, shape=(3, 3), dtype="float64")
    model.as_in_mxfusion = distribution.define_variable(shape=(3, 3), degrees_of_freedom=5.0, dtype="float64")
    oracle = {Wishart: stats.wishart, InverseWishart: stats.invwishart}[distribution]
    for variable in (model.plain, model.as_in_mxfusion):
        variables = {v.uuid: v.constant.expand_dims(0) for v in model.get_constants()}
        got = variable.factor.log_pdf(mx.nd, {**variables, variable.uuid: value})
        assert_close(got, [oracle.logpdf(value[0].asnumpy(), 5, np.eye(3))], **TOLERANCE["float64"])


# What is refused


REFUSED = [
    (lambda: Wishart(4.0, np.eye(3), np.eye(3), shape=(3, 3)), "`scale` and `scale_tril`: got 2 matrices"),
    (lambda: Wishart(2.0, 1.0, shape=(3, 3)), "`degrees_of_freedom`: got 2; expected more than D - 1 = 2. With fewer"),
    (lambda: InverseWishart(-1.0, 1.0, shape=(3, 3)), "`degrees_of_freedom`: got -1.0 .*; expected positive numbers"),
    (lambda: Wishart(np.nan, 1.0, shape=(3, 3)), "`degrees_of_freedom`: got nan at index"),
    (
        lambda: Wishart(np.array([[4.0], [1.5]]), 1.0, shape=(2, 3, 3)),
        "`degrees_of_freedom`: got 1.5; expected more than D - 1 = 2",
    ),
    (
        lambda: Wishart(Variable(value=nd([1.5])), 1.0, shape=(3, 3)),
        "`degrees_of_freedom`: got 1.5; expected more than D - 1 = 2",
    ),
    (
        lambda: Wishart(Variable(value=1.5), 1.0, shape=(3, 3)),
        "`degrees_of_freedom`: got 1.5; expected more than D - 1 = 2",
    ),
    (
        lambda: Wishart(np.array([4.0, 5.0]), 1.0, shape=(2, 3, 3)),
        r"`degrees_of_freedom`: got shape \(2,\); expected \(2, 1\), or what broadcasts",
    ),
    (
        lambda: Wishart(np.full((3, 1), 5.0), 1.0, shape=(2, 3, 3)),
        r"`degrees_of_freedom`: got shape \(3, 1\); expected \(2, 1\)",
    ),
    (lambda: Wishart(5.0, -np.eye(3), shape=(3, 3)), "`scale`: got a matrix whose smallest eigenvalue is -1"),
    (lambda: Wishart(5.0, -1.0, shape=(3, 3)), "`scale`: got a matrix whose smallest eigenvalue is -1"),
    (lambda: InverseWishart(5.0, np.full((3, 3), np.nan), shape=(3, 3)), "`scale`: got nan at index"),
    (lambda: InverseWishart(5.0, np.eye(2), shape=(3, 3)), r"`scale`: got shape \(2, 2\); expected \(3, 3\)"),
    (lambda: InverseWishart(5.0, np.ones(3), shape=(3, 3)), r"`scale`: got shape \(3,\); expected a matrix"),
    (
        lambda: InverseWishart(5.0, np.ones((4, 1, 1)), shape=(2, 3, 3)),
        r"`scale`: got shape \(4, 1, 1\); expected \(2, 3, 3\)",
    ),
    (
        lambda: InverseWishart(5.0, scale_tril=np.ones((3, 3)), shape=(3, 3)),
        "`scale_tril`: got 1.0 .* above the diagonal",
    ),
    (lambda: Wishart(5.0, 1.0, shape=(3,)), r"`shape`: got \(3,\); expected at least 2 axes"),
    (lambda: Wishart(5.0, 1.0, shape=(2, 3)), r"`shape`: got shape \(2, 3\); expected square matrices"),
    (lambda: LKJCholesky(0.0, shape=(3, 3)), "`concentration`: got 0.0 .*; expected positive numbers"),
    (lambda: LKJCholesky(np.inf, shape=(3, 3)), "`concentration`: got inf at index"),
    (lambda: LKJCholesky("2", shape=(3, 3)), "`concentration`: got '2' of type str; expected a Variable"),
    (lambda: LKJCholesky(np.ones(3), shape=(3, 3)), r"`concentration`: got shape \(3,\); expected \(1,\)"),
    (lambda: LKJCholesky(1.0, shape=(3, 2)), r"`shape`: got shape \(3, 2\); expected square matrices"),
    (lambda: Variable(shape=(3, 3)).set_prior(Wishart(1.0, 1.0)), "`degrees_of_freedom`: got 1; expected more than D"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_at_definition(call, message):
    with pytest.raises(ModelSpecificationError, match=message):
        call()


_SPD = 2 * np.eye(2) + 1
_BROKEN = np.array([[1.0, 2.0], [2.0, 1.0]])
_CORRELATION = np.array([[1.0, 0.0], [0.6, 0.8]])
AT_RUN_TIME = [
    ("Wishart", {"degrees_of_freedom": [1.0]}, "`degrees_of_freedom` of variable `X`: got 1; expected more than D - 1"),
    ("Wishart", {"degrees_of_freedom": [np.nan]}, "`degrees_of_freedom` of variable `X` is nan at"),
    ("Wishart", {"scale": _BROKEN}, "`scale` of variable `X` is not positive definite: its smallest eigenvalue is -1"),
    ("Wishart by factor", {"scale_tril": np.zeros((2, 2))}, "`scale_tril` of variable `X` is singular"),
    ("LKJ", {"concentration": [-0.5]}, "`concentration` of variable `X`: got -0.5; expected positive numbers"),
]
AT_DENSITY = [
    (
        "Wishart",
        {"random_variable": [_SPD, _BROKEN]},
        r"`random_variable` of variable `X` is not .* at batch index \(1,\)",
    ),
    ("inverse Wishart", {"random_variable": [_SPD, np.nan * _SPD]}, r"`X` is nan at index \(1, 0, 0\)"),
    ("LKJ", {"random_variable": [_CORRELATION, np.eye(2) / 2]}, r"`random_variable` of .* got 0.5 as the norm of row"),
    ("LKJ", {"random_variable": [_CORRELATION, _CORRELATION.T]}, r"`X`: got 0.6 at index \(0, 1, 0, 1\), above"),
    ("LKJ", {"random_variable": [_CORRELATION, -np.eye(2)]}, r"`X`: got -1 at diagonal position .*CorrelationCholesky"),
    ("LKJ", {"random_variable": [_CORRELATION, np.nan * np.eye(2)]}, r"`X` is nan at index \(1, 0, 0\)"),
]


def broken(name, changes):
    case = CASES[name]
    arrays = {"degrees_of_freedom": [4.0], "scale": _SPD, "scale_tril": _CORRELATION, "concentration": [2.0]}
    arrays["random_variable"] = [_CORRELATION if name == "LKJ" else _SPD] * 2
    arrays = {key: np.asarray(value)[None] for key, value in {**arrays, **changes}.items()}
    return runtime(case, arrays, 2, 2)


@pytest.mark.parametrize(("name", "changes", "message"), AT_RUN_TIME + AT_DENSITY)
def test_refused_at_run_time(name, changes, message):
    distribution, variables = broken(name, changes)
    with pytest.raises(InferenceError, match=message):
        distribution.log_pdf(mx.nd, variables)
    if "random_variable" not in changes:
        with pytest.raises(InferenceError, match=message):
            distribution.draw_samples(mx.nd, variables, num_samples=3)
    mx.nd.waitall()


def test_a_policy_repairs_scale_and_value():
    model = Model()
    model.V = Variable(shape=(2, 2))
    model.X = Wishart(4.0, model.V, shape=(2, 2), dtype="float64", on_failure=OnFailure("project"))
    variables = {variable.uuid: variable.constant.expand_dims(0) for variable in model.get_constants()}
    variables.update({model.V.uuid: nd(_SPD[None]), model.X.uuid: nd(_SPD[None])})
    for broken_one, name in ((model.V, "scale"), (model.X, "random_variable")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            log_pdf = model.X.factor.log_pdf(mx.nd, {**variables, broken_one.uuid: nd(_BROKEN[None])})
            assert np.isfinite(log_pdf.asnumpy()).all()
        (message,) = [str(warning.message) for warning in caught if warning.category is RepairWarning]
        assert f"`{name}` of variable `X` is not positive definite" in message


def test_a_value_of_the_wrong_size_is_named(rng):
    distribution, variables = broken("Wishart", {})
    variables[list(variables)[-1]] = nd(np.ones((1, 2, 3, 3)))
    with pytest.raises(InferenceError, match=r"`scale` of variable `X`: got shape \(2, 2\); expected \(2, 3, 3\)"):
        distribution.log_pdf(mx.nd, variables)
