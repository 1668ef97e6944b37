# SPDX-License-Identifier: Apache-2.0
"""Arguments of every kind to bijections, transformations, mixtures, missing entries and functions.

Each call gives finite numbers or NaN that was put in, or is refused by an error of the package that names an argument.
"""

from mxfusion_mvn import Gaussian, bijections, functions, mixture, transformations
from mxfusion_mvn.missing import PartlyObserved

import mxnet as mx
import numpy as np
import pytest
from mxfusion import Variable
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError

from helpers.host import nd
from helpers.tolerances import assert_close

KINDS = (
    "Real",
    "Positive",
    "Interval",
    "Simplex",
    "Ordered",
    "LowerCholesky",
    "PositiveDefinite",
    "CorrelationCholesky",
)
SHARES = [0.2, 0.3, 0.5]
VALUES = {
    "None": lambda: None,
    "integer": lambda: 2,
    "number": lambda: 1.5,
    "one": lambda: 1.0,
    "negative": lambda: -1.0,
    "NaN": lambda: float("nan"),
    "bool": lambda: True,
    "string": lambda: "abc",
    "list": lambda: SHARES,
    "nested list": lambda: [[1.0, 0.0], [0.0, 1.0]],
    "tuple": lambda: (1.0, 2.0),
    "shape": lambda: (4, 3, 3),
    "transformation": lambda: transformations.Positive(),
    "dict": lambda: {"a": 1},
    "object": lambda: object(),
    "NumPy number": lambda: np.float64(2.0),
    "NumPy, no axes": lambda: np.array(2.0),
    "NumPy, empty": lambda: np.zeros(0),
    "NumPy float32": lambda: np.array(SHARES, dtype="float32"),
    "NumPy float64": lambda: np.array(SHARES),
    "NumPy matrix": lambda: np.eye(3),
    "NumPy matrices": lambda: np.ones((2, 3, 3)),
    "NumPy integers": lambda: np.arange(3),
    "NumPy objects": lambda: np.array([None, 1], dtype=object),
    "NumPy with NaN": lambda: np.array([[np.nan, 1.0, 2.0]]),
    "vector": lambda: nd(SHARES, "float32"),
    "two shares": lambda: nd([0.4, 0.6], "float32"),
    "one entry": lambda: nd([1.0], "float32"),
    "1 x 1": lambda: nd([[1.0]], "float32"),
    "float64": lambda: nd(SHARES),
    "integers": lambda: nd([1, 2, 3], "int32"),
    "float16": lambda: nd([1, 2, 3], "float16"),
    "matrix": lambda: nd(np.eye(3), "float32"),
    "wide": lambda: nd(np.ones((2, 3)), "float32"),
    "matrices": lambda: nd(np.ones((2, 3, 3)) * 0.1 + np.eye(3), "float32"),
    "many": lambda: nd(np.ones((2, 2, 3, 3)), "float32"),
    "with NaN": lambda: nd([np.nan, 1, 2], "float32"),
    "with negative": lambda: nd([-1.0, -2.0, 3.0], "float32"),
    "four": lambda: nd(np.arange(4.0), "float32"),
    "five": lambda: nd(np.arange(5.0), "float32"),
    "six": lambda: nd(np.arange(6.0), "float32"),
    "sparse": lambda: nd(np.eye(3), "float32").tostype("csr"),
    "mx.np": lambda: mx.np.ones((3,)),
    "Symbol": lambda: mx.sym.Variable("x"),
    "Variable": lambda: Variable(shape=(3,)),
    "matrix Variable": lambda: Variable(shape=(3, 3)),
    "Gaussian": lambda: Gaussian(nd(np.zeros(3), "float32"), covariance=nd(np.eye(3), "float32")),
    "Gaussians": lambda: Gaussian(nd(np.zeros((2, 3)), "float32"), covariance=nd(np.eye(3)[None], "float32")),
    "Gaussians in float64": lambda: Gaussian(nd(np.zeros((2, 3))), variance=nd(np.ones((1, 3)))),
    "Gaussian of Symbols": lambda: Gaussian(mx.sym.Variable("m"), covariance=mx.sym.Variable("c")),
}


def of_kind(module, kind, method):
    return lambda value: getattr(getattr(module, kind)(), method)(value)


ONE_ARGUMENT = {
    f"{module.__name__.split('.')[-1]}.{kind}.{method}": of_kind(module, kind, method)
    for module in (bijections, transformations)
    for kind in KINDS
    for method in ("transform", "inverseTransform", "log_det_jacobian", "raw_shape")
    if hasattr(getattr(module, kind, None), method)
}
ONE_ARGUMENT.update(
    {
        "softplus": transformations.softplus,
        "correlation_factor_defect": transformations.correlation_factor_defect,
    }
)
# A call, how many arguments it has, and what makes sense for each: of random kinds hardly any would get past the first.
SEVERAL_ARGUMENTS = {
    "Interval": (lambda lower, upper: bijections.Interval(lower, upper).transform(nd(SHARES)), [["negative"], ["one"]]),
    "mixture.log_pdf": (mixture.log_pdf, [["vector", "matrix", "wide"], ["two shares", "one entry"], ["Gaussians"]]),
    "mixture.responsibilities": (mixture.responsibilities, [["vector", "wide"], ["two shares"], ["Gaussians"]]),
    "mixture.draw_samples": (mixture.draw_samples, [["two shares"], ["vector", "wide"], ["Gaussians"]]),
    "PartlyObserved": (
        lambda *arguments: PartlyObserved(*arguments).log_pdf(),
        [["Gaussian", "Gaussians"], ["NumPy with NaN", "wide"], ["None"], ["string"]],
    ),
    "PartlyObserved.draw_samples": (
        lambda *arguments: PartlyObserved(VALUES["Gaussian"](), nd([[np.nan, 1, 2]], "float32")).draw_samples(
            *arguments
        ),
        [["integer", "None"], ["matrices", "None"]],
    ),
    "linear": (functions.linear, [["NumPy matrix", "matrix"], ["Variable"], ["NumPy integers", "None"], ["None"]]),
    "scale_rows": (functions.scale_rows, [["matrix", "matrix Variable"], ["Variable", "vector"], ["None"], ["None"]]),
}
OURS = (InferenceError, ModelSpecificationError, ValueError)


def numbers_in(result):
    """All NDArrays of a result, read."""
    if isinstance(result, mx.nd.NDArray):
        return [result.asnumpy()]
    return [array for each in result for array in numbers_in(each)] if isinstance(result, (list, tuple)) else []


def outcome(call, names):
    arguments = [VALUES[name]() for name in names]
    error = None
    try:
        arrays = numbers_in(call(*arguments))
    except OURS as raised:
        error = raised
    mx.nd.waitall()  # no error may be left for the next reader
    if error is not None:
        assert "`" in str(error), f"{names}: {error}"
        return "refused"
    if not any("NaN" in name for name in names):
        assert all(np.isfinite(array).all() for array in arrays), names
    return "accepted"


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_one_argument_of_every_kind(name):
    outcomes = {outcome(ONE_ARGUMENT[name], [value]) for value in VALUES}
    assert outcomes == {"refused", "accepted"}


@pytest.mark.parametrize("name", SEVERAL_ARGUMENTS)
def test_several_arguments_of_random_kinds(name, rng):
    call, sensible = SEVERAL_ARGUMENTS[name]
    everything, outcomes = list(VALUES), set()
    for _ in range(60):
        names = [str(rng.choice(those if rng.random() < 0.7 else everything)) for those in sensible]
        outcomes.add(outcome(call, names))
    assert outcomes == {"refused", "accepted"}


REFUSED = [
    (
        lambda: bijections.Positive().transform(np.ones(3)),
        r"`raw array under Positive\(\)`: got a numpy.ndarray; .*mx.nd.array",
    ),
    (lambda: bijections.Simplex().log_det_jacobian([1.0]), r"`raw array under Simplex\(\)`: got a builtins.list"),
    (
        lambda: bijections.LowerCholesky().transform(nd(np.ones(5))),
        r"got shape \(5,\); expected a last axis of 1, 3, 6",
    ),
    (lambda: bijections.CorrelationCholesky().transform(nd(np.ones(5))), r"expected a last axis of 0, 1, 3"),
    (lambda: bijections.Interval([0, 0], [1, 1]).transform(nd(np.ones(3))), r"the bounds, \(2,\), broadcast"),
    (lambda: bijections.Interval("a", 1.0), "`lower`: got a str; expected a number"),
    (lambda: bijections.Interval([0.0] * 2, [1.0] * 3), r"`lower` and `upper`: got shapes \(2,\) and \(3,\)"),
    (lambda: bijections.Simplex().inverseTransform(1.0), r"`value under Simplex\(\)`: got shape \(1,\); .* constant"),
    (lambda: bijections.Ordered().raw_shape(3), "`shape`: got 3; expected a tuple"),
    (lambda: transformations.PositiveDefinite().transform(nd(np.ones((2, 3)))), r"got shape \(2, 3\); expected square"),
    (lambda: transformations.Simplex().transform(nd([1, 2], "int32")), "got dtype int32; expected float32 or float64"),
    (
        lambda: mixture.log_pdf(nd(np.ones(3)), nd([0.5, 0.5]), None),
        "`components`: got a NoneType; expected a Gaussian",
    ),
    (
        lambda: mixture.responsibilities(nd(np.ones(3)), nd([0.5, 0.5]), b"x"),
        "`components`: got a bytes; expected a Gaussian",
    ),
    (
        lambda: mixture.log_pdf(nd(SHARES, "float32"), nd([1.0], "float32"), VALUES["Gaussian"]()),
        "`components`: got a single Gaussian; expected leading axes",
    ),
    (
        lambda: mixture.log_pdf(nd(np.ones((4, 3)), "float32"), nd(np.ones((5, 2)), "float32"), VALUES["Gaussians"]()),
        r"`weights`: got shape \(5, 2\); expected what broadcasts with \(4, 2\)",
    ),
    (
        lambda: mixture.log_pdf(nd(np.ones(2), "float32"), nd(np.ones(2), "float32"), VALUES["Gaussians"]()),
        r"`value`: got shape \(2,\); expected \(..., 3\)",
    ),
    (lambda: PartlyObserved(3, nd(np.ones(3))), "`gaussian`: got a int; expected a Gaussian"),
    (lambda: PartlyObserved(VALUES["Gaussian of Symbols"](), nd(np.ones(3))), "`gaussian`: got one of Symbols"),
    (
        lambda: PartlyObserved(VALUES["Gaussian"](), nd(np.ones(3), "float32"), "jitter"),
        "`on_failure`: got 'jitter'; expected an OnFailure or None",
    ),
    (
        lambda: PartlyObserved(VALUES["Gaussian"](), nd(np.ones(3), "float32")).draw_samples(0),
        "`num_samples`: got 0; expected a positive integer",
    ),
    (
        lambda: PartlyObserved(VALUES["Gaussian"](), nd(np.ones(3), "float32")).draw_samples(
            noise=nd([1.0], "float32")
        ),
        r"`noise`: got shape \(1,\); expected \(S,\) \+ \(3,\)",
    ),
    (lambda: functions.linear(np.eye(3), np.ones(3), dtype="int32"), "`dtype`: got 'int32'; expected 'float32'"),
    (lambda: functions.scale_rows(np.eye(3), np.ones(3), ctx=1.5), "`ctx`: got a float; expected an MXNet context"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_said(call, message):
    with pytest.raises((ModelSpecificationError, ValueError), match=message):
        call()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_rows_of_what_is_no_matrix_are_not_scaled(shape):
    """A function puts out what nobody knows before the run."""
    factor, scales = Variable(shape=(3, 3)), Variable(shape=(3,))
    function = functions.scale_rows(factor, scales).factor
    arrays = {factor.uuid: nd(np.ones((1,) + shape)), scales.uuid: nd(np.ones((1, 3)))}
    with pytest.raises(InferenceError, match=r"`factor` and `scales`: got shapes .* expected \(B..., D, D\) and"):
        function.eval(mx.nd, arrays)


def test_one_ordered_number_is_any_number(dtype):
    ordered = bijections.Ordered()
    assert ordered.raw_shape((4, 1)) == (4, 1)
    for shape in ((1,), (4, 1)):
        raw = nd(np.linspace(-2, 2, int(np.prod(shape))).reshape(shape), dtype)
        assert_close(ordered.transform(raw), raw.asnumpy(), rtol=0)
        assert_close(ordered.inverseTransform(raw), raw.asnumpy(), rtol=0)
        assert_close(ordered.log_det_jacobian(raw), np.zeros(shape[:-1] or (1,)), rtol=0)


@pytest.mark.parametrize("size", [1e3, 1e15, 1e30])
@pytest.mark.parametrize("kind", ["LowerCholesky", "PositiveDefinite"])
def test_factors_of_huge_raw_numbers_are_finite(kind, size, dtype):
    """Right where the dtype can hold it, and cut where it cannot."""
    raw = np.array([size, 0.0, 1.0])
    got = getattr(bijections, kind)().transform(nd(raw, dtype)).asnumpy().astype("float64")
    assert got.shape == (2, 2)
    assert np.isfinite(got).all()
    root, largest = np.exp(20.0) * (size - 19), float(np.finfo(dtype).max)
    expected = root if kind == "LowerCholesky" else root**2
    assert_close(got[0, 0], min(expected, largest if kind == "LowerCholesky" else largest / 64**2), rtol=1e-5)
    huge = getattr(bijections, kind)().transform(nd([size] * 3, dtype)).asnumpy()
    assert np.isfinite(huge).all()
