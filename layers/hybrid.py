"""Hybrid temporal stacks by a string: one letter per block, e.g. ``"DDDA"``.

Qwen3-Next alternates three gated delta rules with one attention (``"DDDA"``); Jamba (Lieber et
al., arXiv 2403.19887) and Nemotron Nano 2 put an attention between Mamba blocks (``"MMMA"``).
"""

from __future__ import annotations

from .mixers import MIXERS, Mix

LETTERS = {
    "D": "gated_delta",
    "M": "mamba2",
    "R": "rglru",
    "L": "lstm",
    "A": "window",
    "G": "gated_attention",
    "N": "nsa",
    "K": "knn",
    "F": "favor",
    "I": "lif",
    "S": "shift",
    "C": "conv",
    "-": "none",
}


def pattern(letters: str) -> tuple[Mix, ...]:
    """``"DDDA"`` -> four mixers with their default options; ``"-"`` is a block without memory.

    For options write the tuple out: ``(mix("gated_delta", chunk=32), mix("window", window=8))``.

    Raises:
      ValueError: no letters, or one that is not in :data:`LETTERS`, with the table.
    """
    table = ", ".join(f"{letter} {kind}" for letter, kind in LETTERS.items())
    if not letters:
        raise ValueError(f"an empty temporal pattern: choose letters from {table}")
    for place, letter in enumerate(letters):
        kind = LETTERS.get(letter)
        if kind is None or kind != "none" and kind not in MIXERS:
            raise ValueError(
                f"temporal pattern {letters!r}: letter {letter!r} at place {place} stands for no "
                f"mixer; the letters are {table}"
            )
    return tuple(Mix(LETTERS[letter]) for letter in letters)
