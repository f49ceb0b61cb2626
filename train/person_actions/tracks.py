"""Videos as the action part of a pipeline sees them: who was followed, and the crops along the way.

A video is run once through ``follow-nano/coco`` and kept as one .npz file; training then reads
crops alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ... import zoo
from ...layers.streaming import Array
from ...zoo.action.person import Crops
from ...zoo.detect.yolox.model import FILL
from ...zoo.preprocess import fitted
from ...zoo.track.follow.act import FollowAct, FollowActConfig
from ...zoo.track.follow.model import Follow
from ..data import video

NAME = "follow-nano/coco"
CHUNK = 8


class Track(NamedTuple):
    """A person in the N frames in which he was seen."""

    id: int
    time: np.ndarray  # [N] int32, numbers of the frames
    crops: Crops  # leaves [N, ...] without batch, float16 but for the boxes
    scores: np.ndarray  # [N] of the detector


class Followed(NamedTuple):
    """A video."""

    name: str
    frames: int
    rate: float  # frames/s at which it was read
    tracks: list[Track]


def followed(name: str, path: Path, rate: float, folder: Path) -> Followed:
    """The tracks of a video at ``rate`` frames/s, from ``folder`` or made and kept there.

    Raises DataError for a file that does not decode."""
    file = folder / f"{name}.npz"
    if not file.is_file():
        _keep(file, path, rate)
    with np.load(file) as found:
        a = {key: found[key] for key in found.files}
    tracks = []
    for number in np.unique(a["id"]) if len(a["id"]) else ():
        mine = np.flatnonzero(a["id"] == number)
        crops = Crops(a["tight"][mine], a["wide"][mine], a["box"][mine])
        tracks.append(Track(int(number), a["t"][mine], crops, a["score"][mine]))
    return Followed(name, int(a["n"]), float(a["rate"]), tracks)


@functools.cache
def _pipeline() -> tuple[Callable[..., Any], Any, Any]:
    config: Any = zoo.model_config(NAME)
    params = zoo.load(NAME)[1]["params"]
    model = FollowAct(FollowActConfig(follow=config))

    @jax.jit
    def run(carry: Any, frames: Array, valid: Array) -> Any:
        out: Any = model.apply(
            {"params": {"follow": params}}, carry, frames, valid, method="persons"
        )
        carry, tracks, crops, there = out
        return carry, (tracks.held, tracks.scores, there, crops)

    return run, config, Follow(config, parent=None).init_carry


def _keep(file: Path, path: Path, rate: float) -> None:
    run, config, init_carry = _pipeline()
    height, width = fitted(video.probe(path).size, config.image_size)
    frames = video.decode(path, (height, width), rate)
    count = len(frames)
    whole = -(-count // CHUNK) * CHUNK - count
    # few shapes, few compiles: grey up to whole cells, as the detector adds it itself
    pad = ((0, whole), (0, -height % 32), (0, -width % 32), (0, 0))
    frames = np.pad(frames, pad, constant_values=int(FILL))
    carry, rows = init_carry(1), []
    for start in range(0, len(frames), CHUNK):
        part = jnp.asarray(frames[None, start : start + CHUNK], jnp.float32)
        valid = jnp.asarray(np.arange(start, start + CHUNK)[None] < count)
        carry, out = run(carry, part, valid)
        held, scores, there, crops = jax.tree.map(lambda a: np.asarray(a[0]), out)
        at = np.nonzero(there)
        half = [a[at].astype(np.float16) for a in (crops.tight, crops.wide)]
        rows.append((held[at], start + at[0], scores[at], crops.boxes[at], *half))
    keys = ("id", "t", "score", "box", "tight", "wide")
    joined = {k: np.concatenate(a) for k, a in zip(keys, zip(*rows, strict=True), strict=True)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as out:
        arrays: dict[str, Any] = {"n": count, "rate": rate, **joined}
        np.savez(out, **arrays)
