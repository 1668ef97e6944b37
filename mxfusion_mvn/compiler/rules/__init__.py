# SPDX-License-Identifier: Apache-2.0
"""Rules to rewrite graphs by.

A rule is a function of a rewriter and a node that is to be made; it returns the entry to use in its place, or None.
``basic`` leaves out what does nothing, ``matrices`` factors once what is shared, ``sums`` sums term by term, ``splits``
makes a split of slices. Of graphs with gradients ``scalars`` moves numbers outward and ``pieces`` joins the gradients
of slices. ``products`` and ``lowering`` choose the operators of MXNet that are fastest.
"""
