"""Losses on clips: the bidirectional teacher, the causal start of a student, partitions of levels.

Sources: Lipman et al., "Flow Matching" (arXiv 2210.02747); Chen et al., "Diffusion Forcing" (arXiv
2407.01392); guandeh17/Self-Forcing, wan/modules/causal_model.py, ``_forward_train``; Kodaira et
al., "StreamDiT" (arXiv 2507.03745), section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...layers.diffusion import FlowSchedule, flow_loss, mix
from ...layers.diffusion.flow import along
from ...layers.rollout.masks import teacher_forcing
from ...layers.streaming import Array, Params
from ...zoo.generate.wan.model import Wan


def frame_times(key: Array, batch: int, frames: int, block: int, shift: float = 5.0) -> Array:
    """Times [B, F] of a student's clips: one per block, each uniform on the shifted table, so that
    a block alone sees what it would see in a clip of one level (Diffusion Forcing).

    Raises:
      ValueError: blocks that do not divide the clip; ``block`` = ``frames`` is the teacher's.
    """
    if block < 1 or frames % block:
        raise ValueError(f"{frames} frames are no whole blocks of {block}")
    table = FlowSchedule(shift=shift).times
    drawn = jax.random.randint(key, (batch, frames // block), 0, len(table), jnp.int32)
    return jnp.repeat(jnp.asarray(table)[drawn], block, axis=1)


def teacher_loss(
    model: Wan,
    variables: Params,
    clean: Array,
    noise: Array,
    times: Array,
    condition: Array,
    shift: float = 5.0,
) -> Array:
    """Flow matching of a network that sees the whole clip.

    Args:
      clean, noise: [B, F, h, w, C].
      times: [B, F].
      condition: [B, K, D].
    """
    noisy = mix(clean, noise, FlowSchedule(shift=shift).sigma(times))
    flow: Array = model.apply(variables, noisy, times, condition)  # pyright: ignore
    return flow_loss(flow, clean, noise)


def teacher_forcing_loss(
    model: Wan,
    variables: Params,
    clean: Array,
    noise: Array,
    times: Array,
    condition: Array,
    block: int,
    shift: float = 5.0,
    context: tuple[Array, float] | None = None,
) -> Array:
    """Flow matching of a student whose blocks see the clean blocks before them, in one pass over
    clean and noisy frames side by side.

    Args:
      model, variables, clean, noise, times, condition: as of :func:`teacher_loss`; the times of a
        block are equal (:func:`frame_times`).
      block: frames of a block.
      context: (noise like ``clean``, time) that the clean frames are given, against drift; None: 0.
    """
    frames = clean.shape[1]
    table = FlowSchedule(shift=shift)
    noisy = mix(clean, noise, table.sigma(times))
    seen, at = clean, jnp.zeros_like(times)
    if context is not None:
        at = jnp.full_like(times, context[1])
        seen = mix(clean, context[0], table.sigma(at))
    both = jnp.concatenate([seen, noisy], axis=1)
    places = jnp.tile(jnp.arange(frames, dtype=jnp.int32), 2)
    flow: Array = model.apply(  # pyright: ignore
        variables,
        both,
        jnp.concatenate([at, times], axis=1),
        condition,
        places=places,
        mask=jnp.asarray(teacher_forcing(frames, block)),
    )
    return flow_loss(flow[:, frames:], clean, noise)


def partition_loss(
    student: Callable[[Array, Array], Array],
    teacher: Callable[[Array, Array], Array],
    noisy: Array,
    levels: Array,
    micro: int,
) -> Array:
    """The student does in one step what the teacher does in ``micro``: from each frame's level to
    the next one of its partition (StreamDiT's multi-step distillation).

    Args:
      student, teacher: (noisy, times [B, F]) -> flow.
      noisy: [B, F, h, w, C], at the first of each frame's two levels.
      levels: [B, F, 2], noise shares from which and to which a frame goes, first > second.
      micro: Euler steps of the teacher.
    """
    begin, end = levels[..., 0], levels[..., 1]

    def euler(step: Array, x: Array) -> Array:
        at = begin + (end - begin) * step / micro
        return x + along((end - begin) / micro, x) * teacher(x, 1000 * at)

    want = jax.lax.stop_gradient(jax.lax.fori_loop(0, micro, euler, noisy))
    got = noisy + along(end - begin, noisy) * student(noisy, 1000 * begin)
    return jnp.square(got - want).mean()
