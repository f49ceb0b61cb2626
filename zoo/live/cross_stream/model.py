"""Many cameras at once: an encoder, HRM across streams, TRM within each, and heads.

    model, variables = streamzoo.zoo.init_params("live-mi-lite0")
    carry = model.init_carry(8)                          # eight cameras
    carry, out = model.apply(variables, carry, frames)   # frames [8, T, H, W, 3]
    carry, out = model.apply(variables, carry, frames, active=jnp.zeros(8, bool))  # HRM off

The batch is the set of cameras that know of each other: for several sites, ``vmap`` over them, or
one batch each. The article (see ``hrm.py``) names three parts: a feature backbone projected to 256
channels, cross-stream attention every 16 frames, and recursive refinement per stream.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.gaps import hold, zero_invalid
from ....layers.streaming import Carry, DType
from ....layers.transformer import Taps, layer_norm
from ...action.heads import PersonHead, RoIHead
from ...checks import check_carry, check_frames, check_taps
from ..outputs import LiveOutput
from . import hrm, trm
from .encoder import encode, encoder_carry, encoder_stride, encoder_width, make_encoder

Array = jax.Array
TAPS = ("context", "memory", "token")


@dataclasses.dataclass(frozen=True)
class LiveConfig:
    """Shapes of a live model.

    Attributes:
      image_size: (height, width) of the frames it is meant for.
      encoder: a stem (then frames may be given as its features), an image encoder or a causal
        student, by name.
      embed: E, channels of the fused features.
      period: frames between two looks at the other streams, and over which features are averaged.
      key_dim, cross_heads: of the attention over streams.
      dim, hidden, layers, depth: of the refinement; see ``trm.Refine``.
      classes: C.
      max_boxes, person_threshold, person_cells, roi_size: of the person head and RoIAlign.
      dtype: compute type; parameters and the carry are fp32.
    """

    image_size: tuple[int, int] = (224, 224)
    encoder: str = "efficientnet-lite0"
    embed: int = 256
    period: int = 16
    key_dim: int = 128
    cross_heads: int = 2
    dim: int = 128
    hidden: int = 256
    layers: int = 1
    depth: int = 2
    classes: int = 80
    max_boxes: int = 16
    person_threshold: float = 0.3
    person_cells: int = 2
    roi_size: int = 7
    dtype: DType = "float32"

    def __post_init__(self):
        for name in ("embed", "period", "dim", "hidden", "layers", "depth", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")

    @property
    def stem(self) -> str:
        """The encoder, where it is a frozen or learned stem that training treats apart."""
        return self.encoder if encoder_width(self.encoder) else ""


@exportable
class LiveCarry(NamedTuple):
    """What the streams remember; every leaf is [B, ...]."""

    encoder: Carry  # of a causal student, else ()
    cross: hrm.HRMState
    memory: trm.TRMState


class LiveModel(nn.Module):
    """Per-frame answers of every stream, each knowing of the others.

    Streams of a batch may stand at different times and come and go: a row whose frames are not
    ``valid`` and that has seen none takes no part. Two rules follow from looking across streams:
    frames in one column of ``frames`` are taken as simultaneous, and of the slots law only this
    much holds: while ``active`` is False, a stream and the others are bit for bit independent.
    """

    config: LiveConfig
    task = "live"
    inputs = ("frames",)
    latency = 0
    cross_stream = True  # who batches streams has all of them in, and says which are ``active``

    def setup(self):
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        # "stem": training keeps a frozen one apart by that name
        if cfg.stem:
            self.stem = make_encoder(cfg.encoder, cfg.dtype)
        else:
            self.body = make_encoder(cfg.encoder, cfg.dtype)
        self.project = nn.Dense(cfg.embed, dtype=dtype)
        self.norm = layer_norm(1e-6, dtype)
        self.hrm = hrm.CrossStream(cfg.key_dim, cfg.cross_heads, dtype)
        self.trm = trm.Refine(cfg.dim, cfg.hidden, cfg.layers, cfg.depth, dtype)
        self.answer_norm = layer_norm(1e-6, dtype)
        self.frame_head = nn.Dense(cfg.classes, dtype=dtype)
        rare = nn.initializers.constant(-2.0)
        self.score_head = nn.Dense(2, bias_init=rare, dtype=dtype)
        self.next_head = nn.Dense(cfg.embed, kernel_init=nn.initializers.zeros, dtype=dtype)
        self.spread = nn.Dense(cfg.embed, dtype=dtype)
        self.person_head = PersonHead(
            cfg.max_boxes, threshold=cfg.person_threshold, cells=cfg.person_cells, dtype=dtype
        )
        self.roi_head = RoIHead(cfg.classes, cfg.roi_size, dtype)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> LiveCarry:
        """Carry of ``batch`` streams; frame_shape (h, w) in pixels, default the config's."""
        cfg = self.config
        inner = encoder_carry(cfg.encoder, batch, frame_shape or cfg.image_size)
        cross = hrm.init_state(batch, cfg.period, cfg.embed, cfg.key_dim)
        return LiveCarry(inner, cross, trm.init_state(batch, cfg.dim))

    def __call__(
        self,
        carry: LiveCarry,
        frames: Array,
        valid: Array | None = None,
        *,
        active: Array | None = None,
        boxes: Array | None = None,
        box_valid: Array | None = None,
        taps: Taps = (),
    ) -> tuple[LiveCarry, LiveOutput]:
        """Runs T frames of B streams.

        Args:
          carry: from :meth:`init_carry` or the last call.
          frames: [B, T, H, W, 3] floats, normalised as the model's card says, or the features of
            the stem.
          valid: [B, T] bool, False for frames that never came (they leave no trace; the stream's
            last token stays on the table).
          active: [B] or [B, T] bool, which streams take part in HRM; None means all that have
            seen a frame. A stream that does not take part goes on by itself, with a context of
            zeros; all False is HRM off. It is data: changing it compiles nothing.
          boxes: [B, T, K, 4] persons from outside, x1 y1 x2 y2 in [0, 1]; None finds them.
          box_valid: [B, T, K] bool, which of ``boxes`` exist; None means all.
          taps: of ``context`` [B, T, K] (what each stream holds of the others), ``memory``
            [B, T, D] (the refined state y) and ``token`` [B, T, E + D] (what a stream would show
            the others at this frame).

        Raises:
          ValueError: frames, carry, active or boxes of the wrong shape or type; unknown taps.
        """
        cfg = self.config
        width, stride = encoder_width(cfg.encoder), encoder_stride(cfg.encoder)
        check_frames(frames, stride, type(self).__name__, width)
        check_taps(taps, TAPS)
        batch, steps = frames.shape[:2]
        scale = stride if width and frames.shape[-1] == width else 1
        size = frames.shape[2] * scale, frames.shape[3] * scale
        check_carry(carry, lambda: self.init_carry(batch, size))
        live = jnp.ones((batch, steps), bool) if valid is None else valid
        linked = _over_time(active, batch, steps)

        frames = zero_invalid(frames, valid)
        module = self.stem if cfg.stem else self.body
        inner, cells = encode(module, cfg.encoder, carry.encoder, frames, valid)
        cells = self.norm(self.project(cells))
        x = zero_invalid(nn.gelu(cells).mean(axis=(2, 3)).astype(jnp.float32), valid)
        cross, memory, found = self._remember(carry, x, live, linked)
        y = found["memory"]
        out = self._answer(cells, x, y, boxes, box_valid)
        if valid is not None:
            out = jax.tree.map(lambda a: zero_invalid(a, valid), out)
        chosen = {name: zero_invalid(found[name], valid) for name in taps}
        return LiveCarry(inner, cross, memory), out.replace(taps=chosen or None)

    def _remember(self, carry: LiveCarry, x: Array, live: Array, linked: Array) -> Any:
        """x [B, T, E], live and linked [B, T] -> (HRM's and TRM's state, the taps over T)."""
        if self.is_initializing():  # makes the parameters
            tokens = hrm.token(carry.cross, carry.memory.y)
            self.trm(carry.memory, x[:, 0], self.hrm(tokens, linked[:, 0]))
        hrm_vars, trm_vars = self.hrm.variables, self.trm.variables
        cross_stream, refine = self.hrm.clone(parent=None), self.trm.clone(parent=None)
        attend: Any = lambda tokens, active: cross_stream.apply(hrm_vars, tokens, active)

        def frame(state: Carry, piece: Any) -> Any:
            cross, memory = state
            x, came, active = piece
            seen = hold(hrm.watch(cross, x), cross, came)
            shown = hrm.token(seen, memory.y)
            cross = hrm.tick(attend, seen, shown, came, active)
            context = jnp.where(active[:, None], cross.context, 0.0)
            new: Any = refine.apply(trm_vars, memory, x, context)
            memory = hold(new, memory, came)
            found = {"context": context, "memory": memory.y, "token": shown}
            return (cross, memory), found

        state = carry.cross, carry.memory
        pieces = (x, live, linked)
        if x.shape[1] == 1:
            state, out = frame(state, jax.tree.map(lambda a: a[:, 0], pieces))
            out = jax.tree.map(lambda a: a[:, None], out)
        else:
            pieces = jax.tree.map(lambda a: a.swapaxes(0, 1), pieces)
            state, out = jax.lax.scan(frame, state, pieces)
            out = jax.tree.map(lambda a: a.swapaxes(0, 1), out)
        return *state, out

    def _answer(
        self, cells: Array, x: Array, y: Array, boxes: Array | None, box_valid: Array | None
    ) -> LiveOutput:
        batch, steps = x.shape[:2]
        h = self.answer_norm(y)
        scores = self.score_head(h).astype(jnp.float32)
        event, anomaly = scores[..., 0], scores[..., 1]
        out = LiveOutput(
            logits=self.frame_head(h).astype(jnp.float32),
            event=jax.nn.sigmoid(event),
            anomaly=jax.nn.sigmoid(anomaly),
            event_logits=event,
            anomaly_logits=anomaly,
            features=x,
            next_features=x + self.next_head(h).astype(jnp.float32),
        )
        grid = nn.gelu(cells + self.spread(h)[:, :, None, None])
        flat = grid.reshape(-1, *grid.shape[2:])
        split: Any = lambda a: a.reshape(batch, steps, *a.shape[1:])
        persons = self.person_head(flat)  # its maps are there to be learned whatever is given
        raw = {"objectness": split(persons.objectness), "edges": split(persons.edges)}
        if boxes is None:
            at, there, sure = (split(a) for a in (persons.boxes, persons.valid, persons.scores))
        else:
            if boxes.ndim != 4 or boxes.shape[:2] != (batch, steps) or boxes.shape[-1] != 4:
                raise ValueError(f"boxes {boxes.shape} are not [{batch}, {steps}, K, 4]")
            at = boxes
            there = jnp.ones(boxes.shape[:3], bool) if box_valid is None else box_valid
            sure = there.astype(jnp.float32)
        k = at.shape[2]
        logits, _ = self.roi_head(flat, at.reshape(-1, k, 4), there.reshape(-1, k))
        return out.replace(
            boxes=at, box_valid=there, box_scores=sure, box_logits=split(logits), person=raw
        )


def _over_time(active: Array | None, batch: int, steps: int) -> Array:
    """[B] or [B, T] or None -> [B, T] bool."""
    if active is None:
        return jnp.ones((batch, steps), bool)
    active = jnp.asarray(active)
    if active.dtype != bool or active.shape not in ((batch,), (batch, steps)):
        raise ValueError(
            f"active is {active.dtype} {list(active.shape)} and should be bool [{batch}] or "
            f"[{batch}, {steps}]"
        )
    return jnp.broadcast_to(active.reshape(batch, -1), (batch, steps))
