# SPDX-License-Identifier: Apache-2.0
"""What is known of the last run of an inference: the data that it saw, and how it went.

It belongs to the parameters that were trained, and is forgotten with them: a loop may serve several inferences, and an
inference that has loaded a file has other parameters, learned from other data.
"""

import weakref
from typing import Any, Dict, NamedTuple, Optional

from mxfusion_mvn.inference.loops.record import RunRecord

_RUNS: "weakref.WeakKeyDictionary[Any, LastRun]" = weakref.WeakKeyDictionary()


class LastRun(NamedTuple):
    """
    The last run of an inference.

    ``data`` is a dict from the uuid of each observed variable to its NDArray; ``record`` is None while the run goes on,
    and where there was none, or by another loop than those of this package.
    """

    data: Dict[str, Any]
    record: Optional[RunRecord] = None


def remember(param_dict, data, record=None):
    """
    Keep what a run saw, and how it went.

    :param param_dict: the host's ParameterDict that was trained.
    :param data: dict from the uuid of each observed variable to its NDArray.
    :param record: the :class:`~mxfusion_mvn.inference.RunRecord`, None while the run goes on.
    """
    _RUNS[param_dict] = LastRun(data, record)


def last_run_of(inference):
    """
    The last run of an inference, by a loop of this package.

    :param inference: a host Inference.
    :returns: :class:`LastRun`.
    """
    return _RUNS.get(inference.params.param_dict, LastRun({}))
