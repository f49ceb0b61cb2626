"""Synthetic persons: unlimited videos with boxes and labels that mostly need memory.

T frames, K boxes, C = 13 classes. One to three articulated figures move over a textured
background that pans at random. Motion, gestures, carrying and events are independent tracks, so
a person usually has several labels at once. Which labels need time:

* ``walk_left``/``walk_right``, ``approach``/``retreat``, ``rise``/``crouch`` and the order of two
  events: each person's whole life is played backwards or forwards at a coin's toss, so both
  members of a pair have the same frames, in opposite order.
* ``stand`` freezes the gait wherever it was, ``hold`` the arm that ``wave`` swings.
* ``up_then_bow`` and ``bow_then_up``: arms up and a bow (0.6 s each) start ``gap`` seconds apart.
  The same events also come alone, after one of their own kind, or too late.
* ``lying`` and ``carrying`` can be told from one frame.

When a label is on: a motion label (and ``stand``, ``hold``) from the second frame of its segment
to its last, i.e. once two frames show it; ``lying`` while nearer to lying than to upright;
``carrying`` while the box is drawn; the order of events from 0.1 s after the second one's start
(both arms are up, or the torso is bent) for 1.0 s. ``wave`` and ``hold`` are off while both arms
are up. A person who stays crouched has no label of motion. As a direction's label starts one
frame late, a frame still hints at it: position alone ranks left against right, and box height
approach against retreat, with an area under the ROC curve of 0.54 and 0.55 (600 videos).

A box is the tight one of the whole figure with what it carries, clipped to the frame. At the
frame's sides an arm may reach out: less than 60 % of the box is inside in 0.9 % of cases.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from ..metrics.delay import Event, label_runs
from . import behaviour, figures
from .base import Clip, DataError, Source
from .behaviour import CLASSES, EVENT_SECONDS, LEAD, RAMP, SIZES
from .kept import code, digest

SPLITS = {"train": 0, "val": 1, "test": 2}
UNLIMITED = 2**31 - 1
NOISE = 1 << 21  # bytes of noise that all frames share, each at an offset of its own
PLANS = 128  # videos whose plan is kept
DRAWN_BY = tuple(f"train/data/{name}.py" for name in ("synth", "figures", "behaviour", "handover"))


class Plan(NamedTuple):
    """All of a video but its pixels."""

    drawings: list[figures.Drawing]  # by slot
    boxes: np.ndarray  # [T, K, 4]
    labels: np.ndarray  # [T, K, C]
    persons: int
    background: Image.Image
    offset: np.ndarray  # [T, 2] of the background, canvas pixels
    gain: np.ndarray  # [T]
    noise: np.ndarray  # [T] offsets into the noise


@dataclass(frozen=True)
class _Settings:
    frames: int
    frame_rate: float
    size: tuple[int, int]
    seed: int
    split: str
    max_boxes: int
    gap: tuple[float, float]


@functools.lru_cache(maxsize=PLANS)
def _plan(s: _Settings, video: int) -> Plan:
    rng = np.random.default_rng([s.seed, SPLITS[s.split], video])
    many = figures.SUPERSAMPLING
    height, width = s.size[0] * many, s.size[1] * many
    t = np.arange(s.frames) / s.frame_rate + LEAD
    total = t[-1] + LEAD
    persons = min(s.max_boxes, int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])))
    boxes = np.zeros((s.frames, s.max_boxes, 4), np.float32)
    labels = np.zeros((s.frames, s.max_boxes, len(CLASSES)), np.float32)
    # A lane each: persons meet and overlap at its ends, and seldom hide each other.
    lanes = {1: [(0.2, 0.8)], 2: [(0.12, 0.54), (0.46, 0.88)]}
    lanes[3] = [(0.1, 0.38), (0.36, 0.64), (0.62, 0.9)]
    order = rng.permutation(persons)
    drawings = []
    for slot in range(persons):
        sizes = (SIZES[0], SIZES[1] if persons < 3 else 0.62)
        life = behaviour.live(rng, total, lanes[persons][order[slot]], sizes, s.gap)
        if rng.random() < 0.5:
            life = behaviour.backwards(life, total)
        mirror, side = (float(v) for v in rng.choice([-1.0, 1.0], 2))
        pose, curve = behaviour.act(life, t, mirror, side)
        size = np.exp(curve["size"])
        # Nearer figures are larger and stand lower in the frame.
        ground = 0.70 + 0.27 * (size - SIZES[0]) / (SIZES[1] - SIZES[0]) + rng.uniform(-0.02, 0.02)
        drawing, box = figures.place(
            pose, curve["x"] * width, ground * height, size * min(height, width),
            behaviour.inside(life.carry, "carrying", t), figures.random_look(rng),
        )  # fmt: skip
        drawings.append(drawing)
        boxes[:, slot] = np.clip(box / [width, height, width, height], 0.0, 1.0)
        labels[:, slot] = behaviour.labels(life, t, 1 / s.frame_rate, pose, s.gap)

    margin = max(height, width) // 2
    background = figures.texture(rng, height + margin, width + margin)
    # The pan bounces between the texture's edges.
    pan = rng.uniform(0, 2, 2) + (t[:, None] * rng.uniform(-0.25, 0.25, 2))
    offset = np.abs((pan % 2.0) - 1.0) * margin
    gain = rng.uniform(0.8, 1.1) + 0.06 * np.sin(t * rng.uniform(0.2, 1.0) + rng.uniform(0, 6))
    noise = rng.integers(0, NOISE - s.size[0] * s.size[1] * 3, s.frames)
    return Plan(drawings, boxes, labels, persons, background, offset.astype(int), gain, noise)


@functools.cache
def _noise() -> np.ndarray:
    values = np.random.default_rng(0).normal(0.0, 5.0, NOISE)
    return np.round(values).astype(np.int16)


class Synth(Source):
    """Synthetic persons, drawn when read.

    Video ``i`` is a function of (seed, split, i) and of the arguments alone; a person keeps one
    slot for the whole video, slots beyond the persons are empty.

    Args:
      videos: how many; 0 for as many as there are numbers.
      seconds: length of each.
      frame_rate: frames/s at which the same motion is sampled.
      size: (height, width) of the frames, pixels, at least 32 each.
      seed: of all videos.
      split: train, val or test: other videos.
      max_boxes: K, which also limits the persons in a frame; there are at most 3.
      gap: least and most seconds between the starts of two events whose order is labelled.

    Raises:
      DataError: an argument that makes no video; the text says which.
    """

    classes = CLASSES
    multi_label = True

    def __init__(
        self,
        videos: int = 256,
        seconds: float = 12.0,
        frame_rate: float = 5.0,
        size: tuple[int, int] = (96, 96),
        seed: int = 0,
        split: str = "train",
        max_boxes: int = 3,
        gap: tuple[float, float] = (1.0, 4.0),
    ):
        if split not in SPLITS:
            near = difflib.get_close_matches(str(split), SPLITS, 1, 0.0)[0]
            raise DataError(f"no split {split!r}: did you mean {near!r}? ({', '.join(SPLITS)})")
        if videos < 0:
            raise DataError(f"videos is {videos}: give how many, or 0 for no limit")
        if seed < 0:
            raise DataError(f"seed is {seed}: give 0 or more")
        if not frame_rate > 0 or round(seconds * frame_rate) < 1:
            raise DataError(
                f"{seconds} s at {frame_rate} frames/s is no frame: give more of either"
            )
        size = (int(size[0]), int(size[1]))
        if min(size) < 32 or max(size) > 512:
            raise DataError(f"size is {size}: give (height, width) of 32 to 512 pixels each")
        if max_boxes < 1:
            raise DataError(f"max_boxes is {max_boxes}: give at least 1")
        if not EVENT_SECONDS + 2 * RAMP <= gap[0] <= gap[1]:
            least = EVENT_SECONDS + 2 * RAMP
            raise DataError(f"gap is {gap}: give (least, most) seconds, least at least {least:g}")
        self.frame_rate, self.size, self.max_boxes = float(frame_rate), size, int(max_boxes)
        self.videos = tuple(f"{split}/{i:06d}" for i in range(videos))
        self.skipped = {}
        self._count = videos or UNLIMITED
        self._settings = _Settings(
            round(seconds * frame_rate), self.frame_rate, size, int(seed), split,
            self.max_boxes, (float(gap[0]), float(gap[1])),
        )  # fmt: skip

    def __len__(self) -> int:
        return self._count

    def length(self, video: int) -> int:
        return self._settings.frames

    def plan(self, video: int) -> Plan:
        """All of a video but its pixels; do not write to it."""
        if not 0 <= video < len(self):
            raise IndexError(f"video {video} of {len(self)}")
        return _plan(self._settings, int(video))

    def read(self, video: int, start: int, count: int) -> Clip:
        plan, total = self.plan(video), self.length(video)
        if not 0 <= start <= start + count <= total:
            raise IndexError(f"frames {start} to {start + count} of a video of {total}")
        part = slice(start, start + count)
        frames = np.empty((count, *self.size, 3), np.uint8)
        for index in range(count):
            frames[index] = self._frame(plan, start + index)
        boxes, labels = plan.boxes[part].copy(), plan.labels[part].copy()
        valid = np.zeros(boxes.shape[:2], bool)
        valid[:, : plan.persons] = True
        return Clip(frames, boxes, valid, valid.astype(np.float32), labels, valid.copy())

    def identity(self, video: int, boxes: bool = False) -> str:
        name = self.videos[video] if self.videos else video
        return digest(type(self).__name__, self._settings, name, PIL.__version__, code(*DRAWN_BY))

    def _frame(self, plan: Plan, frame: int) -> np.ndarray:
        height, width = self.size
        many = figures.SUPERSAMPLING
        x, y = plan.offset[frame].tolist()
        canvas = plan.background.crop((x, y, x + width * many, y + height * many))
        for drawing in sorted(plan.drawings, key=lambda d: d.scale[frame]):
            figures.draw(canvas, drawing, frame)
        # Gain in 1/128: 16 bits do, and a third of the time.
        lit = np.asarray(canvas.reduce(many)) * np.uint16(128 * plan.gain[frame]) >> 7
        start = int(plan.noise[frame])
        lit = lit.view(np.int16)
        lit += _noise()[start : start + lit.size].reshape(lit.shape)
        return np.clip(lit, 0, 255, out=lit)

    def events(self, video: int) -> list[Event]:
        """Runs of frames in which a label holds, by slot, label and time."""
        return label_runs(self.plan(video).labels)
