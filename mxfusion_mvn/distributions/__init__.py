# SPDX-License-Identifier: Apache-2.0
"""MXFusion ``Distribution`` classes over the array-level Gaussian."""

from mxfusion_mvn.distributions.low_rank import LowRankMultivariateNormal
from mxfusion_mvn.distributions.matrix_normal import MatrixNormal
from mxfusion_mvn.distributions.multivariate_normal import MultivariateNormal, MultivariateNormalMeanPrecision

__all__ = ["LowRankMultivariateNormal", "MatrixNormal", "MultivariateNormal", "MultivariateNormalMeanPrecision"]
