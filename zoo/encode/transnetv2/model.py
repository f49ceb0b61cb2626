"""TransNet V2: a 3-D convolutional network that finds the cuts between shots of a video.

Source: Soucek and Lokoc, "TransNet V2: An effective deep network architecture for fast shot
transition detection" (arXiv 2008.04838). Inference form: batch norms are folded.

The same body runs over a clip and over a stream. Every convolution over time looks ahead, so a
stream's answers are those of the clip, :attr:`TransNetV2Config.latency` frames late: for the
published network 98 (48 of the convolutions, 50 of the comparison with neighbouring frames).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from ....layers.conv_time import centred_conv, delay_line, delayed_conv, keep_last
from ....layers.exportable import exportable
from ....layers.gaps import compact, scatter
from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...checks import check_carry, check_frames, check_taps

Array = jax.Array
Taps = tuple[str, ...]

TAPS = ("stages", "similarity", "histogram")
BINS = 8  # per colour


@dataclasses.dataclass(frozen=True)
class TransNetV2Config:
    """Shapes of a TransNet V2; the defaults are the published network.

    Attributes:
      image_size: of the frames, which are always this small.
      filters: per dilation in the first stage; each further stage has twice as many.
      stages: each halves height and width at its end.
      blocks: convolutions per stage.
      dilations: in time, side by side in every convolution.
      hidden: width of the layer before the classifiers.
      window: neighbouring frames, itself among them, that a frame is compared with; odd.
      compared: width of the vectors that are compared, and of what is made of the likenesses.
      dtype: compute type; parameters are fp32.
    """

    image_size: tuple[int, int] = (27, 48)
    filters: int = 16
    stages: int = 3
    blocks: int = 2
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    hidden: int = 1024
    window: int = 101
    compared: int = 128
    dtype: DType = "float32"

    def __post_init__(self):
        if self.window % 2 == 0:
            raise ValueError(f"window {self.window}: odd, so that there is a middle")
        if min(self.image_size) < 2**self.stages:
            raise ValueError(f"frames of {self.image_size} cannot be halved {self.stages} times")

    @property
    def reach(self) -> int:
        """Frames that one convolution looks ahead."""
        return max(self.dilations)

    @property
    def latency(self) -> int:
        """Frames until an answer of a stream is final."""
        return self.stages * self.blocks * self.reach + self.window // 2


@exportable
@flax.struct.dataclass
class ShotOutput:
    """Logits of every frame; the sigmoid is the probability."""

    cut: Array  # [B, T] this frame is the middle of a transition
    many: Array  # [B, T] this frame is one of a transition's
    taps: dict[str, Array | tuple[Array, ...]] | None = None


class _Clip:
    """Time as a clip has it: all frames are there, zeros stand around them."""

    def conv(self, x: Array, kernel: Array, dilation: int, delay: int) -> Array:
        return centred_conv(x, kernel, dilation)

    def delay(self, x: Array, frames: int) -> Array:
        return x

    def real(self, x: Array, lag: int) -> Array:
        return x

    def around(self, x: Array, frames: int) -> Array:
        """[B, T, D] -> [B, frames + T + frames, D]: every frame with its neighbours."""
        return jnp.pad(x, ((0, 0), (frames, frames), (0, 0)))


class _Live:
    """Time as a stream has it: the past is kept, what lies ahead makes answers late.

    Asked the same things in the same order on every call, it hands out the kept tails one by one
    (zeros on the first call) and collects the new ones.
    """

    def __init__(self, tails: tuple[Array, ...] | None, flags: Array, fresh: Array | None):
        self.old, self.new, self.fresh = tails, [], fresh
        self.flags = flags  # [B, latency + T] which frames of the past and of now exist

    def _tail(self, x: Array, frames: int) -> Array:
        if self.old is None:
            return jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
        return self.old[len(self.new)]

    def conv(self, x: Array, kernel: Array, dilation: int, delay: int) -> Array:
        tail = self._tail(x, delay + dilation)
        tail, y = delayed_conv(tail, x, kernel, dilation, self.fresh)
        self.new.append(tail)
        return y

    def delay(self, x: Array, frames: int) -> Array:
        if not frames:
            return x
        tail, y = delay_line(self._tail(x, frames), x, self.fresh)
        self.new.append(tail)
        return y

    def real(self, x: Array, lag: int) -> Array:
        """Zeros for frames before the stream began and after it ended."""
        start = self.flags.shape[1] - x.shape[1] - lag
        mask = self.flags[:, start : start + x.shape[1]]
        return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)

    def around(self, x: Array, frames: int) -> Array:
        tail = self._tail(x, 2 * frames)
        history = jnp.concatenate([tail, x], axis=1)
        self.new.append(keep_last(history, tail, self.fresh))
        return history


class Separable(nn.Module):
    """3 x 3 filters, then three taps in time at every dilation: x [B, T, H, W, C] ->
    [B, T, H, W, dilations * filters], after a ReLU."""

    filters: int
    dilations: tuple[int, ...]
    dtype: DType

    def setup(self):
        many, width = len(self.dilations), 2 * self.filters
        self.spatial = nn.Conv(many * width, (3, 3), use_bias=False, dtype=self.dtype)
        init = nn.initializers.he_normal(in_axis=(-3, -2))
        self.temporal = self.param("temporal", init, (many, 3, width, self.filters))
        self.bias = self.param("bias", nn.initializers.zeros, (many * self.filters,))

    def __call__(self, x: Array, time: Any, lag: int) -> Array:
        """``lag``: how many frames late the output is."""
        u = self.spatial(x.reshape(-1, *x.shape[2:]))
        u = jnp.split(u.reshape(*x.shape[:2], *u.shape[1:]), len(self.dilations), axis=-1)
        delay = max(self.dilations)
        parts = zip(u, self.temporal, self.dilations, strict=True)
        y = jnp.concatenate([time.conv(p, k, d, delay) for p, k, d in parts], axis=-1)
        return time.real(nn.relu(y + to_rank(self.bias.astype(y.dtype), y)), lag)


class Stage(nn.Module):
    """Convolutions, a shortcut from the first of them, and means over 2 x 2 cells."""

    config: TransNetV2Config
    index: int

    def setup(self):
        cfg = self.config
        filters = cfg.filters * 2**self.index
        dtype = jnp.dtype(cfg.dtype)
        self.blocks = [Separable(filters, cfg.dilations, dtype) for _ in range(cfg.blocks)]

    def __call__(self, x: Array, time: Any, lag: int) -> Array:
        """``lag``: how many frames late x is."""
        reach = self.config.reach
        first = None
        for i, block in enumerate(self.blocks):
            x = block(x, time, lag + (i + 1) * reach)
            first = x if first is None else first
        x = x + time.delay(first, (len(self.blocks) - 1) * reach)
        rows, cols = x.shape[2] // 2, x.shape[3] // 2
        x = x[:, :, : 2 * rows, : 2 * cols].reshape(*x.shape[:2], rows, 2, cols, 2, -1)
        return x.mean(axis=(3, 5))


def unit(x: Array) -> Array:
    """Vectors of length 1; zeros stay zeros."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def colour_histograms(frames: Array) -> Array:
    """Counts of 8 x 8 x 8 colours, of length 1: frames [B, T, H, W, 3] in 0..1 -> [B, T, 512]."""
    level = jnp.floor(jnp.round(frames.astype(jnp.float32) * 255) / (256 // BINS)).astype(jnp.int32)
    level = jnp.clip(level, 0, BINS - 1)
    colour = (level[..., 0] * BINS + level[..., 1]) * BINS + level[..., 2]
    flat = colour.reshape(*colour.shape[:2], -1)
    count = jax.vmap(jax.vmap(lambda c: jnp.zeros(BINS**3).at[c].add(1.0)))(flat)
    return unit(count)


def neighbours(history: Array, window: int) -> Array:
    """Dot products of every frame with its neighbours: history [B, T + window - 1, D] ->
    [B, T, window], from the earliest to the latest."""
    steps = history.shape[1] - window + 1
    middle = history[:, window // 2 : window // 2 + steps]
    every = jnp.einsum("btd,bsd->bts", middle, history)
    index = jnp.arange(steps)[:, None] + jnp.arange(window)[None]
    return jnp.take_along_axis(every, index[None].repeat(history.shape[0], axis=0), axis=2)


class TransNetV2(nn.Module):
    """Shot transitions of clips; for streams see :class:`TransNetV2Stream`."""

    config: TransNetV2Config
    task = "encode"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.stages = [Stage(cfg, i) for i in range(cfg.stages)]
        self.project = nn.Dense(cfg.compared, dtype=dtype)
        self.similarity = nn.Dense(cfg.compared, dtype=dtype)
        self.histogram = nn.Dense(cfg.compared, dtype=dtype)
        self.hidden = nn.Dense(cfg.hidden, dtype=dtype)
        self.cut, self.many = nn.Dense(1, dtype=dtype), nn.Dense(1, dtype=dtype)

    def __call__(self, frames: Array, taps: Taps = ()) -> ShotOutput:
        """frames [B, T, 27, 48, 3] in 0..1, the whole clip -> logits [B, T].

        Taps: ``stages`` (tuple of [B, T, h, w, C]), ``similarity`` and ``histogram`` [B, T, D].

        Raises:
          ValueError: frames of the wrong size or type, unknown taps.
        """
        check_taps(taps, TAPS)
        _check(frames, self.config)
        return self.body(frames, _Clip(), taps)

    def body(self, frames: Array, time: Any, taps: Taps = ()) -> ShotOutput:
        """All that is computed, over a clip or over a stream."""
        cfg = self.config
        half, per_stage = cfg.window // 2, cfg.blocks * cfg.reach
        x, maps = frames.astype(cfg.dtype), []
        for i, stage in enumerate(self.stages):
            x = stage(x, time, i * per_stage)
            maps.append(x)
        lag = cfg.stages * per_stage
        later = range(cfg.stages - 1, -1, -1)
        means = [
            time.delay(m.mean(axis=(2, 3)), n * per_stage)
            for m, n in zip(maps, later, strict=False)
        ]
        vectors = unit(self.project(jnp.concatenate(means, axis=-1)).astype(jnp.float32))
        near = neighbours(time.around(time.real(vectors, lag), half), cfg.window)
        similarity = nn.relu(self.similarity(near.astype(x.dtype)))
        colours = time.around(time.real(colour_histograms(frames), 0), half)
        histogram = nn.relu(self.histogram(neighbours(colours, cfg.window).astype(x.dtype)))
        histogram = time.delay(histogram, lag)
        flat = time.delay(x.reshape(*x.shape[:2], -1), half)
        h = nn.relu(self.hidden(jnp.concatenate([histogram, similarity, flat], axis=-1)))
        cut, many = (
            time.real(layer(h)[..., 0].astype(jnp.float32), cfg.latency)
            for layer in (self.cut, self.many)
        )
        found = {"stages": tuple(maps), "similarity": similarity, "histogram": histogram}
        return ShotOutput(cut, many, {t: found[t] for t in taps} or None)


def _check(frames: Array, cfg: TransNetV2Config) -> None:
    check_frames(frames, 1, "TransNetV2")
    if frames.shape[2:4] != cfg.image_size:
        raise ValueError(
            f"TransNetV2 takes frames of {cfg.image_size[0]}x{cfg.image_size[1]} pixels, "
            f"got {frames.shape[2]}x{frames.shape[3]}; resize them first"
        )


@exportable
class ShotState(NamedTuple):
    tails: tuple[Array, ...]  # [B, n, ...] the past of every convolution and delay line
    flags: Array  # [B, latency] bool, the last frames that exist


class TransNetV2Stream(nn.Module):
    """:class:`TransNetV2` over a stream, with its parameters: the answers of the clip, ``latency``
    frames late. What comes out with frame t is about frame t - latency; the first ``latency``
    outputs are about nothing and zero, and :meth:`flush` gives the last ones."""

    config: TransNetV2Config = TransNetV2Config()
    task = "encode"
    cross_stream = False
    inputs = ("frames",)

    @property
    def latency(self) -> int:
        """Frames until an output is final."""
        return self.config.latency

    def setup(self):
        self.net = TransNetV2(self.config)
        nn.share_scope(self, self.net)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> ShotState:
        """The state of ``batch`` streams that have seen nothing; the network has one frame size."""
        cfg = self.config
        if frame_shape is not None and tuple(frame_shape) != tuple(cfg.image_size):
            raise ValueError(f"frame_shape {frame_shape}: TransNet V2 takes {cfg.image_size}")
        frames = jax.ShapeDtypeStruct((batch, 1, *cfg.image_size, 3), jnp.float32)
        flags = jnp.zeros((batch, cfg.latency), bool)

        def tails(x):
            time = _Live(None, jnp.zeros((batch, cfg.latency + 1), bool), None)
            TransNetV2(cfg, parent=None).init_with_output(jax.random.key(0), x, time, method="body")
            return tuple(time.new)

        made = jax.eval_shape(tails, frames)
        return ShotState(tuple(jnp.zeros(a.shape, a.dtype) for a in made), flags)

    def __call__(
        self, carry: ShotState, frames: Array, valid: Array | None = None
    ) -> tuple[ShotState, ShotOutput]:
        """frames [B, T, 27, 48, 3] in 0..1, valid [B, T] or None -> (carry, logits [B, T]).

        Raises:
          ValueError: frames or carry of the wrong size or type.
        """
        _check(frames, self.config)
        dense = compact(frames, valid)
        fresh = None if valid is None else dense.fresh
        real = jnp.arange(frames.shape[1]) < dense.fresh[:, None]
        carry, out = self._advance(carry, dense.x, real, fresh)
        return carry, jax.tree.map(lambda y: scatter(y, dense, valid), out)

    def flush(self, carry: ShotState) -> tuple[ShotState, ShotOutput]:
        """Ends the streams: (carry, the answers for their last ``latency`` frames)."""
        batch, steps = carry.flags.shape
        frames = jnp.zeros((batch, steps, *self.config.image_size, 3), jnp.float32)
        return self._advance(carry, frames, jnp.zeros((batch, steps), bool), None)

    def _advance(self, carry, frames, real, fresh):
        check_carry(carry, lambda: self.init_carry(frames.shape[0]))
        flags = jnp.concatenate([carry.flags, real], axis=1)
        time = _Live(carry.tails, flags, fresh)
        out = self.net.body(frames, time)
        return ShotState(tuple(time.new), keep_last(flags, carry.flags, fresh)), out
