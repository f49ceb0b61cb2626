"""Policies of a memory, one value each, and their names; those of frames are in ``systems``."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from .contiguous import ChunkSinks, Contiguous
from .dual import Dual
from .livevlm import LiveVLM
from .peak_end import PeakEnd
from .policy import Arrival, Layered, Policy, Retrieves
from .recent import Recent
from .rekv import ReKV, SinkWindow
from .resv import ReSV
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


def _livevlm(budget: int) -> LiveVLM:
    sinks = min(4, budget - 2)
    recent = max(1, (budget - sinks) // 4)
    long = budget - sinks - recent
    return LiveVLM(sinks, long, recent, top=long // 8, asked=min(16, recent))


def _thoughts(budget: int) -> StreamingVLM:
    # one round is seen; what was thought of all others is text
    sink = max(1, budget // 8)
    return StreamingVLM(budget, 1, 1, sink, max(1, budget - budget // 4 - sink))


POLICIES: dict[str, Callable[[int], Policy]] = {
    "full": lambda budget: Recent(0, budget),
    "livevlm": _livevlm,
    "resv": lambda budget: ReSV(budget, max(1, min(256, budget // 8))),
    "vst": _thoughts,
    "streaming-llm": _with_sinks,
    "streaming-vlm": _streaming_vlm,
    "rekv": _rekv,
    "livestar": PeakEnd,
    "contiguous": Contiguous,
    "dual": lambda budget: Dual(budget - budget // 4, budget // 4),
}

# what needs frames, by name: ``systems`` has them
BY_FRAMES = ("dtd", "stc", "longvu", "flash-vstream-2024", "flash-vstream-2025", "videotree")


def policy(name: str, budget: int) -> Policy:
    """The policy of a name with ``budget`` slots.

    Raises:
      ValueError: no policy has this name; the message names the nearest. Or fewer slots than the
        policy needs.
    """
    if name in BY_FRAMES:
        raise ValueError(
            f"{name} chooses among frames and their tokens, and there are none here: use it with a"
            " model that sees (policies.systems)"
        )
    if name not in POLICIES:
        near = difflib.get_close_matches(name, (*POLICIES, *BY_FRAMES), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(POLICIES)}"
        raise ValueError(f"unknown policy {name!r}; {hint}")
    return POLICIES[name](budget)


def create(name: str, budget: int = 1024) -> Policy:
    """As :func:`policy`, with the budget of a small memory."""
    return policy(name, budget)


__all__ = [
    "BY_FRAMES",
    "POLICIES",
    "Arrival",
    "ChunkSinks",
    "Contiguous",
    "Dual",
    "Layered",
    "LiveVLM",
    "PeakEnd",
    "Policy",
    "ReKV",
    "ReSV",
    "Recent",
    "Retrieves",
    "SinkWindow",
    "StreamingVLM",
    "create",
    "policy",
]
