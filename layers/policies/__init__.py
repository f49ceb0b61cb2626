"""Policies of a memory, one value each, and their names."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from .contiguous import ChunkSinks, Contiguous
from .dual import Dual
from .peak_end import PeakEnd
from .policy import Arrival, Policy
from .recent import Recent
from .rekv import ReKV, SinkWindow
from .streaming_vlm import StreamingVLM


def _with_sinks(budget: int) -> Recent:
    sinks = min(4, budget - 1)
    return Recent(sinks, budget - sinks, "cache")


def _streaming_vlm(budget: int) -> StreamingVLM:
    # half of it for what was said, the authors' share; turns take the rest
    part = max(1, budget // 4)
    return StreamingVLM(budget, sink=part, window=part)


def _rekv(budget: int) -> ReKV:
    frame = 16
    init = min(budget, 4 + (budget - 4) % frame)  # what is left are whole frames
    frames = (budget - init) // frame
    local = max(1, min(1024, frames * frame // 2))
    return ReKV(budget, init, local, frame=frame, top=max(1, min(8, frames)))


POLICIES: dict[str, Callable[[int], Policy]] = {
    "full": lambda budget: Recent(0, budget),
    "streaming-llm": _with_sinks,
    "streaming-vlm": _streaming_vlm,
    "rekv": _rekv,
    "livestar": PeakEnd,
    "contiguous": Contiguous,
    "dual": lambda budget: Dual(budget - budget // 4, budget // 4),
}


def policy(name: str, budget: int) -> Policy:
    """The policy of a name with ``budget`` slots.

    Raises:
      ValueError: no policy has this name; the message names the nearest. Or fewer slots than the
        policy needs.
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(POLICIES)}"
        raise ValueError(f"unknown policy {name!r}; {hint}")
    return POLICIES[name](budget)


def create(name: str, budget: int = 1024) -> Policy:
    """As :func:`policy`, with the budget of a small memory."""
    return policy(name, budget)


__all__ = [
    "POLICIES",
    "Arrival",
    "ChunkSinks",
    "Contiguous",
    "Dual",
    "PeakEnd",
    "Policy",
    "ReKV",
    "Recent",
    "SinkWindow",
    "StreamingVLM",
    "create",
    "policy",
]
