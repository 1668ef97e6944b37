# SPDX-License-Identifier: Apache-2.0
"""From one imperative evaluation of an objective to a program that repeats it: traced, simplified, bound, checked.

``tracing`` and ``hooks`` write down a ``graph``; ``simplify`` makes it cheaper, with a ``rewriter`` that applies
``rules``, and adds its ``derivatives``; ``steps`` joins several steps. ``program`` runs it, on as many ``threads`` as
pay; ``evaluation`` decides whether to trust it, and ``explain`` tells of it. Nothing here knows of the loops.
"""
