"""Videos with AVA's annotations: boxes and actions of persons, once per second.

Source: Gu et al., "AVA: A Video Dataset of Spatio-temporally Localized Atomic Visual Actions"
(CVPR 2018). Rows ``video_id,timestamp,x1,y1,x2,y2,action_id[,person_id]``, one per action of a
person; a row with just ``video_id,timestamp`` is a keyframe without persons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import tables, video
from .base import DataError, need
from .segments import Segment, Segments, Slots

Box = tuple[float, float, float, float]
ACTIONS = 80  # that AVA annotates; label maps list those that are counted
CUT = 900.0  # seconds: where the usual copies of the films are cut
Keyframes = dict[float, dict[Box, set[int]]]  # timestamp -> box -> action ids


class AVA(Segments):
    """Stretches of video around AVA's keyframes. Only keyframes have boxes and labels.

    A stretch covers keyframes no further than ``gap`` apart, for at most ``segment`` seconds; it
    begins ``lead`` seconds before its first keyframe, so that a student has seen something by then.

    Args:
      table: the CSV (or .csv.gz).
      folder: holds a video per video_id, with any usual suffix, at any depth.
      label_map: ``.pbtxt`` of ids and names. Labels are numbered in the order of the ids.
      timestamps: file of the timestamps that count, one per line; None: all.
      size: (height, width) of the frames.
      frame_rate: frames/s.
      max_boxes: K. Boxes beyond it are left out, and told in ``skipped``.
      origin: timestamp of a file's first picture: 0, or 900 for files cut at minute 15; None
        decides file by file: 900 where that and not 0 puts timestamps inside the file.
      other_actions: what to do with an action_id of 1 to 80 that the label map lacks: ``error``,
        or ``drop`` (told in ``skipped``), as when 80 actions are annotated and 60 are counted.

    Raises:
      DataError: a missing file or column, a box outside [0, 1], an unknown action, no video that
        can be read. Single videos that are missing or cannot be decoded are in ``skipped``.
    """

    multi_label, dense = True, False

    def __init__(
        self,
        table: str | Path,
        folder: str | Path,
        label_map: str | Path,
        *,
        timestamps: str | Path | None = None,
        size: tuple[int, int] = (224, 224),
        frame_rate: float = 10.0,
        max_boxes: int = 8,
        origin: float | None = 0.0,
        other_actions: str = "error",
        segment: float = 20.0,
        gap: float = 2.0,
        lead: float = 2.0,
        budget: float = 2.0,
    ):
        if other_actions not in ("error", "drop"):
            raise DataError(f"other_actions={other_actions!r}: error or drop")
        if frame_rate < 1 or max_boxes < 1:
            raise DataError(f"frame_rate={frame_rate}, max_boxes={max_boxes}: both are at least 1")
        names = read_label_map(label_map)
        self.action_ids = tuple(sorted(names))  # [C]: the annotation's id of each label
        marks, dropped = read(table, self.action_ids, drop=other_actions == "drop")
        skipped: dict[str, str] = {}
        if dropped:
            skipped[f"{table} (rows)"] = f"{dropped} rows of actions that {label_map} lacks"
        if timestamps is not None:
            marks = _chosen(marks, read_timestamps(timestamps))
        files = {p.stem: p for p in video.find(folder)}
        segments: list[Segment] = []
        self._keyframes: list[dict[int, dict[Box, set[int]]]] = []
        for name, keyframes in marks.items():
            try:
                if name not in files:
                    raise DataError(f"{name}: no such video in {folder}")
                info = video.probe(files[name])
            except DataError as error:
                skipped[name] = str(error)
                continue
            begin = _origin(keyframes, info.seconds) if origin is None else origin
            late = [t for t in keyframes if not 0 <= t - begin < info.seconds]
            if late:
                skipped[f"{name} (keyframes)"] = (
                    f"{len(late)} of {len(keyframes)} lie outside the video, e.g. {late[0]:g} s; "
                    f"its first picture is taken for origin={begin:g} s"
                )
            over = sum(max(0, len(boxes) - max_boxes) for boxes in keyframes.values())
            if over:
                skipped[f"{name} (boxes)"] = f"{over} boxes beyond max_boxes={max_boxes}"
            for times in stretches(sorted(set(keyframes) - set(late)), segment, gap):
                start = max(0.0, times[0] - begin - lead)
                at = {round((t - begin - start) * frame_rate): keyframes[t] for t in times}
                label = f"{name}@{times[0]:g}"
                segments.append(Segment(label, files[name], start, max(at) + 1))
                self._keyframes.append(at)
        if not segments:
            whys = [why for name, why in skipped.items() if not name.endswith("(rows)")]
            why = next(iter(whys), "no keyframe counts")
            raise DataError(f"none of {len(marks)} videos can be used, e.g. {why}")
        super().__init__(
            segments, size, frame_rate, max_boxes, [names[i] for i in self.action_ids],
            rate=frame_rate, budget=budget, skipped=skipped,
        )  # fmt: skip
        self._label = {action: i for i, action in enumerate(self.action_ids)}

    def slots(self, number: int) -> Slots:
        segment = self.segments[number]
        out = Slots.empty(segment.frames, self.max_boxes, len(self.classes))
        for frame, persons in self._keyframes[number].items():
            for k, (box, actions) in enumerate(list(persons.items())[: self.max_boxes]):
                out.boxes[frame, k] = box
                out.box_valid[frame, k] = out.labelled[frame, k] = True
                out.persons[frame, k] = 1.0
                out.labels[frame, k, [self._label[action] for action in actions]] = 1.0
        return out

    def keyframes(self, number: int) -> dict[int, float]:
        """Frame of a segment -> seconds into its file, of the frames that are annotated."""
        start = self.segments[number].start
        return {frame: start + frame / self.frame_rate for frame in self._keyframes[number]}


def read(
    path: str | Path, actions: Sequence[int], *, drop: bool = False
) -> tuple[dict[str, Keyframes], int]:
    """Keyframes by video, and how many rows of other actions were dropped.

    Raises DataError for the first bad line: a missing column, a box outside [0, 1], an action that
    is not among ``actions`` (unless ``drop``).
    """
    known, out, dropped = set(actions), {}, 0
    columns = ("video_id", "timestamp", "x1", "y1", "x2", "y2", "action_id")
    for row in tables.rows(path, columns, optional=("person_id",), bare=2):
        keyframes = out.setdefault(row.values["video_id"], {})
        boxes = keyframes.setdefault(tables.number(row, "timestamp"), {})
        if "action_id" not in row.values:
            continue
        box, text = tables.box(row), row.values["action_id"]
        action = int(text) if text.isdecimal() else None
        if action not in known:
            if drop and action is not None and 1 <= action <= ACTIONS:
                dropped += 1
                boxes.setdefault(box, set())  # the person is there all the same
                continue
            nearest = sorted(known, key=lambda i: abs(i - (action or 0)))[:3]
            raise DataError(
                f"{row.where}: unknown class {text!r}: not an action_id of the label map "
                f"({len(known)} ids; nearest {', '.join(map(str, sorted(nearest)))})"
            )
        boxes.setdefault(box, set()).add(action)
    if not out:
        raise DataError(f"{path}: no rows in it")
    return out, dropped


def _origin(times: Iterable[float], seconds: float) -> float:
    inside = [sum(0 <= t - origin < seconds for t in times) for origin in (0.0, CUT)]
    return CUT if inside[1] and not inside[0] else 0.0


def read_label_map(path: str | Path) -> dict[int, str]:
    """Names by id from ``item { name: "..." id: 1 }`` or ``label { name: ... label_id: 1 }``.

    Raises DataError if there is none, or an id comes twice.
    """
    path = need(path, "the label map", "AVA ships it as a .pbtxt file")
    names: dict[int, str] = {}
    for body in re.findall(r"\{([^{}]*)\}", path.read_text(encoding="utf-8")):
        name = re.search(r'\bname:\s*"([^"]*)"', body)
        number = re.search(r"\b(?:label_)?id:\s*(\d+)", body)
        if not name or not number:
            raise DataError(f"{path}: an entry without name or id: {' '.join(body.split())[:80]}")
        if int(number[1]) in names:
            raise DataError(f"{path}: id {number[1]} comes twice")
        names[int(number[1])] = name[1]
    if not names:
        raise DataError(f"{path}: no entries like item {{ name: ... id: ... }}")
    return names


def read_timestamps(path: str | Path) -> set[float]:
    """Timestamps, one per line. Raises DataError for a line that is not a number."""
    path = need(path, "the file of included timestamps", "leave timestamps away to use all")
    out = set()
    for number, line in enumerate(path.read_text().split("\n"), 1):
        try:
            out |= {float(line)} if line.strip() else set()
        except ValueError:
            raise DataError(f"{path}:{number}: {line!r} is not a timestamp") from None
    return out


def stretches(times: Sequence[float], longest: float, gap: float) -> list[list[float]]:
    """Sorted times in runs without a pause above ``gap``, each below ``longest`` seconds."""
    out: list[list[float]] = []
    for time in times:
        if out and time - out[-1][-1] <= gap and time - out[-1][0] < longest:
            out[-1].append(time)
        else:
            out.append([time])
    return out


def _chosen(marks: dict[str, Keyframes], counted: set[float]) -> dict[str, Keyframes]:
    return {
        name: {t: boxes for t, boxes in keyframes.items() if t in counted}
        for name, keyframes in marks.items()
    }
