# SPDX-License-Identifier: Apache-2.0
"""Gradients of a graph: ``reverse`` goes through it, by the adjoints of ``numbers``, ``axes`` and ``matrices``."""
