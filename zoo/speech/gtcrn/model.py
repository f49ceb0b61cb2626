"""GTCRN: speech without its noise, by 23.7 thousand parameters.

Source: Rong et al., "GTCRN: A Speech Enhancement Model Requiring Ultralow Computational Resources"
(ICASSP 2024), Xiaobin-Rong/gtcrn (MIT). A spectrum of 257 bins, of which the upper 192 become 64
bands, goes through an encoder of grouped convolutions, two recurrent blocks (over bins, then over
time) and a mirrored decoder; what comes out is a complex mask.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.conv_time import keep_last
from ....layers.gaps import compact, scatter
from ....layers.gru import GRU, side_by_side
from ....layers.ranks import to_rank
from ....layers.signal.spectrum import Resynthesis, hann, irfft, rfft
from ....layers.streaming import Array, Carry
from ...ranges import Checked, Count
from ..enhancer import Enhancer


@dataclasses.dataclass(frozen=True)
class GTCRNConfig(Checked):
    """Shapes of a GTCRN.

    Attributes:
      size: samples of a frame, two of which overlap by half.
      low, bands: bins that stay as they are, and bands that the others become.
      width: channels, in two groups.
      dilations: frames between the three taps of the encoder's last blocks.
    """

    size: Count = 512
    low: Count = 65
    bands: Count = 64
    width: Count = 16
    dilations: tuple[Count, ...] = (1, 2, 5)

    def __post_init__(self):
        super().__post_init__()
        if (self.low + self.bands) % 4 != 1 or self.low + self.bands > self.bins:
            raise ValueError(
                f"GTCRN: low {self.low} and bands {self.bands} should be {self.bins} together at"
                " most, one more than a multiple of 4: they are halved twice, and doubled"
            )

    @property
    def hop(self) -> int:
        return self.size // 2

    @property
    def bins(self) -> int:
        return self.size // 2 + 1

    @property
    def narrow(self) -> int:
        """Bins of the innermost maps: halved twice."""
        once = -(-(self.low + self.bands) // 2)
        return -(-once // 2)


def neighbours(x: Array) -> Array:
    """[..., F, C] -> [..., F, 3 C]: each channel beside itself one bin lower and higher."""
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
    parts = [padded[..., i : i + x.shape[-2], :] for i in range(3)]
    return jnp.stack(parts, axis=-1).reshape(*x.shape[:-1], -1)


class Across(nn.Module):
    """Convolution over bins, 5 wide: every second one, or with ``up`` two for every one."""

    inside: int
    width: int
    groups: int = 1
    up: bool = False
    last: bool = False

    def setup(self):
        shape = (5, self.inside // self.groups, self.width)
        self.kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))
        if not self.last:
            self.slope = self.param("slope", nn.initializers.constant(0.25), ())

    def __call__(self, x: Array) -> Array:
        """[B, T, F, C] -> [B, T, F', width]."""
        kernel, half = self._whole(), x.shape[2]
        zeros = lambda n: [(0, 0), (0, 0), (n, n), (0, 0)]
        # as products of windows: XLA on a CPU has no fast convolution with groups or holes
        if self.up:
            padded = jnp.pad(x, zeros(1))
            even = _taps(padded, kernel[0::2], half)
            odd = _taps(x, kernel[1::2], half - 1)
            odd = jnp.pad(odd, ((0, 0), (0, 0), (0, 1), (0, 0)))
            y = jnp.stack([even, odd], axis=3)
            y = y.reshape(*x.shape[:2], 2 * half, self.width)[:, :, :-1]
        else:
            y = _taps(jnp.pad(x, zeros(2)), kernel, -(-half // 2), 2)
        y = y + to_rank(self.bias, y)
        return jnp.tanh(y) if self.last else leaky(y, self.slope)

    def _whole(self) -> Array:
        """The kernel without groups, [5, inside, width]: zeros from one group to another."""
        parts = jnp.split(self.kernel, self.groups, axis=2)
        width = self.width // self.groups
        rows = [
            jnp.pad(part, ((0, 0), (0, 0), (i * width, self.width - (i + 1) * width)))
            for i, part in enumerate(parts)
        ]
        return jnp.concatenate(rows, axis=1)


def _taps(x: Array, kernel: Array, count: int, stride: int = 1) -> Array:
    """Windows of x [B, T, F, C] with a kernel [K, C, W] -> [B, T, count, W], every ``stride``."""
    last = stride * (count - 1) + 1
    parts = [x[:, :, i : i + last : stride] for i in range(len(kernel))]
    return jnp.concatenate(parts, axis=-1) @ kernel.reshape(-1, kernel.shape[2])


def leaky(x: Array, slope: Array) -> Array:
    """PReLU."""
    return jnp.where(x >= 0, x, slope * x)


class Grouped(nn.Module):
    """Half of the channels through a convolution over time and bins, weighed by a GRU of their
    power; then both halves shuffled. Carry: the convolution's last frames, the GRU's state."""

    config: GTCRNConfig
    dilation: int

    def setup(self):
        width = self.config.width
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.point1, self.point2 = nn.Dense(width), nn.Dense(width // 2)
        self.depth_kernel = self.param("depth_kernel", init, (3, 3, width))
        self.depth_bias = self.param("depth_bias", zeros, (width,))
        slope = nn.initializers.constant(0.25)
        self.slope1, self.slope2 = (self.param(f"slope{i}", slope, ()) for i in (1, 2))
        self.power = GRU(width)
        self.weigh = nn.Dense(width // 2)

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Array]:
        cfg = self.config
        tail = jnp.zeros((batch, 2 * self.dilation, cfg.narrow, cfg.width), jnp.float32)
        return {"tail": tail, "power": GRU(cfg.width, parent=None).init_carry(batch, 1)}

    def __call__(self, carry: dict[str, Array], x: Array, fresh: Array, here: Array):
        """x [B, T, F, C], of which the first fresh[b] frames are there (``here``)."""
        moving, still = jnp.split(x, 2, axis=-1)
        h = leaky(self.point1(neighbours(moving)), self.slope1)
        history = jnp.concatenate([carry["tail"], h], axis=1)
        padded = jnp.pad(history, ((0, 0), (0, 0), (1, 1), (0, 0)))
        steps, bins, y = x.shape[1], x.shape[2], to_rank(self.depth_bias, x)
        for i in range(3):
            for j in range(3):
                at = i * self.dilation
                tap = to_rank(self.depth_kernel[i, j], x)
                y = y + padded[:, at : at + steps, j : j + bins] * tap
        h = self.point2(leaky(y, self.slope2))
        state, power = self.power(carry["power"], (h**2).mean(axis=2, keepdims=True), here)
        h = h * nn.sigmoid(self.weigh(power))
        after = {"tail": keep_last(history, carry["tail"], fresh), "power": state}
        return after, jnp.stack([h, still], axis=-1).reshape(x.shape)


class DualPath(nn.Module):
    """GRUs over the bins of a frame, both ways, then over time in every bin; two groups each."""

    config: GTCRNConfig

    def setup(self):
        width, bins = self.config.width, self.config.narrow
        for name, hidden in (("up", width // 4), ("down", width // 4), ("time", width // 2)):
            setattr(self, name, [GRU(hidden) for _ in range(2)])
        self.intra, self.inter = nn.Dense(width), nn.Dense(width)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        for name in ("intra", "inter"):
            shape = (bins, width)
            setattr(self, f"{name}_scale", self.param(f"{name}_scale", ones, shape))
            setattr(self, f"{name}_shift", self.param(f"{name}_shift", zeros, shape))

    @nn.nowrap
    def init_carry(self, batch: int) -> tuple[Array, Array]:
        """One state per group and bin: two buffers."""
        gru = GRU(self.config.width // 2, parent=None)
        first, second = (gru.init_carry(batch, self.config.narrow) for _ in range(2))
        return first, second

    def __call__(self, carry: tuple[Array, Array], x: Array, here: Array):
        """x [B, T, F, C] -> the same."""
        flat = x.reshape(-1, x.shape[2], 1, x.shape[3])
        first, second = jnp.split(flat, 2, axis=-1)
        grus = (self.up[0], self.down[0], self.up[1], self.down[1])
        parts = side_by_side(grus, (first, first, second, second), (False, True) * 2)
        y = self.intra(jnp.concatenate(parts, axis=-1)).reshape(x.shape)
        x = x + norm(y, self.intra_scale, self.intra_shift)
        pairs = zip(self.time, carry, jnp.split(x, 2, axis=-1), strict=True)
        (first, a), (second, b) = (gru(state, part, here) for gru, state, part in pairs)
        y = self.inter(jnp.concatenate([a, b], axis=-1))
        return (first, second), x + norm(y, self.inter_scale, self.inter_shift)


def norm(x: Array, scale: Array, shift: Array) -> Array:
    """Layer norm over bins and channels, [B, T, F, C]."""
    x = x - x.mean(axis=(2, 3), keepdims=True)
    x = x * jax.lax.rsqrt((x**2).mean(axis=(2, 3), keepdims=True) + 1e-8)
    return x * to_rank(scale, x) + to_rank(shift, x)


class Mask(nn.Module):
    """The network of frames: [B, F, size] samples -> the same without noise."""

    config: GTCRNConfig

    def setup(self):
        cfg = self.config
        init = nn.initializers.lecun_normal()
        high = cfg.bins - cfg.low
        self.to_bands = self.param("to_bands", init, (high, cfg.bands))
        self.to_bins = self.param("to_bins", init, (cfg.bands, high))
        wide = cfg.width
        self.shrink = [Across(9, wide), Across(wide, wide, 2)]
        self.encode = [Grouped(cfg, d) for d in cfg.dilations]
        self.middle = [DualPath(cfg), DualPath(cfg)]
        self.decode = [Grouped(cfg, d) for d in cfg.dilations[::-1]]
        self.grow = [Across(wide, wide, 2, up=True), Across(wide, 2, up=True, last=True)]

    @nn.nowrap
    def init_carry(self, batch: int) -> Carry:
        cfg = self.config
        blocks = lambda dilations: tuple(
            Grouped(cfg, d, parent=None).init_carry(batch) for d in dilations
        )
        middle = tuple(DualPath(cfg, parent=None).init_carry(batch) for _ in range(2))
        return {
            "encode": blocks(cfg.dilations),
            "middle": middle,
            "decode": blocks(cfg.dilations[::-1]),
        }

    def __call__(self, carry: dict[str, Carry], frames: Array, valid: Array):
        window = np.sqrt(hann(self.config.size))
        carry, spectrum = self.enhance(carry, rfft(window)(frames), valid)
        return carry, irfft(spectrum, window)

    def enhance(self, carry: dict[str, Carry], spectrum: Array, valid: Array):
        """Spectra [B, F, bins, 2] (real, imaginary) -> (carry, the same without noise)."""
        low = self.config.low
        dense = compact(spectrum, valid)
        here = jnp.arange(valid.shape[1])[None] < dense.fresh[:, None]
        size = jnp.sqrt((dense.x**2).sum(axis=-1, keepdims=True) + 1e-12)
        x = jnp.concatenate([size, dense.x], axis=-1)
        high = jnp.einsum("btfc,fg->btgc", x[:, :, low:], self.to_bands)
        x = neighbours(jnp.concatenate([x[:, :, :low], high], axis=2))
        seen, after = [], {name: [] for name in carry}
        for layer in self.shrink:
            x = layer(x)
            seen.append(x)
        for layer, state in zip(self.encode, carry["encode"], strict=True):
            state, x = layer(state, x, dense.fresh, here)
            after["encode"].append(state)
            seen.append(x)
        for layer, state in zip(self.middle, carry["middle"], strict=True):
            state, x = layer(state, x, here)
            after["middle"].append(state)
        for layer, state in zip(self.decode, carry["decode"], strict=True):
            state, x = layer(state, x + seen.pop(), dense.fresh, here)
            after["decode"].append(state)
        for layer in self.grow:
            x = layer(x + seen.pop())
        high = jnp.einsum("btgc,gf->btfc", x[:, :, low:], self.to_bins)
        real, imag = jnp.moveaxis(jnp.concatenate([x[:, :, :low], high], axis=2), -1, 0)
        a, b = jnp.moveaxis(dense.x, -1, 0)
        y = jnp.stack([a * real - b * imag, b * real + a * imag], axis=-1)
        return _tuples(after), scatter(y, dense, valid)


def _tuples(carry: dict[str, list]) -> dict[str, tuple]:
    return {name: tuple(states) for name, states in carry.items()}


class GTCRN(Enhancer[GTCRNConfig]):
    """[B, T] samples -> as many without their noise; sample k comes at most 511 after it."""

    network = Mask

    def setup(self):
        cfg = self.config
        self.mask = Mask(cfg)  # a name of its own: its parameters have always had it
        self.net = Resynthesis(self.mask, cfg.size, cfg.hop)

    def enhance(self, carry: dict[str, Carry], spectrum: Array, valid: Array | None = None):
        """The network alone: spectra [B, F, 257, 2] and ``init_carry(batch)["net"]``."""
        valid = jnp.ones(spectrum.shape[:2], bool) if valid is None else valid
        return self.mask.enhance(carry, spectrum, valid)
