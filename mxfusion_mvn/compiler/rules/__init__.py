# SPDX-License-Identifier: Apache-2.0
"""Rules to rewrite graphs by; see :func:`~mxfusion_mvn.compiler.rewriter.rule`.

``basic`` leaves out operators that do nothing, ``shared_factors`` factors a matrix that a batch shares only once,
``sums`` sums term by term, ``splits`` makes one split of slices. In graphs with gradients ``scalars`` moves scalars
outward and ``masks`` joins masks. ``products`` and ``lowering`` choose the fastest operators of MXNet.
"""
