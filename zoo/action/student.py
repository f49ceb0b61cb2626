"""The causal students: a per-frame ViT with a temporal mixer in chosen blocks.

TSA, DSTA and the longer-memory students are configurations of one module. Source: Patel et al.,
"Distilling Offline Action Detection Models into Real-Time Streaming Models" (WACV 2026); the
paper's text leaves shift fraction, LSTM width and placement open, so they are fields here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.gaps import zero_invalid
from ...layers.hybrid import pattern
from ...layers.mixers import Mix
from ...layers.positions import axial_rope, resize_table, sincos_2d
from ...layers.vit import BlockStack, Taps, layer_norm
from ..checks import check_carry, check_frames, check_taps
from ..encode.stems import make_stem, stem_stride, stem_width
from .heads import FrameHead, PersonHead, RoIHead
from .outputs import ActionOutput

Array = jax.Array

HEADS = ("frame", "roi", "person")
TAPS = ("attention", "hidden", "features", "roi")


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """Shapes of a causal student.

    Attributes:
      temporal: pattern of mixers, repeated over depth; ``Mix("none")`` is a plain block. A string
        is read by ``layers.hybrid``: ``"DDDA"`` is three gated delta rules and a window.
      mix_norm: norm in front of residual mixers, ``layer`` or ``rms``.
      positions: ``learned``, ``sincos`` (fixed) or ``rope`` (axial, at every attention).
      stem: a pretrained encoder (``encode.stems``) whose features are the tokens; then ``patch`` is
        its stride, and frames may be given as such features [B, T, h, w, F].
      person_cells: cells per token and axis in which the person head looks for centres.
      registers: extra tokens per frame that belong to no patch.
      heads: any of ``frame`` (classes of the whole frame), ``roi`` (classes of each box) and
        ``person`` (finds the boxes when none are given).
      frame_box: without a ``frame`` head, the RoI head on the whole frame gives its classes: for
        models that learned from whole frames as boxes.
      max_boxes: boxes found per frame, a static number; unused slots are marked invalid.
      dtype: compute type; parameters and recurrent states stay fp32.
      unroll: pattern repeats per iteration of the scan over depth (see ``vit.BlockStack``).
    """

    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    dim: int = 384
    depth: int = 12
    heads_per_block: int = 6
    temporal: tuple[Mix, ...] = (Mix("shift"),)
    stem: str = ""
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    layer_scale: float | None = None
    mix_norm: str = "layer"
    positions: str = "learned"
    registers: int = 0
    heads: tuple[str, ...] = HEADS
    frame_box: bool = False
    num_classes: int = 80
    roi_size: int = 7
    max_boxes: int = 16
    person_threshold: float = 0.3
    person_cells: int = 1
    eps: float = 1e-6
    dtype: Any = "float32"
    unroll: int = 1

    def __post_init__(self):
        if isinstance(self.temporal, str):
            object.__setattr__(self, "temporal", pattern(self.temporal))
        if self.positions not in ("learned", "sincos", "rope"):
            raise ValueError(f"positions {self.positions!r}: not learned, sincos or rope")
        unknown = set(self.heads) - set(HEADS)
        if unknown or not self.heads:
            raise ValueError(f"heads {self.heads}: choose from {HEADS}")
        if self.stem and self.patch != stem_stride(self.stem):
            raise ValueError(
                f"stem {self.stem!r} has a stride of {stem_stride(self.stem)}: set patch to that"
            )
        for side in self.image_size:
            if side % self.patch:
                raise ValueError(f"image size {self.image_size}: not a multiple of {self.patch}")

    def grid(self, frame_shape: tuple[int, int] | None = None) -> tuple[int, int]:
        height, width = frame_shape or self.image_size
        return height // self.patch, width // self.patch


def _blocks(cfg: StudentConfig, **module: Any) -> BlockStack:
    return BlockStack(
        dim=cfg.dim,
        depth=cfg.depth,
        heads=cfg.heads_per_block,
        pattern=cfg.temporal,
        mlp_ratio=cfg.mlp_ratio,
        activation=cfg.activation,
        eps=cfg.eps,
        layer_scale=cfg.layer_scale,
        mix_norm=cfg.mix_norm,
        dtype=jnp.dtype(cfg.dtype),
        unroll=cfg.unroll,
        **module,
    )


class CausalViT(nn.Module):
    """One frame in, one answer out, with a carry of constant size.

    ``model.init_carry(batch)`` needs no parameters. ``model.apply(params, carry, frames)`` takes
    frames [B, T, H, W, 3] (normalised floats), any T >= 1: a clip is a large T, a live stream is
    T = 1, and both give the same numbers.
    """

    config: StudentConfig
    latency = 0

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        if cfg.stem:
            self.stem = make_stem(cfg.stem, cfg.dtype)
        self.patch_embed = nn.Dense(cfg.dim, dtype=dtype)
        rows, cols = cfg.grid()
        if cfg.positions == "learned":
            self.pos_embed = self.param(
                "pos_embed", nn.initializers.normal(0.02), (rows * cols, cfg.dim)
            )
        if cfg.registers:
            self.register_tokens = self.param(
                "register_tokens", nn.initializers.normal(0.02), (cfg.registers, cfg.dim)
            )
        self.blocks = _blocks(cfg)
        self.norm = layer_norm(cfg.eps, dtype)
        if "frame" in cfg.heads:
            self.frame_head = FrameHead(cfg.num_classes, dtype)
        if "roi" in cfg.heads:
            self.roi_head = RoIHead(cfg.num_classes, cfg.roi_size, dtype)
        if "person" in cfg.heads:
            self.person_head = PersonHead(
                cfg.max_boxes, threshold=cfg.person_threshold, cells=cfg.person_cells, dtype=dtype
            )

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None):
        """Carry of ``batch`` streams; frame_shape (h, w) in pixels, default the config's."""
        rows, cols = self.config.grid(frame_shape)
        tokens = rows * cols + self.config.registers
        return _blocks(self.config, parent=None).init_carry(batch, tokens)

    def __call__(
        self,
        carry: Any,
        frames: Array,
        valid: Array | None = None,
        *,
        boxes: Array | None = None,
        box_valid: Array | None = None,
        taps: Taps = (),
    ) -> tuple[Any, ActionOutput]:
        """Runs T frames of B streams.

        Args:
          carry: what the streams remember, from :meth:`init_carry` or the last call.
          frames: [B, T, H, W, 3] floats, normalised as the model's card says, or the features of
            the stem.
          valid: [B, T] bool, False for frames that never came (they leave no trace).
          boxes: [B, T, K, 4] persons from outside, x1 y1 x2 y2 in [0, 1]; None lets the person
            head find them (without that head the whole frame is one box).
          box_valid: [B, T, K] bool, which of ``boxes`` exist; None means all.
          taps: names of intermediates to return: ``attention`` [L, B, T, H, N, N], ``hidden``
            [L, B, T, N, D], ``features`` [B, T, h, w, D], ``roi`` [B, T, K, D].

        Raises:
          ValueError: frames or carry of the wrong shape or type; unknown taps.
        """
        cfg = self.config
        width = stem_width(cfg.stem)
        check_frames(frames, cfg.patch, type(self).__name__, width)
        check_taps(taps, TAPS)
        batch, steps = frames.shape[:2]
        mapped = width and frames.shape[-1] == width
        scale = cfg.patch if mapped else 1
        size = frames.shape[2] * scale, frames.shape[3] * scale
        check_carry(carry, lambda: self.init_carry(batch, size))
        if valid is not None:
            frames = jnp.where(valid[:, :, None, None, None], frames, 0)
        rows, cols = cfg.grid(size)
        x = self._embed(frames, rows, cols)
        rope = None
        if cfg.positions == "rope":
            head = cfg.dim // cfg.heads_per_block
            rope = axial_rope(rows, cols, head, prefix=cfg.registers)
        depth_taps = tuple(t for t in taps if t in ("attention", "hidden"))
        carry, x, found = self.blocks(carry, x, valid, rope, depth_taps)
        x = self.norm(x)[:, :, cfg.registers :]
        grid = x.reshape(batch, steps, rows, cols, cfg.dim)
        if "features" in taps:
            found["features"] = grid
        out = self._answer(x, grid, boxes, box_valid, found if "roi" in taps else None)
        if valid is not None:
            out = jax.tree.map(lambda a: zero_invalid(a, valid), out)  # in its own type
        return carry, out.replace(taps=found or None)

    def _embed(self, frames: Array, rows: int, cols: int) -> Array:
        cfg = self.config
        batch, steps = frames.shape[:2]
        p = cfg.patch
        if cfg.stem:
            x = frames if frames.shape[-1] != 3 else self.stem.pyramid(frames)
        else:
            x = frames.reshape(batch, steps, rows, p, cols, p, 3).swapaxes(3, 4)
        x = self.patch_embed(x.reshape(batch, steps, rows * cols, -1))
        if cfg.positions == "learned":
            x = x + resize_table(self.pos_embed, cfg.grid(), (rows, cols)).astype(x.dtype)
        elif cfg.positions == "sincos":
            x = x + sincos_2d(rows, cols, cfg.dim).astype(x.dtype)
        if cfg.registers:
            tokens = self.register_tokens.astype(x.dtype)
            tokens = jnp.broadcast_to(tokens, (batch, steps, *tokens.shape))
            x = jnp.concatenate([tokens, x], axis=2)
        return x

    def _answer(self, x, grid, boxes, box_valid, found) -> ActionOutput:
        cfg = self.config
        batch, steps = x.shape[:2]
        flat = grid.reshape(-1, *grid.shape[2:])
        split = lambda a: a.reshape(batch, steps, *a.shape[1:])  # noqa: E731
        out = ActionOutput()
        whole = jnp.asarray([0.0, 0.0, 1.0, 1.0])
        if "frame" in cfg.heads:
            out = out.replace(logits=self.frame_head(x))
        elif cfg.frame_box and "roi" in cfg.heads:
            frame = jnp.broadcast_to(whole, (len(flat), 1, 4))
            logits, _ = self.roi_head(flat, frame, jnp.ones((len(flat), 1), bool))
            out = out.replace(logits=split(logits[:, 0]))
        if boxes is None and "person" in cfg.heads:
            persons = self.person_head(flat)
            out = out.replace(
                boxes=split(persons.boxes),
                box_valid=split(persons.valid),
                box_scores=split(persons.scores),
                person={"objectness": split(persons.objectness), "edges": split(persons.edges)},
            )
        elif boxes is not None or "roi" in cfg.heads:
            if boxes is None:
                boxes = jnp.broadcast_to(whole, (batch, steps, 1, 4))
            if boxes.ndim != 4 or boxes.shape[:2] != (batch, steps) or boxes.shape[-1] != 4:
                raise ValueError(f"boxes {boxes.shape} are not [{batch}, {steps}, K, 4]")
            if box_valid is None:
                box_valid = jnp.ones(boxes.shape[:3], bool)
            out = out.replace(
                boxes=boxes, box_valid=box_valid, box_scores=box_valid.astype(jnp.float32)
            )
        if "roi" in cfg.heads and out.boxes is not None and out.box_valid is not None:
            k = out.boxes.shape[2]
            logits, pooled = self.roi_head(
                flat, out.boxes.reshape(-1, k, 4), out.box_valid.reshape(-1, k)
            )
            out = out.replace(box_logits=split(logits))
            if found is not None:
                found["roi"] = split(pooled)
        return out
