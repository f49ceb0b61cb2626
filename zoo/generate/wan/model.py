"""A diffusion transformer over video latents, in the form of Wan 2.1: one body for all its uses.

The bidirectional teacher sees all frames; a student in training sees what a mask allows (block
causal, or clean frames beside noisy ones); a student that streams sees a memory. What differs is an
argument, not a network.

Source: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models" (arXiv 2503.20314),
section 4.1; the per-frame times are those of Self-Forcing (guandeh17/Self-Forcing,
wan/modules/causal_model.py).
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ....layers.memory import Reader, Rotary, Slots, View, empty_slots
from ....layers.ranks import to_rank
from ....layers.rollout.participation import Weigher
from ....layers.rollout.places import grid_places
from ....layers.streaming import Array, DType
from ....layers.transformer import BlockConfig, BlockStack, layer_norm
from ...ranges import Checked, Count, Positive, Size, Whole


@dataclasses.dataclass(frozen=True)
class WanConfig(Checked):
    """Shapes of the transformer.

    Attributes:
      channels: of a latent.
      image_size: latent cells (height, width) of a frame.
      patch: cells a side of a token.
      dim, hidden, depth, heads: of the blocks.
      frequencies: sines and cosines of a time, an even number.
      text_dim: width of a condition's tokens.
      text_length: condition tokens that the published networks pad to.
      block: latent frames that a streaming student makes at once.
      theta: base of the rotary angles.
      eps: of the norms.
      control: channels of a control beside the latents, such as motion tracks; 0 for none.
      dtype: compute type, and that of the memory.

    Raises:
      ValueError: a number out of its range, an odd head width, or a patch that does not divide.
    """

    channels: Count = 16
    image_size: Size = (60, 104)
    patch: Count = 2
    dim: Count = 1536
    hidden: Count = 8960
    depth: Count = 30
    heads: Count = 12
    frequencies: Count = 256
    text_dim: Count = 4096
    text_length: Count = 512
    block: Count = 3
    theta: Positive = 10_000.0
    eps: Positive = 1e-6
    control: Whole = 0
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError(f"dim {self.dim}: {self.heads} heads of an even width do not fit")
        if self.frequencies % 2:
            raise ValueError(f"frequencies {self.frequencies}: as many sines as cosines")
        if any(side % self.patch for side in self.image_size):
            raise ValueError(f"patches of {self.patch} do not divide {self.image_size}")

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.dim // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of a frame (height, width)."""
        height, width = self.image_size
        return height // self.patch, width // self.patch

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """A latent frame (h, w, channels)."""
        return (*self.image_size, self.channels)

    @property
    def blocks(self) -> BlockConfig:
        """Of every block."""
        return BlockConfig(
            self.dim,
            self.heads,
            qk_norm="all",
            cross=self.dim,
            modulated=True,
            mlp_ratio=self.hidden / self.dim,
            activation="gelu_tanh",
            eps=self.eps,
            dtype=self.dtype,
        )

    @property
    def rotary(self) -> Rotary:
        """Pairs of a head: a third each turns with height and width, the rest with time."""
        pairs = self.head // 2
        parts = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
        rates = np.concatenate([self.theta ** (-np.arange(n) / max(n, 1)) for n in parts])
        return Rotary(rates.astype(np.float32), np.repeat(np.arange(3), parts))


class Wan(nn.Module):
    """(latents [B, F, h, w, C], times [B, F], condition [B, K, D]) -> flow [B, F, h, w, C].

    The flow is that of a straight path, noise - clean; a time is 1000 sigma.
    """

    config: WanConfig
    task = "generate"

    def setup(self):
        c = self.config
        dense = lambda width: nn.Dense(width, dtype=c.dtype)
        self.patches = dense(c.dim)
        self.time_in, self.time_out, self.time_blocks = dense(c.dim), dense(c.dim), dense(6 * c.dim)
        self.text_in, self.text_out = dense(c.dim), dense(c.dim)
        self.blocks = BlockStack(c.blocks, c.depth)
        self.norm = layer_norm(c.eps, c.dtype, affine=False)
        small = nn.initializers.normal(c.dim**-0.5)
        self.modulation = self.param("modulation", small, (2, c.dim))
        self.head = dense(c.patch**2 * c.channels)

    @nn.nowrap
    def memory(self, batch: int, frames: int, notes: dict[str, tuple[int, ...]]) -> Slots:
        """Empty slots of ``frames`` frames: keys [B, L, frames, N * heads, Dh]."""
        c = self.config
        rows = c.grid[0] * c.grid[1] * c.heads
        return empty_slots(batch, c.depth, frames, rows, c.head, notes, c.dtype)

    def __call__(
        self,
        latents: Array,
        times: Array,
        condition: Array,
        *,
        places: Array | None = None,
        mask: Array | None = None,
    ) -> Array:
        """The flow of a clip.

        Args:
          latents: [B, F, h, w, C].
          times: [B], [B, F] or [B, F, N] (N tokens of a frame), 0 to 1000.
          condition: [B, K, D], such as the tokens of a text.
          places: [F] or [B, F] int32, where frames stand in time; None: 0, 1, ...
          mask: [F, F] or [B, F, F] bool, which frame (row) sees which; None: all see all.

        Returns:
          [B, F, h, w, C] in fp32.
        """
        batch, frames = latents.shape[:2]
        grid = self._grid(latents)
        if places is None:
            places = jnp.arange(frames, dtype=jnp.int32)
        places = jnp.broadcast_to(places, (batch, frames)) if places.ndim == 2 else places[None]
        at = jnp.broadcast_to(places, (batch, frames))
        at = grid_places(at, *grid)
        seen = None
        if mask is not None:
            mask = mask if mask.ndim == 3 else mask[None]
            tokens = grid[0] * grid[1]
            seen = jnp.repeat(jnp.repeat(mask, tokens, axis=1), tokens, axis=2)
        nothing = self.memory(batch, 0, {})
        view = View(seen, at, at[:, :, None])
        return self.recall(latents, times, condition, nothing.keys, nothing.values, view)[0]

    def recall(
        self,
        latents: Array,
        times: Array,
        condition: Array,
        keys: Array,
        values: Array,
        view: View,
    ) -> tuple[Array, Array, Array]:
        """The flow of frames that read a memory and each other.

        Args:
          latents, times, condition: as of the call.
          keys, values: [B, L, S, N * heads, Dh] of S remembered frames, un-rotated.
          view: how the F * N tokens see the S * N remembered ones and their own.

        Returns:
          (flow [B, F, h, w, C] in fp32, keys and values [B, L, F, N * heads, Dh] of these frames).
        """
        c = self.config
        batch, frames = latents.shape[:2]
        grid = self._grid(latents)
        tokens = grid[0] * grid[1]
        memories = self._reader(Reader, keys, values, view)
        x, time, found = self._through(latents, times, condition, memories)
        time = time[..., None, :].astype(jnp.float32)
        two = time + to_rank(self.modulation, time)  # [B, F, (N,) 2, D]
        two = two if two.ndim == 5 else two[:, :, None]
        x = self.norm(x) * (1 + two[..., 1, :]) + two[..., 0, :]
        flow = self.head(x.astype(c.dtype)).astype(jnp.float32)
        frame = lambda a: a.swapaxes(0, 1).reshape(batch, c.depth, frames, tokens * c.heads, c.head)
        return _unpatched(flow, grid, c.patch), frame(found["keys"]), frame(found["values"])

    def weigh(
        self,
        latents: Array,
        times: Array,
        condition: Array,
        keys: Array,
        values: Array,
        view: View,
    ) -> Array:
        """As :meth:`recall`: how much the frames attend to each remembered token, the sum of its
        products with queries over queries, heads and layers: [B, S * N] fp32."""
        memories = self._reader(Weigher, keys, values, view)
        _, _, found = self._through(latents, times, condition, memories)
        return found["keys"][..., 0, 0].sum(axis=0)

    def _reader(self, kind: type[Reader], keys: Array, values: Array, view: View) -> Reader:
        c = self.config
        read = lambda a: a.reshape(a.shape[0], c.depth, -1, c.heads, c.head)
        return kind.of(read(keys), read(values), view, c.rotary, jnp.ones(c.depth, bool))

    def _through(self, latents: Array, times: Array, condition: Array, memories: Reader):
        """(tokens [B, F, N, D] after the blocks, time embedding, what the memory's readers gave by
        layer)."""
        c = self.config
        more = c.channels + c.control - latents.shape[-1]
        if more not in (0, c.control):
            told = f" and {c.control} of a control" if c.control else ""
            raise ValueError(
                f"latents of {latents.shape[-1]} channels; the model has {c.channels}{told}"
            )
        if more:  # a control that is not there is zeros
            latents = jnp.pad(latents, [(0, 0)] * 4 + [(0, more)])
        x = self.patches(_patched(latents.astype(c.dtype), c.patch))  # [B, F, N, D]
        time, six = self._time(times, latents.shape[1])
        context = self.text_out(nn.gelu(self.text_in(condition.astype(c.dtype)), approximate=True))
        _, x, found = self.blocks(
            ((),), x, memories=memories, context=context[:, None], condition=six
        )
        return x, time, found

    def _grid(self, latents: Array) -> tuple[int, int]:
        height, width = latents.shape[2:4]
        patch = self.config.patch
        if latents.ndim != 5 or height % patch or width % patch:
            raise ValueError(
                f"latents {list(latents.shape)}: [B, F, h, w, C], h and w multiples of {patch}"
            )
        return height // patch, width // patch

    def _time(self, times: Array, frames: int) -> tuple[Array, Array]:
        """times -> (embedding [B, F, (N,) D], what modulates the blocks [B, F, (N,) 6, D])."""
        c = self.config
        if times.ndim == 1:
            times = jnp.broadcast_to(times[:, None], (times.shape[0], frames))
        half = c.frequencies // 2
        rates = (10_000.0 ** (-np.arange(half) / half)).astype(np.float32)
        angle = times.astype(jnp.float32)[..., None] * rates.reshape((1,) * times.ndim + (-1,))
        waves = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        time = self.time_out(nn.silu(self.time_in(waves.astype(c.dtype))))
        six = self.time_blocks(nn.silu(time))
        return time, six.reshape(*six.shape[:-1], 6, c.dim)


def _patched(x: Array, patch: int) -> Array:
    """[B, F, h, w, C] -> [B, F, N, patch * patch * C]."""
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, f, -1, patch * patch * c)


def _unpatched(x: Array, grid: tuple[int, int], patch: int) -> Array:
    """[B, F, N, patch * patch * C] -> [B, F, h, w, C]."""
    b, f = x.shape[:2]
    x = x.reshape(b, f, *grid, patch, patch, -1).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, f, grid[0] * patch, grid[1] * patch, -1)
