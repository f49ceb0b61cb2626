"""V-JEPA 2's encoder: a ViT over the tubelets of a clip with rotary positions in three axes.

Source: Assran et al., "V-JEPA 2" (arXiv 2506.09985). As in the published code the two channels of
a rotated pair turn by angles of their own (its table of angles is repeated, its pairs are
neighbours), so this is not quite a rotation; the converter puts pairs half a head apart.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import DType
from ....layers.transformer import BlockConfig, BlockStack, Taps, layer_norm
from ...checks import check_frames, check_taps
from ..outputs import EncoderOutput, through

Array = jax.Array
TAPS = ("embedding", "hidden", "attention")


@dataclasses.dataclass(frozen=True)
class VJEPA2Config:
    """Shapes of the encoder.

    Attributes:
      frames: of a clip; any multiple of ``tubelet`` runs.
      biased: which of queries, keys and values ("qkv") have a bias.
    """

    image_size: tuple[int, int] = (256, 256)
    patch: int = 16
    tubelet: int = 2
    frames: int = 64
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    biased: str = "qkv"
    eps: float = 1e-6
    dtype: DType = "float32"
    unroll: int = 1

    def __post_init__(self):
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError(f"dim {self.dim} does not make {self.heads} heads of an even width")


class VJEPA2(nn.Module):
    """Features of a clip; sees the whole clip at once and keeps no state."""

    config: VJEPA2Config
    task = "encode"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.patch_embed = nn.Dense(cfg.dim, dtype=dtype)
        block = BlockConfig(
            dim=cfg.dim,
            heads=cfg.heads,
            mlp_ratio=cfg.mlp_ratio,
            activation=cfg.activation,
            eps=cfg.eps,
            biased=cfg.biased,
            dtype=cfg.dtype,
        )
        self.blocks = BlockStack(block, cfg.depth, unroll=cfg.unroll)
        self.norm = layer_norm(cfg.eps, dtype)

    def __call__(self, frames: Array, taps: Taps = ()) -> EncoderOutput:
        """Features of clips.

        Args:
          frames: [B, T, H, W, 3] floats, normalised as the model's card says; T a multiple of the
            tubelet (a single frame is shown that many times), H and W of the patch.
          taps: intermediates, see :func:`~streamzoo.zoo.encode.outputs.through`; N = T / tubelet *
            h * w tokens.

        Returns:
          EncoderOutput: features [B, T / tubelet, h, w, D].

        Raises:
          ValueError: frames of the wrong shape or type, unknown taps.
        """
        cfg = self.config
        check_frames(frames, cfg.patch, type(self).__name__)
        check_taps(taps, TAPS)
        if frames.shape[1] == 1:
            frames = jnp.repeat(frames, cfg.tubelet, axis=1)
        if frames.shape[1] % cfg.tubelet:
            raise ValueError(
                f"{type(self).__name__} takes clips of a multiple of {cfg.tubelet} frames,"
                f" got {frames.shape[1]}"
            )
        batch, steps, height, width, _ = frames.shape
        p, t = cfg.patch, cfg.tubelet
        grid = (steps // t, height // p, width // p)
        x = frames.reshape(batch, grid[0], t, grid[1], p, grid[2], p, 3)
        x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, int(np.prod(grid)), -1)
        rope = cubic_rope(*grid, cfg.dim // cfg.heads)
        x, found = through(self.blocks, self.patch_embed(x), taps, rope)
        features = self.norm(x).reshape(batch, *grid, cfg.dim)
        return EncoderOutput(features=features, taps=found or None)


def cubic_rope(times: int, rows: int, cols: int, head: int) -> tuple[Array, Array]:
    """Angles of a grid of tubelets: a third of the head each for time, row and column.

    A third has an even number of channels, what is left over does not turn. Channel c of a third
    of d has the rate 10000^(-2 (c mod d / 2) / d); even channels are the first half of the head,
    odd ones the second, as :func:`pair_order` sorts them.

    Returns:
      cos, sin: each [times * rows * cols, head], for :func:`~streamzoo.layers.transformer.rotate`.
    """
    third = 2 * (head // 3 // 2)
    rate = 10_000.0 ** (-2 * (np.arange(third) % (third // 2)) / third)
    places = np.meshgrid(np.arange(times), np.arange(rows), np.arange(cols), indexing="ij")
    angle = np.concatenate([place.reshape(-1, 1) * rate for place in places], axis=1)
    angle = np.pad(angle, ((0, 0), (0, head - 3 * third)))[:, pair_order(head)]
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


def pair_order(head: int) -> np.ndarray:
    """The channels of a head with neighbours paired, sorted so that pairs are half a head apart."""
    return np.concatenate([np.arange(0, head, 2), np.arange(1, head, 2)])
