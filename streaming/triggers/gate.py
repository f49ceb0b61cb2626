"""A gate with hysteresis: it opens at one level, and is ready again below another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class GateState(NamedTuple):
    """Where a gate stands.

    armed: it may open.
    quiet: frames since it opened, counted no further than the gate's pause.
    """

    armed: bool
    quiet: int


@dataclass(frozen=True)
class Gate:
    """Opens once when a score rises to ``on``; again when it was below ``off`` in between.

    Attributes:
      on: least score that opens it.
      off: score below which it is ready again; ``on`` for no hysteresis.
      pause: frames after an opening in which it stays shut.
      repeat: it opens on every frame at or above ``on`` that is not in a pause.

    Raises:
      ValueError: off above on, or a negative pause.
    """

    on: float
    off: float | None = None
    pause: int = 0
    repeat: bool = False

    def __post_init__(self) -> None:
        if self.off is not None and self.off > self.on:
            raise ValueError(f"off {self.off} is above on {self.on}: the gate would never close")
        if self.pause < 0:
            raise ValueError(f"a pause of {self.pause} frames: at least 0")

    def begin(self) -> GateState:
        """Ready to open."""
        return GateState(True, self.pause)

    def __call__(self, state: GateState, score: float) -> tuple[GateState, bool]:
        """One frame's score; NaN is no score, and changes nothing but the pause."""
        low = self.on if self.off is None else self.off
        armed = state.armed or self.repeat or score < low
        opens = armed and state.quiet >= self.pause and score >= self.on
        quiet = 0 if opens else min(state.quiet + 1, self.pause)
        return GateState(armed and not opens, quiet), opens
