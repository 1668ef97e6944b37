# SPDX-License-Identifier: Apache-2.0
"""The wiring of a vector distribution with MXFusion: declaration, sample axis, dtypes and late errors.

A subclass says which event axes each array has (``EVENT``), and writes two methods on arrays that are aligned already:
NDArrays by name, (S or 1, B..., event), all with the same number of batch axes::

    log_pdf_impl(random_variable, F, **inputs)               (S or 1, B...), without ``log_pdf_scaling``
    draw_samples_impl(rv_shape, num_samples, F, **inputs)    (S,) + rv_shape, the shape of one draw (B..., event)

Outside ``autograd.record()`` both refuse parameters that are not valid, by an ``InferenceError`` that names them.
"""

from __future__ import annotations

import inspect
import math
import numbers
from typing import Any, Callable, Sequence, TypeVar, overload

from mxfusion_mvn import checks
from mxfusion_mvn.checks import model_inputs
from mxfusion_mvn.checks.failure import RAISE, NotFiniteError, OnFailure, check_finite
from mxfusion_mvn.checks.options import shown
from mxfusion_mvn.distributions import _data
from mxfusion_mvn.distributions._data import NAN_REMEDY
from mxfusion_mvn.linalg import constant, is_differentiated
from mxfusion_mvn.linalg.axes import align_samples
from mxfusion_mvn.totals.statistics import all_rows, standing_for_all
from mxfusion_mvn.totals.summed import is_constant, reduced

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError, ModelSpecificationError
from mxfusion.components.distributions.distribution import Distribution
from mxfusion.components.model_component import ModelComponent
from mxfusion.components.variables import Variable, VariableType
from mxfusion.util.inference import realize_shape
from mxnet import autograd

_Own = TypeVar("_Own", bound="VectorDistribution")


class VectorDistribution(Distribution):
    """
    A distribution over the last axis of its random variable.

    With ``shape=`` the class declares and returns the random variable, without it the factor, for ``set_prior``.

    :param inputs: dict from name to Variable, NDArray, NumPy array, number or ``OneOf`` several.
    :param on_failure: an :class:`~mxfusion_mvn.OnFailure`; None to look at factorisations only where nothing records.
    :param rand_gen: the random generator, MXFusion's own if None.
    :param dtype: dtype of the constants made here; draws follow the parameters.
    :param ctx: MXNet context of constants and draws; None for the parameters' own.
    """

    # The event axes of each array, a letter for each size: equal letters are equal sizes.
    EVENT: dict[str, str] = {"random_variable": "D"}
    # The check of the constants of an input, by its name: a function of the name and a NumPy array.
    CHECKS: dict[str, Callable] = {}
    #: The advice about NaN in the random variable, where it does not mean anything.
    NAN_REMEDY = NAN_REMEDY
    # The attributes that a copy takes over: MXFusion makes copies without calling __init__.
    ATTRIBUTES: tuple[str, ...] = ("_on_failure",)
    name: str | None  # of a component of MXFusion

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parameters = list(inspect.signature(cls.__init__).parameters.values())
        cls.__signature__ = inspect.Signature(parameters[1:])

    @overload
    def __new__(cls: type[_Own], *args: Any, shape: Sequence[int | Variable], **kwargs: Any) -> Variable: ...

    @overload
    def __new__(cls: type[_Own], *args: Any, shape: None = None, **kwargs: Any) -> _Own: ...

    def __new__(cls, *args, **kwargs):
        # MXFusion copies factors with cls.__new__(cls): without arguments this must give a bare object.
        factor = super().__new__(cls)
        shape = cls.__signature__.bind_partial(*args, **kwargs).arguments.get("shape")
        if shape is None:
            return factor
        factor.__init__(*args, **kwargs)
        return factor._declare(shape)

    def __init__(self, inputs, on_failure=None, rand_gen=None, dtype=None, ctx=None):
        variables = model_inputs.as_variables(dict(inputs), self.EVENT, self.CHECKS, dtype, ctx)
        super().__init__(
            inputs=variables,
            outputs=None,
            input_names=[name for name, _ in variables],
            output_names=["random_variable"],
            rand_gen=rand_gen,
            dtype=dtype,
            ctx=ctx,
        )
        if on_failure is not None and not isinstance(on_failure, OnFailure):
            checks.refuse("on_failure", f"{on_failure!r}", "an OnFailure or None", "Write OnFailure('jitter').")
        if rand_gen is not None and not callable(getattr(rand_gen, "sample_normal", None)):
            checks.refuse("rand_gen", shown(rand_gen), "a RandomGenerator of MXFusion or None", "Leave it out.")
        self._on_failure = on_failure

    @property
    def MAY_BE_NAN(self) -> bool:
        """Whether NaN in the random variable means something."""
        return False

    def replicate_self(self, attribute_map=None):
        """
        A copy without inputs and outputs, for MXFusion's copies of models.

        :param attribute_map: unused here; MXFusion passes it.
        :returns: a distribution of the same class.
        """
        replica = super().replicate_self(attribute_map)
        for attribute in self.ATTRIBUTES:
            setattr(replica, attribute, getattr(self, attribute))
        return replica

    @classmethod
    def define_variable(cls, shape: tuple, *args: Any, **kwargs: Any) -> Variable:
        """
        Declare a random variable, with the shape first as in MXFusion's classes.

        :param shape: tuple (B..., D) of integers and Variables.
        :param args: the parameters, in the order of the class.
        :param kwargs: the parameters by name, ``rand_gen``, ``dtype`` and ``ctx``.
        :returns: the random Variable.
        :raises ModelSpecificationError: as the class does.
        """
        shape = model_inputs.check_shape(shape, len(cls.EVENT["random_variable"]))
        return cls(*args, shape=shape, **kwargs)  # type: ignore[call-arg]  # leaves take it

    def set_outputs(self, variables):
        """
        Make this the distribution of a variable; ``Variable.set_prior`` calls it.

        :param variables: the Variable, or a list with it.
        :raises ModelSpecificationError: if the parameters do not fit its shape, or it has a distribution already: the
            would keep both.
        """
        variable = variables[0] if isinstance(variables, (list, tuple)) else variables
        if variable.factor is not None:
            raise ModelSpecificationError(
                f"`{variable.name}` has a distribution already ({variable.factor!r}); expected a variable without one. "
                "Build the posterior or model anew instead of setting a second prior."
            )
        self._check_fits(variable.shape)
        super().set_outputs(variable)

    @ModelComponent.graph.setter
    def graph(self, graph):
        """Attach to a graph, unless a model was given the factor where it needs the random variable, or a bad name."""
        if graph is not None and self._successors:
            self._check_name(graph)
        if graph is not None and self.name is not None and not self._successors:
            name, self.name = self.name, None
            raise ModelSpecificationError(
                f"`{name}`: got the factor {type(self).__name__}; expected its random variable. "
                f"Write model.{name} = {type(self).__name__}(..., shape=(N, D))."
            )
        ModelComponent.graph.fset(self, graph)

    def _check_name(self, graph):
        variable = self._successors[0][1]
        try:
            checks.check_name(variable.name)
        except ModelSpecificationError:
            graph.remove_node(variable)  # MXFusion has put it there, and would now find that it cannot be set
            raise

    def log_pdf(self, F, variables, targets=None):
        """
        Log density, times ``log_pdf_scaling``.

        Replaces MXFusion's method, which first copies every input once per Monte Carlo sample.

        :param F: ``mxnet.ndarray``.
        :param variables: dict from uuid to NDArray (S or 1, B..., event).
        :returns: NDArray (S or 1, B...); (S or 1,) where rows stand for others (:func:`row_counts_key`).
        """
        if self._row_counts(variables) is not None:
            return self.total_log_pdf(F, variables)
        return self._scaled_log_pdf(variables, lambda arrays: self.log_pdf_impl(F=F, **arrays))

    def total_log_pdf(self, F, variables):
        """
        Log density for callers that want nothing but its sum over the rows of each Monte Carlo sample.

        :param F: ``mxnet.ndarray``.
        :param variables: as in :meth:`log_pdf`.
        :returns: NDArray (S or 1,), or (S or 1, B...) where the distribution knows no faster way than row by row.
        """
        if self.has_own_total():
            return self._scaled_log_pdf(variables, lambda arrays: self._total(variables, arrays))
        return self._scaled_log_pdf(variables, lambda arrays: self.log_pdf_impl(F=F, **arrays))

    @classmethod
    def has_own_total(cls) -> bool:
        """Whether the class knows a total of its own density, and not only its base one of another density."""
        methods = next(vars(kind) for kind in cls.__mro__ if {"_total", "log_pdf_impl"} & set(vars(kind)))
        return "_total" in methods

    def _scaled_log_pdf(self, variables, compute):
        try:
            log_pdf = compute(self._arrays(self.inputs + self.outputs, variables))
        except NotFiniteError:
            # A defect of the data tells the user more than the NaN that it made of a learned matrix. After any
            # other failure MXNet hands out garbage, also for the data.
            _data.refuse_not_finite(self, variables)
            raise
        if self._policy() is not None and _data.is_nan(self, variables):
            _data.refuse_not_finite(self, variables)
        return log_pdf if self.log_pdf_scaling == 1 else log_pdf * self.log_pdf_scaling

    def draw_samples(self, F, variables, num_samples=1, targets=None, always_return_tuple=False):
        """
        Draw samples, reparametrised where the distribution allows it.

        Replaces MXFusion's method, which first copies every input once per Monte Carlo sample.

        :param F: ``mxnet.ndarray``.
        :param variables: dict from uuid to NDArray (S or 1, B..., event), and to the sizes in the shape.
        :param num_samples: S; where an input has samples already, 1 means one draw for each.
        :param always_return_tuple: whether to wrap the draws in a tuple.
        :returns: NDArray (S, B..., D).
        """
        shape = realize_shape(self.outputs[0][1].shape, variables)
        arrays = self._collect(self.inputs, variables)
        self._check_sizes(arrays, shape)
        samples = max([num_samples] + [array.shape[0] for array in arrays.values()])
        self._check_samples(arrays, samples)
        arrays = align_samples(arrays, self._event_axes(), len(shape) - len(self.EVENT["random_variable"]))
        drawn = self.draw_samples_impl(F=F, rv_shape=shape, num_samples=samples, **arrays)
        return (drawn,) if always_return_tuple else drawn

    def _total(self, variables, arrays):
        """The total of each sample, (S or 1,), of a leaf that knows a better way to it than by rows."""
        raise NotImplementedError

    def _reduced(self, variables, mean, value, matrix_axes):
        """
        Rows that stand for all rows of the random variable.

        :param variables: dict from uuid to NDArray.
        :param mean: NDArray (S or 1, B..., D).
        :param value: NDArray (S or 1, B..., D).
        :param matrix_axes: the leading axes of the covariance, a tuple.
        :returns: :class:`~mxfusion_mvn.totals.statistics.Rows`.
        """
        counts = self._row_counts(variables)
        if counts is not None:
            return standing_for_all(value, mean, counts)
        vectors = all_rows(value, mean, matrix_axes).vectors
        value, mean = self._regressed(variables, mean, value, matrix_axes)
        return reduced(value, mean, matrix_axes)._replace(vectors=vectors)

    def _row_counts(self, variables):
        """Of how many rows each row of the random variable is the mean (:func:`row_counts_key`), None for its own."""
        return variables.get(row_counts_key(self.outputs[0][1].uuid))

    def _regressed(self, variables, mean, value, matrix_axes, isotropic=False):
        """As :meth:`_reduced`, (value, mean), by what is known of the function that the mean comes from."""
        reduce = getattr(dict(self.inputs)["mean"].factor, "reduced", None)
        if reduce is None or value.ndim != 3 or value.shape[0] > 1 or matrix_axes[1] > 1 or not is_constant(value):
            return value, mean
        return reduce(variables, value, isotropic) or (value, mean)

    def _event_axes(self):
        return {name: len(letters) for name, letters in self.EVENT.items()}

    def _arrays(self, edges, variables):
        """Inputs and random variable by name, aligned: (S or 1, B..., event)."""
        arrays = self._collect(edges, variables)
        self._check_axes(arrays["random_variable"])
        if self._row_counts(variables) is not None:
            self._check_shared(arrays)
        self._check_sizes(arrays, arrays["random_variable"].shape[1:])
        self._check_samples(arrays, max(array.shape[0] for array in arrays.values()))
        return align_samples(arrays, self._event_axes())

    def _collect(self, edges, variables):
        """Arrays by name, all of one dtype and with at least the axes of an event."""
        arrays = {name: _value(name, variable, variables) for name, variable in edges}
        held = {name: array for name, array in arrays.items() if isinstance(array, mx.nd.NDArray)}
        # Parameters and draws have the dtype of the inference; data and constants follow it.
        learned = {name for name, variable in self.inputs if variable.type != VariableType.CONSTANT}
        dtype = (
            checks.floating_dtype(array.dtype for name, array in held.items() if name in learned)
            or checks.floating_dtype(array.dtype for array in held.values())
            or np.dtype(self.dtype)
        )
        ctx = next((array.context for array in held.values()), self.ctx)
        for name, array in arrays.items():
            axes = len(self.EVENT[name])
            if isinstance(array, numbers.Real):  # the value of Variable(value=2.) reaches a factor as a bare float
                arrays[name] = mx.nd.full((1,) * (1 + axes), array, dtype=dtype, ctx=ctx)
            else:
                arrays[name] = _with_event_axes(array.astype(dtype, copy=False), axes)
        return arrays

    def _check_axes(self, value):
        """Refuse data with other axes than declared: MXFusion compares sizes only as far as both have axes."""
        name, declared = self.outputs[0][1].name or "random_variable", self.outputs[0][1].shape
        got = value.shape[1:]
        # One vector may stand for all rows.
        is_one = 0 < len(got) < len(declared) and got == tuple(declared[-len(got) :])
        if len(got) != len(declared) and not is_one:
            expected, remedy = checks.show_shape(declared), checks.shape_remedy(name, got, declared)
            raise InferenceError(f"`{name}`: got shape {got}; expected {expected}. {remedy}")

    def _check_shared(self, arrays):
        """Refuse inputs that differ from row to row, where rows stand for others."""
        for name, _ in self.inputs:
            batch = arrays[name].shape[1 : arrays[name].ndim - len(self.EVENT[name])]
            if any(size > 1 for size in batch):
                event = arrays[name].shape[1 + len(batch) :]
                raise InferenceError(
                    f"`{self._full_name(name)}`: got shape {batch + event}; expected {checks.show_shape(event)}, the "
                    "same for all rows, because of these there are GaussianStatistics only. Compute it without the "
                    "number of rows, or pass the rows."
                )

    def _check_sizes(self, arrays, shape):
        """Refuse sizes that definition did not know: the shapes of function outputs, and how many rows there are."""
        sizes = self._sizes(shape)
        batch = shape[: len(shape) - len(self.EVENT["random_variable"])]
        for name, array in arrays.items():
            letters, got = self.EVENT[name], array.shape[1:]
            own, event = got[: -len(letters)], got[-len(letters) :]
            fits = all(mine in (1, wanted) for mine, wanted in zip(reversed(own), reversed(batch)))
            if not fits or not model_inputs.is_event(event, letters, sizes):
                expected = batch + tuple(sizes.get(letter, letter) for letter in letters)
                raise InferenceError(
                    f"`{self._full_name(name)}`: got shape {got}; expected {checks.show_shape(expected)}, or what "
                    "broadcasts to it. Check what it is computed from, or the data."
                )

    def _check_samples(self, arrays, samples):
        for name, array in arrays.items():
            if array.shape[0] not in (1, samples):
                raise InferenceError(
                    f"`{self._full_name(name)}`: got {array.shape[0]} samples; expected 1 or {samples}. "
                    "Draw as many from each variable."
                )

    def _sizes(self, shape):
        """The size of each letter of EVENT that the shape of the random variable settles."""
        letters = self.EVENT["random_variable"]
        return {"1": 1, **dict(zip(letters, shape[-len(letters) :]))}

    def _normal_noise(self, shape, like):
        """Standard normals of a shape, from the factor's own generator, in the dtype and context of an array."""
        ctx = like.context if self.ctx is None else self.ctx
        return self._rand_gen.sample_normal(shape=shape, dtype=like.dtype, ctx=ctx)

    def _gamma_noise(self, alpha):
        """
        Gamma(alpha, 1) draws, one for each entry of alpha, from the factor's own generator, without gradients.

        They are NaN where alpha is not positive and finite. MXNet's sampler would never return there.
        """
        alpha = constant(alpha)
        ones = mx.nd.ones_like(alpha)
        sound = (alpha > 0) * (alpha < float(np.finfo(alpha.dtype).max))
        drawn = self._rand_gen.sample_gamma(
            alpha=mx.nd.where(sound, alpha, ones), beta=ones, shape=1, dtype=alpha.dtype, ctx=alpha.context
        )
        return mx.nd.where(sound, drawn.reshape(alpha.shape), ones * math.nan)

    def _refuse_gradient(self, name, array):
        """Refuse to draw where a gradient would have to pass through MXNet's gamma draws, which give a silent zero."""
        if autograd.is_recording() and is_differentiated(array):
            raise InferenceError(
                f"`{self._full_name(name)}`: its gradient was asked for; expected a constant, for MXNet's gamma draws "
                "carry no gradient. Fix it, for example as a constant, or learn it by its log density (MAP)."
            )

    def _check_positive(self, name, array):
        value = check_finite(array, self._full_name(name), event_axes=1)
        if not (value > 0).all():
            raise InferenceError(
                f"`{self._full_name(name)}`: got {value.min():.6g}; expected positive numbers. If it is learned, "
                "declare it as Variable(..., transformation=Positive())."
            )

    def _policy(self):
        """What to do about a failed factorisation: by default nothing while training, which would have to wait."""
        if self._on_failure is not None:
            return self._on_failure
        return None if autograd.is_recording() else RAISE

    def _full_name(self, name):
        """The names of an input and of the random variable, for messages that put them in backquotes."""
        return f"{name}` of variable `{self.outputs[0][1].name}"

    def _declare(self, shape):
        shape = model_inputs.check_shape(shape, len(self.EVENT["random_variable"]))
        self._check_fits(shape)
        variable = Variable(value=self, shape=shape)
        self.outputs = [("random_variable", variable)]
        return variable

    def _check_fits(self, shape):
        sizes = self._sizes(shape)
        batch = shape[: len(shape) - len(self.EVENT["random_variable"])]
        for name, variable in self.inputs:
            letters = self.EVENT[name]
            model_inputs.check_fits(name, variable, shape, batch, [sizes.get(letter, letter) for letter in letters])
            for letter, size in zip(reversed(letters), reversed(variable.shape)):
                if size != 1:  # the first input settles what the random variable does not, such as K
                    sizes.setdefault(letter, size)


def row_counts_key(uuid):
    """
    The key beside the data of a random variable under which they are told to be statistics.

    Its value is the second array of :meth:`~mxfusion_mvn.GaussianStatistics.standing_rows`, of which the data are the
    first.

    :param uuid: of the random variable.
    :returns: a text.
    """
    return f"{uuid}_row_counts"


def _value(name, variable, variables):
    if variable.uuid in variables:
        return variables[variable.uuid]
    raise InferenceError(
        f"`{name}`: got no value of {variable.name or 'its variable'}; expected an observed variable, a parameter or a "
        "latent variable that has a distribution of its own in the posterior. Observe it, or give it one."
    )


def _with_event_axes(array, axes):
    """A single number of each sample, (S,) or (S, 1), with the axes of an event; any other array as it is."""
    if array.ndim > axes or any(size > 1 for size in array.shape[1:]):
        return array
    return array.reshape(array.shape[:1] + (1,) * axes)
