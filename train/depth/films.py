"""Films of walks through drawn rooms, with their depth and cameras, drawn once and kept."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..data.world import World
from .worlds import drawn, kept

RATE = 5.0  # frames per second of a walk: a frame sees something new
VERSION = 1  # of how films are drawn: what is kept of another one is not read


def room(seed: int, size: tuple[int, int]) -> World:
    """The room of a seed: walls all around, and up to two things that go to and fro."""
    world = drawn(seed, size, skies=0.0)
    return dataclasses.replace(world, moving=seed % 3, round=min(world.round, world.boxes - 3))


@dataclasses.dataclass
class Films:
    """Batches by number, which is all that a resumed run needs to go on.

    Attributes:
      size, films, each: pictures (height, width) of so many films, ``each`` of one.
      frames: of a clip.
      cache: folder where films are kept, "": nowhere.
      streams: of the batch.
      seed: of the order and of how pictures are changed.
    """

    size: tuple[int, int]
    films: int
    each: int
    frames: int
    cache: str
    streams: range
    seed: int

    def __post_init__(self):
        self._read: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return 10**9

    def of(self, number: int) -> dict[str, np.ndarray]:
        """frames uint8 [each, H, W, 3], depth float16 [each, H, W], poses float32 [each, 4, 4]
        (camera to world) and focal float32 [2] of a film."""
        if number not in self._read:
            about = (VERSION, self.size, self.each, RATE)
            self._read[number] = kept(
                self.cache, "films", about, number, lambda: self._shoot(number)
            )
        return self._read[number]

    def _shoot(self, number: int) -> dict[str, np.ndarray]:
        shot = room(number, self.size).shoot(self.each, RATE)
        depth = shot.depth.astype(np.float16)
        return {"frames": shot.frames, "depth": depth, "poses": shot.poses, "focal": shot.focal}

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """frames uint8 [B, T, H, W, 3], depth float32 [B, T, H, W], poses float32 [B, T, 4, 4] and
        focal float32 [B, 2]."""
        made = []
        for stream in self.streams:
            rng = np.random.default_rng((self.seed, int(index), stream))
            film = self.of(int(rng.integers(self.films)))
            pace = int(rng.integers(1, max(2, min(3, (self.each - 1) // self.frames) + 1)))
            first = int(rng.integers(self.each - pace * (self.frames - 1)))
            cut = slice(first, first + pace * (self.frames - 1) + 1, pace)
            order = slice(None, None, int(rng.choice((1, -1))))  # time runs back as well
            made.append({
                "frames": tinted(film["frames"][cut][order], rng),
                "depth": film["depth"][cut][order].astype(np.float32),
                "poses": film["poses"][cut][order],
                "focal": film["focal"],
            })  # fmt: skip
        return {name: np.stack([one[name] for one in made]) for name in made[0]}


def tinted(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames uint8 [T, H, W, 3], all of them brighter or darker and of other colours, and noisy."""
    x = (frames.astype(np.float32) / 255) ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.2, 3)
    x = x + rng.uniform(0, 0.04) * rng.standard_normal(x.shape, np.float32)
    return (255 * np.clip(x, 0, 1)).astype(np.uint8)
