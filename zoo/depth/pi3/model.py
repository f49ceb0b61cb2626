"""Pi3: cameras, depth and points of several views of one scene, of which none is the first.

The blocks are VGGT's, and all views have the same tokens in front: another order of the views is
another order of the answers. Points are in each view's own camera, and cameras in a world that no
view defines.

Source: Wang et al., "Pi3: Permutation-Equivariant Visual Geometry Learning" (arXiv 2507.13347);
yyfz/Pi3 (BSD-3-Clause).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.geometry import pose_code
from ....layers.geometry.pinhole import focal_by_weiszfeld
from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ....layers.transformer import BlockConfig, BlockStack
from ....layers.transformer.attention import Rope
from ...checks import check_frames
from ...encode.vit import ImageViT, ImageViTConfig
from ...ranges import Checked, Count, Size
from ..outputs import Geometry
from ..vggt.config import LARGE
from ..vggt.model import Pair, angles

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Pi3Config(Checked):
    """Shapes of a Pi3.

    Attributes:
      image_size: (height, width) the model is meant for; any multiple of the patch runs.
      encoder: of single views.
      dim, depth, heads: of the alternating blocks; ``depth`` counts pairs.
      registers: tokens in front of a view's patches.
      head_dim, head_depth, head_heads: of the blocks of each of the three decoders.
      camera_dim: width of what the camera is read from.
      frames: of the clips that example inputs have.
    """

    image_size: Size = (518, 518)
    encoder: ImageViTConfig = LARGE
    dim: Count = 1024
    depth: Count = 18
    heads: Count = 16
    registers: Count = 5
    head_dim: Count = 1024
    head_depth: Count = 5
    head_heads: Count = 16
    camera_dim: Count = 512
    frames: Count = 2
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for dim, heads in ((self.dim, self.heads), (self.head_dim, self.head_heads)):
            if dim % heads or dim // heads % 4 or dim // heads != self.dim // self.heads:
                raise ValueError(f"{heads} heads of {dim}: all as wide, a multiple of 4")
        if self.encoder.dim != self.dim:
            raise ValueError(f"the encoder is {self.encoder.dim} wide, the blocks {self.dim}")

    def block(self) -> BlockConfig:
        """Of the alternating blocks."""
        return BlockConfig(
            self.dim, self.heads, qk_norm="layer", qk_eps=1e-5, layer_scale=0.01, dtype=self.dtype
        )

    def head_block(self) -> BlockConfig:
        """Of the decoders."""
        return BlockConfig(self.head_dim, self.head_heads, dtype=self.dtype)


class Views(NamedTuple):
    """What the network says of B clips of S views."""

    local: Array  # [B, S, H, W, 3] points, each in its view's camera
    sure: Array  # [B, S, H, W] logit that a point is right
    poses: Array  # [B, S, 4, 4] camera to a world of its own


class ViewDecoder(nn.Module):
    """Tokens of views, each view by itself. x [B, S, P, 2 D] -> [B, S, P, outputs]."""

    config: Pi3Config
    outputs: int

    def setup(self):
        c = self.config
        self.into = nn.Dense(c.head_dim, dtype=c.dtype)
        self.trunk = BlockStack(c.head_block(), c.head_depth)
        self.out = nn.Dense(self.outputs, dtype=c.dtype)

    def __call__(self, x: Array, rope: Rope) -> Array:
        carry = self.trunk.init_carry(x.shape[0], 0)
        _, x, _ = self.trunk(carry, self.into(x), rope=rope)
        return self.out(x)


class PixelHead(nn.Module):
    """Tokens of patches [B, S, h * w, D] -> values of their pixels [B, S, H, W, outputs]."""

    patch: int
    outputs: int

    def setup(self):
        self.out = nn.Dense(self.outputs * self.patch**2)

    def __call__(self, x: Array, size: tuple[int, int]) -> Array:
        p = self.patch
        x = self.out(x.astype(jnp.float32))
        x = x.reshape(*x.shape[:2], size[0] // p, size[1] // p, self.outputs, p, p)
        return x.transpose(0, 1, 2, 5, 3, 6, 4).reshape(*x.shape[:2], *size, self.outputs)


class PoseHead(nn.Module):
    """Patches of a view [B, S, N, D] -> its pose [B, S, 4, 4], a rotation and a place."""

    dim: int

    def setup(self):
        self.first = [nn.Dense(self.dim) for _ in range(6)]
        self.then = [nn.Dense(self.dim) for _ in range(2)]
        self.place, self.turn = nn.Dense(3), nn.Dense(9)

    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        for i in (0, 3):
            y = x
            for layer in self.first[i : i + 3]:
                y = nn.relu(layer(y))
            x = x + y
        x = x.mean(axis=2)
        for layer in self.then:
            x = nn.relu(layer(x))
        turn = nearest_rotation(self.turn(x).reshape(*x.shape[:2], 3, 3))
        pose = jnp.concatenate([turn, self.place(x)[..., None]], axis=-1)
        last = jnp.broadcast_to(
            to_rank(jnp.asarray([0.0, 0.0, 0.0, 1.0], jnp.float32), pose), (*x.shape[:2], 1, 4)
        )
        return jnp.concatenate([pose, last], axis=-2)


def nearest_rotation(x: Array) -> Array:
    """Rotations [..., 3, 3] near matrices whose rows are brought to length 1 before."""
    rows = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    u, _, vt = jnp.linalg.svd(rows.swapaxes(-1, -2), full_matrices=False)
    v, ut = vt.swapaxes(-1, -2), u.swapaxes(-1, -2)
    mirrored = jnp.linalg.det(v @ ut)[..., None]
    return jnp.concatenate([v[..., :2], v[..., 2:] * mirrored[..., None]], axis=-1) @ ut


class Pi3(nn.Module):
    """All views of a clip at once, offline."""

    config: Pi3Config
    task = "depth"

    def setup(self):
        c = self.config
        self.encoder = ImageViT(dataclasses.replace(c.encoder, dtype=c.dtype))
        small = nn.initializers.normal(1e-6)
        self.registers = self.param("registers", small, (c.registers, c.dim))
        # the pairs ask their config for a block alone
        self.pairs = Pair(c)  # pyright: ignore[reportArgumentType]
        self.points, self.certainty = (ViewDecoder(c, c.head_dim) for _ in range(2))
        self.camera = ViewDecoder(c, c.camera_dim)
        patch = c.encoder.patch
        self.points_out, self.certainty_out = PixelHead(patch, 3), PixelHead(patch, 1)
        self.pose = PoseHead(c.camera_dim)

    def raw(self, frames: Array) -> Views:
        """Of views [B, S, H, W, 3]."""
        c, p = self.config, self.config.encoder.patch
        batch, views, height, width, _ = frames.shape
        x = self.encoder(frames.reshape(batch * views, height, width, 3)).features
        assert x is not None
        x = x.reshape(batch, views, -1, c.dim)
        own = to_rank(self.registers.astype(x.dtype), x)
        own = jnp.broadcast_to(own, (batch, views, c.registers, c.dim))
        x = jnp.concatenate([own, x], axis=2)
        turns = angles(height // p, width // p, c.dim // c.heads, c.registers)
        rope = (jnp.asarray(turns[0]), jnp.asarray(turns[1]))

        def step(pair: Pair, loop, _):
            x, _ = loop
            x, both, _ = pair(x, rope)
            return (x, both), None

        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.depth
        )
        (_, both), _ = scan(self.pairs, (x, jnp.concatenate([x, x], axis=-1)), None)
        points, sure, camera = (
            decoder(both, rope)[:, :, c.registers :]
            for decoder in (self.points, self.certainty, self.camera)
        )
        flat = self.points_out(points, (height, width))
        z = jnp.exp(flat[..., 2:])
        local = jnp.concatenate([flat[..., :2] * z, z], axis=-1)
        return Views(local, self.certainty_out(sure, (height, width))[..., 0], self.pose(camera))

    def __call__(self, frames: Array) -> Geometry:
        """Cameras, depth and points of S views, in the world of the first one's camera.

        The field of view is not the network's: it is the one that its points fit best.

        Args:
          frames: [B, S, H, W, 3] RGB floats as the card says, sides multiples of the patch.

        Raises:
          ValueError: frames of the wrong shape or type.
        """
        check_frames(frames, self.config.encoder.patch, type(self).__name__)
        size = frames.shape[2], frames.shape[3]
        local, logit, poses = self.raw(frames)
        turn, place = poses[..., :3, :3], poses[..., :3, 3]
        first = turn[:, :1].swapaxes(-1, -2)  # its inverse
        own = first @ turn
        at = (first @ (place - place[:, :1])[..., None])[..., 0]
        points = jnp.einsum("bsij,bshwj->bshwi", own, local) + at[:, :, None, None]
        back = own.swapaxes(-1, -2)
        extrinsic = jnp.concatenate([back, -(back @ at[..., None])], axis=-1)
        focal = focal_by_weiszfeld(local)
        camera = pose_code.encode(extrinsic, jnp.stack([focal, focal], axis=-1), size)
        sure = 1 + jnp.exp(logit)
        here = jnp.ones(frames.shape[:2], bool)
        return Geometry(
            local[..., 2], sure, points, sure, camera, ~here, here,
            nn.sigmoid(logit).mean(axis=(2, 3)),
        )  # fmt: skip
