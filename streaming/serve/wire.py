"""The WebSocket protocol: JSON text for everything but frames, which are binary.

A frame is a header of 24 bytes, big-endian, and the picture:

    kind      uint8     1: JPEG, 2: raw RGB, height x width x 3 bytes, 3: sound
    flags     uint8     1: an event, which the policy "events" never drops
    height    uint16    of a raw picture, else 0
    width     uint16    likewise
    (2 bytes  unused)
    index     uint64    number of the frame, from 0
    time      float64   seconds, the sender's clock; NaN: the server's

The client's first message opens or resumes:

    {"type": "open", "fps": 15, "policy": "lossless", "budget_ms": 120, "name": "cam", "auth": ...}
    {"type": "resume", "token": "...", "after": 41, "auth": ...}      after: seq of its last result

An "open" may bring a "token" of its own, a secret of 24 letters or more, and "after": it resumes
the session if there is one ("resumed" in the answer says so) and else begins it under that token.

The server answers {"type": "opened", "token", "next", "limit", "size", ...}: frames are
numbered from ``next``, and only those below ``limit`` may be sent. Then the client sends frames and

    {"type": "ack", "seq": 41}      has every result up to 41 (needed unless the policy is "latest")
    {"type": "pause"} {"type": "go"}
    {"type": "skip", "to": 50}      the frames before 50 are lost
    {"type": "finish"}              no more frames; "end" follows the last result
    {"type": "close"}               forget the session at once
    {"type": "ask", "id": 1, "text": "Who is there?"}    of a server with a language model

and the server sends

    {"type": "result", "seq": 42, "index": 57, ..., "limit": 66, "durable": 50}
    {"type": "credits", "limit": 66, "durable": 50}
    {"type": "missed", "count": 3}                 results that are not kept any more
    {"type": "error", "code": "gap", "message": "...", "index": 60}
    {"type": "words", "id": 1, "text": "Two "}     of an answer, as they come
    {"type": "answer", "id": 1, "text": "Two people.", "time", "first_ms", "supported", ...}
    {"type": "remark", "time": 12.0, "text": "A car left.", "seen": "..."}    by itself
    {"type": "missed_remarks", "count": 2}
    {"type": "end", "reason": "finished", "frames": {...}}

An "error" about a question has its ``id``. Remarks come to who opened with ``"remarks": true``.
Words that were not read yet come as one; a question is answered before "end".

A frame below ``durable`` need not be sent again, whatever happens to the server. A frame that
cannot be decoded ("bad_frame") has spent its number, all other refused frames have not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct

from ...layers.streaming import Json
from .limits import ServeError

HEADER = struct.Struct("!BBHHxxQd")
JPEG, RAW, PCM = 1, 2, 3  # the last is of :mod:`.sound_conversation`
EVENT = 1


@dataclasses.dataclass(frozen=True)
class FrameMessage:
    """A frame as it came: ``picture`` is not decoded yet."""

    kind: int
    index: int
    picture: bytes | memoryview
    time: float | None = None
    event: bool = False
    height: int = 0
    width: int = 0


def pack(frame: FrameMessage) -> bytes:
    """The binary message of a frame."""
    time = math.nan if frame.time is None else frame.time
    flags = EVENT if frame.event else 0
    head = HEADER.pack(frame.kind, flags, frame.height, frame.width, frame.index, time)
    return head + bytes(frame.picture)


def unpack(data: bytes) -> FrameMessage:
    """Raises ServeError "bad_request": shorter than a header, or of an unknown kind."""
    if len(data) < HEADER.size:
        raise ServeError(
            "bad_request", f"a binary message of {len(data)} bytes has no {HEADER.size}-byte header"
        )
    kind, flags, height, width, index, time = HEADER.unpack_from(data)
    if kind not in (JPEG, RAW, PCM):
        known = f"{JPEG} (JPEG), {RAW} (raw) or {PCM} (sound)"
        raise ServeError("bad_request", f"frame kind {kind}: it is {known}")
    return FrameMessage(
        kind, index, memoryview(data)[HEADER.size :], time if math.isfinite(time) else None,
        bool(flags & EVENT), height, width,
    )  # fmt: skip


def parse(text: str) -> Json:
    """A control message. Raises ServeError "bad_request": not a JSON object with a type."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServeError("bad_request", f"a text message is JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ServeError("bad_request", 'a message is an object with a "type"')
    return message


def count(message: Json, key: str, default: int | None = None) -> int:
    """A number from 0 up out of a message. Raises ServeError "bad_request"."""
    value = message.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ServeError("bad_request", f"{message['type']}: {key}={value!r} should be a number")
    return value


def seconds(text: str, name: str) -> float:
    """A time out of a query. Raises ServeError "bad_request"."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ServeError("bad_request", f"results: {name}={text[:40]!r} should be Unix seconds")
    return value
