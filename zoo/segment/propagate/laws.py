"""What keeps a mask on its own object: laws of a frame's masks that nobody has to learn.

- :func:`own_part`: of a mask in parts, those that are connected with where the object was stay;
- :func:`compete`: where several objects claim a cell, the surest has it.

What they take away is not remembered as the object, so that the next frames read it as background.
With ``PropagateConfig.doubt`` the parts that were left out at a point or box, other things that a
network took for the object, are remembered as such: a cell that is more like them than like the
object as it was shown is not the object's. Where they were pieces of the object itself this takes
it away, so it is off by default. After Videnovic et al., "A Distractor-Aware Memory
for Visual Object Tracking with SAM2" (arXiv 2411.17576), who remember frames with distractors.

Axis letters: B streams, O objects, h x w cells.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.ranks import to_rank

Array = jax.Array

TURNS = 48  # steps of a walk through a mask's cells, from where the object was to its farthest end
OUT = -4.0  # largest logit of what is taken away
GROWS = 2  # times ``near``, by which the place widens with every frame in which nothing was seen


@exportable
class Place(NamedTuple):
    """Where an object was: cells [B, O, h, w] bool of the last mask that was not empty, and the
    frames since then [B, O] int32."""

    cells: Array
    unseen: Array


def of(flags: Array, place: Place) -> Place:
    """The places of the objects in ``flags`` [B, O], and nowhere for the others."""
    return Place(place.cells & flags[..., None, None], jnp.where(flags, place.unseen, 0))


def widened(cells: Array, by: int) -> Array:
    """Cells [..., h, w] bool and all within ``by`` cells of them."""
    window = (*(1,) * (cells.ndim - 2), 2 * by + 1, 2 * by + 1)
    ones = (1,) * cells.ndim
    most = jax.lax.reduce_window(
        cells.astype(jnp.float32), -jnp.inf, jax.lax.max, window, ones, "SAME"
    )
    return most > 0


def joined(cells: Array, seeds: Array) -> Array:
    """The cells [..., h, w] that can be walked to from ``seeds``, over cells alone (also across
    corners), in at most ``TURNS`` steps."""

    def step(reached: Array, _: None) -> tuple[Array, None]:
        return widened(reached, 1) & cells, None

    return jax.lax.scan(step, seeds & cells, None, length=TURNS)[0]


def boxed(cells: Array, by: Array) -> Array:
    """The box around cells [B, O, h, w], wider by ``by`` [B, O] cells on each side; without cells
    there is none."""
    by = by[..., None]

    def side(some: Array) -> Array:  # [B, O, n] -> [B, O, n], between the first and the last
        at = to_rank(jnp.arange(some.shape[-1], dtype=jnp.int32), some)
        first = jnp.where(some, at, some.shape[-1]).min(-1, keepdims=True)
        last = jnp.where(some, at, -1).max(-1, keepdims=True)
        return (at >= first - by) & (at <= last + by) & some.any(-1, keepdims=True)

    rows, cols = side(cells.any(-1)), side(cells.any(-2))
    return rows[..., :, None] & cols[..., None, :]


def own_part(low: Array, place: Place, told: Array, near: int) -> tuple[Array, Place]:
    """Which parts of a mask do not belong to the track.

    Those do that are connected with cells within ``near`` of where the object was, or that a
    prompt ``told``. Where there are none it may have been fast or hidden: then the part does that
    has the surest cell in the box around its last place, which widens with every frame in which it
    is not seen.

    Args:
      low: logits [B, O, h, w].
      told: [B, O, h, w] bool, cells that a prompt points at.

    Returns:
      the cells of other parts and beside them [B, O, h, w] bool, and the place for the next frame.
    """
    cells = low > 0
    known = (place.unseen == 0)[..., None, None]
    beside = cells & (told | (widened(place.cells, near) & known))
    nowhere = ~place.cells.any((-2, -1), keepdims=True)  # a first mask, or nothing seen yet
    by = near + GROWS * near * jnp.maximum(place.unseen, 1)
    wide = cells & (boxed(place.cells, by) | nowhere)
    sure = jnp.where(wide, low, -jnp.inf)
    surest = wide & (sure == sure.max((-2, -1), keepdims=True))
    kept = joined(cells, jnp.where(beside.any((-2, -1), keepdims=True), beside, surest))
    seen = kept.any((-2, -1))
    last = jnp.where(seen[..., None, None], kept, place.cells)
    others = widened(cells & ~kept, 1) & ~widened(kept, 1)
    return others, Place(last, jnp.where(seen, 0, place.unseen + 1))


def without(logits: Array, dropped: Array) -> Array:
    """Logits [B, O, n h, n w] with what is ``dropped`` [B, O, h, w] taken away; all else, what is
    half known too, stays as it is."""
    rows = logits.shape[-2] // dropped.shape[-2]
    if rows > 1:
        dropped = jnp.repeat(jnp.repeat(dropped, rows, axis=-2), rows, axis=-1)
    return jnp.where(dropped, jnp.minimum(logits, OUT), logits)


def smooth(x: Array) -> Array:
    """Means of x [..., h, w] over 3 x 3 cells, of those there are."""
    window, ones = (*(1,) * (x.ndim - 2), 3, 3), (1,) * x.ndim
    total = lambda a: jax.lax.reduce_window(a, 0.0, jax.lax.add, window, ones, "SAME")
    return total(x) / total(jnp.ones_like(x))


def compete(logits: Array, active: Array) -> Array:
    """Logits [B, O, ...] of objects, less those of the surest other one where that says that it is
    there itself; ``active`` [B, O]: those that are tracked. One object alone is not changed."""
    count = logits.shape[1]
    if count == 1:
        return logits
    flags = active.reshape(*active.shape, *(1,) * (logits.ndim - active.ndim))
    said = jnp.maximum(jnp.where(flags, logits, 0.0), 0.0)
    rest = [jnp.delete(said, o, axis=1).max(axis=1) for o in range(count)]
    return logits - jnp.stack(rest, axis=1)
