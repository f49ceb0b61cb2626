"""UCF11 as 5 frames a clip: reading it, honestly split, and the boxes and features around it.

Source: Liu, Luo, Shah, "Recognizing Realistic Actions from Videos in the Wild" (CVPR 2009).

Two facts of this archive that a reader would not expect, both found by looking:

- its folders ``walking`` and ``volleyball_spiking`` hold the clips of both classes (each clip was
  cut twice, once into each), so the class is read from the file name, not from the folder;
- 13 groups (the upstream word for "clips of one source video") of the train split show the very
  scene of a test group. They are left out of training: :data:`LEAKED`.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

CLASSES = {  # word in the file name -> label; the order is that of the logits
    "shooting": "basketball",
    "biking": "biking",
    "diving": "diving",
    "golf": "golf swing",
    "riding": "horse riding",
    "juggle": "soccer juggling",
    "swing": "swing",
    "tennis": "tennis swing",
    "jumping": "trampoline jumping",
    "spiking": "volleyball spiking",
    "walk_dog": "walking",
}

# Train groups with a frame whose 20x15 grey thumbnail correlates above 0.97 with a test frame's;
# every pair was then looked at, and all are the same place on the same day.
LEAKED = frozenset(
    "shooting_01 diving_13 diving_16 golf_06 golf_07 golf_11 golf_16 golf_23 golf_25 riding_12 "
    "jumping_07 spiking_24 walk_dog_06".split()
)

FRAMES = 5


class DataError(ValueError):
    """A data file that is absent or not what its name says."""


class Clips(NamedTuple):
    """Clips of one split. S clips, 5 frames each, K person boxes per frame."""

    frames: np.ndarray  # [S, 5, 120, 160, 3] uint8
    labels: np.ndarray  # [S] int32
    names: tuple[str, ...]  # path in the archive, without "_<frame>.jpg"
    boxes: np.ndarray  # [S, 5, K, 4] x1 y1 x2 y2 in [0, 1]; zeros until boxes are added
    scores: np.ndarray  # [S, 5, K] of the detector, 0 for an empty slot
    features: np.ndarray | None = None  # [S, 5, h, w, F] float16 of an image teacher


def need(path: str | Path, what: str, remedy: str) -> Path:
    """The path, if it is a file. Raises DataError naming what is missing and the remedy."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{what} {path} is not there; {remedy}")
    return path


def read_split(archive: str | Path, split: str, *, boxes: int = 8) -> Clips:
    """One split, ``train`` or ``test``, in the order of names. Raises as :func:`members`."""
    from PIL import Image

    chosen = members(archive, split)
    with zipfile.ZipFile(archive) as file:
        frames = []
        for clip in chosen:
            paths = (f"{clip}_{i}.jpg" for i in range(FRAMES))
            images = (Image.open(io.BytesIO(file.read(p))).convert("RGB") for p in paths)
            frames.append(np.stack([np.asarray(image) for image in images]))
    labels = [list(CLASSES).index(group(clip)[0]) for clip in chosen]
    empty = np.zeros((len(chosen), FRAMES, boxes, 4), np.float32)
    return Clips(
        np.stack(frames), np.asarray(labels, np.int32), tuple(chosen), empty, empty[..., 0]
    )


def members(archive: str | Path, split: str) -> list[str]:
    """Names of a split's clips, in order: the paths without ``_<frame>.jpg``.

    A clip that the archive holds twice keeps both cuts for training and one for the test.
    Raises DataError: no archive, no such split, or a clip without its 5 frames.
    """
    need(archive, "the UCF11 archive", "name yours with --data ARCHIVE.zip")
    frames: Counter[str] = Counter()
    with zipfile.ZipFile(archive) as file:
        for path in file.namelist():
            if path.startswith(f"{split}/") and path.endswith(".jpg"):
                frames[path.rpartition("_")[0]] += 1
    chosen = sorted(clip for clip in frames if _wanted(clip, split))
    if not chosen:
        raise DataError(f"{archive} has no split {split!r}; there are train and test")
    for clip in chosen:
        if frames[clip] != FRAMES:
            raise DataError(f"{archive}: {clip} has {frames[clip]} frames, not {FRAMES}")
    return chosen


def group(clip: str) -> tuple[str, str]:
    """(word, number) of ``train/walking/v_walk_dog_06_02``: ("walk_dog", "06")."""
    word, number, _ = clip.rpartition("/")[2].removeprefix("v_").rsplit("_", 2)
    return word, number


def _wanted(clip: str, split: str) -> bool:
    word, number = group(clip)
    if split == "train":
        return f"{word}_{number}" not in LEAKED
    return CLASSES[word].replace(" ", "_") == clip.split("/")[1]


def add_boxes(clips: Clips, detector: str | Path, cache: str | Path) -> Clips:
    """Person boxes from the detector, computed once and kept in ``cache`` (.npz).

    These are pseudo-labels: what another network says, not what a person drew.
    Raises DataError without the detector's file.
    """
    from .yolox import Detector

    cache = Path(cache)
    if cache.is_file():
        stored = np.load(cache)
        if tuple(stored["names"]) == clips.names:
            return clips._replace(boxes=stored["boxes"], scores=stored["scores"])
    need(detector, "the person detector", "name a YOLOX ONNX file with --detector FILE.onnx")
    detect = Detector(detector, boxes=clips.boxes.shape[2])
    flat = clips.frames.reshape(-1, *clips.frames.shape[2:])
    found = [detect(frame) for frame in flat]
    boxes = np.stack([b for b, _ in found]).reshape(clips.boxes.shape)
    scores = np.stack([s for _, s in found]).reshape(clips.scores.shape)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, names=np.asarray(clips.names), boxes=boxes, scores=scores)
    return clips._replace(boxes=boxes, scores=scores)


def add_features(clips: Clips, path: str | Path) -> Clips:
    """Feature maps of an image teacher from an .npz: ``names`` [n] and ``maps`` [n, 5, h, w, F].

    Each map shows the whole frame. Raises DataError if a clip is missing.
    """
    stored = np.load(need(path, "the feature file", "leave --features away to train without it"))
    where = {str(name): i for i, name in enumerate(stored["names"])}
    if missing := [name for name in clips.names if name not in where]:
        raise DataError(f"{path} has no features of {len(missing)} clips, e.g. {missing[0]}")
    return clips._replace(features=stored["maps"][[where[name] for name in clips.names]])


class Batch(NamedTuple):
    """What one step sees, before augmentation. B clips, T frames, K boxes."""

    frames: np.ndarray  # [B, T, 120, 160, 3] uint8
    labels: np.ndarray  # [B] int32
    boxes: np.ndarray  # [B, T, K, 4]
    scores: np.ndarray  # [B, T, K]
    features: np.ndarray | None  # [B, T, h, w, F]


def batches(clips: Clips, size: int, steps: int, seed: int, start: int = 0) -> Iterator[Batch]:
    """Shuffled epochs without end, as ``(seed, epoch)`` says: a restart at batch ``start`` goes on
    with the very batches it would have seen.

    Each clip gives ``steps`` frames in order of time, drawn with repetition: 5 frames spread over
    a clip are a fast stream, repeated ones a slow one, and a live camera is slower still.
    """
    per_epoch = len(clips.labels) // size
    if not per_epoch:
        raise DataError(f"{len(clips.labels)} clips do not fill a batch of {size}")
    for index in _count(start):
        epoch, within = divmod(index, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(clips.labels))
        pick = order[within * size : (within + 1) * size]
        draw = np.random.default_rng((seed, epoch, within))
        times = np.sort(draw.integers(0, FRAMES, (size, steps)), axis=1)
        yield take(clips, pick, times)


def take(clips: Clips, pick: np.ndarray, times: np.ndarray) -> Batch:
    """Clips ``pick`` [B] at frames ``times`` [B, T]."""
    at = (pick[:, None], times)
    features = None if clips.features is None else clips.features[at]
    return Batch(clips.frames[at], clips.labels[pick], clips.boxes[at], clips.scores[at], features)


def _count(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1
