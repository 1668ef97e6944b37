# SPDX-License-Identifier: Apache-2.0
"""The log density of a model for samplers: NumPy in, value and gradient out."""

from __future__ import annotations

import warnings

from mxfusion_mvn.bijections import Bijection
from mxfusion_mvn.checks.options import shown
from mxfusion_mvn.inference.arguments import refuse
from mxfusion_mvn.inference.grad_based_inference import GradBasedInference
from mxfusion_mvn.inference.laplace.density import UnconstrainedDensity, density_of
from mxfusion_mvn.inference.loops.observed import did_you_mean
from mxfusion_mvn.inference.map import MAP
from mxfusion_mvn.inference.names import name_of

import mxnet as mx
import numpy as np
from mxfusion.inference import Inference
from mxfusion.models import Model

# How far from the start the second evaluation is, relative to coordinates above one.
_BESIDE = 1e-2
_RUN_MAP = "Check the data, or run MAP with initial_values, and pass the inference."


def log_density(source: Model | Inference, **data: mx.nd.NDArray | np.ndarray) -> LogDensity:
    """
    The log density of everything that is unknown in a model, given data, as a function of one unconstrained vector.

    With y = b(x) of all latent variables together it is ``log p(data, b(x)) + log |db/dx|``, the density that
    :class:`~mxfusion_mvn.inference.LaplaceApproximation` approximates, in the same coordinates (Carpenter et al.,
    J. Statistical Software 76(1), 2017, on the Jacobian). Constants are included, so that its exponential integrates to
    p(data).

    Of a model, every latent variable is unknown, and the start is near the means of the priors. Of an inference,
    parameters without a prior are held at the values that it has learned, supports are those of its MAP, and the start
    is where it ended.

    :param source: a Model; or a ``GradBasedInference`` of :class:`~mxfusion_mvn.inference.MAP`, or of MXFusion's MAP,
        that has been run.
    :param data: the observed variables by name, NDArrays, NumPy arrays or DataFrames of the declared shapes. Of an
        inference they may be left out for the data of its last run, if that was by a loop of this package.
    :returns: :class:`LogDensity`.
    :raises InferenceError: for another source or algorithm, data that do not fit, a model without latent variables or
        with parameters that have no prior, or if the density is not finite at the start.
    :raises ModelSpecificationError: for a latent variable whose support is not known, or that is discrete.
    """
    if isinstance(source, Inference):
        return LogDensity(density_of("source", source, data)[1])
    if not isinstance(source, Model):
        refuse("source", shown(source), "a Model or an Inference", "Write log_density(model, y=...).")
    inference = _initialized(source, data)
    finished, density = density_of("source", inference, data, "at the means of its priors", _RUN_MAP)
    if finished.parameters:
        refuse(
            "source",
            f"a model in which {', '.join(map(name_of, finished.parameters))} has neither data nor a prior",
            "one in which nothing is learned but random variables",
            "Pass data by name, give it a prior, or run MAP and pass the inference, which holds it at what it learned.",
        )
    return LogDensity(density)


class LogDensity:
    """
    A log density in P unconstrained coordinates, as :func:`log_density` returns it.

    It is evaluated by a compiled program where one gives the same as MXFusion, which is looked at again from time to
    time; else as MXFusion does. Everything is computed in float64. Threads may call it at once; they take turns.

    :param density: an :class:`~mxfusion_mvn.inference.laplace.density.UnconstrainedDensity`.
    """

    def __init__(self, density: UnconstrainedDensity) -> None:
        self._density = density
        # The second evaluation makes the program: here, and not in one of the threads of a sampler.
        density.evaluate((density.begin + _BESIDE * np.maximum(1, np.abs(density.begin)))[None])

    @property
    def dim(self) -> int:
        """P, the number of coordinates."""
        return len(self._density.begin)

    @property
    def names(self) -> list[str]:
        """List of P names, such as ``beta[0]``; those of coordinates of a constrained variable begin with raw."""
        return self._density.names

    @property
    def begin(self) -> np.ndarray:
        """Where to begin, NumPy array (P,)."""
        return self._density.begin.copy()

    @property
    def bijections(self) -> dict[str, Bijection]:
        """Dict from the name of each latent variable to the bijection from coordinates onto its support."""
        return {name_of(part.variable): part.bijection for part in self._density.parts}

    @property
    def fallback_reason(self) -> str | None:
        """Why it is evaluated as MXFusion does, which takes a hundred times as long; None if by a program."""
        return self._density.fallback_reason

    def __call__(self, points: np.ndarray) -> tuple[float, np.ndarray] | tuple[np.ndarray, np.ndarray]:
        """
        Values and gradients.

        :param points: NumPy array (P,) of float64, or (K, P) for K points.
        :returns: a float and an array (P,), or arrays (K,) and (K, P). Where the density is zero, or cannot be computed
            because a factorisation fails or a number overflows, the value is -inf and the gradient NaN.
        :raises InferenceError: for an array of another dtype or shape, and anything but an array.
        """
        self._check(points)
        values, gradients = self._density.evaluate(np.atleast_2d(points))
        values, gradients = -values, -gradients
        failed = ~np.isfinite(values)
        values[failed], gradients[failed] = -np.inf, np.nan
        return (values, gradients) if points.ndim == 2 else (float(values[0]), gradients[0])

    def expand(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """
        The latent variables at points, such as the draws of a sampler, in their own shapes and units.

        :param points: as in a call.
        :returns: dict from the name of each latent variable to a float64 array of its shape, with K in front for K
            points.
        :raises InferenceError: as a call.
        """
        self._check(points)
        values = self._density.constrained(np.atleast_2d(points))
        return {name_of(variable): array if points.ndim == 2 else array[0] for variable, array in values.items()}

    def _check(self, points):
        if not isinstance(points, np.ndarray):
            refuse("points", shown(points), "a NumPy array of float64", "Write np.asarray(points, dtype='float64').")
        if points.dtype != np.float64:
            refuse("points", f"dtype {points.dtype}", "float64", "Write points.astype('float64').")
        if points.ndim not in (1, 2) or points.shape[-1] != self.dim or not len(points):
            remedy = "names has the coordinates in their order."
            refuse("points", f"shape {points.shape}", f"({self.dim},), or (K, {self.dim}) for K points", remedy)


def _initialized(model, data):
    """An inference of a model at the starts of its latent variables."""
    named = {variable.name: variable for variable in model.variables.values() if variable.name is not None}
    for keyword in data:
        if keyword not in named:
            remedy = did_you_mean(keyword, named) or "Leave it out."
            refuse(keyword, "data for what is not in the model", f"some of {', '.join(named)}", remedy)
    inference = GradBasedInference(MAP(model, [named[keyword] for keyword in data]), dtype="float64")
    with warnings.catch_warnings():
        # MXFusion warns whenever an inference creates its parameters.
        warnings.filterwarnings("ignore", message="InferenceParameters has already been")
        inference.initialize(**data)
    return inference
