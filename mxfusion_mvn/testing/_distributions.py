# SPDX-License-Identifier: Apache-2.0
"""The conformance of multivariate normals of MXFusion, with a function for each property."""

from __future__ import annotations

import itertools
from typing import Callable, Sequence

from mxfusion_mvn.testing._compare import (
    NUM_DRAWS,
    ROUNDING,
    SCALES,
    TOLERANCE,
    Z_BOUND,
    check_dtypes,
    compare,
    compare_derivative,
    compare_moments,
    describe,
    diagonals,
    in_float64,
    raising,
    refused,
    to_nd,
    to_numpy,
)
from mxfusion_mvn.testing._reference import Reference, divergence, expected_results

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable
from mxnet import autograd


def check_multivariate_normal(
    distribution: type,
    form: str = "covariance",
    conversions: Sequence[Callable[[np.ndarray], np.ndarray]] | None = None,
    dims: Sequence[int] = (1, 3),
    dtypes: Sequence[str] = ("float32", "float64"),
    seed: int = 0,
) -> None:
    """
    Compare an MXFusion distribution with NumPy: densities, gradients, draws, divergences, scales and refusals.

    The arrays are those that MXFusion passes, with Monte Carlo samples on axis 0: (S or 1, D) for a mean and
    (S or 1, D, D) for a matrix, with a batch axis N after the first if there is one.

    :param distribution: a class with ``define_variable(shape=, mean=, dtype=)``, which takes the matrix by its name.
    :param form: that name.
    :param conversions: two functions of NumPy arrays (..., D, D), from a covariance to that parameter and back; None
        for ``covariance``, ``precision`` and ``scale_tril``, for which they are known.
    :param dims: the sizes D.
    :param dtypes: the dtypes.
    :param seed: the seed of NumPy's generator, and of MXNet's.
    :raises AssertionError: naming the first property that does not hold.
    """
    if conversions is None and form not in _FORMS:
        raise ValueError(f"`form`: got {form!r}; expected {', '.join(_FORMS)}, or another one with `conversions`.")
    check_dtypes(dtypes)
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


_FORMS = {
    "covariance": (lambda covariance: covariance, lambda covariance: covariance),
    "precision": (np.linalg.inv, np.linalg.inv),
    "scale_tril": (np.linalg.cholesky, lambda tril: tril @ np.swapaxes(tril, -1, -2)),
}
_SAMPLES = _ROWS = 3  # equal, because then wrong alignment raises no error
# Whether the mean, the matrix and the random variable have a sample axis, and a batch axis.
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
        if not isinstance(conversions, (list, tuple)) or len(conversions) != 2 or not all(map(callable, conversions)):
            raise ValueError(
                f"`conversions`: got {conversions!r}; expected two functions, from a covariance to the parameter and "
                "back. Leave it out for the forms of MultivariateNormal."
            )
        self.from_covariance, self.to_covariance = conversions
        self.model = Model()
        self.model.mean = Variable(shape=(dim,))
        self.model.matrix = Variable(shape=(dim, dim))
        with raising("define_variable", describe(dtype, dim)):
            self.model.X = distribution.define_variable(
                shape=(_ROWS, dim), mean=self.model.mean, dtype=dtype, **{form: self.model.matrix}
            )
        self.factor = self.model.X.factor

    def draw_arrays(self, rng, layout=_SHARED, scale=1.0):
        """Arrays rounded to the dtype, as MXFusion passes them, and the covariance of exactly these."""
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
        """The log density by the factor, NDArray."""
        return self.factor.log_pdf(mx.nd, self._by_uuid(arrays))

    def draw_samples(self, arrays, num_samples):
        """Draws by the factor, NumPy array (S, N, D)."""
        return self.factor.draw_samples(mx.nd, self._by_uuid(to_nd(arrays)), num_samples=num_samples).asnumpy()

    def expected(self, mean, matrix, random_variable):
        """Log density and its size by the reference, with missing batch axes inserted after the sample axis."""
        mean = mean if mean.ndim == 3 else mean[:, None]
        covariance = self.to_covariance(matrix if matrix.ndim == 4 else matrix[:, None])
        return expected_results(Reference(covariance), random_variable - mean)["log_pdf"]

    def case(self, remark="", scale=1.0):
        """A text for a case."""
        return describe(self.dtype, self.dim, remark, scale)

    def _by_uuid(self, arrays):
        variables = {"mean": self.model.mean, "matrix": self.model.matrix, "random_variable": self.model.X}
        return {variables[name].uuid: array for name, array in arrays.items()}


def _check_log_pdf(declared, rng, remark, layout, scale=1.0):
    """Values for every layout of sample and batch axes."""
    arrays = declared.draw_arrays(rng, layout, scale)
    with raising("log_pdf", declared.case(remark, scale)):
        got = declared.log_pdf(to_nd(arrays)).asnumpy()
    expected, size = declared.expected(**in_float64(arrays))
    tolerance = TOLERANCE[declared.dtype]
    compare("log_pdf", declared.case(remark, scale), got, expected, size, tolerance, declared.dtype)


def _check_log_pdf_scaling(declared, rng):
    """MXFusion scales minibatches by ``log_pdf_scaling``."""
    arrays = declared.draw_arrays(rng)
    with raising("log_pdf_scaling", declared.case()):
        plain = declared.log_pdf(to_nd(arrays)).asnumpy()
        declared.factor.log_pdf_scaling = 7.0
        try:
            got = declared.log_pdf(to_nd(arrays)).asnumpy()
        finally:
            declared.factor.log_pdf_scaling = 1
    compare("log_pdf_scaling", declared.case(), got, 7.0 * plain, 0, ROUNDING[declared.dtype], declared.dtype)


def _check_gradients_in_model(declared, rng, remark, layout):
    """Derivatives of the log density along each array, against differences of the reference."""
    arrays = declared.draw_arrays(rng, layout)
    directions = {name: array - arrays[name] for name, array in declared.draw_arrays(rng, layout).items()}
    weights = rng.normal(size=declared.expected(**arrays)[0].shape)
    leaves = to_nd(arrays)
    for leaf in leaves.values():
        leaf.attach_grad()
    with raising("gradient of log_pdf", declared.case(remark)):
        with autograd.record():
            total = mx.nd.sum(declared.log_pdf(leaves) * to_nd(weights))
        total.backward()
        gradients = to_numpy({name: leaf.grad for name, leaf in leaves.items()})
    for name, direction in directions.items():
        compare_derivative(
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
    with raising("draw_samples", case):
        draws = declared.draw_samples(arrays, NUM_DRAWS)
    if draws.shape != (NUM_DRAWS, _ROWS, declared.dim):
        raise AssertionError(
            f"draw_samples ({case}): got shape {draws.shape}; expected {(NUM_DRAWS, _ROWS, declared.dim)}"
        )
    arrays = in_float64(arrays)
    covariance = declared.to_covariance(arrays["matrix"])
    together = np.zeros((_ROWS, declared.dim, _ROWS, declared.dim))
    for row in range(_ROWS):
        together[row, :, row] = covariance[0] if covariance.ndim == 3 else covariance[0, row]
    size = _ROWS * declared.dim
    mean = np.broadcast_to(arrays["mean"], (1, _ROWS, declared.dim)).reshape(size)
    compare_moments(case, draws.reshape(NUM_DRAWS, size), mean, together.reshape(size, size))


def _check_divergence_of_draws(declared, rng):
    """The mean of log p(x) - log q(x) over draws of p is KL(p || q): density and draws belong together."""
    p, q = declared.draw_arrays(rng), declared.draw_arrays(rng)
    with raising("Kullback-Leibler divergence", declared.case()):
        p["random_variable"] = q["random_variable"] = declared.draw_samples(p, NUM_DRAWS)
        ratio = (declared.log_pdf(to_nd(p)) - declared.log_pdf(to_nd(q))).asnumpy().astype("float64")
    p, q = in_float64(p), in_float64(q)
    references = [Reference(declared.to_covariance(arrays["matrix"])) for arrays in (p, q)]
    expected = divergence(references[0], references[1], p["mean"] - q["mean"])[0]
    error = np.abs(ratio.mean(0) - expected) / (ratio.std(0) / np.sqrt(NUM_DRAWS))
    if not error.max() < Z_BOUND:
        raise AssertionError(
            f"Kullback-Leibler divergence ({declared.case()}): got {ratio.mean(0)} by its own draws and densities, "
            f"{error.max():.3g} standard errors off; expected {expected}"
        )


def _check_no_density(declared, rng):
    """A matrix that is not a covariance, or NaN, gives an error or NaN."""
    arrays = declared.draw_arrays(rng)
    bad = {"NaN": np.full_like(arrays["matrix"], np.nan)}
    if diagonals(declared.to_covariance(-arrays["matrix"])).max() < 0:  # the sign of a factor has no effect
        bad["what is no covariance"] = -arrays["matrix"]
    for name, matrix in bad.items():
        refused(name, declared.case(), lambda m=matrix: declared.log_pdf(to_nd({**arrays, "matrix": m})))
