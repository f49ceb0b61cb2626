"""VideoPrism's encoder: a ViT in every frame, then one over time at every place.

Source: Zhao et al., "VideoPrism" (arXiv 2402.13217); the factorised encoder is that of ViViT
(arXiv 2103.15691, model 2). The first half needs one frame only.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.positions import resample_table, resize_matrix
from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ....layers.transformer import BlockConfig, BlockStack, Taps, layer_norm
from ...checks import check_frames, check_taps
from ..outputs import EncoderOutput

Array = jax.Array
TAPS = ("embedding", "spatial", "spatial_attention", "temporal", "temporal_attention")


@dataclasses.dataclass(frozen=True)
class VideoPrismConfig:
    """Shapes of the encoder.

    Attributes:
      frames: rows of the table of times; another number of frames gets it resized.
      depth, temporal_depth: blocks within frames, and over time.
      softcap: bound of the attention logits, None for none.
    """

    image_size: tuple[int, int] = (288, 288)
    patch: int = 18
    frames: int = 16
    dim: int = 768
    depth: int = 12
    temporal_depth: int = 4
    heads: int = 12
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    softcap: float | None = 50.0
    eps: float = 1e-6
    dtype: DType = "float32"
    unroll: int = 1

    def __post_init__(self):
        if any(side % self.patch for side in self.image_size):
            raise ValueError(f"image size {self.image_size}: not a multiple of {self.patch}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")

    @property
    def table(self) -> tuple[int, int]:
        """(rows, columns) of the table of places."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch


class VideoPrism(nn.Module):
    """Features of a clip; sees the whole clip at once and keeps no state."""

    config: VideoPrismConfig
    task = "encode"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        small = nn.initializers.normal(0.02)

        def stack(depth: int) -> BlockStack:
            block = BlockConfig(
                dim=cfg.dim,
                heads=cfg.heads,
                mlp_ratio=cfg.mlp_ratio,
                activation=cfg.activation,
                eps=cfg.eps,
                softcap=cfg.softcap,
                dtype=cfg.dtype,
            )
            return BlockStack(block, depth, unroll=cfg.unroll)

        self.patch_embed = nn.Dense(cfg.dim, dtype=dtype)
        rows, cols = cfg.table
        self.places = self.param("places", small, (rows * cols, cfg.dim))
        self.times = self.param("times", small, (cfg.frames, cfg.dim))
        self.blocks = stack(cfg.depth)
        self.temporal_blocks = stack(cfg.temporal_depth)
        self.norm_spatial = layer_norm(cfg.eps, dtype)
        self.norm = layer_norm(cfg.eps, dtype)

    def __call__(self, frames: Array, taps: Taps = ()) -> EncoderOutput:
        """Features of clips.

        Args:
          frames: [B, T, H, W, 3] floats in 0..1, as the model's card says; H and W multiples of
            the patch.
          taps: intermediates (N = h * w tokens per frame): ``embedding`` [B, T, N, D], ``spatial``
            [L, B, T, N, D] after each block, ``spatial_attention`` [L, B, T, H, N, N],
            ``temporal`` [L', B, N, T, D], ``temporal_attention`` [L', B, N, H, T, T].

        Returns:
          EncoderOutput: features [B, T, h, w, D].

        Raises:
          ValueError: frames of the wrong shape or type, unknown taps.
        """
        cfg = self.config
        check_frames(frames, cfg.patch, type(self).__name__)
        check_taps(taps, TAPS)
        batch, steps, height, width, _ = frames.shape
        p, rows, cols = cfg.patch, height // cfg.patch, width // cfg.patch
        x = frames.reshape(batch, steps, rows, p, cols, p, 3).swapaxes(3, 4)
        x = self.patch_embed(x.reshape(batch, steps, rows * cols, -1))
        x = x + to_rank(self._places(rows, cols).astype(x.dtype), x)
        found: dict[str, Array] = {"embedding": x} if "embedding" in taps else {}
        x = self._run(self.blocks, x, "spatial", taps, found)
        x = self.norm_spatial(x).swapaxes(1, 2)
        x = x + to_rank(self._times(steps).astype(x.dtype), x)
        x = self._run(self.temporal_blocks, x, "temporal", taps, found)
        x = self.norm(x).swapaxes(1, 2)
        features = x.reshape(batch, steps, rows, cols, cfg.dim)
        return EncoderOutput(features=features, taps=found or None)

    def _run(self, stack: BlockStack, x: Array, name: str, taps: Taps, found: dict) -> Array:
        """x [B, sequences, tokens, D] through a stack; its intermediates join ``found``."""
        ours = {"hidden": name, "attention": name + "_attention"}
        wanted = tuple(tap for tap, full in ours.items() if full in taps)
        _, x, stacked = stack(stack.init_carry(x.shape[0], 0), x, taps=wanted)
        found.update({ours[tap]: value for tap, value in stacked.items()})
        return x

    def _places(self, rows: int, cols: int) -> Array:
        """The table of places on the grid of the frame, [rows * cols, D]."""
        old = self.config.table
        if old == (rows, cols):
            return self.places
        down, across = (
            resize_matrix(a, b, "bilinear", antialias=True)
            for a, b in zip(old, (rows, cols), strict=False)
        )
        return resample_table(self.places.reshape(*old, -1), down, across).reshape(rows * cols, -1)

    def _times(self, steps: int) -> Array:
        """The table of times for this many frames, [T, D]."""
        old = self.config.frames
        if old == steps:
            return self.times
        along = resize_matrix(old, steps, "bilinear", antialias=True)
        return resample_table(self.times[:, None], along, np.ones((1, 1)))[:, 0]
