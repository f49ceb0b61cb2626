"""What the server's page shows: tiles, recent history and a summary, all bounded.

Nothing here waits for a page. While nobody looks an answer costs a few list operations; a picture
is kept and encoded only where a page has asked for it and has room (see :mod:`.dashboard_watch`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import time
from collections import Counter, deque
from collections.abc import Collection
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from ...layers.install import how_to_install
from ...layers.streaming import Fields, Json
from ..engine import Answer
from ..listening import RATE
from ..views import View, view_of
from .dashboard_events import Timeline
from .inputs import THINNED
from .live_session import LiveSession
from .recent import Record
from .sessions import Sessions
from .sound_session import SoundSession
from .sounds import Sounds
from .talks import Talks
from .workers import DRAWING

WINDOW = 60.0  # seconds of latencies, and
KEEP = 900  # at most so many answers of one stream
LINES = 8  # of what was said on a stream, on the page
SIDE = 320  # pixels: the longer side of a tile
EDGES = 2.0 ** np.arange(0, 12.5, 0.5)  # ms: of the histogram's bins, 1 to 4096
ASKED = "source: above the frame rate asked for"
KEYS = ("index", "time", "latency_ms", "model_ms", "classes", "persons", "event", "error")


def jpeg(image: np.ndarray) -> bytes:
    """uint8 RGB [h, w, 3] as a JPEG of at most 320 pixels a side."""
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    height, width = (max(2, 2 * round(n * scale / 2)) for n in (height, width))
    frame = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(image, "rgb24"), width=width, height=height,
        format="yuvj420p", interpolation=Interpolation.BILINEAR,
    )  # fmt: skip
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
    context.time_base, context.thread_count = Fraction(1, 25), 1
    context.qmin = context.qmax = 4
    return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])


@dataclasses.dataclass
class Tile:
    """The newest picture of a stream that somebody asked for, with its answer.

    ``serial`` grows over all tiles there have been: a page says which it has with one number.
    """

    serial: int
    session: LiveSession
    image: np.ndarray | None
    record: Record
    view: View[Any]
    result: Any = None
    data: bytes = b""

    def encode(self) -> None:
        """Any thread."""
        image, result = self.image, self.result
        if image is not None:
            drawn = image if result is None else self.view.picture(image, result)
            self.data, self.image, self.result = jpeg(drawn), None, None

    def header(self) -> Fields:
        """For JSON: the picture's length and its answer."""
        record = {k: self.record[k] for k in KEYS if k in self.record}
        return {
            "stream": self.session.name, "bytes": len(self.data), "aspect": aspect(self.session),
            **record, **self.view.tile(self.record),
        }  # fmt: skip


def aspect(session: LiveSession) -> float:
    """Width / height as the camera saw it; a model's input may be squeezed."""
    sent = session.original_size if session.feed is None else session.feed.source.original_size
    height, width = sent if sent and all(sent) else session.hub.engine.frame_shape
    return width / height


class Past:
    """The recent past of one stream: its latencies, its books once a second, and its view."""

    def __init__(self, view: View[Any]):
        self.view = view  # of this stream alone: it may remember what it drew, such as its colours
        self.latencies: deque[tuple[float, float]] = deque(maxlen=KEEP)  # (when, seconds)
        self.books: deque[tuple[float, int, int]] = deque(maxlen=6)  # (when, received, completed)
        self.dropped: Counter[str] = Counter()
        self.state, self.reconnects = "", 0

    def rates(self) -> tuple[float, float]:
        """Frames per second (in, answered) over the last five seconds."""
        if len(self.books) < 2:
            return 0.0, 0.0
        (start, came, answered), (end, *last) = self.books[0], self.books[-1]
        return (last[0] - came) / (end - start), (last[1] - answered) / (end - start)

    def recent(self, now: float) -> list[float]:
        """Seconds of the answers of the last minute."""
        return [seconds for when, seconds in self.latencies if when > now - WINDOW]


class Dashboard:
    """Listens to the sessions; pages ask it. Everything runs on the event loop but encoding."""

    def __init__(
        self, sessions: Sessions, sounds: Sounds | None = None, talks: Talks | None = None
    ):
        self.sounds, self._talks = sounds, talks
        self.sessions = sessions
        self.timeline = Timeline(alarms=self._view().alarms)
        self.watchers: set[Any] = set()
        self.tiles: dict[LiveSession, Tile] = {}
        self._past: dict[LiveSession, Past] = {}
        self._serial = 0
        self._timer: asyncio.TimerHandle | None = None
        self._state: tuple[float, Json] = (float("-inf"), {})
        lacks = importlib.util.find_spec("aiortc") is None
        self._webrtc = f"WebRTC needs aiortc: {how_to_install('webrtc')}" if lacks else ""
        sessions.listeners.append(self._answered)
        sessions.removed.append(self._removed)
        sessions.refusals.append(lambda name, why: void(self.timeline.note(name, "refused", why)))

    # What comes in.

    def _answered(self, session: LiveSession, answer: Answer) -> None:
        past = self._past.get(session) or self._begin(session)
        past.latencies.append((time.monotonic(), answer.latency))
        record = session.recent.newest
        self.timeline.record(session.name, record)
        if answer.frame is not None:
            session.stream.show = False  # until somebody asks again
            self._serial += 1
            self.tiles[session] = Tile(
                self._serial, session, answer.frame, record, past.view, answer.result
            )
            for watcher in self.watchers:
                watcher.told(session.name)

    def _view(self) -> View[Any]:
        return view_of(self.sessions.engine.step.card)

    def _begin(self, session: LiveSession) -> Past:
        self._past[session] = past = Past(self._view())
        past.state = "live"
        source = "" if session.feed is None else f" ({session.feed.source.name})"
        self.timeline.note(session.name, "stream", f"added{source}")
        self.wake()
        return past

    def _removed(self, session: LiveSession) -> None:
        self.tiles.pop(session, None)
        if self._past.pop(session, None) is not None:
            self.timeline.note(session.name, "stream", f"gone: {session.ended}")

    def wake(self) -> None:
        """Looks at the books once a second, as long as there is a stream."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1.0, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for session in self.sessions.by_name.values():
            self._look(session, self._past.get(session) or self._begin(session))
        if self.sessions.by_name:
            self.wake()

    def _look(self, session: LiveSession, past: Past) -> None:
        books, note = session.books, self.timeline.note
        past.books.append((time.monotonic(), books.received, books.completed))
        dropped = Counter(drops(session))
        for reason, count in (dropped - past.dropped).items():
            self.timeline.span(session.name, "drop", reason, count)
        past.dropped = dropped
        state = state_of(session)
        if state != past.state:
            note(session.name, "stream", f"{past.state} → {state}")
            past.state = state
        feed = session.feed
        if feed is not None and feed.source.reconnects > past.reconnects:
            past.reconnects = feed.source.reconnects
            note(session.name, "stream", f"opened again ({past.reconnects})")

    # What goes out.

    def show(self, names: Collection[str]) -> None:
        """The next answers of these streams become tiles."""
        for name in names:
            session = self.sessions.by_name.get(name)
            if session is not None and not session.ended:
                session.stream.show = True

    async def newer(self, serial: int, names: Collection[str]) -> list[Tile]:
        """Tiles of these streams that a page with ``serial`` lacks, encoded; oldest first."""
        found = [t for t in self.tiles.values() if t.serial > serial and t.session.name in names]
        new = [tile for tile in found if tile.image is not None]
        if new:
            await DRAWING.run(lambda: [tile.encode() for tile in new])
        return sorted(found, key=lambda tile: tile.serial)

    async def state(self) -> Json:
        """The summary, made anew at most once in 0.9 s, however many pages there are."""
        now = time.monotonic()
        if now < self._state[0] + 0.9:
            return self._state[1]
        live = sorted(self.sessions.by_name.values(), key=lambda session: session.name)
        pasts = [self._past.get(s) or self._begin(s) for s in live]
        recent = [past.recent(now) for past in pasts]
        summary, each = await DRAWING.run(summarise, recent)
        rows = [row(s, p, e) for s, p, e in zip(live, pasts, each, strict=True)]
        if self._talks is not None:
            for told, session in zip(rows, live, strict=True):
                told["said"] = [*self._talks.of(session).log][-LINES:]
        rows += [] if self.sounds is None else map(sound_row, self.sounds.by_name.values())
        engine = self.sessions.engine
        report = engine.report()
        source: Counter[str] = Counter()
        for session in live:
            source.update({k: n for k, n in drops(session).items() if ": " in k})
            source[ASKED] += thinned(session)
        state = {
            "now": time.time(),
            "status": self._status(),
            "load": report["load"], "slots": report["slots"], "used": len(report["streams"]),
            "total": report["total"], "before": dict(source), "latency": summary, "streams": rows,
        }  # fmt: skip
        self._state = now, state
        return state

    def _status(self) -> str:
        if self.sessions.engine.failure is not None:
            return "failed"
        return "draining" if self.sessions.draining else "ok"

    def hello(self) -> Json:
        """What does not change: for a page that has come in."""
        engine = self.sessions.engine
        return {
            "type": "watching", "model": engine.step.card.name, "summary": engine.step.card.summary,
            "size": list(engine.frame_shape), "webrtc": not self._webrtc,
            "webrtc_needs": self._webrtc, "now": time.time(),
            "language": "" if self._talks is None else self._talks.name,
        }  # fmt: skip


def void(_: object) -> None:
    """A listener returns nothing."""


def state_of(session: LiveSession) -> str:
    """One word: live, paused, parked, why it ended, or what its source is doing."""
    if session.ended or session.stream.paused:
        return session.ended or "paused"
    if session.parked is not None:
        return "parked"
    return "live" if session.feed is None else session.feed.report()["state"]


def drops(session: LiveSession) -> dict[str, int]:
    """Frames that were not answered by reason; those before the engine as "where: reason"."""
    found = dict(session.books.dropped)
    if session.feed is not None:
        lost = session.feed.source.drops.items()
        found |= {f"source: {k}": n for k, n in lost if k != THINNED}
    found |= {"sender: bad": session.bad, "sender: skipped": session.skipped}
    return {reason: count for reason, count in found.items() if count}


def thinned(session: LiveSession) -> int:
    """Frames left out because fewer a second were asked for: not a loss."""
    return 0 if session.feed is None else session.feed.source.drops.get(THINNED, 0)


def row(session: LiveSession, past: Past, latency: dict[str, float]) -> Json:
    """A line of the streams table."""
    books, feed = session.books, session.feed
    came, answered = past.rates()
    return {
        "name": session.name, "state": state_of(session), "ended": session.ended is not None,
        "paused": session.stream.paused, "source": "pushed" if feed is None else feed.source.name,
        "error": None if feed is None else feed.error, "policy": session.spec.policy,
        "fps": session.spec.fps, "budget_ms": 1e3 * session.spec.budget,
        "in": round(came, 2), "out": round(answered, 2), "completed": books.completed,
        "dropped": sum(drops(session).values()), "waiting": books.in_flight, "late": books.late,
        "reconnects": 0 if feed is None else feed.source.reconnects, "latency": latency,
    }  # fmt: skip


def sound_row(session: SoundSession) -> Json:
    """A line of the streams table, of sound: its counts are seconds."""
    books = session.report()["samples"]
    seconds = lambda *keys: round(sum(books[key] for key in keys) / RATE, 1)
    return {
        "name": session.name, "state": session.ended or "live", "ended": session.ended is not None,
        "paused": False, "source": "sound", "error": None, "policy": "lossless", "fps": RATE,
        "budget_ms": 0, "in": 0, "out": 0, "completed": seconds("heard"),
        "dropped": seconds("dropped", "skipped"), "waiting": seconds("waiting"), "late": 0,
        "reconnects": 0, "latency": {}, "caption": session.caption,
    }  # fmt: skip


def summarise(recent: list[list[float]]) -> tuple[Json, list[dict[str, float]]]:
    """Latencies in seconds per stream -> (all of them: percentiles and histogram; each), in ms."""
    each = [1e3 * np.asarray(seconds) for seconds in recent]
    every = np.concatenate([*each, np.empty(0)])
    inside = np.clip(every, EDGES[0], EDGES[-1])  # the outer bins have no end
    counts = np.histogram(inside, EDGES)[0]
    total = {
        **percentiles(every), "count": every.size, "window": WINDOW,
        "edges": EDGES.round(2).tolist(), "counts": counts.tolist(),
    }  # fmt: skip
    return total, [percentiles(a) for a in each]


def percentiles(milliseconds: np.ndarray) -> dict[str, float]:
    """{p50, p95, p99}; none of nothing."""
    if not milliseconds.size:
        return {}
    values = np.percentile(milliseconds, (50, 95, 99)).round(2).tolist()
    return dict(zip(("p50", "p95", "p99"), values, strict=True))
