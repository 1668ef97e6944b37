# SPDX-License-Identifier: Apache-2.0
"""Laplace's approximation: the density in unconstrained coordinates, its mode and its curvature."""
