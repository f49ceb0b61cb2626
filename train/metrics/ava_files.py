"""AVA's files: boxes and actions (CSV), label maps (.pbtxt), excluded timestamps (CSV).

A line is ``video,timestamp,x1,y1,x2,y2,action[,score]`` without a header; corners are fractions of
the frame, and the last column is the person's number in ground truth. A line of two columns says
that a keyframe is there but empty. Gzip'd files are read as they are.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..data.base import DataError, need
from ..data.tables import SLACK

EMPTY = 0  # the label of a row that is no box but an empty keyframe
COLUMNS = ("video", "timestamp", "x1", "y1", "x2", "y2", "action", "score")


def rows(
    videos: Iterable[str],
    times: ArrayLike,
    boxes: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike | None = None,
) -> np.ndarray:
    """Boxes with one class each as a record array [N], in the order given.

    Args:
      videos: N names. times: [N] seconds. boxes: [N, 4] x1 y1 x2 y2, fractions.
      labels: [N] class numbers from 1; 0 marks a keyframe without boxes (its box is not read).
      scores: [N]; 1 where not given. Ground truth has the person's number here.

    Returns:
      Fields ``video``, ``time``, ``box`` [4], ``label``, ``score``.
    """
    names = np.asarray(list(videos), dtype=np.str_)
    width = max(names.dtype.itemsize // 4, 1)
    out = np.zeros(
        len(names),
        [
            ("video", f"U{width}"),
            ("time", "f8"),
            ("box", "f8", 4),
            ("label", "i4"),
            ("score", "f8"),
        ],
    )
    out["video"], out["time"], out["label"] = names, times, labels
    out["box"] = np.asarray(boxes, np.float64).reshape(-1, 4)
    out["score"] = 1.0 if scores is None else scores
    return out


def read_csv(
    path: str | Path,
    *,
    truth: bool = False,
    classes: Iterable[int] | None = None,
    need_score: bool = False,
) -> np.ndarray:
    """Reads boxes of one file, in file order.

    Ground truth (``truth``) is read strictly. In detections a box outside the frame, or one
    without a score (it counts as 1), passes with one warning for the file, because the official
    evaluators take both.

    Args:
      classes: the label map's class numbers. One below 1 or above all of them is an error in
        ground truth, a warning in detections. A gap in the map is neither: AVA annotates more
        classes than it evaluates, and :func:`frame_map` leaves those out.
      need_score: an 8th column must be there (the ``slowfast`` variant).

    Returns:
      What :func:`rows` returns.

    Raises:
      DataError: no such file, an empty one, a line that cannot be read; it names the line.
    """
    path = need(path, "the CSV of boxes", "give the path of a file in AVA's format")
    columns: tuple[list, ...] = ([], [], [], [], [])
    outside = unscored = unknown = 0
    top = math.inf if classes is None else max(classes, default=0)
    for number, row in _lines(path):
        where = f"{path} line {number}"
        if len(row) not in (2, 7, 8):
            raise DataError(_wrong_columns(where, row))
        time = _number(row[1], "timestamp", where)
        if len(row) == 2:
            box, label, score = [math.nan] * 4, EMPTY, 1.0
        else:
            box = [_number(x, c, where) for x, c in zip(row[2:6], COLUMNS[2:6], strict=True)]
            label = _class(row[6], where)
            if len(row) == 8:
                score = _number(row[7], "person" if truth else "score", where)
            elif need_score:
                raise DataError(f"{where} has no score: this variant needs an 8th column")
            else:
                score, unscored = 1.0, unscored + (not truth)
            if not all(0 <= x <= 1 for x in box):
                # rounding passes as it is, as in the official evaluators
                if truth and not all(-SLACK <= x <= 1 + SLACK for x in box):
                    raise DataError(
                        f"{where}: box {', '.join(row[2:6])} lies outside [0, 1]: divide x by the "
                        "frame's width and y by its height"
                    )
                outside += not truth
            if truth and (box[0] > box[2] or box[1] > box[3]):
                raise DataError(
                    f"{where}: box {', '.join(row[2:6])} is inside out: the order is x1, y1, x2, y2"
                )
            if not 1 <= label <= top:
                if truth:
                    raise DataError(f"{where}: unknown class {label}: {_known(top)}")
                unknown += 1
        for column, value in zip(columns, (row[0], time, box, label, score), strict=True):
            column.append(value)
    if not columns[0]:
        raise DataError(f"{path} is empty: it needs one line per box, {','.join(COLUMNS[:7])}")
    for count, what in (
        (outside, "lie outside [0, 1]; they are scored as they are"),
        (unscored, "have no score; it counts as 1"),
        (unknown, f"have an unknown class and are left out ({_known(top)})"),
    ):
        if count:
            warnings.warn(f"{path}: {count:,} of {len(columns[0]):,} rows {what}", stacklevel=2)
    return rows(*columns)


def read_labels(path: str | Path) -> dict[int, str]:
    """Reads a label map in protobuf text form: class number -> name, in file order.

    Both of AVA's dialects: ``item { name id }`` and ``label { name label_id label_type }``.

    Raises:
      DataError: no such file, an entry without name or number, a number used twice, no entry.
    """
    path = need(path, "the label map", "give the path of a .pbtxt file")
    text = _text(path)
    out: dict[int, str] = {}
    for entry in re.finditer(r"\b(?:item|label)\s*\{((?:\"[^\"]*\"|[^}\"])*)\}", text):
        where = f"{path} line {text.count(chr(10), 0, entry.start()) + 1}"
        name = re.search(r"\bname\s*:\s*\"([^\"]*)\"", entry[1])
        number = re.search(r"\b(?:label_)?id\s*:\s*(-?\d+)", entry[1])
        if not name or not number:
            raise DataError(f"{where}: this entry needs a name and an id")
        key = int(number[1])
        if key < 1 or key in out:
            raise DataError(f"{where}: class id {key} must be 1 or more and used once")
        out[key] = name[1]
    if not out:
        raise DataError(f'{path} holds no label: entries look like item {{ name: "walk" id: 14 }}')
    return out


def read_excluded(path: str | Path) -> list[tuple[str, float]]:
    """Reads the keyframes to leave out, ``video,timestamp`` a line; an empty file excludes none.

    Raises:
      DataError: no such file, or a line that is not two columns.
    """
    path = need(path, "the list of excluded timestamps", "give the path of its CSV")
    out = []
    for number, row in _lines(path):
        where = f"{path} line {number}"
        if len(row) != 2:
            raise DataError(f"{where} has {len(row)} columns, not 2: video,timestamp")
        out.append((row[0], _number(row[1], "timestamp", where)))
    return out


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number from 1 and fields, of the lines that are not blank."""
    reader = csv.reader(_text(path).splitlines())
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = " (AVA's CSVs have no header line)" if where.endswith(" line 1") else ""
        raise DataError(f"{where}: {column} {text!r} is not a number{hint}")
    return value


def _class(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: action {text!r} is not a class number") from None


def _known(top: float) -> str:
    return "classes are numbered from 1" + ("" if top == math.inf else f" to {int(top)}")


def _wrong_columns(where: str, row: list[str]) -> str:
    text = f"{where} has {len(row)} columns, not 7 or 8: {','.join(COLUMNS)}"
    if 2 < len(row) < 7:
        text += f"; the last ones, from {COLUMNS[len(row)]} on, or a comma are missing"
    return text
