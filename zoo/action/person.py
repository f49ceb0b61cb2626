"""What one person is doing, from the cells of a detector's maps in and around his box.

Nothing of it looks at another person or at where in the picture he is: two crops, the form of the
box and how it moved since he was seen last, through a causal memory. ``layers.per_slot`` runs it
along every track.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.exportable import exportable
from ...layers.gaps import hold, zero_invalid
from ...layers.mixers import Mix
from ...layers.ranks import to_rank
from ...layers.roi_align import roi_align
from ...layers.streaming import Carry
from ..ranges import Checked, Count
from .decision import Decision, Known, decide, nobody

Array = jax.Array
TIGHT, WIDE = (6, 3), (4, 4)  # rows and columns of the crops
WIDER, HIGHER = 2.0, 1.2  # the second crop's sides, in sides of the box: who is beside him is in it


@dataclasses.dataclass(frozen=True)
class PersonConfig(Checked):
    """Shapes of the module, and when it knows.

    Attributes:
      actions: their names, C of them; those that are none are named in ``decision.nothing``.
      width: D, of the features that are remembered.
      cell: channels to which a cell of a crop is brought before all cells are joined.
      mix: the memory, see ``layers.mixers``; ``Mix("none")`` for none.
      decision: of the logits and the features.
    """

    actions: tuple[str, ...] = ()
    width: Count = 40
    cell: Count = 16
    mix: Mix = Mix("lstm")
    decision: Decision = Decision(several=False)


class Crops(NamedTuple):
    """What is seen of N persons. B streams, T frames."""

    tight: Array  # [B, T, N, 18, D] cells of the finest map in the box, row by row
    wide: Array  # [B, T, N, 16, D] of the middle one, in and around it
    boxes: Array  # [B, T, N, 4] x1, y1, x2, y2, both axes in heights of the picture


@exportable
class PersonState(NamedTuple):
    """The carry of one person (N = 1)."""

    box: Array  # [B, N, 4] fp32 where he was seen last
    begun: Array  # [B] bool: he was
    memory: Carry
    known: Known


@exportable
class PersonOutput(NamedTuple):
    logits: Array  # [B, T, N, C] before the temperature
    features: Array  # [B, T, N, D] what they are made of
    scores: Array  # [B, T, N, C] what the decision makes of both
    known: Array  # [B, T, N, C] bool: this class may be said


class PersonAction(nn.Module):
    """Crops of a person, frame by frame -> what he is doing. Latency 0."""

    config: PersonConfig
    latency = 0

    def setup(self):
        cfg = self.config
        self.tight, self.wide = nn.Dense(cfg.cell), nn.Dense(cfg.cell)
        self.join, self.move = nn.Dense(cfg.width), nn.Dense(cfg.width, use_bias=False)
        self.norm = nn.LayerNorm()
        self.memory = None if cfg.mix.kind == "none" else cfg.mix.build(cfg.width)
        self.head = nn.Dense(len(cfg.actions))

    @nn.nowrap
    def init_carry(self, batch: int) -> PersonState:
        """Nobody was seen in any of ``batch`` streams of one person."""
        cfg = self.config
        memory: Carry = ()
        if cfg.mix.kind != "none":
            memory = cfg.mix.build(cfg.width, parent=None).init_carry(batch, 1)
        return PersonState(
            jnp.zeros((batch, 1, 4), jnp.float32),
            jnp.zeros((batch,), bool),
            memory,
            nobody(batch, 1, len(cfg.actions)),
        )

    def __call__(
        self, carry: PersonState, crops: Crops, valid: Array | None = None
    ) -> tuple[PersonState, PersonOutput]:
        """Goes through T frames of one person in each of B streams (N = 1).

        valid: [B, T] bool, False for frames in which he is not seen.
        """
        crops = Crops(*(zero_invalid(a, valid) for a in crops))
        last, begun, moved = _moved(carry.box, carry.begun, crops.boxes, valid)
        cells = [nn.silu(self.tight(crops.tight)), nn.silu(self.wide(crops.wide))]
        flat = jnp.concatenate([c.reshape(*c.shape[:3], -1) for c in cells], axis=-1)
        x = self.norm(nn.silu(self.join(flat) + self.move(moved)))
        memory = carry.memory
        if self.memory is not None:
            memory, y = self.memory(memory, x, valid)
            x = x + y
        logits = self.head(x)
        rule = self.config.decision
        scores = rule.scores(logits / rule.temperature, x)
        whole = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 1.0, 1.0]), crops.boxes.shape)
        there = jnp.ones(crops.boxes.shape[:3], bool)
        state, known = decide(rule, carry.known, scores, whole, there, valid)
        out = PersonOutput(*(zero_invalid(a, valid) for a in (logits, x, scores, known)))
        return PersonState(last, begun, memory, state), out


def crops(levels: tuple[Array, ...], boxes: Array, there: Array) -> tuple[Array, Array]:
    """The cells of M pictures: maps at strides 8 and 16 [M, h, w, D], boxes [M, N, 4] as fractions
    of the maps, and which of them are persons [M, N] -> ([M, N, 18, D], [M, N, 16, D])."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    half = half * to_rank(jnp.asarray([WIDER, HIGHER], boxes.dtype), half)
    wide = jnp.concatenate([centre - half, centre + half], axis=-1)
    cut = lambda level, at, size: roi_align(level, at, size=size, mask=there)
    found = cut(levels[0], boxes, TIGHT), cut(levels[1], wide, WIDE)
    return tuple(a.reshape(*a.shape[:2], -1, a.shape[-1]) for a in found)  # type: ignore[return-value]


def _moved(
    last: Array, begun: Array, boxes: Array, valid: Array | None
) -> tuple[Array, Array, Array]:
    """(the last box seen, whether there is one, form and motion of each [B, T, N, 5])."""
    came = jnp.ones(boxes.shape[:2], bool) if valid is None else valid

    def step(state: tuple[Array, Array], piece: tuple[Array, Array]):
        box, came = piece
        form = _form(box)
        change = jnp.where(state[1][:, None, None], form - _form(state[0]), 0.0)
        moved = jnp.clip(10 * change.at[..., :2].divide(jnp.exp(form[..., 3:])), -3, 3)
        upright = form[..., 2:3] - form[..., 3:]
        return hold((box, jnp.ones_like(came)), state, came), jnp.concatenate([upright, moved], -1)

    (last, begun), moved = jax.lax.scan(
        step, (last, begun), (boxes.swapaxes(0, 1), came.swapaxes(0, 1))
    )
    return last, begun, moved.swapaxes(0, 1)


def _form(box: Array) -> Array:
    """Middle x and y, logarithms of width and height [..., 4]."""
    low, high = box[..., :2], box[..., 2:]
    size = jnp.log(jnp.maximum(high - low, 1e-3))
    return jnp.concatenate([(low + high) / 2, size], axis=-1)
