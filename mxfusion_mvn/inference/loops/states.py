# SPDX-License-Identifier: Apache-2.0
"""Copies of what the user gave a loop, so that each run begins with it as it was given."""

import copy
import functools

import mxnet as mx
from mxfusion.components.model_component import ModelComponent
from mxfusion.inference import Inference
from mxfusion.inference.grad_loop import GradLoop
from mxfusion.inference.inference_alg import InferenceAlgorithm
from mxfusion.inference.inference_parameters import InferenceParameters
from mxfusion.models import FactorGraph

# What a function may look at, and has to see as it is now.
_SHARED = (
    Inference,
    InferenceAlgorithm,
    InferenceParameters,
    FactorGraph,
    ModelComponent,
    GradLoop,
    mx.gluon.Block,
    mx.gluon.Parameter,
    mx.gluon.ParameterDict,
)


def for_one_run(*functions):
    """
    Copies of functions with a state, such as an ``mxnet.lr_scheduler.FactorScheduler``.

    The copies have a state of their own, together: what two of them share stays shared. Inferences, models and Gluon
    blocks in that state are not copied, nor is a plain function, whatever its closure holds. What cannot be copied is
    used as it is.

    :param functions: callables, or None.
    :returns: list of as many.
    """
    memo = {id(shared): shared for shared in _shared_by(list(functions))}
    try:
        return copy.deepcopy(list(functions), memo)
    except Exception:  # a lock, an open file: classes of the user's raise anything
        return list(functions)


def _shared_by(root):
    """The objects within a state that are not to be copied."""
    found, seen, left = [], {}, [root]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value  # kept, or another object might get its id
        if isinstance(value, _SHARED):
            found.append(value)
        else:
            left.extend(_parts(value))
    return found


def _parts(value):
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    owner = getattr(value, "__self__", None)  # of a bound method
    is_plain = isinstance(value, (type, type(copy), type(_parts)))
    return [owner, *([] if is_plain else getattr(value, "__dict__", {}).values())]
