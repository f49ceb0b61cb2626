"""What was computed once for every frame of a video, kept by what it was computed from.

A file per video, named by a hash of everything that decides what is in it: the video's identity
(``Source.identity``: content, decoder, size, rate, boxes), who computed it (weights, settings) and
the code that did. Videos that share names share nothing; a source that shrinks, grows or is cut
differently keeps what still holds; a pass that was stopped goes on where it was. Files appear whole
or not at all, and are read as files, not mapped: a disk that fills up is an error with a message.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .base import DataError

Array = np.ndarray


class Kept:
    """Arrays [T, ...] by name of every video, float16.

    Args:
      folder: where the files are.
      keys: the hash of each video; counts: its frames.
    """

    def __init__(self, folder: Path, keys: Sequence[str], counts: Sequence[int]):
        self.folder, self.keys, self.counts = folder, tuple(keys), tuple(counts)

    def path(self, video: int) -> Path:
        return self.folder / f"{self.keys[video]}.npy"

    def read(self, video: int, start: int, count: int) -> dict[str, Array]:
        """Frames ``start`` to ``start + count`` of a video. Raises DataError: the file is gone."""
        path = self.path(video)
        try:
            with path.open("rb") as file:
                dtype, frames = _header(file)
                part = max(min(count, frames - start), 0)
                file.seek(start * dtype.itemsize, os.SEEK_CUR)
                rows = np.frombuffer(file.read(part * dtype.itemsize), dtype)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: what was kept there cannot be read any more ({error}); the same command "
                "makes it anew"
            ) from None
        return {name: np.ascontiguousarray(rows[name]) for name in dtype.names or ()}

    def missing(self) -> list[int]:
        """Numbers of the videos that are not there, or not whole."""
        return [i for i in range(len(self.keys)) if not self._whole(i)]

    def _whole(self, video: int) -> bool:
        path = self.path(video)
        try:
            with path.open("rb") as file:
                dtype, frames = _header(file)
                length = file.tell() + frames * dtype.itemsize
            return frames == self.counts[video] and path.stat().st_size == length
        except (OSError, ValueError):
            return False

    def write(self, video: int, arrays: dict[str, Array]) -> int:
        """Keeps a video's arrays; bytes. Raises OSError where they cannot be written."""
        rows = np.empty(
            self.counts[video],
            [(name, np.float16, np.shape(value)[1:]) for name, value in sorted(arrays.items())],
        )
        for name, value in arrays.items():
            rows[name] = value
        write_whole(self.path(video), lambda file: np.lib.format.write_array(file, rows))
        return rows.nbytes


def _header(file: Any) -> tuple[np.dtype, int]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if len(shape) != 1 or not dtype.names:
        raise ValueError("not frames by name")
    return dtype, shape[0]


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """A file that appears whole or not at all. Raises OSError."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # some disks notice only here that they are full
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def fill(kept: Kept, title: str, make: Callable[[int], dict[str, Array]]) -> None:
    """Makes what is missing, video by video, told on stderr every few seconds.

    Raises DataError: the folder cannot be written to, or there is not room for all of it (told
    after the first video, which says how much a frame takes, and not after hours).
    """
    todo = kept.missing()
    if not todo:
        return
    try:
        kept.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot keep the {title} in {kept.folder}: {_reason(error)}") from None
    left = sum(kept.counts[i] for i in todo)
    began = last = time.monotonic()
    for done, video in enumerate(todo):
        arrays = make(video)
        frame = sum(2 * math.prod(np.shape(a)[1:]) for a in arrays.values())
        _room(kept.folder, title, left * frame)
        try:
            kept.write(video, arrays)
        except OSError as error:
            raise DataError(
                f"cannot keep the {title} in {kept.folder}: {_reason(error)}; {_need(left * frame)}"
                f" are still to come: make room or name another folder with --set cache=FOLDER, "
                "the same command goes on"
            ) from None
        left -= kept.counts[video]
        now = time.monotonic()
        if now - last > 10:
            last, rest = now, (now - began) / (done + 1) * (len(todo) - done - 1)
            line = f"{title}: {done + 1} of {len(todo)} videos, {rest:.0f} s left"
            print(line, file=sys.stderr, flush=True)


def _room(folder: Path, title: str, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DataError(
            f"the {title} still to come need {_need(need)} and {folder} has {_need(free)} free: "
            "make room, name another folder with --set cache=FOLDER, or lower data.size or "
            "data.frame_rate"
        )


def _need(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def digest(*what: Any) -> str:
    """A short hash of plain values and arrays."""
    found = hashlib.sha256()
    for value in what:
        if isinstance(value, np.ndarray):
            found.update(repr((value.shape, value.dtype.str)).encode())
            found.update(np.ascontiguousarray(value).tobytes())
        else:
            found.update(repr(value).encode())
        found.update(b";")
    return found.hexdigest()[:24]


@functools.cache
def code(*modules: str) -> str:
    """A hash of source files of this package, named from its root, such as ``layers`` (a folder,
    all of it) or ``train/stems.py``: what they computed before a change is not taken for what they
    compute now."""
    root = Path(__file__).resolve().parents[2]
    found = hashlib.sha256()
    for module in modules:
        path = root / module
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:16]
