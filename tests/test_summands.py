# SPDX-License-Identifier: Apache-2.0
"""Totals are asked for by MXFusion's own sums alone; who else calls ``log_pdf`` gets rows, also in compiled runs."""

import warnings

from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import BatchLoop, CompiledLoop

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Model, Variable
from mxfusion.inference import MAP
from mxfusion.models.factor_graph import FactorGraph

from helpers.compiled_runs import assert_close_parameters, fitted
from helpers.host import nd

DATA = np.random.RandomState(0).normal(size=(30, 3)) + [1.0, 0.0, -1.0]
WEIGHTS = np.linspace(0.1, 2.0, 30)


class Weighted(MultivariateNormal):
    """A subclass that weighs the rows of its base."""

    def log_pdf(self, F, variables, targets=None):
        return super().log_pdf(F, variables) * nd(WEIGHTS[None], "float64")


class Halved(MultivariateNormal):
    """A subclass whose rows count half of those of its base."""

    def log_pdf_impl(self, mean, random_variable, F=None, **matrix):
        return 0.5 * super().log_pdf_impl(mean, random_variable, F, **matrix)


class Averaged(MultivariateNormal):
    """A mixture of its own kind, which calls the densities of its components."""

    component = None

    def log_pdf(self, F, variables, targets=None):
        one, other = super().log_pdf(F, variables), MultivariateNormal.log_pdf(self.component, F, variables)
        assert one.shape == other.shape == (1, 30)
        return mx.nd.log(0.5 * mx.nd.exp(one) + 0.5 * mx.nd.exp(other - 0.1))


class WeighingObjective(MAP):
    """An objective that calls the density of a factor itself."""

    def compute(self, F, variables):
        loss, _ = super().compute(F, variables)
        factor = next(factor for factor in self.model.ordered_factors if isinstance(factor, MultivariateNormal))
        rows = factor.log_pdf(F, variables)
        assert rows.shape == (1, 30)
        loss = loss - (rows * nd(WEIGHTS[None], "float64")).sum()
        return loss, loss


def model_of(kind):
    model = Model()
    model.N = Variable()
    model.mean = Variable(shape=(3,), initial_value=nd([0.0, 0.1, 0.2]))
    model.Y = kind(model.mean, 2.0, shape=(model.N, 3), dtype="float64")
    if kind is Averaged:
        model.Y.factor.component = model.Y.factor
    return model


def algorithm(kind, objective=MAP):
    model = model_of(kind)
    return objective(model, [model.Y])


def compared(create, *messages):
    runs = []
    for loop in (CompiledLoop(), BatchLoop()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runs.append(fitted(loop, create(), "float64", DATA, max_iter=40))
        said = [str(warning.message) for warning in caught if "overrides" in str(warning.message)]
        assert said == (list(messages) if isinstance(loop, CompiledLoop) else [])
    compiled, plain = runs
    assert compiled.record.compiled
    assert compiled.record.fallback_reason is None
    np.testing.assert_allclose(compiled.record.loss, plain.record.loss, rtol=1e-12)
    assert_close_parameters(compiled, plain, 1e-12)
    return compiled


def told(kind):
    return (
        f"`{kind.__name__}` overrides `log_pdf`, so that its rows are computed one by one in each step. Override "
        "`log_pdf_impl` instead."
    )


@pytest.mark.parametrize("kind", [Weighted, Averaged])
def test_a_subclass_that_overrides_the_density_gets_rows_and_is_told(kind):
    compared(lambda: algorithm(kind), told(kind))


def test_a_subclass_with_another_density_is_not_summed_as_its_base():
    compared(lambda: algorithm(Halved))


def test_an_objective_that_weighs_rows_gets_rows():
    compared(lambda: algorithm(MultivariateNormal, WeighingObjective))


def test_mxfusions_own_sum_gets_totals():
    loop = CompiledLoop()
    fitted(loop, algorithm(MultivariateNormal), "float64", DATA, max_iter=10)
    shapes = [line.rsplit("(", 1)[1] for line in loop.explain(graph=True).splitlines() if " = " in line and "%" in line]
    assert not any("30" in shape for shape in shapes)


def test_mxfusions_sum_is_put_back():
    before = FactorGraph.log_pdf
    fitted(CompiledLoop(), algorithm(MultivariateNormal), "float64", DATA, max_iter=10)
    assert FactorGraph.log_pdf is before
