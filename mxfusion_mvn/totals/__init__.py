# SPDX-License-Identifier: Apache-2.0
"""Totals of log densities over rows, and their gradients in closed form."""
