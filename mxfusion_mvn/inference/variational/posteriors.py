# SPDX-License-Identifier: Apache-2.0
"""Gaussian posteriors for MXFusion's variational inference, in coordinates in which every latent variable is free.

Each function returns a ``Posterior`` for ``StochasticVariationalInference``. A latent variable of limited support is
pushed through its bijection, so that its draws are in its own space and units. In full rank and low rank all latent
variables, or those of a block, share one Gaussian and are correlated. Its parameters are a mean, standard deviations s
and, for the correlations, an array without units (:mod:`mxfusion_mvn.inference.variational.gaussians`).
"""

from __future__ import annotations

import numbers
from typing import Any, Sequence

from mxfusion_mvn import checks
from mxfusion_mvn.bijections import Bijection
from mxfusion_mvn.checks.options import is_positive, shown
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.inference.arguments import check_finished
from mxfusion_mvn.inference.starts import initial_value, joined, starts_of
from mxfusion_mvn.inference.supports import latent_variables
from mxfusion_mvn.inference.variational.gaussians import (
    Entropy,
    JointVariable,
    Pushforward,
    TransformedGaussian,
    gaussian,
    size_of,
    triangle,
)
from mxfusion_mvn.transformations import Positive

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components.variables import Variable
from mxfusion.inference import Inference
from mxfusion.models import Model, Posterior

INITIAL_SCALE = 0.1
# Loadings of zero are a saddle of the evidence lower bound.
_INITIAL_LOADING = 0.1


def create_Gaussian_meanfield(
    model: Model,
    observed: Sequence[Variable],
    dtype: str | None = None,
    *,
    supports: dict[Variable, Bijection] | None = None,
    excluded: Sequence[Variable] = (),
    entropy: Entropy = "sampled",
    initial_scale: float = INITIAL_SCALE,
    initial_values: dict[Variable, Any] | None = None,
) -> Posterior:
    """
    Independent Gaussians in unconstrained coordinates.

    ``posterior[v].factor.mean`` and ``.scale`` are the parameters of a latent v, in those coordinates. Sizes that only
    the data tell, such as one for each row, are allowed here.

    :param model: Model.
    :param observed: list of Variables.
    :param dtype: dtype of the constants made here; the draws follow the parameters, and these the inference.
    :param supports: dict from latent Variables to :mod:`~mxfusion_mvn.bijections` in place of those that follow from
        their distributions; None for none.
    :param excluded: list of latent Variables whose posterior is set elsewhere, by ``posterior[v].set_prior``.
    :param entropy: ``sampled``, ``closed_form`` or ``sticking_the_landing``: how log q enters the evidence lower bound.
    :param initial_scale: the initial value of the standard deviations.
    :param initial_values: dict from latent Variables to initial values of their means, numbers or arrays in the shape
        and units of the variable. Other means begin near the means of the priors, if these are known.
    :returns: Posterior.
    :raises ModelSpecificationError: for a latent variable whose support is not known, or that is discrete, and for
        initial values that do not fit.
    """
    latent = latent_variables(model, observed, supports, excluded)
    return _with_blocks(model, observed, [], latent, initial_values, initial_scale, entropy=entropy, dtype=dtype)


def create_Gaussian_fullrank(
    model: Model,
    observed: Sequence[Variable],
    dtype: str | None = None,
    *,
    blocks: Sequence[Sequence[Variable]] | None = None,
    supports: dict[Variable, Bijection] | None = None,
    excluded: Sequence[Variable] = (),
    entropy: Entropy = "sampled",
    initial_scale: float = INITIAL_SCALE,
    initial_values: dict[Variable, Any] | None = None,
) -> Posterior:
    """
    One Gaussian with a full covariance over all latent variables together, in unconstrained coordinates.

    :param model: Model.
    :param observed: list of Variables.
    :param dtype: as in :func:`create_Gaussian_meanfield`.
    :param blocks: list of lists of latent Variables: one Gaussian for each list, and independent entries for all other
        variables. None for all variables in one block.
    :param supports: as in :func:`create_Gaussian_meanfield`.
    :param excluded: as in :func:`create_Gaussian_meanfield`.
    :param entropy: as in :func:`create_Gaussian_meanfield`.
    :param initial_scale: as in :func:`create_Gaussian_meanfield`.
    :param initial_values: as in :func:`create_Gaussian_meanfield`.
    :returns: Posterior. The Gaussians are its variables ``joint_0``, ``joint_1``, ..., one for each block.
    :raises ModelSpecificationError: as :func:`create_Gaussian_meanfield`; for a variable in two blocks, or one that is
        not latent; for a variable in a block whose size is not known.
    """

    def root(size):
        return {"below": triangle(size)}

    latent = latent_variables(model, observed, supports, excluded)
    options = {"entropy": entropy, "dtype": dtype}
    return _with_blocks(model, observed, blocks, latent, initial_values, initial_scale, root, **options)


def create_Gaussian_lowrank(
    model: Model,
    observed: Sequence[Variable],
    rank: int | None = None,
    dtype: str | None = None,
    *,
    blocks: Sequence[Sequence[Variable]] | None = None,
    supports: dict[Variable, Bijection] | None = None,
    excluded: Sequence[Variable] = (),
    entropy: Entropy = "sampled",
    initial_scale: float = INITIAL_SCALE,
    initial_values: dict[Variable, Any] | None = None,
) -> Posterior:
    """
    One Gaussian over all latent variables whose covariance is diagonal plus low rank, in unconstrained coordinates.

    With n coordinates it costs n r^2 time, and n r memory where a full covariance takes n^2.

    :param model: Model.
    :param observed: list of Variables.
    :param rank: r, at least 1; None for the square root of the number of coordinates, rounded up.
    :param dtype: as in :func:`create_Gaussian_meanfield`.
    :param blocks: as in :func:`create_Gaussian_fullrank`.
    :param supports: as in :func:`create_Gaussian_meanfield`.
    :param excluded: as in :func:`create_Gaussian_meanfield`.
    :param entropy: as in :func:`create_Gaussian_meanfield`.
    :param initial_scale: as in :func:`create_Gaussian_meanfield`.
    :param initial_values: as in :func:`create_Gaussian_meanfield`.
    :returns: Posterior, with variables as in :func:`create_Gaussian_fullrank`.
    :raises ModelSpecificationError: as :func:`create_Gaussian_fullrank`, and for a rank that is not a positive integer.
    """
    if rank is not None and not (isinstance(rank, numbers.Integral) and rank > 0):
        checks.refuse("rank", repr(rank), "a positive integer or None", "Start with rank=1.")

    def root(size):
        columns = int(min(size, rank or np.ceil(np.sqrt(size))))
        # Cosines of as many frequencies: columns that differ, without a random number.
        waves = np.cos(np.pi * np.outer(np.arange(size) + 0.5, np.arange(1, columns + 1)) / (size + 1))
        loadings = mx.nd.array(_INITIAL_LOADING * waves, dtype="float64")
        return {"factor": Variable(shape=(size, columns), initial_value=loadings)}

    latent = latent_variables(model, observed, supports, excluded)
    options = {"entropy": entropy, "dtype": dtype}
    return _with_blocks(model, observed, blocks, latent, initial_values, initial_scale, root, **options)


def unconstrained_gaussian(inference: Inference, block: int | Variable = 0) -> Gaussian:
    """
    The Gaussian behind a posterior of this module, in unconstrained coordinates, with the parameters learned so far.

    :param inference: an inference with such a posterior.
    :param block: the number of a block, or a latent Variable outside all blocks.
    :returns: a :class:`~mxfusion_mvn.Gaussian` (n,) over the coordinates of the block, its latent variables one after
        another, or (B..., n) over those of the variable.
    :raises InferenceError: if there is no such Gaussian, or the inference has not been run.
    """
    check_finished("inference", inference)
    posterior = inference.inference_algorithm.posterior
    variable = posterior[block] if isinstance(block, Variable) else getattr(posterior, f"joint_{block}", None)
    factor = getattr(variable, "factor", None)
    if not isinstance(factor, TransformedGaussian):
        raise InferenceError(
            f"`block`: got {block}, for which the posterior has no Gaussian; expected the number of a block, or a "
            "latent variable that is in none. Look at the posterior: print(inference.inference_algorithm.posterior)."
        )
    return gaussian(**{name: inference.params[parameter] for name, parameter in factor.inputs})


def _with_blocks(model, observed, blocks, latent, initial_values, initial_scale, root=None, **options):
    """A posterior with a Gaussian for each block, and independent entries for all other latent variables."""
    starts = starts_of(model, observed, latent, initial_values)
    if blocks is None:
        blocks = [list(latent)] if latent else []
    _check_blocks(blocks, latent)
    posterior = Posterior(model)
    for number, block in enumerate(blocks):
        sizes = [_known_size(variable, latent[variable]) for variable in block]
        size = sum(sizes)
        shapes = [latent[variable].raw_shape(variable.shape) for variable in block]
        start = joined([starts[variable] for variable in block], shapes)
        approximation = TransformedGaussian(
            mean=Variable(shape=(size,), initial_value=initial_value(start)),
            scale=_scale((size,), initial_scale),
            **(root(size) if size > 1 else {}),
            **options,
        )
        set_block(posterior, number, block, latent, sizes, approximation)
    in_blocks = {variable.uuid for block in blocks for variable in block}
    for variable, bijection in latent.items():
        if variable.uuid not in in_blocks:
            _set_own(posterior, variable, bijection, starts[variable], initial_scale, **options)
    return posterior


def _set_own(posterior, variable, bijection, start, initial_scale, **options):
    shape = bijection.raw_shape(variable.shape)
    posterior[variable].set_prior(
        TransformedGaussian(
            mean=Variable(shape=shape, initial_value=initial_value(start)),
            scale=_scale(shape, initial_scale),
            bijection=bijection,
            **options,
        )
    )


def set_block(posterior, number, block, supports, sizes, approximation):
    """
    Give some latent variables one joint Gaussian.

    :param posterior: the Posterior to change.
    :param number: the number of the block, which is part of the name ``joint_0`` of its variable.
    :param block: list of latent Variables.
    :param supports: dict from these to bijections.
    :param sizes: list of the number of coordinates of each.
    :param approximation: the :class:`~mxfusion_mvn.inference.variational.gaussians.TransformedGaussian` of all
        coordinates.
    """
    joint = JointVariable(shape=(sum(sizes),))
    joint.set_prior(approximation)
    setattr(posterior, f"joint_{number}", joint)
    for variable, start in zip(block, np.cumsum([0] + sizes)):
        posterior[variable].set_prior(Pushforward(joint=joint, start=int(start), bijection=supports[variable]))


def _scale(shape, initial_scale):
    if not is_positive(initial_scale):
        checks.refuse("initial_scale", shown(initial_scale), "a positive number", "Start with 0.1.")
    return Variable(shape=shape, transformation=Positive(), initial_value=mx.nd.array([initial_scale], dtype="float64"))


def _known_size(variable, bijection):
    shape = bijection.raw_shape(variable.shape)
    if not all(isinstance(size, int) for size in shape):
        raise ModelSpecificationError(
            f"`{variable.name}`: got shape {checks.show_shape(variable.shape)}, a size that only the data will tell; "
            "expected known sizes in a joint Gaussian. Declare it with integers, or name the others in blocks=[[...]]: "
            "its entries then are independent."
        )
    return size_of(shape)


def _check_blocks(blocks, latent):
    seen = set()
    for block in blocks if isinstance(blocks, (list, tuple)) else [blocks]:
        if not isinstance(block, (list, tuple)) or not block:
            checks.refuse("blocks", repr(block), "a list of lists of Variables", "Write blocks=[[a, b], [c]].")
        for variable in block:
            if variable not in latent or variable.uuid in seen:
                what = "twice" if variable in latent else "which is not a latent variable to be approximated"
                checks.refuse("blocks", f"{variable}, {what}", "each latent variable at most once", "Leave it out.")
            seen.add(variable.uuid)
