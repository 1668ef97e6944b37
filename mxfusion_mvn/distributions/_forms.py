# SPDX-License-Identifier: Apache-2.0
"""The ways to give a square matrix to a distribution: covariance, precision or Cholesky factor."""

from mxfusion_mvn import checks, structures
from mxfusion_mvn.checks.failure import check_triangular_factor

import mxnet as mx

# How a constant given in each form is checked.
CHECKS = {
    "covariance": checks.check_covariance,
    "precision": checks.check_covariance,
    "scale_tril": checks.check_lower_triangular,
}


def only_one(**matrices):
    """
    The one matrix that was given.

    :param matrices: by name; None for those not given.
    :returns: (name, value), the first name with the number 1, an identity, if none was given.
    :raises ModelSpecificationError: if more than one was given.
    """
    given = {name: value for name, value in matrices.items() if value is not None}
    if len(given) > 1:
        checks.refuse(
            "` and `".join(given),
            f"{len(given)} matrices",
            "at most one of " + ", ".join(matrices),
            "They describe the same covariance; keep the one you have.",
        )
    return next(iter(given.items())) if given else (next(iter(matrices)), 1.0)


def structure(form, matrix, dim, on_failure, name):
    """
    The structure of a matrix in one of the forms.

    :param form: ``covariance``, ``precision`` or ``scale_tril``.
    :param matrix: NDArray (..., D, D), or (..., 1, 1) for a multiple of the identity.
    :param dim: D.
    :param on_failure: an :class:`~mxfusion_mvn.OnFailure`, or None not to wait for a factorisation.
    :param name: what to call the matrix in messages.
    :returns: a :class:`~mxfusion_mvn.structures.Structure`.
    :raises NotPositiveDefiniteError: as the policy says.
    """
    if matrix.shape[-2:] == (1, 1) and dim != 1:
        matrix = mx.nd.broadcast_mul(matrix, mx.nd.eye(dim, dtype=matrix.dtype, ctx=matrix.context))
    if form == "scale_tril":
        if on_failure is not None:
            check_triangular_factor(matrix, name)
        return structures.Cholesky(matrix)
    return {"covariance": structures.Dense, "precision": structures.Precision}[form](matrix, on_failure, name)
