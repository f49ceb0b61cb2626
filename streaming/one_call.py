"""A source and a model as one loop: frames with what was found in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..zoo.resolve import resolve
from ..zoo.streams import as_stream
from .session import Result, Session, frame_size
from .sources.base import Frame
from .sources.opening import open_source
from .step import Step, enable_compile_cache
from .track import Prompt, Tracked, TrackSession

DEFAULT, DEFAULT_TRACKER = "follow-nano/coco", "tracker-lite0/davis"


class Watch(Iterator[tuple[Frame, "Result[Any] | Tracked"]]):
    """(frame, result) of every frame of a source; made by :func:`watch`.

    Attributes:
      source: the open :class:`~streamzoo.streaming.sources.base.FrameSource`.
      session: the :class:`~streamzoo.Session`, or the :class:`~streamzoo.TrackSession`.
      card: of the model.
    """

    def __init__(self, source: Any, session: Session | TrackSession, seconds: float = math.inf):
        self.source, self.session, self.card = source, session, session.card
        self._seconds = seconds

    def __next__(self) -> tuple[Frame, Result[Any] | Tracked]:
        frame = next(self.source, None)
        if frame is None or frame.time >= self._seconds:
            self.close()
            raise StopIteration
        return frame, self.session.push(frame.image, frame.time)

    def close(self) -> None:
        """Closes the source and the session. Idempotent; done at the end of the source."""
        self.source.close()
        self.session.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def watch(
    source: str | int | Path,
    model: str = "",
    *,
    prompts: Iterable[Prompt] = (),
    seconds: float = math.inf,
    compile_cache: bool = True,
    **reading: Any,
) -> Watch:
    """Runs a model over a file, a camera or an address, frame by frame.

        for frame, result in streamzoo.watch("street.mp4"):
            print(result.rows())
            picture = result.draw(frame)            # uint8 [H, W, 3], at the source's own size

    Args:
      source: as for ``streamzoo.open_source``.
      model: a name, weights file or address, as for ``streamzoo.load``; by default
        ``follow-nano/coco``, and with prompts ``tracker-lite0/davis``.
      prompts: what a tracker is to follow, in pixels of the source; each counts from its time on.
      seconds: stop at this time of the stream.
      compile_cache: keep compiled programs on disk, so that the next start is faster, unless JAX
        has a folder for them already.
      **reading: as for ``open_source``, e.g. ``live``, ``max_retries`` or ``options``; ``delay``
        is None unless given: live addresses have a jitter buffer.

    Raises:
      SourceError: the source cannot be opened. ValueError: the model is unknown, has no form for a
        stream, answers late, tracks and has no prompts, or has prompts and does not track.
    """
    prompts = tuple(prompts)
    name = model or (DEFAULT_TRACKER if prompts else DEFAULT)
    if compile_cache:
        enable_compile_cache()
    module, params, card = resolve(name)
    tracks = card.task == "track"
    if tracks != bool(prompts):
        raise ValueError(
            f"{name} tracks what it is shown: give prompts=[streamzoo.Prompt(...)]"
            if tracks
            else f"{name} is no tracker and takes no prompts; {DEFAULT_TRACKER} is one"
        )
    step = Step(module if tracks else as_stream(module, card), params, card)
    if late := step.model.latency:
        raise ValueError(
            f"{name} answers {late} frames late: push frames into a Session, whose results are "
            f"those of {late} frames before"
        )
    reading = {"delay": None, **reading}
    opened = open_source(source, size=frame_size(card), keep_original=True, **reading)
    try:
        session: Session | TrackSession
        if tracks:
            session = TrackSession(step, opened.original_size, prompts)
        else:
            session = Session(step, opened.size, fps=opened.fps if opened.live else None)
    except BaseException:
        opened.close()
        raise
    return Watch(opened, session, seconds)
