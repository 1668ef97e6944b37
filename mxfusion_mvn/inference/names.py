# SPDX-License-Identifier: Apache-2.0
"""Names of the variables of a model; a variable without a name is called by its part in a distribution."""

from mxfusion_mvn.checks import check_name

import numpy as np
from mxfusion.common.exceptions import ModelSpecificationError


def check_names(graph):
    """
    Refuse a graph in which two variables have one name: if a name is assigned twice, MXFusion keeps both variables.

    :param graph: a Model or Posterior.
    :raises ModelSpecificationError: if there are two, or one has the name of an attribute of MXFusion's models.
    """
    names = set()
    for variable in graph.variables.values():
        check_name(variable.name)
        if variable.name is not None and variable.name in names:
            raise ModelSpecificationError(
                f"`{variable.name}`: got two variables of this name; expected one, because MXFusion keeps both and "
                "counts both. It has been assigned twice: build the model anew, starting from model = Model()."
            )
        names.add(variable.name)


def name_of(variable):
    """
    A name that a person can find in the code of the model.

    :param variable: a Variable of a model or posterior.
    :returns: its name; without one its part in a distribution, such as ``covariance of X``.
    """
    if variable.name is not None:
        return variable.name
    if variable.isInherited:
        return variable.inherited_name
    for part, factor in variable.successors:
        return f"{part} of {name_of(factor.outputs[0][1])}"
    return f"variable {variable.uuid[:5]}"


def entry_names(name, shape):
    """
    The names of the entries of an array.

    :param name: the name of the array.
    :param shape: tuple of integers.
    :returns: list of strings such as ``Sigma[1, 0]``, in the order of the array; just *name* for an array of one entry.
    """
    if np.prod(shape) == 1:
        return [name]
    return [f"{name}[{', '.join(str(i) for i in index)}]" for index in np.ndindex(*shape)]
