"""Which replica serves which session. Plain Python, driven by calls and an injected clock.

A session is owned by one replica at one epoch. Epochs only grow, also over restarts of the
directory: the upper bits are its generation. A replica's heartbeat renews all its leases at once
and says what it holds, so that a directory that starts anew learns everything within a heartbeat.

Placement is by free slots: not by a hash, which moves sessions whenever a replica comes or goes,
and not by connections, which say nothing about slots. The streams of a group, such as the cameras
that one model looks across, go to the same replica.

The directory decides who *should* serve. That two never *write* is the store's doing
(:mod:`..serve.store`), which needs no clock: a replica that the directory took for dead and is not
can be wrong for a heartbeat, and its snapshots are refused.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping

from ...layers.streaming import Json
from .messages import Beat, Full, Held, Load, Place, Settling


@dataclasses.dataclass
class _Replica:
    endpoint: str
    load: Load
    until: float
    draining: bool = False


@dataclasses.dataclass
class _Session:
    owner: str
    epoch: int
    group: str | None
    until: float  # forgotten then, unless its owner says that it holds it
    held: bool = False  # its owner has said so
    client: str = ""  # for whom its slot is kept until then


class Directory:
    """See the module.

    Args:
      generation: higher than that of any directory before it, see :class:`..serve.store.Store`.
      lease: seconds without a heartbeat after which a replica counts as dead.
      hold: seconds that a slot waits for the client that was sent to it.
      keep: seconds that a session without a live owner is remembered.
    """

    def __init__(
        self,
        generation: int = 1,
        *,
        lease: float = 2.0,
        hold: float = 15.0,
        keep: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        if generation < 1 or not lease > 0 or not hold > 0 or not keep > 0:
            raise ValueError(
                f"generation={generation}, lease={lease}, hold={hold}, keep={keep}: above 0"
            )
        self.lease, self._hold, self._keep, self._clock = lease, hold, keep, clock
        self._generation, self._count = generation, 0
        self._replicas: dict[str, _Replica] = {}
        self._sessions: dict[str, _Session] = {}
        self._refused: dict[str, float] = {}  # sid: when
        self._settled = clock() + lease

    # What a replica says.

    def heartbeat(self, replica: str, endpoint: str, load: Load, held: Mapping[str, Held]) -> Beat:
        """A replica is alive and holds ``held``, by session id; it renews these leases.

        A session that is another's, or was given to another at a higher epoch, is in ``lost``:
        the replica ends it without a word to the store.
        """
        now = self._sweep()
        known = self._replicas.get(replica)
        draining = known is not None and known.draining
        self._replicas[replica] = _Replica(endpoint, load, now + self.lease, draining)
        beat = Beat({}, [], len(self._refused))
        for sid, lease in held.items():
            session = self._sessions.get(sid)
            if session is None or self._yields(session, replica, lease):
                epoch = lease.epoch or self._next()
                group = lease.group or (session.group if session else None)
                session = self._sessions[sid] = _Session(replica, epoch, group, now)
            if session.owner != replica:
                beat.lost.append(sid)
                continue
            session.epoch = max(session.epoch, lease.epoch)
            session.held, session.until = True, now + self._keep
            beat.leases[sid] = Held(session.epoch, session.group)
        if not draining:
            gone = [
                sid
                for sid, session in self._sessions.items()
                if session.owner == replica and session.held and sid not in held
            ]
            for sid in gone:
                del self._sessions[sid]
        return beat

    def _yields(self, session: _Session, replica: str, lease: Held) -> bool:
        """Whether what another was given is rather this replica's."""
        if session.owner == replica:
            return False
        if lease.epoch == 0:  # its client went there by itself, and nobody else serves it
            return not self._alive(session.owner)
        return lease.epoch > session.epoch  # a restarted directory heard the older owner first

    def drain(self, replica: str) -> None:
        """It gets no more sessions, and what it has may be placed elsewhere."""
        if replica in self._replicas:
            self._replicas[replica].draining = True

    def leave(self, replica: str) -> None:
        """It is gone: its sessions are free to go elsewhere at once."""
        self._replicas.pop(replica, None)

    # What a client asks.

    def place(
        self,
        sid: str,
        group: str | None = None,
        *,
        known: bool = False,
        avoid: Collection[str] = (),
        client: str = "",
        share: int | None = None,
    ) -> Place:
        """Where a session is, or where it may begin or go on: its slot is kept for a while.

        Args:
          known: the session has been served before.
          avoid: replicas that have refused it; no reason to move what is held.
          client, share: who asks, and how many slots may be kept for it that it has not come to.

        Raises:
          Full: no slot is free, or too many are kept for the client. Settling: try again within
            ``lease`` seconds.
        """
        now = self._sweep()
        session = self._sessions.get(sid)
        if session is not None and self._alive(session.owner):
            owner = self._replicas[session.owner]
            if not owner.draining and (session.held or session.owner not in avoid):
                # A slot is kept for the time that was said when it was given: asking again and
                # never coming must not keep it from those who would.
                if session.held:
                    session.until = max(session.until, now + self._hold)
                return Place(sid, session.owner, owner.endpoint, session.epoch)
        elif session is None and known and now < self._settled:
            raise Settling(f"the directory started less than {self.lease:g} s ago; try again")
        group = group or (session.group if session else None)
        kept = sum(s.client == client and not s.held for k, s in self._sessions.items() if k != sid)
        if client and share is not None and kept >= share:
            raise Full(f"{kept} slots are kept for you already; open a stream on one of them")
        try:
            name = self._choose(sid, group, avoid)
        except Full:
            self._refused[sid] = now
            raise
        self._refused.pop(sid, None)
        until = now + self._hold
        self._sessions[sid] = _Session(name, self._next(), group, until, client=client)
        endpoint, epoch = self._replicas[name].endpoint, self._sessions[sid].epoch
        return Place(sid, name, endpoint, epoch, moved=session is not None)

    def _choose(self, sid: str, group: str | None, avoid: Collection[str]) -> str:
        open_ = {n for n, r in self._replicas.items() if not r.draining}
        if not open_:
            raise Full("no replica is up")
        if group is not None:
            homes = {s.owner for k, s in self._sessions.items() if s.group == group and k != sid}
            if homes & open_:
                open_ &= homes
        free = {name: self.free(name) for name in sorted(open_ - set(avoid))}
        best = max(free, key=lambda name: free[name], default=None)
        if best is None or free[best] < 1:
            what = f"group {group!r} is on a replica" if group else f"{len(open_)} replicas are"
            raise Full(f"{what} without a free slot; close a session, or allow more replicas")
        return best

    def free(self, replica: str) -> int:
        """Slots of a replica that are neither used nor kept for somebody."""
        load = self._replicas[replica].load
        owned = sum(s.owner == replica for s in self._sessions.values())
        return min(load.slots, load.slots - owned + load.idle)

    def endpoint(self, replica: str) -> str | None:
        """None: it is not up."""
        return self._replicas[replica].endpoint if self._alive(replica) else None

    def at(self, endpoint: str) -> str | None:
        """The replica there."""
        return next((n for n, r in self._replicas.items() if r.endpoint == endpoint), None)

    def report(self) -> Json:
        """For JSON."""
        self._sweep()
        return {
            "generation": self._generation,
            "waiting": len(self._refused),
            "replicas": {
                name: {
                    "endpoint": r.endpoint, "draining": r.draining, "free": self.free(name),
                    **dataclasses.asdict(r.load),
                }
                for name, r in self._replicas.items()
            },
            "sessions": {
                sid: {"replica": s.owner, "epoch": s.epoch, "group": s.group, "held": s.held}
                for sid, s in self._sessions.items()
            },
        }  # fmt: skip

    # Time.

    def _alive(self, replica: str) -> bool:
        return replica in self._replicas

    def _next(self) -> int:
        self._count += 1
        return self._generation << 32 | self._count

    def _sweep(self) -> float:
        """Forgets whose time is up; now."""
        now = self._clock()
        self._replicas = {n: r for n, r in self._replicas.items() if r.until > now}
        self._sessions = {
            sid: s
            for sid, s in self._sessions.items()
            if s.until > now or (s.held and self._alive(s.owner))
        }
        self._refused = {k: at for k, at in self._refused.items() if at > now - 2 * self.lease}
        return now
