# SPDX-License-Identifier: Apache-2.0
"""The formula of a Gaussian log density, of one vector or of many: -1/2 (|z|^2 + log det Sigma + rank log 2 pi)."""

import math
import numbers

from mxfusion_mvn.linalg.axes import add

LOG_2PI = math.log(2 * math.pi)


def log_density(squares, normaliser):
    """
    -1/2 (|z|^2 + log det Sigma + rank log 2 pi).

    :param squares: |z|^2 of the whitened residual, or its sum over vectors, (B...).
    :param normaliser: as :func:`normaliser` gives it, times the number of these vectors, (B...).
    :returns: (B...).
    """
    return -0.5 * add(squares, normaliser)


def normaliser(log_det, rank):
    """
    log det Sigma + rank log 2 pi.

    :param log_det: (B...).
    :param rank: an integer, or an array (B...).
    :returns: (B...).
    """
    return plus_rank(log_det, rank, LOG_2PI)


def plus_rank(log_det, rank, constant):
    """
    log det + constant * rank.

    :param log_det: (B...).
    :param rank: an integer, or an array (B...).
    :param constant: a scalar.
    :returns: (B...).
    """
    return log_det + constant * rank if isinstance(rank, numbers.Real) else add(log_det, constant * rank)
