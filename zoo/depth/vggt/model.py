"""VGGT: cameras, depth and points of several views of one scene, in one pass.

Blocks alternate: within each frame, then among all tokens of all frames. A frame's tokens are its
camera's, its registers, its patches; the first view has a camera and registers of its own, since
its camera is the world.

Source: Wang et al., "VGGT: Visual Geometry Grounded Transformer" (arXiv 2503.11651).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.ranks import to_rank
from ....layers.transformer import Block
from ....layers.transformer.attention import Memory
from ...checks import check_frames
from ...encode.vit import ImageViT
from ..outputs import Geometry
from .config import VGGTConfig
from .heads import CameraHead, MapHead

Array = jax.Array
BASE = 100.0  # of the rotary angles


def angles(rows: int, cols: int, head: int, special: int) -> tuple[np.ndarray, np.ndarray]:
    """(cos, sin) [special + rows * cols, head / 2] of a frame's tokens: half of the pairs turn with
    the row, half with the column, both counted from 1; tokens in front do not turn."""
    rate = BASE ** (-np.arange(head // 4) / (head // 4))
    y, x = np.meshgrid(np.arange(1, rows + 1), np.arange(1, cols + 1), indexing="ij")
    turn = np.concatenate([y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate], axis=1)
    turn = np.concatenate([np.zeros((special, head // 2)), turn]).astype(np.float32)
    return np.cos(turn), np.sin(turn)


class Pair(nn.Module):
    """A block within frames and one among them."""

    config: VGGTConfig

    def setup(self):
        self.frame, self.world = Block(self.config.block()), Block(self.config.block())

    def __call__(self, x: Array, rope: tuple[Array, Array], memory: Memory | None = None):
        """x [B, S, P, D] -> (x, what the decoders read [B, S, P, 2 D], intermediates). With a
        ``memory`` S is 1, and what came before is in it."""
        batch, views, tokens, dim = x.shape
        _, x, _ = self.frame((), x, rope=rope)
        inside = x
        if memory is not None:
            _, x, found = self.world((), x, memory=memory)
        else:
            cos, sin = (jnp.tile(a, (views, 1)) for a in rope)
            flat = x.reshape(batch, 1, views * tokens, dim)
            _, flat, found = self.world((), flat, rope=(cos, sin))
            x = flat.reshape(x.shape)
        return x, jnp.concatenate([inside, x], axis=-1), found


class Body(nn.Module):
    """The parts that VGGT and its stream have in common, under the same parameter names."""

    config: VGGTConfig

    def setup(self):
        cfg, small = self.config, nn.initializers.normal(1e-6)
        dtype = jnp.dtype(cfg.dtype)
        if cfg.conv_stem:
            self.patch_embed = nn.Dense(cfg.dim, dtype=dtype)
        else:
            self.encoder = ImageViT(cfg.encoder)
        # the first view's, and everybody else's
        self.camera = self.param("camera", small, (2, 1, cfg.dim))
        self.registers = self.param("registers", small, (2, cfg.registers, cfg.dim))
        self.pairs = Pair(cfg)
        self.cameras = CameraHead(cfg)
        self.depth_head = MapHead(cfg, 2, dtype)
        self.point_head = MapHead(cfg, 4, dtype)

    def embed(self, frames: Array, first: Array) -> Array:
        """frames [B, S, H, W, 3], first [B, S] bool -> tokens [B, S, P, D]."""
        cfg, p = self.config, self.config.patch
        batch, views, height, width, _ = frames.shape
        flat = frames.reshape(batch * views, height, width, 3)
        if cfg.conv_stem:
            x = flat.reshape(batch * views, height // p, p, width // p, p, 3).swapaxes(2, 3)
            x = self.patch_embed(x.reshape(batch * views, -1, p * p * 3))
        else:
            x = self.encoder(flat).features
            assert x is not None
        x = x.reshape(batch, views, -1, cfg.dim)
        own = jnp.concatenate([self.camera, self.registers], axis=1).astype(x.dtype)
        own = jnp.where(first[..., None, None], to_rank(own[0], x), to_rank(own[1], x))
        return jnp.concatenate([own, x], axis=2)

    def rope(self, size: tuple[int, int]) -> tuple[Array, Array]:
        """The angles of a frame of ``size``."""
        cfg = self.config
        rows, cols = (side // cfg.patch for side in size)
        cos, sin = angles(rows, cols, cfg.dim // cfg.heads, cfg.special)
        return jnp.asarray(cos), jnp.asarray(sin)

    @nn.nowrap
    def slots(self) -> Array:
        """For each pair, where what it says is kept: 0 to 3, or 4 for nowhere."""
        where = np.full(self.config.depth, 4, np.int32)
        for slot, layer in enumerate(self.config.layers):
            where[layer] = slot
        return jnp.asarray(where)

    def maps(self, read: Array, size: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
        """read [4, M, P, 2 D] -> depth, certainty [M, H, W], points [M, H, W, 3], certainty."""
        patches = read[:, :, self.config.special :]
        depth, sure = self.depth_head(patches, size)
        points, points_sure = self.point_head(patches, size)
        points = jnp.sign(points) * jnp.expm1(jnp.abs(points))
        return jnp.exp(depth[..., 0]), sure, points, points_sure


class VGGT(nn.Module):
    """All views of a clip at once, offline."""

    config: VGGTConfig
    task = "depth"

    def setup(self):
        self.body = Body(self.config)
        nn.share_scope(self, self.body)

    def tokens(self, frames: Array) -> tuple[Array, Array]:
        """What the heads read: (of four pairs [4, B, S, P, 2 D], of the last pair)."""
        body = self.body
        batch, views, height, width, _ = frames.shape
        first = jnp.arange(views, dtype=jnp.int32)[None] == 0
        x = body.embed(frames, jnp.broadcast_to(first, (batch, views)))
        rope = body.rope((height, width))
        read = jnp.zeros((5, *x.shape[:-1], 2 * x.shape[-1]), x.dtype)

        def step(pair: Pair, loop, slot):
            x, read, _ = loop
            x, both, _ = pair(x, rope)
            read = jax.lax.dynamic_update_index_in_dim(read, both, slot, 0)
            return (x, read, both), None

        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True},
            length=self.config.depth,
        )  # fmt: skip
        (_, read, last), _ = scan(body.pairs, (x, read, read[0]), body.slots())
        return read[:4], last

    def __call__(self, frames: Array) -> Geometry:
        """Cameras, depth and points of S views.

        Args:
          frames: [B, S, H, W, 3] RGB floats as the card says, sides multiples of the patch.

        Raises:
          ValueError: frames of the wrong shape or type.
        """
        check_frames(frames, self.config.patch, type(self).__name__)
        batch, views, height, width, _ = frames.shape
        read, last = self.tokens(frames)
        camera = self.body.cameras(last[:, :, 0])[-1]
        flat = read.reshape(4, batch * views, *read.shape[3:])
        found = self.body.maps(flat, (height, width))
        depth, sure, points, points_sure = (a.reshape(batch, views, *a.shape[1:]) for a in found)
        here = jnp.ones((batch, views), bool)
        return Geometry(
            depth, sure, points, points_sure, camera, ~here, here,
            (1 - 1 / sure).mean(axis=(2, 3)),
        )  # fmt: skip
