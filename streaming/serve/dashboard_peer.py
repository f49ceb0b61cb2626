"""A browser's camera as a stream, over WebRTC (extra `webrtc`)."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ..engine.feed import Feed
from ..sources import FrameSource, SourceError, answer_offer
from .inputs import Thinned
from .limits import ServeError
from .live_session import LiveSession
from .sessions import Sessions
from .spec import Spec
from .workers import PEERS

ENDS: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish


async def add_peer(
    sessions: Sessions, sdp: object, spec: Spec, *, owner: str, name: str | None = None
) -> tuple[str, LiveSession]:
    """Answers a peer's offer; its pictures are a session until the peer leaves.

    The stream is admitted before a process is started for it. Media come over UDP, at ports and
    addresses that ICE agrees on, encrypted for this peer alone.

    Returns:
      (SDP answer, session).

    Raises:
      ServeError: "bad_offer", with the reason; else see :meth:`Sessions.open`.
    """
    if not isinstance(sdp, str):
        raise ServeError("bad_offer", 'the offer is {"sdp": "v=0..."}, with its candidates')
    session = await sessions.admit(spec, owner=owner, name=name, lasting=True)
    try:
        answer, source = await PEERS.run(_answer, sdp, session.name, sessions.engine.frame_shape)
    except SourceError as error:
        sessions.remove(session)
        raise ServeError("bad_offer", str(error)) from None
    except BaseException:
        sessions.remove(session)
        raise
    if session.ended:  # removed in the meantime
        await PEERS.run(source.close)
        raise ServeError("closed", f"stream {session.name} has ended: {session.ended}")
    source.name = f"WebRTC ({session.name})"
    session.feed = Feed(cast(FrameSource, Thinned(source, spec.fps)), session.stream)
    end = asyncio.create_task(_leave(sessions, session, session.feed))
    ENDS.add(end)
    end.add_done_callback(ENDS.discard)
    return answer, session


def _answer(sdp: str, name: str, size: tuple[int, int]) -> tuple[str, Any]:
    answer, source = answer_offer(sdp, stream=name, size=size)
    if "a=candidate" in answer:
        return answer, source
    source.close()  # no address but loopback, which ICE leaves out by itself
    return answer_offer(sdp, stream=name, size=size, host="127.0.0.1")


async def _leave(sessions: Sessions, session: LiveSession, feed: Feed) -> None:
    """Nobody can come back to a peer's stream: it goes at once, with its last answers."""
    why = await feed.wait()
    session.end(why or "the peer left")
    sessions.remove(session)
