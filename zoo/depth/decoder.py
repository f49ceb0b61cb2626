"""The decoder of dense prediction transformers: tokens of four layers become one map.

Each layer's tokens are a map of its own resolution (4, 2, 1 and 1/2 cells per patch); from the
deepest on, maps are fused and enlarged.

Source: Ranftl, Bochkovskiy, Koltun, "Vision Transformers for Dense Prediction" (arXiv 2103.13413),
section 3; the order of operations is that of its published code and of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...layers.positions import resample_table, resize_matrix
from ...layers.ranks import to_rank
from ...layers.streaming import DType, Fields

Array = jax.Array
FACTORS = (4, 2, 1, 0.5)  # cells per patch, from the first layer that is read to the last


def corner_matrix(old: int, new: int) -> np.ndarray:
    """Linear resampling along one axis whose first and last samples stay (align_corners): numpy
    [new, old], rows add up to 1."""
    at = np.arange(new) * (old - 1) / max(new - 1, 1)
    first = np.minimum(np.floor(at).astype(int), max(old - 2, 0))
    weights = np.zeros((new, old))
    weights[np.arange(new), first] = 1 - (at - first)
    weights[np.arange(new), np.minimum(first + 1, old - 1)] += at - first
    return weights


def resize_corners(x: Array, size: Sequence[int]) -> Array:
    """Maps [..., h, w, C] -> [..., *size, C], bilinear, corners on corners, in x's type."""
    old = x.shape[-3:-1]
    if old == tuple(size):
        return x
    return resample_table(x, *map(corner_matrix, old, size)).astype(x.dtype)


def resize_linear(x: Array, size: Sequence[int]) -> Array:
    """Maps [..., h, w, C] -> [..., *size, C], bilinear, pixel centres at halves, in x's type."""
    old = x.shape[-3:-1]
    if old == tuple(size):
        return x
    pair = (resize_matrix(o, n, "bilinear") for o, n in zip(old, size, strict=True))
    return resample_table(x, *pair).astype(x.dtype)


class Enlarge(nn.Module):
    """A transposed convolution whose stride is its size: every cell becomes factor x factor."""

    dim: int
    factor: int
    dtype: DType = jnp.float32

    def setup(self):
        f, init = self.factor, nn.initializers.lecun_normal()
        self.kernel = self.param("kernel", init, (f, f, self.dim, self.dim))
        self.bias = self.param("bias", nn.initializers.zeros, (self.dim,))

    def __call__(self, x: Array) -> Array:
        """x [M, h, w, C] -> [M, f h, f w, C]."""
        m, h, w, c = x.shape
        y = jnp.einsum("mhwi,abio->mhawbo", x, self.kernel.astype(self.dtype))
        y = y.reshape(m, h * self.factor, w * self.factor, c)
        return y + to_rank(self.bias.astype(self.dtype), y)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))). ``rectified``: relu(x) + ..., which is what the published code
    of VGGT computes, as it rectifies in place."""

    dim: int
    rectified: bool = False
    dtype: DType = jnp.float32

    def setup(self):
        self.conv1 = nn.Conv(self.dim, (3, 3), padding=1, dtype=self.dtype)
        self.conv2 = nn.Conv(self.dim, (3, 3), padding=1, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        positive = nn.relu(x)
        change = self.conv2(nn.relu(self.conv1(positive)))
        return (positive if self.rectified else x) + change


class Fuse(nn.Module):
    """Adds a finer map to what comes from below and enlarges the sum. ``merges``: there is one."""

    dim: int
    merges: bool
    rectified: bool = False
    dtype: DType = jnp.float32

    def setup(self):
        if self.merges:
            self.unit1 = ResidualUnit(self.dim, self.rectified, self.dtype)
        self.unit2 = ResidualUnit(self.dim, self.rectified, self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(self, x: Array, fine: Array | None, size: Sequence[int] | None) -> Array:
        """x [M, h, w, C], fine [M, h', w', C] or None -> [M, *size, C]; None doubles the sides."""
        if self.merges and fine is not None:
            # where an odd side was halved and doubled again, the finer map follows the coarser
            x = x + self.unit1(resize_linear(fine, x.shape[1:3]))
        x = self.unit2(x)
        return self.out(resize_corners(x, size or (2 * x.shape[1], 2 * x.shape[2])))


class Neck(nn.Module):
    """Maps of four layers -> one map.

    Attributes:
      widths: channels of each layer's map.
      fused: channels of the answer.
      doubles: enlarge by 2 at each step (DPT); otherwise to the sides of the next map.
      crops: of what was doubled keep the sides of the next map, from the first corner on (DUSt3R).
      rectified: see :class:`ResidualUnit`.
    """

    widths: tuple[int, ...]
    fused: int
    doubles: bool = False
    rectified: bool = False
    dtype: DType = jnp.float32
    crops: bool = False

    def setup(self):
        kind: Fields = {"dtype": self.dtype}
        for i, (width, factor) in enumerate(zip(self.widths, FACTORS, strict=True)):
            setattr(self, f"project{i}", nn.Dense(width, **kind))
            if factor > 1:
                setattr(self, f"resize{i}", Enlarge(width, int(factor), **kind))
            elif factor < 1:
                down = nn.Conv(width, (3, 3), strides=2, padding=1, **kind)
                setattr(self, f"resize{i}", down)
            narrow = nn.Conv(self.fused, (3, 3), padding=1, use_bias=False, **kind)
            setattr(self, f"narrow{i}", narrow)
            # the deepest layer comes first and has nothing to be merged with
            setattr(self, f"fuse{i}", Fuse(self.fused, i > 0, self.rectified, **kind))

    def __call__(self, maps: Sequence[Array], places: Sequence[Array] | None = None) -> Array:
        """Fuses.

        Args:
          maps: for each layer [M, h, w, D], the first one read first.
          places: for each layer what is added to its projected map, [h, w, width], or None.

        Returns:
          [M, 8 h, 8 w, fused].
        """
        found = []
        for i, x in enumerate(maps):
            x = getattr(self, f"project{i}")(x)
            if places is not None:
                x = x + to_rank(places[i].astype(x.dtype), x)
            if FACTORS[i] != 1:
                x = getattr(self, f"resize{i}")(x)
            found.append(getattr(self, f"narrow{i}")(x))
        found.reverse()
        x = found[0]
        for i, fine in enumerate(found):
            after = found[i + 1].shape[1:3] if i + 1 < len(found) else None
            size = None if self.doubles else after
            x = getattr(self, f"fuse{i}")(x, fine if i else None, size)
            if self.crops and after is not None:
                x = x[:, : after[0], : after[1]]
        return x
