"""Which of two things sounds: a task that neither pictures nor sound can do alone.

    python -m streamzoo.train.sounding --seed 0

In front of the wearer of a camera two things of different colours lie, left and right, and change
places. Each colour has a pitch of its own, and one after the other they sound for a moment. Asked
is on which side the one lies that sounded last: sound alone says which it was, pictures alone where
both are. After facebookresearch/EgoAVU, whose finding is that models lean on pictures; its clips
and questions are not used. Tokens of both kinds are stitched by their times (``layers/stitch.py``)
and read by a GRU. ``--without sound`` and ``--without pictures`` leave one kind out.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ..layers.streaming import Array, Params
from ..zoo.speech.sounding import FRAME_RATE, SOUND_RATE, Sounding

FRAMES, BANDS = 10, 12
COLOURS = 3
KINDS = ("pictures", "sound")


class Clips(NamedTuple):
    """pictures: [B, F, 2, 4, 3] of left and right. sound: [B, S, bands] log energies. side: [B]."""

    pictures: np.ndarray
    sound: np.ndarray
    side: np.ndarray


def clips(rng: np.random.Generator, count: int) -> Clips:
    """``count`` clips of 2 s."""
    seconds = FRAMES / FRAME_RATE
    frame_at, sound_at = np.arange(FRAMES) / FRAME_RATE, np.arange(int(seconds * SOUND_RATE))
    colour = np.stack([rng.permutation(COLOURS)[:2] for _ in range(count)])  # [B, 2] of two things
    swap = rng.uniform(0.2, seconds - 0.2, count)  # they change places once
    starts = rng.integers(0, 2, count)  # on the left at first: thing 0, or 1
    bursts = np.sort(rng.uniform(0.1, seconds - 0.2, (count, 2)), axis=1)
    first = rng.integers(0, 2, count)
    which = np.stack([first, rng.integers(0, 2, count)], axis=1)  # of each burst
    left = np.where(frame_at[None] < swap[:, None], starts[:, None], 1 - starts[:, None])
    order = np.stack([left, 1 - left], axis=-1)  # [B, F, 2] things on the left and on the right
    hue = np.eye(COLOURS)[np.take_along_axis(colour[:, None], order, axis=2)]
    pictures = np.repeat(hue[..., None, :], 4, axis=3) + 0.2 * rng.standard_normal(
        (count, FRAMES, 2, 4, COLOURS)
    )
    time = sound_at[None] / SOUND_RATE
    sound = 0.3 * rng.standard_normal((count, len(sound_at), BANDS))
    row = np.arange(count)
    for burst in range(2):
        pitch = 2 + 4 * colour[row, which[:, burst]]  # the band of its colour
        near = np.exp(-(((time - bursts[:, burst, None]) / 0.09) ** 2))
        shape = np.exp(-((np.arange(BANDS)[None] - pitch[:, None]) ** 2) / 2)
        sound += 2.5 * near[..., None] * shape[:, None]
    last = which[:, 1]
    side = np.where(left[:, -1] == last, 0, 1)
    return Clips(pictures.astype(np.float32), sound.astype(np.float32), side)


def learned(seed: int, without: str = "", steps: int = 900, batch: int = 128) -> dict[str, Any]:
    """{"accuracy" on clips that were not learned from, of the model ("right"), with the sound of
    another clip ("other_sound"), with the pictures of another ("other_pictures")}."""
    model, rng = Sounding(without=without), np.random.default_rng((seed, 0))
    some = clips(rng, 2)
    params = model.init(jax.random.key(seed), some.pictures, some.sound)
    optimiser = optax.adam(optax.cosine_decay_schedule(4e-3, steps))

    @jax.jit
    def step(params: Params, state: Any, given: Clips) -> Any:
        def loss(params: Params) -> Array:
            logits: Any = model.apply(params, given.pictures, given.sound)
            return optax.softmax_cross_entropy_with_integer_labels(logits, given.side).mean()

        change, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    state = optimiser.init(params)
    for _ in range(steps):
        params, state = step(params, state, clips(rng, batch))
    test = clips(np.random.default_rng((seed, 1)), 1024)
    apply: Any = jax.jit(model.apply)

    def right(pictures: np.ndarray, sound: np.ndarray) -> float:
        return float((np.asarray(apply(params, pictures, sound)).argmax(-1) == test.side).mean())

    return {
        "seed": seed, "without": without, "right": right(test.pictures, test.sound),
        "other_sound": right(test.pictures, np.roll(test.sound, 1, axis=0)),
        "other_pictures": right(np.roll(test.pictures, 1, axis=0), test.sound),
    }  # fmt: skip


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--without", choices=KINDS, default="")
    p.add_argument("--steps", type=int, default=900)
    args = p.parse_args()
    print(json.dumps(learned(args.seed, args.without, args.steps)))


if __name__ == "__main__":
    main()
