"""A cluster of the tiny student in processes of its own: start it, ask it, kill parts of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from . import tiny
from .program import free_port

ROOT = Path(__file__).resolve().parents[2]


class Rig:
    """``words``: fields of :class:`Cluster`."""

    def __init__(self, home, store, log, **words):
        self.port, self.log = free_port(), Path(log)
        self.words = {
            "home": str(home), "store": str(store), "port": self.port, "replicas": (2, 2),
            "slots": 2, "cpus": 0.1, "lease": 5.0, **words,
        }  # fmt: skip

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self):
        home = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        program = Path(tiny.__file__).with_name("cluster_program.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(self.words)],
            env=dict(os.environ, PYTHONPATH=home, JAX_PLATFORMS="cpu"),
            stdout=self.log.open("a"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(240):
                while "\nup\n" not in self.log.read_text():
                    assert self.process.poll() is None, self.log.read_text()
                    await asyncio.sleep(0.2)
                few = self.words["replicas"][0]
                await self.until(lambda state: len(state["replicas"]) >= few, 30)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    async def state(self):
        """GET /v1/cluster."""

        def call():
            with urllib.request.urlopen(self.address + "/v1/cluster", timeout=10) as answer:
                return json.load(answer)

        return await asyncio.to_thread(call)

    async def until(self, true, seconds):
        """The first state that is ``true``, and the seconds until then."""
        start, state = time.monotonic(), None
        while time.monotonic() < start + seconds:
            try:
                if true(state := await self.state()):
                    return state, time.monotonic() - start
            except OSError:
                pass
            await asyncio.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {state}")
