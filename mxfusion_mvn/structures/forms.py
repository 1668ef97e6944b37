# SPDX-License-Identifier: Apache-2.0
"""The forms in which a covariance is given: a matrix, its inverse or its factor; on arrays also variances, low rank."""

from typing import Callable, Dict, NamedTuple

from mxfusion_mvn import checks, structures
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import check_triangular_factor, may_repair

import mxnet as mx
from mxnet import autograd

_FORMS = "exactly one of covariance, precision, scale_tril, variance, or factor with diagonal"


class Form(NamedTuple):
    """
    A way to give a square matrix.

    ``structure`` makes a structure of it: a function of the matrix, an :class:`~mxfusion_mvn.OnFailure` or None, and
    the name of the matrix in messages. ``check`` refuses a constant where a model is defined: a function of the name
    and a NumPy array.
    """

    structure: Callable
    check: Callable


def _cholesky(matrix, on_failure, name):
    return structures.Cholesky(matrix, name=name)


MATRICES: Dict[str, Form] = {
    "covariance": Form(structures.Dense, checks.check_covariance),
    "precision": Form(structures.Precision, checks.check_covariance),
    "scale_tril": Form(_cholesky, checks.check_lower_triangular),
}


def of_matrix(form, matrix, dim, on_failure, name):
    """
    The structure of a matrix that a distribution was given.

    :param form: ``covariance``, ``precision`` or ``scale_tril``.
    :param matrix: NDArray (..., D, D), or (..., 1, 1) for a multiple of the identity.
    :param dim: D.
    :param on_failure: an :class:`~mxfusion_mvn.OnFailure`, or None not to wait for a factorisation.
    :param name: what to call the matrix in messages.
    :returns: a :class:`~mxfusion_mvn.structures.Structure`.
    :raises NotPositiveDefiniteError: as the policy says, for a factor that is not finite or has a zero on its diagonal.
    """
    if matrix.shape[-2:] == (1, 1) and dim != 1:
        matrix = mx.nd.broadcast_mul(matrix, mx.nd.eye(dim, dtype=matrix.dtype, ctx=matrix.context))
    if form == "scale_tril" and on_failure is not None:
        check_triangular_factor(matrix, name)
    return MATRICES[form].structure(matrix, on_failure, name)


def as_structure(given, on_failure):
    """
    The covariance structure of the forms in which :class:`~mxfusion_mvn.Gaussian` takes a covariance.

    :param given: dict from the name of each form to its value, None where it is not given.
    :param on_failure: an :class:`~mxfusion_mvn.OnFailure`; None not to look at any value, nor to wait for it. A
        structure has its own, and its values are not looked at while ``autograd.record()`` is on.
    :returns: a :class:`~mxfusion_mvn.structures.Structure`.
    :raises ValueError: unless exactly one form is given, as arrays of fitting shapes and one dtype; for a matrix that
        is not symmetric, a factor that is not lower triangular, and a policy beside a structure that would repair it.
    :raises NotPositiveDefiniteError: for a variance that is not positive, or a zero on the diagonal of a factor.
    """
    arguments.check_policy(on_failure)
    given = {name: value for name, value in given.items() if value is not None}
    if sorted(given) != ["diagonal", "factor"] and (len(given) != 1 or "factor" in given or "diagonal" in given):
        remedy = "They describe the same matrix; keep the one you have."
        arguments.refuse("covariance", ", ".join(given) or "nothing", _FORMS, remedy)
    structure = given.get("covariance")
    is_own = not isinstance(structure, structures.Structure)
    if is_own:
        structure = _structure(given, on_failure)
    elif may_repair(on_failure):
        remedy = "Give the policy to the structure."
        arguments.refuse("on_failure", "a policy beside a structure", "one of them", remedy)
    is_read = on_failure is not None and (is_own or not autograd.is_recording())
    if is_read and not any(isinstance(array, mx.sym.Symbol) for array in structure.parameters()):
        structure.check()
    return structure


def _structure(given, on_failure):
    if len(given) > 1:
        return structures.LowRank(**given)
    ((form, array),) = given.items()
    if form == "variance":
        return structures.Diagonal(array, name=form)
    return MATRICES[form].structure(array, on_failure, form)
