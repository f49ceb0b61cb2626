"""What of a model's output is worth a copy to the host."""

from __future__ import annotations

import dataclasses
from typing import Any


def slim(out: Any) -> Any:
    """A model's output without what only training reads, so that it is not copied to the host."""
    if not dataclasses.is_dataclass(out) or isinstance(out, type):
        return out
    unread = {f.name for f in dataclasses.fields(out)} & {"taps", "person"}
    return dataclasses.replace(out, **dict.fromkeys(unread))
