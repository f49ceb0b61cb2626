"""Pictures of drawn worlds and their depth, drawn once and kept.

Every world is another one: its room, what stands in it, the camera's view. A part of them have no
walls but a sky. A world gives a few pictures, seconds apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...layers.streaming import Json
from ..data.world import World

APART = 0.4  # pictures per second of a world
VERSION = 1  # of how worlds are drawn: what is kept of another one is not read


def drawn(seed: int, size: tuple[int, int], skies: float = 0.4) -> World:
    """The world of a seed, pictures of (height, width); ``skies`` of all have one."""
    rng = np.random.default_rng((7, seed))
    sky = bool(rng.random() < skies)
    high = float(rng.uniform(1.2, 2.0) if sky else rng.uniform(1.2, 3.0))
    room = (12.0, high, 25.0) if sky else (rng.uniform(3.5, 8), high, rng.uniform(6, 14))
    boxes = int(rng.integers(4, 13))
    return World(
        seed, size, boxes, moving=0, room=(float(room[0]), high, float(room[2])),
        view=float(rng.uniform(45, 80)), round=int(rng.integers(0, boxes)),
        nearest=float(rng.uniform(-3.5, 1.5)), sky=sky,
    )  # fmt: skip


def pictures(seed: int, size: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 [count, H, W, 3], inverse depth float16 [count, H, W]) of a world."""
    shot = drawn(seed, size).shoot(count, rate=APART)
    return shot.frames, (1 / shot.depth).astype(np.float16)


def kept(
    cache: str, kind: str, of: tuple, number: int, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays by name: read from the folder ``cache`` if they are there, else made and kept in it
    under all that they depend on; "": made every time."""
    if not cache:
        return make()
    key = hashlib.sha256(repr(of).encode()).hexdigest()[:12]
    path = Path(cache) / kind / key / f"{number}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **make())  # pyright: ignore[reportArgumentType]
        part.replace(path)  # whole or not at all
    with np.load(path) as file:
        return dict(file)


@dataclasses.dataclass
class Worlds:
    """Batches by number, which is all that a resumed run needs to go on.

    Attributes:
      size, worlds, each: pictures (height, width) of so many worlds, ``each`` of one.
      cache: folder where they are kept, "": nowhere.
      streams: of the batch.
      seed: of the order and of how pictures are changed.
    """

    size: tuple[int, int]
    worlds: int
    each: int
    cache: str
    streams: range
    seed: int

    def __post_init__(self):
        self._read: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return 10**9

    def of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What :func:`pictures` gives of a world, from the cache if it is there."""
        if number not in self._read:
            self._read[number] = self._kept(number)
        return self._read[number]

    def _kept(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        make = lambda: dict[str, np.ndarray](
            zip(("frames", "inverse"), pictures(number, self.size, self.each), strict=True)
        )
        found = kept(self.cache, "worlds", (VERSION, self.size, self.each), number, make)
        return found["frames"], found["inverse"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """frames uint8 [B, 1, H, W, 3] and inverse depth float32 [B, 1, H, W]."""
        made = []
        for stream in self.streams:
            rng = np.random.default_rng((self.seed, int(index), stream))
            frames, inverse = self.of(int(rng.integers(self.worlds)))
            at = int(rng.integers(self.each))
            made.append(changed(frames[at], inverse[at].astype(np.float32), rng))
        frames, inverse = zip(*made, strict=True)
        return {"frames": np.stack(frames)[:, None], "inverse": np.stack(inverse)[:, None]}


def changed(
    frame: np.ndarray, inverse: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrored, cut and enlarged, brighter or darker, of other colours, blurred, noisy: a picture
    uint8 [H, W, 3] and its inverse depth [H, W]."""
    if rng.random() < 0.5:
        frame, inverse = frame[:, ::-1], inverse[:, ::-1]
    if rng.random() < 0.5:  # a part of it: a longer lens
        height, width = inverse.shape
        share = rng.uniform(0.6, 1.0)
        h, w = max(int(share * height), 1), max(int(share * width), 1)
        top, left = (int(rng.integers(0, n + 1)) for n in (height - h, width - w))
        rows = top + (np.arange(height) * h) // height
        cols = left + (np.arange(width) * w) // width
        frame, inverse = frame[rows][:, cols], inverse[rows][:, cols]
    x = frame.astype(np.float32) / 255
    if rng.random() < 0.3:
        x = (x + np.roll(x, 1, 0) + np.roll(x, 1, 1) + np.roll(x, (1, 1), (0, 1))) / 4
    x = x ** rng.uniform(0.6, 1.6) * rng.uniform(0.7, 1.2, 3)
    if rng.random() < 0.2:
        x = np.repeat(x.mean(-1, keepdims=True), 3, axis=-1)
    x = x + rng.uniform(0, 0.06) * rng.normal(size=x.shape)
    return (255 * np.clip(x, 0, 1)).astype(np.uint8), np.ascontiguousarray(inverse)


def told(worlds: Worlds) -> Json:
    """What a weights file says of what was learned from."""
    return {"worlds": worlds.worlds, "pictures": worlds.worlds * worlds.each}
