"""UT-Interaction: real surveillance clips of two persons, six interactions and background.

Source: Ryoo, Aggarwal, "UT-Interaction Dataset, ICPR contest on Semantic Description of Human
Activities (SDHA)", 2010; the segmented version: one interaction per file, set 1 on a car park and
set 2 on a windy lawn. Files are named ``<index>_<sequence>_<class>.avi``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from . import box_cache, video
from .base import DataError, need
from .in_memory import LabelledVideos
from .yolox import Detector

SEQUENCES = {1: tuple(range(1, 9)), 2: tuple(range(11, 19))}  # by set, of this segmented copy


class UTInteraction(LabelledVideos):
    """Clips of chosen sets and sequences, in memory.

    Args:
      root: folder with ``classes.txt``, ``set1`` and ``set2``.
      sequences: those to use; None all (of the chosen sets).
      exclude: sequences to leave out.
      sets: 1, 2 or both.
      size: (height, width) of the frames. The clips are about 4:3.
      frame_rate: frames/s; the files have 20 or 30.
      background: with the background clips (class 6; set 1 only), or without that class.
      max_boxes: K: the whole frame and at most K - 1 persons.
      detector: ONNX YOLOX file, or None for the whole frame alone.
      label_persons: each person has the clip's class.
      cache: folder for decoded frames and boxes.

    Raises:
      DataError: the folder or its ``classes.txt`` is missing, a file name without the three
        numbers, or nothing left to use.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        sequences: Iterable[int] | None = None,
        exclude: Iterable[int] = (),
        sets: Iterable[int] = (1, 2),
        size: tuple[int, int] = (96, 128),
        frame_rate: float = 10.0,
        background: bool = True,
        max_boxes: int | None = None,
        detector: str | Path | Detector | None = None,
        label_persons: bool = True,
        cache: str | Path | None = None,
    ):
        root = need(root, "the UT-Interaction folder", "give the folder that holds set1 and set2")
        classes = read_classes(root / "classes.txt")
        wanted = None if sequences is None else set(sequences)
        left_out, sets = set(exclude), tuple(sets)
        if unknown := set(sets) - set(SEQUENCES):
            raise DataError(f"sets={sets}: UT-Interaction has no set {min(unknown)}, only 1 and 2")
        paths: dict[str, Path] = {}
        for number in sets:
            for path in video.find(root / f"set{number}"):
                _, sequence, label = parse(path)
                if label >= len(classes):
                    raise DataError(f"{path}: class {label} is not in {root / 'classes.txt'}")
                chosen = (wanted is None or sequence in wanted) and sequence not in left_out
                if chosen and (background or classes[label] != "background"):
                    paths[f"set{number}/{path.stem}"] = path
        if not paths:
            raise DataError(
                f"{root}: no clips of sequences {sorted(wanted or ())} in sets {sets}; "
                "set 1 has 1 to 8, set 2 has 11 to 18"
            )
        if not background:
            classes = tuple(name for name in classes if name != "background")
        frames, skipped = video.load(paths, size, frame_rate, cache=cache)
        max_boxes = (1 if detector is None else 5) if max_boxes is None else max_boxes
        boxes = None
        if detector is not None and max_boxes > 1:
            finder = box_cache.opened(detector, max_boxes - 1)
            names = box_cache.told(frames, len(frames), "persons in UT-Interaction")
            boxes = [
                box_cache.of_video(paths[n], finder, frame_rate, len(frames[n]), cache=cache)
                for n in names
            ]
        self.sequences = tuple(parse(paths[name])[1] for name in frames)
        super().__init__(
            tuple(frames), list(frames.values()), [parse(paths[n])[2] for n in frames], classes,
            frame_rate, boxes=boxes, max_boxes=max_boxes, label_persons=label_persons,
            skipped=skipped,
        )  # fmt: skip


def leave_out(fold: int, sets: Iterable[int] = (1, 2)) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(train, test) sequences of fold 1 to 8: the fold-th sequence of each set is the test.

    This is the usual protocol, leave one sequence out per set. Train and test share no sequence,
    but persons do return in other sequences. Raises DataError for another fold.
    """
    sets = tuple(sets)
    if not 1 <= fold <= 8 or not set(sets) <= set(SEQUENCES):
        raise DataError(f"fold={fold}, sets={sets}: there are folds 1 to 8 of sets 1 and 2")
    test = tuple(SEQUENCES[number][fold - 1] for number in sets)
    train = tuple(s for number in sets for s in SEQUENCES[number] if s not in test)
    return train, test


def parse(path: Path) -> tuple[int, int, int]:
    """(index, sequence, class) of ``<index>_<sequence>_<class>.avi``; DataError for others."""
    numbers = path.stem.split("_")
    if len(numbers) != 3 or not all(n.isdecimal() for n in numbers):
        raise DataError(f"{path}: UT-Interaction files are named <index>_<sequence>_<class>.avi")
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def read_classes(path: Path) -> tuple[str, ...]:
    """Names in order from lines ``<number> <name> ...``. Raises DataError for other lines."""
    need(path, "the list of classes", "it belongs beside set1 and set2")
    names = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or words[0] != str(len(names)):
            raise DataError(f"{path}:{number}: expected '{len(names)} <name>', got {line!r}")
        names.append(words[1])
    if not names:
        raise DataError(f"{path}: no classes in it")
    return tuple(names)
