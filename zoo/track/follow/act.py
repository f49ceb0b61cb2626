"""A pipeline of three parts in one compiled step: a detector, a tracker, and what each person does.

    model, params = streamzoo.load("follow-act-nano/street")
    carry = model.init_carry(batch)
    carry, tracks = model.apply(params, carry, frames)       # frames [B, T, H, W, 3]

The action part reads the detector's own maps in every person's box, along his track, and keeps a
state per slot beside the tracks.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.per_slot import PerSlot, SlotState
from ....layers.ranks import to_rank
from ...action.person import Crops, PersonAction, PersonConfig, crops
from ...ranges import Checked, Whole
from ..outputs import Tracks
from .model import Follow, FollowConfig, FollowState

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FollowActConfig(Checked):
    """The parts.

    Attributes:
      follow: detector and tracker.
      person: what a person does.
      labels: numbers of the detector's classes that are persons.
    """

    follow: FollowConfig = FollowConfig()
    person: PersonConfig = PersonConfig()
    labels: tuple[Whole, ...] = (0,)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the detector's input."""
        return self.follow.image_size


@exportable
class FollowActState(NamedTuple):
    """The carry."""

    follow: FollowState
    persons: SlotState


@exportable
@flax.struct.dataclass
class ActingTracks(Tracks):
    """Tracks, and what the persons among them do. C actions.

    In a slot in which no person is seen, scores are zeros and nothing is known.
    """

    action_scores: Array | None = None  # [B, T, S, C] in 0..1
    action_known: Array | None = None  # [B, T, S, C] bool: this action may be said


class FollowAct(nn.Module):
    """Objects of every frame with ids that last, and what those that are persons do."""

    config: FollowActConfig
    task = "follow"
    latency = 0
    cross_stream = False
    inputs = ("frames", "elapsed")

    def setup(self):
        self.follow = Follow(self.config.follow)
        self.person = PerSlot(PersonAction(self.config.person))

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> FollowActState:
        """No tracks in any of ``batch`` streams."""
        follow = Follow(self.config.follow, parent=None).init_carry(batch, frame_shape)
        person = PerSlot(PersonAction(self.config.person, parent=None), parent=None)
        return FollowActState(follow, person.init_carry(batch, self.config.follow.tracker.slots))

    def __call__(
        self,
        carry: FollowActState,
        frames: Array,
        valid: Array | None = None,
        elapsed: Array | None = None,
    ) -> tuple[FollowActState, ActingTracks]:
        """As :meth:`Follow.__call__`."""
        follow, tracks, seen, there = self.persons(carry.follow, frames, valid, elapsed)
        assert tracks.held is not None  # the tracker says it
        state, out = self.person(carry.persons, seen, tracks.held, there, valid)
        acting = ActingTracks(
            **{field.name: getattr(tracks, field.name) for field in dataclasses.fields(tracks)},
            action_scores=out.scores,
            action_known=out.known,
        )
        return FollowActState(follow, state), acting

    def persons(
        self,
        carry: FollowState,
        frames: Array,
        valid: Array | None = None,
        elapsed: Array | None = None,
    ) -> tuple[FollowState, Tracks, Crops, Array]:
        """What the action part reads: (carry, tracks, crops of every slot [B, T, S, ...], which of
        them are of persons that are seen [B, T, S])."""
        carry, tracks, maps = self.follow.see(carry, frames, valid, elapsed)
        persons = [tracks.labels == label for label in self.config.labels]
        there = tracks.seen & functools.reduce(jnp.logical_or, persons)
        (batch, steps, slots), (height, width) = there.shape, frames.shape[2:4]
        flat = lambda a: a.reshape(batch * steps, *a.shape[2:])
        scaled = lambda x, y: (
            tracks.boxes * to_rank(jnp.asarray([x, y] * 2, jnp.float32), tracks.boxes)
        )
        cells = crops(maps.levels, flat(scaled(maps.part[1], maps.part[0])), flat(there))
        tight, wide = (a.reshape(batch, steps, slots, *a.shape[2:]) for a in cells)
        return carry, tracks, Crops(tight, wide, scaled(width / height, 1.0)), there
