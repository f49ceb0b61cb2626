"""Which of an action model's answers are known, and which it had better keep to itself.

A class of a frame, or of a person in it, is known once its score has been at least ``on`` for
``hold`` frames in a row, and until it falls below ``off``. The score is the probability that the
class is the right one, times the probability that what is seen is of the kind that the model
learned at all: the first from the logits at a temperature (Guo et al., "On Calibration of Modern
Neural Networks", arXiv 1706.04599), the second from the features by a linear classifier that has
met other videos (outlier exposure: Hendrycks et al., arXiv 1812.04606). ``train/decision.py`` fits
the numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from ...layers.exportable import exportable
from ...layers.streaming import Array
from ..ranges import Checked, Count, Positive, Range, Weight, Whole

SAME = 0.3  # a box is the person of the frame before whose box it overlaps by this (IoU)


@dataclasses.dataclass(frozen=True)
class Decision(Checked):
    """When an answer is known.

    Attributes:
      temperature: the logits are divided by it; then probabilities are as often right as they say.
      domain: weights [D] of the RoI features, and last the constant, of the log odds that this is
        of the kind that was learned; () takes everything for that.
      on: score from which a class becomes known; above 1 none ever is.
      off: score below which it is not known any more; at most ``on``.
      hold: frames in a row with ``on`` that it takes.
      several: several classes can be known at once; False: the best one alone.
      nothing: numbers of classes that are no action, such as background: they are never known.
    """

    temperature: Positive = 1.0
    domain: tuple[Annotated[float, Range()], ...] = ()
    on: Weight = 0.5
    off: Weight = 0.5
    hold: Count = 1
    several: bool = True
    nothing: tuple[Whole, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.off > self.on:
            raise ValueError(f"off={self.off}: at most on={self.on}")

    def scores(self, logits: Array, features: Array) -> Array:
        """Of logits [..., C], at the temperature, and features [..., D] -> [..., C] in 0..1."""
        logits = logits.astype(jnp.float32)
        right = jax.nn.sigmoid(logits) if self.several else jax.nn.softmax(logits)
        if not self.domain:
            return right
        *weights, constant = self.domain
        if len(weights) != features.shape[-1]:
            raise ValueError(
                f"a decision about {len(weights)} features, and the model has "
                f"{features.shape[-1]}: it was fitted to another model"
            )
        odds = features.astype(jnp.float32) @ jnp.asarray(weights, jnp.float32) + constant
        return right * jax.nn.sigmoid(odds)[..., None]


@exportable
class Known(NamedTuple):
    """What a decision remembers of N persons, or of the frame as one."""

    boxes: Array  # [B, N, 4] where they were, zeros for nobody
    run: Array  # [B, N, C] int32, frames in a row that a class had ``on``, up to ``hold``
    known: Array  # [B, N, C] bool


def nobody(batch: int, slots: int, classes: int) -> Known:
    """Nothing is known of anybody."""
    shape = (batch, slots, classes)
    boxes = jnp.zeros((batch, slots, 4), jnp.float32)
    return Known(boxes, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))


def decide(
    decision: Decision,
    state: Known,
    scores: Array,
    boxes: Array,
    there: Array,
    valid: Array | None = None,
) -> tuple[Known, Array]:
    """Goes through T frames.

    Args:
      scores: [B, T, K, C], of :meth:`Decision.scores`.
      boxes: [B, T, K, 4] persons; K may differ from the N that are remembered, and the ones after
        the first N are never known unless ``hold`` is 1.
      there: [B, T, K] bool, which of them exist.
      valid: [B, T] bool, False for frames that never came, which leave no trace.

    Returns:
      (state, known [B, T, K, C] bool).
    """
    ours = (there, boxes, scores, jnp.ones(there.shape[:2], bool) if valid is None else valid)
    silent = jnp.zeros(scores.shape[-1], bool)
    if decision.nothing:
        silent = silent.at[jnp.asarray(decision.nothing)].set(True)

    def step(state: Known, frame: Any) -> tuple[Known, Array]:
        there, boxes, scores, here = frame
        run, known = _of_before(state, boxes)
        high = scores >= decision.on
        if not decision.several:
            best = scores.argmax(axis=-1, keepdims=True)
            high &= jnp.arange(scores.shape[-1])[None, None] == best
        run = jnp.where(high & there[..., None], jnp.minimum(run + 1, decision.hold), 0)
        new = run >= decision.hold
        known &= scores >= decision.off
        if decision.several:
            known |= new
        else:  # another one takes its place
            known = jnp.where(new.any(axis=-1, keepdims=True), new, known)
        known &= there[..., None]
        places = jnp.where(there[..., None], boxes, 0.0)
        later = jax.tree.map(_first, Known(places, run, known), state)
        keep = lambda a, old: jnp.where(here.reshape(-1, *[1] * (a.ndim - 1)), a, old)
        said = known & ~silent[None, None] & here[:, None, None]
        return jax.tree.map(keep, later, state), said

    state, known = jax.lax.scan(step, state, jax.tree.map(lambda a: a.swapaxes(0, 1), ours))
    return state, known.swapaxes(0, 1)


def _of_before(state: Known, boxes: Array) -> tuple[Array, Array]:
    """Of each of the boxes [B, K, 4] what is remembered of it: (run, known), [B, K, C]."""
    overlap = _overlap(boxes[:, :, None], state.boxes[:, None])
    best, same = overlap.argmax(axis=-1), overlap.max(axis=-1) >= SAME
    take = lambda a: jnp.take_along_axis(a, best[..., None], axis=1)
    return jnp.where(same[..., None], take(state.run), 0), same[..., None] & take(state.known)


def _overlap(a: Array, b: Array) -> Array:
    """Intersection over union of boxes [..., 4]; 0 where one of them is empty."""
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    inter = jnp.maximum(sides, 0).prod(axis=-1)
    area = lambda z: jnp.maximum(z[..., 2:] - z[..., :2], 0).prod(axis=-1)
    return inter / jnp.maximum(area(a) + area(b) - inter, 1e-9)


def _first(new: Array, old: Array) -> Array:
    """As many rows of [B, K, D] as the state has."""
    new = new[:, : old.shape[1]]
    return jnp.pad(new, ((0, 0), (0, old.shape[1] - new.shape[1]), (0, 0))).astype(old.dtype)
