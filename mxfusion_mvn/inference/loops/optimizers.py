# SPDX-License-Identifier: Apache-2.0
"""Optimizers of MXNet: one for each run, and copies of their state."""

import copy

import mxnet as mx
import numpy as np
from mxfusion.common.exceptions import InferenceError

# Of an optimizer's attributes, those that no step changes, or that are not its own.
_NOT_STATE = ("param_dict", "lr_scheduler")
# MXNet 1.9.1 keeps their state in float32, and cannot join it with other parameters.
_FLOAT32_ONLY = (
    mx.optimizer.AdaDelta,
    mx.optimizer.AdaGrad,
    mx.optimizer.Ftrl,
    mx.optimizer.RMSProp,
    mx.optimizer.contrib.GroupAdaGrad,
)


def create_optimizer(optimizer, learning_rate, param_dict):
    """
    An optimizer for one run.

    :param optimizer: its name, as for ``mxnet.optimizer.create``, or an ``mxnet.optimizer.Optimizer``, which brings its
        own learning rate and is copied: a run starts without the momentum of the run before.
    :param learning_rate: for an optimizer given by name.
    :param param_dict: MXFusion's ParameterDict, of the parameters that it is to train.
    :returns: an ``mxnet.optimizer.Optimizer``.
    :raises InferenceError: for an unknown name, for an Optimizer with a scheduler of its own, and for one that MXNet
        has in float32 only if a parameter is float64.
    """
    created = _created(optimizer, learning_rate)
    trained = [parameter for parameter in param_dict.values() if parameter.grad_req != "null"]
    if type(created) in _FLOAT32_ONLY and any(np.dtype(parameter.dtype) == np.float64 for parameter in trained):
        raise InferenceError(
            f"`optimizer`: got {type(created).__name__} for float64 parameters; expected one that MXNet has in "
            "float64, too. Write optimizer='adam', or use float32 throughout."
        )
    return created


def _created(optimizer, learning_rate):
    if isinstance(optimizer, mx.optimizer.Optimizer):
        if optimizer.lr_scheduler is not None:
            raise InferenceError(
                "`optimizer`: got one with an lr_scheduler; expected one without. Give it to the loop: schedule=..."
            )
        return copy.deepcopy(optimizer)
    try:
        return mx.optimizer.create(optimizer, learning_rate=learning_rate)
    except (ValueError, AttributeError) as error:  # the latter for what is not a string
        known = ", ".join(sorted(mx.optimizer.Optimizer.opt_registry))
        raise InferenceError(f"`optimizer`: got {optimizer!r}; expected an Optimizer or one of {known}.") from error


def copy_state(updater):
    """
    Copy what the updates of an optimizer have changed so far.

    :param updater: an ``mxnet.optimizer.Updater``.
    :returns: an opaque object for :func:`restore_state`.
    """
    attributes = {key: value for key, value in vars(updater.optimizer).items() if key not in _NOT_STATE}
    # A deep copy takes long even of a number; what is not one is copied together, for some of it is the same object.
    numbers = {key: value for key, value in attributes.items() if isinstance(value, (bool, int, float))}
    others = copy.deepcopy({key: value for key, value in attributes.items() if key not in numbers})
    return _copied(updater.states), dict(updater.states_synced), {**numbers, **others}


def restore_state(updater, state):
    """
    Set an optimizer back.

    :param updater: the ``mxnet.optimizer.Updater`` that was copied.
    :param state: what :func:`copy_state` returned; it can be used again.
    """
    states, synced, attributes = state
    updater.states = _copied(states)
    updater.states_synced = dict(synced)
    vars(updater.optimizer).update(copy.deepcopy(attributes))


def _copied(state):
    """A state of an optimizer, which is made of arrays, tuples, lists and None."""
    if isinstance(state, mx.nd.NDArray):
        return state.copy()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, (tuple, list)):
        return type(state)(_copied(value) for value in state)
    return state
