# SPDX-License-Identifier: Apache-2.0
"""The native engine: programs that run without MXNet's operators."""
