"""Threads for what blocks: each kind of work has its own few, so that none waits for another's.

The event loop's own pool is everybody's: eight cameras that never answer would fill it, and frames,
snapshots and the shutdown would wait behind them. These threads are daemons: a call that never
returns does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .limits import ServeError

Result = TypeVar("Result")


class Workers:
    """Up to ``most`` threads of one kind, made when they are needed.

    Args:
      kind: for the threads' names.
      most: calls that run at once; others wait for their turn, in order.
      waiting: calls that may wait; None: any number.
    """

    def __init__(self, kind: str, most: int, waiting: int | None = None):
        self.kind, self.most, self.waiting = kind, most, waiting
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._inside = 0  # calls that run or wait

    async def run(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """``function(*args, **kwargs)`` in one of the threads.

        Cancelled, it does not run if it has not begun; else its result is thrown away.

        Raises:
          ServeError: "busy": too many wait already.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_it(value)

        def call() -> None:
            if future.cancelled():
                return
            try:
                done: tuple[Callable[[Any], None], Any] = (
                    future.set_result,
                    function(*args, **kwargs),
                )
            except BaseException as error:
                done = future.set_exception, error
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(settle, *done)

        with self._lock:
            if self.waiting is not None and self._inside >= self.most + self.waiting:
                raise ServeError("busy", f"{self.waiting} calls wait for {self.kind}; come later")
            self._inside += 1
            if self._threads < min(self._inside, self.most):
                self._threads += 1
                threading.Thread(
                    target=self._work, name=f"streamzoo {self.kind}", daemon=True
                ).start()
        self._calls.put(call)
        return await future

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            try:
                call()
            finally:
                with self._lock:
                    self._inside -= 1
            del call  # what it holds is not to wait for the next one


CPUS = os.cpu_count() or 1
OPENING = Workers("opening", most=32, waiting=64)  # they wait for cameras, and cost no time
PEERS = Workers("peers", most=8, waiting=16)
DECODING = Workers("decoding", most=max(2, CPUS))
HEARING = Workers("hearing", most=max(1, CPUS // 2))
SAVING = Workers("saving", most=2)
DRAWING = Workers("drawing", most=1)
