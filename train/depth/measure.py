"""How well a model of inverse depth knows worlds that it has not seen. Host code.

Of every frame the best scale and shift of the inverse depth are taken out, as MiDaS's evaluation
does; flicker is of the maps as they are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Params
from ...zoo.registry import Card
from ..data.world import SKY, Shot
from ..metrics import depth_error, flicker
from ..metrics.depth import scale_and_shift
from ..tasks import prepared


def aligned_depth(inverse: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Depth in metres of an inverse depth [H, W], by the best scale and shift to ``truth``."""
    near = truth < SKY / 2
    scale, shift = scale_and_shift(inverse, 1 / truth, near)
    return 1 / np.clip(scale * inverse + shift, 1e-2, 1e2)


def errors(maps: np.ndarray, shot: Shot) -> dict[str, float]:
    """abs_rel and d1 over all pixels but the sky, of maps [T, H, W] each aligned by itself."""
    near = shot.depth < SKY / 2
    depth = np.stack([aligned_depth(m, t) for m, t in zip(maps, shot.depth, strict=True)])
    error = depth_error(depth, shot.depth, near)
    return {"abs_rel": error.abs_rel, "d1": error.d1}


def still_pixels(shot: Shot) -> np.ndarray:
    """bool [T - 1, H, W]: pixels that see the same point as in the frame before, where the camera
    does not move."""
    same = shot.surface[1:] == shot.surface[:-1]
    return same & ~shot.moving[1:] & ~shot.moving[:-1]


def answering(model: Any, variables: Params, card: Card) -> Callable[[np.ndarray], np.ndarray]:
    """A function of a film uint8 [T, H, W, 3], which goes frame by frame through the carry: maps
    [T, H, W]."""
    step = jax.jit(lambda v, c, x: model.apply(v, c, prepared(x, card)))

    def answer(frames: np.ndarray) -> np.ndarray:
        carry, found = model.init_carry(1, frames.shape[1:3]), []
        for frame in frames:
            carry, out = step(variables, carry, jnp.asarray(frame[None, None]))
            found.append(np.asarray(out.depth[0, 0]))
        return np.stack(found)

    return answer


def measured(
    model: Any, variables: Params, card: Card, films: Iterable[Shot], still: Iterable[Shot]
) -> dict[str, float]:
    """Means over films of a moving camera (abs_rel, d1), and of one that stands still, where some
    things move (flicker)."""
    answer = answering(model, variables, card)
    rows = [errors(answer(f.frames), f) for f in films]
    found = {key: float(np.mean([row[key] for row in rows])) for key in ("abs_rel", "d1")}
    maps = [(answer(f.frames), still_pixels(f)) for f in still]
    found["flicker"] = float(np.mean([flicker(m, same) for m, same in maps]))
    return found
