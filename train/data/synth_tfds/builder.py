"""The tensorflow-datasets builder; importing it imports tensorflow-datasets."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ..behaviour import CLASSES
from ..synth import Synth
from .optional import import_tfds

tfds = import_tfds()


@dataclasses.dataclass(kw_only=True)
class SynthConfig(tfds.core.BuilderConfig):
    """What to generate: ``videos`` for training, ``test_videos`` of the test split (0: none),
    and arguments of :class:`~streamzoo.train.data.synth.Synth` for both."""

    name: str = "custom"
    videos: int = 256
    test_videos: int = 64
    arguments: Fields = dataclasses.field(default_factory=dict)

    def source(self, split: str) -> Synth:
        videos = self.videos if split == "train" else self.test_videos
        return Synth(videos=max(videos, 1), split=split, **self.arguments)


class SynthAva(tfds.core.GeneratorBasedBuilder):
    """One example per video: frames, boxes, which boxes are there, and labels.

    Features: ``frames`` [T, H, W, 3] uint8, ``boxes`` [T, K, 4] float32, ``box_valid`` [T, K] and
    ``labels`` [T, K, C] uint8 of 0 and 1, ``video`` the number that the generator knows it by. The
    rest of a clip follows from these. Frames are stored raw: zlib would save 8 % of noise.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    # As found, this imports a module that 4.9.10 needs but does not depend on.
    code_path = pathlib.Path(__file__)
    BUILDER_CONFIGS = [SynthConfig(name="default")]

    def _info(self):
        source = self.builder_config.source("train")
        frames, (height, width), slots = source.length(0), source.size, source.max_boxes

        def tensor(dtype: type, *shape: int):
            return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

        features = {
            "video": tfds.features.Scalar(np.int64),
            "frames": tensor(np.uint8, frames, height, width, 3),
            "boxes": tensor(np.float32, frames, slots, 4),
            "box_valid": tensor(np.uint8, frames, slots),
            "labels": tensor(np.uint8, frames, slots, len(CLASSES)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Synthetic persons with boxes and labels that mostly need memory.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                frame_rate=source.frame_rate,
                classes=list(CLASSES),
                arguments=self.builder_config.arguments,
            ),
            disable_shuffling=True,  # example i is video i
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        splits = {"train": self.builder_config.videos, "test": self.builder_config.test_videos}
        return {name: self._generate_examples(name) for name, many in splits.items() if many}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        source = self.builder_config.source(split)
        for video in range(len(source)):
            clip = source.read(video, 0, source.length(video))
            yield (
                video,
                {
                    "video": video,
                    "frames": clip.frames,
                    "boxes": clip.boxes,
                    "box_valid": clip.box_valid.astype(np.uint8),
                    "labels": clip.labels.astype(np.uint8),
                },
            )
