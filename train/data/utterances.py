"""Recordings of speech, cut into short utterances, and what an offline recogniser makes of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from .base import DataError, files_below

RATE = 16_000
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
SHORTEST = 1.0  # seconds; less is left out


@dataclasses.dataclass(frozen=True)
class Taught:
    """Utterances and a teacher's answers, one after the other in flat arrays.

    audio: float16 [samples]. features: float16 [F, D]. tokens: int32. ends: [U, 3], where in each
    of the three an utterance ends. names: of the file that each comes from.
    """

    audio: np.ndarray
    features: np.ndarray
    tokens: np.ndarray
    ends: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(audio [T] float32, features [F, D], tokens [N]) of one."""
        starts = self.ends[index - 1] if index else np.zeros(3, int)
        parts = (self.audio, self.features, self.tokens)
        audio, features, tokens = (
            a[i:j] for a, i, j in zip(parts, starts, self.ends[index], strict=True)
        )
        return audio.astype(np.float32), features, tokens


def recordings(folder: str | os.PathLike[str]) -> list[Path]:
    """The sound files in a folder, searched to the bottom.

    Raises:
      DataError: there are none.
    """
    below = files_below(Path(folder).expanduser())
    found = sorted(p for p in below if p.suffix.lower() in SOUNDS)
    if not found:
        raise DataError(f"{folder}: no sound files ({', '.join(SOUNDS)}) in it")
    return found


def decoded(path: Path) -> np.ndarray:
    """A file's sound, float32 [samples] at 16 kHz, its channels mixed to one.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("flt", "mono", RATE)
            frames = [*container.decode(audio=0), None]
            parts = [p.to_ndarray().reshape(-1) for f in frames for p in resampler.resample(f)]
    except (FFmpegError, OSError, IndexError) as error:
        raise DataError(f"{path}: no sound can be read from it ({error})") from None
    return np.concatenate(parts).astype(np.float32)


def cut(audio: np.ndarray, longest: float) -> list[np.ndarray]:
    """Utterances of at most ``longest`` seconds, cut where it is quietest in their second half."""
    found, tenth, most = [], RATE // 10, int(longest * RATE)
    while len(audio) > most:
        places = np.arange(most // 2, most - tenth, tenth // 4)
        loud = [np.abs(audio[i : i + tenth]).mean() for i in places]
        place = int(places[int(np.argmin(loud))]) + tenth // 2
        found.append(audio[:place])
        audio = audio[place:]
    found.append(audio)
    return [a for a in found if len(a) >= SHORTEST * RATE]


Teacher = Callable[[np.ndarray], tuple[np.ndarray, list[int]]]


def taught(
    files: Sequence[Path], longest: float, teacher: Teacher, name: str, cache: Path,
    say: Callable[[str], Any] = print,
) -> Taught:  # fmt: skip
    """What a teacher makes of all utterances of ``files``, from ``cache`` if it is there.

    Args:
      teacher: audio [T] -> (features [F, D], tokens).
      name: of the teacher.
      cache: a folder; other files, lengths or teachers have a file of their own in it.

    Raises:
      DataError: a file that cannot be read.
    """
    told = repr((name, longest, [(f.name, f.stat().st_size) for f in files]))
    path = cache / f"taught-{hashlib.sha256(told.encode()).hexdigest()[:12]}.npz"
    if not path.is_file():
        parts: tuple[list, ...] = ([], [], [], [])
        for number, file in enumerate(files):
            for audio in cut(decoded(file), longest):
                features, tokens = teacher(audio)
                row = (
                    audio.astype(np.float16),
                    features.astype(np.float16),
                    np.asarray(tokens, np.int32),
                )
                for part, value in zip(parts, (*row, file.name), strict=True):
                    part.append(value)
            if number % 50 == 0:
                say(f"the teacher hears {len(files)} recordings: {number}")
        write(path, *parts)
    with np.load(path) as saved:
        return Taught(**{f.name: saved[f.name] for f in dataclasses.fields(Taught)})


def write(path: Path, audio: list, features: list, tokens: list, names: list[str]) -> None:
    """Writes a file that :func:`taught` reads; a half-written one never has its name."""
    if not audio:
        raise DataError(f"no utterance of {SHORTEST} s or more in the recordings")
    lengths = [[len(a), len(f), len(t)] for a, f, t in zip(audio, features, tokens, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    sound, heard, said = (np.concatenate(parts) for parts in (audio, features, tokens))
    ends = np.cumsum(lengths, axis=0)
    np.savez(part, audio=sound, features=heard, tokens=said, ends=ends, names=np.asarray(names))
    os.replace(part, path)
