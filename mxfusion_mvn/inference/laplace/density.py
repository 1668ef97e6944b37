# SPDX-License-Identifier: Apache-2.0
"""The density of the latent variables of a model as a function of one unconstrained vector, in float64.

With y = b(x) of all latent variables together::

    f(x) = -log p(data, b(x)) - log |db/dx|

Whatever the dtypes of model and data, all is computed in float64: differences of float32 gradients are mostly rounding.
"""

import threading
from typing import NamedTuple, Tuple

from mxfusion_mvn.bijections import Bijection
from mxfusion_mvn.checks.failure import NotPositiveDefiniteError
from mxfusion_mvn.inference.loops.compiled_function import CompiledFunction
from mxfusion_mvn.inference.results.draws import draws_at_once, log_pdf_terms, unscaled
from mxfusion_mvn.inference.variational.gaussians import size_of

import mxnet as mx
import numpy as np
from mxfusion.components import Distribution
from mxfusion.components.functions import FunctionEvaluation
from mxfusion.components.variables import Variable
from mxfusion.modules.module import Module
from mxnet import autograd


class Part(NamedTuple):
    """The coordinates of one latent variable: x[start:stop], in the shape of its raw array."""

    variable: Variable
    bijection: Bijection
    start: int
    stop: int
    shape: Tuple[int, ...]


class UnconstrainedDensity:
    """
    f and its gradient.

    :param finished: a :class:`~mxfusion_mvn.inference.results.draws.FinishedInference` with data.
    :param values: dict from latent Variables to pairs of their bijection and a raw NDArray at which to begin.
    """

    def __init__(self, finished, values):
        self.model = finished.model
        self.parts = []
        start, begin = 0, []
        for variable, (bijection, raw) in values.items():
            raw = raw.astype("float64")
            stop = start + size_of(raw.shape)
            self.parts.append(Part(variable, bijection, start, stop, raw.shape))
            begin.append(raw.asnumpy().ravel())
            start = stop
        #: Where the search for the mode begins, NumPy array (n,).
        self.begin = np.concatenate(begin)
        #: The last error of an evaluation, or None.
        self.failure = None
        self._base = {uuid: _in_float64(array) for uuid, array in finished.variables.items()}
        self._ctx = finished.inference.mxnet_context
        self._compiled = CompiledFunction(self._negative_log_density, start, self._ctx)
        self._lock = threading.Lock()

    def evaluate(self, points):
        """
        Values and gradients; several threads may ask at once.

        :param points: NumPy array (K, n).
        :returns: NumPy arrays (K,) and (K, n); infinity and zeros where a computation fails.
        """
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        with self._lock:
            done = self._by_program(points, values, gradients)
            while done < len(points):
                part = slice(done, done + draws_at_once(self.model))
                values[part], gradients[part] = self._attempt(self._imperatively, points[part])
                done = part.stop
        return values, gradients

    def _by_program(self, points, values, gradients):
        """Evaluate as many points as there is a program for, or may be one; say how many."""
        for number, point in enumerate(points):
            found = None if self._compiled.reason is not None else self._attempt(self._compiled, point)
            if found is None:
                return number
            values[number], gradients[number] = found
        return len(points)

    def verify(self, point):
        """
        Compare the program, if there is one, with an imperative evaluation; if they differ, it is used no more.

        :param point: NumPy array (n,).
        :returns: whether they agree.
        """
        with self._lock:
            if self._compiled.reason is not None:
                return True
            found = self._attempt(self._compiled, point)
            if found is not None:
                self._compiled.compare(*found)
            return self._compiled.reason is None

    def _attempt(self, evaluate, points):
        try:
            return evaluate(points)
        except (mx.base.MXNetError, NotPositiveDefiniteError) as error:  # far from the mode a factorisation may fail
            self.failure = error
            return np.full(points.shape[:-1], np.inf), np.zeros_like(points)

    def _imperatively(self, points):
        x = mx.nd.array(points, dtype="float64", ctx=self._ctx)
        x.attach_grad()
        with autograd.record():
            values = self._negative_log_density(x)
        values.backward()
        return values.asnumpy(), x.grad.asnumpy()

    def _negative_log_density(self, x):
        samples = x.shape[0]
        variables, total = dict(self._base), mx.nd.zeros((samples,), dtype="float64", ctx=self._ctx)
        for part in self.parts:
            raw = mx.nd.slice_axis(x, axis=-1, begin=part.start, end=part.stop).reshape((samples,) + part.shape)
            variables[part.variable.uuid] = part.bijection.transform(raw)
            total = total - _sum_per_sample(part.bijection.log_det_jacobian(raw), samples)
        with unscaled(self.model):
            terms = log_pdf_terms(self.model, variables)
        for term in terms.values():
            total = total - _sum_per_sample(term, samples)
        return total


def independent_groups(model, latents):
    """
    The groups of latent variables that depend on each other, given everything that is observed.

    Two variables are in one group if they, or functions of them, enter one factor. Second derivatives between groups
    are zero.

    :param model: Model.
    :param latents: list of latent Variables.
    :returns: list of lists of the same Variables, in their order.
    """
    groups = [{variable.uuid} for variable in latents]
    for factor in model.ordered_factors:
        if isinstance(factor, FunctionEvaluation):
            continue
        seen = set().union(*(_sources(variable) for _, variable in factor.inputs + factor.outputs))
        touched = [group for group in groups if group & seen]
        if len(touched) > 1:
            groups = [group for group in groups if not group & seen] + [set().union(*touched)]
    ordered = [[variable for variable in latents if variable.uuid in group] for group in groups]
    return sorted(ordered, key=lambda group: latents.index(group[0]))


def _sources(variable):
    """Uuids of the random variables that a variable is, or is a function of."""
    factor = variable.factor
    if isinstance(factor, (Distribution, Module)):
        return {variable.uuid}
    if factor is None:
        return set()
    return set().union(*(_sources(source) for _, source in factor.inputs))


def _sum_per_sample(term, samples):
    total = mx.nd.sum(term.reshape((term.shape[0], -1)), axis=-1)
    return total if term.shape[0] == samples else total.broadcast_to((samples,))


def _in_float64(value):
    is_float = isinstance(value, mx.nd.NDArray) and np.issubdtype(value.dtype, np.floating)
    return value.astype("float64") if is_float else value
