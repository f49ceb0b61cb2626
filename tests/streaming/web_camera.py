"""An HTTP server that pauses, breaks off, has no ranges, or is a camera of JPEG pictures."""

import http.server
import io
import re
import threading
import time

import numpy as np


class Web:
    """Serves `files` (name: bytes) and /camera/RATE; ``asked`` counts requests of files.

    ranges, length: what it can do; pause: seconds of silence at 60 % of the file, once; breaks: it
    ends the connection there, as often; chunked: in chunks, which say where the end is.
    """

    def __init__(
        self,
        files=None,
        *,
        ranges=True,
        length=True,
        pause=0.0,
        breaks=0,
        chunked=False,
        dead=False,
    ):
        self.files, self.ranges, self.length, self.pause = files or {}, ranges, length, pause
        self.breaks, self.chunked, self.dead, self.asked = breaks, chunked, dead, 0
        web, self.over = self, threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.close_connection = True
                try:
                    if self.path.startswith("/camera/"):
                        web.camera(self, float(self.path[8:]))
                    else:
                        web.file(self)
                except OSError:
                    pass

            def log_message(self, format, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def file(self, request):
        self.asked += 1
        data = self.files[request.path[1:]]
        found = re.match(r"bytes=(\d+)-", request.headers.get("Range", "")) if self.ranges else None
        if self.dead and self.asked > 1 and self.breaks <= 0:
            return
        begin, middle = int(found[1]) if found else 0, int(0.6 * len(data))
        request.send_response(206 if found else 200)
        if self.ranges:
            request.send_header("Accept-Ranges", "bytes")
        request.send_header("Connection", "close")
        if self.chunked:
            request.send_header("Transfer-Encoding", "chunked")
        elif self.length:
            request.send_header("Content-Length", str(len(data) - begin))
        if found:
            request.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        request.end_headers()

        def send(part):
            for at in range(0, len(part), 1 << 14):
                piece = part[at : at + (1 << 14)]
                head, tail = (b"%x\r\n" % len(piece), b"\r\n") if self.chunked else (b"", b"")
                request.wfile.write(head + piece + tail)

        if begin < middle and (self.pause or self.breaks > 0):
            send(data[begin:middle])
            request.wfile.flush()
            self.over.wait(self.pause)
            self.pause, begin = 0.0, middle
            if self.breaks > 0:
                self.breaks -= 1
                return
        send(data[begin:])
        if self.chunked:
            request.wfile.write(b"0\r\n\r\n")

    def camera(self, request, rate):
        """Pictures whose columns say, in 16 bits, how many tenths of a second old they are."""
        from PIL import Image

        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        request.end_headers()
        number, start = 0, time.monotonic()
        while not self.over.is_set():
            tenths = int(10 * time.monotonic()) % 65536
            bits = np.uint8([255 * (tenths >> i & 1) for i in range(16)])
            data = io.BytesIO()
            Image.fromarray(np.repeat(np.tile(bits, (16, 1)), 16, 1)).save(data, "JPEG")
            picture = data.getvalue()
            request.wfile.write(
                b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
                % (len(picture), picture)
            )
            number += 1
            self.over.wait(max(0.0, start + number / rate - time.monotonic()))


def age(image):
    """Seconds since a picture of the camera was made."""
    bits = image[8, 8::16, 0] > 127
    tenths = sum(int(bit) << i for i, bit in enumerate(bits))
    return (10 * time.monotonic() - tenths) % 65536 / 10
