"""UCF11 as 5 frames a clip, honestly split.

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
from pathlib import Path

import numpy as np

from . import box_cache, video
from .base import DataError, need
from .box_cache import Boxes
from .in_memory import LabelledVideos
from .yolox import Detector

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


class UCF11(LabelledVideos):
    """One split in memory, in the order of names: 1386 clips to train on, 316 to test.

    A clip is 5 frames, evenly spaced over a few seconds whose number the archive does not tell:
    ``frame_rate`` is nominally 1.

    Args:
      archive: zip of ``<split>/<class>/v_<word>_<group>_<clip>_<frame>.jpg``.
      split: ``train`` or ``test``.
      size: (height, width); the archive has (120, 160).
      hold: show every frame this many times in a row: 5 frames are a fast stream, repeated ones
        a slow one.
      max_boxes: K: the whole frame and at most K - 1 persons.
      detector: ONNX YOLOX file, or None for the whole frame alone.
      label_persons: each person has the clip's class.
      cache: folder that keeps the persons.

    Raises:
      DataError: no such archive or split, a clip without its 5 frames, or no frame that decodes.
    """

    def __init__(
        self,
        archive: str | Path,
        split: str,
        *,
        size: tuple[int, int] = (120, 160),
        hold: int = 1,
        max_boxes: int | None = None,
        detector: str | Path | Detector | None = None,
        label_persons: bool = True,
        cache: str | Path | None = None,
    ):
        if hold < 1:
            raise DataError(f"hold={hold}: every frame is shown at least once")
        archive = Path(archive)
        chosen = members(archive, split)
        max_boxes = (1 if detector is None else 5) if max_boxes is None else max_boxes
        native: dict[str, np.ndarray] = {}
        skipped: dict[str, str] = {}
        with zipfile.ZipFile(archive) as file:
            for clip in chosen:
                try:
                    images = [_picture(file.read(f"{clip}_{i}.jpg")) for i in range(FRAMES)]
                    native[clip] = np.stack(images)
                except (OSError, ValueError, zipfile.BadZipFile) as error:
                    skipped[clip] = f"{archive}: {clip}: {error}"
        if not native:
            raise DataError(f"none of {len(chosen)} clips decodes, e.g. {skipped[chosen[0]]}")
        boxes = None
        if detector is not None and max_boxes > 1:
            finder = box_cache.opened(detector, max_boxes - 1)
            name = "persons-" + video.key(archive, split, finder.identity, tuple(skipped))
            stored = video.stored(cache, name, lambda: _persons(finder, native))
            boxes = [
                Boxes(np.repeat(b, hold, axis=0), np.repeat(s, hold, axis=0))
                for b, s in zip(stored["boxes"], stored["scores"])
            ]
        # `native` is let go of clip by clip: at 160x120 it is 400 MB
        names = tuple(native)
        frames = [np.repeat(_resized(native.pop(n), size), hold, axis=0) for n in names]
        labels = [list(CLASSES).index(group(clip)[0]) for clip in names]
        super().__init__(
            names, frames, labels, tuple(CLASSES.values()), 1.0, boxes=boxes,
            max_boxes=max_boxes, label_persons=label_persons, skipped=skipped,
        )  # fmt: skip


def members(archive: str | Path, split: str) -> list[str]:
    """Names of a split's clips, in order: the paths without ``_<frame>.jpg``.

    A clip that the archive holds twice keeps both cuts for training and one for the test.
    Raises DataError: no archive, no such split, or a clip without its 5 frames.
    """
    need(archive, "the UCF11 archive", "give the path of the zip of 5 frames a clip")
    frames: Counter[str] = Counter()
    try:
        with zipfile.ZipFile(archive) as file:
            for path in file.namelist():
                if path.startswith(f"{split}/") and path.endswith(".jpg"):
                    frames[path.rpartition("_")[0]] += 1
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive}: cannot be read as a zip archive ({error})") from error
    chosen = sorted(clip for clip in frames if _wanted(clip, split, archive))
    if not chosen:
        raise DataError(f"{archive} has no split {split!r}; there are train and test")
    for clip in chosen:
        if frames[clip] != FRAMES:
            raise DataError(f"{archive}: {clip} has {frames[clip]} frames, not {FRAMES}")
    return chosen


def group(clip: str) -> tuple[str, str]:
    """(word, number) of ``train/walking/v_walk_dog_06_02``: ("walk_dog", "06")."""
    parts = clip.rpartition("/")[2].removeprefix("v_").rsplit("_", 2)
    return parts[0], parts[1] if len(parts) == 3 else ""


def _wanted(clip: str, split: str, archive: str | Path) -> bool:
    word, number = group(clip)
    if word not in CLASSES:
        raise DataError(f"{archive}: {clip}: unknown class {word!r}; known: {', '.join(CLASSES)}")
    if split == "train":
        return f"{word}_{number}" not in LEAKED
    return CLASSES[word].replace(" ", "_") == clip.split("/")[1]


def _picture(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frames.shape[1:3] == size:
        return frames
    return np.stack([video.resize(frame, size) for frame in frames])


def _persons(finder: Detector, clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    each = box_cache.told(clips.values(), len(clips), "persons in UCF11")
    found = [box_cache.detect(finder, frames) for frames in each]
    return {
        "boxes": np.stack([b.boxes for b in found]),
        "scores": np.stack([b.scores for b in found]),
    }
