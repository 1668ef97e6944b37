# SPDX-License-Identifier: Apache-2.0
"""MXFusion ``Distribution`` classes over the array-level Gaussian."""

from mxfusion_mvn.distributions.inverse_wishart import InverseWishart
from mxfusion_mvn.distributions.lkj import LKJCholesky
from mxfusion_mvn.distributions.low_rank import LowRankMultivariateNormal
from mxfusion_mvn.distributions.matrix_normal import MatrixNormal
from mxfusion_mvn.distributions.mixture import GaussianMixture
from mxfusion_mvn.distributions.multivariate_normal import MultivariateNormal, MultivariateNormalMeanPrecision
from mxfusion_mvn.distributions.student_t import MultivariateStudentT
from mxfusion_mvn.distributions.wishart import Wishart

__all__ = [
    "GaussianMixture",
    "InverseWishart",
    "LKJCholesky",
    "LowRankMultivariateNormal",
    "MatrixNormal",
    "MultivariateNormal",
    "MultivariateNormalMeanPrecision",
    "MultivariateStudentT",
    "Wishart",
]
