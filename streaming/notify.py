"""A message per event: to a webhook, or to an MQTT broker. Neither ever holds up the frames."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.error
import urllib.request
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ..layers.install import how_to_install
from ..layers.streaming import Json
from .sources.redaction import redact

WAITING = 1000  # messages that wait at most; more are dropped, and counted
PAUSES = (0.5, 2.0, 8.0)  # seconds before the second, third and fourth attempt


class NotifyError(ValueError):
    """An address that messages cannot be sent to; the text says what would do."""


class Notifier(Protocol):
    """Where events go. ``sent``, ``dropped``: messages so far."""

    sent: int
    dropped: int

    def send(self, message: Json) -> None:
        """Returns at once."""
        ...

    def close(self, timeout: float = 10.0) -> None:
        """Waits for what is under way, ``timeout`` seconds at most."""
        ...


class Webhook:
    """POSTs each message as JSON, in order, from a thread of its own.

    An answer of 2xx is success; 5xx, 429 and silence are tried again three times, any other
    answer is final. What cannot be delivered counts in ``dropped``; ``error`` says why the last
    one was not.

    Args:
      url: http:// or https://.
      timeout: seconds for one attempt.
      pauses: seconds before each further attempt.

    Raises:
      NotifyError: another address.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, pauses: tuple[float, ...] = PAUSES):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NotifyError(f"webhook {redact(url)}: give an http:// or https:// address")
        self.url, self.timeout, self.pauses = url, timeout, pauses
        self.sent = self.dropped = 0
        self.error = ""
        self._queue: queue.Queue[Json | None] = queue.Queue(WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def send(self, message: Json) -> None:
        """Queues a message; returns at once."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self.dropped += 1
            self.error = f"{WAITING} messages were waiting"

    def close(self, timeout: float = 10.0) -> None:
        """Waits until all is sent or given up; drops what is left after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._thread.is_alive():
            self._closing.set()  # no more attempts: what waits is dropped at once
            self._queue.put(None)
            self._thread.join(self.timeout + 1)

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            if self._closing.is_set() or not self._deliver(json.dumps(message).encode()):
                self.dropped += 1
            else:
                self.sent += 1
            self._queue.task_done()

    def _deliver(self, body: bytes) -> bool:
        headers = {"Content-Type": "application/json", "User-Agent": "streamzoo"}
        for pause in (0.0, *self.pauses):
            if self._closing.wait(pause):
                return False
            try:
                request = urllib.request.Request(self.url, body, headers, method="POST")
                with urllib.request.urlopen(request, timeout=self.timeout):
                    return True
            except urllib.error.HTTPError as error:
                self.error = f"the webhook answered {error.code}"
                if error.code < 500 and error.code != 429:
                    return False
            except OSError as error:
                self.error = f"the webhook cannot be reached ({error})"
        return False


class Mqtt:
    """Publishes each message as JSON, at least once (QoS 1), and connects again by itself.

    Args:
      address: mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC, or mqtts:// with TLS.

    Raises:
      NotifyError: another address. ImportError: paho-mqtt is not installed.
    """

    def __init__(self, address: str):
        parts = urlsplit(address)
        topic = unquote(parts.path.lstrip("/")) + ("#" if parts.fragment or "#" in address else "")
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic:
            raise NotifyError(
                f"MQTT {redact(address)}: write it as mqtt://HOST/TOPIC, such as "
                "mqtt://127.0.0.1/cameras/door"
            )
        if set(topic) & set("+#"):
            raise NotifyError(f"MQTT topic {topic}: + and # are for those who listen; leave them")
        try:
            from paho.mqtt import client, enums  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(f"MQTT needs paho-mqtt: {how_to_install('mqtt')}") from error
        self.topic, self.sent, self.dropped = topic, 0, 0
        self._client = client.Client(enums.CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(WAITING)
        self._client.on_publish = self._acknowledged
        if parts.username:
            password = unquote(parts.password) if parts.password else None
            self._client.username_pw_set(unquote(parts.username), password)
        if parts.scheme == "mqtts":
            self._client.tls_set()
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        self._client.connect_async(parts.hostname, port)
        self._client.loop_start()
        self._asked = 0

    def send(self, message: Json) -> None:
        """Queues a message; returns at once."""
        info = self._client.publish(self.topic, json.dumps(message), qos=1)
        if info.rc == 15:  # MQTT_ERR_QUEUE_SIZE; 4, not connected, is queued
            self.dropped += 1
        else:
            self._asked += 1

    def close(self, timeout: float = 10.0) -> None:
        """Waits until the broker has all; what it has not after ``timeout`` seconds is dropped."""
        deadline = time.monotonic() + timeout
        while self.sent < self._asked and time.monotonic() < deadline:
            time.sleep(0.02)
        self._client.disconnect()
        self._client.loop_stop()
        self.dropped += self._asked - self.sent
        self._asked = self.sent

    def _acknowledged(self, *_: Any) -> None:
        self.sent += 1


def notifier(address: str) -> Notifier:
    """The one for an address. Raises NotifyError: no such kind of address."""
    kind = urlsplit(address).scheme
    if kind in ("http", "https"):
        return Webhook(address)
    if kind in ("mqtt", "mqtts"):
        return Mqtt(address)
    raise NotifyError(
        f"{redact(address)}: events go to http(s)://... (a webhook) or mqtt(s)://HOST/TOPIC"
    )
