# SPDX-License-Identifier: Apache-2.0
"""The last run of each inference: its data, and how it ended.

This belongs to the parameters that were trained, and is forgotten with them: a loop may serve several inferences, and
an inference that has loaded a file has other parameters, learned from other data.
"""

import weakref
from typing import Any, Dict, NamedTuple, Optional

_RUNS: "weakref.WeakKeyDictionary[Any, LastRun]" = weakref.WeakKeyDictionary()


class Ending(NamedTuple):
    """How a run ended, in words, and whether its loss had levelled off."""

    message: str
    has_arrived: bool


class LastRun(NamedTuple):
    """
    The last run of an inference.

    ``data`` is a dict from the uuid of each observed variable to its NDArray, with the row counts of those that are
    statistics (:func:`~mxfusion_mvn.distributions._base.row_counts_key`); ``ending`` is None while the run goes on,
    if there was no run, and if it was by a loop of another package.
    """

    data: Dict[str, Any]
    ending: Optional[Ending] = None


def remember(param_dict, data, ending=None):
    """
    Keep the data of a run, and how it ended.

    :param param_dict: the ParameterDict that was trained.
    :param data: as of :class:`LastRun`.
    :param ending: an :class:`Ending`, None while the run goes on.
    """
    _RUNS[param_dict] = LastRun(data, ending)


def last_run_of(param_dict):
    """
    The last run of an inference, by a loop of this package.

    :param param_dict: the ParameterDict ``inference.params.param_dict``.
    :returns: :class:`LastRun`.
    """
    return _RUNS.get(param_dict, LastRun({}))
