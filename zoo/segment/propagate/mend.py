"""The network that mends masks: a few convolutions on what was handed on, the image and the hints.

Axis letters: M rows (a stream's object each), h x w cells.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.ranks import to_rank
from ....layers.streaming import DType

Array = jax.Array
SURE = 4.0  # largest logit that is handed on: what was certain may still be mended
HINTS = 5  # maps that tell of points and boxes


def unit(x: Array) -> Array:
    """x [..., C] at length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)


def halved(x: Array) -> Array:
    """Means of 2 x 2 cells: [M, H, W, C] -> [M, H / 2, W / 2, C]."""
    rows, cols = x.shape[1] // 2, x.shape[2] // 2
    cells = x[:, : 2 * rows, : 2 * cols].reshape(x.shape[0], rows, 2, cols, 2, x.shape[-1])
    return cells.mean(axis=(2, 4))


def grow(x: Array, size: tuple[int, int]) -> Array:
    """x [M, h, w, C] at another size, bilinear."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear", antialias=False)


class Conv(nn.Module):
    """A 3 x 3 convolution [M, h, w, C] -> [M, h, w, width], as one product over patches: on a CPU
    the gradient of its kernel is otherwise most of a training step."""

    width: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        h, w = x.shape[1:3]
        wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        parts = [wide[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return jnp.concatenate(parts, axis=-1) @ kernel.reshape(-1, self.width) + to_rank(bias, x)


class Mend(nn.Module):
    """What the hand-over says, the image and the hints -> mask logits at strides 8 and 4.

    All arrays are of M rows. base [M, h, w] logits; read [M, h, w, D], image [M, h, w, dim], fine
    [M, 2h, 2w, dim / 2], hints [M, h, w, HINTS]. At first it hands ``base`` on as it is.

    Returns (low [M, h, w], high [M, 2h, 2w], the cells' features [M, h, w, dim]). ``low`` is what
    the cells hand on: with what the fine map adds, but never smoothed by growing and shrinking,
    which would wash thin parts away within a few frames.
    """

    dim: int
    dtype: DType

    @nn.compact
    def __call__(
        self, base: Array, read: Array, image: Array, fine: Array, hints: Array
    ) -> tuple[Array, Array, Array]:
        def conv(width: int, name: str) -> Conv:
            return Conv(width, self.dtype, name=name)

        def nothing(name: str) -> nn.Dense:
            return nn.Dense(1, kernel_init=nn.initializers.zeros, dtype=self.dtype, name=name)

        said = base[..., None].astype(image.dtype)
        x = jnp.concatenate([image, read.astype(image.dtype), said / SURE, hints], axis=-1)
        x = nn.relu(conv(self.dim, "mix")(x))
        for i in (0, 1):
            x = x + conv(self.dim, f"back{i}")(nn.relu(conv(self.dim, f"into{i}")(nn.relu(x))))
        x = nn.relu(x)
        low = said + nothing("low")(x)
        size = fine.shape[1], fine.shape[2]
        thin = nn.Dense(fine.shape[-1], dtype=self.dtype, name="thin")
        y = fine + grow(thin(jnp.concatenate([x, low / SURE], axis=-1)), size)
        y = nn.relu(conv(fine.shape[-1], "fine")(nn.relu(y)))
        more = nothing("high")(y)
        high = grow(low, size) + more
        low = low + halved(more)
        return low[..., 0], high[..., 0], x
