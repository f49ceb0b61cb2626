"""Masks of objects that somebody pointed at."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from ..overlay import draw, tint
from .base import Line, View


def run_lengths(mask: np.ndarray) -> list[int]:
    """A bool mask [h, w] as COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def box_of(mask: np.ndarray) -> list[float] | None:
    """x0, y0, x1, y1 in [0, 1] around the largest connected part of a mask [h, w], None if empty.

    A few stray pixels far away would make the box of all of it as wide as the picture.
    """
    if not mask.any():
        return None
    labelled: Any = ndimage.label(mask)  # scipy's stubs say int, which is with output=
    parts = labelled[0]
    main = parts == np.bincount(parts[mask]).argmax()
    rows, cols = np.flatnonzero(main.any(1)), np.flatnonzero(main.any(0))
    h, w = mask.shape
    return [cols[0] / w, rows[0] / h, (cols[-1] + 1) / w, (rows[-1] + 1) / h]


class TrackView(View[Any]):
    """Of a JSON line ``objects``: per object its box in [0, 1], score and mask (``counts`` of
    COCO), and ``absent`` if it was prompted where the model sees nothing."""

    def fields(self, result: Any) -> Line:
        objects = []
        for name, mask in result.masks.items():
            entry = {"name": name, "score": round(result.scores[name], 4), "box": None}
            if (box := box_of(mask)) is not None:
                entry["box"] = [round(v, 4) for v in box]
                entry["mask"] = {"size": list(mask.shape), "counts": run_lengths(mask)}
            if name in result.absent:
                entry["absent"] = True
            objects.append(entry)
        return {"objects": objects}

    def rows(self, result: Any) -> list[Line]:
        objects = self.fields(result)["objects"]
        for entry in objects:
            entry["label"] = entry.pop("name")
            entry.pop("mask", None)
        return list(self.rows_of(result.index, result.time, {"objects": objects}))

    def draw(self, image: np.ndarray, result: Any, line: Line) -> np.ndarray:
        shown = [entry for entry in line["objects"] if entry["box"] is not None]
        for entry in shown:
            image = tint(image, result.masks[entry["name"]], str(entry["name"]))
        names, scores = [str(e["name"]) for e in shown], [e["score"] for e in shown]
        return draw(image, [e["box"] for e in shown], names, scores)
