# SPDX-License-Identifier: Apache-2.0
"""Operators that are no formulas, as the native engine runs them on arrays that lie in any way, against MXNet's."""

from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.native.lowerings import LOWERINGS
from mxfusion_mvn.compiler.native.places import bytes_of
from mxfusion_mvn.compiler.native.views import Unknown

import numpy as np
import pytest
from scipy import special

from helpers.native_graphs import Calls, exact

DTYPES = ["float32", "float64"]
SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100]
# How an array may lie in memory: each is given an array and makes an entry of its shape.
LAYOUTS = {
    "dense": lambda calls, x: calls.parameter(x),
    "constant": lambda calls, x: calls.constant(x),
    "data": lambda calls, x: calls.data(x),
    "transposed": lambda calls, x: calls.call(
        "SwapAxis", calls.parameter(x.swapaxes(-1, -2)), dim1=x.ndim - 2, dim2=x.ndim - 1
    ),
    "first_last": lambda calls, x: calls.call("SwapAxis", calls.parameter(x.swapaxes(0, -1)), dim1=0, dim2=x.ndim - 1),
    "repeated": lambda calls, x: calls.call("broadcast_to", calls.parameter(x[:1]), shape=x.shape),
    "sliced": lambda calls, x: calls.call(
        "slice_axis", calls.parameter(np.concatenate([x, x + 1], axis=-1)), axis=-1, begin=1, end=x.shape[-1] + 1
    ),
    "later": lambda calls, x: calls.call(
        "slice_axis", calls.parameter(np.concatenate([x, x], axis=0)), axis=0, begin=1, end=len(x) + 1
    ),
    "computed": lambda calls, x: calls.call("negative", calls.parameter(-x)),
}


def laid_out(calls, rng, x):
    """An entry with the values of an array, or with others of that shape, that lies in any way."""
    if x.ndim < 2:
        return calls.parameter(x)
    return LAYOUTS[sorted(LAYOUTS)[rng.integers(len(LAYOUTS))]](calls, x)


def assert_right(calls, wanted, digits=8):
    """All results are those of MXNet in float64, to some units of the last digit of the largest entry of each."""
    values = exact(calls.nodes)
    tolerance = digits * np.finfo(calls.dtype).eps
    for entry, got in zip(wanted, calls.run(*wanted)):
        expected = values[entry].asnumpy()
        assert got.shape == expected.shape
        scale = max(np.abs(expected).max(), 1e-3)
        where = entry.node.operator, entry.node.attributes, [source.shape for source in entry.inputs]
        np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=tolerance, err_msg=str(where))


# Operators that move, sum and join: shapes of their inputs, and their attributes.
MOVED = {
    "Reshape": [([(4, 6)], {"shape": (3, 8)}), ([(2, 3, 4)], {"shape": (-1,)}), ([(1, 3, 1, 5)], {"shape": (3, 5)})],
    "_np_reshape": [([(4, 6)], {"newshape": (6, 4)}), ([(2, 1, 5)], {"newshape": (1, 2, 5)})],
    "reshape_like": [([(4, 6), (8, 3)], {})],
    "expand_dims": [([(4, 6)], {"axis": 1}), ([(4, 6)], {"axis": -1}), ([(4, 6)], {"axis": 0})],
    "squeeze": [([(4, 1, 6)], {}), ([(1, 4, 1)], {"axis": 0})],
    "Flatten": [([(4, 2, 3)], {})],
    "BlockGrad": [([(4, 6)], {})],
    "broadcast_to": [([(1, 6)], {"shape": (5, 6)}), ([(3, 1, 4)], {"shape": (3, 7, 4)})],
    "broadcast_axis": [([(1, 6, 1)], {"axis": (0, 2), "size": (3, 4)}), ([(4, 1)], {"axis": 1, "size": 9})],
    "broadcast_like": [([(1, 6), (5, 6)], {})],
    "transpose": [
        ([(4, 6)], {}),
        ([(2, 3, 4)], {"axes": (1, 2, 0)}),
        ([(2, 3, 4, 5)], {"axes": (0, 3, 1, 2)}),
        ([(2, 3, 4)], {}),
    ],
    "SwapAxis": [([(2, 3, 4)], {"dim1": 0, "dim2": 2}), ([(2, 3, 4, 2)], {"dim1": 1, "dim2": 3})],
    "slice_axis": [
        ([(5, 6)], {"axis": 0, "begin": 1, "end": 4}),
        ([(5, 6)], {"axis": -1, "begin": -3, "end": None}),
        ([(2, 5, 6)], {"axis": 1, "begin": 2, "end": -1}),
    ],
    "SliceChannel": [
        ([(4, 6)], {"num_outputs": 3, "axis": 1}),
        ([(4, 6)], {"num_outputs": 4, "axis": 0, "squeeze_axis": True}),
        ([(2, 4, 6)], {"num_outputs": 2, "axis": -1}),
    ],
    "_linalg_extractdiag": [
        ([(5, 5)], {}),
        ([(2, 3, 4, 4)], {}),
        ([(2, 4, 4)], {"offset": 1}),
        ([(2, 4, 4)], {"offset": -2}),
        ([(3, 1, 1)], {}),
    ],
    "Concat": [
        ([(2, 3), (2, 4), (2, 1)], {"dim": 1, "num_args": 3}),
        ([(2, 3, 4), (5, 3, 4)], {"dim": 0, "num_args": 2}),
    ],
    "stack": [([(2, 3), (2, 3)], {"axis": 0, "num_args": 2}), ([(2, 3), (2, 3), (2, 3)], {"axis": -1, "num_args": 3})],
    "slice": [
        ([(5, 6)], {"begin": (1, 2), "end": (4, 6)}),
        ([(5, 6)], {"begin": (4, 0), "end": (0, 6), "step": (-2, 3)}),
    ],
    "reverse": [([(5, 6)], {"axis": 0}), ([(2, 3, 4)], {"axis": (1, 2)})],
    "tile": [([(2, 3)], {"reps": (2, 1, 3)})],
    "repeat": [([(2, 3)], {"repeats": 2, "axis": 1}), ([(2, 3)], {"repeats": 3})],
    "_linalg_makediag": [([(4,)], {}), ([(2, 3)], {"offset": -1}), ([(2, 3, 1)], {})],
    "_linalg_maketrian": [([(6,)], {}), ([(2, 6)], {"lower": False}), ([(2, 3, 3)], {"offset": -1})],
    "_linalg_extracttrian": [([(4, 4)], {}), ([(2, 4, 4)], {"offset": 1}), ([(2, 4, 4)], {"offset": -1})],
    "add_n": [([(2, 3)] * count, {"num_args": count}) for count in (1, 2, 3, 5)],
    "sum": [
        ([(2, 3, 4, 5)], {"axis": axis, **more})
        for axis in [(), 0, 1, -1, (0, 2), (1, 3), (0, 3), (1, 2)]
        for more in [{}, {"keepdims": True}, {"exclude": True}]
    ],
    "mean": [([(40, 33)], {}), ([(40, 33)], {"axis": 0}), ([(7, 40, 33)], {"axis": 1}), ([(7, 1, 33)], {"axis": 1})],
    "max": [([(40, 33)], {}), ([(40, 33)], {"axis": 0}), ([(7, 40, 33)], {"axis": (0, 2)}), ([(3, 4)], {"axis": 1})],
    "_linalg_sumlogdiag": [([(5, 5)], {}), ([(2, 3, 4, 4)], {}), ([(6, 1, 1)], {})],
    "norm": [
        ([(2, 3, 4)], {"ord": order, "axis": axis, "keepdims": kept})
        for order, kept in [(1, False), (2, True)]
        for axis in [None, 0, -1, (0, 2)]
    ],
    "softmax": [([(2, 30, 4)], {"axis": axis}) for axis in (0, 1, -1)] + [([(3, 4)], {}), ([(3, 1)], {})],
    "log_softmax": [([(2, 30, 4)], {"axis": axis}) for axis in (0, 1, -1)] + [([(3, 4)], {}), ([(3, 1)], {})],
}
MATRICES = "_linalg_gemm2 batch_dot _linalg_syrk dot FullyConnected _linalg_trmm _linalg_trsm _linalg_potrf".split()
TABLES = ["take", "pick"]
OTHERS = ["Cast", "_random_normal", "random_normal", "_random_uniform", "random_uniform"]


def test_each_lowering_is_tested():
    assert {*MOVED, *MATRICES, *TABLES, *OTHERS} == {*LOWERINGS}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MOVED)
def test_moves_and_sums(name, dtype, rng):
    calls, wanted = Calls(dtype), []
    for shapes, attributes in MOVED[name]:
        for layout in LAYOUTS.values():
            arrays = [rng.uniform(0.5, 2, shape) for shape in shapes]
            entries = [layout(calls, x) if x.ndim > 1 else calls.parameter(x) for x in arrays]
            found = calls.call(name, *entries, **attributes)
            wanted += found if isinstance(found, list) else [found]
    assert_right(calls, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moves_by_tables(dtype, rng):
    calls = Calls(dtype)
    x = calls.call("transpose", calls.parameter(rng.normal(size=(5, 7))))
    rows, columns = calls.constant([3, 0, 3]), calls.constant(rng.integers(0, 5, 7), "int32")
    wanted = [calls.call("take", x, rows, axis=0), calls.call("take", x, rows, axis=1)]
    wanted += [calls.call("pick", x, columns, axis=1), calls.call("Cast", x, dtype="float64")]
    wanted += [calls.call("Cast", calls.call("Cast", x, dtype="float64"), dtype=dtype)]
    values = exact(calls.nodes)
    for entry in wanted:
        calls_results = {"float64": 0, "float32": 1e-6}[dtype]
        (got,) = calls.run(entry) if entry.dtype == np.dtype(dtype) else (values[entry].asnumpy(),)
        np.testing.assert_allclose(got, values[entry].asnumpy(), atol=calls_results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_products_and_squares(dtype, rng):
    """Which need no array of the products."""
    calls, wanted = Calls(dtype), []
    for shape in [(3, 4), (2, 3, 40), (50, 16), (5, 1), (1, 9)]:
        for axis in [(), 0, -1]:
            for operator in ("elemwise_mul", "broadcast_mul"):
                x, y = (laid_out(calls, rng, rng.uniform(0.5, 2, shape)) for _ in "xy")
                wanted.append(calls.call("sum", calls.call(operator, x, y), axis=axis))
            x = laid_out(calls, rng, rng.uniform(0.5, 2, shape))
            wanted.append(calls.call("sum", calls.call("square", x), axis=axis))
            row = calls.parameter(rng.uniform(0.5, 2, (1, shape[-1])))
            x = calls.parameter(rng.uniform(0.5, 2, (shape[0], shape[-1])))
            wanted.append(calls.call("mean", calls.call("broadcast_mul", x, row), axis=axis))
    assert_right(calls, wanted, 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sums(dtype, rng):
    """As exact as MXNet's in float32, which carry what is rounded off."""
    calls = Calls(dtype)
    x = calls.parameter(rng.uniform(size=(100_000, 3)))
    wanted = [calls.call("sum", x, axis=axis) for axis in ((), 0)]
    wanted += [
        calls.call("sum", calls.call("transpose", x), axis=1),
        calls.call("sum", calls.call("square", x), axis=0),
    ]
    assert_right(calls, wanted, {"float32": 4, "float64": 100}[dtype])


def test_the_largest_entry_is_nan_where_one_is():
    calls = Calls()
    x = np.ones((4, 5))
    x[1, 2], x[2, 0], x[3] = np.nan, np.nan, -np.inf
    wanted = [calls.call("max", calls.parameter(x), axis=axis) for axis in (0, 1)]
    for entry, got in zip(wanted, calls.run(*wanted)):
        assert np.array_equal(got, calls.values[entry].asnumpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_tiny_and_huge_entries(dtype):
    huge, tiny = np.finfo(dtype).max / 4, np.finfo(dtype).tiny
    x = np.array([[3 * tiny, 4 * tiny], [huge, huge], [0, 0], [0, -2], [1e-30, 1]])
    calls = Calls(dtype)
    (got,) = calls.run(calls.call("norm", calls.parameter(x), axis=1))
    np.testing.assert_allclose(got, np.hypot(*x.T), rtol=4 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_entries_far_apart(dtype):
    x = np.array([[1000.0, 0, -1000], [1e5, 1e5, 1e5 - 1], [-3e4, -3e4 + 2, -3e4], [-np.inf, 0, 1]])
    calls = Calls(dtype)
    wanted = [calls.call(name, calls.parameter(x), axis=1) for name in ("softmax", "log_softmax")]
    for got, function in zip(calls.run(*wanted), (special.softmax, special.log_softmax)):
        np.testing.assert_allclose(got, function(x, axis=1), rtol=8 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)


def sizes(rng, count, most=40_000):
    """Triples of sizes, products of which are not too large."""
    while count:
        found = [SIZES[i] for i in rng.integers(len(SIZES), size=3)]
        if np.prod(found) <= most:
            count -= 1
            yield found


@pytest.mark.parametrize("dtype", DTYPES)
def test_products(dtype, rng):
    calls, wanted = Calls(dtype), []
    edges = [(1, n, k) for n in (1, 8, 33) for k in (1, 7, 64)] + [(300, 130, 100), (130, 1, 300), (1, 300, 130)]
    for number, (m, n, k) in enumerate([*edges, *sizes(rng, 150)]):
        batch = [(), (1,), (3,), (2, 3)][rng.integers(4)] if m < 300 else ()
        turned = [bool(flag) for flag in rng.integers(2, size=2)]
        a, b = rng.uniform(0.2, 2, (*batch, m, k)), rng.uniform(0.2, 2, (*batch, k, n))
        a, b = (x.swapaxes(-1, -2) if is_turned else x for x, is_turned in zip((a, b), turned))
        flags = {"transpose_a": turned[0], "transpose_b": turned[1]}
        x, y = laid_out(calls, rng, a), laid_out(calls, rng, b)
        wanted.append(calls.call("_linalg_gemm2", x, y, alpha=[1.0, -0.5][number % 2], **flags))
        if len(batch) == 1:
            wanted.append(calls.call("batch_dot", x, y, **flags))
        if not batch:
            wanted.append(calls.call("dot", x, y, **flags))
        if number % 3 == 0:
            wanted.append(calls.call("_linalg_syrk", x, transpose=bool(turned[1]), alpha=1.5))
        if m * k <= 1000:
            triangle = laid_out(calls, rng, rng.uniform(0.2, 2, (*batch, k, k)))
            for is_right in (False, True):
                other = laid_out(calls, rng, rng.uniform(0.2, 2, (*batch, m, k) if is_right else (*batch, k, m)))
                flags = {"rightside": is_right, "transpose": turned[0], "alpha": -2.0}
                wanted.append(calls.call("_linalg_trmm", triangle, other, **flags))
    assert_right(calls, wanted, 40)


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_products(dtype, rng):
    calls = Calls(dtype)
    vector, other = (calls.parameter(rng.normal(size=6)) for _ in "ab")
    matrix, cube = calls.parameter(rng.normal(size=(5, 6))), calls.parameter(rng.normal(size=(3, 5, 6)))
    turned = calls.call("transpose", matrix)
    wanted = [calls.call("dot", vector, other), calls.call("dot", matrix, vector), calls.call("dot", vector, turned)]
    wanted += [calls.call("dot", cube, turned), calls.call("dot", cube, matrix, transpose_b=True)]
    wanted += [calls.call("dot", calls.parameter(rng.normal(size=(6, 2, 4))), cube, transpose_a=True, transpose_b=True)]
    for no_bias, flatten, shape in [(False, True, (4, 3, 2)), (True, True, (4, 6)), (False, False, (2, 4, 6))]:
        weights = [matrix] if no_bias else [matrix, calls.parameter(rng.normal(size=5))]
        attributes = {"num_hidden": 5, "no_bias": no_bias, "flatten": flatten}
        wanted.append(calls.call("FullyConnected", calls.parameter(rng.normal(size=shape)), *weights, **attributes))
    assert_right(calls, wanted, 32)


def factors(rng, *shape):
    """Lower triangles that are not nearly singular; above the diagonal is what nobody may read."""
    found = rng.normal(size=shape) / shape[-1]
    found[..., np.arange(shape[-1]), np.arange(shape[-1])] = rng.uniform(1, 2, shape[:-1])
    return found


# Where a strip, a block of rows or our own loops end, and where BLAS begins.
SYSTEMS = [(1, 1), (8, 1), (33, 1), (399, 1), (400, 3), (100, 64), (130, 47), (399, 33)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_right", [False, True])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_solves(is_transposed, is_right, dtype, rng):
    calls, wanted = Calls(dtype), []
    for number, (d, n, _) in enumerate([*sizes(rng, 60), *((d, n, 1) for d, n in SYSTEMS)]):
        batch = [(), (1,), (3,), (8,), (17,), (2, 20)][rng.integers(6)] if d * d * n < 40_000 else ()
        factor = laid_out(calls, rng, factors(rng, *batch, d, d))
        if batch and number % 3 == 0:
            one = calls.parameter(factors(rng, *(1 for _ in batch), d, d))
            factor = calls.call("broadcast_to", one, shape=(*batch, d, d))
        if "slice" in factor.node.operator or "SwapAxis" in factor.node.operator or d == 1:
            factor = calls.parameter(factors(rng, *batch, d, d))  # a slice has another diagonal
        other = laid_out(calls, rng, rng.normal(size=(*batch, n, d) if is_right else (*batch, d, n)))
        flags = {"transpose": is_transposed, "rightside": is_right, "alpha": [1.0, -0.5][number % 2]}
        wanted.append(calls.call("_linalg_trsm", factor, other, **flags))
    assert_right(calls, wanted, 60)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky_factors(dtype, rng):
    calls, wanted = Calls(dtype), []
    for d in [*SIZES, *range(3, 30), 130, 399, 400]:
        for batch in [(), (1,), (7,), (16,), (2, 20)] if d in SIZES[:-2] else [(), (2,)]:
            root = rng.normal(size=(*batch, d, d + 3))
            matrix = root @ root.swapaxes(-1, -2) / d + np.eye(d)
            for layout in ("dense", "transposed", "computed"):
                wanted.append(calls.call("_linalg_potrf", LAYOUTS[layout](calls, matrix)))
    assert_right(calls, wanted, 100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 6, 7, 8, 9, 16, 32, 33, 64, 100])
def test_a_matrix_that_is_not_positive_definite_gives_nan_itself(d, dtype, rng):
    root = rng.normal(size=(40, d, d))
    matrices = root @ root.swapaxes(-1, -2) / d + np.eye(d)
    failing = {3: 0, 17: d // 2, 38: d - 1}
    for index, position in failing.items():
        matrices[index, position, position] = -1.0
    matrices[5, 0, 0] = np.nan
    calls = Calls(dtype)
    matrix = calls.parameter(matrices)
    with_factor = Calls(dtype)
    source = with_factor.parameter(np.stack([np.eye(d)] * 40))
    out = with_factor.call("_linalg_potrf", source)
    with_factor.parameters["p0"][:] = calls.values[matrix]
    (got,) = with_factor.run(out)
    bad = [*failing, 5]
    assert np.isnan(got[bad]).all()
    good = [index for index in range(40) if index not in bad]
    expected = np.linalg.cholesky(matrices[good].astype(dtype).astype("float64"))
    np.testing.assert_allclose(got[good], expected, atol=100 * np.finfo(dtype).eps * np.abs(expected).max())


UNKNOWN = {
    "argmax": ([(3, 4)], {"axis": 1}),
    "cumsum": ([(3, 4)], {"axis": 1}),
    "_linalg_inverse": ([(3, 3)], {}),
    "softmax": ([(3, 4)], {"temperature": 2.0}),
    "log_softmax": ([(3, 4)], {"dtype": "float64"}),
    "erfinv": ([(3, 4)], {}),
    "min": ([(3, 4)], {}),
}
UPPER = ["_linalg_trmm", "_linalg_trsm", "_linalg_potrf"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_operator_that_is_unknown_is_named(name, rng):
    shapes, attributes = UNKNOWN[name]
    calls = Calls()
    out = calls.call(name, *(calls.parameter(rng.uniform(0.1, 0.9, shape)) for shape in shapes), **attributes)
    with pytest.raises(Unknown, match=f"`{name}`"):
        calls.program([out])


@pytest.mark.parametrize("name", UPPER)
def test_upper_triangles_are_left_to_mxnet(name):
    calls = Calls()
    entries = [calls.parameter(np.eye(3)) for _ in range(1 if "potrf" in name else 2)]
    with pytest.raises(Unknown, match=f"`{name}` of an upper triangle"):
        calls.program([calls.call(name, *entries, lower=False)])


def test_entries_of_other_types_are_left_to_mxnet():
    calls = Calls()
    x = calls.parameter(np.eye(3))
    for dtype in ("float16", "int32"):
        other = Calls()
        with pytest.raises(Unknown, match=f"entries of {dtype}"):
            other.program([other.call("Cast", other.parameter(np.eye(3)), dtype=dtype)])
    out = calls.call("Cast", x, dtype="float64")
    with pytest.raises(Unknown, match="float64"):
        calls.program([out])
    chosen = calls.call("take", x, calls.call("Cast", calls.parameter([1.0]), dtype="float32"))
    with pytest.raises(Unknown, match="`take` by entries that change"):
        calls.program([chosen])


def test_an_array_of_too_many_axes_is_refused(rng):
    calls = Calls()
    x = calls.call("transpose", calls.parameter(rng.normal(size=(2, 3, 2, 3, 2, 3))), axes=(5, 3, 1, 4, 2, 0))
    with pytest.raises(Unknown, match="axes"):
        calls.program([calls.call("exp", x)])


class _Recorded(NativeProgram):
    """Keeps its plan."""

    def _encoded(self, plan):
        self.plan = plan
        return super()._encoded(plan)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_still_read_is_in_no_other_place(dtype, rng):
    calls = Calls(dtype)
    pool = [calls.parameter(rng.normal(size=(6, 6))) for _ in range(3)]
    for number in range(120):
        x, y = (pool[i] for i in rng.integers(len(pool), size=2))
        operator = ["elemwise_add", "_linalg_gemm2", "tanh", "sum", "transpose"][number % 5]
        if operator == "sum":
            out = calls.call("broadcast_to", calls.call("sum", x, axis=0, keepdims=True), shape=(6, 6))
        else:
            out = calls.call("tanh", calls.call(operator, *[x, y][: 1 if operator in ("tanh", "transpose") else 2]))
        pool.append(out)
    program, _ = calls.program(pool[-5:], _Recorded)
    places, instructions = program._places, program.plan.instructions
    spans = {}
    for time, each in enumerate(instructions):
        for view in each.operands:
            if view.memory.array is None:
                first, _ = spans.get(view.memory, (time, time))
                spans[view.memory] = first, time
    assert places.size < sum(bytes_of(memory) for memory in spans) / 3
    items = list(spans.items())
    for i, (one, (begin, end)) in enumerate(items):
        for other, (start, stop) in items[:i]:
            if begin <= stop and start <= end:
                low, high = sorted([one, other], key=places.get)
                assert places[low] + bytes_of(low) <= places[high]
    assert_right(calls, pool[-5:], 1000)


def test_no_instruction_writes_where_it_reads(rng):
    """The loops of the engine may count on that."""
    calls = Calls()
    x, y = (calls.parameter(rng.normal(size=(4, 5))) for _ in "xy")
    out = calls.call("add_n", x, y, x, y, num_args=4)
    program, _ = calls.program([calls.call("transpose", out), out], _Recorded)
    for each in program.plan.instructions:
        assert each.operands[0].memory not in [view.memory for view in each.operands[1:]]
