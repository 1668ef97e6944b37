# SPDX-License-Identifier: Apache-2.0
"""Parameters of priors in three dimensions."""

import numpy as np

SCALE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.7]])
FACTOR = np.linalg.cholesky(SCALE)
CORRELATION = np.linalg.cholesky(np.array([[1.0, 0.3, -0.2], [0.3, 1.0, 0.5], [-0.2, 0.5, 1.0]]))
MEAN = np.array([3.0, -40.0, 0.5])
