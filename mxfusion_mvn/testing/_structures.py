# SPDX-License-Identifier: Apache-2.0
"""The conformance of covariance structures, with a function for each property."""

from __future__ import annotations

import itertools
from typing import Any, Callable, NamedTuple, Sequence

from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.linalg import from_diagonal, outer_square, take, transpose
from mxfusion_mvn.linalg.axes import add, broadcast_shapes, namespace
from mxfusion_mvn.structures import Dense, Shared
from mxfusion_mvn.testing._compare import (
    LEADING_AXES,
    MAX_CONDITION,
    NUM_DRAWS,
    ROUNDING,
    SCALES,
    TOLERANCE,
    check_dtypes,
    compare,
    compare_derivative,
    compare_moments,
    describe,
    hybridized,
    raising,
    refused,
    to_nd,
    to_numpy,
)
from mxfusion_mvn.testing._reference import Reference, divergence, expected_results, some_and_rest

import mxnet as mx
import numpy as np
from mxnet import autograd


class Subject(NamedTuple):
    """The arguments of :func:`check_structure`."""

    build: Callable[..., Any]
    arrays: Callable[..., dict[str, np.ndarray]]
    dense: Callable[..., np.ndarray]
    degrees: dict[str, float]
    invalid: Callable[..., dict[str, np.ndarray]] | None = None
    tangent: Callable[..., dict[str, np.ndarray]] | None = None
    singular: bool = False
    symbols: bool = True


def check_structure(
    build: Callable[..., Any],
    arrays: Callable[..., dict[str, np.ndarray]],
    dense: Callable[..., np.ndarray],
    degrees: dict[str, float],
    invalid: Callable[..., dict[str, np.ndarray]] | None = None,
    tangent: Callable[..., dict[str, np.ndarray]] | None = None,
    singular: bool = False,
    symbols: bool = True,
    dims: Sequence[int] = (1, 2, 6),
    dtypes: Sequence[str] = ("float32", "float64"),
    seed: int = 0,
) -> None:
    """
    Compare a structure with its dense matrix: values, shapes, gradients, moments, divergences, scales and refusals.

    Each method of the protocol is compared for both dtypes, for leading axes that are equal, shared and mixed, for
    1 x 1 matrices, and on Symbols in a hybridized Gluon block.

    :param build: function of the arrays by name, NDArrays or Symbols, that returns the structure.
    :param arrays: function of a NumPy generator, the leading axes and D that returns a dict of float64 NumPy arrays.
        The condition number of the correlation matrix must be below 300, because otherwise rounding is measured.
    :param dense: function of the same NumPy arrays by name that returns the covariance (B'..., D, D).
    :param degrees: dict from array to the power at which it grows with the covariance: 1 for a covariance, 0.5 for a
        standard deviation or a factor, -1 for a precision, 0 for a correlation.
    :param invalid: function of the arrays that returns arrays without a density; None to leave out this check.
    :param tangent: function of a generator and the arrays that returns a direction in which all of them can vary; None
        if the difference of two sets of arrays is one, as for scalars, triangles and symmetric matrices.
    :param singular: whether the covariance is singular by design for D > 1.
    :param symbols: whether the structure also works on Symbols.
    :param dims: the sizes D.
    :param dtypes: the dtypes.
    :param seed: the seed of NumPy's generator.
    :raises AssertionError: naming the first property that does not hold.
    :raises ValueError: for arguments of another type, and if the arrays are too badly conditioned.
    """
    for name, function in (("build", build), ("arrays", arrays), ("dense", dense)):
        if not callable(function):
            raise ValueError(f"`{name}`: got {function!r}; expected a function. See check_structure.")
    if not isinstance(degrees, dict):
        raise ValueError(f"`degrees`: got {degrees!r}; expected a dict from the names of the arrays to integers.")
    subject = Subject(build, arrays, dense, degrees, invalid, tangent, singular, symbols)
    check_dtypes(dtypes)
    for dim, dtype in itertools.product(dims, dtypes):
        rng = np.random.default_rng(seed)
        for matrix_axes, vector_axes in LEADING_AXES:
            _check_values(subject, rng, dtype, dim, matrix_axes, vector_axes)
        for scale in SCALES:
            _check_values(subject, rng, dtype, dim, (), (), scale)
        if symbols:
            for leading in ((), (3,)):
                _check_shared_on_symbols(subject, rng, dtype, dim, leading)
        _check_draws_of_structure(subject, rng, dtype, dim)
        _check_divergences(subject, rng, dtype, dim)
        _check_support(subject, rng, dtype, dim)
        _check_refusals(subject, rng, dtype, dim)
    for dim, axes in itertools.product(dims, ((), (2,))):
        _check_gradients(subject, np.random.default_rng(seed), dim, axes)


def _draw_arrays(subject, rng, dtype, dim, leading, scale=1.0):
    """Parameters rounded to a dtype, and the reference for exactly these values."""
    arrays = subject.arrays(rng, leading, dim)
    arrays = {name: (array * scale ** subject.degrees[name]).astype(dtype) for name, array in arrays.items()}
    reference = Reference(subject.dense(**{name: array.astype("float64") for name, array in arrays.items()}))
    if subject.singular:  # eigenvectors are exact up to the largest entry, not up to each
        reference.deviations = reference.deviations.max(axis=-1, keepdims=True) * np.ones(dim)
    else:
        condition = np.linalg.cond(reference.covariance / reference.sizes()).max()
        if condition > MAX_CONDITION:
            raise ValueError(
                f"`arrays`: got a correlation matrix of condition number {condition:.3g} for D = {dim}; expected one "
                f"below {MAX_CONDITION}. Choose better conditioned arrays."
            )
    return arrays, reference


def _on_support(rng, reference, leading, dtype):
    """Random vectors of the size of the standard deviations, rounded to a dtype."""
    noise = rng.normal(size=leading + reference.root.shape[-1:])
    return np.einsum("...ij,...j->...i", reference.root, noise)[_first(reference, leading)].astype(dtype)


def _first(reference, leading):
    """An index that reduces broadcast leading axes of vectors to the given ones."""
    axes = len(broadcast_shapes(reference.root.shape[:-2], leading)) - len(leading)
    return (0,) * axes + tuple(slice(0, size) for size in leading)


# Structures: the properties.


def _results(structure, residual, noise, identity):
    """The protocol as a dict of arrays, for NDArrays and Symbols alike."""
    F = namespace(residual)
    standard = Gaussian(F.zeros_like(residual), structure)
    return {
        "dense": structure.dense(),
        "root": outer_square(structure.root()),
        "coloring": outer_square(transpose(structure.coloring().on_rows(identity))),
        "diagonal_and_root": _total(*structure.diagonal_and_root()),
        "variance": structure.variance(),
        "inverse_diagonal": structure.inverse_diagonal(),
        "log_det": structure.log_det(),
        "entropy": standard.entropy(),
        "whiten": F.sum(F.square(structure.whiten(residual)), axis=-1),
        "distance": structure.distance(residual),
        "log_pdf": standard.log_pdf(residual),
        "color": structure.color(noise),
    }


def _parts(structure, residual, dim):
    """Marginals and conditionals as a dict of arrays, likewise; empty for 1 x 1 matrices."""
    if dim == 1:
        return {}
    given, rest = some_and_rest(dim)
    regression, remaining = structure.condition(given, rest)
    return {
        "marginal": structure.marginal(given, rest).dense(),
        "condition": remaining.dense(),
        "regression": regression(take(residual, given, axis=-1)),
    }


def _check_values(subject, rng, dtype, dim, matrix_axes, vector_axes, scale=1.0):
    """Compare every method with the reference, and the results on Symbols with those on NDArrays."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, matrix_axes, scale)
    if subject.singular:  # several supports have no vector in common
        vector_axes = broadcast_shapes(matrix_axes, vector_axes)
    residual = _on_support(rng, reference, vector_axes, dtype)
    case = describe(dtype, dim, f"leading axes {matrix_axes} and {vector_axes}", scale)
    noise, identity = _noise(subject, rng, arrays, vector_axes, matrix_axes, dim, dtype, case)

    def results(residual, noise, identity, *values):
        structure = subject.build(**dict(zip(arrays, values)))
        return {**_results(structure, residual, noise, identity), **_parts(structure, residual, dim)}

    inputs = [residual, noise, identity, *arrays.values()]
    with raising("the protocol on NDArrays", case):
        got = to_numpy(results(*to_nd(inputs)))
        columns = to_numpy({"": subject.build(**to_nd(arrays)).coloring().on_rows(to_nd(identity))})[""].astype(
            "float64"
        )
    expected = expected_results(reference, residual.astype("float64"))
    length = np.linalg.norm(noise, axis=-1, keepdims=True)
    expected["color"] = np.einsum("...ed,...e->...d", columns, noise), length * reference.deviations
    for name in got:
        if not (subject.singular and name == "inverse_diagonal"):
            value, size = expected[name]
            compare(name, case, got[name], value, size, TOLERANCE[dtype], dtype)
    if subject.symbols and matrix_axes == vector_axes:
        with raising("the protocol on Symbols", case):
            on_symbols = to_numpy(hybridized(results, to_nd(inputs)))
        for name in got:
            size = np.abs(got[name]).max() + np.max(expected[name][1])
            compare(f"{name} on Symbols", case, on_symbols[name], got[name], size, ROUNDING[dtype], dtype)


def _check_draws_of_structure(subject, rng, dtype, dim):
    """Draws have mean and covariance within their standard errors."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, ())
    mean = _on_support(rng, reference, (), dtype)
    mx.random.seed(0)
    with raising("draw_samples", describe(dtype, dim)):
        draws = Gaussian(to_nd(mean), subject.build(**to_nd(arrays))).draw_samples(NUM_DRAWS).asnumpy()
    compare_moments(describe(dtype, dim), draws, mean, reference.covariance)


def _check_divergences(subject, rng, dtype, dim):
    """KL to itself, and both ways to a dense covariance; for singular covariances to twice itself."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, (2,))
    difference = _on_support(rng, reference, (2,), dtype)
    if subject.singular:
        build = subject.build
        others = {name: array * np.array(2.0 ** subject.degrees[name], dtype) for name, array in arrays.items()}
        other = Reference(2 * reference.covariance)
    else:
        build = Dense
        others = {"covariance": (reference.covariance + 0.5 * reference.sizes() * np.eye(dim)).astype(dtype)}
        other = Reference(others["covariance"].astype("float64"))
    with raising("kl_divergence", describe(dtype, dim)):
        p = Gaussian(to_nd(np.zeros_like(difference)), subject.build(**to_nd(arrays)))
        q = Gaussian(to_nd(difference), build(**to_nd(others)))
        got = to_numpy({"to": p.kl_divergence(q), "from": q.kl_divergence(p), "itself": p.kl_divergence(p)})
    difference = difference.astype("float64")
    expected = {
        "to": divergence(reference, other, difference),
        "from": divergence(other, reference, difference),
        "itself": np.zeros(2),
    }
    for name in got:
        size = reference.log_size + other.log_size
        compare(
            f"kl_divergence, {name}", describe(dtype, dim), got[name], expected[name], size, TOLERANCE[dtype], dtype
        )


def _check_support(subject, rng, dtype, dim):
    """Vectors off the support, if there is anything outside it, have density -inf, and all others a finite one."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, (2,))
    residual = _on_support(rng, reference, (2,), dtype)
    stray = 0.1 * np.einsum("...ij,...j->...i", reference.outside, rng.normal(size=(2, dim)))
    with raising("log_pdf", describe(dtype, dim)):
        gaussian = Gaussian(to_nd(np.zeros_like(residual)), subject.build(**to_nd(arrays)))
        got = gaussian.log_pdf(to_nd((residual + stray).astype(dtype))).asnumpy()
    residual = residual.astype("float64")
    expected = np.where(reference.rank < dim, -np.inf, reference.log_pdf(residual))
    size = reference.log_size + reference.squared_norm(residual)
    compare("log_pdf off the support", describe(dtype, dim), got, expected, size, TOLERANCE[dtype], dtype)


def _check_refusals(subject, rng, dtype, dim):
    """A matrix that is not a covariance, or NaN, gives an error or NaN, never a density."""
    arrays, _ = _draw_arrays(subject, rng, dtype, dim, ())
    bad = {"NaN": {name: np.full_like(array, np.nan) for name, array in arrays.items()}}
    if subject.invalid is not None:
        bad["what is no covariance"] = subject.invalid(**arrays)
    vector = to_nd(np.ones(dim, dtype))
    for name, values in bad.items():
        refused(
            name, describe(dtype, dim), lambda v=values: Gaussian(vector * 0, subject.build(**to_nd(v))).log_pdf(vector)
        )


def _check_shared_on_symbols(subject, rng, dtype, dim, leading):
    """On Symbols, ``Shared`` gives all rows of a batch one matrix."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, leading)
    reference = Reference(np.expand_dims(reference.covariance, -3))
    vector_axes = (*leading, 4)
    residual = _on_support(rng, reference, vector_axes, dtype)
    case = describe(dtype, dim, f"leading axes {leading} and {vector_axes}")
    noise, identity = _noise(subject, rng, arrays, vector_axes, leading, dim, dtype, case)

    def results(residual, noise, *values):
        shared = Shared(subject.build(**dict(zip(arrays, values))))
        gaussian = Gaussian(namespace(residual).zeros_like(residual), shared)
        return {"log_pdf": gaussian.log_pdf(residual), "draw_samples": gaussian.draw_samples(noise=noise)}

    with raising("Shared", case):
        got = to_numpy(hybridized(results, to_nd([residual, noise, *arrays.values()])))
        columns = subject.build(**to_nd(arrays)).coloring().on_rows(to_nd(identity)).asnumpy()
    log_pdf, size = expected_results(reference, residual.astype("float64"))["log_pdf"]
    compare("log_pdf of Shared", case, got["log_pdf"], log_pdf, size, TOLERANCE[dtype], dtype)
    size = np.linalg.norm(noise, axis=-1, keepdims=True) * reference.deviations
    compare("draw_samples of Shared", case, got["draw_samples"], noise @ columns, size, TOLERANCE[dtype], dtype)


def _check_gradients(subject, rng, dim, leading):
    """Compare derivatives of all results along each array, and along the vector, with differences of the reference."""
    arrays, reference = _draw_arrays(subject, rng, "float64", dim, leading)
    residual = _on_support(rng, reference, leading, "float64")
    if subject.tangent is None:
        directions = {name: array - arrays[name] for name, array in subject.arrays(rng, leading, dim).items()}
    else:
        directions = subject.tangent(rng, **arrays)
    directions["residual"] = _on_support(rng, reference, leading, "float64")
    noise, identity = _noise(subject, rng, arrays, leading, leading, dim, "float64", "float64")
    names = sorted(set(expected_results(reference, residual)) - ({"inverse_diagonal"} if subject.singular else set()))
    values = {**arrays, "residual": residual}
    weights = {name: rng.normal(size=expected_results(reference, residual)[name][0].shape) for name in names}

    def objective(residual, **arrays):
        expected = expected_results(Reference(subject.dense(**arrays)), residual)
        return sum(np.sum(weights[name] * expected[name][0]) for name in names)

    def results(*values):
        *parameters, residual, noise, identity = values
        structure = subject.build(**dict(zip(arrays, parameters)))
        found = {**_results(structure, residual, noise, identity), **_parts(structure, residual, dim)}
        return {name: found[name] for name in names}

    for mode in ("NDArrays", "Symbols") if subject.symbols else ("NDArrays",):
        case = describe("float64", dim, f"{mode}, leading axes {leading}")
        leaves = to_nd(values)
        for leaf in leaves.values():
            leaf.attach_grad()
        with raising("gradient", case):
            inputs = [*leaves.values(), *to_nd([noise, identity])]
            with autograd.record():
                found = results(*inputs) if mode == "NDArrays" else hybridized(results, inputs)
                total = sum(mx.nd.sum(found[name] * to_nd(weights[name])) for name in names)
            total.backward()
            gradients = to_numpy({name: leaf.grad for name, leaf in leaves.items()})
        for name, direction in directions.items():
            compare_derivative(name, case, gradients[name], direction, objective, values)


def _noise(subject, rng, arrays, leading, matrix_axes, dim, dtype, case):
    """Standard normals (leading..., E), and the identity (matrix axes..., E, E)."""
    with raising("noise_size", case):
        size = subject.build(**to_nd(arrays)).noise_size(dim)
    identity = np.broadcast_to(np.eye(size, dtype=dtype), (*matrix_axes, size, size))
    return rng.normal(size=(*leading, size)).astype(dtype), identity


def _total(diagonal, root):
    """diag(d) + A A^T, where one may be None."""
    if diagonal is None:
        return outer_square(root)
    return from_diagonal(diagonal) if root is None else add(outer_square(root), from_diagonal(diagonal))
