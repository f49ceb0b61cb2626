"""The table of data sets: the word of ``data.kind`` -> module and class of its config."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Any

from ..data.base import DataError

DATA_SETS = {
    "synth": ".synth:SynthData",
    "records": ".records:RecordsData",
    "ut": ".ut_interaction:UTInteractionData",
    "ucf11": ".ucf11:UCF11Data",
    "ucf101-24": ".ucf101_24:UCF101x24Data",
    "ava": ".ava:AVAData",
    "folder": ".folder:FolderData",
    "egogestar": ".egogestar:EgoGestARData",
}


def data_set(kind: str) -> Any:
    """The config class of a data set, imported on first use. Raises DataError for another word."""
    if kind not in DATA_SETS:
        close = get_close_matches(kind, DATA_SETS, 1)
        near = f"; did you mean {close[0]}?" if close else ""
        raise DataError(f"data.kind {kind!r}: choose from {', '.join(DATA_SETS)}{near}")
    module, _, name = DATA_SETS[kind].partition(":")
    return getattr(importlib.import_module(module, __package__), name)
