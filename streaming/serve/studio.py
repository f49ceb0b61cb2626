"""Video that a server makes: one batch of endless streams, a block at a time, at the video's rate.

A client's frames wait in a queue of fixed length; a slow client loses the oldest. A new class holds
from the next block on, and what was made before and not sent yet is thrown away, so that a client
never waits for old frames to pass.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections import deque
from typing import Any

import jax
import numpy as np

from ..generating import Look
from .dashboard import SIDE, jpeg
from .limits import ServeError
from .workers import Workers

MAKING = Workers("generating", 1)
log = logging.getLogger("streamzoo.serve")


@dataclasses.dataclass(frozen=True)
class Shown:
    """A frame for a client: its number in the stream, its class, when it was made, a JPEG."""

    index: int
    name: str | None
    made: float
    jpeg: bytes


class Take:
    """One client's stream of a studio; ``async for`` gives its frames.

    ``dropped`` counts frames that were made and never sent.
    """

    def __init__(self, studio: Studio, slot: int, name: str | None, seed: int):
        self._studio, self.slot, self.seed = studio, slot, seed
        self.name = self.wanted = name
        self.frames: deque[Shown] = deque()
        self.dropped = self.made = 0
        self.begun = self.ended = False
        self._news = asyncio.Event()

    def ask(self, name: str | None) -> None:
        """Another class. Raises ServeError: there is none of this name."""
        self._studio.check(name)
        self.wanted = name

    def add(self, frames: list[Shown], fresh: bool) -> None:
        """New frames; ``fresh``: they are the first of a class."""
        if fresh:
            self.dropped += len(self.frames)
            self.frames.clear()
        self.frames.extend(frames)
        while len(self.frames) > self._studio.queue:
            self.frames.popleft()
            self.dropped += 1
        self.made += len(frames)
        self._news.set()

    def end(self) -> None:
        """Lets its slot go; again without harm."""
        self.ended = True
        self._studio.let_go(self)
        self._news.set()

    def __aiter__(self) -> Take:
        return self

    async def __anext__(self) -> Shown:
        while not self.frames:
            if self.ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self.frames.popleft()


class Studio:
    """Streams of one generator for up to ``slots`` clients.

    async with Studio(generator, look) as studio:
        take = studio.open("tiny")
        async for frame in take: ...

    Args:
      generator: a :class:`~streamzoo.zoo.generate.Generator`.
      look: what its video is.
      slots: clients at once.
      queue: frames that wait for a client, two blocks by default.
    """

    def __init__(self, generator: Any, look: Look, *, slots: int = 4, queue: int | None = None):
        self.generator, self.look, self.slots = generator, look, slots
        self.block = generator.rollout.block
        self.queue = queue or 2 * self.block
        self.takes: dict[int, Take] = {}
        self._some = asyncio.Event()
        self._state: Any = generator.start(slots)
        self._texts = np.repeat(look.condition(None), slots, axis=0)
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Studio:
        await MAKING.run(self._warm)
        self._running = asyncio.create_task(self._run(), name="studio")
        return self

    async def __aexit__(self, *_: object) -> None:
        for take in [*self.takes.values()]:
            take.end()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def check(self, name: str | None) -> None:
        """Raises ServeError "bad_request": no class has this name."""
        try:
            self.look.condition(name)
        except (ValueError, TypeError) as error:
            raise ServeError("bad_request", str(error)) from None

    def open(self, name: str | None = None, seed: int = 0) -> Take:
        """A stream for a client. Raises ServeError "too_many", or "bad_request"."""
        self.check(name)
        free = [slot for slot in range(self.slots) if slot not in self.takes]
        if not free:
            raise ServeError("too_many", f"{self.slots} streams are made at once; come back later")
        take = self.takes[free[0]] = Take(self, free[0], name, seed)
        self._some.set()
        return take

    def let_go(self, take: Take) -> None:
        """The slot of a stream is free."""
        if self.takes.get(take.slot) is take:
            del self.takes[take.slot]

    def _warm(self) -> None:
        """Compiles what clients would wait for."""
        none = np.zeros(self.slots, bool)
        self.generator.switch(self._state, self._texts, which=none)
        jax.block_until_ready(self.generator.step(self._state, self._texts, active=none))

    async def _run(self) -> None:
        try:
            await self._make()
        except Exception:
            log.exception("%s makes no video any more", self.look.name)
            for take in [*self.takes.values()]:
                take.end()
            self.slots = 0  # who comes now is refused

    async def _make(self) -> None:
        due = 0.0
        while True:
            if not self.takes:
                self._some.clear()
                await self._some.wait()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic()) + self.block / self.look.fps
            takes = dict(self.takes)
            new = {slot: take.wanted for slot, take in takes.items()}
            made = await MAKING.run(self._block, takes, new)
            for slot, frames in made.items():
                take = takes[slot]
                take.add(frames, fresh=take.name != new[slot])
                take.name = new[slot]

    def _block(
        self, takes: dict[int, Take], names: dict[int, str | None]
    ) -> dict[int, list[Shown]]:
        """One block of every stream, drawn. Runs in a thread; only this one touches the state."""
        active, turns = np.zeros(self.slots, bool), np.zeros(self.slots, bool)
        for slot, take in takes.items():
            active[slot] = True
            self._texts[slot] = self.look.condition(names[slot])[0]
            if not take.begun:
                first = self.generator.start(1, seed=take.seed % (1 << 31))
                put = lambda a, b, slot=slot: a.at[slot].set(b[0])
                self._state = jax.tree.map(put, self._state, first)
                take.begun = True
            else:
                turns[slot] = take.name != names[slot]
        if turns.any():
            self._state = self.generator.switch(self._state, self._texts, which=turns)
        self._state, made = self.generator.step(self._state, self._texts, active=active)
        latents, valid = np.asarray(made.latents), np.asarray(made.valid)
        start, now, out = np.asarray(made.start), time.monotonic(), {}
        for slot in takes:
            pictures = self.look.draw(latents[slot], SIDE) if valid[slot] else ()
            out[slot] = [
                Shown(int(start[slot]) + i, names[slot], now, jpeg(picture))
                for i, picture in enumerate(pictures)
            ]
        return out
