"""The newest results of one session, in order, for a client that is slow or comes back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from ...layers.streaming import Json

Record = Json


class Recent:
    """The last ``keep`` records; each gets the next number ``seq``, from 1 and without gaps.

    A reader holds the seq of the last record it has. What it has not seen and is not kept any
    more is counted, never passed over in silence.
    """

    def __init__(self, keep: int, records: Iterable[Record] = (), last: int = 0):
        """``records``: where another one left off, the newest of them numbered ``last``."""
        if keep < 1:
            raise ValueError(f"room for {keep} results: at least 1 is needed")
        self.keep, self.last = keep, last
        self._records = deque(records, maxlen=keep)
        self.acked = self.first - 1

    @property
    def first(self) -> int:
        """Number of the oldest record that is kept; ``last + 1`` where there is none."""
        return self.last - len(self._records) + 1

    @property
    def newest(self) -> Record:
        """The record numbered ``last``. Raises IndexError: none is kept."""
        return self._records[-1]

    @property
    def unacked(self) -> int:
        """Records that the reader has not confirmed."""
        return self.last - self.acked

    def add(self, record: Record) -> int:
        """Numbers the record and keeps it; a full cache forgets its oldest."""
        self.last += 1
        record["seq"] = self.last
        self._records.append(record)
        return self.last

    def ack(self, seq: int) -> None:
        """The reader has everything up to ``seq``; a number from the future counts as ``last``."""
        self.acked = max(self.acked, min(seq, self.last))

    def at(self, time: float, shown: float = -math.inf) -> Record | None:
        """What was known of the moment ``time``: the kept record of the latest capture up to it.

        Args:
          time: seconds of capture (a record's ``time``), such as that of the picture on a screen.
          shown: capture time of what the reader has already; nothing older is given.

        Returns:
          The record, the newer of two captured at once; None where none is kept, or only older
          ones than ``shown``.
        """
        found = None
        for record in self._records:  # captured in no order where a sender's clock was set
            if shown <= record["time"] <= time and (
                found is None or record["time"] >= found["time"]
            ):
                found = record
        return found

    def after(self, seq: int) -> tuple[int, list[Record]]:
        """(records later than ``seq`` that are gone, those that are kept)."""
        start = max(seq + 1, self.first)
        if start > self.last:
            return 0, []
        records = [r for r in self._records if r["seq"] >= start]
        return start - seq - 1, records
