"""What an action model makes of videos, kept: what a decision is fitted on.

T frames, C classes, D features, P persons found in all frames.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..layers.streaming import Array, Carry, Params
from ..zoo import Resolved, preprocess
from ..zoo.trees import flatten
from .data.base import DataError, need

LEARNED, OTHER, EITHER = 1, 0, -1


class Video(NamedTuple):
    """A video that is to be shown to a model.

    kind: LEARNED, of the kind that it learned; OTHER; EITHER, of others, and shows ``truth`` after
      all: that is no false alarm, and no lesson about either kind.
    open: gives frames [T, H, W, 3] uint8 and frames/s.
    """

    name: str
    truth: frozenset[int]
    kind: int
    open: Callable[[], tuple[np.ndarray, float]]


class Seen(NamedTuple):
    """What the model made of it: logits [T, C] before any temperature, of the whole frame, and
    features, of the frame [T, D] and of persons [P, D]. ``held_back``: nothing is fitted to it."""

    name: str
    truth: frozenset[int]
    kind: int
    held_back: bool
    frame_rate: float
    logits: np.ndarray
    frame: np.ndarray
    persons: np.ndarray


def looker(found: Resolved) -> Callable[[Video], Seen]:
    """Shows a video to a model without a decision, as a stream; :func:`split` parts what it saw."""
    model, params, card = found

    @jax.jit
    def run(params: Params, carry: Carry, frames: Array) -> Any:
        out: Any
        frames = preprocess(frames, card)
        carry, out = model.apply(params, carry, frames, taps=("frame", "roi"))
        return carry, (out.logits, out.taps["frame"], out.taps.get("roi"), out.box_valid)

    def look(one: Video) -> Seen:
        frames, rate = one.open()
        count, chunk = len(frames), 8 if len(frames) <= 8 else 40  # few shapes, few compiles
        frames = np.concatenate([frames, np.repeat(frames[-1:], -count % chunk, axis=0)])
        carry, parts = _stream(model, frames), []
        for start in range(0, len(frames), chunk):
            carry, part = run(params, carry, frames[None, start : start + chunk])
            parts.append([None if a is None else np.asarray(a[0]) for a in part])
        logits, frame, roi, there = (
            None if of[0] is None else np.concatenate(of)[:count] for of in zip(*parts, strict=True)
        )
        assert logits is not None and frame is not None
        persons = frame[:0] if roi is None else roi[there]
        kept = [np.asarray(a, np.float32) for a in (logits, frame, persons)]
        return Seen(one.name, one.truth, one.kind, False, rate, *kept)

    return look


def _stream(model: Any, frames: np.ndarray) -> Any:
    return model.init_carry(1, frames.shape[1:3])


def split(seen: Iterable[Seen], share: float, clip: Callable[[str], str] = str) -> list[Seen]:
    """``share`` of the clips of every class, and of the others, held back: the same ones at every
    start, by a hash of ``clip(name)``. What is of one clip is on one side."""
    seen = list(seen)
    kinds: dict[str, tuple[bool, int]] = {}
    for one in seen:
        learned = one.kind == LEARNED
        kinds.setdefault(clip(one.name), (learned, min(one.truth, default=-1) if learned else -1))
    back: set[str] = set()
    for kind in set(kinds.values()):
        same = [name for name, of in kinds.items() if of == kind]
        same.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        back.update(same[: round(share * len(same))])
    return [one._replace(held_back=clip(one.name) in back) for one in seen]


def identity(params: Params) -> str:
    """Of a model's weights, whatever it decides."""
    found = hashlib.sha256()
    for name, leaf in sorted(flatten(params).items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
    return found.hexdigest()


def keep(path: Path, seen: Sequence[Seen], params: Params) -> None:
    """Writes one .npz file: all videos after one another, and how long each is."""
    classes = seen[0].logits.shape[1]
    truth = [[number in one.truth for number in range(classes)] for one in seen]
    joined = {part: np.concatenate([getattr(one, part) for one in seen]) for part in LONG}
    sizes = {f"{part}_count": [len(getattr(one, part)) for one in seen] for part in LONG}
    short = {part: [getattr(one, part) for one in seen] for part in SHORT}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        arrays: dict[str, Any] = {
            "of": identity(params),
            "truth": truth,
            **short,
            **joined,
            **sizes,
        }
        np.savez(file, **arrays)


LONG = ("logits", "frame", "persons")
SHORT = ("name", "kind", "held_back", "frame_rate")


def kept(path: Path, params: Params) -> list[Seen]:
    """What :func:`keep` wrote. Raises DataError: no such file, or of other weights."""
    need(path, "what the model saw", "--keep FILE.npz writes it")
    try:
        with np.load(path, allow_pickle=False) as file:
            a = {name: file[name] for name in file.files}
        ends = {part: np.cumsum(a[f"{part}_count"])[:-1] for part in LONG}
        long = [np.split(a[part], ends[part]) for part in LONG]
        short = [a[part].tolist() for part in SHORT]
        truth, of = [frozenset(np.flatnonzero(row).tolist()) for row in a["truth"]], str(a["of"])
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file that --keep wrote ({error})") from None
    if of != identity(params):
        raise DataError(f"{path}: seen by other weights than these; collect it again with --keep")
    names, *rest = short
    return [Seen(name, *one) for name, *one in zip(names, truth, *rest, *long, strict=True)]
