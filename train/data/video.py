"""Video files to arrays: decoded by PyAV at one frame rate and size, once, and kept.

Pixels are those that the streaming room sees: swscale, bilinear, straight to the size, of the track
that FFmpeg's tool would take, turned, mirrored and in the shape that the file says
(``zoo/video.py``). The two rooms do not import each other; a test holds them equal.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter

from ...zoo.video import best_video, of_frame, pixel_aspect
from .base import DataError, files_below, need
from .kept import code, digest, write_whole

SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
Size = tuple[int, int]
BLOCK = 1 << 16  # bytes of a file that are looked at in three places
DECODED_BY = ("train/data/video.py", "zoo/video.py")


class Info(NamedTuple):
    """What a file holds, without decoding it."""

    frames: int
    rate: float  # nominal frames/s
    seconds: float  # from the file's origin to the end of the last picture
    size: Size  # (height, width) as stored


def probe(path: str | Path) -> Info:
    """Count, rate and size by reading the packets, and one picture as proof.

    Raises DataError as :func:`decode` does.
    """
    path = Path(path)
    with _open(path) as container:
        stream = _video(container, path)
        times: list[float] = []
        try:
            for packet in container.demux(stream):
                if packet.size:
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    base = packet.time_base
                    times.append(float(stamp * base) if stamp is not None and base else np.nan)
        except (FFmpegError, OSError):
            pass  # cut off: what came before it counts
        if not times:
            raise DataError(f"{path}: no pictures in it; copy the file again")
        rate = _rate(stream)
        origin = (container.start_time or 0) / av.time_base
        known = not np.isnan(times).all()
        seconds = (
            float(np.nanmax(times)) - origin if known else (len(times) - 1) / rate
        ) + 1 / rate
        info = Info(len(times), rate, seconds, (stream.height, stream.width))
    with _open(path) as container:
        if next(_pictures(container, _video(container, path)), None) is None:
            raise DataError(f"{path}: not one picture of it can be decoded; copy the file again")
    return info


def count(info: Info, rate: float | None) -> int:
    """Frames that :func:`decode` gives of a sound file at this rate."""
    if rate is None:
        return info.frames
    return max(1, math.ceil((info.seconds - 0.5 / info.rate) * rate - 1e-9))


def decode(
    path: str | Path,
    size: Size | None = None,
    rate: float | None = None,
    *,
    start: float = 0.0,
    seconds: float | None = None,
) -> np.ndarray:
    """Frames [N, H, W, 3] uint8 RGB of a file, or of ``seconds`` of it from ``start`` on.

    Args:
      size: (height, width); None keeps the file's own.
      rate: frames/s; frame k is the picture nearest to start + k / rate, so that faster files
        lose pictures and slower ones repeat them. None takes every picture.

    A damaged packet inside is skipped, and the picture before it held.

    Raises:
      DataError: no such file, no video in it, or not one picture that can be decoded.
    """
    path = Path(path)
    with _open(path) as container:
        stream = _video(container, path)
        stream.thread_type = "AUTO"
        interval = 1 / _rate(stream)
        origin = container.start_time
        origin = 0.0 if origin is None else origin / av.time_base
        if start > 0:
            container.seek(int((origin + start) * av.time_base), backward=True)
        end = np.inf if seconds is None else start + seconds
        resize, out = Resize(pixel_aspect(stream)), []
        held: av.VideoFrame | None = None
        last: float | None = None
        for picture, stamped in _pictures(container, stream):
            # AVI stamps pictures in the order of decoding: past the first one, they are counted
            time = None if picture.time is None else picture.time - origin
            if last is not None and (time is None or not stamped or time <= last):
                time = last + interval
            time = last = start if time is None else time
            if rate is None:
                if time >= end - interval / 2:
                    break
                if time >= start - interval / 2:
                    out.append(resize(picture, size))
                continue
            # `held` is the nearest to every moment up to half way to this picture
            if held is not None:
                until = min(time - interval / 2, end - 1e-6)
                _hold(out, resize, held, size, start, rate, until)
            if time >= end + interval / 2:
                break
            held = picture
        if rate is not None and held is not None and last is not None:
            _hold(out, resize, held, size, start, rate, min(last + interval / 2, end - 1e-6))
    if not out:
        what = "not one picture of it can be decoded" if start == 0 else f"it ends before {start} s"
        raise DataError(f"{path}: {what}; copy the file again, or leave it out")
    return np.stack(out)


def _hold(
    out: list[np.ndarray],
    resize: Resize,
    picture: av.VideoFrame,
    size: Size | None,
    start: float,
    rate: float,
    until: float,
) -> None:
    """Give the picture to every moment start + k / rate before ``until``; convert it only if so."""
    image: np.ndarray | None = None
    while start + len(out) / rate < until:
        image = resize(picture, size) if image is None else image
        out.append(image)


class Resize:
    """Decoded picture -> uint8 RGB [H, W, 3] by swscale, bilinear, as it is to be displayed:
    upright, not mirrored and, without a size, in square pixels."""

    def __init__(self, aspect: float = 1.0):
        """aspect: width / height of a stored pixel."""
        self._swscale, self._aspect = VideoReformatter(), aspect

    def __call__(self, picture: av.VideoFrame, size: Size | None = None) -> np.ndarray:
        turned = of_frame(picture)
        height, width = self._displayed(picture) if size is None else size
        if size is not None and turned.transposed:
            height, width = width, height
        rgb = self._swscale.reformat(
            picture, width=width, height=height, format="rgb24",
            interpolation=Interpolation.BILINEAR,
        )  # fmt: skip
        # a copy: the decoder may go on predicting from this very picture
        return np.array(turned(rgb.to_ndarray()))

    def _displayed(self, picture: av.VideoFrame) -> Size:
        """Of the stored picture in square pixels, before it is turned."""
        height, width, aspect = picture.height, picture.width, self._aspect
        if aspect > 1:
            width = round(width * aspect)
        elif aspect < 1:
            height = round(height / aspect)
        return height, width


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """An RGB image [H, W, 3] uint8 at another size, as a video's pictures are resized."""
    return Resize()(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"), size)


def find(folder: str | Path, *, recursive: bool = True) -> list[Path]:
    """Video files under a folder by suffix, sorted. Raises DataError if there are none."""
    folder = need(folder, "the folder of videos", "check the path")
    every = files_below(folder) if recursive else folder.glob("*")
    found = sorted(p for p in every if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise DataError(f"{folder}: no videos in it (looked for {', '.join(SUFFIXES)})")
    return found


def load(
    paths: Mapping[str, Path],
    size: Size,
    rate: float,
    *,
    cache: str | Path | None = None,
    limit: float = 8.0,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Decode a small data set into memory: frames by name, and why the others could not be.

    Args:
      paths: file by name.
      cache: folder that keeps the decoded frames; files changed since are decoded again.
      limit: GiB of frames that are allowed.

    Raises:
      DataError: no files at all, none that decodes, or more frames than ``limit`` holds.
    """
    frames: dict[str, np.ndarray] = {}
    skipped: dict[str, str] = {}
    used = 0
    for name, path in paths.items():
        try:
            kept_as = key(path, decoded(path, size, rate))
            got = stored(cache, kept_as, lambda: {"frames": decode(path, size, rate)})
        except DataError as error:
            skipped[name] = str(error)
            continue
        frames[name] = got["frames"]
        used += got["frames"].nbytes
        if used > limit * 2**30:
            share = len(frames) / len(paths)
            raise DataError(
                f"{len(paths)} videos at {size[0]}x{size[1]} and {rate:g} frames/s need about "
                f"{used / share / 2**30:.1f} GiB, above limit={limit:g}: lower size or frame_rate"
            )
    if not frames:
        why = next(iter(skipped.values()), "the list is empty")
        raise DataError(f"none of {len(paths)} videos can be used, e.g. {why}")
    return frames, skipped


def key(path: Path, *what: Any) -> str:
    """Short name of a file's content as it is now (:func:`content`) and of what was made of it."""
    return f"{path.stem[:40]}-{digest(content(path), *what)[:16]}"


def content(path: Path) -> str:
    """A hash that tells a file's content from others without reading all of it: length, time of
    the last change, and 64 KiB each of its beginning, middle and end. Its name and place do not
    count: a file that is moved keeps it, another one under the same name has its own."""
    try:
        stat = path.stat()
        found = hashlib.sha256(repr((stat.st_size, stat.st_mtime_ns)).encode())
        with path.open("rb") as file:
            for at in (0, (stat.st_size - BLOCK) // 2, stat.st_size - BLOCK):
                file.seek(max(at, 0))
                found.update(file.read(BLOCK))
    except OSError as error:
        return f"none: {error.strerror}"
    return found.hexdigest()


def decoded(path: Path, *how: Any) -> str:
    """Of a file's content and of what its pictures are decoded with and to."""
    return digest(content(path), *how, av.__version__, code(*DECODED_BY))


def stored(folder: str | Path | None, name: str, make: Any) -> dict[str, np.ndarray]:
    """``make()``, a dict of arrays, or what an earlier call left in ``folder/name.npz``.

    The file appears whole or not at all, so that processes may share a folder and die in it.
    """
    if folder is None:
        return make()
    path = Path(folder) / f"{name}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            pass  # damaged: made anew below
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        size = sum(np.asarray(a).nbytes for a in arrays.values()) / 2**20
        raise DataError(
            f"cannot keep {size:.1f} MiB in {path.parent}: {error.strerror or error}; make room or "
            "name another folder with --set cache=FOLDER"
        ) from None
    return arrays


def _open(path: Path) -> Any:
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    try:
        return av.open(f"file:{path}")
    except (FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as video ({_reason(error)})") from error


def _video(container: Any, path: Path) -> Any:
    stream = best_video(container)
    if stream is None:
        raise DataError(f"{path}: has no video track")
    return stream


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _pictures(container: Any, stream: Any) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Pictures in the order of time, and whether the file stamps when they are shown."""
    packets = container.demux(stream)
    stamped = True
    while True:
        try:
            packet = next(packets, None)
        except (FFmpegError, OSError):
            packet = None  # the file is cut off here
        if packet is None:
            return
        if packet.size:
            stamped = packet.pts is not None
        try:
            for picture in packet.decode():
                yield picture, stamped
        except (FFmpegError, OSError):
            continue


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]
