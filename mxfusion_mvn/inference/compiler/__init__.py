# SPDX-License-Identifier: Apache-2.0
"""From one imperative evaluation of an objective to a program that repeats it: traced, simplified, bound, checked.

``tracing`` and ``hooks`` write down a ``graph``; ``simplify`` and the rules it applies (``rewriter``, ``sums``,
``splits``, ``matrices``, ``products``, ``scalars``, ``pieces``, ``lowering``) make it cheaper; ``gradients`` derives it
by the rules of ``adjoints`` and ``matrix_adjoints``, and ``steps`` joins several. ``program`` runs it, on as many
``threads`` as pay; ``evaluation`` decides whether to trust it, and ``explain`` tells of it. Nothing here knows of the
loops.
"""
