"""The engine of all rollouts, as pure functions of parameters and a state.

A pass looks at the memory and does not change it (``peek``); what it found is written when a block
is finished (``commit``). Keys are un-rotated, so where frames stand is said at read, by the
rollout's position law.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ...layers.gaps import hold
from ...layers.memory import Notes, Slots, View, store
from ...layers.rollout import Rollout, Table
from ...layers.rollout.keep import ANCHOR, CONDITION, PRIOR, RECENT, SINK
from ...layers.rollout.places import view_of
from ...layers.streaming import Array, Params
from .state import GeneratorState


class Shapes(Protocol):
    """What the engine asks of a network's config."""

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of a frame (height, width)."""
        ...

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """A latent frame (h, w, C)."""
        ...


class Denoiser(Protocol):
    """A network that reads frames of a memory: :class:`~streamzoo.zoo.generate.wan.model.Wan`, or
    one of another project."""

    config: Any  # with the properties of Shapes

    def memory(self, batch: int, frames: int, notes: dict[str, tuple[int, ...]]) -> Slots:
        """Empty slots of so many frames."""
        ...

    def recall(
        self, latents: Array, times: Array, condition: Array, keys: Array, values: Array, view: View
    ) -> tuple[Array, Array, Array]:
        """(flow, keys, values of the frames)."""
        ...

    def weigh(
        self, latents: Array, times: Array, condition: Array, keys: Array, values: Array, view: View
    ) -> Array:
        """How much the frames attend to each remembered token."""
        ...

    def apply(self, variables: Params, *args: Any, **kwargs: Any) -> Any:
        """Runs the module with its parameters."""
        ...


class Seen(NamedTuple):
    """What a pass found.

    Attributes:
      flow: [B, F, h, w, C], noise - clean.
      keys, values: [B, L, F, N * heads, Dh] of the pass's own frames, un-rotated.
    """

    flow: Array
    keys: Array
    values: Array


def controlled(latents: Array, control: Array | None) -> Array:
    """Latents [B, F, h, w, C] with the channels of their control beside them, as networks take
    them."""
    return latents if control is None else jnp.concatenate([latents, control], axis=-1)


@dataclasses.dataclass(frozen=True)
class Engine:
    """A network and the rollout that runs it. All methods are pure; none compiles anything."""

    module: Denoiser
    rollout: Rollout

    @property
    def shapes(self) -> Shapes:
        return self.module.config

    def init_state(self, keys: Array) -> GeneratorState:
        """Streams that made nothing; ``keys`` [B, 2] uint32, one for each one's noise."""
        batch, r = keys.shape[0], self.rollout
        tokens = self.shapes.grid[0] * self.shapes.grid[1]
        # where a token was in its frame, if frames do not stay whole
        notes = {"cell": (tokens,)} if r.keep.top else {}
        memory = self.module.memory(batch, r.keep.capacity, notes)
        if r.order == "levels":
            many = lambda a: jnp.repeat(a[:, None], len(r.levels.steady), axis=1)
            memory = replace(
                memory,
                keys=many(memory.keys),
                values=many(memory.values),
                notes=jax.tree.map(many, memory.notes),
            )
        frames = lambda n: jnp.zeros((batch, n, *self.shapes.frame_shape), jnp.float32)
        # arrays of their own each: a donated carry may not hold one buffer twice
        zeros = lambda: jnp.zeros(batch, jnp.int32)
        return GeneratorState(
            memory,
            since=zeros(),
            prompts=zeros() + 1,
            cut=jnp.zeros(batch, bool),
            latents=frames(r.latents),
            noisy=frames(r.under_way * r.block),
            begun=zeros(),
            steps=zeros(),
            key=keys,
        )

    # what a pass reads

    def table(self, state: GeneratorState, own: Array, clean: bool = False) -> Table:
        """What frames ``own`` [B, F] (-1 for none) read, in a clean pass or a denoising one."""
        r = self.rollout
        read = (r.clean_read or r.read) if clean else r.read
        return read.table(r.keep, state.memory.notes["serial"], own, state.marks)

    def peek(
        self,
        variables: Params,
        memory: Slots,
        table: Table,
        latents: Array,
        times: Array,
        condition: Array,
    ) -> Seen:
        """One pass; the memory stays as it is.

        Args:
          memory: of the state.
          table: what is read.
          latents: [B, F, h, w, C].
          times: [B, F], 0 to 1000.
          condition: [B, K, D].
        """
        found = self._read("recall", variables, memory, table, latents, times, condition)
        return Seen(*found)

    def weigh(self, variables: Params, memory: Slots, table: Table, *given: Array) -> Array:
        """As :meth:`peek`: [B, C, N], how much the frames attend to each remembered token."""
        score: Array = self._read("weigh", variables, memory, table, *given)
        return score.reshape(*score.shape[:1], self.rollout.keep.capacity, -1)

    def _read(
        self, method: str, variables: Params, memory: Slots, table: Table, *given: Array
    ) -> Any:
        view = view_of(table, *self.shapes.grid, memory.notes.get("cell"))
        memories = memory.keys, memory.values
        return self.module.apply(variables, *given, *memories, view, method=method)

    def _notes(self, own: Array) -> Notes:
        """What is told of new frames, beside their keys."""
        if not self.rollout.keep.top:
            return {"serial": own}
        tokens = self.shapes.grid[0] * self.shapes.grid[1]
        cell = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (*own.shape, tokens))
        return {"serial": own, "cell": cell}

    def commit(
        self, state: GeneratorState, seen: Seen, own: Array, latents: Array
    ) -> GeneratorState:
        """Writes the keys and values of finished frames.

        Args:
          seen: of the pass whose keys and values are kept.
          own: [B, F] int32, numbers of the frames, -1 for none.
          latents: [B, F, h, w, C], the frames, for a recache.
        """
        keep, memory = self.rollout.keep, state.memory
        end = jnp.maximum(memory.seen, own.max(axis=1) + 1)
        targets = [keep.slots(own, end)]
        if keep.slow:
            targets.append(keep.promoted(own, self.rollout.block))
        if keep.anchors:
            targets.append(keep.anchored(own, state.since, state.prompts))
        for slot in targets:
            memory = store(memory, seen.keys, seen.values, self._notes(own), slot)
        memory = replace(memory, seen=end, next=end)
        kept = jnp.concatenate([state.latents, latents], axis=1)[:, -self.rollout.latents :]
        return replace(
            state,
            memory=memory,
            latents=kept if self.rollout.latents else state.latents,
            cut=jnp.zeros_like(state.cut),
        )

    # what changes between blocks

    def switch(
        self, variables: Params, state: GeneratorState, condition: Array, which: Array
    ) -> GeneratorState:
        """A new prompt for the streams ``which`` [B] bool; the others stay bit for bit."""
        r, new = self.rollout, state
        if r.switch == "recache":
            new = self._recached(variables, new, condition)
        elif r.switch == "flush":
            serial = new.memory.notes["serial"]
            region = jnp.asarray(r.keep.region)[None]
            old = serial < (new.memory.seen - r.flushed)[..., None]
            if serial.ndim == 3:
                region, old = region[None], serial < (new.memory.seen - r.flushed)[:, None, None]
            serial = jnp.where(old & (region == RECENT), -1, serial)
            notes = {**new.memory.notes, "serial": serial}
            new = replace(new, memory=replace(new.memory, notes=notes))
        if r.keep.anchors:
            new = self._without_anchor(new)
        new = replace(new, since=new.memory.seen, prompts=new.prompts + 1)
        return hold(new, state, which)

    def _recached(
        self, variables: Params, state: GeneratorState, condition: Array
    ) -> GeneratorState:
        """The memory, made anew from the latest latents in one pass that sees all of them."""
        r, memory = self.rollout, state.memory
        back = jnp.arange(-r.latents, 0, dtype=jnp.int32)[None]
        own = jnp.maximum(memory.seen[:, None] + back, -1)
        serial = memory.notes["serial"]
        table = r.read.again(r.keep, serial, own, state.marks, r.global_sink)
        times = jnp.zeros(own.shape, jnp.float32)
        seen = self.peek(variables, memory, table, state.latents, times, condition)
        rank = jnp.cumsum(own >= 0, axis=1, dtype=jnp.int32) - 1
        fresh = (own >= 0) & (rank >= r.keep.sinks)
        slot = r.keep.slots(jnp.where(fresh, own, -1), memory.seen)
        region = jnp.asarray(r.keep.region)[None]
        stale = region == RECENT
        if not r.global_sink:
            sink = (own >= 0) & (rank < r.keep.sinks)
            slot = jnp.where(sink, rank, slot)
            stale |= region == SINK
        memory = replace(memory, notes={"serial": jnp.where(stale, -1, serial)})
        return replace(state, memory=store(memory, seen.keys, seen.values, {"serial": own}, slot))

    def _without_anchor(self, state: GeneratorState) -> GeneratorState:
        """The anchor becomes that of the prompt before."""
        keep, memory = self.rollout.keep, state.memory
        a, p, n = keep.first(ANCHOR), keep.first(PRIOR), keep.anchors
        moved = lambda x: x.at[:, :, p : p + n].set(x[:, :, a : a + n])
        serial = memory.notes["serial"]
        # a prompt that was shorter than its own anchor's wait leaves the older one in place
        serial = serial.at[:, p : p + n].set(serial[:, a : a + n]).at[:, a : a + n].set(-1)
        return replace(
            state,
            memory=replace(
                memory,
                keys=moved(memory.keys),
                values=moved(memory.values),
                notes={**memory.notes, "serial": serial},
            ),
        )

    def refer(
        self, variables: Params, state: GeneratorState, latents: Array, condition: Array, at: int
    ) -> GeneratorState:
        """Writes frames that are no part of the video, such as a picture of who speaks.

        Args:
          latents: [B, F, h, w, C]; F is ``keep.conditions``.
          at: the place in time of the first, ahead of where the stream begins.

        Raises:
          ValueError: the rollout keeps another number of such frames.
        """
        keep = self.rollout.keep
        batch, frames = latents.shape[:2]
        if frames != keep.conditions:
            raise ValueError(
                f"{frames} frames of a condition; this rollout keeps {keep.conditions}"
            )
        own = at + jnp.broadcast_to(jnp.arange(frames, dtype=jnp.int32), (batch, frames))
        nothing = replace(
            state.memory, notes=jax.tree.map(lambda a: jnp.full_like(a, -1), state.memory.notes)
        )
        table = self.table(replace(state, memory=nothing), own)
        times = jnp.zeros(own.shape, jnp.float32)
        seen = self.peek(variables, nothing, table, latents, times, condition)
        slot = jnp.arange(frames, dtype=jnp.int32) + keep.first(CONDITION)
        slot = jnp.broadcast_to(slot, own.shape)
        memory = store(state.memory, seen.keys, seen.values, self._notes(own), slot)
        return replace(state, memory=memory)
