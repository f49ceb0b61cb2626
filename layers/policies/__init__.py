"""Policies of a memory, one value each, and their names."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from .contiguous import ChunkSinks, Contiguous
from .policy import Arrival, Policy
from .recent import Recent
from .rekv import ReKV, SinkWindow
from .streaming_vlm import StreamingVLM


def _with_sinks(budget: int) -> Recent:
    sinks = min(4, budget - 1)
    return Recent(sinks, budget - sinks, "cache")


POLICIES: dict[str, Callable[[int], Policy]] = {
    "full": lambda budget: Recent(0, budget),
    "streaming-llm": _with_sinks,
}


def policy(name: str, budget: int) -> Policy:
    """The policy of a name with ``budget`` slots.

    Raises:
      ValueError: no policy has this name; the message names the nearest.
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=3, cutoff=0.4) or list(POLICIES)
        raise ValueError(f"unknown policy {name!r}; did you mean {', '.join(near)}?")
    return POLICIES[name](budget)


__all__ = [
    "POLICIES",
    "Arrival",
    "ChunkSinks",
    "Contiguous",
    "Policy",
    "ReKV",
    "Recent",
    "SinkWindow",
    "StreamingVLM",
    "policy",
]
