# SPDX-License-Identifier: Apache-2.0
"""The one table of tolerances, and a comparison that looks at the shape before the value."""

import mxnet as mx
import numpy as np

TOLERANCE = {
    "float32": {"rtol": 3e-5, "atol": 3e-5},
    "float64": {"rtol": 1e-11, "atol": 1e-11},
}
GRADIENT_TOLERANCE = {"rtol": 1e-7, "atol": 1e-7}


def assert_close(got, expected, rtol, atol=0.0):
    """Shape first (``allclose`` broadcasts), then value."""
    got = got.asnumpy() if isinstance(got, mx.nd.NDArray) else np.asarray(got)
    expected = np.asarray(expected)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
