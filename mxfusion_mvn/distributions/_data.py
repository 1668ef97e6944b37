# SPDX-License-Identifier: Apache-2.0
"""Which data are to blame for a log density that is not finite: those that the random variable leads to, or itself."""

from mxfusion_mvn.checks import plain_index

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components.distributions.distribution import Distribution

NAN_REMEDY = (
    "If it is data, leave out the rows with missing entries, or fill them in; if it is learned, use a smaller learning "
    "rate."
)


def is_nan(factor, variables):
    """
    Whether there is a NaN in the random variable of a distribution for which it means nothing.

    :param factor: a :class:`VectorDistribution`.
    :param variables: dict from uuid to NDArray.
    :returns: a bool.
    """
    return not factor.MAY_BE_NAN and np.isnan(variables[factor.outputs[0][1].uuid].asnumpy()).any()


def refuse_not_finite(factor, variables):
    """
    Refuse data that are not finite, of the random variable and of those that depend on it.

    :param factor: a :class:`VectorDistribution`.
    :param variables: dict from uuid to NDArray.
    :raises InferenceError: naming the variable and the entry.
    """
    for variable in [*_leaves_after(factor, variables), factor.outputs[0][1]]:
        value = variables[variable.uuid].asnumpy()
        may_be_nan = getattr(variable.factor, "MAY_BE_NAN", False)
        bad = np.argwhere(np.isinf(value) if may_be_nan else ~np.isfinite(value))
        if len(bad):
            found, index = value[tuple(bad[0])], plain_index(bad[0][1:])
            remedy = _remedy(variable, found)
            name = variable.name or "random_variable"
            raise InferenceError(f"`{name}` is {found} at index {index}; expected finite numbers. {remedy}")


def _leaves_after(factor, variables):
    """The random variables with a value that depend on a factor, and that nothing else depends on: data, mostly."""
    found, left = {}, [variable for _, variable in factor.outputs]
    while left:
        for _, successor in left.pop().successors or ():
            for _, variable in successor.outputs:
                is_leaf = isinstance(successor, Distribution) and not variable.successors
                if is_leaf and isinstance(variables.get(variable.uuid), mx.nd.NDArray):
                    found[variable.uuid] = variable
                elif not is_leaf:
                    left.append(variable)
    return found.values()


def _remedy(variable, found):
    """What to do about an entry that is not finite; a variable that others depend on is learned, mostly."""
    if variable.successors:
        return "If it is learned, use a smaller learning rate."
    return getattr(variable.factor, "NAN_REMEDY", NAN_REMEDY) if np.isnan(found) else "Look at the data."
