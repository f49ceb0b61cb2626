"""The process of one WebRTC peer; a program that `webrtc.py` starts, not a module to import.

It imports nothing of the library, so that it starts fast and stays small. Standard input: a
request, one line of JSON; its end means that nobody listens any more. Standard output: messages,
each a length (4 bytes, big-endian), a header in JSON, and the pictures the header announces.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections import deque
from time import monotonic

import aioice.ice
import numpy as np
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av.video.reformatter import Interpolation, VideoReformatter

CONNECT = 30.0  # seconds from the answer to the first picture


class Output:
    """Messages, one at a time, from any thread."""

    def __init__(self, file):
        self._file, self._lock = file, threading.Lock()

    def send(self, header, *pictures):
        header = json.dumps({**header, "bytes": [p.nbytes for p in pictures]}).encode()
        with self._lock:
            self._file.write(len(header).to_bytes(4, "big") + header)
            for picture in pictures:
                # Rows of a width that swscale pads lie apart.
                self._file.write(np.ascontiguousarray(picture).data.cast("B"))
            self._file.flush()


class Peer:
    def __init__(self, request, output):
        self.request, self.output = request, output
        self.size, self.keep = request["size"], request["keep_original"]
        servers = [RTCIceServer(urls=url) for url in request["ice_servers"]]
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self.latest = deque(maxlen=2)  # what waits for the pipe; the latest wins
        self.frames = self.dropped = 0
        self.news, self.over = asyncio.Event(), asyncio.get_running_loop().create_future()
        self.swscale, self.tasks = VideoReformatter(), set()

    def end(self, reason, failed):
        if not self.over.done():
            self.over.set_result({"end": reason, "failed": failed})

    def keep_task(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.task_done)

    def task_done(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end(repr(error), True)  # else pictures would stop without a word

    async def answer(self):
        """The SDP answer. Raises ValueError: the offer has no video."""
        connection, video = self.connection, []

        @connection.on("track")
        def _(track):
            first = track.kind == "video" and not video
            video.extend([track] if first else [])
            self.keep_task(self.drain(track, first))

        @connection.on("connectionstatechange")
        def _():
            if connection.connectionState == "failed":
                self.end("the connection failed", True)
            elif connection.connectionState == "closed":
                self.end("the peer closed the connection", False)

        await connection.setRemoteDescription(RTCSessionDescription(self.request["sdp"], "offer"))
        if not video:
            raise ValueError("the offer has no video to send")
        await connection.setLocalDescription(await connection.createAnswer())
        return connection.localDescription.sdp

    async def drain(self, track, wanted):
        """Takes every frame of every track: aiortc keeps what nobody takes, without a bound."""
        try:
            while True:
                frame = await track.recv()
                if wanted:
                    self.dropped += len(self.latest) == self.latest.maxlen
                    self.latest.append((frame, self.frames, monotonic()))
                    self.frames += 1
                    self.news.set()
        except MediaStreamError:
            if wanted:
                self.end("the peer ended its video", False)

    async def write(self):
        while True:
            await self.news.wait()
            self.news.clear()
            while self.latest:
                frame, index, received = self.latest.popleft()
                dropped = self.dropped  # so far: all of them older than this one
                await asyncio.to_thread(self.write_one, frame, index, received, dropped)

    def write_one(self, frame, index, received, dropped):
        """Pictures as sources.picture.Resizer makes them: swscale, bilinear."""
        height, width = self.size or (frame.height, frame.width)
        sizes = [(height, width)] + [(frame.height, frame.width)] * self.keep
        pictures = [
            self.swscale.reformat(
                frame, width=w, height=h, format="rgb24", interpolation=Interpolation.BILINEAR
            ).to_ndarray()
            for h, w in sizes
        ]
        self.output.send(
            {
                "time": frame.time,
                "index": index,
                "received": received,
                "dropped": dropped,
                "size": sizes[0],
                "original_size": (frame.height, frame.width),
            },
            *pictures,
        )

    async def expect(self):
        await asyncio.sleep(CONNECT)
        if not self.frames:
            self.end(f"no picture in {CONNECT:g} s", True)

    async def run(self):
        try:
            self.output.send({"answer": await self.answer()})
        except Exception as error:  # whatever the offer provokes in the library
            return {"end": str(error) or repr(error), "failed": True}
        self.keep_task(self.write())
        self.keep_task(self.expect())
        return await self.over


async def main(output):
    request = json.loads(sys.stdin.buffer.readline())
    if request["host"]:
        host = request["host"]
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [host]  # noqa: ARG005  by keyword
    peer, loop = Peer(request, output), asyncio.get_running_loop()

    def listen():
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(peer.end, "closed", False)

    threading.Thread(target=listen, daemon=True).start()
    end = await peer.run()
    output.send(end)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(peer.connection.close(), 2)


if __name__ == "__main__":
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the messages
    with contextlib.suppress(BrokenPipeError):
        asyncio.run(main(Output(private)))
    os._exit(0)  # a thread still reads standard input
