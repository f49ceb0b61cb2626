"""When packets arrive: read as they come, whatever the decoder or the pace is doing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import Any

from av.container import InputContainer

from .picture import packets

MOST = 64 << 20  # bytes read ahead


class Arrivals:
    """Packets of a container with the time of each one's arrival, read in a thread of its own.

    Where the stamps are not the sender's, or whole segments come at once, the arrival is all that
    says how old a picture is; so nothing may lie unread in the network's buffers. The thread reads
    ahead; of pictures that stand alone (``alone``), only the newest two are kept, and ``dropped``
    counts the others. Close it before the container.
    """

    def __init__(self, container: InputContainer, alone: bool):
        self._container, self._alone = container, alone
        self._held: deque[tuple[Any, float]] = deque()
        self._bytes = self.dropped = 0
        self._news = threading.Condition()
        self._over = self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="streamzoo arrivals", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """(packet, monotonic seconds). Raises what reading raised."""
        while True:
            with self._news:
                self._news.wait_for(lambda: self._held or self._over or self._stop)
                if self._stop:
                    return
                if not self._held:
                    if self._error is not None:
                        raise self._error
                    return
                packet, arrived = self._held.popleft()
                self._bytes -= packet.size
                self._news.notify_all()
            yield packet, arrived

    def stop(self) -> None:
        """The reader goes away, at once or when what it waits for has come. Any thread."""
        with self._news:
            self._stop = True
            self._news.notify_all()

    def close(self) -> None:
        """Stops, and waits until nobody reads the container any more."""
        self.stop()
        self._thread.join()

    def _read(self) -> None:
        try:
            for packet in packets(self._container):
                with self._news:
                    self._news.wait_for(lambda: self._bytes < MOST or self._stop)
                    if self._stop:
                        return
                    if self._alone and packet.size:
                        while len(self._held) >= 2:
                            self._bytes -= self._held.popleft()[0].size
                            self.dropped += 1
                    self._held.append((packet, monotonic()))
                    self._bytes += packet.size
                    self._news.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._news:
                self._over = True
                self._news.notify_all()
