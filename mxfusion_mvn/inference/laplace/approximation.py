# SPDX-License-Identifier: Apache-2.0
"""Laplace's approximation: the Gaussian at the mode of the unconstrained density, with its curvature.

With f of :mod:`mxfusion_mvn.inference.laplace.density`, its minimum m and its Hessian H there, n coordinates::

    q(x) = N(x; m, H^-1)        log p(data) = -f(m) + n/2 log 2 pi - 1/2 log det H, approximately

(Tierney and Kadane, J. American Statistical Association 81, 1986.) If H is singular, data and prior leave some
directions undetermined; the approximation covers the others, and names these.
"""

from __future__ import annotations

import math
import warnings

from mxfusion_mvn.checks.options import is_positive, shown
from mxfusion_mvn.inference.arguments import refuse
from mxfusion_mvn.inference.grad_based_inference import GradBasedInference
from mxfusion_mvn.inference.laplace.density import density_of, independent_groups
from mxfusion_mvn.inference.laplace.newton import WRONG_WAY, find_mode
from mxfusion_mvn.inference.last_runs import Ending, remember
from mxfusion_mvn.inference.loops.imperative import BatchLoop
from mxfusion_mvn.inference.variational.gaussians import TransformedGaussian, triangle
from mxfusion_mvn.inference.variational.posteriors import set_block
from mxfusion_mvn.transformations import Positive

import mxnet as mx
import numpy as np
from mxfusion.components.variables import Variable
from mxfusion.inference import Inference, StochasticVariationalInference
from mxfusion.models import Posterior

# At how many deviations from the mode the program is verified. At the mode itself gradients are mostly rounding.
_BESIDE = 1e-3
# The relative standard deviation of draws along a direction without curvature.
_HELD = 1e-4
# How many null directions a message lists,
_LISTED = 3
# each by its parts of at least this size, relative to the largest.
_LISTED_PART = 0.1
_NOT_FOUND = (
    "Newton's method found no mode, and where it ended the approximation means nothing. Run MAP on before, or begin it "
    "at other values."
)


class SingularHessianWarning(UserWarning):
    """The posterior has directions that neither data nor prior determine; the message names them."""


class ModeNotFoundWarning(UserWarning):
    """The search for the mode ended without finding it."""


class LaplaceApproximation:
    """
    The Gaussian at the mode, in unconstrained coordinates.

    The search starts at the values that MAP found and goes on by Newton's method to the mode of the unconstrained
    density, so MAP need not have converged, nor have included the Jacobian. Parameters without a prior are held at the
    values that MAP found. Everything is computed in float64.

    :param map_inference: a ``GradBasedInference`` of :class:`~mxfusion_mvn.inference.MAP`, or of MXFusion's MAP, that
        has been run.
    :param tolerance: eigenvalues of the Hessian, with its diagonal scaled to one, below this times the largest count as
        zero; None for those below their numerical error. The curvature of a coordinate counts as zero, too, if its
        standard deviation is above 1e6 max(1, its size): choose other units.
    :param data: the observed variables by name; without any, the data of the last run of *map_inference*, if it was
        by a loop of this package.
    :raises InferenceError: for another algorithm, without data, without latent variables, or if the density is not
        finite where MAP ended.
    :warns SingularHessianWarning: if there are directions without curvature.
    :warns ModeNotFoundWarning: if there are none, but the search ended before it found the mode.
    """

    def __init__(
        self, map_inference: Inference, tolerance: float | None = None, **data: mx.nd.NDArray | np.ndarray
    ) -> None:
        if tolerance is not None and not is_positive(tolerance):
            refuse("tolerance", shown(tolerance), "a positive number or None", "Leave it out.")
        finished, self._density = density_of("map_inference", map_inference, data)
        latents = [part.variable for part in self._density.parts]
        self._blocks = independent_groups(finished.model, latents)
        groups = [self._coordinates(block) for block in self._blocks]
        self.mode = find_mode(self._density, groups, tolerance)
        if not self._density.verify(self.mode.point + _BESIDE * self.mode.scale):
            self.mode = find_mode(self._density, groups, tolerance)  # without the program
        self._values, self._vectors = np.linalg.eigh(self.mode.scaled)
        relative = self.mode.error if tolerance is None else tolerance
        self._identified = self._values > relative * self._values.max()
        #: A variational inference with this approximation as its posterior, ready to draw from, predict with,
        #: summarise, save or refine.
        self.inference = self._as_inference(map_inference, finished)
        if self.rank < len(self.mode.point):
            warnings.warn(self._singularity(), SingularHessianWarning, stacklevel=2)
        elif not self.mode.converged:
            warnings.warn(_NOT_FOUND, ModeNotFoundWarning, stacklevel=2)

    @property
    def posterior(self) -> Posterior:
        """The approximation as a ``Posterior``; its parameters are in ``inference.params``."""
        return self.inference.inference_algorithm.posterior

    @property
    def mean(self) -> np.ndarray:
        """The mode in unconstrained coordinates, NumPy array (n,); ``coordinates`` names them."""
        return self.mode.point

    @property
    def covariance(self) -> np.ndarray:
        """H^-1, or its pseudo-inverse where it is singular, NumPy array (n, n)."""
        root = self._root(np.arange(len(self.mean)))
        return root @ root.T

    @property
    def rank(self) -> int:
        """The number of directions that data and prior determine."""
        return int(self._identified.sum())

    @property
    def coordinates(self) -> list[str]:
        """List of the names of the n coordinates; those of a constrained variable begin with raw."""
        return self._density.names

    @property
    def null_directions(self) -> list[dict[str, float]]:
        """A dict for each direction without curvature, from names of coordinates to their weights, largest first."""
        directions, names = [], self.coordinates
        for vector in (self.mode.scale[:, None] * self._vectors[:, ~self._identified]).T:
            vector = vector / np.linalg.norm(vector)
            order = [i for i in np.argsort(-np.abs(vector)) if abs(vector[i]) > 1e-3]
            directions.append({names[i]: float(vector[i]) for i in order})
        return directions

    @property
    def log_evidence(self) -> float:
        """The approximate log of p(data), in nats; NaN if the Hessian is singular, or no mode was found."""
        if self.rank < len(self.mean) or not self.mode.converged:
            return math.nan
        log_det = np.log(self._values).sum() - 2 * np.log(self.mode.scale).sum()
        return -self.mode.value + 0.5 * (len(self.mean) * math.log(2 * math.pi) - log_det)

    def report(self) -> str:
        """A text that says what was found."""
        size, mode = len(self.mean), self.mode
        lines = [
            f"Laplace approximation of {len(self._density.parts)} latent variables in {size} coordinates, rank "
            f"{self.rank}.",
            f"Mode {'found' if mode.converged and not self._at_saddle else 'NOT found'} in {mode.steps} Newton steps: "
            f"another would gain {abs(mode.decrement):.2g} nats.",
        ]
        if self.rank < size:
            lines.append(self._singularity())
        else:
            lines.append(f"Log evidence {self.log_evidence:.6g} nats." if mode.converged else _NOT_FOUND)
        return "\n".join(lines)

    __repr__ = report

    def _singularity(self):
        directions = "; ".join(map(_in_words, self.null_directions[:_LISTED]))
        directions += " and others" if len(self.null_directions) > _LISTED else ""
        count = f"{len(self.null_directions)} of {len(self.mean)} directions"
        if not self.mode.converged and self.mode.level and not self._at_saddle:
            return f"{_NOT_FOUND} There the density has no curvature in {count}: {directions}."
        if self._at_saddle:
            return (
                f"The density curves the wrong way, or not at all, in {count}: {directions}. This is no mode, but a "
                "saddle. Begin MAP at other values, and run it again."
            )
        if 2 * self.rank < len(self.mean) or not self.mode.level:
            return (
                f"The density has no curvature in {count}: {directions}. It may have no mode, as where the deviations "
                "of group effects can go to zero together with the effects. Integrate these out, or use variational "
                "inference."
            )
        return (
            f"Neither data nor prior determine {count}: {directions}. They are held at the mode, so that their "
            "uncertainty is missing. Give them a prior with curvature, or fix what cannot be told apart. `tolerance` "
            "decides what counts as no curvature."
        )

    @property
    def _at_saddle(self):
        return self.mode.level and bool(self._values.min() < WRONG_WAY)

    def _coordinates(self, block):
        uuids = {variable.uuid for variable in block}
        parts = [part for part in self._density.parts if part.variable.uuid in uuids]
        return np.concatenate([np.arange(part.start, part.stop) for part in parts])

    def _root(self, index):
        """A with A A^T = the covariance of some coordinates, without the directions that have no curvature."""
        columns = self._vectors[:, self._identified] / np.sqrt(self._values[self._identified])
        return (self.mode.scale[:, None] * columns)[index]

    def _as_inference(self, map_inference, finished):
        posterior = Posterior(finished.model)
        bijections = {part.variable: part.bijection for part in self._density.parts}
        for number, block in enumerate(self._blocks):
            index = self._coordinates(block)
            sizes = [part.stop - part.start for part in self._density.parts if part.variable in block]
            set_block(posterior, number, block, bijections, sizes, self._gaussian(index, map_inference.dtype))
        algorithm = StochasticVariationalInference(1, finished.model, posterior, finished.observed)
        inference = GradBasedInference(
            algorithm,
            grad_loop=BatchLoop(),
            constants=dict(map_inference.params.constants),
            dtype=map_inference.dtype,
            context=map_inference.mxnet_context,
        )
        with warnings.catch_warnings():
            # MXFusion warns whenever an inference creates its parameters.
            warnings.filterwarnings("ignore", message="InferenceParameters has already been")
            inference.initialize(**{variable.name: finished.data[variable.uuid] for variable in finished.observed})
        for uuid, parameter in inference.params.param_dict.items():
            if uuid in map_inference.params.param_dict:
                parameter.set_data(map_inference.params.param_dict[uuid].data())
        remember(
            inference.params.param_dict, {**finished.data, **finished.row_counts}, self._ending()
        )  # for summaries and ArviZ
        return inference

    def _ending(self):
        has_arrived = self.mode.converged and self.rank == len(self.mode.point)
        return Ending(_NOT_FOUND if self.rank == len(self.mode.point) else self._singularity(), has_arrived)

    def _gaussian(self, index, dtype):
        root, scale = self._root(index), self.mode.scale[index]
        mean = _parameter(self.mean[index])
        if self.rank < len(self.mean):
            held = _HELD * np.minimum(scale, np.maximum(1, np.abs(self.mean[index])))
            given = {"factor": _parameter(root / held[:, None])} if self.rank else {}
            deviations = np.sqrt(np.square(held) + np.square(root).sum(axis=1))
            return TransformedGaussian(mean, _deviations(deviations), dtype=dtype, **given)
        factor = np.linalg.cholesky((root @ root.T) / np.outer(scale, scale))
        deviations = np.diag(factor)
        below = (factor / deviations[:, None])[np.tril_indices(len(index), -1)]
        given = {"below": triangle(len(index), below)} if len(below) else {}
        return TransformedGaussian(mean, _deviations(scale * deviations), dtype=dtype, **given)


def _in_words(direction):
    """The largest weights of a null direction, as a text."""
    largest = max(map(abs, direction.values()))
    parts = [f"{weight:+.3g} {name}" for name, weight in direction.items() if abs(weight) > _LISTED_PART * largest]
    return " ".join(parts[:6] + ["..."] * (len(parts) > 6))


def _parameter(value):
    return Variable(shape=value.shape, initial_value=mx.nd.array(value, dtype="float64"))


def _deviations(value):
    initial = mx.nd.array(value, dtype="float64")
    return Variable(shape=value.shape, transformation=Positive(), initial_value=initial)
