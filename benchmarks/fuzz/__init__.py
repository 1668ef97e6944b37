# SPDX-License-Identifier: Apache-2.0
"""A fuzz of all public names with arguments of every kind: results are compared with SciPy, errors must name things."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))  # the oracles of the tests are those of the fuzz
