"""Guidance by a second, unconditional answer, and residual guidance that needs none.

Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) calls the network twice. In its place
StreamDiffusion (arXiv 2312.12491, section 3.2) keeps the noise that would lead back to the input:
no second call ("self"), or one at the first level ("initialize").
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from ..streaming import Array

KINDS = ("none", "self", "initialize", "full")


def guided(conditional: Array, unconditional: Array, scale: float) -> Array:
    """``unconditional + scale (conditional - unconditional)``; 1 is the conditional answer."""
    return unconditional + scale * (conditional - unconditional)


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How much a condition is followed, and at what price.

    Attributes:
      kind: "none"; "self", the kept noise alone; "initialize", an unconditional call at the first
        level, the kept noise at the others; "full", twice the calls.
      scale: of :func:`guided`; 1 or less guides nothing, whatever the kind.
      delta: factor of the kept noise.
    """

    kind: Literal["none", "self", "initialize", "full"] = "none"
    scale: float = 1.0
    delta: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"guidance {self.kind!r} is not one of {', '.join(KINDS)}")

    @property
    def on(self) -> bool:
        return self.kind != "none" and self.scale > 1

    @property
    def residual(self) -> bool:
        """The noise that is kept is renewed at every step."""
        return self.kind in ("self", "initialize")

    def calls(self, levels: int) -> int:
        """Rows that the network gets for one frame in, at so many levels."""
        more = {"initialize": 1, "full": levels}
        return levels + (more.get(self.kind, 0) if self.on else 0)
