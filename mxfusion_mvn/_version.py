# SPDX-License-Identifier: Apache-2.0
"""The version number, written here and nowhere else.

A file of its own, with one literal: so the build reads it without importing MXNet.
"""

__version__ = "0.1.0"
