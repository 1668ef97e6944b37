# SPDX-License-Identifier: Apache-2.0
"""Gluon blocks: a network whose output is a multivariate normal.

From features h (B..., F) the head makes a mean, and a lower Cholesky factor with a positive diagonal::

    mean = W h + b        L_ii = s softplus(d_i(h)) / log 2 + 1e-6 s        L_ij = s t_ij(h),  i > j

where d and t are linear, too, and zero before training: for all features the covariance L L^T starts as s^2 I, and it
is positive definite for all weights. No matrix is inverted and no determinant computed, because the density of
:class:`~mxfusion_mvn.Gaussian` needs only the factor.
"""

from __future__ import annotations

import math
import numbers

from mxfusion_mvn import linalg
from mxfusion_mvn.checks.arguments import refuse
from mxfusion_mvn.checks.options import dtype_defect, is_positive, shown
from mxfusion_mvn.transformations import softplus

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, ParameterDict, nn

# Softplus underflows to 0, where there is no density. The floor is small enough not to matter, and so large that its
# inverse, and the powers of that in a gradient, are finite in float32.
_FLOOR = 1e-6
# The largest vector, and number of features: a factor of that size has as many entries as MXNet can count.
_LARGEST = 2**16 - 1


class MultivariateNormalHead(HybridBlock):
    """
    The last layer of a network that predicts a Gaussian vector: features -> (mean, scale_tril).

    :class:`~mxfusion_mvn.Gaussian` takes its output, hybridized or not::

        head = MultivariateNormalHead(3)
        head.initialize()
        mean, scale_tril = head(features)  # (B..., 3), (B..., 3, 3)
        loss = -Gaussian(mean, scale_tril=scale_tril).log_pdf(target)  # (B...)

    :param dim: D, the size of the vector, at least 1.
    :param initial_scale: s, the standard deviation of every entry before training, in the units of the vector.
    :param in_units: F, the number of features; 0 to take it from the first features.
    :param dtype: the dtype of the parameters, float32 or float64.
    :param prefix: as in Gluon.
    :param params: as in Gluon.
    :raises ValueError: for a dim or an initial_scale that is not positive, and for options of the wrong kind.
    """

    def __init__(
        self,
        dim: int,
        initial_scale: float = 1.0,
        in_units: int = 0,
        dtype: str | None = "float32",
        prefix: str | None = None,
        params: ParameterDict | None = None,
    ) -> None:
        _check(dim, initial_scale, in_units, dtype, prefix, params)
        dtype = "float32" if dtype is None else dtype
        super().__init__(prefix=prefix, params=params)
        self._scale = float(initial_scale)
        # flatten=False: every axis but the last one is a batch axis.
        common = {"flatten": False, "in_units": in_units, "dtype": dtype}
        with self.name_scope():
            self.mean = nn.Dense(dim, prefix="mean_", **common)
            self.diagonal = nn.Dense(dim, weight_initializer="zeros", prefix="diagonal_", **common)
            # The triangle below the diagonal, row by row, which is empty for D = 1.
            self.below = (
                nn.Dense(dim * (dim - 1) // 2, weight_initializer="zeros", prefix="below_", **common)
                if dim > 1
                else None
            )

    def forward(self, features: mx.nd.NDArray | mx.sym.Symbol):
        """
        The Gaussian of some features; as Gluon's method, with checks of features that are arrays.

        :param features: h (B..., F), an NDArray or a Symbol.
        :returns: as :meth:`hybrid_forward`.
        :raises ValueError: for features of another type, dtype or number.
        """
        self._check_features(features)
        return super().forward(features)

    def _check_features(self, features):
        if isinstance(features, mx.sym.Symbol):
            return
        if not isinstance(features, mx.nd.NDArray) or isinstance(features, mx.np.ndarray):
            refuse("features", shown(features), "an NDArray or a Symbol", "Convert it with mx.nd.array(x).")
        weight = self.mean.weight
        dtype, size = np.dtype(weight.dtype).name, weight.shape[1]
        if np.dtype(features.dtype).name != dtype:
            refuse("features", f"dtype {np.dtype(features.dtype).name}", dtype, f"Write features.astype('{dtype}').")
        if features.stype != "default":
            refuse("features", shown(features), "a dense array", "Write features.tostype('default').")
        if 0 in features.shape or (size and features.shape[-1] != size):
            refuse("features", f"shape {features.shape}", f"(B..., {size or 'F'})", "The last axis holds one row.")

    def hybrid_forward(self, F, features):
        """
        The Gaussian of some features.

        :param F: ``mxnet.nd``, or ``mxnet.sym`` where the block is hybridized.
        :param features: h (B..., F).
        :returns: mean (B..., D) and scale_tril, the lower Cholesky factor of the covariance (B..., D, D).
        """
        scales = self._scale * (softplus(self.diagonal(features)) / math.log(2) + _FLOOR)
        scale_tril = linalg.from_diagonal(scales)
        if self.below is not None:
            scale_tril = scale_tril + F.linalg.maketrian(self._scale * self.below(features), offset=-1)
        return self.mean(features), scale_tril


def _check(dim, initial_scale, in_units, dtype, prefix, params):
    for name, count, least, what in (
        ("dim", dim, 1, "It is the size of the vector"),
        ("in_units", in_units, 0, "It is the number of features; leave it out to take it from the first features"),
    ):
        if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < least:
            refuse(name, shown(count), f"an integer of at least {least}", f"{what}.")
        if count > _LARGEST:
            refuse(name, shown(count), f"an integer of at most {_LARGEST}", f"{what}.")
    if not is_positive(initial_scale):
        what = "It is the standard deviation before training, in the units of the vector."
        refuse("initial_scale", shown(initial_scale), "a positive number", what)
    defect = dtype_defect(dtype)
    if defect is not None:
        refuse("dtype", *defect)
    if prefix is not None and not isinstance(prefix, str):
        refuse("prefix", shown(prefix), "a string or None", "Leave it out.")
    if params is not None and not isinstance(params, ParameterDict):
        refuse("params", shown(params), "a ParameterDict of Gluon or None", "Leave it out.")
