"""Motion tracks as a condition of generated frames: who is where, as channels beside the latents.

After Shin et al., "MotionStream" (arXiv 2511.01266). A track has a number, drawn anew for every
clip so that it means nothing but itself; where it is seen, the cell has the sines and cosines of
that number. No code of it was published: the wavelengths, and that tracks in one cell add up, are
ours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..streaming import Array

LARGEST = 10_000.0  # of the wavelengths, as of a transformer's positions


def track_channels(
    points: Array, visible: Array, numbers: Array, grid: tuple[int, int], width: int, shrink: int
) -> Array:
    """Channels of a control.

    Args:
      points: [B, F, N, 2] float, (x, y) of N tracks in pixels.
      visible: [B, F, N] bool.
      numbers: [B, N] int32, of the tracks.
      grid: cells (height, width) of a latent.
      width: channels, an even number.
      shrink: pixels a side of a cell.

    Returns:
      [B, F, height, width of the grid, channels]; zeros where no track is seen.

    Raises:
      ValueError: an odd width.
    """
    if width < 2 or width % 2:
        raise ValueError(f"{width} channels of tracks: as many sines as cosines")
    half = width // 2
    rates = (LARGEST ** (-np.arange(half) / half)).astype(np.float32)
    angle = numbers.astype(jnp.float32)[..., None] * rates[None, None]
    name = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)  # [B, N, width]
    height, across = grid
    cell = jnp.floor(points / shrink).astype(jnp.int32)
    x, y = cell[..., 0], cell[..., 1]
    inside = visible & (x >= 0) & (x < across) & (y >= 0) & (y < height)
    place = jnp.where(inside, y * across + x, height * across)  # the last for who is not seen

    def frame(name: Array, place: Array) -> Array:
        empty = jnp.zeros((height * across + 1, width), jnp.float32)
        return empty.at[place].add(name)[:-1]

    cells = jax.vmap(jax.vmap(frame, in_axes=(None, 0)))(name, place)
    return cells.reshape(*place.shape[:2], height, across, width)
