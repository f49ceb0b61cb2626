"""VGGT as a stream: a frame attends to the first one and to the newest ones before it.

The first frame is the world, so it stays: a sink. Of every other one the keys and values of the
blocks among frames are kept in a ring; they are turned by the place of a patch in its frame and by
nothing in time, so they never have to be turned again. Parameters are VGGT's own.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.gaps import hold, zero_invalid
from ....layers.kernels.attention import attention
from ....layers.transformer.attention import rotate
from ...checks import check_carry, check_frames
from ..outputs import Geometry
from .config import VGGTConfig
from .model import Body, Pair

Array = jax.Array


@exportable
class VGGTState(NamedTuple):
    keys: Array  # [B, L, R, P, H, Dh], slot 0 is the first frame, the others a ring
    values: Array  # [B, L, R, P, H, Dh]
    cameras: Array  # [B, R, 2 D] camera tokens of the same frames
    seen: Array  # [B, R] bool
    place: Array  # [B] int32, the slot of the next frame


@dataclasses.dataclass(frozen=True)
class FrameMemory:
    """The frames of the ring as one layer has them."""

    keys: Array  # [B, R, P, H, Dh]
    values: Array
    seen: Array  # [B, R]
    rope: tuple[Array, Array]

    def __call__(self, q: Array, k: Array, v: Array, softcap: float | None = None):
        """The tokens of this frame, [B, P, H, Dh], read those of the ring and themselves."""
        q, k = rotate(q, *self.rope), rotate(k, *self.rope)
        flat = lambda ring, now: jnp.concatenate(
            [ring.reshape(ring.shape[0], -1, *ring.shape[3:]), now], axis=1
        )
        tokens = k.shape[1]
        past = jnp.repeat(self.seen, tokens, axis=1)
        mask = jnp.concatenate([past, jnp.ones(k.shape[:2], bool)], axis=1)
        y = attention(
            q, flat(self.keys, k), flat(self.values, v), mask=mask[:, None, None], softcap=softcap
        )
        return y, k, v


class VGGTStream(nn.Module):
    """Cameras, depth and points of a stream, frame by frame. Latency 0."""

    config: VGGTConfig
    task = "depth"
    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def setup(self):
        self.body = Body(self.config)
        nn.share_scope(self, self.body)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> VGGTState:
        """Of ``batch`` streams of frames (height, width), by default of the card's size."""
        cfg = self.config
        rows, cols = (side // cfg.patch for side in frame_shape or cfg.image_size)
        ring, tokens = cfg.window + 1, cfg.special + rows * cols
        shape = (batch, cfg.depth, ring, tokens, cfg.heads, cfg.dim // cfg.heads)
        dtype = jnp.dtype(cfg.dtype)
        return VGGTState(
            jnp.zeros(shape, dtype),
            jnp.zeros(shape, dtype),
            jnp.zeros((batch, ring, 2 * cfg.dim), dtype),
            jnp.zeros((batch, ring), bool),
            jnp.zeros((batch,), jnp.int32),
        )

    def __call__(
        self, carry: VGGTState, frames: Array, valid: Array | None = None
    ) -> tuple[VGGTState, Geometry]:
        """Geometry of T frames of B streams.

        Args:
          carry: of :meth:`init_carry`, for frames of this size.
          frames: [B, T, H, W, 3] RGB floats as the card says, sides multiples of the patch.
          valid: [B, T] bool, False for frames that never came.

        Raises:
          ValueError: frames of the wrong shape or type, or of another size than the carry's.
        """
        check_frames(frames, self.config.patch, type(self).__name__)
        batch, steps, *size, _ = frames.shape
        check_carry(carry, lambda: self.init_carry(batch, (size[0], size[1])))
        alive = jnp.ones((batch, steps), bool) if valid is None else valid
        if self.is_initializing():  # one frame makes all parameters: a scan would trace it twice
            carry, one = self.one(carry, frames[:, 0])
            return carry, jax.tree.map(lambda a: a[:, None], one)

        def step(module: VGGTStream, state: VGGTState, now):
            frame, here = now
            new, out = module.one(state, frame)
            return hold(new, state, here), out

        scan = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        carry, out = scan(self, carry, (zero_invalid(frames, valid), alive))
        out = out.replace(valid=alive)
        return carry, jax.tree.map(lambda a: zero_invalid(a, valid), out)

    def one(self, state: VGGTState, frame: Array) -> tuple[VGGTState, Geometry]:
        """One frame [B, H, W, 3] -> (state, outputs without the axis of time)."""
        body, size = self.body, (frame.shape[1], frame.shape[2])
        place = jax.nn.one_hot(state.place, state.seen.shape[1], dtype=bool)  # [B, R]
        x = body.embed(frame[:, None], ~state.seen[:, :1])
        rope = body.rope(size)
        read = jnp.zeros((5, *x.shape[:-1], 2 * x.shape[-1]), x.dtype)

        def pair(module: Pair, loop, at):
            x, read, _, keys, values = loop
            slot, layer = at
            pick = lambda a: jax.lax.dynamic_index_in_dim(a, layer, 1, False)
            memory = FrameMemory(pick(keys), pick(values), state.seen, rope)
            x, both, found = module(x, rope, memory)
            put = lambda ring, name: jax.lax.dynamic_update_index_in_dim(
                ring,
                jnp.where(place[:, :, None, None, None], found[name][:, None], pick(ring)),
                layer,
                1,
            )
            keys, values = put(keys, "keys"), put(values, "values")
            read = jax.lax.dynamic_update_index_in_dim(read, both, slot, 0)
            return (x, read, both, keys, values), None

        depth = self.config.depth
        scan = nn.scan(pair, variable_axes={"params": 0}, split_rngs={"params": True}, length=depth)
        over = (body.slots(), jnp.arange(depth, dtype=jnp.int32))
        loop = (x, read, read[0], state.keys, state.values)
        (_, read, last, keys, values), _ = scan(body.pairs, loop, over)

        # the cameras of the ring are refined together; the one asked for is this frame's
        cameras = jnp.where(place[:, :, None], last[:, :, 0], state.cameras)
        seen = state.seen | place
        codes = body.cameras(cameras, seen)[-1]
        camera = jnp.where(place[:, :, None], codes, 0.0).sum(axis=1)
        # the first frame's slot is never written again
        after = jnp.where(state.place + 1 < seen.shape[1], state.place + 1, 1)
        depth, sure, points, points_sure = body.maps(read[:4, :, 0], size)
        here = jnp.ones(depth.shape[:1], bool)
        out = Geometry(
            depth, sure, points, points_sure, camera, ~here, here,
            (1 - 1 / sure).mean(axis=(1, 2)),
        )  # fmt: skip
        return VGGTState(keys, values, cameras, seen, after), out
