"""Sessions into the store, one after the other beside the service, and back out of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from ...layers.streaming import Carry, Fields, Json
from ..engine import StreamClosed
from .limits import ServeError
from .live_session import LiveSession
from .sessions import Sessions
from .spec import Spec, Start, token_key
from .store import Lease, StaleWriter, Store
from .workers import SAVING

log = logging.getLogger("streamzoo.serve")


class Snapshots:
    """Saves every session that has moved, at most once in ``every`` seconds.

    One at a time, so that no more than one carry is held for it; a slow store makes snapshots
    rarer and nothing else. A session that another process has claimed ends here as "moved".
    """

    def __init__(self, sessions: Sessions, store: Store, every: float = 1.0):
        self._sessions, self._store, self._every = sessions, store, every
        self._leases: dict[LiveSession, Lease] = {}
        self._saved: dict[LiveSession, tuple[float, Any]] = {}  # when, and what had come by then
        self._lock = asyncio.Lock()
        self._model = fingerprint(sessions.engine.step)
        self._drops: set[asyncio.Task[None]] = set()
        self._letting_go = False
        self.count = self.failures = 0
        sessions.recall = self.recall
        sessions.removed.append(self._removed)
        self._task = asyncio.create_task(self._run(), name="snapshots")

    async def _run(self) -> None:
        await SAVING.run(self._store.sweep, 10 * self._sessions.limits.ttl)
        while True:
            for session in list(self._sessions.by_name.values()):
                if self._due(session):
                    await self.save(session)
            await asyncio.sleep(self._every / 10)

    @staticmethod
    def _place(session: LiveSession) -> Any:
        received = session.stream.state.received
        return received, session.next, session.recent.last, session.recent.acked

    def _due(self, session: LiveSession) -> bool:
        if session.ended:
            return False
        when, place = self._saved.get(session, (-1e9, None))
        return time.monotonic() >= when + self._every and place != self._place(session)

    async def save(self, session: LiveSession) -> bool:
        """Saves one session; False, with the reason in the log, if that was not possible."""
        try:
            place = self._place(session)
            plain, carry = await session.state()
            plain |= {"model": self._model, "saved": time.time()}
            async with self._lock:
                if session.ended:  # since: what is forgotten must not come back
                    return False
                await SAVING.run(self._write, session, plain, flat(carry))
        except StreamClosed:
            return False
        except StaleWriter as error:
            log.warning("session %s is served elsewhere: %s", session.name, error)
            session.end("moved")
            self._sessions.remove(session)
            return False
        except Exception as error:  # a store that fails must not stop the service
            self.failures += 1
            self._note(session, None)
            log.warning("session %s is not saved: %r", session.name, error)
            return False
        self.count += 1
        self._note(session, place)
        session.saved = max(session.saved, plain["next"])
        return True

    def _note(self, session: LiveSession, place: Any) -> None:
        if not session.ended:
            self._saved[session] = (time.monotonic(), place)

    def _write(self, session: LiveSession, plain: Fields, arrays: Any) -> None:
        if session not in self._leases:
            if session.ended:  # forgotten since: another's by now, and not to be claimed back
                return
            self._leases[session] = self._store.claim(session.key)
        try:
            self._leases[session].save(plain, arrays)
        except FileNotFoundError:  # somebody removed the folder: begin it anew
            self._leases[session] = self._store.claim(session.key)
            self._leases[session].save(plain, arrays)

    async def recall(self, token: str, lasting: bool = False) -> LiveSession:
        """The session of a token, out of the store; its former server is refused from now on.

        ``lasting``: as for :meth:`Sessions.open`.

        Raises:
          ServeError: "unknown_token": it is not there, too old, or of another model; else see
            :meth:`Sessions.open`.
        """
        async with self._lock:
            try:
                return self._sessions.resume(token)  # another connection was faster
            except ServeError as error:
                unknown = error
            found = await SAVING.run(self._read, token_key(token))
            if found is None:
                raise unknown
            lease, plain, start = found
            name = plain["name"] if plain["name"] not in self._sessions.by_name else None
            session = await self._sessions.admit(
                Spec(**plain["spec"]), owner=plain["owner"], name=name, token=token, start=start,
                lasting=lasting,
            )  # fmt: skip
            self._leases[session] = lease
            self._saved[session] = (time.monotonic(), None)
        if plain["paused"]:
            session.pause()
        log.info("session %s goes on from frame %d", session.name, session.next)
        return session

    def _read(self, key: str) -> tuple[Lease, Json, Start] | None:
        if key not in self._store:
            return None
        lease = self._store.claim(key)
        found = lease.load()
        if found is None:
            return None
        plain, arrays = found
        if plain["model"] != self._model:
            log.warning("a snapshot is of another model or other weights; it is not used")
            return None
        if plain["saved"] + self._sessions.limits.ttl < time.time():
            return None
        carry = unflat(arrays, self._sessions.engine)
        return lease, plain, Start(carry, plain["next"], plain["last"], plain["records"])

    async def save_all(self, sessions: Iterable[LiveSession], timeout: float) -> bool:
        """Saves them now; True if each was saved within ``timeout`` seconds in all."""
        try:
            async with asyncio.timeout(timeout):
                return all([await self.save(session) for session in sessions])
        except TimeoutError:
            return False

    def forget(self, session: LiveSession) -> None:
        """The session is another's: it is not saved, nor dropped from the store, any more."""
        session.end("moved")
        self._leases.pop(session, None)

    def let_go(self) -> None:
        """From now on a session that ends here stays in the store, for whoever serves it next."""
        self._letting_go = True

    def _removed(self, session: LiveSession) -> None:
        self._saved.pop(session, None)
        if not self._letting_go:
            task = asyncio.create_task(self._drop(session))
            self._drops.add(task)
            task.add_done_callback(self._drops.discard)

    async def _drop(self, session: LiveSession) -> None:
        async with self._lock:  # a write of it may be on its way
            lease = self._leases.pop(session, None)
            if lease is not None:
                await SAVING.run(lease.drop)

    async def close(self) -> None:
        """Ends the work; the store stays as it is."""
        self.let_go()
        self._task.cancel()
        tasks = [self._task, *self._drops]
        await asyncio.wait(tasks, timeout=2.0)  # a store that hangs must not hold the process
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def fingerprint(step: Any) -> str:
    """Names the model and its weights: a carry of others would go on without an error, wrongly."""
    digest = hashlib.sha256(step.card.name.encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(step.params)[0]:
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def flat(carry: Carry) -> dict[str, np.ndarray]:
    """{path in the tree: array}."""
    leaves = jax.tree_util.tree_flatten_with_path(carry)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unflat(arrays: dict[str, np.ndarray], engine: Any) -> Carry:
    """The carry of one stream. Raises ServeError "unknown_token": arrays are missing."""
    make = engine.step.model.init_carry
    template = jax.eval_shape(lambda: make(1, engine.frame_shape))
    leaves, tree = jax.tree_util.tree_flatten_with_path(template)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    if missing := sorted(set(names) ^ set(arrays)):
        raise ServeError("unknown_token", f"the snapshot has other arrays: {missing[:3]}")
    return jax.tree.unflatten(tree, [arrays[name] for name in names])
