"""Sources made of another source, computed once: mirrored, as a frozen stem's features, taught.

T frames of a video, K boxes, C classes, F channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .base import Clip, Source
from .kept import Kept, digest, fill
from .pipeline import mirror

Array = np.ndarray


class Derived(Source):
    """A source with the videos of another one; subclasses change what is read."""

    def __init__(self, source: Source):
        self.source = source
        self.classes, self.multi_label = source.classes, source.multi_label
        self.frame_rate, self.size, self.dense = source.frame_rate, source.size, source.dense
        self.max_boxes, self.videos, self.skipped = source.max_boxes, source.videos, source.skipped

    def length(self, video: int) -> int:
        return self.source.length(video)

    def read(self, video: int, start: int, count: int) -> Clip:
        return self.source.read(video, start, count)

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        return self.source.extras(video, start, count)

    def identity(self, video: int, boxes: bool = False) -> str:
        return self.source.identity(video, boxes)


class Subset(Derived):
    """Some videos of a source, by number."""

    def __init__(self, source: Source, chosen: Any):
        super().__init__(source)
        self.chosen = [int(i) for i in chosen]
        self.videos = tuple(source.videos[i] for i in self.chosen)

    def length(self, video: int) -> int:
        return self.source.length(self.chosen[video])

    def read(self, video: int, start: int, count: int) -> Clip:
        return self.source.read(self.chosen[video], start, count)

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        return self.source.extras(self.chosen[video], start, count)

    def identity(self, video: int, boxes: bool = False) -> str:
        return self.source.identity(self.chosen[video], boxes)


class Mirrored(Derived):
    """Every video, and every video in a mirror: number n + i is the mirrored i.

    The pipeline's ``flip`` does the same at random; this form lets what is computed from the
    pixels be kept. ``swap``: pairs of classes that a mirror exchanges.
    """

    def __init__(self, source: Source, swap: tuple[tuple[int, int], ...] = ()):
        super().__init__(source)
        self.videos = source.videos + tuple(f"{name} (mirrored)" for name in source.videos)
        self.swap = np.arange(len(source.classes))
        for i, j in swap:
            self.swap[[i, j]] = j, i

    def length(self, video: int) -> int:
        return self.source.length(video % len(self.source))

    def read(self, video: int, start: int, count: int) -> Clip:
        clip = self.source.read(video % len(self.source), start, count)
        return clip if video < len(self.source) else mirror(clip, self.swap)

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        if video >= len(self.source):
            return {}
        return self.source.extras(video, start, count)

    def identity(self, video: int, boxes: bool = False) -> str:
        own = self.source.identity(video % len(self.source), boxes)
        return own if video < len(self.source) else digest("mirrored", own)


class Shuffled(Derived):
    """A source whose frames come in an order drawn by chance, one for each video: what is known
    of them still is not known by their order."""

    def __init__(self, source: Source, seed: int = 0):
        super().__init__(source)
        self.seed = seed

    def read(self, video: int, start: int, count: int) -> Clip:
        length = self.length(video)
        order = np.random.default_rng((self.seed, video)).permutation(length)[start : start + count]
        clip = self.source.read(video, 0, length)
        return Clip(*(a[order] for a in clip))

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        return {}

    def identity(self, video: int, boxes: bool = False) -> str:
        return digest("shuffled", self.seed, video, self.source.identity(video, boxes))


class Varied(Derived):
    """Every video, and ``copies`` of it that ``vary`` made: number n + c * N is a copy of the n-th.

    Args:
      vary: (frames [T, ...] as they are read, generator of chance) -> (those of a copy [T', ...],
        for each the frame whose boxes and labels it has [T']).
    """

    def __init__(
        self,
        source: Source,
        copies: int,
        vary: Callable[[Array, np.random.Generator], tuple[Array, Array]],
        seed: int = 0,
    ):
        super().__init__(source)
        self.vary, self.seed, self.copies = vary, seed, copies
        more = [f"{n} (copy {c + 1})" for c in range(copies) for n in source.videos]
        self.videos = (*source.videos, *more)
        self._made: dict[int, Clip] = {}

    def _copy(self, video: int) -> Clip:
        if video not in self._made:
            number = video % len(self.source)
            clip = self.source.read(number, 0, self.source.length(number))
            rng = np.random.default_rng((self.seed, video))
            frames, at = self.vary(clip.frames, rng)
            self._made[video] = Clip(frames, *(a[at] for a in clip[1:]))
        return self._made[video]

    def length(self, video: int) -> int:
        own = video < len(self.source)
        return self.source.length(video) if own else len(self._copy(video).frames)

    def read(self, video: int, start: int, count: int) -> Clip:
        if video < len(self.source):
            return self.source.read(video, start, count)
        return Clip(*(a[start : start + count] for a in self._copy(video)))

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        return self.source.extras(video, start, count) if video < len(self.source) else {}

    def identity(self, video: int, boxes: bool = False) -> str:
        own = self.source.identity(video % len(self.source), boxes)
        return own if video < len(self.source) else digest("varied", self.seed, video, own)


class Featured(Derived):
    """A source whose frames are the features of a frozen stem, computed once.

    Args:
      encode: frames [N, H, W, 3] uint8 -> features [N, h, w, F].
      cache: a folder that keeps them as float16, by what they were computed from (``kept``).
      key: who computes them: the stem's name, weights and code.

    Raises:
      DataError: the cache cannot be written, or has not room.
    """

    def __init__(
        self, source: Source, encode: Callable[[Array], Array], cache: str | Path, key: str = ""
    ):
        super().__init__(source)
        self.key = key
        self._rest: dict[int, Clip] = {}
        counts = [source.length(i) for i in range(len(source))]
        ids = [source.identity(i) for i in range(len(source))]
        self.kept = _filled(
            cache, key, len(source), counts, "features",
            lambda i: {"features": np.asarray(encode(source.read(i, 0, counts[i]).frames))}, ids,
        )  # fmt: skip

    def read(self, video: int, start: int, count: int) -> Clip:
        part = slice(start, start + count)
        rest = self._rest.get(video)
        if rest is None:  # boxes and labels are kept: pictures are drawn or decoded only once
            clip = self.source.read(video, 0, self.length(video))
            rest = self._rest[video] = clip._replace(frames=clip.frames[:, :0, :0].copy())
        own = Clip(*(a[part] for a in rest))
        return own._replace(frames=self.kept.read(video, start, count)["features"])

    def identity(self, video: int, boxes: bool = False) -> str:
        return digest(self.key, self.source.identity(video, boxes))


class Taught(Derived):
    """A source that brings what a teacher said about every frame: ``target_…`` in its batches.

    Args:
      teach: number of a video -> arrays [T, ...] of the whole video, by name.
      cache: as in :class:`Featured`; key: the teacher's weights, settings and code.
      boxes: the answers depend on the boxes too.
    """

    def __init__(
        self,
        source: Source,
        teach: Callable[[int], dict[str, Array]],
        cache: str | Path,
        key: str = "",
        *,
        boxes: bool = True,
    ):
        super().__init__(source)
        counts = [source.length(i) for i in range(len(source))]
        ids = [source.identity(i, boxes) for i in range(len(source))]
        self.kept = _filled(cache, key, len(source), counts, "teacher's answers", teach, ids)

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        own = self.kept.read(video, start, count)
        more = {f"target_{name}": value for name, value in own.items()}
        return {**self.source.extras(video, start, count), **more}


def _filled(
    cache: str | Path,
    key: str,
    videos: int,
    counts: Sequence[int],
    title: str,
    make: Callable[[int], dict[str, Array]],
    identities: Sequence[str] = (),
) -> Kept:
    """Arrays of all videos, made where they are not kept yet; identities: of the videos."""
    folder = Path(cache) / title.split()[0].removesuffix("'s")
    names = identities or [str(i) for i in range(videos)]
    kept = Kept(
        folder, [digest(title, key, n, c) for n, c in zip(names, counts, strict=False)], counts
    )
    fill(kept, title, make)
    return kept
