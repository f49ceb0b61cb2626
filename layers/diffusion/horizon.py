"""Near actions first: every action of a horizon has a time of its own (FASTER).

innovator-zero/FASTER, src/openpi/models/pi0_faster.py (``compute_HAS``), at commit 851be78. The
first action of a horizon is ready after one pass of ten, the last after all. Actions that are
being carried out already (the prefix, as long as the robot's delay) are given, not made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..exportable import exportable
from ..streaming import Array


@dataclasses.dataclass(frozen=True)
class HorizonSchedule:
    """Times of single actions, from 1 (noise) to 0 (ready), out of the time of a pass.

    Attributes:
      alpha: how fast the start moves back with the distance; 1 is linear.
      start: time of a pass at which the first action is ready (``u0``).
      ready: an action whose time is below this can be carried out.
    """

    alpha: float = 0.6
    start: float = 0.9
    ready: float = 0.01

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and 0 <= self.start < 1):
            raise ValueError(f"{self}: alpha is above 0, start in 0 .. 1 without 1")

    def times(self, time: Array, horizon: int, delay: Array, given: bool = True) -> Array:
        """A pass at ``time`` [...] in 0..1 with ``delay`` [...] int32 -> float32 [..., horizon].

        ``given``: the first ``delay`` actions are there, at time 0; training draws them, too.
        """
        place = jnp.arange(horizon, dtype=jnp.int32).reshape((1,) * delay.ndim + (horizon,))
        behind = (place - delay[..., None]).astype(jnp.float32)
        room = jnp.maximum(horizon - 1 - delay, 1).astype(jnp.float32)[..., None]
        u = (1 - jnp.clip(behind / room, 0, 1) ** self.alpha) * self.start
        times = jnp.clip((jnp.asarray(time, jnp.float32)[..., None] - u) / (1 - u), 0, 1)
        return jnp.where((behind < 0) & given, jnp.zeros((), times.dtype), times)


@exportable
class Actions(NamedTuple):
    """What passes made of a horizon.

    Attributes:
      x: [steps, B, H, D], the actions after each pass.
      ready: [steps, B, H] bool, those that became ready with it; never the prefix.
    """

    x: Array
    ready: Array


def stream_actions(
    schedule: HorizonSchedule,
    flow: Callable[[Array, Array], Array],
    noise: Array,
    prefix: Array,
    delay: Array,
    steps: int = 10,
) -> Actions:
    """Actions as they become ready, pass by pass.

    Args:
      flow: (actions [B, H, D], times [B, H]) -> their flow, an action head.
      noise, prefix: [B, H, D]; the first ``delay`` actions are the prefix's throughout, at time 0.
      delay: [B] int32.
    """
    batch, horizon = noise.shape[:2]
    given = jnp.arange(horizon, dtype=jnp.int32)[None] < delay[:, None]
    at = lambda i: schedule.times(jnp.full((batch,), 1 - i / steps, jnp.float32), horizon, delay)

    def one(x, i):
        x = jnp.where(given[..., None], prefix, x)
        now, after = at(i), at(i + 1)
        # the prefix stays: its time is 0 before and after
        x = x + (after - now)[..., None].astype(x.dtype) * flow(x, now)
        return x, Actions(x, (after < schedule.ready) & (now >= schedule.ready))

    return jax.lax.scan(one, noise, jnp.arange(steps, dtype=jnp.float32))[1]
