"""An answer as plain data: what goes over the wire, into the cache and into a snapshot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ..engine import Answer
from ..session import Result
from ..watch import best

MOST = 4096  # numbers of one output that are sent; masks and feature maps are not


def record_of(answer: Answer, index: int, top: int = 5) -> dict[str, Any]:
    """{index, time, latency_ms, ...}; JSON types only.

    With a frame head: ``classes``, the ``top`` names and probabilities. With boxes: ``persons``
    (box x1, y1, x2, y2 in [0, 1], score, classes). ``output``: arrays of at most 4096 numbers
    that the model answers beside these; null is not a finite number. ``error`` and ``reset`` as
    in :class:`Answer`, only where they say something.
    """
    record: dict[str, Any] = {
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
        record |= _plain(_seen(answer.result, top))
    return record


def _seen(result: Result, top: int) -> dict[str, Any]:
    seen: dict[str, Any] = {"model_ms": round(result.milliseconds, 3)}
    known = ()
    if hasattr(result.output, "box_valid"):
        known = ("logits", "boxes", "box_valid", "box_scores", "box_logits")
        scores = result.scores()
        if scores is not None:
            seen["classes"] = best(scores, result.classes, top)
        seen["persons"] = result.persons()
        for person in seen["persons"]:
            if "scores" in person:
                person["classes"] = best(person.pop("scores"), result.classes, top)
    output = dict(_arrays(result.output, known))
    return seen | {"output": output} if output else seen


def _arrays(output: Any, known: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(output)[0]:
        name = "/".join(str(getattr(k, "name", getattr(k, "key", k))) for k in path) or "value"
        array = np.asarray(leaf)
        if name in known or array.size > MOST or array.dtype.kind not in "fiubV":
            continue
        if array.dtype.kind == "V" or (array.dtype.kind == "f" and array.dtype.itemsize < 4):
            array = array.astype(np.float32)  # bfloat16 and the like
        yield name, array.tolist()


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
