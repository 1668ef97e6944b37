# SPDX-License-Identifier: Apache-2.0
"""Functions of two Gaussians of any two structures: the Kullback-Leibler divergence and the product."""

import numbers

from mxfusion_mvn import linalg, structures
from mxfusion_mvn.linalg.axes import add, multiply, namespace, subtract
from mxfusion_mvn.linalg.density import log_density, normaliser, plus_rank
from mxfusion_mvn.linalg.ridge import ridge_coefficients, ridge_factor

import mxnet as mx
import numpy as np
from mxnet import autograd


def kl_divergence(difference, p, q):
    """
    KL(p || q) in nats, in closed form.

    With W the whitening by Sigma_q, and Sigma_p = diag(d) + A A^T with as few columns of A as the structure has::

        KL = 1/2 (tr(Sigma_q^-1 Sigma_p) - D + |W (mean_p - mean_q)|^2 + log det Sigma_q - log det Sigma_p)
        tr(Sigma_q^-1 Sigma_p) = |W A|^2 + sum_i d_i (Sigma_q^-1)_ii

    :param difference: mean_p - mean_q (B..., D), or (B..., 1).
    :param p: the :class:`~mxfusion_mvn.structures.Structure` of p.
    :param q: the structure of q.
    :returns: the broadcast of all leading axes; infinite unless p and q have the same support.
    """
    p, q = p.for_one_computation(), q.for_one_computation()
    log_ratio = subtract(q.log_det(), plus_rank(p.log_det(), p.rank(), 1.0))
    divergence = 0.5 * add(add(_trace(q, p), q.distance(difference)), log_ratio)
    if is_singular(p) or is_singular(q):
        divergence = add(divergence, _support_gap(difference, p, q))
    return divergence


def product(difference, p, q):
    """
    The product of two densities, without an inverse or a difference.

    With Sigma_p = A A^T, W the whitening by Sigma_q and B = W A::

        Sigma = A (I + B^T B)^-1 A^T        mean = mean_p + A a,  a = (I + B^T B)^-1 B^T z,  z = W (mean_q - mean_p)
        log N(mean_q; mean_p, Sigma_p + Sigma_q) = -1/2 (|z - B a|^2 + |a|^2 + log det Sigma_q |I + B^T B| + D log 2 pi)

    :param difference: mean_q - mean_p (B..., D), or (B..., 1).
    :param p: the :class:`~mxfusion_mvn.structures.Structure` of p, which may be singular.
    :param q: the structure of q, which may not.
    :returns: (mean - mean_p, the structure of Sigma, the log of the constant).
    :raises ValueError: if q is singular.
    """
    if is_singular(q):
        raise ValueError(
            "`other`: got a second singular covariance; expected at most one. There may be no point where both have a "
            "density: describe one of them by a regular covariance."
        )
    p, q = p.for_one_computation(), q.for_one_computation()
    root = p.root()
    whitened = linalg.transpose(q.whitening().on_rows(linalg.transpose(root)))
    ridge = ridge_factor(whitened)
    target = q.whiten(difference)
    coefficients = structures.RowMap(ridge_coefficients, whitened, ridge)(target)
    remainder = subtract(target, structures.RowMap(linalg.multiply, whitened)(coefficients))
    squares = add(linalg.squared_norm(remainder), linalg.squared_norm(coefficients))
    log_det = add(q.log_det(), 2 * linalg.log_abs_det(ridge))
    log_constant = log_density(squares, normaliser(log_det, q.rank()))
    return structures.RowMap(linalg.multiply, root)(coefficients), _intersection(p, q, root, ridge), log_constant


def is_wider(p, q):
    """
    Whether p is the wider of two, by the mean log variance: a product is accurate where it is not.

    :param p: the :class:`~mxfusion_mvn.structures.Structure` of p.
    :param q: the structure of q.
    :returns: a bool, False for Symbols, while recording and if one is singular.
    """
    if autograd.is_recording() or namespace(p.template()) is mx.sym or is_singular(p) or is_singular(q):
        return False
    first, second = (np.log(structure.variance().asnumpy().astype("float64")).mean() for structure in (p, q))
    return bool(first > second)


def is_singular(structure):
    """
    Whether a Gaussian of this covariance may have no density everywhere.

    :param structure: a :class:`~mxfusion_mvn.structures.Structure`.
    :returns: a bool.
    """
    return structure.barrier() is not None


def dense_like(structure, covariance):
    """
    A covariance as a dense structure: singular if the one it was made from is, and under the same policy.

    :param structure: the :class:`~mxfusion_mvn.structures.Structure` it was made from.
    :param covariance: (B..., K, K).
    :returns: a ``Singular`` or ``Dense``.
    """
    if is_singular(structure):
        return structures.Singular(covariance, tolerance=getattr(structure, "_tolerance", None))
    return structures.Dense(covariance, structure.on_failure)


def _trace(q, p):
    diagonal, root = p.diagonal_and_root()
    parts = []
    if root is not None:
        distances = linalg.squared_norm(q.measuring().on_rows(linalg.transpose(root)))
        parts.append(namespace(distances).sum(distances, axis=-1))
    if diagonal is not None:
        weighted = multiply(q.inverse_diagonal(), diagonal)
        parts.append(namespace(weighted).sum(weighted, axis=-1))
    return parts[0] if len(parts) == 1 else add(*parts)


def _support_gap(difference, p, q):
    """Infinity where the supports differ, 0 elsewhere: equal ranks, and neither p's root nor its mean outside q's."""
    F = namespace(difference)
    ranks = [linalg.constant(p.log_det()) * 0 + x if isinstance(x, numbers.Real) else x for x in (p.rank(), q.rank())]
    unequal = F.abs(subtract(*ranks)) > 0
    gap = F.where(unequal, F.ones_like(unequal) * np.inf, F.zeros_like(unequal))
    if is_singular(q):
        columns = q.barrier().on_rows(linalg.constant(linalg.transpose(p.root())))
        gap = add(gap, add(q.off_support(difference), F.max(columns, axis=(-2, -1))))
    return gap


def _intersection(p, q, root, ridge):
    if isinstance(p, structures.Precision) and isinstance(q, structures.Precision):
        return structures.Precision(add(p.precision, q.precision), p.on_failure)
    if isinstance(p, structures.Diagonal) and isinstance(q, structures.Diagonal):
        return structures.Diagonal(1 / add(1 / p.variances, 1 / q.variances))
    columns = structures.RowMap(linalg.solve_lower, ridge).on_rows(root)
    return dense_like(p, linalg.outer_square(columns))
