# SPDX-License-Identifier: Apache-2.0
"""Gradients of a graph: ``reverse`` derives them, by the adjoints in ``elementwise``, ``axes`` and ``matrices``."""
