"""A client that is sent video which is made for it, on the WebSocket /generate.

The client's first message is text, and later ones change what is shown or end it:

    {"type": "generate", "class": "tiny", "seed": 0, "auth": ...}     class: what is shown; may lack
    {"type": "prompt", "class": "huge"}                               from the next block on
    {"type": "close"}

The server answers {"type": "generating", "model", "classes", "fps", "block"}, and sends frames in
binary: a length (4 bytes, big-endian), a JSON header {"index", "class", "age_ms", "dropped"} and a
JPEG. ``age_ms`` is from the moment it was made, ``dropped`` counts frames that this client was too
slow for or that a new class has overtaken. {"type": "end"} is the last message.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator

from .conversation import Message
from .limits import ServeError
from .studio import Shown, Studio, Take
from .wire import FrameMessage, count


class Generating:
    """One client; made for :class:`.app.Line`, as a Conversation is."""

    def __init__(self, studio: Studio | None):
        self._studio = studio
        self._take: Take | None = None

    async def begin(self, message: Message) -> Message:
        """Raises ServeError: another message, no generator, no class of this name, no room."""
        if message["type"] != "generate":
            raise ServeError("bad_request", 'the first message is "generate"')
        if self._studio is None:
            raise ServeError("refused", "this server makes no video; start it with --generate NAME")
        self._take = self._studio.open(message.get("class"), count(message, "seed", 0))
        look = self._studio.look
        return {
            "type": "generating",
            "model": look.name,
            "classes": list(look.classes),
            "fps": look.fps,
            "block": self._studio.block,
        }

    def control(self, message: Message) -> Message | None:
        """Takes a prompt. Raises ServeError: another message, or no class of this name."""
        assert self._take is not None, "begin() comes first"
        if message["type"] == "close":
            self._take.end()
            return None
        if message["type"] != "prompt":
            raise ServeError("bad_request", 'a client sends "prompt" or "close"')
        self._take.ask(message.get("class"))
        return {"type": "prompt", "class": message.get("class")}

    async def frame(self, frame: FrameMessage) -> None:
        """Raises ServeError: frames are made here."""
        del frame
        raise ServeError("bad_request", "frames are sent over /ws; here they are made")

    def error(self, error: ServeError) -> Message:
        """What the client is told."""
        return {"type": "error", "code": error.code, "message": str(error)}

    async def outgoing(self) -> AsyncIterator[Message | bytes]:
        """Frames, as they are made."""
        assert self._take is not None, "begin() comes first"
        async for shown in self._take:
            yield packed(shown, self._take.dropped)
        yield {"type": "end", "frames": self._take.made, "dropped": self._take.dropped}

    def end(self) -> None:
        """The client is gone."""
        if self._take is not None:
            self._take.end()


def packed(shown: Shown, dropped: int) -> bytes:
    """A frame as it is sent."""
    age = round(1e3 * (time.monotonic() - shown.made), 1)
    header = {"index": shown.index, "class": shown.name, "age_ms": age, "dropped": dropped}
    text = json.dumps(header).encode()
    return struct.pack("!I", len(text)) + text + shown.jpeg


def unpacked(message: bytes) -> tuple[Message, bytes]:
    """(header, JPEG) of a frame."""
    (size,) = struct.unpack("!I", message[:4])
    return json.loads(message[4 : 4 + size]), message[4 + size :]
