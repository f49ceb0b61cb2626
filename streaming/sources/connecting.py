"""Connections: FFmpeg's options for each kind of address, time limits, and what came of it.

A live stream must be given up soon, to be connected again; a recording must not be, because what
the server has not sent yet is still to come. So each kind has time limits of its own, and over HTTP
a recording is asked for again from the byte where it broke off (RFC 9110 section 14, by FFmpeg).
"""

from __future__ import annotations

import errno
from time import monotonic
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError

from .base import SourceError
from .redaction import redact

LIVE_SECONDS = 2.0  # without data, until a live stream is connected again
RECORDING_SECONDS = 30.0  # until a recording is given up: servers pause, disks spin up
RETRY_SECONDS = 10.0  # of them, after which FFmpeg asks again for the rest
PLAYLISTS = {"hls", "applehttp", "dash"}
LIVE_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp"}
TRANSPORTS = {
    # TCP first: over UDP lost packets damage pictures without any sign of it.
    "auto": {"rtsp_flags": "prefer_tcp"},
    "tcp": {"rtsp_transport": "tcp"},
    "udp": {"rtsp_transport": "udp"},
}


class Patience:
    """Seconds to wait for a packet, as PyAV takes them: read when reading starts, so that they can
    still be set when it is known what was opened."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __float__(self) -> float:
        return self.seconds


def reader_options(transport: str | None, options: dict[str, str] | None) -> dict[str, str]:
    """FFmpeg options of a user: of the RTSP transport, and more of them. Raises SourceError."""
    if transport is not None and transport not in TRANSPORTS:
        raise SourceError(f"rtsp_transport={transport}: give udp, tcp or auto")
    return {**TRANSPORTS.get(transport or "", {}), **(options or {})}


def connect(
    address: str,
    format: str | None,
    options: dict[str, str] | None,
    timeout: tuple[float, float | Patience],
) -> Any:
    """Open an address; timeout = (open, read) seconds. Raises FFmpegError, OSError."""
    scheme = address.partition("://")[0].lower()
    defaults: dict[str, str] = {}
    if scheme in ("rtsp", "rtsps"):
        # A stream starts sooner: no demuxer buffer, no more probing than H.264/H.265 need.
        defaults = {
            **({} if {"rtsp_transport", "rtsp_flags"} & {*(options or {})} else TRANSPORTS["auto"]),
            # a safety net: the limits above come first
            "timeout": str(int(1e6 * (timeout[0] + float(timeout[1])))),
            "fflags": "nobuffer",
            "flags": "low_delay",
            "probesize": "200000",
            "analyzeduration": "500000",
        }
    elif scheme in ("http", "https"):
        defaults = {
            "reconnect": "1",  # where the length is known and has not come
            "reconnect_delay_max": str(int(RECORDING_SECONDS)),
            "rw_timeout": str(int(1e6 * RETRY_SECONDS)),
        }
    merged = {**defaults, **(options or {})}
    started = monotonic()
    try:
        return av.open(address, format=format, options=merged, timeout=timeout)  # type: ignore[arg-type]
    except (FFmpegError, OSError) as error:
        if monotonic() - started < 0.95 * timeout[0]:
            raise
        # Interrupted in mid-handshake FFmpeg speaks of invalid data; the truth is silence.
        raise TimeoutError(f"no answer in {timeout[0]:g} s") from error


def is_recording(container: InputContainer) -> bool:
    """Whether what was opened by HTTP or the like ends: its server said how long it is, in bytes,
    or its container in seconds. Pictures in parts (multipart) are a camera's, playlists without an
    end are live."""
    names = set(getattr(getattr(container, "format", None), "name", "").split(","))
    if names & {"mpjpeg"}:
        return False
    if not names & PLAYLISTS and size_of(container) is not None:
        return True
    return getattr(container, "duration", None) is not None


def size_of(container: InputContainer) -> int | None:
    """Bytes, where the server said how many; else None."""
    size = getattr(container, "size", 0)
    return size if 0 < size < 1 << 62 else None


def is_end(error: BaseException, container: InputContainer) -> bool:
    """Whether it is an HTTP server's end of an answer without a length, which ends when the server
    closes (RFC 9112 section 6.3); FFmpeg calls that an error. A reset is none."""
    names = set(getattr(getattr(container, "format", None), "name", "").split(","))
    ended = getattr(error, "errno", None) == errno.EIO
    return ended and size_of(container) is None and not names & PLAYLISTS


def is_stamped(container: InputContainer) -> bool:
    """Whether the stamps are the sender's: FFmpeg invents those of formats that have none."""
    format = getattr(container, "format", None)
    return format is None or not int(format.flags) & NO_TIMESTAMPS


NO_TIMESTAMPS = 0x0080  # AVFMT_NOTIMESTAMPS


def remedy(address: str, error: BaseException | None, options: dict[str, str] | None) -> str:
    """What a user may do about a connection that failed."""
    if address.lower().startswith(("rtsp://", "rtsps://")):
        asked = (options or {}).get("rtsp_transport", "")
        number = getattr(error, "errno", None)
        refused = number == errno.EPROTONOSUPPORT
        if refused and asked == "tcp":
            return (
                "the camera does not speak RTP over TCP (461 Unsupported Transport): "
                "--rtsp-transport udp, or auto"
            )
        if refused and asked:
            return f"the camera does not take the transport {asked}: --rtsp-transport auto"
        if refused:
            return "the camera takes neither RTP over TCP nor over UDP; check its settings"
    return "check the address and that the sender is running"


def name_of(address: str) -> str:
    """The address for messages, without its secrets."""
    return redact(address.removeprefix("file:"))
