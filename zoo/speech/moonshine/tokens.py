"""The tokens of Moonshine's texts, as its authors' files list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import WeightsError

SPACE = "\u2581"  # how SentencePiece writes a space


class Tokens:
    """Pieces of text by number.

    Args:
      pieces: bytes of each token; those of the first three (unknown, start, end) say nothing.
    """

    def __init__(self, pieces: list[bytes]):
        self.pieces = pieces

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """A ``tokenizer.bin``: of every token its length, one byte or two, and its bytes.

        Raises:
          WeightsError: the file ends within a token.
        """
        data, at, pieces = path.read_bytes(), 0, []
        while at < len(data):
            length, at = data[at], at + 1
            if length >= 128 and at < len(data):
                length, at = length - 128 + 128 * data[at], at + 1
            if at + length > len(data):
                raise WeightsError(f"{path}: ends within token {len(pieces)}; fetch it again")
            pieces.append(data[at : at + length])
            at += length
        return cls(pieces)

    def text(self, numbers: Iterable[int]) -> str:
        """The text of tokens. A letter can be of several, so their bytes are joined first; one
        that is not complete yet is left out."""
        joined = b"".join(self.pieces[n] for n in numbers if 2 < n < len(self.pieces))
        return joined.decode("utf-8", "ignore").replace(SPACE, " ").strip()

    def words(self, numbers: Sequence[int]) -> list[tuple[str, int, int]]:
        """(word, its first token, the one behind its last) of tokens; a token that begins with a
        space begins a word."""
        space = SPACE.encode()
        starts = [i for i, n in enumerate(numbers) if not i or self._piece(n).startswith(space)]
        ends = [*starts[1:], len(numbers)] if starts else []
        found = [(self.text(numbers[i:j]), i, j) for i, j in zip(starts, ends, strict=True)]
        return [word for word in found if word[0]]

    def _piece(self, number: int) -> bytes:
        return self.pieces[number] if number < len(self.pieces) else b""
