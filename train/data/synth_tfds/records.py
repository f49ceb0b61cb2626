"""Building the records, and reading them back as a source."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np

from ..base import Clip, DataError, Source, need
from ..synth import Synth
from .optional import import_tfds

KEPT = 16  # decoded videos that a source keeps: a clip seldom needs a whole one


def build(out: str | Path, videos: int = 256, test_videos: int = 64, **arguments) -> Path:
    """Generates videos into ArrayRecord files under ``out``, unless they are there already.

    Args:
      out: folder of the data set; made if need be.
      videos: of the train split.
      test_videos: of the test split; 0 for none.
      arguments: of :class:`~streamzoo.train.data.synth.Synth`, for both splits.

    Returns:
      The folder of this very data set, one per set of arguments, for :class:`SynthRecords`.

    Raises:
      DataError: arguments that make no video, or an ``out`` that is a file.
      ImportError: tensorflow-datasets is not installed.
    """
    if videos < 1 or test_videos < 0:
        raise DataError(f"{videos} and {test_videos} videos: give at least 1, and 0 or more")
    Synth(videos=1, **arguments)  # raises on arguments that make no video
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name a folder for the data set")
    tfds = import_tfds()
    from .builder import SynthAva, SynthConfig

    # One name per set of arguments: tensorflow-datasets takes a folder of the same name as built.
    key = zlib.crc32(repr((videos, test_videos, sorted(arguments.items()))).encode())
    config = SynthConfig(
        name=f"custom-{key:08x}", videos=videos, test_videos=test_videos, arguments=arguments
    )
    builder = SynthAva(data_dir=str(out), config=config, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)


def _folder(path: Path) -> Path:
    """The one built data set at or below a path."""
    need(path, "the synth data set", "build it with python -m streamzoo.train.data.synth_tfds")
    if (path / "dataset_info.json").exists():
        return path
    found = sorted(p.parent for p in path.glob("synth_ava/*/*/dataset_info.json"))
    if not found:
        remedy = f"build it with python -m streamzoo.train.data.synth_tfds --out {path}"
        raise DataError(f"{path} holds no synth data set: {remedy}")
    if len(found) > 1:
        raise DataError(
            f"{path} holds {len(found)} data sets, name one: {', '.join(map(str, found))}"
        )
    return found[0]


class SynthRecords(Source):
    """The videos that :func:`build` wrote; clips equal the generator's to the last bit.

    Args:
      path: what :func:`build` returned, or its ``out`` if it holds one data set.
      split: train or test.

    Raises:
      DataError: no data set there, more than one, or no such split.
      ImportError: tensorflow-datasets is not installed.
    """

    multi_label = True

    def __init__(self, path: str | Path, split: str = "train"):
        folder = _folder(Path(path))
        builder = import_tfds().builder_from_directory(str(folder))
        if split not in builder.info.splits:
            known = ", ".join(builder.info.splits)
            raise DataError(f"{folder} has no split {split!r}: it has {known}")
        self._again = (str(folder), split)
        self._data = builder.as_data_source(split=split)
        self._example = functools.lru_cache(maxsize=KEPT)(self._data.__getitem__)
        metadata, features = builder.info.metadata, builder.info.features
        _, height, width, _ = features["frames"].shape
        self._frames, self.max_boxes, _ = features["boxes"].shape
        self.classes = tuple(metadata["classes"])
        self.frame_rate, self.size = float(metadata["frame_rate"]), (height, width)
        self.videos = tuple(f"{split}/{i:06d}" for i in range(len(self._data)))
        self.skipped = {}

    def __reduce__(self):
        return SynthRecords, self._again  # a worker opens the files anew

    def length(self, video: int) -> int:
        return self._frames

    def read(self, video: int, start: int, count: int) -> Clip:
        if not 0 <= video < len(self):
            raise IndexError(f"video {video} of {len(self)}")
        if not 0 <= start <= start + count <= self._frames:
            raise IndexError(f"frames {start} to {start + count} of a video of {self._frames}")
        example, part = self._example(video), slice(start, start + count)
        valid = example["box_valid"][part].astype(bool)
        return Clip(
            frames=example["frames"][part].copy(),
            boxes=example["boxes"][part].copy(),
            box_valid=valid,
            persons=valid.astype(np.float32),
            labels=example["labels"][part].astype(np.float32),
            labelled=valid.copy(),
        )
