# SPDX-License-Identifier: Apache-2.0
"""From one imperative evaluation of an objective to a program that repeats it: traced, simplified, bound, checked.

``tracing`` and ``hooks`` write down a ``graph``; ``simplify`` and the rules it applies (``rewriter``, ``sums``,
``splits``, ``matrices``, ``lowering``) make it cheaper; ``program`` and ``flat`` run it; ``evaluation`` decides whether
to trust it.
"""
