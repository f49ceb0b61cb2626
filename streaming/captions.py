"""Captions of what was said: SubRip (.srt), WebVTT (.vtt), or JSON lines (.jsonl)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

from .listening import Utterance

KINDS = (".srt", ".vtt", ".jsonl")


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
        self.path, self.count = Path(path), 0
        self.kind = self.path.suffix.lower()
        self._file = self.path.open("w" if overwrite else "x", encoding="utf-8")  # noqa: SIM115
        if self.kind == ".vtt":
            self._file.write("WEBVTT\n\n")

    def write(self, said: Utterance) -> None:
        """Adds a final utterance."""
        self.count += 1
        if self.kind == ".jsonl":
            row = {"start": round(said.start, 3), "end": round(said.end, 3), "text": said.text}
            self._file.write(json.dumps(row | {"latency": round(said.latency, 3)}) + "\n")
        else:
            comma = "," if self.kind == ".srt" else "."
            times = " --> ".join(clock(t, comma) for t in (said.start, said.end))
            # "-->" in a text would be taken for times
            text = said.text.replace("-->", "->")
            number = f"{self.count}\n" if self.kind == ".srt" else ""
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


def clock(seconds: float, comma: str = ".") -> str:
    """Seconds as 00:01:02.345."""
    thousandths = round(1000 * seconds)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, part = divmod(rest, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{comma}{part:03}"
