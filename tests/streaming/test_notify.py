"""Messages per event: delivered in order, tried again, dropped and counted; never in the way."""

import http.server
import json
import socket
import struct
import threading
import time

import pytest

from streamzoo.streaming import notify
from streamzoo.streaming.notify import Mqtt, NotifyError, Webhook, notifier


class Hook:
    """A web server that answers with the given codes, then 200, and keeps what came."""

    def __init__(self, codes=(), wait=0.0):
        self.codes, self.got, self.tries = list(codes), [], 0
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(wait)
                hook.tries += 1
                code = hook.codes.pop(0) if hook.codes else 200
                if code < 300:
                    hook.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
                self.send_response(code)
                self.end_headers()

            def log_message(self, format, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?a=1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def test_a_webhook_gets_each_message_in_order():
    with Hook() as hook:
        to = notifier(hook.url)
        for k in range(20):
            to.send({"event": k})
        to.close()
    assert [m for _, _, m in hook.got] == [{"event": k} for k in range(20)]
    assert hook.got[0][:2] == ("/hook?a=1", "application/json")
    assert (to.sent, to.dropped) == (20, 0)


def test_what_fails_for_now_is_tried_again_and_what_is_refused_is_not():
    with Hook([503, 429, 200, 404, 200]) as hook:
        to = Webhook(hook.url, pauses=(0.0, 0.0, 0.0))
        for k in range(3):
            to.send({"event": k})
        to.close()
    assert [m["event"] for _, _, m in hook.got] == [0, 2] and hook.tries == 5
    assert (to.sent, to.dropped, to.error) == (2, 1, "the webhook answered 404")


def test_a_dead_webhook_holds_nothing_up(monkeypatch):
    monkeypatch.setattr(notify, "WAITING", 5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens here
        to = Webhook(f"http://127.0.0.1:{taken.getsockname()[1]}/", pauses=(60.0,))
        start = time.monotonic()
        for k in range(20):
            to.send({"event": k})
        to.close(timeout=0.2)
    assert time.monotonic() - start < 10 and not to._thread.is_alive()
    assert to.sent == 0 and to.dropped == 20 and to.error


class Broker:
    """The least of an MQTT 3.1.1 broker: takes a client, and acknowledges what it publishes."""

    def __init__(self, port=0):
        self.got, self.greeting = [], b""
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._client, args=(client,), daemon=True).start()

    def _client(self, client):
        with client, client.makefile("rb") as stream:
            while head := stream.read(1):
                length = shift = 0
                while True:
                    byte = stream.read(1)[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = stream.read(length)
                if head[0] >> 4 == 1:
                    self.greeting = body
                    client.sendall(b"\x20\x02\x00\x00")
                elif head[0] >> 4 == 3:
                    size = struct.unpack(">H", body[:2])[0]
                    topic, mark = body[2 : 2 + size].decode(), body[2 + size : 4 + size]
                    self.got.append((topic, json.loads(body[4 + size :])))
                    client.sendall(b"\x40\x02" + mark)

    def close(self):
        self.socket.close()


def test_a_broker_gets_each_message():
    broker = Broker()
    to = notifier(f"mqtt://me:s%40cret@127.0.0.1:{broker.port}/cameras/door")
    for k in range(5):
        to.send({"event": k})
    to.close()
    broker.close()
    assert broker.got == [("cameras/door", {"event": k}) for k in range(5)]
    assert b"me" in broker.greeting and b"s@cret" in broker.greeting
    assert (to.sent, to.dropped) == (5, 0)


def test_a_broker_that_comes_late_gets_them_too_and_an_absent_one_holds_nothing_up():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    absent = Mqtt(f"mqtt://127.0.0.1:{port}/t")
    absent.send({"event": 1})
    start = time.monotonic()
    absent.close(timeout=0.2)
    assert time.monotonic() - start < 10 and (absent.sent, absent.dropped) == (0, 1)
    late = Mqtt(f"mqtt://127.0.0.1:{port}/t")
    late.send({"event": 2})
    broker = Broker(port)
    late.close(timeout=30)
    broker.close()
    assert broker.got == [("t", {"event": 2})] and late.sent == 1


@pytest.mark.parametrize(
    "address, words",
    [
        ("ftp://host/x", "http.*or mqtt"),
        ("http://", "webhook http://"),
        ("mqtt://host", "mqtt://HOST/TOPIC"),
        ("mqtt://host/a/#", "leave them"),
        ("mqtt://me:secret@host", r"\*\*\*@host"),
    ],
)
def test_other_addresses_are_refused(address, words):
    with pytest.raises(NotifyError, match=words) as error:
        notifier(address)
    assert "secret" not in str(error.value)
