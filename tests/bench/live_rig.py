"""A `streamzoo serve` process under test, and what is written down of one fault."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for tests.*

from streamzoo.zoo import list_models
from tests.streaming import tiny
from tests.streaming.program import free_port, serve, up


@dataclasses.dataclass
class Outcome:
    """What came of a fault. Times in seconds.

    Attributes:
      recovered: answers come again, at their old rate.
      seconds: from the end of the fault (its cause is gone) to the first answer after it.
      frames: sent; by a camera, those due by its clock.
      answered: of these.
      lost: the rest, by the reason that was given.
      uncounted: frames without an answer and without a reason; of a camera an estimate.
      error: largest difference of a probability from an uninterrupted run.
      neighbour: the longest that an undisturbed stream waited for its next answer.
    """

    recovered: bool
    seconds: float
    frames: int
    answered: int
    lost: dict[str, int]
    uncounted: int
    error: float | None = None
    neighbour: float | None = None
    note: str = ""


class Rig:
    """The program with the tiny student, on a free port, in a process of its own."""

    def __init__(self, home: Path, *words: Any, slots: int = 2, port: int | None = None):
        if tiny.NAME not in list_models():
            tiny.add(home)
        self.home, self.words, self.slots = home, words, slots
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="streamzoo-"))
        self.log = self.folder / "log"
        self.process: Any = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        words = ("--port", self.port, *self.words)
        self.process = serve(self.home, self.log, *words, slots=self.slots)
        since = len(self.log.read_text())
        async with asyncio.timeout(180):
            # In its own words too: what answers on the port may be somebody else.
            while "serving on" not in self.log.read_text()[since:]:
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.1)
            await up(self.address, self.process, self.log)

    async def __aenter__(self) -> Rig:
        try:
            await self.start()
        except BaseException:
            self.process.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.wait)
        if "Traceback" in self.log.read_text():
            print(self.log.read_text(), file=sys.stderr)
            raise RuntimeError("the server's log has a traceback")

    async def ask(self, path: str) -> Any:
        """GET, as JSON."""

        def call():
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:
                return json.load(answer)

        return await asyncio.to_thread(call)

    def counts(self) -> dict[str, int]:
        """Resident bytes, threads and open files of the process."""
        proc = Path(f"/proc/{self.process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return {
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "threads": len(os.listdir(proc / "task")),
            "files": len(os.listdir(proc / "fd")),
        }


class Follower:
    """Polls the results of a stream; ``seen``: (monotonic seconds, record), oldest first."""

    def __init__(self, rig: Rig, name: str, pause: float = 0.05):
        self.rig, self.name, self.pause = rig, name, pause
        self.seen: list[tuple[float, dict[str, Any]]] = []
        self._task = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        after = 0
        while True:
            path = f"/streams/{self.name}/results?after={after}"
            try:
                answer = await self.rig.ask(path)
            except urllib.error.HTTPError:  # the stream is not there yet
                await asyncio.sleep(self.pause)
                continue
            now = time.monotonic()
            self.seen += [(now, record) for record in answer["results"]]
            if answer["results"]:
                after = answer["results"][-1]["seq"]
            await asyncio.sleep(self.pause)

    async def until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Whether it became true in time."""
        end = time.monotonic() + seconds
        while not true():
            if self._task.done():
                self._task.result()
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
        return True

    def between(self, start: float, end: float) -> list[dict[str, Any]]:
        return [record for at, record in self.seen if start < at <= end]

    def longest(self, start: float, end: float) -> float:
        """The longest time without an answer."""
        times = [start, *(at for at, _ in self.seen if start < at <= end), end]
        return max(b - a for a, b in zip(times, times[1:], strict=False))

    def stop(self) -> None:
        self._task.cancel()
