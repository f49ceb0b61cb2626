"""Transformer blocks over chunks of a stream: a frame sees its chunk to the end, and those before.

Frames wait until their chunk is complete and then pass all blocks at once, so a stack is late by
one chunk at most, however deep it is, and a stream is the clip with the same mask.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..gaps import compact, window_at, zero_invalid
from ..streaming import Array, Carry
from ..transformer.attention import Attention
from ..transformer.config import BlockConfig
from ..transformer.mlp import Mlp
from ..transformer.norms import layer_norm
from .emitted import Emitted


class Chunks(nn.Module):
    """``depth`` equal blocks, [B, T, D] -> [B, F, D]; a subclass says which, and what they see.

    A block maps (carry, x [B, F, D], valid [B, F], mask [B, F, before + F]) to (carry, y); its
    carry has the keys and values of the last frames in ``past`` [B, before, 2, H, Dh].
    """

    config: BlockConfig
    depth: int

    rate = Fraction(1)

    @property
    def size(self) -> int:
        """Frames of a chunk."""
        raise NotImplementedError

    @property
    def first(self) -> int:
        """Frames of the first chunk, a multiple of ``size``."""
        return self.size

    @property
    def window(self) -> int | None:
        """Frames after which a stream begins anew; None: never."""
        return None

    @property
    def kept(self) -> int:
        """Frames of the past that are kept."""
        raise NotImplementedError

    def make(self, **options: Any) -> Any:
        """A block."""
        raise NotImplementedError

    def sees(self, seen: Array, valid: Array) -> tuple[Array, Array]:
        """(the mask of F frames, [B, F, kept + F], ``seen`` after them).

        seen: [B] frames before them, as the stack counts.
        """
        raise NotImplementedError

    @property
    def lookahead(self) -> Fraction:
        return Fraction(self.latency)

    @property
    def latency(self) -> int:
        return self.first - 1

    @nn.nowrap
    def emitted(self, count: int) -> int:
        window = self.window or count + 1
        whole, rest = divmod(count, window)
        return whole * window + (rest // self.size * self.size if rest >= self.first else 0)

    @nn.nowrap
    def length(self, count: int) -> int:
        return count

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return late + self.latency

    def setup(self):
        self.block = self.make()

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Carry]:
        every = lambda a: jnp.repeat(a[:, None], self.depth, axis=1)
        blocks = self.make(parent=None).init_carry(batch, self.kept)
        return {
            "blocks": jax.tree.map(every, blocks),  # [B, depth, ...]
            "seen": jnp.zeros((batch,), jnp.int32),  # as ``sees`` counts
            "queue": jnp.zeros((batch, self.latency, self.config.dim), self.config.dtype),
            "waiting": jnp.zeros((batch,), jnp.int32),  # frames of the queue
        }

    def __call__(self, carry: dict[str, Carry], x: Array, valid: Array | None = None):
        """x [B, T, D], valid [B, T] -> (carry, Emitted [B, F, D])."""
        batch, steps = x.shape[:2]
        here = jnp.ones((batch, steps), bool) if valid is None else valid
        held = jnp.arange(self.latency)[None] < carry["waiting"][:, None]
        dense = compact(
            jnp.concatenate([carry["queue"], x.astype(self.config.dtype)], axis=1),
            jnp.concatenate([held, here], axis=1),
        )
        frames = (steps + self.latency) // self.size * self.size
        place = (carry["seen"][:, None] if self.window else 0) + jnp.arange(frames)[None]
        end = (carry["seen"] if self.window else 0) + dense.fresh
        if self.window:
            place, end = place % self.window, end % self.window
        rest = jnp.where(end < self.first, end, end % self.size)
        rest = rest if self.window else dense.fresh % self.size
        ready = dense.fresh - rest
        whole = jnp.arange(frames)[None] < ready[:, None]
        # a frame is there when the last of its chunk is
        left = self.size - 1 - place % self.size
        left = jnp.where(place < self.first, self.first - 1 - place, left) if self.window else left
        last = jnp.minimum(jnp.arange(frames)[None] + left, dense.order.shape[1] - 1)
        last = jnp.broadcast_to(last, (batch, frames))
        at = jnp.maximum(jnp.take_along_axis(dense.order, last, axis=1) - self.latency, 0)
        room = jnp.pad(dense.x, ((0, 0), (0, self.latency), (0, 0)))
        carry = carry | {"queue": window_at(room, ready, self.latency), "waiting": rest}
        given = zero_invalid(dense.x[:, :frames], whole)
        if steps >= self.size or self.is_initializing():
            carry, y = self._through(carry, given, whole)
        else:  # most steps complete no chunk: they cost nothing
            waiting, y = carry, jnp.zeros_like(given)
            through = lambda self, carry: self._through(carry, given, whole)
            waits = lambda *_: (waiting, y)
            carry, y = nn.cond(jnp.any(whole), through, waits, self, carry)
        return carry, Emitted(y, whole, jnp.where(whole, at, 0))

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted | None]:
        """The frames of the last chunk, which will not be complete."""
        if not self.latency:
            return carry, None
        last = jnp.pad(carry["queue"], ((0, 0), (0, 1), (0, 0)))
        here = jnp.arange(self.first)[None] < carry["waiting"][:, None]
        carry, y = self._through(carry, zero_invalid(last, here), here)
        carry = carry | {"waiting": jnp.zeros_like(carry["waiting"])}
        return carry, Emitted(y, here, jnp.zeros(here.shape, jnp.int32))

    def clip(self, x: Array, valid: Array | None = None, causal: bool = True) -> Array:
        """A whole stream at once, without the memory of one: x [B, F, D], valid [B, F], the first
        frames of each -> y [B, F, D]. Without ``causal`` every frame sees all others."""
        here = jnp.ones(x.shape[:2], bool) if valid is None else valid
        blocks = self.make(parent=None).init_carry(x.shape[0], 0)
        every = lambda a: jnp.repeat(a[:, None], self.depth, axis=1)
        mask = here[:, None] & jnp.ones((1, x.shape[1], 1), bool)
        if causal:
            mask = self.sees(jnp.zeros(x.shape[0], jnp.int32), here)[0][..., self.kept :]
        x = zero_invalid(x.astype(self.config.dtype), here)
        return self._blocks(jax.tree.map(every, blocks), x, here, mask)[1]

    def _through(self, carry: dict[str, Carry], x: Array, valid: Array):
        """x [B, F, D], whole chunks of which the first frames are valid, through all blocks."""
        mask, seen = self.sees(carry["seen"], valid)
        states, y = self._blocks(carry["blocks"], x, valid, mask)
        return carry | {"blocks": states, "seen": seen}, y

    def _blocks(self, states: Carry, x: Array, valid: Array, mask: Array):
        # a frame that is not there sees itself, not NaN
        frames, keys = mask.shape[1:]
        mask = mask | np.eye(frames, keys, keys - frames, dtype=bool)[None]

        def body(block, loop, index):
            states, x = loop
            here = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, False), states)
            here, x = block(here, x, valid, mask)
            put = lambda a, new: jax.lax.dynamic_update_index_in_dim(a, new, index, 1)
            return (jax.tree.map(put, states, here), x), None

        scan = nn.scan(
            body, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth
        )
        return scan(self.block, (states, x), jnp.arange(self.depth))[0]


def remembered(past: Array, new: Array, valid: Array) -> Array:
    """The last frames of past [B, before, ...] and those of new [B, F, ...] that are ``valid``."""
    both = jnp.concatenate([past, new], axis=1)
    return window_at(both, valid.sum(axis=1, dtype=jnp.int32), past.shape[1])


class Attending(nn.Module):
    """Pre-norm attention and MLP, with the parameters of a plain block."""

    config: BlockConfig

    def setup(self):
        c = self.config
        self.norm1, self.norm2 = layer_norm(c.eps, c.dtype), layer_norm(c.eps, c.dtype)
        self.attn = Attention(c)
        self.mlp = Mlp(c.dim, c.hidden, c.activation, c.dtype, c.gated, c.mlp_bias)

    @nn.nowrap
    def init_carry(self, batch: int, before: int) -> dict[str, Array]:
        c = self.config
        return {"past": jnp.zeros((batch, before, 2, c.groups, c.head), c.dtype)}

    def __call__(self, carry: dict[str, Array], x: Array, valid: Array, mask: Array):
        """As :class:`Chunks` says."""
        q, k, v = self.attn.project(self.norm1(x))
        own, past = jnp.stack([k, v], axis=2), carry["past"]
        both = jnp.concatenate([past, own], axis=1)
        y, _ = self.attn.attend(q, both[:, :, 0], both[:, :, 1], mask=mask[:, None])
        x = x + y
        x = x + self.mlp(self.norm2(x))
        return {"past": remembered(past, own, valid)}, zero_invalid(x, valid)


class BlockCausal(Chunks):
    """Blocks whose frames see all of their window up to the end of their own chunk.

    Source: Krichli et al., "CarelessWhisper" (arXiv 2508.12301): chunks of ``chunk`` frames, of
    which the first 1 + ``extra`` are one. ``chunk`` = ``frames`` is full attention. After
    ``frames`` frames a stream begins anew, as if nothing had been before.

    Raises:
      ValueError: a chunk that does not divide the window, or a first chunk longer than it.
    """

    chunk: int = 15
    extra: int = 0
    frames: int = 1500

    def __post_init__(self):
        if self.frames % self.chunk or self.first > self.frames:
            raise ValueError(
                f"chunks of {self.chunk} frames, the first 1 + {self.extra} of them one, do not"
                f" fill a window of {self.frames}"
            )
        super().__post_init__()

    @property
    def size(self) -> int:
        return self.chunk

    @property
    def first(self) -> int:
        return self.chunk * (1 + self.extra)

    @property
    def window(self) -> int:
        return self.frames

    @property
    def kept(self) -> int:
        return self.frames if self.first < self.frames else 0

    def make(self, **options: Any) -> Attending:
        return Attending(self.config, **options)

    def sees(self, seen: Array, valid: Array) -> tuple[Array, Array]:
        place = seen[:, None] + jnp.arange(valid.shape[1])[None]
        which, within = place // self.frames, place % self.frames
        number = jnp.maximum(within // self.chunk - self.extra, 0)
        same = which[:, :, None] == which[:, None]
        near = same & (number[:, None] <= number[:, :, None]) & valid[:, None]
        there = jnp.arange(self.kept)[None] >= self.kept - seen[:, None]
        past = there[:, None] & (which == 0)[:, :, None]
        after = (seen + valid.sum(axis=1, dtype=jnp.int32)) % self.frames
        return jnp.concatenate([past, near], axis=2), after
