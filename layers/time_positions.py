"""Positions on three axes whose first is time, the same for sound and pictures of one moment.

Source: Xu et al., "Qwen3-Omni Technical Report" (arXiv 2509.17765), section 2.3 (TM-RoPE); the
numbers are those of transformers' ``qwen3_omni_moe``. A second is ``rate`` positions, and frames
of pictures may lie between two whole ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

RATE = 13.0  # positions per second: one for each feature of sound


@dataclasses.dataclass(frozen=True)
class Words:
    """Tokens of text: each a position further on all axes."""

    count: int


@dataclasses.dataclass(frozen=True)
class Sound:
    """Features of sound, ``RATE`` per second, the first at the beginning of its part."""

    count: int


@dataclasses.dataclass(frozen=True)
class Frames:
    """Pictures of rows x columns tokens, ``seconds`` apart."""

    count: int
    rows: int
    columns: int
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Film:
    """Pictures and their sound, which begin together and are told by time."""

    frames: Frames
    sound: Sound


Part = Words | Sound | Frames | Film


def sound_features(spectra: int) -> int:
    """Features of so many spectra, 10 ms each: three halvings of every 100, the rest rounded up."""
    hundreds, rest = divmod(spectra, 100)
    for _ in range(3):
        rest = -(-rest // 2)
    return 13 * hundreds + rest


def _frames(part: Frames, start: float, rate: float) -> np.ndarray:
    grid = np.indices((part.count, part.rows, part.columns)).reshape(3, -1).astype(np.float32)
    return grid * np.array([[part.seconds * rate], [1], [1]], np.float32) + np.float32(start)


def time_positions(parts: Sequence[Part], rate: float = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of ``parts`` stand.

    A part begins one behind the largest position before it, on all axes. In a film tokens come in
    the order of their times; of one moment, pictures first.

    Returns:
      (positions float32 [3, N]: time, row and column; whether each is of sound, bool [N]).

    Raises:
      ValueError: frames of a film that are all at one moment.
    """
    found, sounds, start = [np.zeros((3, 0), np.float32)], [np.zeros(0, bool)], 0.0
    for part in parts:
        if isinstance(part, Words | Sound):
            places = np.broadcast_to(
                np.arange(part.count, dtype=np.float32) + start, (3, part.count)
            )
            heard = np.full(part.count, isinstance(part, Sound))
        elif isinstance(part, Frames):
            places = _frames(part, start, rate)
            heard = np.zeros(places.shape[1], bool)
        else:
            if part.frames.count > 1 and part.frames.seconds <= 0:
                raise ValueError(
                    f"{part.frames.count} frames, {part.frames.seconds} s apart: a film has times"
                )
            seen = _frames(part.frames, start, rate)
            own = np.arange(part.sound.count, dtype=np.float32) + np.float32(start)
            places = np.concatenate([seen, np.broadcast_to(own, (3, len(own)))], axis=1)
            heard = np.arange(places.shape[1]) >= seen.shape[1]
            order = np.argsort(places[0], kind="stable")
            places, heard = places[:, order], heard[order]
        found.append(places)
        sounds.append(heard)
        start = float(places.max()) + 1 if places.size else start
    return np.concatenate(found, axis=1), np.concatenate(sounds)
