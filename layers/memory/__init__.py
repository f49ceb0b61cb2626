"""Memories of constant size that language models read: slots of un-rotated keys and values."""

from .reader import Reader, Rotary, View
from .slots import (
    EMPTY,
    Notes,
    Slots,
    bytes_of,
    empty_slots,
    forget,
    joined,
    numbered,
    placed,
    store,
)

__all__ = [
    "EMPTY",
    "Notes",
    "Reader",
    "Rotary",
    "Slots",
    "View",
    "bytes_of",
    "empty_slots",
    "forget",
    "joined",
    "numbered",
    "placed",
    "store",
]
