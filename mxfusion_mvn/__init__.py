# SPDX-License-Identifier: Apache-2.0
"""The multivariate normal for MXFusion: densities, draws and covariances that stay positive definite."""

from mxfusion_mvn.compat import import_mxnet

import_mxnet()

from mxfusion_mvn import bijections, functions, gluon, inference, missing, mixture, structures, transformations
from mxfusion_mvn._version import __version__
from mxfusion_mvn.checks.failure import NotPositiveDefiniteError, OnFailure, RepairWarning
from mxfusion_mvn.distributions import (
    GaussianMixture,
    InverseWishart,
    LKJCholesky,
    LowRankMultivariateNormal,
    MatrixNormal,
    MultivariateNormal,
    MultivariateNormalMeanPrecision,
    MultivariateStudentT,
    Wishart,
)
from mxfusion_mvn.gaussian import Gaussian
from mxfusion_mvn.totals.gaussian_statistics import GaussianStatistics

__all__ = [
    "Gaussian",
    "GaussianMixture",
    "GaussianStatistics",
    "InverseWishart",
    "LKJCholesky",
    "LowRankMultivariateNormal",
    "MatrixNormal",
    "MultivariateNormal",
    "MultivariateNormalMeanPrecision",
    "MultivariateStudentT",
    "NotPositiveDefiniteError",
    "OnFailure",
    "RepairWarning",
    "Wishart",
    "__version__",
    "bijections",
    "functions",
    "gluon",
    "inference",
    "missing",
    "mixture",
    "structures",
    "transformations",
]
