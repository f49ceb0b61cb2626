"""JSON lines of `watch` as CSV and as COCO annotations, line by line: no length is too long."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..layers.streaming import Json
from .results import Claim, OutputError

COLUMNS = ("frame", "time", "id", "label", "score", "x1", "y1", "x2", "y2")


def read_lines(path: str | Path) -> Iterator[Json]:
    """The frames of a JSON-lines file. A last line that a killed process left half is passed over.

    Raises:
      OutputError: no such file, or a line before the last that is no frame of `watch`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                    if not isinstance(line, dict) or "frame" not in line:
                        raise ValueError
                except ValueError:
                    if not text.endswith("\n"):
                        return
                    raise OutputError(
                        f"{path}, line {number}: no frame of `streamzoo watch`; give the .jsonl "
                        "file that it wrote"
                    ) from None
                yield line
    except OSError as error:
        why = (error.strerror or "cannot be read").lower()
        raise OutputError(f"{path}: {why}; give the .jsonl file that watch wrote") from None


def found_in(line: Json) -> list[Json]:
    """A frame's objects, else its persons: with ``box``, ``score``, ``label``, maybe ``id``."""
    if "objects" in line:
        return [{"label": str(o.get("name", "")), **o} for o in line["objects"] if o.get("box")]
    return [{"label": "person", **person} for person in line.get("persons", ())]


@contextlib.contextmanager
def _written(target: str | Path, overwrite: bool) -> Iterator[TextIO]:
    """The file to write; what fails half-way leaves none behind."""
    with Claim(target, overwrite) as claim:
        with open(claim.path, "w", encoding="utf-8", newline="") as file:
            try:
                yield file
            except BaseException:
                file.seek(0)
                file.truncate()  # an empty file goes with its claim
                raise


def write_csv(lines: str | Path, target: str | Path, *, overwrite: bool = False) -> int:
    """One row per object and frame, boxes as fractions of the picture; returns the rows.

    Raises:
      OutputError: see :func:`read_lines`, or the file cannot be written, or is there and not to be
        overwritten.
    """
    rows = 0
    with _written(target, overwrite) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for line in read_lines(lines):
            for one in found_in(line):
                row = [line["frame"], line["time"], one.get("id", ""), one["label"], one["score"]]
                writer.writerow(row + one["box"])
                rows += 1
    return rows


def write_coco(
    lines: str | Path,
    target: str | Path,
    size: tuple[int, int] | None = None,
    video: str = "",
    *,
    overwrite: bool = False,
) -> int:
    """COCO's detection format with ``score`` and, where there are ids, ``track_id``; returns the
    annotations.

    Args:
      lines: what `watch` wrote.
      target: the JSON file.
      size: (height, width) of the video in pixels; None takes it from the lines, where the
        default pipeline writes it.
      video: name of the video, for the names of the images.

    Raises:
      OutputError: see :func:`read_lines`; no size is known; or the file cannot be written, or
        is there and not to be overwritten.
    """
    labels: dict[str, int] = {}
    count = 0
    # Written as it is read: images first, then the annotations in a second pass.
    with _written(target, overwrite) as file:
        file.write('{"info": {"description": ' + json.dumps(video) + '}, "images": [')
        for number, line in enumerate(read_lines(lines)):
            height, width = _size(line, size, lines)
            name = f"{video or 'frame'}-{line['frame']:06d}.jpg"
            image = {"id": line["frame"], "file_name": name, "width": width, "height": height}
            file.write(("," if number else "") + "\n" + json.dumps(image))
        file.write('],\n"annotations": [')
        for line in read_lines(lines):
            height, width = _size(line, size, lines)
            for one in found_in(line):
                count += 1
                x1, y1, x2, y2 = (
                    v * s for v, s in zip(one["box"], (width, height) * 2, strict=False)
                )
                box = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
                note = {
                    "id": count,
                    "image_id": line["frame"],
                    "category_id": labels.setdefault(one["label"], len(labels) + 1),
                    "bbox": box,
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                    "score": one["score"],
                }
                if "id" in one:
                    note["track_id"] = one["id"]
                file.write(("," if count > 1 else "") + "\n" + json.dumps(note))
        categories = [{"id": number, "name": name} for name, number in labels.items()]
        file.write('],\n"categories": ' + json.dumps(categories) + "}\n")
    return count


def _size(line: dict, given: tuple[int, int] | None, path: str | Path) -> tuple[int, int]:
    size = given or line.get("size")
    if size is None:
        raise OutputError(
            f"{path}: says nothing of the video's size, which COCO's pixels need; give it with "
            "--size HEIGHTxWIDTH"
        )
    return size[0], size[1]
