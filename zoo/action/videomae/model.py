"""The offline teacher: VideoMAE's ViT over the tubelets of a clip, and the heads it is tuned with.

Sources: Tong et al., "VideoMAE" (arXiv 2203.12602); Feichtenhofer et al., "SlowFast Networks"
(arXiv 1812.03982), section 5, for action detection with boxes from a person detector. The RoI
head follows the published AVA fine-tunes: mean over time, adaptive RoIAlign, maximum over the
cells, one linear layer.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.positions import resize_matrix, sincos_1d
from ....layers.roi_align import roi_align
from ....layers.streaming import DType
from ....layers.transformer import Approximate, BlockConfig, BlockStack, Taps, layer_norm
from ...checks import check_frames, check_taps
from ...encode.outputs import through
from ...encode.stems import filled, make_stem, stem_stride, stem_width
from ..outputs import ActionOutput
from ..sizes import SIZES

Array = jax.Array

HEADS = ("none", "frame", "roi")
TAPS = ("attention", "hidden", "embedding", "features", "roi")


@dataclasses.dataclass(frozen=True)
class VideoMAEConfig:
    """Shapes of an offline teacher. ``VideoMAEConfig.of("s", head="frame")`` fills in a size.

    Attributes:
      image_size: (height, width) whose grid the position table numbers; frames of another size
        get that table resized (bicubic).
      frames: of a clip; any other multiple of ``tubelet`` runs too.
      tubelet: frames per token.
      stem: a pretrained encoder (``encode.stems``) whose features, of the frames of a tubelet side
        by side, are the tokens; then ``patch`` is its stride, and clips may be such features.
      attention: ``full``, or in linear time over the tokens of a clip: ``nystrom`` (Xiong et al.,
        arXiv 2102.03902) or ``linformer`` (Wang et al., arXiv 2006.04768; clips of one size only).
      rank: landmarks of ``nystrom``, mixtures of ``linformer``.
      value_taps: of the convolution beside ``nystrom``, odd; 0 for none.
      eps: of the blocks' norms and of the final norm.
      final_norm: a norm after the last block. The published classifiers have none, and a norm
        after the mean over tokens instead.
      head: ``none``, ``frame`` (classes of the clip) or ``roi`` (classes of each box).
      head_eps: of the norm after the mean, head ``frame``.
      roi_size, roi_sampling, roi_aligned: as in :func:`~streamzoo.layers.roi_align.roi_align`;
        the published fine-tunes use 7, 0 (adaptive) and False.
      roi_time: where in time a box is pooled: ``mean`` over the clip, as the published fine-tunes
        do, or the ``last`` tubelet: the box of the newest frame, for clips that end with it
        (with look-ahead, the tubelet of the frame that is answered for).
      roi_grow: part of its width and height by which a box grows before pooling, half of it on
        either side, clipped to the frame; published test setting (0.1, 0.05).
      dtype: compute type; parameters are fp32.
      unroll: blocks per iteration of the scan over depth (see ``vit.BlockStack``).
    """

    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    tubelet: int = 2
    frames: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    stem: str = ""
    attention: str = "full"
    rank: int = 64
    value_taps: int = 0
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    eps: float = 1e-6
    final_norm: bool = True
    head: str = "roi"
    head_eps: float = 1e-5
    num_classes: int = 80
    roi_size: int = 7
    roi_sampling: int = 0
    roi_aligned: bool = False
    roi_time: str = "mean"
    roi_grow: tuple[float, float] = (0.0, 0.0)
    dtype: DType = "float32"
    unroll: int = 1

    def __post_init__(self):
        if self.head not in HEADS:
            raise ValueError(f"head {self.head!r}: choose from {HEADS}")
        if self.stem and self.patch != stem_stride(self.stem):
            raise ValueError(
                f"stem {self.stem!r} has a stride of {stem_stride(self.stem)}: set patch to that"
            )
        for side in self.image_size:
            if side % self.patch:
                raise ValueError(f"image size {self.image_size}: not a multiple of {self.patch}")
        if self.frames % self.tubelet or self.frames < self.tubelet:
            raise ValueError(f"{self.frames} frames are not tubelets of {self.tubelet}")
        if self.roi_time not in ("mean", "last"):
            raise ValueError(f"roi_time {self.roi_time!r}: choose mean or last")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        _ = self.approximate  # fails early

    @classmethod
    def of(cls, size: str, **fields: Any):
        """The config of a size, ``ti``, ``s``, ``b``, ``l`` or ``h``, with other fields as given.

        Raises:
          ValueError: unknown size.
        """
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}; choose from {', '.join(SIZES)}")
        shape = SIZES[size]
        preset = dict(dim=shape.dim, depth=shape.depth, heads=shape.heads)
        return cls(**{**preset, **fields})

    @property
    def back(self) -> int:
        """Tubelets of a clip after that of the frame it answers for."""
        return 0

    @property
    def approximate(self) -> Approximate | None:
        """What takes the place of full attention."""
        if self.attention == "full":
            return None
        rows, cols = self.grid()
        tokens = self.frames // self.tubelet * rows * cols
        return Approximate(self.attention, self.rank, self.value_taps, tokens)

    def grid(self, frame_shape: tuple[int, int] | None = None) -> tuple[int, int]:
        height, width = frame_shape or self.image_size
        return -(-height // self.patch), -(-width // self.patch)


class VideoMAE(nn.Module):
    """A clip in, one answer out; sees the whole clip at once and keeps no state.

    Joint space-time attention: every tubelet attends to every other.
    """

    config: VideoMAEConfig
    task = "action"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        if cfg.stem:
            self.stem = make_stem(cfg.stem, cfg.dtype)
        self.patch_embed = nn.Dense(cfg.dim, dtype=dtype)
        block = BlockConfig(
            dim=cfg.dim,
            heads=cfg.heads,
            approximate=cfg.approximate,
            mlp_ratio=cfg.mlp_ratio,
            activation=cfg.activation,
            eps=cfg.eps,
            dtype=cfg.dtype,
        )
        self.blocks = BlockStack(block, cfg.depth, unroll=cfg.unroll)
        if cfg.final_norm:
            self.norm = layer_norm(cfg.eps, dtype)
        if cfg.head == "frame":
            self.fc_norm = layer_norm(cfg.head_eps, dtype)
        if cfg.head != "none":
            self.head = nn.Dense(cfg.num_classes, dtype=dtype)

    def __call__(
        self,
        frames: Array,
        boxes: Array | None = None,
        box_valid: Array | None = None,
        taps: Taps = (),
    ) -> ActionOutput:
        """Answers for clips.

        Args:
          frames: [B, T, H, W, 3] floats, normalised as the model's card says; T a multiple of
            the tubelet, H and W of the patch.
          boxes: [B, K, 4] x1 y1 x2 y2 as fractions of width and height, of the frame the clip is
            centred on. None: the RoI head takes the whole frame as the only box.
          box_valid: [B, K] bool, which of ``boxes`` exist; None means all.
          taps: names of intermediates, see :func:`~streamzoo.zoo.encode.outputs.through` (N = T /
            tubelet * h * w tokens, in the order time, row, column), and ``features``
            [B, T / tubelet, h, w, D] after the final norm, ``roi`` [B, K, D] pooled.

        Returns:
          ActionOutput without a T axis; ``boxes`` are the given ones, not the grown ones.

        Raises:
          ValueError: frames or boxes of the wrong shape or type, unknown taps, or the tap
            ``roi`` of a model without that head.
        """
        cfg = self.config
        frames = filled(frames, cfg.stem)
        check_frames(frames, cfg.patch, type(self).__name__, stem_width(cfg.stem))
        if frames.shape[1] % cfg.tubelet:
            raise ValueError(
                f"{type(self).__name__} takes clips of a multiple of {cfg.tubelet} frames, "
                f"got {frames.shape[1]}"
            )
        check_taps(taps, TAPS if cfg.head == "roi" else TAPS[:-1])
        batch, steps = frames.shape[:2]
        mapped = cfg.stem and frames.shape[-1] != 3
        height, width = (s * cfg.patch if mapped else s for s in frames.shape[2:4])
        boxes, box_valid = self._given(boxes, box_valid, batch)
        rows, cols = cfg.grid((height, width))
        x = self._embed(frames, steps // cfg.tubelet, rows, cols)
        x, found = through(self.blocks, x, taps)
        if cfg.final_norm:
            x = self.norm(x)
        grid = x.reshape(batch, steps // cfg.tubelet, rows, cols, cfg.dim)
        if "features" in taps:
            found["features"] = grid
        logits = box_logits = None
        if cfg.head == "frame":
            logits = self.head(self.fc_norm(x.mean(axis=1))).astype(jnp.float32)
        if cfg.head == "roi" and boxes is not None and box_valid is not None:
            at = grid[:, -1 - cfg.back] if cfg.roi_time == "last" else grid.mean(axis=1)
            pooled = self._pool(at, boxes, box_valid, (height, width))
            box_logits = self.head(pooled).astype(jnp.float32)
            box_logits = jnp.where(box_valid[..., None], box_logits, 0.0)
            if "roi" in taps:
                found["roi"] = pooled
        return ActionOutput(
            logits=logits,
            boxes=boxes,
            box_valid=box_valid,
            box_scores=None if box_valid is None else box_valid.astype(jnp.float32),
            box_logits=box_logits,
            taps=found or None,
        )

    def every_tubelet(self, frames: Array, boxes: Array, box_valid: Array) -> Array:
        """Box logits at every tubelet: one pass teaches a whole clip (``roi_time="last"`` only).

        frames as in :meth:`__call__`, boxes [B, T, K, 4], box_valid [B, T, K]; the boxes of each
        tubelet's last frame count -> [B, T / tubelet, K, C]. All but the last answer have seen
        frames after their own.
        """
        cfg = self.config
        if cfg.head != "roi" or cfg.roi_time != "last":
            raise ValueError('every_tubelet needs head="roi" and roi_time="last"')
        found: Any = self(frames, taps=("features",)).taps
        grid = found["features"]
        batch, times = grid.shape[:2]
        last = slice(cfg.tubelet - 1, None, cfg.tubelet)
        boxes, box_valid = boxes[:, last], box_valid[:, last]
        flat = lambda a: a.reshape(-1, *a.shape[2:])
        size = (grid.shape[2] * cfg.patch, grid.shape[3] * cfg.patch)
        pooled = self._pool(flat(grid), flat(boxes), flat(box_valid), size)
        return self.head(pooled).astype(jnp.float32).reshape(batch, times, boxes.shape[2], -1)

    def _given(
        self, boxes: Array | None, box_valid: Array | None, batch: int
    ) -> tuple[Array | None, Array | None]:
        """The boxes to answer for, checked, and which of them exist."""
        if boxes is None:
            if self.config.head != "roi":
                return None, None
            whole = jnp.asarray([0.0, 0.0, 1.0, 1.0], jnp.float32)
            boxes, box_valid = jnp.broadcast_to(whole, (batch, 1, 4)), None
        if boxes.ndim != 3 or boxes.shape[0] != batch or boxes.shape[-1] != 4:
            raise ValueError(f"boxes {list(boxes.shape)} are not [{batch}, K, 4]")
        if box_valid is None:
            box_valid = jnp.ones(boxes.shape[:2], bool)
        if box_valid.shape != boxes.shape[:2]:
            raise ValueError(f"box_valid {list(box_valid.shape)} is not {list(boxes.shape[:2])}")
        return boxes, box_valid

    def _embed(self, frames: Array, times: int, rows: int, cols: int) -> Array:
        """frames [B, T, H, W, 3] -> tokens [B, N, D] with their positions."""
        cfg = self.config
        t, p = cfg.tubelet, cfg.patch
        if cfg.stem:
            x = frames if frames.shape[-1] != 3 else self.stem.pyramid(frames)
            x = x.reshape(frames.shape[0], times, t, rows, cols, -1).transpose(0, 1, 3, 4, 2, 5)
        else:
            x = frames.reshape(frames.shape[0], times, t, rows, p, cols, p, 3)
            x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
        x = self.patch_embed(x.reshape(frames.shape[0], times * rows * cols, -1))
        table = position_table(times, cfg.grid(), (rows, cols), cfg.dim)
        return x + jnp.asarray(table, x.dtype)[None]

    def _pool(self, features: Array, boxes: Array, valid: Array, frame: tuple[int, int]) -> Array:
        """features [B, h, w, D], boxes [B, K, 4] -> one vector per box [B, K, D]."""
        cfg = self.config
        cells = roi_align(
            features,
            grow_boxes(boxes, cfg.roi_grow, frame),
            size=cfg.roi_size,
            sampling_ratio=cfg.roi_sampling,
            aligned=cfg.roi_aligned,
            mask=valid,
        )
        return cells.max(axis=(2, 3))


def grow_boxes(boxes: Array, grow: tuple[float, float], frame: tuple[int, int]) -> Array:
    """Boxes [..., 4] (fractions) grown about their centre and clipped to the frame (h, w).

    As the published evaluation does: pixels are counted inclusively, so a box is one pixel wider
    than x2 - x1 and the last coordinate is w - 1. ``(0, 0)`` returns the boxes untouched.
    """
    if not any(grow):
        return boxes
    height, width = frame
    pair = lambda x, y: jnp.asarray([x, y], jnp.float32).reshape((1,) * (boxes.ndim - 1) + (2,))
    side = pair(width, height)
    low, high = boxes[..., :2] * side, boxes[..., 2:] * side
    pad = (high - low + 1.0) * pair(*grow) / 2
    corners = [jnp.clip(low - pad, 0, side - 1) / side, jnp.clip(high + pad, 0, side - 1) / side]
    return jnp.concatenate(corners, axis=-1)


@functools.lru_cache(maxsize=8)
def position_table(
    times: int, native: tuple[int, int], grid: tuple[int, int], dim: int
) -> np.ndarray:
    """The fixed positions of a clip's tokens: [times * rows * cols, D].

    One sinusoid row numbers all tokens of the native grid; for another grid every instant's part
    is resized (bicubic with a = -0.75, no antialiasing: the kernel of torch's interpolate, which
    the published checkpoints were tuned with; ``jax.image`` has a = -0.5).
    """
    table = sincos_1d(times * native[0] * native[1], dim)
    if grid == native:
        return table
    table = table.reshape(times, *native, dim).astype(np.float64)
    table = np.einsum("ry,tyxd->trxd", resize_matrix(native[0], grid[0]), table)
    table = np.einsum("cx,trxd->trcd", resize_matrix(native[1], grid[1]), table)
    return table.reshape(-1, dim).astype(np.float32)
