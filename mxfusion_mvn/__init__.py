# SPDX-License-Identifier: Apache-2.0
"""The multivariate normal for MXFusion: densities, draws and covariances that stay positive definite."""

from mxfusion_mvn.compat import import_mxnet

import_mxnet()

from mxfusion_mvn import structures, transformations
from mxfusion_mvn._version import __version__
from mxfusion_mvn.distributions import (
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateNormal,
    MultivariateNormalMeanPrecision,
)
from mxfusion_mvn.failure import NotPositiveDefiniteError, OnFailure, RepairWarning
from mxfusion_mvn.gaussian import Gaussian

__all__ = [
    "Gaussian",
    "LowRankMultivariateNormal",
    "MatrixNormal",
    "MultivariateNormal",
    "MultivariateNormalMeanPrecision",
    "NotPositiveDefiniteError",
    "OnFailure",
    "RepairWarning",
    "__version__",
    "structures",
    "transformations",
]
