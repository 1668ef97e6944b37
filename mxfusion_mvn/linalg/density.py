# SPDX-License-Identifier: Apache-2.0
"""The pieces of a Gaussian log density."""

import math
import numbers

from mxfusion_mvn.linalg.axes import add

LOG_2PI = math.log(2 * math.pi)


def plus_rank(log_det, rank, constant):
    """
    log det + constant * rank.

    :param log_det: (B...).
    :param rank: an integer, or an array (B...).
    :param constant: a number.
    :returns: (B...).
    """
    return log_det + constant * rank if isinstance(rank, numbers.Real) else add(log_det, constant * rank)
