# SPDX-License-Identifier: Apache-2.0
"""From one imperative evaluation of an objective to a program that repeats it; see README.md in this folder."""
