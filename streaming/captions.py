"""Captions of what was said: SubRip (.srt), WebVTT (.vtt), or JSON lines (.jsonl)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..zoo.speech.saying import Word
from .utterances import Utterance

KINDS = (".srt", ".vtt", ".jsonl")
LINE = 80  # letters of a caption, two lines on a screen


def check(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuses what :class:`Captions` would, before there is anything to write; raises as it does,
    and FileNotFoundError: no such folder."""
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path}: captions are {', '.join(KINDS)} files")
    if path.exists() and not overwrite:
        raise FileExistsError(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")


class Captions:
    """A file of captions; every one is on disk when ``write`` is done.

    Args:
      path: its suffix says the format.
      overwrite: replace a file that is there.

    Raises:
      ValueError: another suffix. FileExistsError: the file is there.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False):
        check(path, overwrite)
        self.path, self.count, self.cues = Path(path), 0, 0
        self.kind = self.path.suffix.lower()
        self._file = self.path.open("w" if overwrite else "x", encoding="utf-8")  # noqa: SIM115
        if self.kind == ".vtt":
            self._file.write("WEBVTT\n\n")

    def write(self, said: Utterance) -> None:
        """Adds a final utterance."""
        self.count += 1
        if self.kind == ".jsonl":
            row = {"start": round(said.start, 3), "end": round(said.end, 3), "text": said.text}
            row |= {"latency": round(said.latency, 3)}
            if said.words:
                row["words"] = [
                    {"text": w.text, "start": round(w.start, 3), "end": round(w.end, 3),
                     "final": round(w.at, 3)}
                    for w in said.words
                ]  # fmt: skip
            self._file.write(json.dumps(row) + "\n")
        else:
            for start, end, text in cues(said, inside=self.kind == ".vtt"):
                self.cues += 1
                comma = "," if self.kind == ".srt" else "."
                times = " --> ".join(clock(t, comma) for t in (start, end))
                number = f"{self.cues}\n" if self.kind == ".srt" else ""
                self._file.write(f"{number}{times}\n{text}\n\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file. Idempotent."""
        self._file.close()

    def __enter__(self) -> Captions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def cues(said: Utterance, inside: bool = False) -> Iterator[tuple[float, float, str]]:
    """(start, end, text) of captions of an utterance. Where its words have times a caption has at
    most ``LINE`` letters, and with ``inside`` each word but the first its time before it."""
    if not said.words:
        yield said.start, said.end, plain(said.text)
        return
    line: list[Word] = []
    for word in said.words:
        if line and sum(len(w.text) + 1 for w in line) + len(word.text) > LINE:
            yield _cue(line, inside)
            line = []
        line.append(word)
    yield _cue(line, inside)


def _cue(words: list[Word], inside: bool) -> tuple[float, float, str]:
    mark = lambda word: f"<{clock(word.start)}>" if inside else ""
    texts = [plain(words[0].text), *(mark(w) + plain(w.text) for w in words[1:])]
    return words[0].start, words[-1].end, " ".join(texts)


def plain(text: str) -> str:
    """ "-->" in a text would be taken for times."""
    return text.replace("-->", "->")


def clock(seconds: float, comma: str = ".") -> str:
    """Seconds as 00:01:02.345."""
    thousandths = round(1000 * seconds)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, part = divmod(rest, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{comma}{part:03}"
