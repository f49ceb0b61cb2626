"""A teacher's answers to every frame of a data set, computed once and kept.

Worth it where the same frames come back every epoch: many students then learn from one pass of
the teacher. What it says at frame t is the window that ends at t, as it would stream.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..layers.streaming import Carry, Params
from ..zoo.trees import flatten
from .data.base import DataError, Source
from .data.kept import code, digest
from .data.pipeline import pad
from .data.stored import Taught
from .tasks import Distil, prepared
from .types import Batch

CHUNK = 16  # frames at once: one shape, one compile


def taught(source: Source, task: Distil, teacher_variables: Params, cache: str | Path) -> Taught:
    """``source`` with ``target_logits`` [T, K, C], ``target_roi`` [T, K, D] and
    ``target_attention`` [T, L, H, N, N] (of the blocks and heads that ``task`` compares).

    Raises DataError for a teacher with look-ahead: its answers belong to earlier frames; leave it
    to the loop (``keep_targets=False``).
    """
    if task.teacher.config.lookahead:
        raise DataError("a teacher with look-ahead cannot be kept: set keep_targets=False")
    card = (task.card.mean, task.card.std, task.card.value_range)
    what = [task.blocks.tolist(), task.heads, task.teacher.config, source.max_boxes, card]
    for name, value in sorted(flatten(teacher_variables).items()):
        what += [name, np.asarray(value)]
    what.append(code("layers", "zoo/action", "zoo/encode", "zoo/preprocess.py", "train/targets.py"))
    teach = teacher_of(source, task, teacher_variables)
    return Taught(source, teach, cache, digest(*what))


def teacher_of(
    source: Source, task: Distil, variables: Params
) -> Callable[[int], dict[str, np.ndarray]]:
    """Number of a video -> what the teacher says about its frames, arrays [T, ...]."""
    teacher = task.teacher

    @jax.jit
    def run(variables: Params, ring: Carry, batch: Batch) -> Any:
        frames = prepared(batch["frames"], task.card)
        ring, out = teacher.apply(
            variables, ring, frames, batch["valid"],
            boxes=batch["boxes"], box_valid=batch["box_valid"], taps=("attention", "roi"),
        )  # fmt: skip
        rows = jnp.moveaxis(task.rows(out.taps["attention"]), 0, 2)  # [B, T, L, H, N, N]
        return ring, {"logits": out.box_logits, "roi": out.taps["roi"], "attention": rows}

    def teach(video: int) -> dict[str, np.ndarray]:
        length = source.length(video)
        shape = source.read(video, 0, 1).frames.shape[1:]
        ring = teacher.init_carry(1, shape)
        parts = []
        for start in range(0, length, CHUNK):
            count = min(CHUNK, length - start)
            clip = pad(source.read(video, start, count), CHUNK)
            batch = {n: getattr(clip, n)[None] for n in ("frames", "boxes", "box_valid")}
            batch["valid"] = np.arange(CHUNK)[None] < count
            ring, out = run(variables, ring, batch)
            parts.append({n: np.asarray(a)[0, :count] for n, a in out.items()})
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    return teach
