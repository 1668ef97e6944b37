# SPDX-License-Identifier: Apache-2.0
"""
Right values for the calls of the fuzz, by SciPy and NumPy in float64, from the arguments alone.

An oracle is a function of arrays. The allowed error follows from the rounding of the arguments: these are moved at
random by one unit of rounding a few times, and the result may be off by a multiple of the largest difference. If that
is a tenth of the value, or SciPy refuses the arguments, nothing is compared.
"""

from mxfusion_mvn import Gaussian, bijections, structures

import mxnet as mx
import numpy as np
from scipy import special, stats

from helpers import bijection_cases
from helpers.dense_gaussian import DenseGaussian
from helpers.matrix_prior_cases import lkj_log_pdf
from helpers.oracles import TO_COVARIANCE
from helpers.oracles import log_pdf as normal
from helpers.transformed import expected_transform

ROUNDINGS = 200
FORMS = {
    *("mean", "covariance", "precision", "scale_tril", "scale", "variance", "variances", "factor", "diagonal"),
    *("correlation", "correlation_tril", "standard_deviations"),
}
# What stands for: there is no right value, or it is not this oracle that knows it.
NOTHING = (KeyError, ValueError, IndexError, TypeError, AttributeError, StopIteration, np.linalg.LinAlgError)


def compare(call, before):
    """
    Compare the result of a call with its oracle.

    :param call: :class:`~benchmarks.fuzz.calls.Call`.
    :param before: list of the calls that led to it.
    :returns: (what is wrong or None, whether there was an oracle).
    """
    try:
        given, oracle, results = ORACLES[call.name](call, before)
        got = [np.asarray(result.asnumpy() if hasattr(result, "asnumpy") else result) for result in results]
        rng, eps = np.random.default_rng(0), max(np.finfo(array.dtype).eps for array in got)
        values = [_as_tuple(oracle(**_moved(given, rng, size))) for size in (0.0, *[eps] * 4)]
    except NOTHING:
        return None, False
    for array, expected, *others in zip(got, *values):
        largest = np.abs(expected).max(initial=0)
        moved = max(np.abs(other - expected).max(initial=0) for other in others)
        allowed = ROUNDINGS * (moved + eps * max(largest, "log" in call.name)) + np.finfo(array.dtype).tiny
        if not allowed < max(0.1 * largest, 0.01 * ("log" in call.name)) or largest > np.finfo(array.dtype).max / 1e8:
            return None, False
        if isinstance(call.result, Gaussian) and expected.ndim < array.ndim:  # a number is the mean of all matrices
            expected = np.broadcast_to(expected, np.broadcast_shapes(expected.shape, array.shape))
        if array.shape != (expected.shape or (1,)) and array.shape != expected.shape:
            return f"{call.name}: shape {array.shape}, right {expected.shape}", True
        error = np.abs(array - expected.reshape(array.shape))
        if not (error <= allowed).all():
            index = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
            right = expected.reshape(array.shape)[index]
            return f"{call.name}: {array[index]:.9g} at {index}, right {right:.9g} up to {allowed:.2g}", True
    return None, True


def _moved(given, rng, size):
    if isinstance(given, dict):
        return {name: _moved(value, rng, size) for name, value in given.items()}
    is_real = isinstance(given, np.ndarray) and given.dtype == "float64"
    return given * (1 + size * rng.uniform(-1, 1, given.shape)) if is_real else given


def _as_tuple(value):
    return tuple(map(np.asarray, value)) if isinstance(value, tuple) else (np.asarray(value),)


def _array(value, dtype=None):
    """An argument as float64, rounded to a dtype first, as the package rounds it."""
    value = value.asnumpy() if isinstance(value, mx.nd.NDArray) else value
    array = np.atleast_1d(np.ma.filled(value, np.nan) if isinstance(value, np.ma.MaskedArray) else np.asarray(value))
    if array.dtype.kind not in "fiub":
        raise ValueError("no numbers")
    array = array.astype(dtype or array.dtype).astype("float64")
    if (np.abs(array) > 1e12).any() or (np.abs(array[array != 0]) < 1e-12).any():
        raise ValueError("the oracle has not the digits")
    return array


def _batched(function, *arrays):
    """A function of single events, for arrays with leading axes; each array comes with the axes of its event."""
    leading = np.broadcast_shapes(*(array.shape[: array.ndim - axes] for array, axes in arrays))
    full = [np.broadcast_to(array, leading + array.shape[array.ndim - axes :]) for array, axes in arrays]
    values = [np.asarray(function(*(array[index] for array in full))) for index in np.ndindex(*leading)]
    return np.array(values).reshape(leading + values[0].shape)


def _diagonal(variances, dim=1):
    return variances[..., None] * np.eye(max(dim, variances.shape[-1]))


def dense(given, dim=1):
    """Mean (B..., D) and covariance (B..., D, D) by the arguments of a Gaussian, a structure or a distribution."""
    if "factor" in given:
        covariance = given["factor"] @ np.swapaxes(given["factor"], -1, -2) + _diagonal(
            given["diagonal"], given["factor"].shape[-2]
        )
    elif "standard_deviations" in given:
        form = "correlation" if "correlation" in given else "correlation_tril"
        scales = _diagonal(given["standard_deviations"])
        covariance = scales @ TO_COVARIANCE["scale_tril" if "tril" in form else "covariance"](given[form]) @ scales
    elif "variance" in given or "variances" in given:
        covariance = _diagonal(given["variance"] if "variance" in given else given["variances"])
    else:
        (form,) = {"covariance", "precision", "scale_tril", "scale"} & set(given)
        matrix = given[form] * (np.eye(dim) if given[form].shape[-1] == 1 else 1.0)
        covariance = TO_COVARIANCE.get(form, np.array)(matrix)
    mean = given.get("mean", np.zeros(1))
    return np.broadcast_to(mean, (*mean.shape[:-1], covariance.shape[-1])), covariance


def _made_of(item, before):
    """The arguments of a Gaussian or a structure; for the result of a method its mean and covariance."""
    made = next((each for each in before if each.result is item and each.receiver is None), None)
    if isinstance(getattr(item, "structure", item), (structures.Singular, structures.Shared, structures.Kronecker)):
        raise ValueError("compared elsewhere")
    if made is None or made.name != type(item).__name__ or hasattr(made.arguments.get("covariance"), "dense"):
        return {"mean": _array(item.mean), "covariance": _array(item.covariance)}
    dtype = next(value.dtype for value in made.arguments.values() if hasattr(value, "context"))
    return {name: _array(value, dtype) for name, value in made.arguments.items() if name in FORMS and value is not None}


def _condition(p, index, value, rest=None):
    rest = [i for i in range(p.mean.shape[-1]) if i not in index] if rest is None else rest
    return _moments(p.condition(index, value, rest))


def _moments(p):
    return p.mean, p.covariance


def _other(other):
    return DenseGaussian(*dense(other))


def _product(p, other):
    product, constant = p.product(_other(other))
    return (*_moments(product), constant)


# By the name of the method: the right value, from the dense Gaussian and the other arguments.
GAUSSIAN = {
    "log_pdf": DenseGaussian.log_pdf,
    "mahalanobis": DenseGaussian.mahalanobis,
    "entropy": DenseGaussian.entropy,
    "kl_divergence": lambda p, other: p.kl_divergence(_other(other)),
    "product": _product,
    "marginal": lambda p, index: _moments(p.marginal(index)),
    "condition": _condition,
    "affine": lambda p, matrix, offset=0.0: _moments(p.affine(matrix, offset)),
    "covariance": lambda p: p.covariance,
    "variance": lambda p: np.diagonal(p.covariance, axis1=-2, axis2=-1),
    "credible_radius": lambda p, probability: np.sqrt(stats.chi2.ppf(probability, p.mean.shape[-1])).reshape(()),
}
STRUCTURE = {
    "dense": GAUSSIAN["covariance"],
    "root": GAUSSIAN["covariance"],
    "variance": GAUSSIAN["variance"],
    "inverse_diagonal": lambda p: np.diagonal(p.precision(), axis1=-2, axis2=-1),
    "log_det": lambda p: p.log_det,
    "whiten": lambda p, residual: DenseGaussian(0.0, p.covariance).mahalanobis(residual),
    "marginal": lambda p, index: p.block(index, index),
}


def _seen(name, result):
    """The part of a result that is compared."""
    if name.endswith(".root"):
        return [result.asnumpy() @ np.swapaxes(result.asnumpy(), -1, -2)]
    if name.endswith(".whiten"):
        return [np.sum(np.square(result.asnumpy()), axis=-1)]
    if isinstance(result, Gaussian):
        return [result.mean, result.covariance]
    if isinstance(result, structures.Structure):
        return [result.dense()]
    return [array for each in result for array in _seen(name, each)] if isinstance(result, tuple) else [result]


def _of_method(call, before):
    """The oracle of a method of a Gaussian or a structure."""
    is_gaussian = isinstance(call.receiver, Gaussian)
    function = (GAUSSIAN if is_gaussian else STRUCTURE)[call.name.split(".")[-1]]
    dtype = (call.receiver.mean if is_gaussian else call.receiver.dense()).dtype
    given = {"made": _made_of(call.receiver, before)}
    for name, value in call.arguments.items():
        if name in ("index", "rest") and value is not None:
            given[name] = [int(i) for i in value]
        elif value is not None:
            given[name] = _made_of(value, before) if name == "other" else _array(value, name != "probability" and dtype)
    return given, lambda made, **others: function(_other(made), **others), _seen(call.name, call.result)


# Densities of declared variables, by the names of their inputs.


def _student_t(value, made):
    def one(value, mean, covariance, freedom):
        return stats.multivariate_t.logpdf(value, mean, covariance, freedom[0])

    mean, covariance = dense(made, value.shape[-1])
    return _batched(one, (value, 1), (mean, 1), (covariance, 2), (made["degrees_of_freedom"], 1))


def _terms(value, weights, mean, covariance):
    return normal(value[..., None, :], mean, covariance) + np.log(weights)


def _wishart(distribution):
    def one(value, freedom, scale):
        if np.abs(value - value.T).max() > 1e-3 * np.abs(value).max():
            raise ValueError("which half?")
        return distribution.logpdf(0.5 * (value + value.T), freedom[0], 0.5 * (scale + scale.T))

    return lambda value, made: _batched(
        one, (value, 2), (made["degrees_of_freedom"], 1), (dense(made, value.shape[-1])[1], 2)
    )


def _matrix_normal(value, made):
    sides = []
    for side, size in zip(("row", "column"), value.shape[-2:]):
        given = {name.split("_", 1)[1]: array for name, array in made.items() if name.startswith(side)}
        sides.append((dense(given, size)[1], 2))
    residual = value - made["mean"]
    return normal(residual.reshape(residual.shape[:-2] + (-1,)), np.zeros(1), _batched(np.kron, *sides))


LAWS = {
    "MultivariateNormal": lambda value, made: normal(value, *dense(made, value.shape[-1])),
    "MultivariateStudentT": _student_t,
    "GaussianMixture": lambda value, made: special.logsumexp(
        _terms(value, made["weights"], *dense(made, value.shape[-1])), axis=-1
    ),
    "Wishart": _wishart(stats.wishart),
    "InverseWishart": _wishart(stats.invwishart),
    "MatrixNormal": _matrix_normal,
    "LKJCholesky": lambda value, made: _batched(
        lambda value, concentration: lkj_log_pdf(value, concentration[0]), (value, 2), (made["concentration"], 1)
    ),
}
LAWS["MultivariateNormalMeanPrecision"] = LAWS["LowRankMultivariateNormal"] = LAWS["MultivariateNormal"]


def _law(call, before):
    constants = {name: variable.constant for name, variable in call.receiver.inputs}
    made = {name: _array(constant) for name, constant in constants.items()}
    value = _array(call.arguments["value"], call.result.dtype)
    law = LAWS[type(call.receiver).__name__]
    got = call.result.reshape(call.result.shape[1:] or (1,))  # without the sample axis
    return {"made": made, "value": value}, law, [got]


def _mixture(call, before):
    dtype = call.arguments["components"].mean.dtype
    given = {name: _array(call.arguments[name], dtype) for name in ("value", "weights")}

    def oracle(made, value, weights):
        terms = _terms(value, weights, *dense(made))
        total = special.logsumexp(terms, axis=-1, keepdims=True)
        return np.exp(terms - total) if call.name == "responsibilities" else total[..., 0]

    return {"made": _made_of(call.arguments["components"], before), **given}, oracle, [call.result]


def _partly_observed(call, before):
    made = next(each for each in before if each.result is call.receiver).arguments
    value = _array(made["value"], made["gaussian"].mean.dtype)
    which = ("log_pdf", "mean", "variance").index(call.name.split(".")[-1])

    def one(value, mean, covariance):
        seen, p = ~np.isnan(value), DenseGaussian(mean, covariance)
        rest = p.condition(np.flatnonzero(seen), value[seen], np.flatnonzero(~seen))
        filled, variance = value.copy(), np.zeros_like(value)
        filled[~seen], variance[~seen] = rest.mean, np.diagonal(rest.covariance)
        return (p.marginal(np.flatnonzero(seen)).log_pdf(value[seen]) if seen.any() else 0.0, filled, variance)[which]

    given = {"made": _made_of(made["gaussian"], before), "value": value}
    return given, lambda made, value: _batched(one, (value, 1), *zip(dense(made), (1, 2))), [call.result]


def _map(call, before):
    """The forward map, the end of the way back, or the Jacobian of the first raw vector by differences."""
    kind, own = call.receiver, call.name.split(".")[-1]
    case = bijection_cases.CASES[type(kind).__name__]
    if isinstance(kind, bijections.Interval):
        raise ValueError("the case has bounds of its own")
    raw = _array(call.result if own == "inverseTransform" else call.arguments["var" if own == "transform" else "raw"])
    if np.abs(raw).max(initial=0) > 15:
        raise ValueError("where values are cut")
    if isinstance(kind, bijections.Bijection):
        dim = next(dim for dim in range(1, 20) if case.count(dim) == raw.shape[-1])

        def formula(raw):
            return _batched(lambda row: case.value(row, dim), (raw, 1))

    else:

        def formula(raw):
            name = type(kind).__name__
            return special.softmax(raw, axis=-1) if name == "Simplex" else expected_transform(name, raw)

    if own == "transform":
        return {"raw": raw}, formula, [call.result]
    if own == "inverseTransform":
        value = _array(call.arguments["out_var"], call.result.dtype)
        # A value may be off its support by rounding in float32.
        return {"raw": raw}, lambda raw: value + formula(raw) * 0, [formula(raw).astype("float32")]

    def jacobian(raw):
        steps = 1e-5 * np.eye(raw.shape[-1])
        slopes = [case.free(formula(raw + step)) - case.free(formula(raw - step)) for step in steps]
        return np.linalg.slogdet(np.array(slopes) / 2e-5)[1][None]

    got = call.result.asnumpy().reshape(-1)[:1].astype("float32")  # differences have no more digits
    return {"raw": raw.reshape(-1, raw.shape[-1])[0]}, jacobian, [got]


def _linear(design, weights):
    return design @ (weights[..., None] if weights.ndim == 2 else np.swapaxes(weights, -1, -2))


def _of_array(function, name):
    return lambda call, before: ({"array": _array(call.arguments[name])}, lambda array: function(array), [call.result])


def _of_inputs(function):
    def oracle(call, before):
        return {name: _array(value) for name, value in call.arguments["inputs"].items()}, function, [call.result]

    return oracle


def _laplace(call, before):
    """The evidence for means with a standard normal prior and standard normal rows, for which it is exact."""
    inference = call.arguments["map_inference"]
    if inference.inference_algorithm.model.kind != "means":
        raise ValueError("another model")
    rows = _array(call.arguments.get("X", inference.rows), inference.dtype)
    count = len(rows)
    expected = rows.sum(axis=0) / (count + 1), np.eye(rows.shape[1]) / (count + 1)
    evidence = normal(rows.T, np.zeros(count), np.eye(count) + 1).sum()
    got = [np.asarray(x, "float32") for x in (call.result.mean, call.result.covariance, call.result.log_evidence)]
    return {}, lambda: (*expected, evidence), got


_KINDS = ("Cholesky", "Dense", "Diagonal", "LowRank", "Precision", "ScaledCorrelation")
_MAPS = ("transform", "inverseTransform", "log_det_jacobian")
ORACLES = {
    **{f"Gaussian.{name}": _of_method for name in GAUSSIAN},
    **{f"{kind}.{name}": _of_method for kind in _KINDS for name in STRUCTURE},
    **{f"{law}.log_pdf": _law for law in LAWS},
    **{f"PartlyObserved.{name}": _partly_observed for name in ("log_pdf", "mean", "variance")},
    **{f"{kind}.{name}": _map for kind in bijection_cases.CASES for name in _MAPS},
    "log_pdf": _mixture,
    "responsibilities": _mixture,
    "softplus": _of_array(lambda x: np.logaddexp(0, x), "x"),
    "inverse_softplus": _of_array(lambda y: y + np.log(-np.expm1(-y)), "y"),
    "Linear.eval": _of_inputs(_linear),
    "ScaleRows.eval": _of_inputs(
        lambda factor, scales: scales.reshape(scales.shape[:1] + (1,) * (factor.ndim - 3) + (-1, 1)) * factor
    ),
    "LaplaceApproximation": _laplace,
}
