"""What a run leaves behind: an annotated MP4 and a JSON-lines file, both readable at any moment."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Colorspace, VideoReformatter

from ..layers.streaming import Json
from .results import Claim, OutputError

__all__ = ["JsonLines", "OutputError", "VideoWriter"]

TICKS = 60_000  # per second: divides the usual rates (1001/30000 too) and fits MPEG-4's 16 bits
FRAGMENT = 0.5  # seconds of video that a killed process may lose at most
# A picture stands for at most 2^31 ticks in MP4, 9.9 hours; what would be longer is shifted by the
# muxer without a word. So in a gap the last picture is written again and again.
HOLD = 8 * 3600 * TICKS
LONGEST = 10 * 365 * 86400 * TICKS


class VideoWriter:
    """H.264 in fragmented MP4: what is on disk plays, even after `kill -9`.

    Fragments are self-contained and written every half second, so no index has to be added at
    the end. Odd sizes are padded by repeating the last row or column, because 4:2:0 needs even
    ones. Colours are BT.709 and marked so. Times are kept across gaps of up to ten years: in one of
    more than 8 hours the last picture is repeated every 8 hours.
    """

    def __init__(
        self,
        path: str | Path | Claim,
        fps: float,
        size: tuple[int, int],
        *,
        codec: str | None = None,
        overwrite: bool = False,
    ):
        """path: or the claim on it, which ends with this. fps: frames per second, for frames
        written without a time. size: (height, width).

        codec: an FFmpeg encoder name; None takes libx264, else mpeg4. overwrite: replace what is at
        the path. Raises `OutputError`.
        """
        self._claim = path if isinstance(path, Claim) else None
        self.path, self.size = Path(path.path if isinstance(path, Claim) else path), size
        if not (math.isfinite(fps) and fps > 0):
            raise OutputError(f"{path}: fps={fps}: give a positive number of frames per second")
        if len(size) != 2 or min(size) < 1:
            raise OutputError(f"{path}: size={size}: give (height, width), both at least 1")
        self._claim = self._claim or Claim(self.path, overwrite)
        self.fps, self.frames = float(fps), 0
        self._last: Any = None  # the picture that a gap repeats
        self._start = 0.0
        self._last_pts = -1
        self._container: Any = None
        codec = codec or ("libx264" if "libx264" in av.codecs_available else "mpeg4")
        try:
            # `file:` so that a colon in the name is not taken for a protocol.
            self._container = av.open(
                f"file:{self.path}",
                "w",
                format="mp4",
                options={
                    "movflags": "frag_keyframe+empty_moov+default_base_moof",
                    "frag_duration": str(int(FRAGMENT * 1e6)),
                    "flush_packets": "1",
                },
            )
            self._open_encoder(codec)
        except (FFmpegError, OSError, ValueError) as error:
            self._abandon()
            raise OutputError(f"{path}: cannot be written as {codec} video ({error})") from error
        self._to_yuv = VideoReformatter()

    def _open_encoder(self, codec: str) -> None:
        # The nearest plain fraction; MPEG-4 has no room for 2997002997/100000000.
        rate = Fraction(self.fps).limit_denominator(1001)
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
        if codec != "libx264":
            options = {"qscale": "4"}
        stream = self._container.add_stream(codec, rate=rate, options=options)
        height, width = self.size
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.gop_size = max(1, round(2 * self.fps))  # a key frame every 2 s, to seek to
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16-235
        self._stream = stream

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """Add one frame: uint8 [h, w, 3] RGB; time in seconds, None continues at `fps`.

        Times may be irregular but must increase; the video starts with the first one. Raises
        `OutputError` for a wrong image or time and when the disk refuses.
        """
        if self._container is None:
            raise OutputError(f"{self.path}: is closed; open a new VideoWriter")
        height, width = self.size
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise OutputError(
                f"{self.path}: image is {image.dtype} {list(image.shape)}; this video takes "
                f"uint8 [{height}, {width}, 3]"
            )
        if time is None:
            time = self._start + (self._last_pts / TICKS + 1 / self.fps if self.frames else 0.0)
        if not math.isfinite(time):
            raise OutputError(f"{self.path}: time={time}: give seconds")
        if self.frames == 0:
            self._start = time
        pts = round((time - self._start) * TICKS)
        if pts - self._last_pts > LONGEST:
            raise OutputError(
                f"{self.path}: time {time:g} s is more than ten years after the last frame's: the "
                "clock of the source has jumped; begin a new video"
            )
        if pts <= self._last_pts:
            raise OutputError(
                f"{self.path}: time {time:.6f} s does not come after the last frame's "
                f"{self._start + self._last_pts / TICKS:.6f} s; frames must be in order"
            )
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        while self.frames and pts - self._last_pts > HOLD:
            self._add(self._last, self._last_pts + HOLD)
        self._add(frame, pts)
        self.frames, self._last = self.frames + 1, frame

    def _add(self, frame: av.VideoFrame, pts: int) -> None:
        frame = self._to_yuv.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU709)
        frame.pts, frame.time_base = pts, Fraction(1, TICKS)
        self._last_pts = pts
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (FFmpegError, OSError) as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}); is the disk full?"
            ) from error

    def close(self) -> None:
        """Write what the encoder still holds. Calling it again is harmless.

        A video without a single frame is not left behind.
        """
        if self._container is None:
            return
        try:
            if self.frames:
                self._mux(None)
        finally:
            self._abandon()

    def _abandon(self) -> None:
        container, self._container = self._container, None
        try:
            if container is not None:
                container.close()
        except (FFmpegError, OSError) as error:
            raise OutputError(f"{self.path}: cannot be finished ({error})") from error
        finally:
            if self._claim is not None:
                if self.path.is_file() and not self.frames:
                    self.path.write_bytes(b"")  # a header without a picture is not left behind
                self._claim.release()

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class JsonLines:
    """One JSON object per line, on disk as soon as it is written.

    numpy numbers and arrays are allowed; NaN and infinities, which JSON lacks, become null.
    """

    def __init__(self, path: str | Path | Claim, overwrite: bool = False):
        """path: or the claim on it, which ends with this. overwrite: replace what is there.

        Raises `OutputError`.
        """
        self._claim = path if isinstance(path, Claim) else Claim(path, overwrite)
        self.path, self.lines = self._claim.path, 0
        self._file: Any = open(self.path, "w", encoding="utf-8")  # noqa: SIM115  closed by close()

    def write(self, record: Json) -> None:
        """Append one record. Raises `OutputError` for what JSON cannot hold, or a full disk."""
        if self._file is None:
            raise OutputError(f"{self.path}: is closed; open a new JsonLines")
        try:
            line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
        except TypeError as error:
            raise OutputError(f"{self.path}: record is not JSON ({error})") from error
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}); is the disk full?"
            ) from error
        self.lines += 1

    def close(self) -> None:
        """Calling it again is harmless."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            finally:
                self._claim.release()

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def _plain(value: Any) -> Any:
    """numpy to Python, non-finite numbers to None, recursively."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
