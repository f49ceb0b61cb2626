"""Streams that the server fetches itself: cameras, addresses, files."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from ..engine.feed import Feed
from ..sources import Frame, FrameSource, SourceError, open_source
from ..triggers.scene_change import SceneChange
from .held import NAME
from .limits import ServeError
from .live_session import LiveSession
from .sessions import SOURCE, Sessions
from .spec import Spec
from .workers import OPENING

log = logging.getLogger("streamzoo.serve")
THINNED = "thinned"  # reason of a drop: more frames came than were asked for
SCHEMES = ("rtsp", "rtsps", "http", "https")


class Thinned:
    """A source at ``fps`` frames per second where it gives more; else as it is.

    The frames between count in ``drops["thinned"]``.
    """

    def __init__(self, source: FrameSource, fps: float):
        self._source, self._interval = source, 1 / fps
        self._due: float | None = None
        self._between = 0

    def read(self, timeout: float | None = None) -> Frame | None:
        """As the source, without the frames between."""
        while (frame := self._source.read(timeout)) is not None:
            due = frame.time if self._due is None else self._due
            if frame.time + 1e-6 >= due:
                # Not behind by more than one frame: after an outage there is no burst.
                self._due = max(due + self._interval, frame.time)
                return frame
            self._between += 1
        return None

    @property
    def drops(self) -> Mapping[str, int]:
        thinned = {THINNED: self._between} if self._between else {}
        return {**self._source.drops, **thinned}

    @property
    def keyframes_only(self) -> bool:
        return self._source.keyframes_only

    @keyframes_only.setter
    def keyframes_only(self, value: bool) -> None:
        self._source.keyframes_only = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


async def add_source(
    sessions: Sessions, address: str, spec: Spec | None = None, *, name: str | None = None
) -> LiveSession:
    """Opens the address and runs it as a session that lasts until it is removed.

    A recording plays at its own speed, over and over, as a camera would. Without a ``spec`` the
    source's own frame rate counts; of one with more frames than ``spec.fps`` only those are taken.
    Frames on which much changes are marked as events: the policy "events", which is that of a
    source without a ``spec`` (:class:`Settings`), drops others instead.

    Raises:
      ServeError: "bad_source": it cannot be opened; else see :meth:`Sessions.open`.
    """
    try:
        source = await _open(address, sessions, name)
    except SourceError as error:
        raise ServeError("bad_source", str(error)) from None
    try:
        spec = spec or Spec(fps=source.fps or 30.0, policy=sessions.policy)
        session = await _session(sessions, SOURCE + address, spec, name)
    except BaseException:
        await OPENING.run(source.close)
        raise
    thinned = cast(FrameSource, Thinned(source, session.spec.fps))
    changes = SceneChange()
    session.feed = Feed(thinned, session.stream, event=lambda frame: changes(frame.image))
    return session


async def _open(address: str, sessions: Sessions, name: str | None) -> FrameSource:
    """As `open_source`, in a thread; nothing stays open if nobody waits for it any more."""
    found: list[FrameSource] = []
    gone = threading.Event()

    def opened() -> FrameSource:
        found.append(
            open_source(
                address,
                size=sessions.engine.frame_shape,
                live=True,
                stream=name,
                **{"delay": None, **sessions.reader},
            )
        )
        if gone.is_set():
            found[0].close()
        return found[0]

    try:
        return await OPENING.run(opened)
    except asyncio.CancelledError:
        gone.set()
        if found:  # it came in the same moment
            threading.Thread(target=found[0].close, daemon=True).start()
        raise


async def _session(sessions: Sessions, token: str, spec: Spec, name: str | None) -> LiveSession:
    """As the store has it, else a new one. The second stream of an address is not stored."""
    if any(s.token == token for s in sessions.by_name.values()):
        return await sessions.admit(spec, name=name, lasting=True)
    if sessions.recall is not None:
        try:
            return await sessions.recall(token, True)
        except ServeError as error:
            if error.code != "unknown_token":
                raise
    return await sessions.admit(spec, name=name, token=token, lasting=True)


def check_address(address: object) -> str:
    """What clients may have the server open: network cameras, not its own files and devices.

    Raises:
      ServeError: "bad_source".
    """
    if not isinstance(address, str) or urlsplit(address).scheme.lower() not in SCHEMES:
        raise ServeError(
            "bad_source",
            "url: an address that starts with one of "
            f"{', '.join(f'{s}://' for s in SCHEMES)}; files and cameras of the server itself "
            "are given where it is started (--stream)",
        )
    return address


async def keep_trying(sessions: Sessions, address: str, spec: Spec | None, name: str) -> None:
    """Adds a source that could not be opened, as soon as it can; until it is cancelled."""
    pause = 1.0
    while True:
        await asyncio.sleep(pause)
        try:
            await add_source(sessions, address, spec, name=name)
            return log.info("stream %s is there", name)
        except ServeError as error:
            if error.code == "draining":
                return
            log.info("stream %s: %s; trying again", name, error)
        pause = min(2 * pause, 60.0)


def named(sources: Sequence[str]) -> list[tuple[str, str]]:
    """(name, address) of each: of NAME=ADDRESS, else cam0, cam1, ... by its place.

    A file that is there under the whole text is that file, though an = is in its name.

    Raises:
      ValueError: two have the same name.
    """
    pairs = []
    for place, text in enumerate(sources):
        name, equals, address = text.partition("=")
        if equals and address and NAME.fullmatch(name) and not Path(text).exists():
            pairs.append((name, address))
        else:
            pairs.append((f"cam{place}", text))
    counts = Counter(name for name, _ in pairs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"--stream: {twice[0]} names two streams; give each a name of its own")
    return pairs


async def add_all(
    sessions: Sessions, addresses: Sequence[str], spec: Spec | None = None
) -> list[asyncio.Task[None]]:
    """Adds sources by their names; see :func:`named`. Network cameras that are away are tried again
    by the tasks returned: a server that starts must not wait for all of its cameras.

    Raises:
      ServeError: a file or a camera of this machine cannot be opened, or the engine refuses.
      ValueError: two of one name.
    """
    names, addresses = zip(*named(addresses), strict=True) if addresses else ((), ())
    added = await asyncio.gather(
        *(add_source(sessions, a, spec, name=n) for a, n in zip(addresses, names, strict=True)),
        return_exceptions=True,
    )
    tasks = []
    for address, name, result in zip(addresses, names, added, strict=True):
        if not isinstance(result, BaseException):
            continue
        away = isinstance(result, ServeError) and result.code == "bad_source"
        if not away or urlsplit(address).scheme.lower() not in SCHEMES:
            for task in tasks:
                task.cancel()
            raise result
        log.warning("stream %s: %s; trying again", name, result)
        tasks.append(asyncio.create_task(keep_trying(sessions, address, spec, name)))
    return tasks
