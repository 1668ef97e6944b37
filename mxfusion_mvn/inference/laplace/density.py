# SPDX-License-Identifier: Apache-2.0
"""The density of the latent variables of a model as a function of one unconstrained vector, in float64.

With y = b(x) of all latent variables together::

    f(x) = -log p(data, b(x)) - log |db/dx|

Whatever the dtypes of model and data, all is computed in float64: differences of float32 gradients are mostly rounding.
"""

import threading
from typing import NamedTuple, Tuple

from mxfusion_mvn.bijections import Bijection, Real
from mxfusion_mvn.checks.failure import NotPositiveDefiniteError
from mxfusion_mvn.inference.arguments import check_finished
from mxfusion_mvn.inference.loops.compiled_function import CompiledFunction
from mxfusion_mvn.inference.names import entry_names, name_of
from mxfusion_mvn.inference.results.draws import FinishedInference, draws_at_once, log_pdf_terms, unscaled
from mxfusion_mvn.inference.supports import latent_variables
from mxfusion_mvn.inference.variational.gaussians import size_of

import mxfusion.inference as host
import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.components import Distribution
from mxfusion.components.functions import FunctionEvaluation
from mxfusion.components.variables import Variable
from mxfusion.modules.module import Module
from mxnet import autograd

_RUN_ON = "Check the data, or run it on, with a smaller learning rate."


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

    @property
    def names(self):
        """List of the names of the n coordinates; those of a constrained variable begin with raw."""
        names = []
        for part in self.parts:
            prefix = "" if isinstance(part.bijection, Real) else "raw "
            names += entry_names(prefix + name_of(part.variable), part.shape)
        return names

    @property
    def fallback_reason(self):
        """Why it is evaluated imperatively, None if it is or may be by a program."""
        return self._compiled.reason

    def constrained(self, points):
        """
        The latent variables at points.

        :param points: NumPy array (K, n).
        :returns: dict from Variables to NumPy arrays (K, ...) of float64.
        """
        x = mx.nd.array(points, dtype="float64", ctx=self._ctx)
        return {part.variable: part.bijection.transform(_raw_of(part, x)).asnumpy() for part in self.parts}

    def evaluate(self, points):
        """
        Values and gradients; several threads may ask at once.

        :param points: NumPy array (K, n).
        :returns: NumPy arrays (K,) and (K, n); infinity and zeros where a computation fails.
        """
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        with self._lock:
            if not self._by_program(points, values, gradients):
                at_once = draws_at_once(self.model)
                for start in range(0, len(points), at_once):
                    part = slice(start, start + at_once)
                    values[part], gradients[part] = self._attempt(self._imperatively, points[part])
        return values, gradients

    def _by_program(self, points, values, gradients):
        """Evaluate by the program if there is one, or may be one; say whether all of it is right."""
        for number, point in enumerate(points):
            found = None if self._compiled.reason is not None else self._attempt(self._compiled, point)
            if found is None:
                return False
            values[number], gradients[number] = found
        return True

    def verify(self, point):
        """
        Compare the program, if there is one, with an imperative evaluation; if they differ, it is used no more.

        :param point: NumPy array (n,).
        :returns: False if this, or a comparison before, has shown that there was a wrong program.
        """
        with self._lock:
            if self._compiled.reason is None:
                found = self._attempt(self._compiled, point)
                if found is not None:
                    self._compiled.compare(*found)
            return not self._compiled.has_been_wrong

    def _attempt(self, evaluate, points):
        try:
            return evaluate(points)
        except (mx.base.MXNetError, NotPositiveDefiniteError) as error:  # far from the mode a factorisation may fail
            self.failure = error
            if points.ndim == 2 and len(points) > 1:  # it fails for all if it fails for one
                each = [self._attempt(evaluate, point[None]) for point in points]
                return tuple(np.concatenate(arrays) for arrays in zip(*each))
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
            raw = _raw_of(part, x)
            variables[part.variable.uuid] = part.bijection.transform(raw)
            total = total - _sum_per_sample(part.bijection.log_det_jacobian(raw), samples)
        with unscaled(self.model):
            terms = log_pdf_terms(self.model, variables)
        for term in terms.values():
            total = total - _sum_per_sample(term, samples)
        return total


def density_of(argument, inference, data, begin="where it ended", remedy=_RUN_ON):
    """
    The density of the latent variables of a MAP inference, at its data and at the parameters it has learned.

    :param argument: the name of the argument for the inference.
    :param inference: an Inference of MAP, of this package or of MXFusion, that has been run or initialised.
    :param data: dict from names to the observed variables; without any, the data of its last run.
    :param begin: where the density begins, in the words of an error.
    :param remedy: what to do if it is not finite there.
    :returns: a :class:`~mxfusion_mvn.inference.results.draws.FinishedInference` and an :class:`UnconstrainedDensity`
        that begins at the values of the inference.
    :raises InferenceError: for another algorithm, without data, without latent variables, or if the density is not
        finite there.
    """
    check_finished(argument, inference)
    algorithm = inference.inference_algorithm
    if not isinstance(algorithm, host.MAP):
        raise InferenceError(
            f"`{argument}`: got the algorithm {type(algorithm).__name__}; expected MAP. Write "
            "GradBasedInference(MAP(model, observed)) and run it first."
        )
    finished = FinishedInference(inference, **data)
    density = UnconstrainedDensity(finished, _locations(argument, inference, finished))
    if not np.isfinite(density.evaluate(density.begin[None])[0]).all():
        if "Incompatible attr" in str(density.failure):  # MXNet's words for two dtypes
            remedy = "Part of the model computes in float32 only, as a kernel does by default: write dtype='float64'."
        raise InferenceError(
            f"`{argument}`: its log density is not finite {begin}; expected a point near the mode. {remedy}"
        ) from density.failure
    return finished, density


def _locations(argument, inference, finished):
    """Dict from each latent Variable to its bijection and the raw array found, NDArray."""
    algorithm = inference.inference_algorithm
    if not finished.latents:
        raise InferenceError(f"`{argument}`: its model has no latent variables; expected some. Give one a prior.")
    if finished.observed and not finished.data:
        raise InferenceError(
            "`data`: got none; expected the observed variables. Pass each by its name, because only the loops of this "
            "package keep the data of the last run."
        )
    known = getattr(algorithm, "bijections", None) or latent_variables(algorithm.model, finished.observed)
    return {v: (known[v], _raw(inference, algorithm.posterior[v].factor.location, known[v])) for v in finished.latents}


def _raw(inference, location, bijection):
    """The raw value that was learned, if there is one: the value, rounded, may lie on the edge of the support."""
    if location.transformation is bijection:
        return inference.params.param_dict[location.uuid].data()
    return bijection.inverseTransform(inference.params[location])


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


def _raw_of(part, x):
    """The raw array of a latent variable, (S, ...), in vectors (S, n)."""
    return mx.nd.slice_axis(x, axis=-1, begin=part.start, end=part.stop).reshape((x.shape[0],) + part.shape)


def _sum_per_sample(term, samples):
    total = mx.nd.sum(term.reshape((term.shape[0], -1)), axis=-1)
    return total if term.shape[0] == samples else total.broadcast_to((samples,))


def _in_float64(value):
    is_float = isinstance(value, mx.nd.NDArray) and np.issubdtype(value.dtype, np.floating)
    return value.astype("float64") if is_float else value
