"""A server in a process of its own, and a client that sends it a video's frames and prints answers.

Needs the extra `serve`. Against a server that is already there: --url http://HOST:PORT
"""

import argparse
import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

import streamzoo
from streamzoo.streaming.serve.client import Client

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("video", help="a video file")
parser.add_argument("--url", help="of a server (default: one is started)")
parser.add_argument("--model", default="dsta-lite0/ucf11")
parser.add_argument("--fps", type=float, default=2.0, help="frames per second that are sent")
args = parser.parse_args()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server on a free port; its address."""
    command = [sys.executable, "-m", "streamzoo.streaming.cli", "serve", "--model", args.model]
    command += ["--port", "0", "--slots", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"serving on (http://\S+)", line):
                    yield found[1]
                    return
            sys.exit("the server ended before it served")
        finally:
            process.terminate()
            process.stderr.read()  # it answers what is in flight, and says so


async def main(url: str) -> None:
    async with Client(url, fps=args.fps, policy="lossless", budget_ms=10_000) as client:
        height, width = client.opened["size"]

        async def send() -> None:
            with streamzoo.open_source(args.video, size=(height, width)) as source:
                for frame in source:
                    await client.send(frame.image, frame.time)  # or JPEG bytes of any size
            await client.finish()

        sending = asyncio.create_task(send())
        count = 0
        async for result in client:
            count += 1
            print(f"{result.time:6.2f} s  {result.latency_ms:7.1f} ms  {result.classes}")
        await sending
        print(f"{count} answers, {client.reconnects} reconnects, {client.missed} missed")


if args.url:
    asyncio.run(main(args.url))
else:
    with server() as address:
        asyncio.run(main(address))
