# SPDX-License-Identifier: Apache-2.0
"""The forms in which the array level takes a covariance: a matrix, its inverse, its factor, variances, low rank."""

from mxfusion_mvn import structures
from mxfusion_mvn.checks import arguments
from mxfusion_mvn.checks.failure import RAISE

import mxnet as mx
from mxnet import autograd

_FORMS = "exactly one of covariance, precision, scale_tril, variance, or factor with diagonal"


def as_structure(given, on_failure):
    """
    The covariance structure of the forms in which :class:`~mxfusion_mvn.Gaussian` takes a covariance.

    :param given: dict from the name of each form to its value, None where it is not given.
    :param on_failure: an :class:`~mxfusion_mvn.OnFailure`; None not to look at any value, nor to wait for it. A
        structure has its own, and its values are not looked at while ``autograd.record()`` is on.
    :returns: a :class:`~mxfusion_mvn.structures.Structure`.
    :raises ValueError: unless exactly one form is given, as arrays of fitting shapes and one dtype; for a matrix that
        is not symmetric, and a factor that is not lower triangular.
    :raises NotPositiveDefiniteError: for a variance that is not positive, or a zero on the diagonal of a factor.
    """
    arguments.check_policy(on_failure)
    given = {name: value for name, value in given.items() if value is not None}
    if sorted(given) != ["diagonal", "factor"] and (len(given) != 1 or "factor" in given or "diagonal" in given):
        remedy = "They describe the same matrix; keep the one you have."
        arguments.refuse("covariance", ", ".join(given) or "nothing", _FORMS, remedy)
    covariance = given.get("covariance")
    if isinstance(covariance, structures.Structure):
        if on_failure not in (RAISE, None):
            remedy = "Give the policy to the structure."
            arguments.refuse("on_failure", "a policy beside a structure", "one of them", remedy)
        if on_failure is not None and not autograd.is_recording():
            _look_at(covariance)
        return covariance
    structure = _structure(on_failure, **given)
    if on_failure is not None:
        _look_at(structure)
    return structure


def _structure(on_failure, covariance=None, precision=None, scale_tril=None, variance=None, **low_rank):
    if covariance is not None:
        return structures.Dense(covariance, on_failure)
    if precision is not None:
        return structures.Precision(precision, on_failure)
    if scale_tril is not None:
        return structures.Cholesky(scale_tril)
    if variance is not None:
        return structures.Diagonal(variance, name="variance")
    return structures.LowRank(**low_rank)


def _look_at(structure):
    if not any(isinstance(array, mx.sym.Symbol) for array in structure.parameters()):
        structure.check()
