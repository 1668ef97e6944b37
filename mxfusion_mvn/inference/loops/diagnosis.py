# SPDX-License-Identifier: Apache-2.0
"""Which variable is not finite, or could not be computed.

The objective is evaluated once more, without gradients, and each factor's density, draws or value is read as soon as it
is there. The first that is not finite is named, and with it whichever of its inputs is not finite either. If all are
finite, the gradient is looked at.
"""

from contextlib import contextmanager

from mxfusion_mvn.checks.failure import NotPositiveDefiniteError
from mxfusion_mvn.distributions._base import NAN_REMEDY, row_counts_key
from mxfusion_mvn.inference.last_runs import Ending, last_run_of, remember
from mxfusion_mvn.inference.names import name_of
from mxfusion_mvn.inference.variational.gaussians import JointVariable

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError
from mxfusion.models import Posterior
from mxnet import autograd

_ROLES = {"log_pdf": "the log density of", "draw_samples": "a draw of", "eval": "the value of"}
# A failure that was not read may hide behind another; each is reported by a wait of its own.
_MAX_FAILURES = 100


class _NotFinite(Exception):
    """Ends an evaluation; the text says what is not finite."""


class Objective:
    """
    The objective of an inference, as MXFusion evaluates it.

    :param infr_executor: MXFusion's ObjectiveBlock.
    :param param_dict: MXFusion's ParameterDict.
    :param ctx: MXNet context.
    """

    def __init__(self, infr_executor, param_dict, ctx):
        self._executor = infr_executor
        self._param_dict = param_dict
        self._ctx = ctx
        ending = last_run_of(param_dict).ending
        #: Whether a run before had arrived.
        self.had_arrived = ending is not None and ending.has_arrived
        self._graphs = _with_modules(infr_executor._infr_method.graphs)

    def evaluate(self, data):
        """
        The loss at the present parameters.

        :param data: list of NDArrays.
        :returns: NDArray (1,), not waited for.
        """
        return self._executor(mx.nd.zeros(1, ctx=self._ctx), *data)[0]

    def remember(self, data, record=None):
        """
        Keep what belongs to the inference of this run.

        :param data: list of NDArrays.
        :param record: the :class:`~mxfusion_mvn.inference.RunRecord`, None while the run goes on.
        """
        ending = record and Ending(record.message, record.has_arrived)
        held, constants = dict(zip(self._executor._data_def, data)), self._executor._constants
        counts = {key: constants[key] for key in map(row_counts_key, held) if key in constants}
        remember(self._param_dict, {**held, **counts}, ending)

    def check_can_be_trained(self):
        """
        Refuse to train nothing.

        :raises InferenceError: if there is no parameter, or all are fixed.
        """
        if all(parameter.grad_req == "null" for parameter in self._param_dict.values()):
            fixed = ", ".join(self.parameter_name(uuid) for uuid in self._param_dict.keys())
            raise InferenceError(
                f"Nothing is to be trained: {f'fixed are the {fixed}' if fixed else 'there are no parameters'}; "
                "expected a parameter or a latent variable that is free. "
                + ("Set its grad_req to 'write'." if fixed else "Declare it as Variable(shape=...), or observe less.")
            )

    def parameter_name(self, uuid):
        """
        What to call a parameter.

        :param uuid: of its Variable.
        :returns: for example ``parameter `covariance of X```.
        """
        for graph in self._graphs:
            if uuid in graph.components:
                return f"parameter `{name_of(graph.components[uuid])}`{_whose(graph)}"
        return f"parameter {uuid}"

    def diagnose(self, data, rows):
        """
        Say which variable is the first that is not finite at the present parameters: data before all others.

        :param data: list of NDArrays.
        :param rows: list for each of these of which rows of all data are in it, NumPy array (B,), or None for all.
        :returns: for example ``the log density of `X` is nan at index (3, 0); its `mean` is nan at index (0,)``; None
            if all are finite, the gradients too.
        """
        try:
            self._look_at_data(data, rows)
            with self._watched_factors():
                self.evaluate(data)
            return self._bad_gradient(data)
        except _NotFinite as found:
            return str(found)
        except Exception as error:  # whatever it is, it is the reason
            return reason_of(error)
        finally:
            flush()

    def _look_at_data(self, data, rows):
        variables = {uuid: variable for graph in self._graphs for uuid, variable in graph.variables.items()}
        for uuid, array, of_all in zip(self._executor._data_def, data, rows):
            factor = variables[uuid].factor
            filled = mx.nd.where(array != array, mx.nd.zeros_like(array), array)  # NaN apart
            state = state_of(filled if getattr(factor, "MAY_BE_NAN", False) else array, rows=of_all)
            if state is not None:
                remedy = getattr(factor, "NAN_REMEDY", NAN_REMEDY) if "nan" in state else "Look at the data."
                raise _NotFinite(f"`{name_of(variables[uuid])}` {state}; expected finite numbers. {remedy}")

    def _bad_gradient(self, data):
        with autograd.record():
            _, loss = self._executor(mx.nd.zeros(1, ctx=self._ctx), *data)
        loss.backward()
        for uuid, parameter in self._param_dict.items():
            if parameter.grad_req != "null":
                state = state_of(parameter.grad())
                if state is not None:
                    return f"the gradient of the {self.parameter_name(uuid)} {state}"
        return None

    @contextmanager
    def _watched_factors(self):
        """For the span of one evaluation, wrap the factors' methods, because MXFusion has no hook."""
        covered = []
        try:
            for graph in self._graphs:
                for factor in graph.ordered_factors:
                    for method in _ROLES:
                        if hasattr(type(factor), method) and method not in vars(factor):
                            setattr(factor, method, _watching(factor, method, graph))
                            covered.append((factor, method))
            yield
        finally:
            for factor, method in covered:
                delattr(factor, method)


def state_of(array, sample_axis=False, rows=None):
    """
    What is wrong with an array.

    :param array: NDArray; it is waited for.
    :param sample_axis: whether the first axis is that of the Monte Carlo samples, which is left out of the index.
    :param rows: NumPy array (B,), the index to show for each index along the first axis; None for the same.
    :returns: a verb phrase such as ``is nan at index (0, 1)``, or None if all entries are finite.
    """
    try:
        value = array.asnumpy()
    except mx.base.MXNetError as error:
        return f"could not be computed ({reason_of(error)})"
    if value.dtype.kind != "f" or np.isfinite(value).all():
        return None
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
    shown = index[1:] if sample_axis else index
    if rows is not None:
        shown = (int(rows[shown[0]]), *shown[1:])
    where = f" at index {shown}" if shown and value.size > 1 else ""
    return f"is {value[index]}{where}"


def is_failed_factorisation(error):
    """
    Whether a matrix could not be factored.

    :param error: an exception, of this package or MXNet's own.
    :returns: a bool.
    """
    is_lapack = isinstance(error, mx.base.MXNetError) and "failed in lapack" in str(error)
    return is_lapack or isinstance(error, NotPositiveDefiniteError)


def reason_of(error):
    """
    The message of an error without MXNet's stack trace.

    :param error: an exception.
    :returns: one line.
    """
    if not isinstance(error, mx.base.MXNetError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line.strip()] or ["MXNet gave no reason"]
    # What follows is, for example: MXNetError: Check failed: ret == 0 (2 vs. 0) : spotrf failed in lapack on cpu.
    return lines[-1].split("MXNetError: ")[-1].split(" : ")[-1].strip()


def flush():
    """Wait for all that was pushed, and drop the failures in it: MXNet would report them wherever is read next."""
    for _ in range(_MAX_FAILURES):
        try:
            mx.nd.waitall()
            break
        except mx.base.MXNetError:
            continue


def _with_modules(graphs):
    modules = [module for graph in graphs for module in graph.modules.values()]
    inner = [graph for module in modules for graph in [module._module_graph, *module._extra_graphs]]
    return [*graphs, *(_with_modules(inner) if inner else ())]


def _whose(graph):
    return " in the posterior" if isinstance(graph, Posterior) else ""


def _parts(variable):
    """The names of the latent variables that a joint one is made of."""
    if not isinstance(variable, JointVariable):
        return ""
    return f" (of {', '.join(f'`{name_of(factor.outputs[0][1])}`' for _, factor in variable.successors)})"


def _watching(factor, method, graph):
    """A method of a factor, followed by a look at what it returns."""
    original = getattr(factor, method)
    variable = factor.outputs[0][1]
    what = f"{_ROLES[method]} `{name_of(variable)}`{_parts(variable)}{_whose(graph)}"

    def watched(F, variables, *args, **kwargs):
        # Read first: a failed computation is reported only once, to whoever reads first.
        causes = _bad_arguments(factor, variables)
        try:
            result = original(*args, F=F, variables=variables, **kwargs)
        except mx.base.MXNetError as error:
            raise _NotFinite(f"{what} could not be computed ({reason_of(error)})") from error
        state = _state_of_result(result, is_density=method == "log_pdf")
        if state is not None:
            raise _NotFinite("; ".join([f"{what} {state}", *causes]))
        return result

    return watched


def _bad_arguments(factor, variables):
    """What is wrong with the inputs of a factor, and with its random variable if it is there already."""
    found = []
    for part, variable in factor.inputs + factor.outputs:
        array = variables.get(variable.uuid)
        state = state_of(array, sample_axis=True) if isinstance(array, mx.nd.NDArray) else None
        if state is not None:
            found.append(f"its `{part}` {state}" if variable.name is None else f"`{variable.name}` {state}")
    return found


def _state_of_result(result, is_density):
    for array in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(array, mx.nd.NDArray):
            state = state_of(array, sample_axis=True)
            if state is None and is_density and not np.isfinite(mx.nd.sum(array).asscalar()):
                state = f"sums to {mx.nd.sum(array).asscalar()}"
            if state is not None:
                return state
    return None
