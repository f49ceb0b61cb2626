"""Sources made of another source, computed once: mirrored, as a frozen stem's features, taught.

T frames of a video, K boxes, C classes, F channels.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .base import Clip, DataError, Source
from .pipeline import mirror

Array = np.ndarray


class Derived(Source):
    """A source with the videos of another one; subclasses change what is read."""

    def __init__(self, source: Source):
        self.source = source
        self.classes, self.multi_label = source.classes, source.multi_label
        self.frame_rate, self.size = source.frame_rate, source.size
        self.max_boxes, self.videos, self.skipped = source.max_boxes, source.videos, source.skipped

    def length(self, video: int) -> int:
        return self.source.length(video)

    def read(self, video: int, start: int, count: int) -> Clip:
        return self.source.read(video, start, count)

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        return self.source.extras(video, start, count)


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


class Featured(Derived):
    """A source whose frames are the features of a frozen stem, computed once.

    Args:
      encode: frames [N, H, W, 3] uint8 -> features [N, h, w, F].
      cache: a file, ``….npy``, that keeps them as float16; read lazily. It belongs to these very
        videos: ``key`` (say, the stem's name) and the list of videos are part of its name.

    Raises:
      DataError: the cache cannot be written.
    """

    def __init__(
        self, source: Source, encode: Callable[[Array], Array], cache: str | Path, key: str = ""
    ):
        super().__init__(source)
        counts = [source.length(i) for i in range(len(source))]
        self.first = np.concatenate([[0], np.cumsum(counts)])
        self._rest: dict[int, Clip] = {}
        self.store = _filled(
            cache, (key, source.size, source.videos, counts), len(source), counts, "features",
            lambda i: {"features": np.asarray(encode(source.read(i, 0, counts[i]).frames))},
        )["features"]  # fmt: skip

    def read(self, video: int, start: int, count: int) -> Clip:
        low, part = self.first[video] + start, slice(start, start + count)
        rest = self._rest.get(video)
        if rest is None:  # boxes and labels are kept: pictures are drawn or decoded only once
            clip = self.source.read(video, 0, self.length(video))
            rest = self._rest[video] = clip._replace(frames=clip.frames[:, :0, :0].copy())
        own = Clip(*(a[part] for a in rest))
        return own._replace(frames=np.asarray(self.store[low : low + count]))


class Taught(Derived):
    """A source that brings what a teacher said about every frame: ``target_…`` in its batches.

    Args:
      teach: number of a video -> arrays [T, ...] of the whole video, by name.
      cache, key: as in :class:`Featured`.
    """

    def __init__(
        self,
        source: Source,
        teach: Callable[[int], dict[str, Array]],
        cache: str | Path,
        key: str = "",
    ):
        super().__init__(source)
        counts = [source.length(i) for i in range(len(source))]
        self.first = np.concatenate([[0], np.cumsum(counts)])
        what = (key, source.size, source.videos, counts)
        self.store = _filled(cache, what, len(source), counts, "teacher", teach)

    def extras(self, video: int, start: int, count: int) -> dict[str, Array]:
        low = self.first[video] + start
        own = {f"target_{n}": np.asarray(a[low : low + count]) for n, a in self.store.items()}
        return {**self.source.extras(video, start, count), **own}


def _filled(
    cache: str | Path,
    identity: Any,
    videos: int,
    counts: list[int],
    title: str,
    make: Callable[[int], dict[str, Array]],
) -> dict[str, Array]:
    """Arrays [all frames, ...] by name, mapped from files that ``make`` fills video by video."""
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    folder = Path(cache) / f"{title}-{digest}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
        except OSError as error:
            raise DataError(f"cannot keep the {title} in {folder.parent}: {error}") from None
        try:
            _fill(part, videos, counts, title, make)
            if not folder.is_dir():  # another process may have been faster
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return {p.stem: np.load(p, mmap_mode="r") for p in sorted(folder.glob("*.npy"))}


def _fill(
    folder: Path,
    videos: int,
    counts: list[int],
    title: str,
    make: Callable[[int], dict[str, Array]],
) -> None:
    low, clock = 0, time.perf_counter()
    files: dict[str, Any] = {}
    for video in range(videos):
        for name, value in make(video).items():
            if name not in files:
                files[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", np.float16, (sum(counts), *value.shape[1:])
                )
            files[name][low : low + counts[video]] = value.astype(np.float16)
        low += counts[video]
        if time.perf_counter() - clock > 10:
            clock = time.perf_counter()
            print(f"{title}: {video + 1} of {videos} videos", file=sys.stderr, flush=True)
    for value in files.values():
        value.flush()
