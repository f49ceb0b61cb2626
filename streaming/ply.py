"""Clouds of coloured points as PLY files, which viewers of meshes open."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_ply(path: str | Path, points: np.ndarray, colours: np.ndarray) -> None:
    """points float [N, 3], colours uint8 [N, 3]; points that are not finite are left out.

    Raises:
      ValueError: different numbers of points and colours.
    """
    if points.shape[0] != colours.shape[0]:
        raise ValueError(f"{points.shape[0]} points and {colours.shape[0]} colours")
    keep = np.isfinite(points).all(axis=1)
    kind = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("r", "u1"), ("g", "u1"), ("b", "u1")]
    rows = np.empty(int(keep.sum()), kind)
    for axis, name in enumerate("xyz"):
        rows[name] = points[keep, axis]
    for channel, name in enumerate("rgb"):
        rows[name] = colours[keep, channel]
    words = ("red", "green", "blue")
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {rows.shape[0]}"]
    head += [f"property float {name}" for name in "xyz"]
    head += [f"property uchar {name}" for name in words]
    text = "\n".join([*head, "end_header"]) + "\n"
    Path(path).write_bytes(text.encode() + rows.tobytes())
