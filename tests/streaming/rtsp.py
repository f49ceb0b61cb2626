"""Clips, an RTSP server and a camera that misbehaves, for the tests of sources and servers."""

import contextlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 50  # of the camera


def make_clip(path, frames=30, size=(48, 64), fps=25, pts=None, options=None, gop=5):
    """A moving gradient; pts in ticks of 1/1000 s, or one frame every 1/fps."""
    with av.open(str(path), "w", options=options or {}) as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"
        stream.codec_context.gop_size = gop
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        ramp = np.add.outer(np.arange(size[0]), np.arange(size[1])) * 2
        for i in range(frames):
            image = np.stack([ramp + 7 * i, ramp[::-1] + 3 * i, 255 - ramp], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = Fraction(1, fps if pts is None else 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return Path(path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RtspServer:
    """`rtsp-server` of aio-rtsp-toolkit in its own process, to be killed and stopped."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.address = f"rtsp://127.0.0.1:{self.port}/cam.mp4"

    def start(self):
        program = Path(sys.executable).with_name("rtsp-server")
        self.process = subprocess.Popen(
            [program, "-d", self.folder, "-H", "127.0.0.1", "-p", str(self.port),
             "-cp", str(free_port())],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the RTSP server did not start")

    def signal(self, number):
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()


def ts(path, frames, size=(48, 64)):
    """MPEG-TS bytes, FPS frames a second."""
    return make_clip(path, frames=frames, size=size, fps=FPS).read_bytes()


class Camera:
    """A TCP server: connection k plays script k (the last one again and again).

    A script is a list of (bytes, seconds they take), of seconds of silence, and of "reset"; a
    connection ends with its script. ``log`` has (monotonic seconds, connection, step), ``sent``
    counts frames, roughly: bytes go out in as many parts.
    """

    def __init__(self, *scripts):
        self.scripts, self.connections, self.log, self.sent = scripts, 0, [], 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.socket.getsockname()[1]}"
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.socket.close()
        self.thread.join(5)

    def serve(self):
        self.socket.settimeout(0.05)
        while not self.over.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                continue
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            with connection, contextlib.suppress(OSError):  # the reader left
                self.play(connection, script)

    def play(self, connection, script):
        for number, step in enumerate(script):
            self.log.append((time.monotonic(), self.connections - 1, number))
            if step == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif isinstance(step, tuple):
                data, seconds = step
                for k in range(parts := max(1, round(seconds * FPS))):
                    connection.sendall(data[len(data) * k // parts : len(data) * (k + 1) // parts])
                    self.sent += 1
                    if self.over.wait(seconds / parts):
                        return
            elif self.over.wait(step):
                return
