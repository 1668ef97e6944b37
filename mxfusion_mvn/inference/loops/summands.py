# SPDX-License-Identifier: Apache-2.0
"""While an objective is traced MXFusion's own sums of log densities ask for totals, not for rows.

The request is in the name of the call: where :meth:`FactorGraph.log_pdf` sums the rows of a factor it calls, for the
span of a trace, ``total_log_pdf`` in place of ``log_pdf``. All others that call ``log_pdf`` get rows: a mixture that
calls its components, a subclass that weighs the rows of its base, an objective that weighs those of a factor.
"""

import copy
import threading
import warnings
from contextlib import contextmanager

from mxfusion_mvn.compiler.hooks import replaced
from mxfusion_mvn.distributions._base import VectorDistribution
from mxfusion_mvn.inference.loops.caller import levels_to_the_caller
from mxfusion_mvn.totals.summed import reading

from mxfusion.models.factor_graph import FactorGraph


class Totals:
    """The context manager of the traces of one run; it warns once of each distribution that overrides ``log_pdf``."""

    def __init__(self):
        self._told = set()

    @contextmanager
    def __call__(self, is_traced):
        """
        For the span of a ``with`` block, in this thread, sum totals.

        :param is_traced: function of an NDArray: whether it depends on parameters, changing data or draws.
        """
        log_pdf, thread = FactorGraph.log_pdf, threading.get_ident()

        def summed(graph, F, variables, targets=None):
            graph = _Summands(map(self._summand, graph.ordered_factors)) if threading.get_ident() == thread else graph
            return log_pdf(graph, F, variables, targets)

        with reading(lambda array: not is_traced(array)), replaced(FactorGraph, "log_pdf", summed):
            yield

    def _summand(self, factor):
        if not isinstance(factor, VectorDistribution):
            return factor
        kind = type(factor)
        if kind.log_pdf is not VectorDistribution.log_pdf:
            if kind not in self._told:
                self._told.add(kind)
                warnings.warn(
                    f"`{kind.__name__}` overrides `log_pdf`, so that its rows are computed one by one in each step. "
                    "Override `log_pdf_impl` instead.",
                    stacklevel=levels_to_the_caller(),
                )
            return factor
        summand = copy.copy(factor)
        summand.__dict__["log_pdf"] = factor.total_log_pdf
        return summand


class _Summands:
    """A graph as MXFusion's sum over its factors sees it."""

    def __init__(self, factors):
        self.ordered_factors = list(factors)
