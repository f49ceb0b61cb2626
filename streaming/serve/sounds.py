"""Streams of sound of one server: a listener each, a token to come back with, snapshots.

They stand beside the sessions of pictures and share nothing with them but tokens, limits and the
store: a listener runs in threads of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ...layers.streaming import Json
from ..listening import Cutting, Listener
from .held import check_share, named
from .limits import Limits, ServeError
from .sound_session import SoundSession
from .spec import token_key
from .store import Lease, StaleWriter, Store
from .workers import HEARING, SAVING

log = logging.getLogger("streamzoo.serve")


class Sounds:
    """All streams of sound of one server.

    Args:
      begin: () -> what hears the next utterance, see :class:`~..listening.Listener`.
      name: of the recogniser.
      limits: those of the server; ``streams_per_client`` counts for sound by itself.
      store: of the snapshots; None keeps none.
      every: seconds between snapshots of a session.
      cutting: where utterances begin and end.
    """

    def __init__(
        self,
        begin: Callable[[], Any],
        name: str,
        limits: Limits | None = None,
        store: Store | None = None,
        every: float = 1.0,
        cutting: Cutting | None = None,
    ):
        self.begin, self.name, self.limits = begin, name, limits or Limits()
        self.cutting, self.draining = cutting or Cutting(), False
        self.by_name: dict[str, SoundSession] = {}
        self._store, self._every = store, every
        self._leases: dict[SoundSession, Lease] = {}
        self._lock = asyncio.Lock()
        self._model = fingerprint(name, begin)
        self._task = None if store is None else asyncio.create_task(self._run(), name="sounds")

    @property
    def keeps(self) -> bool:
        """Whether there are snapshots."""
        return self._store is not None

    async def open(self, owner: str = "", name: str | None = None) -> SoundSession:
        """A new session.

        Raises:
          ServeError: "too_many", "taken", "bad_request": a name that is none; "draining".
        """
        if self.draining:
            raise ServeError("draining", "this server is shutting down; go to another one")
        name = named(name, self.by_name, "sound")
        mine = (s for s in self.by_name.values() if owner and s.owner == owner)
        check_share(sum(s.attached is not None for s in mine), self.limits)
        return await self._add(name, secrets.token_urlsafe(24), owner, {})

    async def _add(self, name: str, token: str, owner: str, start: Json) -> SoundSession:
        make = lambda: Listener(cutting=self.cutting, begin=self.begin)
        listener = await HEARING.run(make)
        if "listener" in start:  # it hears anew what was being said
            await HEARING.run(listener.restore, start["listener"], start["arrays"])
        session = SoundSession(self, name, token, owner, listener, start)
        self.by_name[name] = session
        self.away(session)
        return session

    async def find(self, token: str) -> SoundSession:
        """The session of a token, here or out of the store. Raises ServeError "unknown_token"."""
        async with self._lock:
            for session in self.by_name.values():
                if secrets.compare_digest(session.token.encode(), token.encode("utf-8", "replace")):
                    return session
            key = token_key(token)
            found = None if self._store is None else await SAVING.run(self._read, key)
            if found is None:
                raise ServeError(
                    "unknown_token",
                    f"no sound has this token; it ended, or waited more than {self.limits.ttl:g} s",
                )
            lease, plain = found
            name = plain["name"]
            if name in self.by_name:
                name = named(None, self.by_name, "sound")
            session = await self._add(name, token, plain["owner"], plain)
            self._leases[session] = lease
            log.info("sound %s goes on from sample %d", session.name, session.next)
            return session

    def _read(self, key: str) -> tuple[Lease, Json] | None:
        assert self._store is not None
        if key not in self._store:
            return None
        lease = self._store.claim(key)
        found = lease.load()
        if found is None:
            return None
        plain, arrays = found
        if plain.get("model") != self._model:
            log.warning("a snapshot is of another recogniser; it is not used")
            return None
        if plain["saved"] + self.limits.ttl < time.time():
            return None
        return lease, plain | {"arrays": arrays}

    def remove(self, session: SoundSession) -> None:
        """Ends it at once; again without harm."""
        session.close()
        if self.by_name.get(session.name) is session:
            del self.by_name[session.name]
            lease = self._leases.pop(session, None)
            if lease is not None and not self.draining:
                asyncio.get_running_loop().run_in_executor(None, lease.drop)

    def away(self, session: SoundSession) -> None:
        """Nobody is attached: the session is removed unless its client comes in time."""
        if session.timer is None and self.by_name.get(session.name) is session:
            loop = asyncio.get_running_loop()
            session.timer = loop.call_later(self.limits.ttl, self.remove, session)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            for session in list(self.by_name.values()):
                if session.place != session.saved and not session.ended:
                    await self.save(session)

    async def save(self, session: SoundSession) -> bool:
        """Saves one session; False, with the reason in the log, if that was not possible."""
        assert self._store is not None
        try:
            plain, arrays = await session.state()
            plain |= {"model": self._model, "saved": time.time()}
            await SAVING.run(self._write, session, plain, arrays)
        except StaleWriter as error:
            log.warning("sound %s is served elsewhere: %s", session.name, error)
            self._leases.pop(session, None)
            self.remove(session)
            return False
        except Exception as error:  # a store that fails must not stop the service
            log.warning("sound %s is not saved: %r", session.name, error)
            return False
        session.saved = max(session.saved, plain["next"])
        session._wake()
        return True

    def _write(self, session: SoundSession, plain: Json, arrays: dict[str, np.ndarray]) -> None:
        assert self._store is not None
        if session not in self._leases:
            self._leases[session] = self._store.claim(session.key)
        self._leases[session].save(plain, arrays)

    async def drain(self) -> None:
        """Hears what was received, saves it, and ends every session."""
        self.draining = True
        for session in list(self.by_name.values()):
            while session.waiting and not session.ended:
                await asyncio.sleep(0.01)
            if self.keeps and not session.ended:
                await self.save(session)
            session.end("draining")

    async def close(self) -> None:
        """Lets go of all; the store stays as it is."""
        self.draining = True
        if self._task is not None:
            self._task.cancel()
        for session in list(self.by_name.values()):
            self.remove(session)

    def report(self) -> list[Json]:
        """For JSON."""
        return [session.report() for session in self.by_name.values()]


def fingerprint(name: str, begin: Callable[[], Any]) -> str:
    """Names the recogniser and its weights: the state of another would go on without an error."""
    digest = hashlib.sha256(name.encode())
    params = getattr(begin(), "params", {})
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
