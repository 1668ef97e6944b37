# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that several functions of inference share."""

import numbers

from mxfusion_mvn.checks.options import shown
from mxfusion_mvn.checks.wording import refusal

from mxfusion.common.exceptions import InferenceError
from mxfusion.inference import Inference


def refuse(argument, got, expected, remedy):
    """
    Raise the error of inference for a bad argument.

    :param argument: the name of the argument, as the user wrote it.
    :param got: what was given.
    :param expected: what can be used instead.
    :param remedy: what to do next, a full sentence.
    :raises InferenceError: always.
    """
    raise InferenceError(refusal(argument, got, expected, remedy))


def check_inference(argument, value):
    """
    Refuse anything but an inference.

    :param argument: the name of the argument.
    :param value: anything.
    :raises InferenceError: unless it is an ``Inference`` of MXFusion.
    """
    if not isinstance(value, Inference):
        got = f"a {type(value).__name__}"
        refuse(argument, got, "an Inference of MXFusion", "Pass what GradBasedInference(...) returned.")


def check_finished(argument, inference):
    """
    Refuse an inference that has no results yet.

    :param argument: the name of the argument.
    :param inference: anything.
    :raises InferenceError: unless it is an ``Inference`` of MXFusion whose parameters have values.
    """
    check_inference(argument, inference)
    if not inference._initialized:
        refuse(argument, "one without values", "a finished one", "Call its run or load first.")


def check_count(argument, value, least):
    """
    Check an argument that counts something.

    :param argument: the name of the argument.
    :param value: anything.
    :param least: the smallest count that makes sense.
    :returns: the count, an integer.
    :raises InferenceError: unless it is an integer of at least that.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        refuse(argument, shown(value), f"an integer of at least {least}", "Check how it is computed.")
    return int(value)
