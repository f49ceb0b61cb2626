"""Sound as a stream of samples: [T] floats from -1 to 1 at 16 kHz, one channel.

Files, addresses and devices are decoded and resampled by FFmpeg, their channels averaged; "-" is
16-bit PCM at 16 kHz from standard input. How much comes at a time is the source's affair.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from .base import SourceError
from .redaction import redact

RATE = 16_000
# what FFmpeg calls the microphone: (format, device), the first that it was built with
MICROPHONE = {
    "linux": (("pulse", "default"), ("alsa", "default")),
    "darwin": (("avfoundation", ":default"),),
    "win32": (("dshow", "audio=default"),),
}

ALSA = "/usr/share/alsa/alsa.conf"
PIPE = "pipe it: arecord -q -f S16_LE -r 16000 -c 1 | streamzoo listen -"


def sound_of(source: str | os.PathLike[str], say: Callable[[str], None] = print) -> Iterator[Any]:
    """Chunks of the sound of ``source``: float32 [T] each.

    Args:
      source: a file with sound, also a video; ``mic``; ``-`` for 16-bit PCM at 16 kHz on standard
        input; or an address FFmpeg can open (rtsp://, http://).
      say: told once in what way the sound is changed.

    Raises:
      SourceError: it cannot be opened, has no sound, ends within a sample, or has samples that are
        no numbers.
    """
    text = os.fspath(source)
    return _piped(sys.stdin.buffer) if text == "-" else _decoded(text, say)


def _piped(stream: Any) -> Iterator[np.ndarray]:
    rest = b""
    while data := stream.read1(1 << 14):
        data = rest + data
        whole = len(data) // 2 * 2
        data, rest = data[:whole], data[whole:]
        if data:
            yield np.frombuffer(data, "<i2").astype(np.float32) / 32768
    if rest:
        raise SourceError("standard input ends within a sample: 16-bit PCM at 16 kHz is expected")


def _decoded(text: str, say: Callable[[str], None]) -> Iterator[np.ndarray]:
    name, kind = redact(text), None
    if text == "mic":
        devices = [d for d in MICROPHONE.get(sys.platform, ()) if d[0] in av.formats_available]
        if not devices:
            raise SourceError(f"mic: FFmpeg has no device for one here ({sys.platform}); {PIPE}")
        kind, text = devices[0]
        if os.path.exists(ALSA):  # the wheels' library looks for it where it was built
            os.environ.setdefault("ALSA_CONFIG_PATH", ALSA)
    try:
        container = av.open(text, format=kind)
    except (OSError, ValueError) as error:  # FFmpeg's errors are OSErrors
        why = getattr(error, "strerror", None) or str(error)
        hint = f"; {PIPE}" if name == "mic" else ""
        raise SourceError(f"{name}: cannot be opened: {why}{hint}") from None
    with container:
        if not container.streams.audio:
            raise SourceError(f"{name}: has no sound")
        stream = container.streams.audio[0]
        if (stream.rate, stream.channels) != (RATE, 1):
            mixed = ", their mean: what is opposite in two is not heard" * (stream.channels > 1)
            say(
                f"{name}: {stream.rate} Hz, channels: {stream.channels}; heard as {RATE} Hz,"
                f" one{mixed}"
            )
        resampler = av.AudioResampler("fltp", rate=RATE)
        try:
            for frame in container.decode(stream):
                yield from _chunks(resampler, frame, name)
        except FFmpegError as error:
            raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
        yield from _chunks(resampler, None, name)


def _chunks(resampler: Any, frame: Any, name: str) -> Iterator[np.ndarray]:
    for part in resampler.resample(frame):
        # the mean: FFmpeg's own mix of float channels adds them up, beyond -1 and 1
        samples = part.to_ndarray().mean(axis=0, dtype=np.float32)
        if not np.isfinite(samples).all():
            raise SourceError(f"{name}: has samples that are no numbers (nan or inf)")
        if len(samples):
            yield samples
