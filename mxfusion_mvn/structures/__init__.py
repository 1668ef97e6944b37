# SPDX-License-Identifier: Apache-2.0
"""Covariance structures: how a covariance matrix is held, so that the mathematics of a Gaussian is written once.

=====================  ==========================================  ===========================
structure              covariance                                  a log density costs
=====================  ==========================================  ===========================
``Dense``              Sigma                                       D^3, once per matrix
``Cholesky``           L L^T                                       D^2 a row
``Precision``          P^-1, never formed                          D^3, once per matrix
``Diagonal``           diag(v)                                     D a row
``LowRank``            W W^T + diag(d)                             D r^2, once per matrix
``Kronecker``          R x C, each side a structure                what its sides cost
``ScaledCorrelation``  diag(s) R diag(s)                           D^3, once per matrix
``Singular``           Sigma, positive semi-definite               D^3, once per matrix
``Shared``             one for all rows, declared for Symbols      what the shared one costs
=====================  ==========================================  ===========================

Each meets the protocol of :class:`Structure`; nothing else of the package needs to know which one it has.
"""

from mxfusion_mvn.structures.diagonal import Diagonal
from mxfusion_mvn.structures.kronecker import Kronecker
from mxfusion_mvn.structures.low_rank import LowRank
from mxfusion_mvn.structures.precision import Precision
from mxfusion_mvn.structures.row_map import RowMap
from mxfusion_mvn.structures.scaled_correlation import ScaledCorrelation
from mxfusion_mvn.structures.shared import Shared
from mxfusion_mvn.structures.singular import Singular
from mxfusion_mvn.structures.structure import Cholesky, Dense, Structure

__all__ = [
    "Cholesky",
    "Dense",
    "Diagonal",
    "Kronecker",
    "LowRank",
    "Precision",
    "RowMap",
    "ScaledCorrelation",
    "Shared",
    "Singular",
    "Structure",
]
