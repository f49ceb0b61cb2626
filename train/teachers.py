"""What a frozen model says about frames: one summary vector each and a map, whatever the model.

B clips of T frames; Ds and Dp channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import zoo
from ..layers.streaming import Params
from ..zoo.action import SlidingWindow, VideoMAE
from ..zoo.encode import ConvNeXt, EfficientNetLite, ImageViT, RepViT, TransNetV2
from ..zoo.encode.adapters import Widths
from ..zoo.registry import Card
from ..zoo.trees import flatten
from .data.base import Clip, DataError, Source
from .data.kept import code
from .data.stored import Derived, Taught

Array = jax.Array
CHUNK = 16  # frames at once
Encode = Callable[[Params, Array], dict[str, Array]]  # (variables, frames) -> what it says


class FrozenTeacher(NamedTuple):
    """A teacher of an encoder.

    Attributes:
      encode: (variables, frames [B, T, H, W, 3] in 0..1) -> ``summary`` [B, T, Ds] and
        ``spatial`` [B, T, h, w, Dp], or one of the two.
      variables: its weights.
      alone: it sees each frame by itself, so T may be cut anywhere.
    """

    encode: Encode
    variables: Params
    alone: bool = True

    def widths(self, size: tuple[int, int]) -> Widths:
        """Channels of its answers. Computes nothing."""
        frames = jax.ShapeDtypeStruct((1, 1, *size, 3), jnp.float32)
        out = jax.eval_shape(self.encode, self.variables, frames)
        return Widths(*(out[k].shape[-1] if k in out else 0 for k in Widths._fields))

    def identity(self) -> str:
        """A hash of its weights."""
        digest = hashlib.sha256()
        for name, value in sorted(flatten(self.variables).items()):
            digest.update(name.encode() + np.asarray(value).tobytes())
        return digest.hexdigest()


def frozen_teacher(name_or_path: str) -> FrozenTeacher:
    """A teacher by name or file: an image encoder of ours, ``efficientnet-lite0/imagenet``, a
    ``videomae-window-…`` (its tokens), or ``transnetv2`` (its last maps).

    Raises DataError for a file that is not there or another kind of model, and the errors of
    ``zoo.load``.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors" and not path.is_file():
        raise DataError(f"no teacher at {path}: train it first, or give another file")
    model, variables, card = zoo.resolve(name_or_path)
    if isinstance(model, EfficientNetLite):
        return FrozenTeacher(_per_frame(_efficientnet(model), card), variables)
    if isinstance(model, SlidingWindow | VideoMAE):
        return FrozenTeacher(_window(model, card), variables, alone=False)
    if isinstance(model, TransNetV2):
        return FrozenTeacher(_shots(model), variables, alone=False)
    if not isinstance(model, ImageViT | ConvNeXt | RepViT):
        raise DataError(f"{name_or_path} is a {type(model).__name__}, not an encoder of frames")
    return FrozenTeacher(_per_frame(_encoder(model), card), variables)


def _per_frame(encode: Encode, card: Card) -> Encode:
    def run(variables: Params, frames: Array) -> dict[str, Array]:
        flat = zoo.preprocess(frames.reshape(-1, *frames.shape[2:]), card)
        found = encode(variables, flat)
        return {k: a.reshape(*frames.shape[:2], *a.shape[1:]) for k, a in found.items()}

    return run


def _encoder(model: Any) -> Encode:
    def encode(variables: Params, frames: Array) -> dict[str, Array]:
        out = model.apply(variables, frames)
        found = {"summary": out.pooled, "spatial": out.features}
        return {k: a for k, a in found.items() if a is not None}

    return encode


def _efficientnet(model: Any) -> Encode:
    def encode(variables: Params, frames: Array) -> dict[str, Array]:
        # XLA computes what the two have in common once
        summary = model.apply(variables, frames, method="features").mean(axis=(1, 2))
        return {"summary": summary, "spatial": model.apply(variables, frames, method="pyramid")}

    return encode


def _window(model: Any, card: Card) -> Encode:
    offline, tubelet = VideoMAE(model.config), model.config.tubelet

    def encode(variables: Params, frames: Array) -> dict[str, Array]:
        steps = frames.shape[1]
        frames = jnp.pad(frames, ((0, 0), (0, -steps % tubelet), *((0, 0),) * 3), mode="edge")
        out: Any = offline.apply(variables, zoo.preprocess(frames, card), taps=("features",))
        grid = jnp.repeat(out.taps["features"], tubelet, axis=1)[:, :steps]
        return {"summary": grid.mean(axis=(2, 3)), "spatial": grid}

    return encode


def _shots(model: Any) -> Encode:
    def encode(variables: Params, frames: Array) -> dict[str, Array]:
        shape = (*frames.shape[:2], *model.config.image_size, 3)
        small = jax.image.resize(frames, shape, "linear")
        grid = model.apply(variables, small, taps=("stages",)).taps["stages"][-1]
        return {"summary": grid.mean(axis=(2, 3)), "spatial": grid}

    return encode


def taught_by(source: Source, teachers: Mapping[str, FrozenTeacher], cache: str | Path) -> Source:
    """``source`` with what every teacher says about its frames, computed once and kept:
    ``target_<name>_summary`` [T, Ds] and ``target_<name>_spatial`` [T, h, w, Dp], float16."""
    for name, teacher in teachers.items():
        made = code("layers", "zoo/action", "zoo/encode", "zoo/preprocess.py", "train/teachers.py")
        key = f"{name} {teacher.identity()} {made}"
        source = Taught(source, _teach(source, name, teacher), cache, key, boxes=False)
    return source


def _teach(
    source: Source, name: str, teacher: FrozenTeacher
) -> Callable[[int], dict[str, np.ndarray]]:
    run = jax.jit(lambda v, x: teacher.encode(v, x.astype(jnp.float32) / 255))
    longest = max(source.length(video) for video in range(len(source)))

    def teach(video: int) -> dict[str, np.ndarray]:
        frames = source.read(video, 0, source.length(video)).frames
        # one shape, one compile for frames that stand alone; a clip is shown whole
        size = min(CHUNK, longest) if teacher.alone else len(frames)
        parts = []
        for low in range(0, len(frames), size):
            pick = np.arange(low, low + size).clip(max=len(frames) - 1)
            out = run(teacher.variables, frames[pick][None])
            parts.append({k: np.asarray(a)[0, : len(frames) - low] for k, a in out.items()})
        return {f"{name}_{k}": np.concatenate([p[k] for p in parts]) for k in parts[0]}

    return teach


class Stills(Derived):
    """Every frame of a source as a video of its own, so that frames are shuffled singly."""

    def __init__(self, source: Source):
        super().__init__(source)
        counts = [source.length(i) for i in range(len(source))]
        self.at = [(video, frame) for video, n in enumerate(counts) for frame in range(n)]
        self.videos = tuple(f"{source.videos[v]} frame {t}" for v, t in self.at)
        self._ids: dict[tuple[int, bool], str] = {}

    def length(self, video: int) -> int:
        return 1

    def read(self, video: int, start: int, count: int) -> Clip:
        video, frame = self.at[video]
        return self.source.read(video, frame + start, count)

    def identity(self, video: int, boxes: bool = False) -> str:
        video, frame = self.at[video]
        if (video, boxes) not in self._ids:  # all of a video's frames ask for one
            self._ids[video, boxes] = self.source.identity(video, boxes)
        return f"{self._ids[video, boxes]} frame {frame}"

    def extras(self, video: int, start: int, count: int) -> dict[str, np.ndarray]:
        video, frame = self.at[video]
        return self.source.extras(video, frame + start, count)
