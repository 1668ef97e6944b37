# SPDX-License-Identifier: Apache-2.0
"""What is known of the last run of an inference: the data that it saw, and how it went.

It belongs to the parameters that were trained, and is forgotten with them: a loop may serve several inferences, and an
inference that has loaded a file has other parameters, learned from other data.
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

    ``data`` is a dict from the uuid of each observed variable to its NDArray; ``ending`` is None while the run goes on,
    and where there was none, or by another loop than those of this package.
    """

    data: Dict[str, Any]
    ending: Optional[Ending] = None


def remember(param_dict, data, ending=None):
    """
    Keep what a run saw, and how it went.

    :param param_dict: the host's ParameterDict that was trained.
    :param data: dict from the uuid of each observed variable to its NDArray.
    :param ending: an :class:`Ending`, None while the run goes on.
    """
    _RUNS[param_dict] = LastRun(data, ending)


def last_run_of(param_dict):
    """
    The last run of an inference, by a loop of this package.

    :param param_dict: the host's ParameterDict, ``inference.params.param_dict``.
    :returns: :class:`LastRun`.
    """
    return _RUNS.get(param_dict, LastRun({}))
