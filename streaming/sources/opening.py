"""Opening a source by its address: files, cameras, RTSP and HLS, through PyAV.

    with open_source("street.mp4", size=(224, 224)) as source:
        for frame in source:
            ...

Recorded video is decoded inline, every frame of it. A live source (`LiveSource`) is decoded in a
background thread, reconnects after faults, and gives the latest frame when the reader is slow.
"""

import re
from pathlib import Path
from time import sleep
from typing import Any

from av.error import FFmpegError

from ...layers.streaming import Fields
from .base import FrameSource, SourceError, Wanted, reason
from .connecting import (
    LIVE_SCHEMES,
    LIVE_SECONDS,
    RECORDING_SECONDS,
    Patience,
    connect,
    is_recording,
    name_of,
    reader_options,
    remedy,
)
from .file import FileSource
from .jitter import MAX_DELAY, NETWORK_DELAY
from .live import BACKOFF_CAP, BACKOFF_FIRST, LiveSource
from .redaction import redact
from .remote import RemoteSource


def open_source(
    address: str | int | Path,
    *,
    size: Wanted = None,
    live: bool | None = None,
    keep_original: bool = False,
    stream: str | None = None,
    queue: int = 2,
    delay: float | None = 0.0,
    open_timeout: float = 5.0,
    read_timeout: float | None = None,
    connect_retries: int = 3,
    max_retries: int | None = None,
    rtsp_transport: str | None = None,
    options: dict[str, str] | None = None,
) -> FrameSource:
    """Open a video file, a camera (0, "0" or "/dev/video0") or an address, and prove it readable.

    size: (height, width) of the images, resized in swscale; None keeps the source's own; a function
        makes it of the source's own (height, width). A card's ``input_size`` makes the picture that
        its checkpoint was trained on, where the card says how (``zoo.picture``).
    live: None decides by the address (cameras, RTSP and its like, HLS without an end are live) and
        by what its server says: over HTTP, what has a length in bytes or seconds is a recording,
        and multipart pictures are a camera. True on a file plays it at its own speed, over and
        over, like a camera.
    keep_original: also give each frame at its original size, for drawing on.
    stream: name of the stream, in every frame's metadata; default the source's name.
    queue: frames a live source holds for a slow reader; beyond it the oldest is dropped.
    delay: seconds between a live frame's capture and its delivery: its jitter buffer. A network
        that jitters by less is not noticed. It holds 2 * delay * fps frames more. None, which is
        what the commands and the server give: `NETWORK_DELAY` for a live address (RTSP, HLS and
        their like), 0 for cameras and files of this machine.
    open_timeout, read_timeout: seconds to wait for a connection, and for the next picture; by
        default 5, and 2 of a live stream, 30 of a recording (whose server may pause: FFmpeg asks
        again for the rest of it, by range, in that time).
    connect_retries: attempts after the first one until the first frame of an address has come.
    max_retries: attempts in a row after an outage of a live source; None never gives up.
    rtsp_transport: of an RTSP camera's pictures: "tcp", "udp", or "auto", which is TCP unless the
        camera refuses it (default).
    options: more FFmpeg options for the reader, e.g. {"framerate": "30"} for a camera.

    Returns once the first frame is decoded. Raises `SourceError` for a missing or non-video file,
    one without a decodable frame, and for an address that cannot be reached. A recording over HTTP
    that breaks off raises `SourceError`, too, after its last frame.
    """
    if size is not None and not callable(size) and (len(size) != 2 or min(size) < 1):
        raise SourceError(f"size={size}: give (height, width), both at least 1")
    if queue < 1:
        raise SourceError(f"queue={queue}: a live source needs room for at least 1 frame")
    if delay is not None and not 0 <= delay < MAX_DELAY:
        raise SourceError(f"delay={delay}: give 0 up to {MAX_DELAY:g} seconds")
    text = str(address)
    if text.isdecimal() and (isinstance(address, int) or not Path(text).exists()):
        text = f"/dev/video{int(text)}"
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    scheme = match[1].lower() if match else ""
    if scheme == "file":
        text, scheme = text[len("file://") :], ""

    if delay is None:
        delay = NETWORK_DELAY if scheme else 0.0
    options = reader_options(rtsp_transport, options)
    silence = LIVE_SECONDS if read_timeout is None else read_timeout
    common: Fields = dict(size=size, keep_original=keep_original, stream=stream)
    live_options: Fields = dict(
        queue=queue, delay=delay, open_timeout=open_timeout, read_timeout=silence,
        connect_retries=connect_retries, max_retries=max_retries, options=options, **common,
    )  # fmt: skip
    if text.startswith("/dev/video"):
        _check_camera(text)
        return LiveSource(text, format="v4l2", **live_options)
    if not scheme:
        _check_file(text)
        if live:
            return LiveSource(f"file:{text}", paced=True, **live_options)
        return FileSource(f"file:{text}", name=text, options=options, **common)
    if live or (live is None and scheme in LIVE_SCHEMES):
        return LiveSource(text, paced=scheme not in LIVE_SCHEMES, **live_options)

    # http(s) and the rest: only what was opened says whether it ends.
    patience = Patience(silence)
    limits = (open_timeout, patience)
    container = _connect_with_retries(text, options, limits, connect_retries)
    if live is None and not is_recording(container):
        return LiveSource(
            text, paced=True, once=True, container=container, patience=patience, **live_options
        )
    patience.seconds = RECORDING_SECONDS if read_timeout is None else read_timeout
    return RemoteSource(
        FileSource(text, name=name_of(text), container=container, remote=True, **common)
    )


def _check_file(path: str) -> None:
    if not Path(path).exists():
        raise SourceError(f"{redact(path)}: no such file; check the path")
    if Path(path).is_dir():
        raise SourceError(f"{path}: is a folder; give a video file inside it")
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        raise SourceError(f"{path}: is empty (0 bytes); copy or download it again")


def _check_camera(path: str) -> None:
    if not Path(path).exists():
        found = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
        raise SourceError(f"{path}: no such camera; cameras found: {found}")


def _connect_with_retries(
    address: str, options: dict[str, str], timeout: tuple[float, Patience], retries: int
) -> Any:
    for attempt in range(retries + 1):
        try:
            return connect(address, None, options, timeout)
        except (FFmpegError, OSError) as error:
            if attempt == retries:
                raise SourceError(
                    f"{name_of(address)}: cannot be opened after {attempt + 1} attempts "
                    f"({reason(error)}); " + remedy(address, error, options)
                ) from error
        sleep(min(BACKOFF_CAP, BACKOFF_FIRST * 2**attempt))
