"""A cheap look at every frame, a dear one where it is worth it: three frames of a day's 86,400."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .gate import Gate, GateState


class CascadeState(NamedTuple):
    """looked: frames seen; ran: of these, frames that the dear step saw."""

    gate: GateState
    looked: int
    ran: int


@dataclass(frozen=True)
class Cascade:
    """Runs ``dear`` on a frame for which the gate opens on ``cheap``'s score.

    Attributes:
      cheap: frame -> score.
      dear: frame -> what it finds.
      gate: on the scores.
    """

    cheap: Callable[[Any], float]
    dear: Callable[[Any], Any]
    gate: Gate

    def begin(self) -> CascadeState:
        """No frames seen."""
        return CascadeState(self.gate.begin(), 0, 0)

    def __call__(self, state: CascadeState, frame: Any) -> tuple[CascadeState, Any | None]:
        """One frame -> what was found, None where nobody looked."""
        gate, opens = self.gate(state.gate, self.cheap(frame))
        found = self.dear(frame) if opens else None
        return CascadeState(gate, state.looked + 1, state.ran + opens), found
