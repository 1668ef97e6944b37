# SPDX-License-Identifier: Apache-2.0
"""Where the user called, for warnings."""

import sys


def levels_to_the_caller():
    """How many calls lie between the caller of this function and the line of the user that called ``run``."""
    frame, levels, inside = sys._getframe(1), 1, ("mxfusion", "mxfusion_mvn")
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] in inside:
        frame, levels = frame.f_back, levels + 1
    return levels
