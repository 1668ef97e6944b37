# SPDX-License-Identifier: Apache-2.0
"""A function of a vector, and its gradient, by a program as soon as there is one."""

from contextlib import nullcontext
from typing import Any

from mxfusion_mvn.compiler.evaluation import Evaluations, Result
from mxfusion_mvn.compiler.native.engine import NativeProgram, entries_of

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter

# The program is held against an imperative evaluation at so many runs, at ten times as many, and so on. In a small
# model an imperative evaluation takes as long as some hundred runs.
_FIRST_COMPARISON = 100
_X = "x"


class CompiledFunction:
    """
    A function of a vector, in float64.

    The first two evaluations, at points that differ, are imperative, and traced. If both traces are the same, and the
    program made of them gives the second value and gradient, it is used from then on, and compared again after 100,
    1000, ... runs.

    :param function: function from an NDArray (1, n) to an NDArray (1,).
    :param size: n.
    :param ctx: MXNet context.

    ``reason`` says why there is no program, None if there is or may be one.
    """

    def __init__(self, function, size, ctx):
        self.reason = None
        self._x = Parameter(_X, shape=(1, size), dtype="float64")
        self._x.initialize(mx.init.Zero(), ctx=ctx)
        self._evaluations = Evaluations(
            lambda _: (function(self._x.data()),) * 2, {_X: self._x}, ctx, [], lambda _: nullcontext()
        )
        self._before = None
        self._program: Any = None
        self._run: Any = None
        self._runs = 0
        self._next_comparison = _FIRST_COMPARISON

    @property
    def has_been_wrong(self):
        """Whether a program was used before a comparison showed that it was wrong."""
        return self._run is not None and self.reason is not None

    def __call__(self, point):
        """
        Evaluate.

        :param point: NumPy array (n,).
        :returns: the value, a float, and the gradient, NumPy array (n,); None if the program turns out to be wrong.
        :raises MXNetError: if a factorisation fails.
        """
        if self._run is None:
            return self._traced(point)
        found = self._run(point)
        self._runs += 1
        if self._runs == self._next_comparison:
            self._next_comparison *= 10
            self.compare(*found)
        return found if self.reason is None else None

    def compare(self, value, gradient):
        """
        Compare the last run, if there was one, with an imperative evaluation at the same point.

        If they differ there will be no further run, and a reason.

        :param value: what it returned.
        :param gradient: likewise.
        """
        if self._run is not None:
            self.reason = self._deviation(value, gradient)

    def _traced(self, point):
        if self._before is not None and np.array_equal(self._before, point):
            self._evaluations.forget()  # two evaluations at one point do not tell what depends on it
        self._before = point.copy()
        self._x.data()[:] = point[None]
        loss = self._evaluations.evaluate([]).asnumpy()
        self.reason = self._evaluations.reason
        if self._evaluations.simplified is not None:
            self._bind()
        return float(loss[0]), self._x.grad().asnumpy()[0]

    def _bind(self):
        if any(node.is_random for node in self._evaluations.traced.nodes):
            self.reason = "it draws random numbers"
            return
        self._program = self._evaluations.program({_X: self._x})
        self.reason = self._evaluations.reason
        if self.reason is None:
            is_native = isinstance(self._program, NativeProgram)
            self._run = self._native_run() if is_native else self._run_by_mxnet

    def _native_run(self):
        """A function that runs the program, and writes and reads its arrays without MXNet, which would take longer."""
        program = self._program
        x, value, gradient = entries_of(self._x.data()), program.value, program.gradient

        def run(point):
            x[:] = point
            program.run()
            if program.has_failed:
                raise mx.base.MXNetError("potrf failed in lapack on cpu.")
            return float(value[0]), gradient.copy()

        return run

    def _run_by_mxnet(self, point):
        self._x.data()[:] = point[None]
        self._program.run()
        value = self._program.loss.asnumpy().ravel()[0]
        self._program.deliver()
        return float(value), self._x.grad().asnumpy()[0]

    def _deviation(self, value, gradient):
        """How an imperative evaluation at the same point differs, None if it does not."""
        try:
            return self._evaluations.deviation(Result(value, {_X: gradient[None]}), [])
        except mx.base.MXNetError as error:
            return f"the program has a value where an evaluation fails: {error}"
        finally:
            self._x.data().wait_to_read()  # the comparison moves it, and puts it back
