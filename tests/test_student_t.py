# SPDX-License-Identifier: Apache-2.0
"""The multivariate Student t: any degrees of freedom, and any distance from its mean."""

from mxfusion_mvn import (
    MultivariateStudentT,
    NotPositiveDefiniteError,
)
from mxfusion_mvn.inference import CompiledLoop
from mxfusion_mvn.transformations import Positive, PositiveDefinite

import mpmath
import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import MAP, GradBasedInference
from scipy.stats import kstest, multivariate_t
from scipy.stats import t as student_t

from helpers import oracles
from helpers.fitting import fit_at_rates
from helpers.host import declare, nd
from helpers.tolerances import assert_close


def test_map_of_a_student_t_is_the_fixed_point_of_em(rng):
    data = rng.standard_t(4.0, size=(300, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]]) + [1.0, -1.0]
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(2,))
    model.S = Variable(shape=(2, 2), transformation=PositiveDefinite(), initial_value=nd(np.eye(2)))
    model.X = MultivariateStudentT(4.0, model.mean, model.S, shape=(model.N, 2), dtype="float64")
    inference = fit_at_rates(
        GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64"), nd(data), max_iter=200
    )
    mean, scale = data.mean(0), np.cov(data.T)
    for _ in range(500):  # Liu and Rubin, Statistica Sinica 5, 1995
        centred = data - mean
        weights = (4.0 + 2) / (4.0 + np.einsum("ni,ij,nj->n", centred, np.linalg.inv(scale), centred))
        mean = weights @ data / weights.sum()
        scale = np.einsum("n,ni,nj->ij", weights, data - mean, data - mean) / len(data)
    assert_close(inference.params[model.mean], mean, rtol=0, atol=2e-3)
    assert_close(inference.params[model.S], scale, rtol=0, atol=5e-3)


def test_degrees_of_freedom_are_learned(rng):
    data = rng.standard_t(3.0, size=(4000, 1))
    model = Model()
    model.N = Variable()
    model.freedom = Variable(shape=(1,), transformation=Positive(), initial_value=nd(np.array([10.0]), "float64"))
    model.X = MultivariateStudentT(model.freedom, shape=(model.N, 1), dtype="float64")
    inference = fit_at_rates(
        GradBasedInference(MAP(model, [model.X]), grad_loop=CompiledLoop(), dtype="float64"), nd(data), (0.3, 0.05), 150
    )
    grid = np.linspace(2, 5, 601)
    best = grid[np.argmax([student_t.logpdf(data, df).sum() for df in grid])]
    assert_close(inference.params[model.freedom], [best], rtol=0, atol=0.01)


@pytest.mark.parametrize("freedom", [30.0, 1e4, 1e6])
def test_many_degrees_of_freedom_in_float32(freedom):
    """The difference of the log gammas cancels, in the value and more so in the gradient."""
    model = declare(MultivariateStudentT, (1, 3), "float32", degrees_of_freedom=(1,))
    variables = {v.uuid: v.constant.expand_dims(0) for v in model.get_constants()}
    variables[model.X.uuid] = nd(np.ones((1, 1, 3)), "float32")
    freedoms = nd(np.array([[freedom]]), "float32")
    freedoms.attach_grad()
    variables[model.degrees_of_freedom.uuid] = freedoms
    with mx.autograd.record():
        log_pdf = model.X.factor.log_pdf(mx.nd, variables)
        log_pdf.backward()

    def exact(nu):
        gammas = mpmath.loggamma((nu + 3) / 2) - mpmath.loggamma(nu / 2)
        return gammas - 1.5 * mpmath.log(nu * mpmath.pi) - (nu + 3) / 2 * mpmath.log1p(3 / nu)

    with mpmath.workdps(60):
        value, slope = exact(mpmath.mpf(freedom)), mpmath.diff(exact, mpmath.mpf(freedom))
    assert_close(log_pdf, [[float(value)]], rtol=3e-6)
    assert_close(freedoms.grad, [[float(slope)]], rtol=0.02, atol=1e-12)


@pytest.mark.parametrize("recorded", [False, True], ids=["evaluated", "recorded"])
@pytest.mark.parametrize("freedom", [3.0, 1e6, 1e12, 1e16, 1e30, 1e38, np.inf])
def test_a_student_t_with_many_degrees_of_freedom_is_the_normal(freedom, recorded, dtype, rng):
    value, mean, covariance = rng.normal(size=(4, 3)), rng.normal(size=3), oracles.random_spd(rng, (), 3)
    value, mean, covariance = (a.astype(dtype).astype("float64") for a in (value, mean, covariance))
    factor = MultivariateStudentT(
        freedom, mean.astype(dtype), covariance.astype(dtype), shape=(4, 3), dtype=dtype
    ).factor
    freedoms = nd([[[freedom]]], dtype)
    freedoms.attach_grad()
    arrays = {"degrees_of_freedom": freedoms, "mean": nd(mean[None, None], dtype)}
    arrays.update(covariance=nd(covariance[None, None], dtype), random_variable=nd(value[None], dtype))
    with mx.autograd.record() if recorded else mx.autograd.pause():
        got = factor.log_pdf_impl(**arrays)
    if recorded:
        got.backward()
        assert np.isfinite(freedoms.grad.asnumpy()).all()
    expected = []
    with mpmath.workdps(80):
        nu = mpmath.mpf(float(nd([freedom], dtype).asscalar()))
        for row in value:
            residual, matrix = mpmath.matrix((row - mean).tolist()), mpmath.matrix(covariance.tolist())
            squares = (residual.T * matrix**-1 * residual)[0]
            if mpmath.isinf(nu):
                log_p = -squares / 2 - 3 * mpmath.log(2 * mpmath.pi) / 2
            else:
                log_p = mpmath.loggamma((nu + 3) / 2) - mpmath.loggamma(nu / 2) - 3 * mpmath.log(nu * mpmath.pi) / 2
                log_p -= (nu + 3) / 2 * mpmath.log1p(squares / nu)
            expected.append(float(log_p - mpmath.log(mpmath.det(matrix)) / 2))
    assert_close(got, [expected], **({"rtol": 2e-5} if dtype == "float32" else {"rtol": 1e-11}))


@pytest.mark.parametrize("freedom", [1e7, 1e30, np.inf])
def test_draws_of_a_student_t_with_many_degrees_of_freedom_are_normal(freedom, dtype, rng):
    factor = MultivariateStudentT(freedom, shape=(20000, 2), dtype=dtype).factor
    arrays = {"degrees_of_freedom": nd([[[freedom]]], dtype), "mean": nd(np.zeros((1, 1, 2)), dtype)}
    drawn = factor.draw_samples_impl(rv_shape=(20000, 2), covariance=nd(np.eye(2)[None, None], dtype), **arrays)
    assert kstest(drawn.asnumpy().ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, -np.inf], ids=str)
def test_draws_with_bad_degrees_of_freedom_return(bad, dtype):
    """MXNet's gamma sampler would never return; while recording nobody looks at the parameters first."""
    factor = MultivariateStudentT(3.0, shape=(2, 3), dtype=dtype).factor
    arrays = {"degrees_of_freedom": nd([[[4.0], [bad]]], dtype), "mean": nd(np.zeros((1, 1, 3)), dtype)}
    with mx.autograd.record():
        drawn = factor.draw_samples_impl(rv_shape=(2, 3), covariance=nd(np.eye(3)[None, None], dtype), **arrays)
    drawn = drawn.asnumpy()
    assert drawn.shape == (1, 2, 3)
    assert np.isfinite(drawn[0, 0]).all()
    assert np.isnan(drawn[0, 1]).all()


@pytest.mark.parametrize("size", [1e3, 1e17, 1e20, 1e30, 1e38])
def test_a_student_t_far_out(size, dtype):
    """Squares overflow in float32, and the density does not."""
    factor = MultivariateStudentT(3.0, shape=(1, 2), dtype=dtype).factor
    arrays = {"degrees_of_freedom": nd([[[3.0]]], dtype), "mean": nd(np.zeros((1, 1, 2)), dtype)}
    value = nd([[[size, 0.0]]], dtype)
    got = factor.log_pdf_impl(random_variable=value, covariance=nd(np.eye(2)[None, None], dtype), **arrays)
    expected = multivariate_t.logpdf(value.asnumpy()[0].astype("float64"), np.zeros(2), np.eye(2), df=3)
    assert_close(got, [[expected]], rtol=1e-6)
    with mx.autograd.record():
        recorded = factor.log_pdf_impl(random_variable=value, covariance=nd(np.eye(2)[None, None], dtype), **arrays)
    assert not np.isnan(recorded.asnumpy()).any()


def test_a_failure_of_training_is_reported_by_name(rng):
    """The degrees of freedom must not be read before the matrix, or they take the error for themselves."""
    model = Model()
    model.N = Variable()
    model.C = Variable(shape=(2, 2), initial_value=nd(np.array([[1.0, 0.9], [0.9, 1.0]]), "float32"))
    model.X = MultivariateStudentT(4.0, covariance=model.C, shape=(model.N, 2))
    inference = GradBasedInference(MAP(model, [model.X]))
    with pytest.raises(NotPositiveDefiniteError, match="`covariance` of variable `X`"):
        inference.run(X=nd(rng.normal(size=(50, 2)), "float32"), optimizer="sgd", learning_rate=1.0, max_iter=20)
