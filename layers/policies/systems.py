"""Systems by name, one value each: what leaves before a language model reads, and what it keeps.

A policy of the memory alone is a system, too (:data:`~.POLICIES`). Others drop tokens of a frame
before they are read, or keep features of frames beside the language model, which it reads anew for
every question.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..memory.flash import FlashMemory
from ..memory.star import StarMemory
from ..memory.tree import ClusterTree
from . import POLICIES
from .longvu import AnchorDrop
from .policy import Policy
from .recent import Recent
from .rekv import ReKV
from .token_drop import Novelty, TokenDrop

Drop = TokenDrop | Novelty | AnchorDrop
Bank = StarMemory | FlashMemory | ClusterTree


@dataclass(frozen=True)
class System:
    """How a stream of frames is remembered.

    Attributes:
      policy: what the language model's memory keeps; with a bank, of the tokens that it gives.
      drop: which tokens of a frame it does not get to read.
      bank: features of frames that are kept in its place.
    """

    policy: Policy
    drop: Drop | None = None
    bank: Bank | None = None


class Sizes(NamedTuple):
    """What a system is made for: slots of the language model's memory, tokens of a frame, channels
    of a token."""

    budget: int
    tokens: int
    dim: int

    @property
    def side(self) -> int:
        """Cells of a cluster, a side: half of a frame's."""
        return max(1, round(self.tokens**0.5) // 2)


def _rekv(s: Sizes) -> System:
    init = min(s.budget - s.tokens, 4)
    frames = max(1, (s.budget - init) // s.tokens)
    local = max(1, min(1024, frames * s.tokens // 2))
    top = max(1, min(8, frames))
    return System(ReKV(init + frames * s.tokens, init, local, frame=s.tokens, top=top))


def _star(s: Sizes) -> System:
    keys = max(1, min(3, s.budget // (8 * s.tokens)))
    long = max(2, (s.budget - (keys + 1) * s.tokens) // (s.side**2 + 1))
    keys = min(keys, long)
    bank = StarMemory(
        s.dim, long=long, side=s.side, abstract=long, keys=keys, bank=max(4, keys + 1), parent=None
    )
    return System(Recent(0, long * (s.side**2 + 1) + (keys + 1) * s.tokens), bank=bank)


def _flash(s: Sizes) -> System:
    details = max(1, s.budget // (2 * s.tokens))
    long = max(2, details, (s.budget - details * s.tokens) // s.side**2)
    bank = FlashMemory(long, s.side, details, details + max(2, details // 3))
    return System(Recent(0, details * s.tokens + long * s.side**2), bank=bank)


def _tree(s: Sizes) -> System:
    leaves = 4
    wide = max(1, s.budget // (2 * leaves * s.tokens))
    read = wide * leaves * s.tokens
    clusters = max(2, wide, (s.budget - read) // s.side**2)
    bank = ClusterTree(clusters, s.side, leaves, wide)
    return System(Recent(0, read + clusters * s.side**2), bank=bank)


FRAMES: dict[str, Callable[[Sizes], System]] = {
    "rekv": _rekv,
    "dtd": lambda s: System(Recent(0, s.budget), TokenDrop(threshold=0.3)),
    "stc": lambda s: System(Recent(0, s.budget), Novelty(keep=max(1, s.tokens * 60 // 196))),
    "longvu": lambda s: System(Recent(0, s.budget), AnchorDrop(8, 0.8)),
    "flash-vstream-2024": _star,
    "flash-vstream-2025": _flash,
    "videotree": _tree,
}
SYSTEMS = tuple(sorted({*POLICIES, *FRAMES}))


def system(name: str, budget: int, tokens: int, dim: int) -> System:
    """The system of a name, for frames.

    Args:
      name: one of :data:`SYSTEMS`.
      budget: slots of the language model's memory; what a bank gives takes about as many.
      tokens: of a frame, which are a square grid where a bank pools them.
      dim: channels of a token.

    Raises:
      ValueError: no system has this name; the message names the nearest. Or a budget of less than
        two frames.
    """
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(SYSTEMS)}"
        raise ValueError(f"unknown policy {name!r}; {hint}")
    if budget < 2 * tokens:
        raise ValueError(
            f"a budget of {budget} slots for frames of {tokens} tokens: at least {2 * tokens}"
        )
    if name in FRAMES:
        return FRAMES[name](Sizes(budget, tokens, dim))
    return System(POLICIES[name](budget))
