"""Recipes of image encoders: teachers, a student, data and a loop in one frozen config."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import zoo
from ..zoo.encode.adapters import Widths
from .agglomerate import EUPE, Agglomerate, AgglomerateConfig
from .answers import measure, resized, unit_range
from .data import pipeline, video
from .data.base import DataError, Source
from .loop import Job, LoopConfig
from .metrics.probe import knn, linear_probe
from .recipe import Data, header
from .sami import SAMI, SAMIConfig
from .teachers import FrozenTeacher, Stills, frozen_teacher, taught_by

METHODS = ("agglomerate", "sami")


@dataclasses.dataclass(frozen=True)
class EncoderModel:
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
    size: tuple[int, int] = (224, 224)
    dim: int = 0
    depth: int = 0
    heads: int = 0
    layer_scale: float = 0.0

    def overrides(self) -> dict[str, Any]:
        own = ("dim", "depth", "heads", "layer_scale")
        fields = {name: getattr(self, name) for name in own if getattr(self, name)}
        return {"image_size": self.size, **fields}


@dataclasses.dataclass(frozen=True)
class EncoderRecipe:
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

    data: Data = Data()
    test: Data | None = None
    model: EncoderModel = EncoderModel()
    teachers: tuple[str, ...] = ("imagenet=efficientnet-lite0/imagenet",)
    method: str = "agglomerate"
    distil: AgglomerateConfig = EUPE
    sami: SAMIConfig = SAMIConfig()
    keep_targets: bool = True
    cache: str = "runs/cache"
    loop: LoopConfig = LoopConfig(frames=1)

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}: choose from {', '.join(METHODS)}")

    def build(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        paths = dict(map(named, self.teachers))
        if len(paths) != len(self.teachers) or not paths:
            raise DataError(f"teachers={self.teachers}: give at least one, each its own name")
        if self.method == "sami" and len(paths) > 1:
            raise DataError(f"method sami has one teacher, not {', '.join(paths)}")
        teachers = {name: frozen_teacher(path) for name, path in paths.items()}
        videos = self.data.open(self.cache)
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
        model, variables = zoo.init_params(self.model.name, seed=self.loop.seed, **fields)
        if self.model.weights:
            variables = zoo.load_weights(self.model.weights, template=variables)
        card = zoo.model_card(self.model.name)
        online = {} if self.keep_targets else teachers
        size = source.size
        if self.method == "agglomerate" and self.distil.teacher_sizes:
            size = self.distil.teacher_sizes[0]
        widths = {n: t.widths(size) for n, t in teachers.items()}
        given: dict[str, Any] = dict(
            online=online, statistics=self._figures(source, teachers, size), size=source.size,
            evaluate=self._score(model, card, videos),
        )  # fmt: skip
        if self.method == "sami":
            (name,) = teachers
            task: Any = SAMI(model, card, variables, name, widths[name], self.sami, **given)
        else:
            task = Agglomerate(model, card, variables, widths, self.distil, **given)
        task.header = header(self.model.name, fields)
        loop = self.loop

        def batches(host: int, hosts: int) -> Any:
            return pipeline.batches(
                source, loop.lanes, loop.frames, loop.seed, host=host, hosts=hosts
            )

        return Job(task, batches, source)

    def _figures(
        self, source: Source, teachers: Mapping[str, FrozenTeacher], size: tuple[int, int]
    ) -> Any:
        """The teachers' means and deviations, measured once and kept."""
        how: Any = self.sami if self.method == "sami" else self.distil
        if not how.standardise:
            return None
        online = {} if self.keep_targets else teachers
        loop = self.loop
        what = (
            [(n, t.identity()) for n, t in teachers.items()], source.videos, source.size, size,
            how.measured, loop.lanes, loop.frames, bool(online),
        )  # fmt: skip
        digest = hashlib.sha256(repr(what).encode()).hexdigest()[:16]

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
        for key, value in video.stored(self.cache, f"figures-{digest}", make).items():
            name, part, kind = key.split(".")
            found.setdefault(name, {}).setdefault(part, {})[kind] = value
        return found

    def evaluate_file(self, weights: str) -> dict[str, float]:
        """Figures of an encoder's file or name on the test data. Raises as :meth:`build`."""
        if self.test is None:
            raise DataError("this config has no test data: set test.kind and test.path")
        model, variables = zoo.load(weights)
        path = zoo.weights.find_weights(weights)
        card = zoo.model_card(zoo.weights.read_metadata(path).get("model", weights))
        return self._score(model, card, self.data.open(self.cache))(variables)

    def _score(self, model: Any, card: Any, videos: Source) -> Any:
        if self.test is None:
            return None
        test = self.test.open(self.cache)
        if not test.classes or test.classes != videos.classes:
            raise DataError("test: nearest neighbours want data and test with the same labels")
        return lambda variables: probed(model, variables, card, videos, test)


def named(text: str) -> tuple[str, str]:
    """("name", "file") of "name=file". Raises DataError for a name that is not a word."""
    name, equals, path = text.partition("=")
    if not equals or not name.isidentifier() or not path:
        raise DataError(f"teacher {text!r} is not of the form name=file, the name one word")
    return name, path


def heard(
    source: Source,
    teachers: Mapping[str, FrozenTeacher],
    online: Mapping[str, FrozenTeacher],
    size: tuple[int, int],
    count: int,
    loop: LoopConfig,
) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """What teachers say about the frames that exist of ``count`` batches, for ``measure``."""
    iterator = pipeline.batches(source, loop.lanes, loop.frames, loop.seed)

    @jax.jit
    def encode(variables: Any, frames: Any) -> Any:
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


def described(
    model: Any, variables: Any, card: Any, source: Source, *, count: int = 64
) -> np.ndarray:
    """One vector per video [N, D']: the student's summary and the mean of its map side by side,
    mean over the frames. The frames come to the student's ``image_size``."""

    @jax.jit
    def run(variables: Any, frames: Any) -> Any:
        x = resized(unit_range(frames), model.config.image_size)
        out = model.apply(variables, zoo.preprocess(x, card))
        found = [] if out.pooled is None else [out.pooled]
        found.append(out.features.mean(axis=(1, 2)))
        return jnp.concatenate(found, axis=-1)

    frames = [source.read(i, 0, source.length(i)).frames for i in range(len(source))]
    owner = np.repeat(np.arange(len(source)), [len(f) for f in frames])
    flat = np.concatenate(frames)
    parts = []
    for low in range(0, len(flat), count):
        pick = np.arange(low, low + count).clip(max=len(flat) - 1)  # one shape, one compile
        parts.append(np.asarray(run(variables, flat[pick]))[: len(flat) - low])
    each = np.concatenate(parts)
    total = np.zeros((len(source), each.shape[1]))
    np.add.at(total, owner, each)
    return total / np.bincount(owner)[:, None]


def labels_of(source: Source) -> np.ndarray:
    """The class of every video [N], that of its first frame's first box."""
    return np.asarray([source.read(i, 0, 1).labels[0, 0].argmax() for i in range(len(source))])


def probed(model: Any, variables: Any, card: Any, train: Source, test: Source) -> dict[str, float]:
    """``knn`` and ``probe``: top-1 of a frozen encoder's features on labelled videos."""
    features = [described(model, variables, card, source) for source in (train, test)]
    return accuracies(features[0], labels_of(train), features[1], labels_of(test))


def accuracies(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """``knn`` and ``probe``, top-1, of features [N, D] and [M, D] with their classes."""
    return {
        "knn": float((knn(train, labels, test) == truth).mean()),
        "probe": float((linear_probe(train, labels)(test) == truth).mean()),
    }
