# SPDX-License-Identifier: Apache-2.0
"""Where inference begins: at the values that the user gave, else near the means of the priors.

Means are computed in the order of the model: a parameter of a prior is a constant, the initial value of a Variable, the
start of another latent variable, or a function of these. If a mean is not known (because it depends on data), is not in
the support, or is zero in unconstrained coordinates, the latent variable begins as every parameter of MXFusion does: at
random near zero in these coordinates.
"""

import numbers

from mxfusion_mvn import checks
from mxfusion_mvn.bijections import Ordered
from mxfusion_mvn.functions import SampledFunction
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.inference.prior_means import prior_mean
from mxfusion_mvn.inference.variational.gaussians import size_of
from mxfusion_mvn.linalg.axes import broadcast_shapes, do_broadcast

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import ModelSpecificationError
from mxfusion.components import Distribution
from mxfusion.components.functions.operators.operators import Operator
from mxfusion.components.variables import Variable, VariableType
from mxfusion.util.inference import variables_to_UUID

# The size of MXNet's random starts.
_OFFSET = 0.07
# Unconstrained coordinates nearer to zero than this are rounding.
_ZERO = 1e-6


def starts_of(model, observed, latent, initial_values=None):
    """
    The starts of latent variables, in unconstrained coordinates.

    They are near a mean, not at it: equal entries have equal gradients, and would stay equal for ever, like the
    components of a mixture.

    :param model: Model.
    :param observed: list of Variables.
    :param latent: dict from latent Variables to the bijections onto their supports.
    :param initial_values: dict from some of these to numbers or arrays in the shape and units of the variable.
    :returns: dict from the latent Variables to NumPy arrays of float64 that broadcast to their raw shapes; None for
        those that begin at random.
    :raises ModelSpecificationError: for values of other variables, of other shapes, or outside the support.
    """
    given = _given_values(initial_values, latent)
    values = _Values(model, observed, latent, given)
    starts, count = {}, 0
    for variable, bijection in latent.items():
        raw = given.get(variable)
        if raw is None:
            raw = values.raw_mean(variable, bijection)
            if raw is not None:
                raw = raw + _offsets(raw.shape, count)
                count += raw.size
        starts[variable] = raw
    return starts


def joined(starts, shapes):
    """
    Several starts, one after another.

    :param starts: list of NumPy arrays or None.
    :param shapes: list of tuples of integers, the raw shapes that these broadcast to.
    :returns: NumPy array (n,), or None if all starts are None.
    """
    if all(start is None for start in starts):
        return None
    sizes = [size_of(shape) for shape in shapes]
    before = np.cumsum([0] + sizes)
    return np.concatenate(
        [
            _offsets((size,), first) if start is None else np.broadcast_to(start, shape).ravel()
            for start, shape, size, first in zip(starts, shapes, sizes, before)
        ]
    )


def initial_value(start, bijection=None):
    """
    The ``initial_value=`` of a parameter with a given start.

    :param start: NumPy array in unconstrained coordinates, or None.
    :param bijection: the transformation of the parameter, or None.
    :returns: NDArray, or None.
    """
    if start is None:
        return None
    raw = mx.nd.array(start, dtype="float64")
    return raw if bijection is None else bijection.transform(raw)


class _Values:
    """
    The values of the variables of a model at the start.

    :param model: Model.
    :param observed: list of Variables.
    :param latent: dict from latent Variables to bijections.
    :param given: dict from some of these to NumPy arrays, their raw values.
    """

    def __init__(self, model, observed, latent, given):
        self._latent, self._given = latent, given
        # From uuid to NumPy arrays that broadcast to the shapes; None for unknown values.
        self._values = dict.fromkeys(variables_to_UUID(observed))
        self._means = {}
        for factor in model.ordered_factors:  # from the roots on, so that the recursion is never deep
            for _, variable in factor.outputs:
                self._value(variable)

    def raw_mean(self, variable, bijection):
        """The mean of the prior of a variable in unconstrained coordinates, or None if that is zero or unknown."""
        mean = self._means.get(variable.uuid)
        raw = None if mean is None else bijection.inverseTransform(mx.nd.array(mean, dtype="float64")).asnumpy()
        return None if raw is None or np.abs(raw).max() < _ZERO else raw

    def _value(self, variable):
        if variable.uuid not in self._values:
            self._values[variable.uuid] = self._compute(variable)
        return self._values[variable.uuid]

    def _compute(self, variable):
        if variable.type == VariableType.CONSTANT:
            return _as_array(variable.constant)
        if variable.type == VariableType.PARAMETER:
            return None if variable.initial_value is None else _as_array(variable.initial_value)
        if variable.type == VariableType.FUNCVAR:
            return self._evaluate(variable)
        return self._begin(variable) if isinstance(variable.factor, Distribution) else None

    def _known(self, factor):
        values = {name: self._value(variable) for name, variable in factor.inputs}
        return {name: value for name, value in values.items() if value is not None}

    def _evaluate(self, variable):
        """The output of a deterministic function, if all its inputs are known."""
        factor = variable.factor
        if not isinstance(factor, (Operator, SampledFunction)) or len(self._known(factor)) < len(factor.inputs):
            return None
        arrays = {source.uuid: mx.nd.array(self._value(source)[None], dtype="float64") for _, source in factor.inputs}
        try:
            outputs = factor.eval(F=mx.nd, variables=arrays, always_return_tuple=True)
            values = {output.uuid: array.asnumpy()[0] for (_, output), array in zip(factor.outputs, outputs)}
        except Exception:  # sizes that only the data tell; any other fault is reported by training
            return None
        return values[variable.uuid]

    def _begin(self, variable):
        shape = _known_shape(variable)
        mean = prior_mean(variable.factor, shape, self._known(variable.factor))
        if variable not in self._latent:
            return mean
        bijection = self._latent[variable]
        if variable in self._given:
            return bijection.transform(mx.nd.array(self._given[variable], dtype="float64")).asnumpy()
        self._means[variable.uuid] = mean = _inside(bijection, shape, mean)
        if mean is None:
            return bijection.transform(mx.nd.zeros(bijection.raw_shape(shape), dtype="float64")).asnumpy()
        return mean


def _inside(bijection, shape, mean):
    """The mean in the shape of its variable if it is in the support, else None."""
    if mean is None or not do_broadcast(mean.shape, shape):
        return None
    value = np.broadcast_to(mean, broadcast_shapes(mean.shape, shape))
    if isinstance(bijection, Ordered) and (np.diff(value, axis=-1) == 0).all():
        value = value + np.arange(shape[-1]) - (shape[-1] - 1) / 2  # as far apart as without a mean
    try:
        bijection.inverseTransform(mx.nd.array(value, dtype="float64"))
    except ModelSpecificationError:
        return None
    return value


def _offsets(shape, first):
    """Numbers within the offset that differ from each other, and from those that begin at another number."""
    size = size_of(shape)
    return _OFFSET * np.sin(1.0 + first + np.arange(size)).reshape(shape)


def _given_values(initial_values, latent):
    """The raw values that were given, a dict from Variables to NumPy arrays."""
    if initial_values is None:
        return {}
    if not isinstance(initial_values, dict):
        got = f"a {type(initial_values).__name__}"
        checks.refuse("initial_values", got, "a dict from latent Variables to their values", "Write {model.x: 1.0}.")
    for variable in initial_values:
        if not isinstance(variable, Variable) or variable not in latent:
            names = ", ".join(name_of(known) for known in latent)
            checks.refuse(
                "initial_values",
                name_of(variable) if isinstance(variable, Variable) else repr(variable),
                f"some of the latent variables {names}",
                "For a parameter without a prior write Variable(initial_value=...).",
            )
    return {variable: _raw_value(variable, value, latent[variable]) for variable, value in initial_values.items()}


def _raw_value(variable, value, bijection):
    argument = f"initial_values` of `{name_of(variable)}"
    value = value.asnumpy() if isinstance(value, mx.nd.NDArray) else value
    if not isinstance(value, (numbers.Real, list, tuple)) and not hasattr(value, "__array__"):
        got = f"a {type(value).__name__}"
        checks.refuse(argument, got, "a number, NDArray or NumPy array", "Write it in the units of the variable.")
    checks.check_kind(argument, value if isinstance(value, (np.ndarray, list, tuple)) else np.asarray(value))
    value = np.atleast_1d(np.asarray(value))
    value = value if value.dtype == np.float32 else value.astype("float64")
    sizes = zip(reversed(value.shape), reversed(variable.shape))
    if value.ndim > len(variable.shape) or not all(
        got in (1, size) or isinstance(size, Variable) for got, size in sizes
    ):
        checks.refuse(
            argument,
            f"shape {value.shape}",
            f"{checks.show_shape(variable.shape)}, or what broadcasts to it",
            "Write it in the shape and units of the variable.",
        )
    checks.check_finite(argument, value)
    value = np.broadcast_to(value, broadcast_shapes(value.shape, _known_shape(variable)))
    try:
        # In the dtype it was given in, whose rounding the checks allow for.
        return bijection.inverseTransform(mx.nd.array(value, dtype=value.dtype)).asnumpy().astype("float64")
    except ModelSpecificationError as error:
        raise ModelSpecificationError(f"`{argument}` is not in its support: {error}") from error


def _known_shape(variable):
    return tuple(size if isinstance(size, int) else 1 for size in variable.shape)


def _as_array(value):
    value = value.asnumpy() if isinstance(value, mx.nd.NDArray) else value
    return np.atleast_1d(np.asarray(value, dtype="float64"))
