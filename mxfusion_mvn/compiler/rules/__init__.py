# SPDX-License-Identifier: Apache-2.0
"""Rules to rewrite graphs by; see :func:`~mxfusion_mvn.compiler.rewriter.rule`.

``basic`` leaves out operators that do nothing, ``shared_factors`` factors once what a batch shares, ``sums`` sums term
by term, ``splits`` makes a split of slices. Of graphs with gradients ``scalars`` moves scalars outward and ``masks``
joins masks. ``products`` and ``lowering`` choose the operators of MXNet that are fastest.
"""
