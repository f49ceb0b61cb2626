"""Clips and an RTSP server for the tests of sources, `watch` and the command line."""

import signal
import socket
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


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
