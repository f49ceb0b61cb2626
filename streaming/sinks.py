"""Where events go beside the JSON lines: a file of their own, notifiers, clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..layers.streaming import Json
from .notify import Notifier
from .video_writer import JsonLines


class Sink(Protocol):
    """Gets every frame of a stream."""

    def write(self, line: Json, image: np.ndarray) -> None:
        """A frame's JSON line, maybe with ``events``, and its picture, uint8 [h, w, 3]. After the
        last frame once more, if events end with the stream."""
        ...

    def close(self) -> None:
        """The stream is over."""
        ...


class EventLog:
    """Each event as a JSON line of its own, and as a message to each notifier.

    Args:
      path: file to write.
      stream: name that messages carry.
      notifiers: where they go besides.
      overwrite: replace the events of an earlier run.

    Raises:
      OutputError: the file cannot be written, or something is in it.
    """

    def __init__(
        self,
        path: str | Path,
        stream: str,
        notifiers: Sequence[Notifier] = (),
        *,
        overwrite: bool = False,
    ):
        self._log = JsonLines(path, overwrite)
        self.stream, self.notifiers = stream, tuple(notifiers)

    def write(self, line: Json, image: np.ndarray) -> None:
        """Passes the line's events on."""
        del image
        for event in line.get("events", ()):
            message = {"stream": self.stream, "frame": line["frame"], **event}
            self._log.write(message)
            for notifier in self.notifiers:
                notifier.send(message)

    def close(self) -> None:
        """Waits until the notifiers have sent what they can."""
        self._log.close()
        for notifier in self.notifiers:
            notifier.close()
