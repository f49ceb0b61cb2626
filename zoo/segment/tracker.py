"""Segment and track anything, frame by frame: SAM 2's video model as a stream.

Per frame: image features; per object slot either a prompt's mask, or the mask that the decoder
finds after the features have read the object's memories and pointers; then a new memory. The carry
is a :class:`~streamzoo.layers.feature_bank.Bank` of prompted frames, one of recent frames and one
of object pointers, so its size is constant. Objects come and go by prompts and ``remove``; nothing
is compiled again.

    module = create_model("sam2.1-t", objects=2)
    carry = module.init_carry(batch=1)
    carry, tracks = module.apply(variables, carry, frames, None, prompts)

Where the published video predictor keeps dictionaries that grow, here are slots: the last
``memories - 1`` tracked frames and ``max_pointers - 1`` pointers are exactly what it reads; of
prompted frames the ``prompted_slots`` latest are kept.

Axis letters: B streams, T frames, O object slots, M = B * O rows; others as in ``stream.py``.

Source: Ravi et al., "SAM 2" (arXiv 2408.00714), section 4 and appendix D.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.feature_bank import age, empty_bank
from ...layers.gaps import hold
from ...layers.ranks import to_rank
from ...layers.streaming import DType
from .decoder import DecoderConfig, MaskDecoder, Masks, MlpHead, pick
from .hiera import HieraConfig
from .memory import MemoryAttention, MemoryEncoder, sine_offsets
from .neck import sine_positions
from .perceiver import PerceiverConfig, SpatialPerceiver
from .prompt import ABSENT, NOT_A_POINT, PromptConfig, PromptEncoder, resize_masks
from .slots import forget, keep, offsets, recent_slots
from .stream import ABSENT_LOGIT, Prompts, TrackCarry, Tracks
from .stream_tracker import StreamTracker
from .trunks import Trunk, build_encoder

Array = jax.Array
Taps = tuple[str, ...]

TIE = 1e-5  # of mask logits of -10 and 10 that were resampled
TAPS = ("features", "conditioned", "pointer", "memory")


@dataclass(frozen=True)
class TrackerConfig:
    """Shapes and conventions of a tracker; the defaults are SAM 2.1 tiny's.

    image_size:      (height, width) of the frames
    trunk, top_down: image encoder, and the pyramid levels that add the level below them
    decoder, mask_channels, prompt_eps, stability: as in
                     :class:`~streamzoo.zoo.segment.segmenter.Sam2Config`
    memory_dim:      width of memory tokens
    objects, points: slots for objects, and for points of one object in one frame
    prompted_slots:  prompted frames that are remembered (the reference: all of them)
    keep_first:      the first prompted frame is never given up
    memories:        tracked frames that are read, plus one
    stride:          of those beyond the last one, in frames
    max_pointers:    pointers of tracked frames that are read, plus one
    depth, heads, inner, hidden, rope_base, pool: of the memory attention
    memory_depth, memory_hidden: blocks of the memory encoder and the width of their MLPs
    perceiver:       EdgeTAM's compressor of memories, or None
    mask_scale, mask_bias: mask probabilities on their way into a memory
    binarize:        masks of prompted frames enter memory as 0 or 1: of the prompted objects
                     ("own": the original predictors, once they go on after prompts), of all
                     objects as soon as one is prompted ("any": transformers), or of those
                     prompted by points alone ("points": one step of the original models)
    mask_memory:     a mask prompt enters memory at a quarter of its side, enlarged and cut at 0, a
                     tie outside ("low": the original predictors), or as it is ("given":
                     transformers, and one step of the original models)
    absent_memory:   a learned vector marks memories of frames without the object (2.1)
    pointer_times:   pointers carry how long ago they were (2.1)
    mask_pointer:    a mask prompt's pointer is made of the single mask's token ("single": the
                     original predictors) or of the best one's ("best": transformers)
    multimask, multimask_tracking, min_points, max_points: when the best of several masks is taken
    memory_dtype:    of memories in the carry
    dtype:           compute type; parameters are fp32
    """

    image_size: tuple[int, int] = (1024, 1024)
    trunk: Trunk = HieraConfig()
    top_down: tuple[int, ...] = (2, 3)
    decoder: DecoderConfig = DecoderConfig()
    mask_channels: int = 16
    prompt_eps: float = 1e-6
    stability: tuple[float, float] | None = (0.05, 0.98)
    memory_dim: int = 64
    objects: int = 4
    points: int = 4
    prompted_slots: int = 4
    keep_first: bool = False
    memories: int = 7
    stride: int = 1
    max_pointers: int = 16
    depth: int = 4
    heads: int = 1
    inner: int = 0
    hidden: int = 2048
    rope_base: float = 1e4
    pool: bool = False
    memory_depth: int = 2
    memory_hidden: int = 1024
    perceiver: PerceiverConfig | None = None
    mask_scale: float = 20.0
    mask_bias: float = -10.0
    binarize: Literal["own", "any", "points"] = "own"
    mask_memory: Literal["low", "given"] = "low"
    absent_memory: bool = True
    pointer_times: bool = True
    mask_pointer: Literal["single", "best"] = "single"
    multimask: bool = True
    multimask_tracking: bool = True
    min_points: int = 0
    max_points: int = 1
    memory_dtype: str = "bfloat16"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        if any(side % 16 for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: not multiples of 16")
        if self.dim % self.memory_dim:
            raise ValueError(
                f"memory_dim {self.memory_dim} does not divide dim {self.dim}: a pointer is cut"
                " into memory tokens"
            )
        for name in ("objects", "points", "prompted_slots", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1")
        if self.binarize not in ("own", "any", "points"):
            raise ValueError(f"binarize {self.binarize!r}: not 'own', 'any' or 'points'")
        if self.mask_memory not in ("low", "given"):
            raise ValueError(f"mask_memory {self.mask_memory!r}: not 'low' or 'given'")
        for name in ("memories", "max_pointers"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 2")

    @property
    def dim(self) -> int:
        """D."""
        return self.decoder.dim

    @property
    def prompt(self) -> PromptConfig:
        return PromptConfig(
            dim=self.dim,
            image_size=self.image_size,
            mask_channels=self.mask_channels,
            eps=self.prompt_eps,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the features."""
        return self.image_size[0] // 16, self.image_size[1] // 16

    @property
    def tokens(self) -> int:
        """L of a memory."""
        return self.perceiver.tokens if self.perceiver else self.grid[0] * self.grid[1]


class Tracker(StreamTracker):
    """(carry, frames [B, T, H, W, 3], valid, prompts) -> (carry, :class:`Tracks`).

    Taps: ``features``, ``conditioned`` [B, T, O, h, w, D], ``pointer`` [B, T, O, D], ``memory``
    [B, T, O, L, K].
    """

    config: TrackerConfig

    taps = TAPS

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        trunk = c.trunk
        if not isinstance(trunk, HieraConfig):
            trunk = replace(trunk, image_size=c.image_size)
        self.image_encoder = build_encoder(trunk, c.dim, c.top_down, dtype)
        self.prompt_encoder = PromptEncoder(c.prompt, dtype)
        self.mask_decoder = MaskDecoder(c.decoder, dtype)
        grid = c.perceiver.grid if c.perceiver else c.grid
        self.read = MemoryAttention(
            c.dim, c.depth, c.grid, grid, c.heads, c.inner, c.hidden, c.rope_base, c.pool, dtype
        )
        self.write = MemoryEncoder(
            c.dim, c.memory_dim, 4, c.memory_depth, c.memory_hidden, dtype=dtype
        )
        if c.perceiver:
            self.perceiver = SpatialPerceiver(c.memory_dim, c.perceiver, dtype)
        self.pointer = MlpHead(c.dim, c.dim, 3, dtype=dtype)
        if c.pointer_times:
            self.pointer_time = nn.Dense(c.memory_dim, dtype=dtype)
        self.mask_pointer = nn.Conv(1, (4, 4), 4, padding="VALID", dtype=dtype)
        small = nn.initializers.normal(0.02)
        self.no_memory = self.param("no_memory", small, (c.dim,))
        self.no_pointer = self.param("no_pointer", small, (c.dim,))
        self.times = self.param("times", small, (c.memories, c.memory_dim))
        if c.absent_memory:
            self.absent = self.param("absent", small, (c.memory_dim,))

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> TrackCarry:
        """The state of ``batch`` streams before their first frame.

        Raises ValueError for a frame shape other than the config's ``image_size``.
        """
        c = self.config
        self.check_shape(frame_shape)
        lead = (batch, c.objects)
        memory = ((c.tokens, c.memory_dim), jnp.dtype(c.memory_dtype))
        pointer = ((c.dim,), jnp.float32)
        return TrackCarry(
            frame=jnp.zeros((batch,), jnp.int32),
            active=jnp.zeros(lead, bool),
            prompted=empty_bank(lead, c.prompted_slots, {"memory": memory, "pointer": pointer}),
            recent=empty_bank(lead, recent_slots(c), {"memory": memory}),
            pointers=empty_bank(lead, c.max_pointers - 1, {"pointer": pointer}),
        )

    # --- one frame ---------------------------------------------------------------------------

    def one_frame(
        self, carry: TrackCarry, inputs: tuple[Array, Array, Prompts], taps: Taps = ()
    ) -> tuple[TrackCarry, Tracks]:
        """The body: frames [B, H, W, 3], valid [B], prompts with leaves [B, O, ...]."""
        c = self.config
        frames, valid, prompts = inputs
        old = carry
        carry = forget(carry, prompts.remove)
        pointed = prompts.pointed & ~prompts.masked
        prompted = pointed | prompts.masked
        active = carry.active | prompted

        levels = self.image_encoder(frames)
        features = levels[-1]
        skips = self.mask_decoder.project(*levels[:2]) if c.decoder.skips else None
        read = self._read(carry, features)
        for which, new in ((pointed, self.no_memory), (prompts.masked, 0.0)):
            new = to_rank(jnp.asarray(new, jnp.float32), features)
            plain = features.astype(jnp.float32) + new
            plain = plain[:, None]
            read = jnp.where(which[..., None, None, None], plain, read.astype(jnp.float32))
        masks = self._decode(prompts, pointed, prompted, read, skips)
        low, high, score, pointer = self._resolve(masks, prompts)
        shown = active[..., None, None]
        out = Tracks(
            masks=jnp.where(shown, low, ABSENT_LOGIT),
            scores=jnp.where(active, score, ABSENT_LOGIT),
            iou=jnp.where(active, jnp.where(prompts.masked, 1.0, masks.iou[:, :, 0]), 0.0),
            active=active,
        )
        hard = {
            "own": prompted,
            "any": jnp.broadcast_to(prompted.any(axis=1, keepdims=True), prompted.shape),
            "points": pointed,
        }[c.binarize]
        memory = self._memory(features, high, score, hard)
        carry = keep(c, carry, memory, pointer, active, prompted)
        carry = replace(carry, frame=carry.frame + 1, active=active)
        if taps:
            found = {
                "features": features,
                "conditioned": read,
                "pointer": pointer,
                "memory": memory.astype(jnp.float32),
            }
            out = replace(out, taps={t: found[t] for t in taps})
        return hold(carry, old, valid), out

    def _read(self, carry: TrackCarry, features: Array) -> Array:
        """features [B, h, w, D] -> conditioned on the memories of every slot: [B, O, h, w, D]."""
        c = self.config
        batch, h, w, dim = features.shape
        rows = batch * c.objects
        now = jnp.broadcast_to(carry.frame[:, None], (batch, c.objects))
        offset, fresh = offsets(c, carry.recent, now)
        memories = jnp.concatenate(
            [carry.prompted.values["memory"], carry.recent.values["memory"]], axis=2
        )
        which = jnp.concatenate([jnp.full(carry.prompted.time.shape, c.memories), offset], axis=2)
        valid = jnp.concatenate([carry.prompted.valid, fresh], axis=2)
        place = (
            self.perceiver.positions()
            if c.perceiver
            else sine_positions(c.grid, c.memory_dim).reshape(-1, c.memory_dim)
        )
        at = self.times[jnp.clip(which, 1, c.memories) - 1][..., None, :]
        at = at + to_rank(jnp.asarray(place), at)
        pointers, pointer_at, pointer_valid = self._pointers(carry, now)

        def flat(a: Array) -> Array:
            return a.reshape(rows, *a.shape[2:])

        x = jnp.broadcast_to(features[:, None], (batch, c.objects, h, w, dim))
        y = self.read(
            x.reshape(rows, h * w, dim),
            jnp.asarray(sine_positions(c.grid, c.dim).reshape(h * w, dim)),
            flat(memories),
            flat(at),
            flat(valid),
            flat(pointers),
            flat(pointer_at),
            flat(pointer_valid),
        )
        return y.reshape(batch, c.objects, h, w, dim)

    def _pointers(self, carry: TrackCarry, now: Array) -> tuple[Array, Array, Array]:
        """Pointer tokens, their positions [B, O, P, K] and validity [B, O, P]."""
        c = self.config
        pieces = c.dim // c.memory_dim
        tokens = jnp.concatenate(
            [carry.prompted.values["pointer"], carry.pointers.values["pointer"]], axis=2
        )
        ages = jnp.concatenate([age(carry.prompted, now), age(carry.pointers, now)], axis=2)
        recent = carry.pointers.valid & (age(carry.pointers, now) < c.max_pointers)
        valid = jnp.concatenate([carry.prompted.valid, recent], axis=2)
        if c.pointer_times:
            sines = sine_offsets(ages.astype(jnp.float32) / (c.max_pointers - 1), c.dim)
            at = self.pointer_time(sines)
        else:
            at = jnp.zeros((*ages.shape, c.memory_dim), jnp.float32)
        tokens = tokens.reshape(*tokens.shape[:2], -1, c.memory_dim)
        return tokens, jnp.repeat(at, pieces, axis=2), jnp.repeat(valid, pieces, axis=2)

    def _decode(
        self, prompts: Prompts, pointed: Array, prompted: Array, read: Array, skips
    ) -> Masks:
        """One mask per slot: [B, O, 1, 4h, 4w] and its quality, token and object score."""
        c = self.config
        nothing = jnp.full(prompts.labels.shape, ABSENT).at[..., 0].set(NOT_A_POINT)
        labels = jnp.where(pointed[..., None], prompts.labels, nothing)
        logits = None
        if prompts.masks is not None:
            given = prompts.masks.astype(jnp.float32)
            rows = given.reshape(-1, *c.image_size, 1)
            h, w = c.grid
            logits = self.mask_pointer(rows)[..., 0].reshape(*given.shape[:2], 4 * h, 4 * w)
        encoded = self.prompt_encoder(
            prompts.points,
            labels,
            masks=logits,
            masks_valid=None if logits is None else prompts.masked,
        )
        assert encoded.dense is not None
        # the features differ per object and the skips do not: the former go in as "dense"
        image = jnp.zeros_like(read[:, 0])
        masks = self.mask_decoder(
            image,
            self.prompt_encoder.image_positions(),
            encoded.sparse,
            encoded.valid,
            read + encoded.dense.astype(read.dtype),
            skips,
        )
        count = jnp.where(pointed, (prompts.labels >= 0).sum(axis=-1), 0)
        several = (prompted | c.multimask_tracking) & c.multimask
        several &= (count >= c.min_points) & (count <= c.max_points)
        several = jnp.where(prompts.masked, c.mask_pointer == "best", several)
        return pick(masks, several, c.stability)

    def _resolve(self, masks: Masks, prompts: Prompts) -> tuple[Array, Array, Array, Array]:
        """Mask logits [B, O, 4h, 4w] and [B, O, H, W], object score [B, O], pointer [B, O, D]."""
        c = self.config
        assert masks.object_logits is not None
        score = masks.object_logits[..., 0].astype(jnp.float32)
        seen = (score > 0)[..., None]
        low = jnp.where(seen[..., None], masks.logits[:, :, 0].astype(jnp.float32), ABSENT_LOGIT)
        shape = (*low.shape[:2], *c.image_size)
        high = jax.image.resize(low, shape, "bilinear")
        pointer = self.pointer(masks.tokens[:, :, 0]).astype(jnp.float32)
        pointer = jnp.where(seen, pointer, self.no_pointer)
        if prompts.masks is None:
            return low, high, score, pointer
        given = prompts.masks.astype(jnp.float32) * 20.0 - 10.0
        some = prompts.masks.any(axis=(-2, -1))
        mine = prompts.masked[..., None]
        small = resize_masks(given, (low.shape[-2], low.shape[-1]))
        pointer = jnp.where(mine & ~some[..., None], self.no_pointer, pointer)
        low = jnp.where(mine[..., None], small, low)
        if c.mask_memory == "low":
            given = jax.image.resize(small, given.shape, "bilinear")
            # a tie is 0 to rounding, which differs between processors
            given = jnp.where(jnp.abs(given) < TIE, 0.0, given)
        high = jnp.where(mine[..., None], given, high)
        score = jnp.where(prompts.masked, jnp.where(some, 10.0, -10.0), score)
        return low, high, score, pointer

    def _memory(self, features: Array, high: Array, score: Array, hard: Array) -> Array:
        """The memory of this frame for every slot: [B, O, L, K]; masks in ``hard`` [B, O] enter
        as 0 or 1."""
        c = self.config
        batch = features.shape[0]
        soft = jnp.where(hard[..., None, None], (high > 0).astype(high.dtype), nn.sigmoid(high))
        soft = soft * c.mask_scale + c.mask_bias
        x = jnp.broadcast_to(features[:, None], (batch, c.objects, *features.shape[1:]))
        memory = self.write(x.reshape(-1, *features.shape[1:]), soft.reshape(-1, *c.image_size))
        if c.absent_memory:
            gone = (score <= 0).reshape(-1, 1, 1, 1)
            memory = memory + jnp.where(gone, self.absent.astype(memory.dtype), 0.0)
        if c.perceiver:
            memory = self.perceiver(memory)
        return memory.reshape(batch, c.objects, c.tokens, c.memory_dim)
