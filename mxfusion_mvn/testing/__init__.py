# SPDX-License-Identifier: Apache-2.0
"""A conformance suite for covariance structures and multivariate normals of your own.

:func:`check_structure` compares a structure, and the :class:`~mxfusion_mvn.Gaussian` with it, with dense matrices in
NumPy and float64. :func:`check_multivariate_normal` does this for a distribution of MXFusion. Both return nothing, and
raise an ``AssertionError`` that names the property, the case, what was got and what was expected::

    import numpy as np
    from mxfusion_mvn.structures import Diagonal
    from mxfusion_mvn.testing import check_structure

    check_structure(
        build=Diagonal,
        arrays=lambda rng, leading, dim: {"variances": rng.uniform(0.5, 2.0, leading + (dim,))},
        dense=lambda variances: variances[..., None] * np.eye(variances.shape[-1]),
        degrees={"variances": 1},
        invalid=lambda variances: {"variances": -variances},
    )
"""

from mxfusion_mvn.testing._distributions import check_multivariate_normal
from mxfusion_mvn.testing._structures import check_structure

__all__ = ["check_multivariate_normal", "check_structure"]
