"""Learns what tracked persons do: the action part alone, on crops that are kept.

Frames whose action is known are learned as such. Of a clip of which only the class is known,
somebody in it does it at some time: the loss is of its best track, softly (multiple instances).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...layers.streaming import Array, Params
from ...zoo.action.person import Crops, PersonAction, PersonConfig
from ...zoo.ranges import Checked, Count, Positive, Share, Weight
from .clips import ACTIONS, WALKING, Labelled
from .tracks import Track

BEGIN = 4  # frames of a track before which its clip's class is not asked for


@dataclasses.dataclass(frozen=True)
class LearnConfig(Checked):
    """How it is learned.

    Attributes:
      steps: of AdamW, with a cosine of ``learning_rate``.
      clips: of a batch; frames and tracks: of each, at most.
      keep: share of the channels of the crops that are kept, the rest is dropped.
      clip_weight: of the loss of whole clips, beside that of frames.
    """

    steps: Count = 400
    clips: Count = 12
    frames: Count = 32
    tracks: Count = 3
    learning_rate: Positive = 2e-3
    weight_decay: Weight = 0.05
    keep: Share = 0.8
    clip_weight: Weight = 1.0


class Batch(NamedTuple):
    """B clips of K tracks: rows b * K to b * K + K - 1 are those of clip b."""

    crops: Crops  # [B * K, T, 1, ...]
    valid: np.ndarray  # [B * K, T]
    labels: np.ndarray  # [B * K, T] int, -1 for not known
    truth: np.ndarray  # [B] int, -1 for not known


def batch(
    clips: Sequence[Labelled], cfg: LearnConfig, rng: np.random.Generator | None = None
) -> Batch:
    """The longest tracks of each clip. With ``rng`` a part of them, some mirrored, some at half
    the rate; else their first frames."""
    rows, k = len(clips) * cfg.tracks, cfg.tracks
    shapes = ((18, 64), (16, 128), (4,))
    crops: Any = [np.zeros((rows, cfg.frames, *tail), np.float32) for tail in shapes]
    valid = np.zeros((rows, cfg.frames), bool)
    labels = np.full((rows, cfg.frames), -1)
    for b, clip in enumerate(clips):
        order = np.argsort([-len(t.time) for t in clip.clip.tracks], kind="stable")[:k]
        half = rng is not None and clip.clip.rate >= 10 and rng.random() < 0.4
        mirrored = rng is not None and rng.random() < 0.5
        for slot, number in enumerate(order):
            track, label = clip.clip.tracks[number], clip.labels[number]
            at = np.arange(0, len(track.time), 2 if half else 1)
            if rng is not None and len(at) > cfg.frames:
                at = at[rng.integers(len(at) - cfg.frames + 1) :]
            at = at[: cfg.frames]
            row, count = b * k + slot, len(at)
            for out, a in zip(crops, seen(track, mirrored), strict=True):
                out[row, :count] = a[at]
            valid[row, :count], labels[row, :count] = True, label[at]
    truth = np.asarray([clip.truth for clip in clips])
    return Batch(Crops(*(a[:, :, None] for a in crops)), valid, labels, truth)


def seen(track: Track, mirrored: bool = False) -> Crops:
    """A track's crops; mirrored: their columns, which is nearly what a mirrored picture gives."""
    if not mirrored:
        return track.crops
    n, crops = len(track.time), track.crops
    flip = lambda a, cols: a.reshape(n, -1, cols, a.shape[-1])[:, :, ::-1].reshape(a.shape)
    boxes = crops.boxes[:, [2, 1, 0, 3]] * np.asarray([-1, 1, -1, 1])
    return Crops(flip(crops.tight, 3), flip(crops.wide, 4), boxes)


def learn(
    clips: Sequence[Labelled],
    config: PersonConfig,
    cfg: LearnConfig = LearnConfig(),
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Params:
    """The variables of a ``PersonAction`` that learned from ``clips``."""
    clips = [clip for clip in clips if clip.clip.tracks]
    rng = np.random.default_rng(seed)
    # a draw is fair to the sets and, within them, to the classes
    kinds: dict[tuple[str, int], list[Labelled]] = {}
    for clip in clips:
        kinds.setdefault((clip.set, clip.truth), []).append(clip)
    walks = [c for c in clips if any((label == WALKING).any() for label in c.labels)]
    pools = [*kinds.values(), walks] if walks else [*kinds.values()]
    draw = lambda: [
        (pool := pools[rng.integers(len(pools))])[rng.integers(len(pool))] for _ in range(cfg.clips)
    ]
    model = PersonAction(config)
    first: Any = batch(draw(), cfg, rng)
    carry = model.init_carry(len(first.valid))
    params = model.init(jax.random.key(seed), carry, first.crops, first.valid)
    schedule = optax.cosine_decay_schedule(cfg.learning_rate, cfg.steps)
    chain = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=cfg.weight_decay)
    )
    state = chain.init(params)

    @jax.jit
    def update(params: Params, state: Any, key: Array, b: Batch) -> Any:
        def loss(params: Params) -> Array:
            return _loss(model, params, carry, key, b, cfg)

        value, slope = jax.value_and_grad(loss)(params)
        change, state = chain.update(slope, state, params)
        return optax.apply_updates(params, change), state, value

    total = 0.0
    for step in range(cfg.steps):
        key = jax.random.key(seed * cfg.steps + step)
        params, state, value = update(params, state, key, batch(draw(), cfg, rng))
        total += float(value)
        if step % 100 == 99:
            say(f"step {step + 1}: loss {total / 100:.3f}")
            total = 0.0
    return params


def _loss(
    model: PersonAction, params: Params, carry: Any, key: Array, b: Batch, cfg: LearnConfig
) -> Array:
    crops = b.crops
    if cfg.keep < 1:
        keys = jax.random.split(key)
        drop = lambda a, key: a * jax.random.bernoulli(
            key, cfg.keep, (len(a), 1, 1, 1, a.shape[-1])
        ) / cfg.keep  # fmt: skip
        crops = crops._replace(tight=drop(crops.tight, keys[0]), wide=drop(crops.wide, keys[1]))
    out: Any = model.apply(params, carry, crops, b.valid)[1]
    log = jax.nn.log_softmax(out.logits[:, :, 0])  # [B * K, T, C]
    told = (b.labels >= 0) & b.valid
    right = jnp.take_along_axis(log, jnp.maximum(b.labels, 0)[..., None], axis=-1)[..., 0]
    frames = -(right * told).sum() / jnp.maximum(told.sum(), 1)
    # whole clips: the mean of each track after its first frames, then the best of the tracks
    late = (jnp.cumsum(b.valid, axis=1) > BEGIN) & b.valid
    mean = (log * late[..., None]).sum(1) / jnp.maximum(late.sum(1), 1)[:, None]
    mean = jnp.where(late.any(1)[:, None], mean, -20.0)
    tracks = mean.reshape(len(b.truth), -1, len(ACTIONS))
    best = jax.nn.logsumexp(2 * tracks, axis=1) / 2
    mine = jnp.take_along_axis(best, jnp.maximum(b.truth, 0)[:, None], axis=1)[:, 0]
    acts = (b.truth > 0).astype(jnp.float32)
    return frames - cfg.clip_weight * (mine * acts).sum() / jnp.maximum(acts.sum(), 1)
