# SPDX-License-Identifier: Apache-2.0
"""Maximum a posteriori with every latent variable kept in its support.

With y = b(x) of the bijection onto the support, the objective is ``-log p(data, y)`` as a function of the raw x; with
the Jacobian it is ``-log p(data, y) - log |db/dx|``, whose minimum is the mode of the density of x. The first does not
depend on the choice of bijection; the second is the centre of a Gaussian approximation in x.
"""

from __future__ import annotations

from typing import Any, Sequence

from mxfusion_mvn import checks
from mxfusion_mvn.bijections import Bijection
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.inference.starts import initial_value, starts_of
from mxfusion_mvn.inference.supports import latent_variables

import mxfusion.inference as host
from mxfusion.components.distributions import PointMass
from mxfusion.components.variables import Variable
from mxfusion.inference.inference_alg import InferenceAlgorithm
from mxfusion.models import Model, Posterior


class MAP(host.MAP):
    """
    MXFusion's MAP, in which a positive variable stays positive and a covariance positive definite.

    The value found for a latent variable v is ``inference.params[algorithm.location(v)]``, in the shape and units of v.

    :param model: Model.
    :param observed: list of Variables.
    :param jacobian: False for the mode of the variables themselves, True for that of their unconstrained coordinates.
    :param supports: dict from latent Variables to :mod:`~mxfusion_mvn.bijections` in place of those that follow from
        their distributions; None for none.
    :param initial_values: dict from latent Variables to the values at which the search begins, numbers or arrays in the
        shape and units of the variable. Other variables begin near the means of their priors, if these are known.
    :raises ModelSpecificationError: for a latent variable whose support is not known, or that is discrete, and for
        initial values that do not fit.
    """

    def __init__(
        self,
        model: Model,
        observed: Sequence[Variable],
        jacobian: bool = False,
        supports: dict[Variable, Bijection] | None = None,
        initial_values: dict[Variable, Any] | None = None,
    ) -> None:
        self._bijections = latent_variables(model, observed, supports)
        self._jacobian = bool(jacobian)
        posterior = point_masses(model, self._bijections, starts_of(model, observed, self._bijections, initial_values))
        # Not the constructor of host.MAP, which gives each location the shape of its variable and no transformation.
        InferenceAlgorithm.__init__(self, model=model, observed=observed, extra_graphs=[posterior])

    @property
    def jacobian(self) -> bool:
        """Whether the objective is the density of the unconstrained coordinates."""
        return self._jacobian

    @property
    def bijections(self) -> dict[Variable, Bijection]:
        """Dict from each latent Variable of the model to the bijection onto its support."""
        return dict(self._bijections)

    def location(self, variable: Variable) -> Variable:
        """
        The parameter that holds the value of a latent variable.

        :param variable: latent Variable of the model.
        :returns: Variable, the key for ``inference.params``.
        :raises ModelSpecificationError: for any other Variable.
        """
        if not isinstance(variable, Variable) or variable not in self._bijections:
            latent = ", ".join(name_of(v) for v in self._bijections)
            checks.refuse(
                "variable", variable, f"a latent variable: {latent or 'there are none'}", "Name one of these."
            )
        return self.posterior[variable].factor.location

    def replicate_self(self, model, extra_graphs=None):
        """
        A copy for another copy of the model; MXFusion calls it.

        :param model: the copy of the model.
        :param extra_graphs: list with the posterior that goes with it.
        :returns: MAP.
        """
        replica = super().replicate_self(model, extra_graphs)
        replica._jacobian = self._jacobian
        replica._bijections = {model[variable.uuid]: b for variable, b in self._bijections.items()}
        return replica

    def prepare_executor(self, rv_scaling=None):
        """
        As MXFusion's, but the locations reach :meth:`compute` raw, because the Jacobian is a function of these.

        :param rv_scaling: dict from uuid to the factor of a log density.
        :returns: dict from uuid to transformation, and the set of excluded uuids.
        """
        transformations, excluded = super().prepare_executor(rv_scaling)
        for variable in self._bijections:
            transformations.pop(self.location(variable).uuid)
        return transformations, excluded

    def compute(self, F, variables):
        """
        The objective.

        :param F: ``mxnet.ndarray``.
        :param variables: dict from uuid to NDArray (1, ...), the locations raw.
        :returns: the negative log density twice, (1,) each: as the loss, and for the gradient.
        """
        log_volume = 0.0
        for variable, bijection in self._bijections.items():
            location = self.location(variable).uuid
            raw = variables[location]
            variables[location] = variables[variable.uuid] = bijection.transform(raw)
            if self._jacobian:
                scaling = variable.factor.log_pdf_scaling
                log_volume = log_volume + F.sum(bijection.log_det_jacobian(raw)) * scaling
        loss = -(self.model.log_pdf(F=F, variables=variables) + log_volume)
        return loss, loss


def point_masses(model, supports, starts):
    """
    A posterior that is a single point.

    :param model: Model.
    :param supports: dict from latent Variables to bijections.
    :param starts: dict from the same to NumPy arrays, their raw values at the start, or None.
    :returns: Posterior, in which each latent is a PointMass whose location is a parameter under the bijection.
    """
    posterior = Posterior(model)
    for variable, bijection in supports.items():
        location = Variable(
            shape=bijection.raw_shape(variable.shape),
            transformation=bijection,
            initial_value=initial_value(starts[variable], bijection),
        )
        posterior[variable].set_prior(PointMass(location=location))
    return posterior
