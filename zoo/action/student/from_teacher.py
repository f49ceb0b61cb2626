"""Starting a student from its teacher's weights."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import Params
from ..videomae.model import VideoMAE, position_table
from .model import CausalViT


def student_from_teacher(
    student: CausalViT,
    student_params: Params,
    teacher: VideoMAE,
    teacher_params: Params,
    blocks: Sequence[int] | None = None,
) -> Params:
    """The student's parameters with everything it shares with its teacher copied over.

    The tubelet kernel is summed over time (a still clip gives the same embedding), learned
    positions become the teacher's table averaged over time, attention, MLP and norms of the
    chosen blocks and the final norm are copied. Temporal mixers and heads keep their values.

    Args:
      student_params, teacher_params: variables ``{"params": ...}``; unchanged.
      blocks: for each student block the teacher's block to copy; default evenly spaced, the last
        one included.

    Raises:
      ValueError: other width, patch, MLP ratio or number of blocks.
    """
    s, t = student.config, teacher.config
    for name in ("dim", "patch", "mlp_ratio", "stem"):
        if getattr(s, name) != getattr(t, name):
            raise ValueError(
                f"student {name} {getattr(s, name)} and teacher {name} {getattr(t, name)} differ: "
                "weights can be copied between models of the same width only"
            )
    chosen = list(blocks) if blocks is not None else []
    if blocks is None:
        chosen = np.round(np.linspace(0, t.depth - 1, s.depth)).astype(int).tolist()
    if len(chosen) != s.depth or not all(0 <= b < t.depth for b in chosen):
        raise ValueError(f"blocks {chosen}: give {s.depth} numbers from 0 to {t.depth - 1}")
    old, new = teacher_params["params"], jax.tree.map(lambda a: a, student_params["params"])
    kernel = old["patch_embed"]["kernel"].reshape(t.tubelet, -1, t.dim).sum(axis=0)
    new["patch_embed"] = {"kernel": kernel, "bias": old["patch_embed"]["bias"]}
    if "stem" in new:
        new["stem"] = old["stem"]
    if "pos_embed" in new:
        times = t.frames // t.tubelet
        table = position_table(times, t.grid(), s.grid(), t.dim).reshape(times, -1, t.dim)
        new["pos_embed"] = jnp.asarray(table.mean(axis=0))
    period = len(s.temporal)
    for slot in range(period):
        rows = np.asarray(chosen[slot::period])
        for part in ("norm1", "attn", "norm2", "mlp"):
            picked = jax.tree.map(lambda a: a[rows], old["blocks"]["layer0"][part])  # noqa: B023
            new["blocks"][f"layer{slot}"][part] = picked
    if t.final_norm:
        new["norm"] = old["norm"]
    return {"params": new}
