"""The transcript of a conversation: JSON lines, or a text to read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import IO

from ..results import Claim
from .conversation import Said
from .narrator import Round, clock

KINDS = (".jsonl", ".txt")


class Transcript:
    """A file; every line is on disk when ``write`` is done.

    Args:
      claim: on the file; ``.jsonl`` has all that is known of a moment, ``.txt`` what was said.

    Raises:
      ValueError: another suffix.
    """

    def __init__(self, claim: Claim):
        self.path = Path(claim.path)
        if self.path.suffix.lower() not in KINDS:
            raise ValueError(f"{self.path}: a transcript is one of {', '.join(KINDS)}")
        self._file: IO[str] = self.path.open("w", encoding="utf-8")

    def write(self, told: Round | None, said: Said) -> None:
        """A round with the remark on it (or silence), or an answer."""
        if self.path.suffix.lower() == ".jsonl":
            row = dataclasses.asdict(said)
            row |= {"seen": told.text, "events": list(told.events)} if told is not None else {}
            row = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            for line in lines(told, said):
                self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def lines(told: Round | None, said: Said) -> list[str]:
    """What a person reads."""
    found = [f"      {told.text}"] if told is not None and told.events else []
    if said.kind == "answer":
        doubt = "" if said.supported else "  (not all of this was seen)"
        found += [f"{clock(said.time):>5} ? {said.question}", f"      > {said.text}{doubt}"]
    elif said.kind == "remark":
        found.append(f"{clock(said.time):>5} * {said.text}")
    return found
