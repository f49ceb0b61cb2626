"""What language has to say to one client, held until it is read: bounded, however slow it reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ...layers.streaming import Json

REMARKS = 16  # that wait for a client; older ones are counted and dropped
QUESTIONS = 4  # of one client that are being answered

Id = int | str


class Mail:
    """Answers and remarks for one client; ``wake`` is called when there is something new.

    The pieces of an answer that were not read yet become one piece, so that a client that does not
    read holds no more than the words of its questions' answers.
    """

    def __init__(self, wake: Callable[[], None]):
        self._wake = wake
        self._pieces: dict[Id, str] = {}
        self._whole: list[Json] = []
        self._remarks: deque[Json] = deque()
        self._lost = 0
        self.waiting = 0  # questions that are being answered
        self.remarks = False  # whether the client wants to be told by itself

    def __bool__(self) -> bool:
        return bool(self._pieces or self._whole or self._remarks or self._lost)

    def piece(self, number: Id, text: str) -> None:
        """More words of an answer."""
        self._pieces[number] = self._pieces.get(number, "") + text
        self._wake()

    def whole(self, message: Json) -> None:
        """The last message about a question."""
        self.waiting -= 1
        self._whole.append(message)
        self._wake()

    def remark(self, message: Json) -> None:
        """Something that is said by itself."""
        if not self.remarks:
            return
        if len(self._remarks) == REMARKS:
            self._remarks.popleft()
            self._lost += 1
        self._remarks.append(message)
        self._wake()

    def take(self) -> list[Json]:
        """All there is, in order: pieces, answers that are whole, remarks."""
        found: list[Json] = [
            {"type": "words", "id": number, "text": text} for number, text in self._pieces.items()
        ]
        found += self._whole
        if self._lost:
            found.append({"type": "missed_remarks", "count": self._lost})
        found += self._remarks
        self._pieces, self._whole, self._lost = {}, [], 0
        self._remarks.clear()
        return found
