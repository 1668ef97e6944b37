# SPDX-License-Identifier: Apache-2.0
"""The states that batches of one size go through in a compiled run: traced, compiled, several steps at once."""

from __future__ import annotations

from typing import NamedTuple

from mxfusion_mvn.compiler.evaluation import Evaluations
from mxfusion_mvn.compiler.native.engine import NativeProgram
from mxfusion_mvn.compiler.program import Program
from mxfusion_mvn.inference.loops.flat import FlatParameters
from mxfusion_mvn.inference.loops.step_program import StepProgram
from mxfusion_mvn.inference.loops.verification import Runs

# So many evaluations at one point, and the point is taken for one that the run does not leave: an optimum, from which
# the updates round away.
_EVALUATIONS_OF_A_STANDING_POINT = 10


class Tracing:
    """The state of batches of one size before there is a program: evaluated imperatively, and traced."""

    def __init__(self, evaluations: Evaluations) -> None:
        self.evaluations = evaluations
        self._point: list[bytes] | None = None
        self._evaluations_there = 0

    def look_at(self, point: list[bytes]) -> None:
        """Begin anew if parameters have not moved: two evaluations at one point do not tell what depends on them."""
        has_moved = point != self._point
        self._point, self._evaluations_there = point, 1 if has_moved else self._evaluations_there + 1
        if not has_moved and self.standing_point is None:
            self.evaluations.forget()

    @property
    def standing_point(self) -> list[bytes] | None:
        """Where the parameters stand still, None if they move."""
        return self._point if self._evaluations_there >= _EVALUATIONS_OF_A_STANDING_POINT else None


class Compiled(NamedTuple):
    """The state of batches of one size of which there is a program."""

    evaluations: Evaluations
    program: Program | NativeProgram
    runs: Runs


class Several(NamedTuple):
    """A program of several steps, and the parameters that it works on."""

    program: StepProgram
    flat: FlatParameters
    runs: Runs
