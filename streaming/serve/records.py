"""An answer as plain data: what goes over the wire, into the cache and into a snapshot."""

from __future__ import annotations

import math
from typing import Any

from ...layers.streaming import Json
from ..engine import Answer
from ..views import view_class


def record_of(answer: Answer, index: int) -> Json:
    """{index, time, latency_ms, ...}; JSON types only.

    What was found stands there as the view of the model's task has it ``sent``: with a frame head
    ``classes``, the best names and probabilities; ``persons`` (box x1, y1, x2, y2 in [0, 1], score,
    classes; of tracks id); ``output``: ``objects`` of a detector or of tracks, or arrays of at most
    4096 numbers that the model answers beside these. null is not a finite number. ``error`` and
    ``reset`` as in :class:`Answer`, only where they say something.
    """
    record: Json = {
        "index": index,
        "time": answer.time,
        "latency_ms": round(1e3 * answer.latency, 3),
    }
    if answer.event:
        record["event"] = True
    if answer.reset:
        record["reset"] = True
    if answer.result is None:
        record["error"] = answer.error
    else:
        result = answer.result
        record["model_ms"] = round(result.milliseconds, 3)
        record |= _plain(view_class(result.task)().sent(result))
    return record


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
