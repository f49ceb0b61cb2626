"""Recipes of image encoders: teachers, a student, data and a loop in one frozen config."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import zoo
from ..layers.streaming import Array, Fields, Params
from ..zoo.encode.adapters import Widths
from ..zoo.ranges import Checked, Size, Weight, Whole
from ..zoo.registry import Card
from . import checks
from .agglomerate import EUPE, Agglomerate, AgglomerateConfig
from .answers import measure, resized, unit_range
from .base import BaseRecipe, header
from .data import pipeline, video
from .data.base import DataError, Source
from .data.kept import code, digest
from .datasets import DataConfig
from .datasets.synth import SynthData
from .encoder_evaluation import probed
from .loop import Job, LoopConfig
from .sami import SAMI, SAMIConfig
from .teachers import FrozenTeacher, Stills, frozen_teacher, taught_by

METHODS = ("agglomerate", "sami")


@dataclasses.dataclass(frozen=True)
class EncoderModel(Checked):
    """The student encoder, or the proxy.

    Attributes:
      name: a registered image encoder.
      weights: a file or name to start from; "" for random ones.
      size: (height, width) of its frames in pixels, where the method does not say otherwise.
      dim, depth, heads: 0 for the architecture's own.
      layer_scale: initial gain of the branches, 0 for the architecture's own. DINOv3's 1e-5 wants
        tens of thousands of steps; short runs want 1.
    """

    name: str = "eupe-t16"
    weights: str = ""
    size: Size = (224, 224)
    dim: Whole = 0
    depth: Whole = 0
    heads: Whole = 0
    layer_scale: Weight = 0.0

    def overrides(self) -> Fields:
        own = ("dim", "depth", "heads", "layer_scale")
        fields = {name: getattr(self, name) for name in own if getattr(self, name)}
        return {"image_size": self.size, **fields}


@dataclasses.dataclass(frozen=True)
class EncoderRecipe(BaseRecipe):
    """All of a training run of an image encoder, without labels.

    Attributes:
      data: videos whose frames teach.
      test: labelled videos; then ``data`` must be labelled too, and the frozen student's features
        are measured by nearest neighbours and a linear probe.
      model: what learns.
      teachers: each "name=file or model name"; the name is that of its figures.
      method: ``agglomerate``, or ``sami`` (which has one teacher).
      distil, sami: how.
      keep_targets: compute the teachers' answers once and keep them, or at every step anew.
      cache: folder for what is kept.
      loop: with ``frames`` = 1 the frames of all videos are shuffled singly.
    """

    data: DataConfig = SynthData()
    test: DataConfig | None = None
    model: EncoderModel = EncoderModel()
    teachers: tuple[str, ...] = ("imagenet=efficientnet-lite0/imagenet",)
    method: str = "agglomerate"
    distil: AgglomerateConfig = EUPE
    sami: SAMIConfig = SAMIConfig()
    keep_targets: bool = True
    cache: str = "runs/cache"
    loop: LoopConfig = LoopConfig(frames=1)

    def __post_init__(self):
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}: choose from {', '.join(METHODS)}")

    def check(self) -> None:
        """Refuses what can be refused without data. Raises as :meth:`build`."""
        checks.encoder(self)

    def job(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        paths = dict(map(checks.named, self.teachers))
        teachers = {name: frozen_teacher(path) for name, path in paths.items()}
        videos = self.data.features(self.cache)
        source = taught_by(videos, teachers, self.cache) if self.keep_targets else videos
        if self.loop.frames == 1:
            source = Stills(source)
        clips = [n for n, t in teachers.items() if not t.alone]
        if clips and not self.keep_targets and self.loop.frames == 1:
            raise DataError(f"{', '.join(clips)} want clips: set keep_targets=True or loop.frames")
        fields = self.model.overrides() | {"dtype": self.loop.dtype}
        if self.distil.own_class and self.method == "agglomerate":
            count = len(teachers)
            fields |= {"class_tokens": count, "pool_tokens": tuple(range(count))}
        model, variables = self.start(self.model.name, fields, self.model.weights)
        card = zoo.model_card(self.model.name)
        online = {} if self.keep_targets else teachers
        size = source.size
        if self.method == "agglomerate" and self.distil.teacher_sizes:
            size = self.distil.teacher_sizes[0]
        widths = {n: t.widths(size) for n, t in teachers.items()}
        given: Fields = dict(
            online=online, statistics=self._figures(source, teachers, size), size=source.size,
            evaluate=self._score(model, card, videos),
        )  # fmt: skip
        if self.method == "sami":
            (name,) = teachers
            task: Any = SAMI(model, card, variables, name, widths[name], self.sami, **given)
        else:
            task = Agglomerate(model, card, variables, widths, self.distil, **given)
        task.header = header(self.model.name, fields, card)
        return self.on_clips(task, source)

    def _figures(
        self, source: Source, teachers: Mapping[str, FrozenTeacher], size: tuple[int, int]
    ) -> Params | None:
        """The teachers' means and deviations, measured once and kept."""
        how: Any = self.sami if self.method == "sami" else self.distil
        if not how.standardise:
            return None
        online = {} if self.keep_targets else teachers
        loop = self.loop
        what = (
            [(n, t.identity()) for n, t in teachers.items()], size, how.measured,
            loop.batch, loop.frames, loop.seed, bool(online),
            [source.identity(i) for i in range(len(source))],
            code("layers", "zoo", "train/teachers.py", "train/answers.py", "train/data"),
        )  # fmt: skip

        def make() -> dict[str, np.ndarray]:
            said = heard(source, teachers, online, size, how.measured, loop)
            found = measure(said)
            return {
                f"{name}.{part}.{kind}": value
                for name, parts in found.items()
                for part, pair in parts.items()
                for kind, value in pair.items()
            }

        found: dict[str, Any] = {}
        for key, value in video.stored(self.cache, f"figures-{digest(*what)}", make).items():
            name, part, kind = key.split(".")
            found.setdefault(name, {}).setdefault(part, {})[kind] = value
        return found

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Metrics of an encoder's file or name on the test data. Raises as :meth:`build`."""
        if self.test is None:
            return super().evaluate_file(weights)
        model, variables, card = zoo.resolve(weights)
        return self._score(model, card, self.data.features(self.cache))(variables)

    def _score(self, model: Any, card: Card, videos: Source) -> Any:
        if self.test is None:
            return None
        test = self.test.features(self.cache)
        if not test.classes or test.classes != videos.classes:
            raise DataError("test: nearest neighbours want data and test with the same labels")
        return lambda variables: probed(model, variables, card, videos, test)


def heard(
    source: Source,
    teachers: Mapping[str, FrozenTeacher],
    online: Mapping[str, FrozenTeacher],
    size: tuple[int, int],
    count: int,
    loop: LoopConfig,
) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """What teachers say about the frames that exist of ``count`` batches, for ``measure``."""
    iterator = pipeline.batches(source, loop.batch, loop.frames, loop.seed)

    @jax.jit
    def encode(variables: Params, frames: Array) -> dict[str, dict[str, Array]]:
        frames = unit_range(frames)
        flat = resized(frames.reshape(-1, *frames.shape[2:]), size)
        frames = flat.reshape(*frames.shape[:2], *flat.shape[1:])
        return {n: t.encode(variables[n], frames) for n, t in online.items()}

    variables = {n: t.variables for n, t in online.items()}
    for _ in range(count):
        batch = next(iterator)
        said = encode(variables, batch["frames"])
        for name in set(teachers) - set(online):
            parts = {part: f"target_{name}_{part}" for part in Widths._fields}
            said[name] = {part: batch[key] for part, key in parts.items() if key in batch}
        valid = np.asarray(batch["valid"])
        yield {n: {k: np.asarray(a)[valid] for k, a in parts.items()} for n, parts in said.items()}
