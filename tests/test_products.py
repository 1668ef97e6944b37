# SPDX-License-Identifier: Apache-2.0
"""Large products of matrices: by which operator they are computed, and that they and their gradients are right."""

from mxfusion_mvn.compiler.passes import simplify
from mxfusion_mvn.compiler.program import Program

import mxnet as mx
import numpy as np
import pytest

from helpers.host import nd
from helpers.products import PRODUCTS
from helpers.tolerances import assert_close
from helpers.tracing import traced

# Of entries that are sums of up to 3200 products.
ROUNDING = {"float32": 3e-5, "float64": 1e-13}


@pytest.mark.parametrize("name", PRODUCTS)
def test_large_product(name, dtype, rng):
    product = PRODUCTS[name]
    x = nd(rng.normal(size=product.shape), dtype)
    expected = product.expected(x.asnumpy().astype("float64"))
    weights = rng.normal(size=expected.shape).astype(dtype)
    loss, graph = traced(lambda: (product.compute(x) * nd(weights, dtype)).sum(), {"x": x})
    graph = simplify(graph)
    assert getattr(product, dtype) in graph.operators()
    gradients = {"x": mx.nd.zeros_like(x)}
    program = Program(graph, {"x": x}, gradients, mx.cpu())
    program.run()
    program.deliver()
    scale = np.abs(expected * weights).sum()
    assert_close(program.loss / scale, [(expected * weights).sum() / scale], rtol=0, atol=ROUNDING[dtype])
    scale = np.abs(x.grad.asnumpy()).max()
    assert_close(gradients["x"] / scale, x.grad.asnumpy() / scale, rtol=0, atol=ROUNDING[dtype])


SYSTEMS = {
    "solve": ("trsm", {"rightside": True, "transpose": True}, lambda factor, x: x @ np.linalg.inv(factor).T),
    "solve transposed": ("trsm", {"rightside": True, "alpha": 3.0}, lambda factor, x: 3 * x @ np.linalg.inv(factor)),
    "multiply": ("trmm", {"rightside": True, "transpose": True}, lambda factor, x: x @ factor.T),
    "multiply transposed": ("trmm", {"rightside": True, "alpha": -1.0}, lambda factor, x: -x @ factor),
}


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("name", SYSTEMS)
def test_system_with_a_constant_factor_is_a_product(name, size, dtype, rng):
    operator, attributes, expected = SYSTEMS[name]
    factor = np.tril(rng.normal(size=(1, size, size))) + 4 * np.eye(size)
    x = nd(rng.normal(size=(1, 20, size)), dtype)
    stored = nd(factor + np.triu(np.ones((size, size)), 1), dtype)  # of which the upper triangle is not read
    loss, graph = traced(lambda: getattr(mx.nd.linalg, operator)(stored, x, **attributes).square().sum(), {"x": x})
    graph = simplify(graph)
    assert not {"_linalg_trsm", "_linalg_trmm"} & set(graph.operators())
    gradients = {"x": mx.nd.zeros_like(x)}
    program = Program(graph, {"x": x}, gradients, mx.cpu())
    program.run()
    program.deliver()
    assert_close(program.loss, [(expected(factor[0], x.asnumpy()) ** 2).sum()], rtol=ROUNDING[dtype])
    assert_close(gradients["x"], x.grad.asnumpy(), rtol=0, atol=ROUNDING[dtype] * np.abs(x.grad.asnumpy()).max())


def test_system_that_is_singular_or_large_or_of_a_parameter_stays(rng):
    rows = nd(rng.normal(size=(1, 20, 3)), "float32")
    factor = nd(np.eye(3)[None], "float32")
    singular = nd(np.diag([1.0, 0.0, 2.0])[None], "float32")
    many = nd(rng.normal(size=(1, 10000, 10)), "float32")
    wide = nd(np.eye(10)[None], "float32")
    for matrix, x, parameters in (
        (singular, rows, {"x": rows}),
        (wide, many, {"x": many}),
        (factor, rows, {"x": rows, "factor": factor}),
    ):
        _, graph = traced(lambda: mx.nd.linalg.trsm(matrix, x, rightside=True).sum(), parameters)  # noqa: B023
        assert "_linalg_trsm" in simplify(graph).operators()


def test_product_with_an_inverse_is_as_accurate_as_substitution(rng):
    """For vectors drawn from a covariance of condition 1e12, against substitution in 80 bits."""
    size = 12
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    factor = np.linalg.cholesky((basis * np.geomspace(1, 1e-12, size)) @ basis.T)
    x = rng.normal(size=(50, size)) @ factor.T
    exact = np.zeros_like(x, dtype="longdouble")
    for i in range(size):
        exact[:, i] = (x[:, i] - exact[:, :i] @ factor[i, :i]) / factor[i, i]
    stored, rows, exact = nd(factor[None], "float64"), nd(x[None], "float64"), nd(exact[None], "float64")

    def squared_error():
        return (mx.nd.linalg.trsm(stored, rows, rightside=True, transpose=True) - exact).square().sum()

    by_substitution, graph = traced(squared_error, {"x": rows})
    graph = simplify(graph)
    program = Program(graph, {"x": rows}, {"x": mx.nd.zeros_like(rows)}, mx.cpu())
    program.run()
    program.deliver()
    assert "_linalg_trsm" not in graph.operators()
    assert program.loss.asscalar() <= 4 * by_substitution.asscalar()
