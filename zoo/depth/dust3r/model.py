"""DUSt3R and MASt3R: two views of a scene, and the points of both in the camera of the first.

Both views go through one encoder. Two decoders then read each other, block by block: one of the
view whose camera is the world, one of the other view. Several views are taken in pairs, which
``layers.geometry.view_graph`` joins.

Sources: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy" (arXiv 2312.14132); Leroy et al.,
"Grounding Image Matching in 3D with MASt3R" (arXiv 2406.09756); Weinzaepfel et al., "CroCo v2"
(arXiv 2211.10408) for encoder and decoders.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.geometry import pose_code
from ....layers.geometry.pinhole import focal_by_weiszfeld
from ....layers.geometry.sim3 import rigid_inverse
from ....layers.geometry.view_graph import Pairs, align_views
from ....layers.transformer import BlockStack, layer_norm
from ....layers.transformer.attention import Attention, CrossAttention, Rope
from ....layers.transformer.mlp import Mlp
from ...checks import check_frames
from ..outputs import Geometry
from ..vggt.model import angles
from .config import DUSt3RConfig
from .heads import Maps, ViewHead

Array = jax.Array


class DecoderBlock(nn.Module):
    """A view's tokens read themselves, then the other view's. Both are turned by their places."""

    config: DUSt3RConfig

    def setup(self):
        block = self.config.decoder_block()
        norm = lambda: layer_norm(block.eps, block.dtype)
        self.norm1, self.norm_cross, self.norm_context, self.norm2 = (norm() for _ in range(4))
        self.attn, self.cross = Attention(block), CrossAttention(block)
        self.mlp = Mlp(block.dim, block.hidden, dtype=block.dtype)

    def __call__(self, x: Array, other: Array, rope: Rope) -> Array:
        """x, other [M, N, D] -> [M, N, D]."""
        x = x + self.attn(self.norm1(x), rope)[0]
        context = self.norm_context(other)
        x = x + self.cross(self.norm_cross(x), context, rope=rope, context_rope=rope)
        return x + self.mlp(self.norm2(x))


class DecoderPair(nn.Module):
    """A block of each decoder, which read what the other one was before."""

    config: DUSt3RConfig

    def setup(self):
        self.first, self.second = DecoderBlock(self.config), DecoderBlock(self.config)

    def __call__(self, x: Array, y: Array, rope: Rope) -> tuple[Array, Array]:
        return self.first(x, y, rope), self.second(y, x, rope)


class DUSt3R(nn.Module):
    """Pairs of views, and clips whose frames are taken in pairs; offline."""

    config: DUSt3RConfig
    task = "depth"

    def setup(self):
        c = self.config
        self.patch_embed = nn.Dense(c.dim, dtype=c.dtype)
        self.blocks = BlockStack(c.block(), c.depth)
        self.norm = layer_norm(1e-6, c.dtype)
        self.into = nn.Dense(c.decoder_dim, dtype=c.dtype)
        self.pairs = DecoderPair(c)
        self.decoder_norm = layer_norm(1e-6, c.dtype)
        self.first, self.second = ViewHead(c), ViewHead(c)

    def encode(self, pictures: Array) -> Array:
        """Pictures [M, H, W, 3] -> tokens [M, h * w, D]."""
        c, p = self.config, self.config.patch
        count, height, width, _ = pictures.shape
        x = pictures.reshape(count, height // p, p, width // p, p, 3).swapaxes(2, 3)
        x = self.patch_embed(x.reshape(count, -1, p * p * 3))
        carry = self.blocks.init_carry(count, 0)
        _, x, _ = self.blocks(carry, x[:, None], rope=self._rope((height, width), c.dim // c.heads))
        return self.norm(x[:, 0])

    @nn.nowrap
    def _rope(self, size: tuple[int, int], head: int) -> Rope:
        rows, cols = (side // self.config.patch for side in size)
        cos, sin = angles(rows, cols, head, 0)
        return jnp.asarray(cos), jnp.asarray(sin)

    def look(self, first: Array, second: Array, size: tuple[int, int]) -> tuple[Maps, Maps]:
        """Encoded views [M, h * w, D] of pictures of ``size`` -> what is said of both, points in
        the camera of the first."""
        c = self.config
        rope = self._rope(size, c.decoder_dim // c.decoder_heads)

        def step(pair: DecoderPair, loop, _):
            x, y = loop
            loop = pair(x, y, rope)
            return loop, loop

        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.decoder_depth
        )
        last, every = scan(self.pairs, (self.into(first), self.into(second)), None)
        said = []
        heads = (self.first, self.second)
        for head, encoded, end, layers in zip(heads, (first, second), last, every, strict=True):
            between = [layers[k] for k in c.layers[:2]]
            said.append(head([encoded, *between, self.decoder_norm(end)], size))
        return said[0], said[1]

    def pair(self, frames: Array) -> tuple[Maps, Maps]:
        """frames [B, 2, H, W, 3] -> maps of the first view and of the second, [B, H, W, ...]."""
        size = frames.shape[2], frames.shape[3]
        x = self.encode(frames.reshape(-1, *size, 3))
        x = x.reshape(-1, 2, *x.shape[1:])
        return self.look(x[:, 0], x[:, 1], size)

    def couples(self, frames: Array) -> Pairs:
        """frames [B, S, H, W, 3] -> every ordered pair of them, leaves [B, S, S, ...]."""
        batch, views, height, width, _ = frames.shape
        x = self.encode(frames.reshape(-1, height, width, 3))
        x = x.reshape(batch, views, *x.shape[1:])
        of = [(i, j) for i in range(views) for j in range(views) if i != j] or [(0, 0)]
        i, j = np.asarray(of, np.int32).T
        flat = lambda k: x[:, k].reshape(-1, *x.shape[2:])
        own, other = self.look(flat(i), flat(j), (height, width))

        def grid(y: Array) -> Array:
            full = jnp.zeros((batch, views, views, *y.shape[1:]), jnp.float32)
            return full.at[:, i, j].set(y.reshape(batch, len(of), *y.shape[1:]))

        return Pairs(grid(own.points), grid(other.points), grid(own.sure), grid(other.sure))

    def __call__(self, frames: Array) -> Geometry:
        """Cameras, depth and points of S views, in the world of the first one's camera.

        All S (S - 1) ordered pairs are looked at. The field of view is the one that a view's points
        in its own camera fit best; its certainty is the largest of all its pairs.

        Args:
          frames: [B, S, H, W, 3] RGB floats as the card says, sides multiples of the patch.

        Raises:
          ValueError: frames of the wrong shape or type.
        """
        check_frames(frames, self.config.patch, type(self).__name__)
        size = frames.shape[2], frames.shape[3]
        pairs = self.couples(frames)
        views = jax.vmap(align_views)(pairs)
        extrinsic = rigid_inverse(views.poses)[..., :3, :]
        partner = views.partner[:, :, None, None, None, None]
        focal = focal_by_weiszfeld(jnp.take_along_axis(pairs.own, partner, axis=2)[:, :, 0])
        camera = pose_code.encode(extrinsic, jnp.stack([focal, focal], axis=-1), size)
        sure = jnp.maximum(pairs.own_sure.max(axis=2), pairs.other_sure.max(axis=1))
        here = jnp.ones(frames.shape[:2], bool)
        return Geometry(
            views.depth, sure, views.points, sure, camera, ~here, here,
            (1 - 1 / sure).mean(axis=(2, 3)),
        )  # fmt: skip
