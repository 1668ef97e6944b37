# SPDX-License-Identifier: Apache-2.0
"""The support of a latent variable, by its distribution, as a bijection from unconstrained coordinates.

A support may depend on constants only: a Uniform needs constant bounds. A distribution that is not listed inherits the
support of its base class, or is registered by :func:`register_support`.

Under a support other than its own a distribution keeps its density p(v), which is not divided by the probability P of
that support: log densities, bounds and evidences lack -log P. If v has a symmetric distribution around zero with
independent signs, and is restricted to positive values, -log P is log 2 for each entry.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Callable, Sequence

from mxfusion_mvn import bijections, checks, distributions
from mxfusion_mvn.bijections import Bijection
from mxfusion_mvn.checks.options import shown
from mxfusion_mvn.inference.loops.caller import levels_to_the_caller
from mxfusion_mvn.inference.names import check_names, name_of

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import distributions as host
from mxfusion.components.variables import Variable, VariableType
from mxfusion.components.variables.var_trans import VariableTransformation
from mxfusion.models import FactorGraph, Model
from mxfusion.modules import gp_modules
from mxfusion.util.inference import variables_to_UUID


def register_support(distribution: type, support: Bijection | Callable[[Any], Bijection]) -> None:
    """
    Declare the support of a distribution, for all models of the process.

    For a single variable pass ``supports={variable: bijection}`` instead. :func:`unregister_support` takes it back.

    :param distribution: a class of distributions or modules.
    :param support: a :class:`~mxfusion_mvn.bijections.Bijection`, or a function from the factor to one.
    :raises ModelSpecificationError: for anything else.
    """
    _check_is_class(distribution)
    if isinstance(support, type) or not callable(support):
        check_is_bijection(getattr(distribution, "__name__", str(distribution)), support)
    _REGISTERED[distribution] = support


def unregister_support(distribution: type) -> None:
    """
    Take back :func:`register_support`: the distribution has its original support again.

    :param distribution: a class of distributions or modules.
    :raises ModelSpecificationError: if no support was registered for it.
    """
    _check_is_class(distribution)
    if distribution not in _REGISTERED:
        known = ", ".join(sorted(known.__name__ for known in _REGISTERED)) or "none is"
        checks.refuse("distribution", distribution, f"one that was registered ({known})", "There is nothing to undo.")
    del _REGISTERED[distribution]


def support_of(variable: Variable, supports: dict[Variable, Bijection] | None = None) -> Bijection:
    """
    The bijection onto the support of a latent variable.

    :param variable: a random Variable.
    :param supports: dict from Variables to bijections that replace those of their distributions, or None.
    :returns: a :class:`~mxfusion_mvn.bijections.Bijection`.
    :raises ModelSpecificationError: for a discrete variable, or a distribution whose support is not known.
    """
    if not isinstance(variable, Variable) or variable.factor is None:
        checks.refuse("variable", f"{variable!r}", "a random Variable of a model", "Write support_of(model.v).")
    _check_supports(supports)
    if supports and variable in supports:
        check_is_bijection(name_of(variable), supports[variable])
        return supports[variable]
    return _own_support(variable)


def _own_support(variable):
    for distribution in type(variable.factor).__mro__:
        support = _REGISTERED.get(distribution, _SUPPORTS.get(distribution))
        if support is not None:
            bijection = support if isinstance(support, Bijection) else support(variable.factor)
            check_is_bijection(name_of(variable), bijection)
            return bijection
    raise ModelSpecificationError(
        f"`{name_of(variable)}`: the support of {type(variable.factor).__name__} is not known. Pass "
        "supports={variable: bijection}, or call register_support."
    )


def describe(transformation: VariableTransformation | None) -> str:
    """
    A description of a transformation that stays the same, for saved files and comparisons.

    :param transformation: a ``VariableTransformation``, or None.
    :returns: a string, such as ``mxfusion_mvn.bijections.Interval(lower=0.0, upper=1.0)``, or ``none``.
    :raises ModelSpecificationError: for anything else.
    """
    if transformation is None:
        return "none"
    if not isinstance(transformation, VariableTransformation):
        got = f"a {type(transformation).__name__}"
        checks.refuse("transformation", got, "a VariableTransformation or None", "Pass one, such as Positive().")
    arguments = ", ".join(
        f"{name.lstrip('_')}={np.asarray(value).tolist()}"
        for name, value in sorted(vars(transformation).items())
        if isinstance(value, (int, float, np.ndarray))
    )
    return f"{type(transformation).__module__}.{type(transformation).__name__}({arguments})"


def check_is_bijection(name: str, value: object) -> None:
    """
    Refuse anything but a bijection.

    :param name: the name of the variable or argument that it is for.
    :param value: anything.
    :raises ModelSpecificationError: unless it is a :class:`Bijection`.
    """
    if not isinstance(value, Bijection):
        raise ModelSpecificationError(
            f"`{name}`: got {value!r} as its support; expected a Bijection. Choose one from mxfusion_mvn.bijections, "
            "such as Positive()."
        )


def latent_variables(
    model: Model,
    observed: Sequence[Variable],
    supports: dict[Variable, Bijection] | None = None,
    excluded: Sequence[Variable] = (),
) -> dict[Variable, Bijection]:
    """
    The latent variables of a model with the bijections onto their supports.

    :param model: Model.
    :param observed: list of Variables.
    :param supports: as in :func:`support_of`.
    :param excluded: list of latent Variables to leave out.
    :returns: dict from Variables to bijections, in the order of the model.
    :raises ModelSpecificationError: as :func:`support_of`, for supports of variables that are not latent, and for
        observed variables that are not of the model.

    Warns if a support is not that of the distribution.
    """
    if not isinstance(model, FactorGraph):
        checks.refuse("model", shown(model), "a Model", "Write model = Model() and declare its variables.")
    check_names(model)
    _check_observed(model, observed)
    _check_supports(supports)
    if not _is_list(excluded):
        checks.refuse("excluded", shown(excluded), "a list of latent Variables", "Write excluded=[model.v].")
    _check_something_observed(model, observed)
    random = {v.uuid for v in model.get_latent_variables(variables_to_UUID(observed))}
    for name, variables in (("supports", supports or ()), ("excluded", excluded)):
        for variable in variables:
            if not isinstance(variable, Variable) or variable.uuid not in random:
                raise ModelSpecificationError(
                    f"`{name}`: got {variable}, which is not a latent variable of the model; expected latent "
                    "variables. Leave it out."
                )
    latent = model.get_latent_variables(variables_to_UUID([*observed, *excluded]))
    bijections_of = {variable: support_of(variable, supports) for variable in latent}
    for variable, support in (supports or {}).items():
        if variable in bijections_of:
            _warn_of_missing_probability(variable, support)
    return bijections_of


def _warn_of_missing_probability(variable, given):
    try:
        own = _own_support(variable)
    except ModelSpecificationError:  # the reason why one is given
        return
    if describe(own) == describe(given):
        return
    lacking = (
        "minus the log of that probability. Where it depends on other variables the posterior is another one: choose "
        "a distribution with that support if there is one"
    )
    if isinstance(given, bijections.Positive) and _has_independent_signs(variable.factor):
        lacking = "log 2 for each entry: add it where these are compared with those of other models"
        if all(isinstance(size, int) for size in variable.shape):
            size = math.prod(variable.shape)
            lacking = f"{size} log 2 = {size * math.log(2):.4g} nats: add them where these are compared with others"
    kinds = (type(each).__name__ for each in (given, own, variable.factor))
    warnings.warn(
        "`supports`: `{}` is {} in place of {}, and the density of {} is not divided by the probability of that. Log "
        "densities, bounds and evidences lack {}.".format(name_of(variable), *kinds, lacking),
        stacklevel=levels_to_the_caller(),
    )


def _has_independent_signs(factor):
    """Whether a distribution stays the same if the sign of any entry changes."""
    inputs = dict(factor.inputs)
    center = inputs.get("location" if isinstance(factor, host.Laplace) else "mean")
    if (
        center is None
        or not isinstance(factor, _SYMMETRIC)
        or center.type != VariableType.CONSTANT
        or np.any(_array(center))
    ):
        return False
    matrix = next((inputs[name] for name in ("covariance", "precision", "scale_tril") if name in inputs), None)
    if matrix is None or factor.outputs[0][1].shape[-1] == 1 or matrix.shape[-1] == 1:
        return True
    return matrix.type == VariableType.CONSTANT and not np.any(_array(matrix) * (1 - np.eye(matrix.shape[-1])))


def _array(variable):
    value = variable.constant
    return value.asnumpy() if isinstance(value, mx.nd.NDArray) else np.asarray(value)


def _check_observed(model, observed):
    for variable in observed if _is_list(observed) else [observed]:
        if variable is observed or not isinstance(variable, Variable) or variable.uuid not in model:
            raise ModelSpecificationError(
                f"`observed`: got {variable!r}; expected a list of variables of the model. Write [model.x, model.y]."
            )


def _check_supports(supports):
    if supports is not None and not isinstance(supports, dict):
        remedy = "Write supports={model.v: Positive()}."
        checks.refuse("supports", shown(supports), "a dict from Variables to bijections, or None", remedy)


def _check_is_class(distribution):
    if not isinstance(distribution, type):
        got, remedy = shown(distribution), "Name the class itself, as in register_support(MyDistribution, Positive())."
        checks.refuse("distribution", got, "a class of distributions or modules", remedy)


def _is_list(value):
    return isinstance(value, (list, tuple, set, frozenset))


def _check_something_observed(model, observed):
    """Without observed variables the mode of the prior is found; but not for rows whose number only data tell."""
    if len(observed):
        return
    for variable in model.get_latent_variables([]):
        unknown = [size for size in variable.shape if isinstance(size, Variable) and size.type != VariableType.CONSTANT]
        if unknown and not variable.successors:
            raise ModelSpecificationError(
                f"`observed`: got no variable; expected `{name_of(variable)}` of shape "
                f"{checks.show_shape(variable.shape)}, a size that only its data tell. Name what is observed: "
                f"[model.{name_of(variable)}]."
            )


def _uniform(factor):
    bounds = []
    for name, variable in factor.inputs:
        if variable.type != VariableType.CONSTANT:
            raise ModelSpecificationError(
                f"`{name}` of the Uniform variable `{_name(factor)}` is not a constant; expected constant bounds. "
                "Write it as a number, or as bounds plus width times a variable between 0 and 1."
            )
        bounds.append(_array(variable))
    return bijections.Interval(*(value.item() if value.size == 1 else value for value in bounds))


def _discrete(factor):
    raise ModelSpecificationError(
        f"`{_name(factor)}` is discrete ({type(factor).__name__}); expected continuous latent variables. "
        "Sum it out, as GaussianMixture does, or pass it in excluded= and give it a posterior of its own."
    )


def _name(factor):
    return name_of(factor.outputs[0][1])


_SYMMETRIC = (
    distributions.MultivariateNormal,
    distributions.MultivariateStudentT,
    host.Laplace,
    host.MultivariateNormal,
    host.MultivariateNormalMeanPrecision,
    host.Normal,
    host.NormalMeanPrecision,
)

# The supports that users registered; they go before those below.
_REGISTERED: dict[type, Any] = {}

_SUPPORTS = {
    **{
        distribution: bijections.Real()
        for distribution in (
            distributions.GaussianMixture,
            distributions.LowRankMultivariateNormal,
            distributions.MatrixNormal,
            distributions.MultivariateNormal,
            distributions.MultivariateStudentT,
            host.ConditionalGaussianProcess,
            host.GaussianProcess,
            host.Laplace,
            host.MultivariateNormal,
            host.MultivariateNormalMeanPrecision,
            host.Normal,
            host.NormalMeanPrecision,
            host.PointMass,
            gp_modules.GPRegression,
            gp_modules.SparseGPRegression,
            gp_modules.SVGPRegression,
        )
    },
    host.Beta: bijections.Interval(),
    host.Dirichlet: bijections.Simplex(),
    host.Gamma: bijections.Positive(),
    host.GammaMeanVariance: bijections.Positive(),
    host.Uniform: _uniform,
    host.Wishart: bijections.PositiveDefinite(),
    distributions.InverseWishart: bijections.PositiveDefinite(),
    distributions.LKJCholesky: bijections.CorrelationCholesky(),
    distributions.Wishart: bijections.PositiveDefinite(),
    host.Bernoulli: _discrete,
    host.Categorical: _discrete,
}
