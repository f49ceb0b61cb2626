"""What the mask trackers with three memories do with a frame; each gives its own networks.

A frame is read from working and long-term memory (``layers/three_store.py``); the masks that are
found go into the sensory memory, and with every few frames, or a prompt, into all three. Objects
are shown by a mask. A box stands for a filled one and a point for a small disc: poor masks, as
these networks know no other prompts.

Source: hkchengrex/XMem, ``inference/inference_core.py``. Objects that come later have keys of their
own, as in DEVA and Cutie (XMem binds their values to the keys of all).

Axis letters: B streams, O objects, H x W pixels, h x w cells of 16 x 16 pixels, S sensory width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers import three_store
from ....layers.feature_bank import Sums
from ....layers.gaps import hold
from ..prompt import BOTTOM_RIGHT, FOREGROUND, TOP_LEFT
from ..stream import ABSENT_LOGIT, Prompts, Tracks
from ..stream_tracker import StreamTracker, Taps
from .blocks import LEAST, aggregate, shrunk
from .carry import CELL, MemoryCarry, MemoryConfig, Seen

Array = jax.Array
DISC = 8.0  # pixels around a point that stand for a mask


def shown(prompts: Prompts, size: tuple[int, int]) -> Array:
    """The masks [B, O, H, W] bool that prompts give: masks, filled boxes, discs around points."""
    h, w = size
    place = jnp.stack(jnp.meshgrid(jnp.arange(w), jnp.arange(h)), -1).astype(jnp.float32) + 0.5
    place = place[None, None, None]  # [1, 1, 1, H, W, 2]
    at = jnp.asarray(prompts.points).astype(jnp.float32)
    labels = jnp.asarray(prompts.labels)
    pick = lambda label: jnp.where((labels == label)[..., None], at, 0.0).sum(2)[:, :, None, None]
    low, high = pick(TOP_LEFT), pick(BOTTOM_RIGHT)
    box = ((place[:, :, 0] >= low) & (place[:, :, 0] <= high)).all(-1)
    boxed = ((labels == TOP_LEFT).any(-1) & (labels == BOTTOM_RIGHT).any(-1))[..., None, None]
    near = ((place - at[:, :, :, None, None]) ** 2).sum(-1) <= DISC**2
    near = (near & (labels == FOREGROUND)[..., None, None]).any(2)
    mask = jnp.where(boxed, box, near) & (prompts.pointed & ~prompts.masked)[..., None, None]
    if prompts.masks is not None:
        mask |= jnp.asarray(prompts.masks) & prompts.masked[..., None, None]
    return mask


class MemoryTracker(StreamTracker):
    """(carry, frames [B, T, H, W, 3], valid, prompts) -> (carry, :class:`Tracks`).

    The object's score is its surest pixel's, and ``iou`` the mean probability inside of its mask:
    these networks estimate neither. The tap ``probabilities`` is [B, T, O + 1, H, W], the
    background first.

    A tracker gives ``see``, ``find`` and ``remember``.
    """

    config: Any  # a MemoryConfig
    taps = ("probabilities",)
    feels_always = True  # the sensory memory is updated on frames that are remembered, too
    looks_back = False  # a network reads the last mask

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> MemoryCarry:
        """The state of ``batch`` streams before their first frame.

        Raises ValueError for a frame shape other than the config's ``image_size``.
        """
        c: MemoryConfig = self.config
        self.check_shape(frame_shape)
        lead, cells = (batch, c.objects), c.grid[0] * c.grid[1]
        return MemoryCarry(
            frame=jnp.zeros((batch,), jnp.int32),
            written=jnp.zeros((batch,), jnp.int32),
            active=jnp.zeros(lead, bool),
            sensory=jnp.zeros((*lead, *c.grid, c.sensory), jnp.float32),
            stores=three_store.empty_stores(lead, c.stores, cells, c.key, c.value, c.memory_dtype),
            mask=jnp.zeros((*lead, *c.grid), jnp.float32) if self.looks_back else None,
            sums=self.no_sums(lead),
        )

    @nn.nowrap
    def no_sums(self, lead: tuple[int, ...]) -> Sums | None:
        """The object memory of nothing."""
        return None

    def see(self, frames: Array) -> Seen:
        """The image's part: frames [B, H, W, 3]."""
        raise NotImplementedError

    def find(self, carry: MemoryCarry, seen: Seen, read: Array) -> tuple[Array, Array]:
        """What was read [B, O, L, D] -> (sensory memory after it [B, O, h, w, S], probabilities
        [B, O + 1, H, W])."""
        raise NotImplementedError

    def remember(
        self, carry: MemoryCarry, seen: Seen, frames: Array, prob: Array
    ) -> tuple[Array, Array, Any]:
        """Masks [B, O, H, W] -> (value [B, O, L, D], sensory memory after them, what the object
        memory gains)."""
        raise NotImplementedError

    def look(self, carry: MemoryCarry, frames: Array) -> tuple[MemoryCarry, Array]:
        """What is found in frames [B, H, W, 3] before a prompt says what is there: (the carry with
        the sensory memory and the usage after it, and with no frame more; probabilities
        [B, O + 1, H, W], the background first)."""
        seen = self.see(frames)
        ask = (seen.key[:, None], seen.select[:, None])
        stores, read = three_store.read(carry.stores, self.config.stores, *ask, carry.active)
        felt, prob = self.find(carry, seen, read)
        sensory = jnp.where(carry.active[..., None, None, None], felt, carry.sensory)
        return dataclasses.replace(carry, sensory=sensory, stores=stores), prob

    def one_frame(
        self, carry: MemoryCarry, inputs: tuple[Array, Array, Prompts], taps: Taps = ()
    ) -> tuple[MemoryCarry, Tracks]:
        """The body: frames [B, H, W, 3], valid [B], prompts with leaves [B, O, ...]."""
        c = self.config
        frames, valid, prompts = inputs
        old, carry = carry, _forget(carry, prompts.remove)
        told = prompts.pointed | prompts.masked
        masks = shown(prompts, c.image_size)
        seen = self.see(frames)

        # objects that no prompt shows are looked for, and with them all that are known
        look = (carry.active & ~told).any(1)
        reading = carry.active & look[:, None]
        ask = (seen.key[:, None], seen.select[:, None])
        stores, read = three_store.read(carry.stores, c.stores, *ask, reading)
        felt, prob = self.find(carry, seen, read)
        prob = _merged(prob, masks, told, reading)
        active = carry.active | told

        due = (carry.frame - carry.written >= c.every) | told.any(1)
        write = active & due[:, None]
        feels = reading if self.feels_always else reading & ~due[:, None]
        lift = lambda flags, a: flags.reshape(*flags.shape, *(1,) * (a.ndim - 2))
        sensory = jnp.where(lift(feels, felt), felt, carry.sensory)
        carry = dataclasses.replace(
            carry, active=active, sensory=sensory, stores=stores,
            mask=coarse(prob[:, 1:]) if self.looks_back else None,
        )  # fmt: skip
        carry = self._write(carry, seen, frames, prob[:, 1:], write)
        carry = dataclasses.replace(
            carry,
            frame=carry.frame + 1,
            written=jnp.where(write.any(1), carry.frame, carry.written),
        )
        out = _tracks(prob, active)
        if taps:
            out = dataclasses.replace(out, taps={"probabilities": prob})
        return hold(carry, old, valid), out

    def _write(
        self, carry: MemoryCarry, seen: Seen, frames: Array, prob: Array, write: Array
    ) -> MemoryCarry:
        """With this frame in the memories of the objects in ``write`` [B, O]; where there are none
        nothing is computed."""

        def go(self: MemoryTracker, carry: MemoryCarry) -> MemoryCarry:
            value, sensory, gain = self.remember(carry, seen, frames, prob)
            key, select, shrink = (a[:, None] for a in (seen.key, seen.select, seen.shrink))
            stores = three_store.add(
                carry.stores, self.config.stores, key, shrink, select, value, write
            )
            sums = carry.sums
            if sums is not None:
                some = lambda a: jnp.where(write.reshape(*write.shape, *(1,) * (a.ndim - 2)), a, 0)
                sums = jax.tree.map(lambda a, b: a + some(b), sums, gain)
            sensory = jnp.where(write[..., None, None, None], sensory, carry.sensory)
            return dataclasses.replace(carry, stores=stores, sensory=sensory, sums=sums)

        if self.is_initializing():  # parameters cannot be made inside of a branch
            return go(self, carry)
        return nn.cond(write.any(), go, lambda _, carry: carry, self, carry)


def _forget(carry: MemoryCarry, remove: Array) -> MemoryCarry:
    """Without the objects in ``remove`` [B, O]."""
    zero = lambda a: jnp.where(
        remove.reshape(*remove.shape, *(1,) * (a.ndim - 2)), jnp.zeros((), a.dtype), a
    )
    return dataclasses.replace(
        carry,
        active=carry.active & ~remove,
        sensory=zero(carry.sensory),
        stores=three_store.forget(carry.stores, remove),
        mask=jax.tree.map(zero, carry.mask),
        sums=jax.tree.map(zero, carry.sums),
    )


def _merged(prob: Array, masks: Array, told: Array, reading: Array) -> Array:
    """Probabilities [B, O + 1, H, W] with the masks of prompts among them: what was found of others
    stays outside of these."""
    flags, known = told[..., None, None], reading[..., None, None]
    found = jnp.where(known & ~masks.any(1, keepdims=True), prob[:, 1:], 0.0)
    mixed = jnp.where(flags, masks.astype(prob.dtype), found)
    mixed = nn.softmax(aggregate(mixed, told | reading), axis=1)
    return jnp.where(told.any(1)[:, None, None, None], mixed, prob)


def coarse(prob: Array) -> Array:
    """[B, O, H, W] -> means of cells [B, O, h, w]."""
    return jnp.moveaxis(shrunk(jnp.moveaxis(prob, 1, -1), CELL), -1, 1)


def _tracks(prob: Array, active: Array) -> Tracks:
    """By how much each object is surer than all else, at stride 4."""
    count = active.shape[1]
    p = jnp.clip(prob, LEAST, 1.0)
    rest = [jnp.delete(p, o + 1, axis=1).max(1) for o in range(count)]
    margin = jnp.log(p[:, 1:]) - jnp.log(jnp.stack(rest, 1))
    inside = (margin > 0).astype(jnp.float32)
    iou = (inside * p[:, 1:]).sum((2, 3)) / jnp.maximum(inside.sum((2, 3)), 1.0)
    flags = active[..., None, None]
    fine = jnp.moveaxis(shrunk(jnp.moveaxis(margin, 1, -1), 4), -1, 1)
    return Tracks(
        masks=jnp.where(flags, fine, ABSENT_LOGIT),
        scores=jnp.where(active, margin.max((2, 3)), ABSENT_LOGIT),
        iou=jnp.where(active, iou, 0.0),
        active=active,
    )
