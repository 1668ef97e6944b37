# SPDX-License-Identifier: Apache-2.0
"""A conformance suite: what every covariance structure and every multivariate normal must do, to run on your own.

:func:`check_structure` compares a structure, and the :class:`~mxfusion_mvn.Gaussian` over it, with dense float64
NumPy. :func:`check_multivariate_normal` does so with an MXFusion distribution. Both return nothing, and raise an
``AssertionError`` that names the property, the case, what was got and what was expected::

    import numpy as np
    from mxfusion_mvn.structures import Diagonal
    from mxfusion_mvn.testing import check_structure

    check_structure(
        build=Diagonal,
        arrays=lambda rng, leading, dim: {"variances": rng.uniform(0.5, 2.0, leading + (dim,))},
        dense=lambda variances: variances[..., None] * np.eye(variances.shape[-1]),
        degrees={"variances": 1},
        invalid=lambda variances: {"variances": -variances},
    )
"""

import itertools
import warnings
from contextlib import contextmanager
from typing import Any, Callable, Dict, NamedTuple, Optional

from mxfusion_mvn.axes import add, broadcast_shapes, namespace
from mxfusion_mvn.gaussian import LOG_2PI, Gaussian
from mxfusion_mvn.linalg import from_diagonal, outer_square, take, transpose
from mxfusion_mvn.structures import Dense, Shared

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxnet import autograd

# Relative errors, for correlation matrices of a condition number up to MAX_CONDITION.
TOLERANCE = {"float32": 3e-5, "float64": 1e-11}
MAX_CONDITION = 300
GRADIENT_TOLERANCE = 1e-7
# Symbols run the same operators as NDArrays.
ROUNDING = {"float32": 2e-6, "float64": 4e-15}
SCALES = (1e-12, 1e12)
# Leading axes of the matrix and of the vectors. Symbols take the first three.
EQUAL_AXES = [((), ()), ((3,), (3,)), ((2, 3), (2, 3))]
LEADING_AXES = EQUAL_AXES + [((), (4,)), ((), (2, 3)), ((3,), ()), ((3,), (2, 1)), ((1, 3), (2, 1)), ((2, 1), (3,))]
NUM_DRAWS = 4000
# Standard errors: a right sampler exceeds this many in one of a million entries.
Z_BOUND = 5.0


class Subject(NamedTuple):
    """What is checked, as described at :func:`check_structure`."""

    build: Callable[..., Any]
    arrays: Callable[..., Dict[str, np.ndarray]]
    dense: Callable[..., np.ndarray]
    degrees: Dict[str, float]
    invalid: Optional[Callable[..., Dict[str, np.ndarray]]] = None
    tangent: Optional[Callable[..., Dict[str, np.ndarray]]] = None
    singular: bool = False
    symbols: bool = True


def check_structure(
    build,
    arrays,
    dense,
    degrees,
    invalid=None,
    tangent=None,
    singular=False,
    symbols=True,
    dims=(1, 2, 6),
    dtypes=("float32", "float64"),
    seed=0,
):
    """
    Compare a structure with its dense matrix: values, shapes, gradients, moments, divergences, scales and refusals.

    Each method of the protocol is compared for both dtypes, for leading axes that are equal, shared and mixed, for
    1 x 1 matrices, and on Symbols in a hybridized Gluon block.

    :param build: function of the arrays by name, NDArrays or Symbols, that returns the structure.
    :param arrays: function of a NumPy generator, the leading axes and D that returns a dict of float64 NumPy arrays.
        The correlation matrix they mean needs a condition number below 300, or rounding is what would be measured.
    :param dense: function of the same NumPy arrays by name that returns the covariance (B'..., D, D).
    :param degrees: dict from array to the power at which it grows with the covariance: 1 for a covariance, 0.5 for a
        standard deviation or a factor, -1 for a precision, 0 for a correlation.
    :param invalid: function of the arrays that returns arrays without a density; None not to check that they get none.
    :param tangent: function of a generator and the arrays that returns a direction in which all of them can vary; None
        if the difference of two sets of arrays is one, as for numbers, triangles and symmetric matrices.
    :param singular: whether the covariance is, for D > 1, singular on purpose.
    :param symbols: whether it works on Symbols too.
    :param dims: the sizes D.
    :param dtypes: the dtypes.
    :param seed: of the NumPy generator.
    :raises AssertionError: naming the first property that does not hold.
    :raises ValueError: if the arrays are too badly conditioned to tell.
    """
    subject = Subject(build, arrays, dense, degrees, invalid, tangent, singular, symbols)
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
    for dim, leading in itertools.product(dims, ((), (2,))):
        _check_gradients(subject, np.random.default_rng(seed), dim, leading)


def check_multivariate_normal(
    distribution, form="covariance", conversions=None, dims=(1, 3), dtypes=("float32", "float64"), seed=0
):
    """
    Compare an MXFusion distribution with NumPy: densities, gradients, draws, divergences, scales and refusals.

    The arrays arrive as MXFusion hands them over, axis 0 being Monte Carlo samples: (S or 1, D) for a mean and
    (S or 1, D, D) for a matrix, with a batch axis N after the first where there is one.

    :param distribution: a class with ``define_variable(shape=, mean=, dtype=)``, which takes the matrix by its name.
    :param form: that name.
    :param conversions: two functions of NumPy arrays (..., D, D), from a covariance to that parameter and back; None
        for ``covariance``, ``precision`` and ``scale_tril``, for which they are known.
    :param dims: the sizes D.
    :param dtypes: the dtypes.
    :param seed: of the NumPy generator, and of MXNet's.
    :raises AssertionError: naming the first property that does not hold.
    """
    for dim, dtype in itertools.product(dims, dtypes):
        rng = np.random.default_rng(seed)
        mx.random.seed(seed)
        declared = _Declared(distribution, form, _FORMS[form] if conversions is None else conversions, dim, dtype)
        for remark, layout in _LAYOUTS.items():
            _check_log_pdf(declared, rng, remark, layout)
        for scale in SCALES:
            _check_log_pdf(declared, rng, "", _SHARED, scale)
        _check_log_pdf_scaling(declared, rng)
        _check_no_density(declared, rng)
        for remark in ("one mean and matrix for all rows", "a mean and matrix per row"):
            _check_draws(declared, rng, remark, _LAYOUTS[remark])
        _check_divergence_of_draws(declared, rng)
        if dtype == "float64":
            for remark, layout in _LAYOUTS.items():
                _check_gradients_in_model(declared, rng, remark, layout)


# Structures: the reference.


class _Reference:
    """
    What dense float64 arithmetic says of a covariance.

    :param covariance: Sigma (B'..., D, D), NumPy array.
    """

    def __init__(self, covariance):
        self.covariance = (covariance + np.swapaxes(covariance, -1, -2)) / 2
        self.deviations = np.sqrt(_diagonal(self.covariance))
        values, vectors = np.linalg.eigh(self.covariance)
        self.kept = values > 1e-4 * values[..., -1:]
        safe = np.where(self.kept, values, 1)
        self.rank = self.kept.sum(-1)
        self.log_det = np.where(self.kept, np.log(safe), 0).sum(-1)
        self.log_size = np.where(self.kept, np.abs(np.log(safe)), 0).sum(-1) + values.shape[-1]
        self.inverse = (vectors * np.where(self.kept, 1 / safe, 0)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
        self.root = vectors * np.where(self.kept, np.sqrt(safe), 0)[..., None, :]
        self.outside = vectors * np.where(self.kept, 0, 1)[..., None, :]

    def squared_norm(self, vectors):
        """r^T Sigma^-1 r."""
        return np.einsum("...i,...ij,...j->...", vectors, self.inverse, vectors)

    def log_pdf(self, vectors):
        """Log density of N(0, Sigma)."""
        return -0.5 * (self.squared_norm(vectors) + self.log_det + self.rank * LOG_2PI)

    def sizes(self):
        """Products of standard deviations, (B'..., D, D), what errors of the entries of Sigma are measured by."""
        return self.deviations[..., :, None] * self.deviations[..., None, :]

    def marginal(self, index):
        """Sigma_aa."""
        return self.covariance[..., index, :][..., :, index]

    def condition(self, given, rest, vectors):
        """The mean of b given a, and Sigma_b|a."""
        own = _Reference(self.marginal(given))
        cross = self.covariance[..., rest, :][..., :, given]
        mean = np.einsum("...ij,...jk,...k->...i", cross, own.inverse, vectors)
        return mean, self.marginal(rest) - cross @ own.inverse @ np.swapaxes(cross, -1, -2)


def _draw_arrays(subject, rng, dtype, dim, leading, scale=1.0):
    """Parameters rounded to a dtype, and the reference for exactly these numbers."""
    arrays = subject.arrays(rng, leading, dim)
    arrays = {name: (array * scale ** subject.degrees[name]).astype(dtype) for name, array in arrays.items()}
    reference = _Reference(subject.dense(**{name: array.astype("float64") for name, array in arrays.items()}))
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
    """An index that brings vectors of broadcast leading axes back to their own."""
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
        "log_pdf": standard.log_pdf(residual),
        "color": structure.color(noise),
    }


def _parts(structure, residual, dim):
    """Marginals and conditionals as a dict of arrays, likewise; of 1 x 1 matrices there are none."""
    if dim == 1:
        return {}
    given, rest = _split(dim)
    regression, remaining = structure.condition(given, rest)
    return {
        "marginal": structure.marginal(given, rest).dense(),
        "condition": remaining.dense(),
        "regression": regression(take(residual, given, axis=-1)),
    }


def _expected(reference, residual):
    """The same by the reference: name to the value, and to what an error in it is measured by."""
    sizes, dim = reference.sizes(), residual.shape[-1]
    log_det = np.atleast_1d(reference.log_det)
    log_size = np.atleast_1d(reference.log_size)
    squared = np.atleast_1d(reference.squared_norm(residual))
    expected = {
        "dense": (reference.covariance, sizes),
        "root": (reference.covariance, sizes),
        "coloring": (reference.covariance, sizes),
        "diagonal_and_root": (reference.covariance, sizes),
        "variance": (_diagonal(reference.covariance), 0),
        "inverse_diagonal": (_diagonal(reference.inverse), 0),
        "log_det": (log_det, log_size),
        "entropy": (0.5 * (log_det + reference.rank * (1 + LOG_2PI)), log_size),
        "whiten": (squared, dim),
        "log_pdf": (np.atleast_1d(reference.log_pdf(residual)), squared + log_size),
    }
    if dim > 1:
        given, rest = _split(dim)
        mean, covariance = reference.condition(given, rest, residual[..., given])
        expected["marginal"] = reference.marginal(given), sizes[..., given, :][..., :, given]
        expected["condition"] = covariance, sizes[..., rest, :][..., :, rest]
        expected["regression"] = (
            mean,
            np.sqrt(reference.squared_norm(residual) + dim)[..., None] * reference.deviations[..., rest],
        )
    return expected


def _check_values(subject, rng, dtype, dim, matrix_axes, vector_axes, scale=1.0):
    """Every method against the reference, and on Symbols the same as on NDArrays."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, matrix_axes, scale)
    if subject.singular:  # several supports have no vector in common
        vector_axes = broadcast_shapes(matrix_axes, vector_axes)
    residual = _on_support(rng, reference, vector_axes, dtype)
    case = _case(dtype, dim, f"leading axes {matrix_axes} and {vector_axes}", scale)
    noise, identity = _noise(subject, rng, arrays, vector_axes, matrix_axes, dim, dtype, case)

    def results(residual, noise, identity, *values):
        structure = subject.build(**dict(zip(arrays, values)))
        return {**_results(structure, residual, noise, identity), **_parts(structure, residual, dim)}

    inputs = [residual, noise, identity, *arrays.values()]
    with _raising("the protocol on NDArrays", case):
        got = _numpy(results(*_nd(inputs)))
        columns = _numpy({"": subject.build(**_nd(arrays)).coloring().on_rows(_nd(identity))})[""].astype("float64")
    expected = _expected(reference, residual.astype("float64"))
    length = np.linalg.norm(noise, axis=-1, keepdims=True)
    expected["color"] = np.einsum("...ed,...e->...d", columns, noise), length * reference.deviations
    for name in got:
        if not (subject.singular and name == "inverse_diagonal"):
            _compare(name, case, got[name], *expected[name], TOLERANCE[dtype], dtype)
    if subject.symbols and matrix_axes == vector_axes:
        with _raising("the protocol on Symbols", case):
            on_symbols = _numpy(_hybridized(results, _nd(inputs)))
        for name in got:
            size = np.abs(got[name]).max()
            _compare(f"{name} on Symbols", case, on_symbols[name], got[name], size, ROUNDING[dtype], dtype)


def _check_draws_of_structure(subject, rng, dtype, dim):
    """Draws have mean and covariance within their standard errors."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, ())
    mean = _on_support(rng, reference, (), dtype)
    mx.random.seed(0)
    with _raising("draw_samples", _case(dtype, dim)):
        draws = Gaussian(_nd(mean), subject.build(**_nd(arrays))).draw_samples(NUM_DRAWS).asnumpy()
    _compare_moments(_case(dtype, dim), draws, mean, reference.covariance)


def _check_divergences(subject, rng, dtype, dim):
    """KL to itself, and both ways to a dense covariance; where this is singular, to twice itself."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, (2,))
    difference = _on_support(rng, reference, (2,), dtype)
    if subject.singular:
        build = subject.build
        others = {name: array * np.array(2.0 ** subject.degrees[name], dtype) for name, array in arrays.items()}
        other = _Reference(2 * reference.covariance)
    else:
        build = Dense
        others = {"covariance": (reference.covariance + 0.5 * reference.sizes() * np.eye(dim)).astype(dtype)}
        other = _Reference(others["covariance"].astype("float64"))
    with _raising("kl_divergence", _case(dtype, dim)):
        p = Gaussian(_nd(np.zeros_like(difference)), subject.build(**_nd(arrays)))
        q = Gaussian(_nd(difference), build(**_nd(others)))
        got = _numpy({"to": p.kl_divergence(q), "from": q.kl_divergence(p), "itself": p.kl_divergence(p)})
    difference = difference.astype("float64")
    expected = {
        "to": _divergence(reference, other, difference),
        "from": _divergence(other, reference, difference),
        "itself": np.zeros(2),
    }
    for name in got:
        size = reference.log_size + other.log_size
        _compare(f"kl_divergence, {name}", _case(dtype, dim), got[name], expected[name], size, TOLERANCE[dtype], dtype)


def _check_support(subject, rng, dtype, dim):
    """Vectors off the support, if there is anything outside it, have density -inf, and all others a finite one."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, (2,))
    residual = _on_support(rng, reference, (2,), dtype)
    stray = 0.1 * np.einsum("...ij,...j->...i", reference.outside, rng.normal(size=(2, dim)))
    with _raising("log_pdf", _case(dtype, dim)):
        gaussian = Gaussian(_nd(np.zeros_like(residual)), subject.build(**_nd(arrays)))
        got = gaussian.log_pdf(_nd((residual + stray).astype(dtype))).asnumpy()
    residual = residual.astype("float64")
    expected = np.where(reference.rank < dim, -np.inf, reference.log_pdf(residual))
    size = reference.log_size + reference.squared_norm(residual)
    _compare("log_pdf off the support", _case(dtype, dim), got, expected, size, TOLERANCE[dtype], dtype)


def _check_refusals(subject, rng, dtype, dim):
    """What is no covariance, or NaN, gets an error or NaN, never a density."""
    arrays, _ = _draw_arrays(subject, rng, dtype, dim, ())
    bad = {"NaN": {name: np.full_like(array, np.nan) for name, array in arrays.items()}}
    if subject.invalid is not None:
        bad["what is no covariance"] = subject.invalid(**arrays)
    vector = _nd(np.ones(dim, dtype))
    for name, values in bad.items():
        _refused(
            name, _case(dtype, dim), lambda v=values: Gaussian(vector * 0, subject.build(**_nd(v))).log_pdf(vector)
        )


def _check_shared_on_symbols(subject, rng, dtype, dim, leading):
    """On Symbols, ``Shared`` gives all rows of a batch one matrix."""
    arrays, reference = _draw_arrays(subject, rng, dtype, dim, leading)
    reference = _Reference(np.expand_dims(reference.covariance, -3))
    vector_axes = (*leading, 4)
    residual = _on_support(rng, reference, vector_axes, dtype)
    case = _case(dtype, dim, f"leading axes {leading} and {vector_axes}")
    noise, identity = _noise(subject, rng, arrays, vector_axes, leading, dim, dtype, case)

    def results(residual, noise, *values):
        shared = Shared(subject.build(**dict(zip(arrays, values))))
        gaussian = Gaussian(namespace(residual).zeros_like(residual), shared)
        return {"log_pdf": gaussian.log_pdf(residual), "draw_samples": gaussian.draw_samples(noise=noise)}

    with _raising("Shared", case):
        got = _numpy(_hybridized(results, _nd([residual, noise, *arrays.values()])))
        columns = subject.build(**_nd(arrays)).coloring().on_rows(_nd(identity)).asnumpy()
    log_pdf, size = _expected(reference, residual.astype("float64"))["log_pdf"]
    _compare("log_pdf of Shared", case, got["log_pdf"], log_pdf, size, TOLERANCE[dtype], dtype)
    size = np.linalg.norm(noise, axis=-1, keepdims=True) * reference.deviations
    _compare("draw_samples of Shared", case, got["draw_samples"], noise @ columns, size, TOLERANCE[dtype], dtype)


def _check_gradients(subject, rng, dim, leading):
    """Derivatives of all results along each array, and along the vector, against differences of the reference."""
    arrays, reference = _draw_arrays(subject, rng, "float64", dim, leading)
    residual = _on_support(rng, reference, leading, "float64")
    if subject.tangent is None:
        directions = {name: array - arrays[name] for name, array in subject.arrays(rng, leading, dim).items()}
    else:
        directions = subject.tangent(rng, **arrays)
    directions["residual"] = _on_support(rng, reference, leading, "float64")
    noise, identity = _noise(subject, rng, arrays, leading, leading, dim, "float64", "float64")
    names = sorted(set(_expected(reference, residual)) - ({"inverse_diagonal"} if subject.singular else set()))
    values = {**arrays, "residual": residual}
    weights = {name: rng.normal(size=_expected(reference, residual)[name][0].shape) for name in names}

    def objective(residual, **arrays):
        expected = _expected(_Reference(subject.dense(**arrays)), residual)
        return sum(np.sum(weights[name] * expected[name][0]) for name in names)

    def results(*values):
        *values, noise, identity = values
        *values, residual = values
        structure = subject.build(**dict(zip(arrays, values)))
        found = {**_results(structure, residual, noise, identity), **_parts(structure, residual, dim)}
        return {name: found[name] for name in names}

    for mode in ("NDArrays", "Symbols") if subject.symbols else ("NDArrays",):
        case = _case("float64", dim, f"{mode}, leading axes {leading}")
        leaves = _nd(values)
        for leaf in leaves.values():
            leaf.attach_grad()
        with _raising("gradient", case):
            inputs = [*leaves.values(), *_nd([noise, identity])]
            with autograd.record():
                found = results(*inputs) if mode == "NDArrays" else _hybridized(results, inputs)
                total = sum(mx.nd.sum(found[name] * _nd(weights[name])) for name in names)
            total.backward()
            gradients = _numpy({name: leaf.grad for name, leaf in leaves.items()})
        for name, direction in directions.items():
            _compare_derivative(name, case, gradients[name], direction, objective, values)


def _noise(subject, rng, arrays, leading, matrix_axes, dim, dtype, case):
    """Standard normals (leading..., E), and the identity (matrix axes..., E, E)."""
    with _raising("noise_size", case):
        size = subject.build(**_nd(arrays)).noise_size(dim)
    identity = np.broadcast_to(np.eye(size, dtype=dtype), (*matrix_axes, size, size))
    return rng.normal(size=(*leading, size)).astype(dtype), identity


def _total(diagonal, root):
    """diag(d) + A A^T, where one may be None."""
    if diagonal is None:
        return outer_square(root)
    return from_diagonal(diagonal) if root is None else add(outer_square(root), from_diagonal(diagonal))


def _divergence(p, q, difference):
    """KL(p || q) of two references with a common support."""
    trace = np.einsum("...ij,...ji->...", q.inverse, p.covariance)
    return 0.5 * (trace + q.squared_norm(difference) - p.rank + q.log_det - p.log_det)


def _split(dim):
    """Given positions, not in order, and the rest."""
    return [dim - 1, *range(dim // 2 - 1)], list(range(dim // 2 - 1, dim - 1))


# Distributions.

_FORMS = {
    "covariance": (lambda covariance: covariance, lambda covariance: covariance),
    "precision": (np.linalg.inv, np.linalg.inv),
    "scale_tril": (np.linalg.cholesky, lambda tril: tril @ np.swapaxes(tril, -1, -2)),
}
_SAMPLES = _ROWS = 3  # equal, for where they are aligned wrongly this goes unnoticed
# For the mean, the matrix and the random variable: has it a sample axis, has it a batch axis.
_SHARED = {"mean": (False, False), "matrix": (False, False), "random_variable": (False, True)}
_LAYOUTS = {
    "one mean and matrix for all rows": _SHARED,
    "a mean per sample": {**_SHARED, "mean": (True, False)},
    "a matrix per sample": {**_SHARED, "matrix": (True, False)},
    "a mean and matrix per row": {**_SHARED, "mean": (False, True), "matrix": (False, True)},
    "all of samples and rows": dict.fromkeys(_SHARED, (True, True)),
}


class _Declared:
    """A random variable (N, D) in a model, and its factor as MXFusion evaluates it."""

    def __init__(self, distribution, form, conversions, dim, dtype):
        self.dim, self.dtype = dim, dtype
        self.from_covariance, self.to_covariance = conversions
        self.model = Model()
        self.model.mean = Variable(shape=(dim,))
        self.model.matrix = Variable(shape=(dim, dim))
        with _raising("define_variable", _case(dtype, dim)):
            self.model.X = distribution.define_variable(
                shape=(_ROWS, dim), mean=self.model.mean, dtype=dtype, **{form: self.model.matrix}
            )
        self.factor = self.model.X.factor

    def draw_arrays(self, rng, layout=_SHARED, scale=1.0):
        """Arrays rounded to the dtype, as MXFusion hands them over, and the covariance of exactly these."""
        axes = {
            name: (_SAMPLES if sampled else 1,) + ((_ROWS,) if batched else ())
            for name, (sampled, batched) in layout.items()
        }
        root = rng.normal(size=(*axes["matrix"], self.dim, 2 * self.dim)) * np.sqrt(scale)
        arrays = {
            "mean": rng.normal(size=(*axes["mean"], self.dim)) * np.sqrt(scale),
            "matrix": self.from_covariance(root @ np.swapaxes(root, -1, -2)),
            "random_variable": 3 * rng.normal(size=(*axes["random_variable"], self.dim)) * np.sqrt(scale),
        }
        return {name: array.astype(self.dtype) for name, array in arrays.items()}

    def log_pdf(self, arrays):
        """By the factor; NDArrays."""
        return self.factor.log_pdf(mx.nd, self._by_uuid(arrays))

    def draw_samples(self, arrays, num_samples):
        """By the factor; NumPy array (S, N, D)."""
        return self.factor.draw_samples(mx.nd, self._by_uuid(_nd(arrays)), num_samples=num_samples).asnumpy()

    def expected(self, mean, matrix, random_variable):
        """Log density and its size by the reference, with missing batch axes put after the sample axis."""
        mean = mean if mean.ndim == 3 else mean[:, None]
        covariance = self.to_covariance(matrix if matrix.ndim == 4 else matrix[:, None])
        return _expected(_Reference(covariance), random_variable - mean)["log_pdf"]

    def case(self, remark="", scale=1.0):
        """In words."""
        return _case(self.dtype, self.dim, remark, scale)

    def _by_uuid(self, arrays):
        variables = {"mean": self.model.mean, "matrix": self.model.matrix, "random_variable": self.model.X}
        return {variables[name].uuid: array for name, array in arrays.items()}


def _check_log_pdf(declared, rng, remark, layout, scale=1.0):
    """Values for every layout of sample and batch axes."""
    arrays = declared.draw_arrays(rng, layout, scale)
    with _raising("log_pdf", declared.case(remark, scale)):
        got = declared.log_pdf(_nd(arrays)).asnumpy()
    expected, size = declared.expected(**_float64(arrays))
    tolerance = TOLERANCE[declared.dtype]
    _compare("log_pdf", declared.case(remark, scale), got, expected, size, tolerance, declared.dtype)


def _check_log_pdf_scaling(declared, rng):
    """MXFusion scales minibatches by ``log_pdf_scaling``."""
    arrays = declared.draw_arrays(rng)
    with _raising("log_pdf_scaling", declared.case()):
        plain = declared.log_pdf(_nd(arrays)).asnumpy()
        declared.factor.log_pdf_scaling = 7.0
        try:
            got = declared.log_pdf(_nd(arrays)).asnumpy()
        finally:
            declared.factor.log_pdf_scaling = 1
    _compare("log_pdf_scaling", declared.case(), got, 7.0 * plain, 0, ROUNDING[declared.dtype], declared.dtype)


def _check_gradients_in_model(declared, rng, remark, layout):
    """Derivatives of the log density along each array, against differences of the reference."""
    arrays = declared.draw_arrays(rng, layout)
    directions = {name: array - arrays[name] for name, array in declared.draw_arrays(rng, layout).items()}
    weights = rng.normal(size=declared.expected(**arrays)[0].shape)
    leaves = _nd(arrays)
    for leaf in leaves.values():
        leaf.attach_grad()
    with _raising("gradient of log_pdf", declared.case(remark)):
        with autograd.record():
            total = mx.nd.sum(declared.log_pdf(leaves) * _nd(weights))
        total.backward()
        gradients = _numpy({name: leaf.grad for name, leaf in leaves.items()})
    for name, direction in directions.items():
        _compare_derivative(
            name,
            declared.case(remark),
            gradients[name],
            direction,
            lambda **values: np.sum(weights * declared.expected(**values)[0]),
            arrays,
        )


def _check_draws(declared, rng, remark, layout):
    """Mean and covariance of the draws of each row, and no correlation between rows."""
    arrays = declared.draw_arrays(rng, layout)
    case = declared.case(remark)
    with _raising("draw_samples", case):
        draws = declared.draw_samples(arrays, NUM_DRAWS)
    if draws.shape != (NUM_DRAWS, _ROWS, declared.dim):
        raise AssertionError(
            f"draw_samples ({case}): got shape {draws.shape}; expected {(NUM_DRAWS, _ROWS, declared.dim)}"
        )
    arrays = _float64(arrays)
    covariance = declared.to_covariance(arrays["matrix"])
    together = np.zeros((_ROWS, declared.dim, _ROWS, declared.dim))
    for row in range(_ROWS):
        together[row, :, row] = covariance[0] if covariance.ndim == 3 else covariance[0, row]
    size = _ROWS * declared.dim
    mean = np.broadcast_to(arrays["mean"], (1, _ROWS, declared.dim)).reshape(size)
    _compare_moments(case, draws.reshape(NUM_DRAWS, size), mean, together.reshape(size, size))


def _check_divergence_of_draws(declared, rng):
    """The mean of log p(x) - log q(x) over draws of p is KL(p || q): density and draws belong together."""
    p, q = declared.draw_arrays(rng), declared.draw_arrays(rng)
    with _raising("Kullback-Leibler divergence", declared.case()):
        p["random_variable"] = q["random_variable"] = declared.draw_samples(p, NUM_DRAWS)
        ratio = (declared.log_pdf(_nd(p)) - declared.log_pdf(_nd(q))).asnumpy().astype("float64")
    p, q = _float64(p), _float64(q)
    references = [_Reference(declared.to_covariance(arrays["matrix"])) for arrays in (p, q)]
    expected = _divergence(*references, p["mean"] - q["mean"])[0]
    error = np.abs(ratio.mean(0) - expected) / (ratio.std(0) / np.sqrt(NUM_DRAWS))
    if not error.max() < Z_BOUND:
        raise AssertionError(
            f"Kullback-Leibler divergence ({declared.case()}): got {ratio.mean(0)} by its own draws and densities, "
            f"{error.max():.3g} standard errors off; expected {expected}"
        )


def _check_no_density(declared, rng):
    """A matrix that is no covariance, or NaN, gets an error or NaN."""
    arrays = declared.draw_arrays(rng)
    bad = {"NaN": np.full_like(arrays["matrix"], np.nan)}
    if _diagonal(declared.to_covariance(-arrays["matrix"])).max() < 0:  # the sign of a factor says nothing
        bad["what is no covariance"] = -arrays["matrix"]
    for name, matrix in bad.items():
        _refused(name, declared.case(), lambda m=matrix: declared.log_pdf(_nd({**arrays, "matrix": m})))


# Comparisons.


@contextmanager
def _raising(name, case):
    """Turn any error into the failure of a property."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{name} ({case}): raised {type(error).__name__}: {error}; expected no error") from error


def _refused(name, case, log_pdf):
    try:
        got = log_pdf().asnumpy()
    except Exception:
        return
    if not np.isnan(got).any():
        raise AssertionError(f"refusal of {name} ({case}): got log_pdf {got}; expected an error or NaN")


def _compare(name, case, got, expected, size, tolerance, dtype):
    """Shape and dtype first, then value: up to a tolerance relative to the value plus a size."""
    if got.shape != expected.shape:
        raise AssertionError(f"{name} ({case}): got shape {got.shape}; expected {expected.shape}")
    if got.dtype != np.dtype(dtype):
        raise AssertionError(f"{name} ({case}): got dtype {got.dtype}; expected {dtype}")
    size = np.broadcast_to(size, expected.shape)
    with np.errstate(invalid="ignore"):
        error = np.where(got == expected, 0, np.abs(got - expected) / (np.abs(expected) + size))
    if not np.all(error <= tolerance):
        index = tuple(int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape))
        raise AssertionError(
            f"{name} ({case}): got {got[index]} at index {index}, a relative error of {error[index]:.3g}; "
            f"expected {expected[index]} up to {tolerance}"
        )


def _compare_derivative(name, case, gradient, direction, objective, values):
    """A gradient along a direction against a difference of the fourth order."""
    step = 2e-5

    def moved(steps):
        return objective(**{**values, name: values[name] + steps * step * direction})

    expected = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step)
    got = np.sum(gradient * direction)
    size = np.sum(np.abs(gradient * direction))
    _compare(f"gradient of {name}", case, got, expected, size, GRADIENT_TOLERANCE, "float64")


def _compare_moments(case, draws, mean, covariance):
    """Sample mean and covariance of draws (S, D) within their standard errors."""
    draws = draws.astype("float64") - mean
    moments = {"mean": draws.mean(0), "covariance": draws.T @ draws / len(draws)}
    variance = np.diagonal(covariance)
    errors = {
        "mean": np.sqrt(variance / len(draws)),
        "covariance": np.sqrt((np.outer(variance, variance) + covariance**2) / len(draws)),
    }
    expected = {"mean": 0 * mean, "covariance": covariance}
    for name, got in moments.items():
        off = np.abs(got - expected[name]) / errors[name]
        if not off.max() < Z_BOUND:
            shown = got if name == "covariance" else got + mean
            wanted = covariance if name == "covariance" else mean
            raise AssertionError(
                f"{name} of draws ({case}): got {shown}, {off.max():.3g} standard errors off; expected {wanted}"
            )


# Arrays.


def _case(dtype, dim, remark="", scale=1.0):
    return f"{dtype}, D = {dim}" + (f", {remark}" if remark else "") + (f", scale {scale:g}" if scale != 1 else "")


def _diagonal(matrices):
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def _float64(arrays):
    return {name: array.astype("float64") for name, array in arrays.items()}


def _nd(arrays):
    """NDArrays of the dtype the NumPy arrays have; of a dict a dict, of a list a list."""
    if isinstance(arrays, dict):
        return {name: _nd(array) for name, array in arrays.items()}
    if isinstance(arrays, list):
        return [_nd(array) for array in arrays]
    return mx.nd.array(arrays, dtype=arrays.dtype)


def _numpy(arrays):
    return {name: array.asnumpy() for name, array in arrays.items()}


class _Block(mx.gluon.HybridBlock):
    """A function of arrays that returns a dict, as a Gluon block."""

    def __init__(self, function):
        super().__init__()
        self._function = function
        self.names = None

    def hybrid_forward(self, F, *arrays):
        results = self._function(*arrays)
        self.names = list(results)
        return list(results.values())


def _hybridized(function, arrays):
    """The results of a function of Symbols, NDArrays by name."""
    block = _Block(function)
    block.hybridize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is not used by any computation", UserWarning)
        values = block(*arrays)
    return dict(zip(block.names, values))
