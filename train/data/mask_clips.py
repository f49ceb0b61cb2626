"""Random short clips of an object and its mask, moved, mirrored, reversed and pasted together.

A few sequences show few objects, always the most salient ones. So half of the clips get another
sequence's object in front, and either of the two may be the one that was meant: only the prompt
tells them apart.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import grain
import numpy as np

from ...zoo.ranges import Checked, Count, Range, Share
from .base import DataError
from .davis import Davis, MaskClip

Zoom = Annotated[float, Range(0.1, 10)]


@dataclasses.dataclass(frozen=True)
class Augment(Checked):
    """How clips are changed.

    Attributes:
      strides: frames from one to the next, one of these at random.
      reverse, mirror, paste: how often.
      zoom: enlargement, (least, most), at the clip's two ends.
      colour: contrast, brightness and each channel's gain change by up to this part.
      smallest: part of the picture that the object fills in the first frame, at least.
    """

    strides: tuple[Count, ...] = (1, 2, 3, 4)
    reverse: Share = 0.5
    mirror: Share = 0.5
    paste: Share = 0.4
    zoom: tuple[Zoom, Zoom] = (1.0, 1.5)
    colour: Annotated[float, Range(0, 1, below=True)] = 0.2
    smallest: Annotated[float, Range(0, 1, below=True)] = 0.002

    def __post_init__(self):
        super().__post_init__()
        if not self.strides or self.zoom[0] > self.zoom[1]:
            raise ValueError("strides: at least one; zoom: the least, then the most")


class MaskClips:
    """Batches by step, a pure function of the seed: dicts of ``frames`` [L, T, H, W, 3] uint8 and
    ``masks`` [L, T, H, W] bool, for the lanes ``mine`` of ``lanes``."""

    def __init__(self, source: Davis, frames: int, seed: int, mine: range, change: Augment):
        if not len(source) or source.size is None:
            raise DataError("clips are drawn from at least one sequence, resized to one size")
        short = [v for i, v in enumerate(source.videos) if source.length(i) < frames]
        if short:
            raise DataError(f"{short[0]} has fewer than {frames} frames: lower loop.frames")
        self.source, self.frames, self.seed = source, frames, seed
        self.mine, self.change = mine, change

    def __len__(self) -> int:
        return sys.maxsize // 2

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        clips = [self.clip(np.random.default_rng((self.seed, int(index), i))) for i in self.mine]
        frames, masks = zip(*clips, strict=True)
        return {"frames": np.stack(frames), "masks": np.stack(masks) > 0}

    def clip(self, rng: np.random.Generator) -> MaskClip:
        """One clip; its first frame shows the object."""
        while True:
            video = int(rng.integers(len(self.source)))
            clip = self._one(video, rng, self.change.zoom)
            if rng.random() < self.change.paste and len(self.source) > 1:
                other = (video + 1 + int(rng.integers(len(self.source) - 1))) % len(self.source)
                clip = _paste(clip, self._one(other, rng, (0.5, 1.2)), rng.random() < 0.5)
            if clip.masks[0].mean() >= self.change.smallest:
                return clip

    def _one(self, video: int, rng: np.random.Generator, zoom: tuple[float, float]) -> MaskClip:
        c, length = self.change, self.source.length(video)
        fits = [s for s in c.strides if (self.frames - 1) * s < length] or [1]
        stride = int(rng.choice(fits))
        start = int(rng.integers(length - (self.frames - 1) * stride))
        frames, masks = self.source.read(video, start, self.frames, stride)
        masks = (masks > 0).astype(np.uint8)
        if rng.random() < c.reverse:
            frames, masks = frames[::-1], masks[::-1]
        if rng.random() < c.mirror:
            frames, masks = frames[:, :, ::-1], masks[:, :, ::-1]
        frames, masks = _move(MaskClip(frames, masks), _path(rng, self.frames, zoom))
        return MaskClip(_colour(frames, rng, c.colour), masks)


def _path(rng: np.random.Generator, frames: int, zoom: tuple[float, float]) -> np.ndarray:
    """Where a camera looks, in parts of the picture: [T, 3] (side, left, top).

    Its ends are drawn independently of each other, then brought nearer: a slow move. A side below 1
    stays within the picture.
    """
    side = 1 / rng.uniform(*zoom, size=2)
    corner = rng.uniform(size=(2, 2)) * (1 - side[:, None])
    ends = np.column_stack([side, corner])
    ends[1] = ends[0] + (ends[1] - ends[0]) * rng.uniform(0, 0.5)
    along = np.linspace(0, 1, frames)[:, None]
    return ends[0] * (1 - along) + ends[1] * along


def _move(clip: MaskClip, path: np.ndarray) -> MaskClip:
    from PIL import Image

    height, width = clip.masks.shape[1:]

    def crop(image: np.ndarray, view: Any, how: Any) -> np.ndarray:
        side, left, top = (float(x) for x in view)
        matrix = (side, 0.0, left * width, 0.0, side, top * height)
        picture = Image.fromarray(np.ascontiguousarray(image))
        moved = picture.transform((width, height), Image.Transform.AFFINE, matrix, how)
        return np.asarray(moved)

    bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    frames = [crop(f, view, bilinear) for f, view in zip(clip.frames, path, strict=True)]
    masks = [crop(m, view, nearest) for m, view in zip(clip.masks, path, strict=True)]
    return MaskClip(np.stack(frames), np.stack(masks))


def _colour(frames: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    contrast, *gains = 1 + rng.uniform(-amount, amount, 4)
    light = 255 * rng.uniform(-amount, amount) / 2
    values = np.arange(256)[:, None] * (contrast * np.asarray(gains)) + light
    table = values.clip(0, 255).astype(np.uint8)  # [256, 3]
    return np.stack([table[:, i][frames[..., i]] for i in range(3)], axis=-1)


def _paste(behind: MaskClip, front: MaskClip, meant: bool) -> MaskClip:
    """The object of ``front`` over ``behind``; ``meant``: it is the one to be tracked."""
    over = front.masks > 0
    frames = np.where(over[..., None], front.frames, behind.frames)
    return MaskClip(frames, front.masks if meant else np.where(over, 0, behind.masks))


def batches(
    source: Davis, lanes: int, frames: int, seed: int, change: Augment, *, host=0, hosts=1
) -> Any:
    """Endless batches of this host, read ahead, with ``get_state`` and ``set_state``.

    Raises DataError: lanes that the hosts cannot share, or a sequence of fewer frames.
    """
    if lanes % hosts:
        raise DataError(f"lanes={lanes} cannot be shared by {hosts} hosts evenly")
    each = lanes // hosts
    steps = MaskClips(source, frames, seed, range(host * each, (host + 1) * each), change)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.source(steps).to_iter_dataset(options))
