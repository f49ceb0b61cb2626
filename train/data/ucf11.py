"""UCF11 as 5 frames a clip, honestly split.

Source: Liu, Luo, Shah, "Recognizing Realistic Actions from Videos in the Wild" (CVPR 2009).

Two facts of this archive that a reader would not expect, both found by looking:

- its folders ``walking`` and ``volleyball_spiking`` hold the clips of both classes (each clip was
  cut twice, once into each), so the class is read from the file name, not from the folder;
- 36 of the 220 groups (the upstream word for "clips of one source video") of the train split show
  the scene of a test group. They are left out of training: :data:`LEAKED`.
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
from .kept import code
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

# Train groups that show the scene of a test group of their class: left out where one measure says
# so, and where the figures are below that but a look at the frames says so. The measures
# (``scenes``, tests/bench/ucf11_scenes.py; its results list every pair): a grey thumbnail that
# correlates above 0.97; thumbnails above 0.90 whose colours agree above 0.96; six SIFT features or
# more that one turn, shift and scale takes into each other. Looked at: four or five features, or
# colours above 0.93; and spiking_10 and spiking_21, whose tent and gymnasium the test shows from
# elsewhere. The same golf course, gymnasium or race on the same day counts as one scene.
LEAKED = frozenset(
    "shooting_01 shooting_17 biking_06 biking_12 diving_09 diving_13 diving_16 "
    "golf_06 golf_07 golf_11 golf_14 golf_16 golf_19 golf_22 golf_23 golf_25 "
    "riding_10 riding_12 riding_23 jumping_06 jumping_07 jumping_12 jumping_13 jumping_17 "
    "spiking_01 spiking_03 spiking_09 spiking_10 spiking_12 spiking_16 spiking_18 spiking_19 "
    "spiking_20 spiking_21 spiking_24 walk_dog_06".split()
)

FRAMES = 5


class UCF11(LabelledVideos):
    """One split in memory, in the order of names: 1235 clips to train on, 316 to test.

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
        chosen = kept(archive, split)
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
            how = (tuple(native), finder.identity, code(*box_cache.FOUND_BY))
            name = "persons-" + video.key(archive, *how)
            stored = video.stored(cache, name, lambda: _persons(finder, native))
            boxes = [
                Boxes(np.repeat(b, hold, axis=0), np.repeat(s, hold, axis=0))
                for b, s in zip(stored["boxes"], stored["scores"], strict=True)
            ]
        # `native` is let go of clip by clip: at 160x120 it is 400 MB
        names = tuple(native)
        frames = [np.repeat(_resized(native.pop(n), size), hold, axis=0) for n in names]
        labels = [list(CLASSES).index(group(clip)[0]) for clip in names]
        super().__init__(
            names, frames, labels, tuple(CLASSES.values()), 1.0, boxes=boxes,
            max_boxes=max_boxes, label_persons=label_persons, skipped=skipped,
        )  # fmt: skip


def kept(archive: str | Path, split: str) -> list[str]:
    """The :func:`members` of a split that are used: for training, without those of ``LEAKED``."""
    clips = members(archive, split)
    return [c for c in clips if split != "train" or "_".join(group(c)) not in LEAKED]


def members(archive: str | Path, split: str) -> list[str]:
    """Names of a split's clips in the archive, in order: the paths without ``_<frame>.jpg``.

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
    word, _ = group(clip)
    if word not in CLASSES:
        raise DataError(f"{archive}: {clip}: unknown class {word!r}; known: {', '.join(CLASSES)}")
    if split == "train":
        return True
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
