"""CSV files of boxes, read strictly: the first bad line is named with what is wrong in it."""

from __future__ import annotations

import csv
import difflib
import gzip
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .base import DataError, need

SLACK = 1e-3  # of the frame's side: one unit of AVA's last place


class Row(NamedTuple):
    """One line of a table."""

    where: str  # "file:line"
    values: dict[str, str]


def rows(
    path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = (), bare: int = 0
) -> Iterator[Row]:
    """Lines of a CSV (or .csv.gz), with or without a first line of column names.

    Args:
      columns: those that must be there, in the order of a file without names.
      optional: further ones, in order.
      bare: a line may also have just the first ``bare`` columns, the others then being empty.

    Raises:
      DataError: no such file, or a column that is missing, with the file, line and column.
    """
    path = need(path, "the table of boxes", "check the path")
    every = (*columns, *optional)
    names: Sequence[str] = every
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8") as file:
            for number, line in enumerate(csv.reader(file), 1):
                where = f"{path}:{number}"
                cells = [cell.strip() for cell in line]
                if not any(cells):
                    continue
                if number == 1 and (set(cells) & set(every)) and set(cells) != {""}:
                    names = cells
                    for column in columns:
                        if column not in names:
                            close = difflib.get_close_matches(column, names, 1)
                            hint = f"; did you mean {close[0]!r}?" if close else ""
                            raise DataError(
                                f"{where}: column {column!r} is missing; there are "
                                f"{', '.join(names)}{hint}"
                            )
                    continue
                filled = len(cells)
                while bare and filled > bare and not cells[filled - 1]:
                    filled -= 1
                least = max((list(names).index(c) + 1 for c in columns), default=0)
                if filled < least and filled != bare:
                    raise DataError(
                        f"{where}: {filled} columns, so {names[filled]!r} is missing; a line has "
                        f"{','.join(columns)}" + "".join(f"[,{c}]" for c in optional)
                    )
                yield Row(where, dict(zip(names, cells[:filled], strict=False)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error


def number(row: Row, column: str) -> float:
    """A cell as a finite number, or a DataError that names it."""
    try:
        value = float(row.values[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{row.where}: {column} is {row.values[column]!r}, not a number")
    return value


def box(row: Row) -> tuple[float, float, float, float]:
    """Columns x1, y1, x2, y2 as fractions of the frame with x1 < x2 and y1 < y2, or a DataError.

    Up to ``SLACK`` outside the frame is rounding, and clipped."""
    corners = [number(row, column) for column in ("x1", "y1", "x2", "y2")]
    if min(corners) < -SLACK or max(corners) > 1 + SLACK:
        told = ",".join(row.values[column] for column in ("x1", "y1", "x2", "y2"))
        raise DataError(
            f"{row.where}: box {told} lies outside [0, 1]; boxes are fractions of width and "
            "height, not pixels"
        )
    x1, y1, x2, y2 = (min(max(corner, 0.0), 1.0) for corner in corners)
    if x1 >= x2 or y1 >= y2:
        raise DataError(f"{row.where}: box {x1:g},{y1:g},{x2:g},{y2:g} is empty; need x1<x2, y1<y2")
    return x1, y1, x2, y2
