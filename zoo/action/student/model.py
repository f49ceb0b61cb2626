"""The causal students: a per-frame ViT with a temporal mixer in chosen blocks.

TSA, DSTA and the longer-memory students are configurations of one module. Source: Patel et al.,
"Distilling Offline Action Detection Models into Real-Time Streaming Models" (WACV 2026); the
paper's text leaves shift fraction, LSTM width and placement open, so they are fields here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.gaps import zero_invalid
from ....layers.hybrid import pattern
from ....layers.mixers import Mix
from ....layers.positions import axial_rope, resize_table, sincos_2d
from ....layers.ranks import to_rank
from ....layers.streaming import Carry, DType, Fields
from ....layers.transformer import (
    BlockConfig,
    BlockStack,
    ExpertsConfig,
    Taps,
    layer_norm,
    rms_norm,
)
from ...checks import check_carry, check_frames, check_taps
from ...encode.stems import filled, make_stem, stem_stride, stem_width, two_maps
from ..decision import Decision, Known, decide, nobody
from ..heads import FrameHead, PersonHead, Persons, RoIHead
from ..outputs import ActionOutput
from ..stem_persons import StemPersonHead

Array = jax.Array

HEADS = ("frame", "roi", "person")
TAPS = ("attention", "hidden", "features", "roi", "frame")
FEEDS = {"m": "mlp", "e": "experts", "-": "none"}


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """Shapes of a causal student.

    Attributes:
      temporal: pattern of mixers, repeated over depth; ``Mix("none")`` is a plain block. A string
        is read by ``layers.hybrid``: ``"DDDA"`` is three gated delta rules and a window.
      feed: feed-forward parts, a letter per block of the pattern and repeated over it: ``m`` an
        MLP, ``e`` experts, ``-`` none.
      experts: sizes of the experts of ``feed``.
      mlp_ratio, activation, gated: hidden width of the MLP over dim, and its form (see
        ``BlockConfig``); experts are gated always.
      biases: the attention within a frame and the MLP have biases.
      norm: of the blocks and after the last, ``layer`` or ``rms``.
      mix_norm: norm in front of residual mixers, ``layer`` or ``rms``.
      positions: ``learned``, ``sincos`` (fixed) or ``rope`` (axial, at every attention).
      stem: a pretrained encoder (``encode.stems``) whose features are the tokens; then ``patch`` is
        its stride, and frames may be given as such features [B, T, h, w, F].
      person_cells: cells per token and axis in which the person head looks for centres.
      person_stem: the person head reads the maps of the stem instead of the tokens, twice as fine.
      registers: extra tokens per frame that belong to no patch.
      heads: any of ``frame`` (classes of the whole frame), ``roi`` (classes of each box) and
        ``person`` (finds the boxes when none are given).
      frame_box: without a ``frame`` head, the RoI head on the whole frame gives its classes: for
        models that learned from whole frames as boxes.
      max_boxes: boxes found per frame, a static number; unused slots are marked invalid.
      decision: which answers are known (``action.decision``); None: it does not say. With it the
        carry is a pair, what the blocks remember and what is known.
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
    feed: str = "m"
    experts: ExpertsConfig | None = None
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    gated: bool = False
    biases: bool = True
    norm: str = "layer"
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
    person_stem: bool = False
    eps: float = 1e-6
    dtype: DType = "float32"
    unroll: int = 1
    decision: Decision | None = None

    def __post_init__(self):
        if isinstance(self.decision, Mapping):  # read from JSON, which has no tuples
            told: Fields = dict(self.decision)
            told |= {name: tuple(v) for name, v in told.items() if isinstance(v, list)}
            object.__setattr__(self, "decision", Decision(**told))
        if isinstance(self.experts, Mapping):
            object.__setattr__(self, "experts", ExpertsConfig(**self.experts))
        if not self.feed or set(self.feed) - set(FEEDS) or "e" in self.feed and not self.experts:
            raise ValueError(f"feed {self.feed!r}: letters of {FEEDS}; e wants experts")
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
        if self.person_stem and self.stem != "efficientnet-lite0":
            raise ValueError(f"person_stem reads two maps of efficientnet-lite0, not {self.stem!r}")
        for side in self.image_size:
            if side % self.patch:
                raise ValueError(f"image size {self.image_size}: not a multiple of {self.patch}")

    def grid(self, frame_shape: tuple[int, int] | None = None) -> tuple[int, int]:
        height, width = frame_shape or self.image_size
        return -(-height // self.patch), -(-width // self.patch)


def _blocks(cfg: StudentConfig, **module: Any) -> BlockStack:
    block = BlockConfig(
        dim=cfg.dim,
        heads=cfg.heads_per_block,
        biased="qkv" if cfg.biases else "",
        out_bias=cfg.biases,
        mlp_bias=cfg.biases,
        mlp_ratio=cfg.mlp_ratio,
        activation=cfg.activation,
        gated=cfg.gated,
        experts=cfg.experts,
        norm=cfg.norm,
        eps=cfg.eps,
        layer_scale=cfg.layer_scale,
        mix_norm=cfg.mix_norm,
        dtype=cfg.dtype,
    )
    feeds = tuple(FEEDS[letter] for letter in cfg.feed)
    return BlockStack(block, cfg.depth, cfg.temporal, cfg.unroll, feeds, **module)


class CausalViT(nn.Module):
    """One frame in, one answer out, with a carry of constant size.

    ``model.init_carry(batch)`` needs no parameters. ``model.apply(params, carry, frames)`` takes
    frames [B, T, H, W, 3] (normalised floats), any T >= 1: a clip is a large T, a live stream is
    T = 1, and both give the same numbers.
    """

    config: StudentConfig
    latency = 0
    task = "action"
    cross_stream = False
    inputs = ("frames",)

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
        self.norm = (rms_norm if cfg.norm == "rms" else layer_norm)(cfg.eps, dtype)
        if "frame" in cfg.heads:
            self.frame_head = FrameHead(cfg.num_classes, dtype)
        if "roi" in cfg.heads:
            self.roi_head = RoIHead(cfg.num_classes, cfg.roi_size, dtype)
        if "person" in cfg.heads:
            how: Fields = dict(threshold=cfg.person_threshold, cells=cfg.person_cells, dtype=dtype)
            kind: Any = StemPersonHead if cfg.person_stem else PersonHead
            self.person_head = kind(boxes=cfg.max_boxes, **how)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None):
        """Carry of ``batch`` streams; frame_shape (h, w) in pixels, default the config's."""
        rows, cols = self.config.grid(frame_shape)
        tokens = rows * cols + self.config.registers
        memory = _blocks(self.config, parent=None).init_carry(batch, tokens)
        return memory if self.config.decision is None else (memory, self._undecided(batch))

    @nn.nowrap
    def _undecided(self, batch: int) -> tuple[Known, ...]:
        """Nothing is known: of the frame, where it has classes, and of the persons."""
        cfg = self.config
        frame = ("frame" in cfg.heads or cfg.frame_box) * (1,)
        persons = ("roi" in cfg.heads) * (cfg.max_boxes,)
        return tuple(nobody(batch, slots, cfg.num_classes) for slots in frame + persons)

    def __call__(
        self,
        carry: Carry,
        frames: Array,
        valid: Array | None = None,
        *,
        boxes: Array | None = None,
        box_valid: Array | None = None,
        taps: Taps = (),
    ) -> tuple[Carry, ActionOutput]:
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
            [L, B, T, N, D], ``features`` [B, T, h, w, D], ``roi`` [B, T, K, D], ``frame``
            [B, T, D], of which the classes of the whole frame are told.

        Raises:
          ValueError: frames or carry of the wrong shape or type; unknown taps.
        """
        cfg = self.config
        width = stem_width(cfg.stem)
        frames = filled(frames, cfg.stem)
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
        if cfg.stem and not mapped:
            frames = self.stem.pyramid(frames)
        x = self._embed(frames, rows, cols)
        rope = None
        if cfg.positions == "rope":
            head = cfg.dim // cfg.heads_per_block
            rope = axial_rope(rows, cols, head, prefix=cfg.registers)
        depth_taps = tuple(t for t in taps if t in ("attention", "hidden"))
        memory, decided = (carry, ()) if cfg.decision is None else carry
        memory, x, found = self.blocks(memory, x, valid, rope, depth_taps)
        x = self.norm(x)[:, :, cfg.registers :]
        grid = x.reshape(batch, steps, rows, cols, cfg.dim)
        if "features" in taps:
            found["features"] = grid
        pooled: dict[str, Array] = {}
        out = self._answer(x, grid, boxes, box_valid, pooled, frames)
        found |= {name: seen for name, seen in pooled.items() if name in taps}
        carry = memory
        if cfg.decision is not None:
            decided, out = self._decide(cfg.decision, decided, out, pooled, valid)
            carry = (memory, decided)
        if valid is not None:
            out = jax.tree.map(lambda a: zero_invalid(a, valid), out)  # in its own type
        return carry, out.replace(taps=found or None)

    def _decide(
        self,
        decision: Decision,
        state: tuple[Known, ...],
        out: ActionOutput,
        pooled: dict[str, Array],
        valid: Array | None,
    ) -> tuple[tuple[Known, ...], ActionOutput]:
        """Calibrated logits, and which classes are known."""
        states, left = [], list(state)
        if out.logits is not None:
            logits = out.logits / decision.temperature
            there = jnp.ones((*logits.shape[:2], 1), bool)
            whole = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 1.0, 1.0]), (*there.shape, 4))
            scores = decision.scores(logits, pooled["frame"])[:, :, None]
            one, known = decide(decision, left.pop(0), scores, whole, there, valid)
            states.append(one)
            out = out.replace(logits=logits, known=known[:, :, 0])
        if out.box_logits is not None and out.boxes is not None and out.box_valid is not None:
            logits = out.box_logits / decision.temperature
            scores = decision.scores(logits, pooled["roi"])
            one, known = decide(decision, left.pop(0), scores, out.boxes, out.box_valid, valid)
            states.append(one)
            out = out.replace(box_logits=logits, box_known=known)
        return (*states, *left), out

    def _embed(self, frames: Array, rows: int, cols: int) -> Array:
        cfg = self.config
        batch, steps = frames.shape[:2]
        p = cfg.patch
        x = frames
        if not cfg.stem:
            x = frames.reshape(batch, steps, rows, p, cols, p, 3).swapaxes(3, 4)
        x = self.patch_embed(x.reshape(batch, steps, rows * cols, -1))
        if cfg.positions == "learned":
            table = resize_table(self.pos_embed, cfg.grid(), (rows, cols))
            x = x + to_rank(table.astype(x.dtype), x)
        elif cfg.positions == "sincos":
            x = x + to_rank(jnp.asarray(sincos_2d(rows, cols, cfg.dim), x.dtype), x)
        if cfg.registers:
            tokens = self.register_tokens.astype(x.dtype)
            tokens = jnp.broadcast_to(tokens, (batch, steps, *tokens.shape))
            x = jnp.concatenate([tokens, x], axis=2)
        return x

    def find(self, grid: Array, stem: Array) -> Persons:
        """The persons of M frames, of tokens [M, h, w, D] or of the stem's features [M, h, w, F]:
        whichever the head reads."""
        if self.config.person_stem:
            return self.person_head(*two_maps(stem, self.config.stem))
        return self.person_head(grid)

    def _answer(self, x, grid, boxes, box_valid, pooled, stem) -> ActionOutput:
        cfg = self.config
        batch, steps = x.shape[:2]
        flat = grid.reshape(-1, *grid.shape[2:])
        split = lambda a: a.reshape(batch, steps, *a.shape[1:])
        out = ActionOutput()
        whole = jnp.asarray([0.0, 0.0, 1.0, 1.0], jnp.float32)
        if "frame" in cfg.heads:
            out = out.replace(logits=self.frame_head(x))
            pooled["frame"] = x.mean(axis=2)
        elif cfg.frame_box and "roi" in cfg.heads:
            frame = jnp.broadcast_to(whole, (flat.shape[0], 1, 4))
            logits, seen = self.roi_head(flat, frame, jnp.ones((flat.shape[0], 1), bool))
            out = out.replace(logits=split(logits[:, 0]))
            pooled["frame"] = split(seen[:, 0])
        if boxes is None and "person" in cfg.heads:
            persons = self.find(flat, stem.reshape(-1, *stem.shape[2:]))
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
            logits, seen = self.roi_head(
                flat, out.boxes.reshape(-1, k, 4), out.box_valid.reshape(-1, k)
            )
            out = out.replace(box_logits=split(logits))
            pooled["roi"] = split(seen)
        return out
