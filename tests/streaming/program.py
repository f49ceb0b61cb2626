"""`streamzoo serve` as a process: start it, wait for it, ask it."""

import asyncio
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from streamzoo.streaming.serve.server import bind

from . import tiny


def serve(home, log, *words, slots=2):
    """The program with the tiny student, whose weights ``tiny.add(home)`` has written."""
    environment = dict(os.environ, STREAMZOO_HOME=str(home))
    words = ["serve", "--model", tiny.NAME, "--slots", slots, *words]
    return subprocess.Popen(
        [sys.executable, str(Path(tiny.__file__)), *map(str, words)], env=environment,
        stderr=log.open("a"),
    )  # fmt: skip


async def up(address, process, log):
    """Until the server answers; its health."""

    def ask():
        with urllib.request.urlopen(address + "/healthz", timeout=5) as answer:
            return answer.status

    while True:
        assert process.poll() is None, log.read_text()
        try:
            return await asyncio.to_thread(ask)
        except OSError:
            await asyncio.sleep(0.1)


def free_port():
    with bind("127.0.0.1", 0) as sock:
        return sock.getsockname()[1]
