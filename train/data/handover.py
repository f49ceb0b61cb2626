"""Several cameras and an anomaly that none of them can see alone.

Actors of recognisable looks walk between cameras. Who leaves one camera should enter another
within ``LIMIT`` frames; the anomaly is that he does not, and somebody else comes in his place. T
frames, C cameras of a scene, K = 1 box per frame, 8 looks.

Why one camera says nothing about the label: a camera's clip is drawn by its role (somebody
leaves, enters or stays) and a variant (background, motion, times), which are independent of the
label, and by the look of its actor. Looks are dealt by :func:`deal` from a random permutation,
and a deal is a permutation's first cards with and without an anomaly: each camera's look is
uniform given any label. Only two cameras together tell: the looks of a pair are equal, or not.

The pictures are drawn by ``data.synth``, without its behaviour.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from . import figures
from .base import Clip, DataError
from .figures import Look, Pose
from .synth import NOISE, SPLITS, Plan, Synth

ROLES = ("leaves", "enters", "stays")
LOOKS = 8
FRAMES, RATE = 48, 5.0
LEAVING, ENTERING = (6, 13), (18, 27)  # frames of crossing the frame's side, drawn from these
LIMIT = 22  # frames in which who left has to be elsewhere; no entry takes longer
SETTLE = 4  # frames after an entry in which nothing is asked: the actor is hardly in view


def look_of(number: int) -> Look:
    """One of the looks, told apart by the colours of shirt and trousers."""

    def colour(hue: float, light: float) -> tuple[int, int, int]:
        r, g, b = colorsys.hsv_to_rgb(hue % 1.0, 0.9, light)
        return int(255 * r), int(255 * g), int(255 * b)

    shirt, trousers = colour(number / LOOKS, 0.95), colour(number * 3 / LOOKS + 0.5, 0.6)
    return Look((205, 165, 135), shirt, shirt, trousers, (0, 0, 0))


def deal(order: Sequence[int], anomalous: Sequence[bool], bystanders: int) -> list[int]:
    """Looks of the cameras, leaver and enterer of each pair and then the bystanders.

    order: a permutation of the looks. Everybody in a scene has a look of his own.
    """
    pairs = len(anomalous)
    looks = []
    for pair, wrong in enumerate(anomalous):
        looks += [order[pair], order[pairs + pair] if wrong else order[pair]]
    return looks + list(order[2 * pairs : 2 * pairs + bystanders])


@functools.lru_cache(maxsize=256)
def _motion(seed: int, split: str, role: str, variant: int, size: tuple[int, int]) -> Any:
    """All of a clip but its actor's look: (drawing, box [T, 4], background, ..., crossing)."""
    rng = np.random.default_rng([seed, SPLITS[split], ROLES.index(role), variant])
    many = figures.SUPERSAMPLING
    height, width = size[0] * many, size[1] * many
    t = np.arange(FRAMES)
    place, side = rng.uniform(0.3, 0.7), float(rng.choice([-0.25, 1.25]))
    low, high = ENTERING if role == "enters" else LEAVING
    cross, walk = int(rng.integers(low, high)), 6
    if role == "leaves":
        x = np.interp(t, [cross - walk, cross], [place, side])
    elif role == "enters":
        x = np.interp(t, [cross, cross + walk], [side, place])
    else:
        x, cross = np.full(FRAMES, place), -1
    x = x + 0.02 * np.sin(t * rng.uniform(0.2, 0.6) + rng.uniform(0, 6))
    zeros = np.zeros(FRAMES)
    pose = Pose(
        t * rng.uniform(0.6, 1.2), zeros + 1, zeros, zeros, zeros, zeros, zeros,
        float(rng.choice([-1, 1])), float(rng.choice([-1, 1])),
    )  # fmt: skip
    tall = rng.uniform(0.6, 0.8) * height
    ground = np.full(FRAMES, rng.uniform(0.9, 0.97) * height)
    drawing, box = figures.place(
        pose, x * width, ground, np.full(FRAMES, tall), np.zeros(FRAMES, bool), look_of(0)
    )
    box = np.clip(box / [width, height, width, height], 0.0, 1.0).astype(np.float32)
    background = figures.texture(rng, height, width)
    gain = rng.uniform(0.8, 1.1) + 0.05 * np.sin(t * rng.uniform(0.05, 0.3) + rng.uniform(0, 6))
    noise = rng.integers(0, NOISE - size[0] * size[1] * 3, FRAMES)
    return drawing, box, background, gain, noise, cross


class CameraClips(Synth):
    """Clips of one camera each: every role with every look in ``variants`` surroundings.

    Video ``name`` is ``handover<seed>/<split>/<role>/<look>/<variant>``; :meth:`number` finds it.
    Two looks of one role and variant differ in the actor's colours and in nothing else.

    Raises:
      DataError: as :class:`Synth`.
    """

    classes = tuple(f"look {number}" for number in range(LOOKS))

    def __init__(
        self,
        variants: int = 20,
        size: tuple[int, int] = (64, 96),
        seed: int = 0,
        split: str = "train",
    ):
        if variants < 1:
            raise DataError(f"variants is {variants}: give at least 1")
        count = len(ROLES) * LOOKS * variants
        super().__init__(count, FRAMES / RATE, RATE, size, seed, split, max_boxes=1)
        self.variants, self.seed, self.split = variants, seed, split
        self._keys = list(itertools.product(ROLES, range(LOOKS), range(variants)))
        self.videos = tuple(f"handover{seed}/{split}/{r}/{k}/{v}" for r, k, v in self._keys)

    def number(self, role: str, look: int, variant: int) -> int:
        """The video's number."""
        return (ROLES.index(role) * LOOKS + look) * self.variants + variant

    def crossing(self, video: int) -> int:
        """The frame in which the actor passes the frame's side; -1 if he stays."""
        return self._of(video)[-1]

    def _of(self, video: int) -> Any:
        role, _, variant = self._keys[video]
        return _motion(self.seed, self.split, role, variant, self.size)

    def plan(self, video: int) -> Plan:
        """All of a video but its pixels; do not write to it."""
        drawing, box, background, gain, noise, _ = self._of(video)
        look = self._keys[video][1]
        seen = np.prod(box[:, 2:] - box[:, :2], axis=1) > 0.01
        labels = np.zeros((FRAMES, 1, LOOKS), np.float32)
        labels[:, 0, look] = seen
        still = np.zeros((FRAMES, 2), int)
        drawing = drawing._replace(look=look_of(look))
        return Plan([drawing], box[:, None], labels, 1, background, still, gain, noise)

    def annotations(self, video: int) -> dict[str, np.ndarray]:
        """``boxes`` [T, 1, 4], ``box_valid`` [T, 1], ``labels`` [T, 1, 8] and ``event`` [T]: 1 in
        the two frames before and after a crossing."""
        plan, cross = self.plan(video), self.crossing(video)
        event = np.abs(np.arange(FRAMES) - cross) <= 2 if cross >= 0 else np.zeros(FRAMES, bool)
        valid = plan.labels.max(axis=-1) > 0
        boxes = plan.boxes * valid[..., None]
        return {
            "boxes": boxes,
            "box_valid": valid,
            "labels": plan.labels,
            "event": event.astype(np.float32),
        }

    def read(self, video: int, start: int, count: int) -> Clip:
        clip, part = super().read(video, start, count), slice(start, start + count)
        own = self.annotations(video)
        valid = own["box_valid"][part]
        return clip._replace(
            boxes=own["boxes"][part], box_valid=valid, persons=valid.astype(np.float32),
            labelled=valid,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scene:
    """Cameras of one place: the video of each, its pair (-1: a bystander's) and who is wrong."""

    videos: tuple[int, ...]
    pair: tuple[int, ...]
    anomalous: tuple[bool, ...]


def draw_scene(clips: CameraClips, rng: np.random.Generator, pairs: int, bystanders: int) -> Scene:
    """A random scene; every pair is anomalous at a coin's toss, cameras come in any order."""
    order = rng.permutation(LOOKS).tolist()
    anomalous = tuple(bool(w) for w in rng.random(pairs) < 0.5)
    roles = ["leaves", "enters"] * pairs + ["stays"] * bystanders
    variants = rng.integers(clips.variants, size=len(roles))
    looks = deal(order, anomalous, bystanders)
    videos = [clips.number(*one) for one in zip(roles, looks, variants.tolist(), strict=True)]
    pair = [camera // 2 if camera < 2 * pairs else -1 for camera in range(len(roles))]
    places = rng.permutation(len(roles))
    return Scene(tuple(videos[i] for i in places), tuple(pair[i] for i in places), anomalous)


def annotate(clips: CameraClips, scene: Scene) -> dict[str, np.ndarray]:
    """A scene's truth: :meth:`CameraClips.annotations` with an axis C in front, and ``anomaly``,
    ``known`` [C, T] and ``judged`` [C].

    ``anomaly`` is 1 in both cameras of a wrong pair from ``LIMIT`` frames after the leaving on.
    Between the entry and then, and for ``SETTLE`` frames, nothing is asked (``known`` is 0),
    whether or not something is wrong. ``judged``: cameras of a pair.
    """
    own = [clips.annotations(video) for video in scene.videos]
    truth = {name: np.stack([one[name] for one in own]) for name in own[0]}
    cameras, t = len(scene.videos), np.arange(FRAMES)
    anomaly, known = np.zeros((cameras, FRAMES), np.float32), np.ones((cameras, FRAMES), bool)
    for pair, wrong in enumerate(scene.anomalous):
        mine = [c for c in range(cameras) if scene.pair[c] == pair]
        left, entered = sorted(clips.crossing(scene.videos[c]) for c in mine)
        late = t >= left + LIMIT
        for camera in mine:
            anomaly[camera] = late & wrong
            known[camera] = (late & (t >= entered + SETTLE)) | (t < entered)
    judged = np.asarray(scene.pair) >= 0
    return truth | dict(anomaly=anomaly, known=known, judged=judged)


class Scenes:
    """Batches by step, a pure function of the seed: dicts of arrays [L, C, T, ...], what
    :func:`annotate` gives and ``frames``, for the lanes ``mine``.

    frames: number of a video -> its frames or features [T, ...].
    """

    def __init__(
        self,
        clips: CameraClips,
        frames: Callable[[int], np.ndarray],
        mine: range,
        seed: int,
        pairs: int = 2,
        bystanders: int = 1,
    ):
        if pairs < 1 or bystanders < 0 or 2 * pairs + bystanders > LOOKS:
            raise DataError(
                f"pairs={pairs}, bystanders={bystanders}: at least one pair, and together no more "
                f"than {LOOKS} people, as everybody has a look of his own"
            )
        self.clips, self.frames, self.mine, self.seed = clips, frames, mine, seed
        self.pairs, self.bystanders = pairs, bystanders

    def __len__(self) -> int:
        return sys.maxsize // 2

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        scenes = [self.scene(int(index), lane) for lane in self.mine]
        return {name: np.stack([one[name] for one in scenes]) for name in scenes[0]}

    def scene(self, index: int, lane: int) -> dict[str, np.ndarray]:
        """One scene [C, T, ...]."""
        rng = np.random.default_rng([self.seed, SPLITS[self.clips.split], index, lane])
        scene = draw_scene(self.clips, rng, self.pairs, self.bystanders)
        frames = np.stack([self.frames(video) for video in scene.videos])
        return {"frames": frames, **annotate(self.clips, scene)}


def batches(scenes: Scenes) -> Any:
    """Endless batches, read ahead, with ``get_state`` and ``set_state``."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.source(scenes).to_iter_dataset(options))
