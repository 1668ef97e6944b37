# SPDX-License-Identifier: Apache-2.0
"""Checks and their messages: of arguments where they are given, and of values where they are computed."""

from mxfusion_mvn.checks.data import (
    fill_masked,
    frame_defect,
    kind_defect,
    shape_remedy,
)
from mxfusion_mvn.checks.definition import (
    FLOAT_DTYPES,
    above_diagonal,
    asymmetry,
    check_covariance,
    check_finite,
    check_floating,
    check_kind,
    check_lower_triangular,
    check_matrix,
    check_name,
    check_not_negative,
    check_positive,
    check_positive_definite,
    check_symmetric,
    floating_dtype,
    refuse,
    rounding,
)
from mxfusion_mvn.checks.wording import (
    at_index,
    plain_index,
    show_shape,
)

__all__ = [
    "FLOAT_DTYPES",
    "above_diagonal",
    "asymmetry",
    "at_index",
    "check_covariance",
    "check_finite",
    "check_floating",
    "check_kind",
    "check_lower_triangular",
    "check_matrix",
    "check_name",
    "check_not_negative",
    "check_positive",
    "check_positive_definite",
    "check_symmetric",
    "fill_masked",
    "floating_dtype",
    "frame_defect",
    "kind_defect",
    "plain_index",
    "refuse",
    "rounding",
    "shape_remedy",
    "show_shape",
]
