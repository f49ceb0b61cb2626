"""Maps of depth as colours."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...zoo.depth.outputs import Depth, Geometry
from .base import Answered, Line, View

# near to far: bright yellow, orange, red, violet, dark blue
COLOURS = np.asarray(
    [[252, 253, 191], [254, 159, 109], [222, 73, 104], [140, 41, 129], [59, 15, 112], [0, 0, 4]],
    np.float32,
)
KEEP = 0.9  # of the range of colours from frame to frame, so that they do not flicker


def colours(nearness: np.ndarray) -> np.ndarray:
    """Nearness [..., H, W], 1 the nearest and 0 the farthest -> uint8 [..., H, W, 3]."""
    at = (1 - np.clip(np.nan_to_num(nearness), 0, 1)) * (len(COLOURS) - 1)
    low = np.minimum(at.astype(int), len(COLOURS) - 2)
    share = (at - low)[..., None]
    mixed = (1 - share) * COLOURS[low] + share * COLOURS[low + 1]
    return (mixed + 0.5).astype(np.uint8)


def unit_of(found: Depth | Geometry) -> str:
    """What the numbers of a map are."""
    if bool(np.asarray(found.metric)):
        return "m"
    return "scene" if isinstance(found, Geometry) else "inverse"


class DepthView(View[Depth | Geometry]):
    """Of a JSON line ``depth``: ``unit`` ("m"; "scene": distances of unknown scale; "inverse"),
    ``near``, ``median`` and ``far``: the nearest and the farthest 2 % end there; ``confidence``
    where there is one."""

    _range: tuple[float, float] | None = None

    def fields(self, result: Answered[Depth | Geometry]) -> Line:
        found = result.output
        unit = unit_of(found)
        low, middle, high = np.percentile(np.asarray(found.depth, np.float32), (2, 50, 98))
        near, far = (high, low) if unit == "inverse" else (low, high)
        line: Line = {
            "unit": unit,
            "near": round(float(near), 4),
            "median": round(float(middle), 4),
            "far": round(float(far), 4),
        }
        if found.confidence is not None:
            line["confidence"] = round(float(found.confidence), 4)
        return {"depth": line}

    def sent(self, result: Answered[Depth | Geometry]) -> Line:
        return self.fields(result)

    def told(self, record: Line) -> Line:
        return {"depth": record["depth"]} if "depth" in record else {}

    def picture(self, image: np.ndarray, result: Any) -> np.ndarray:
        """The map in colours over the whole picture, bright is near."""
        found = result.output
        depth = np.asarray(found.depth, np.float32)
        # metres in colours of their inverse: near things differ more than far ones
        inverse = depth if unit_of(found) == "inverse" else 1 / np.maximum(depth, 1e-3)
        low, high = (float(v) for v in np.percentile(inverse, (2, 98)))
        if self._range is not None:
            low = KEEP * self._range[0] + (1 - KEEP) * low
            high = KEEP * self._range[1] + (1 - KEEP) * high
        self._range = low, high
        shown = colours((inverse - low) / max(high - low, 1e-6))
        rows = (np.arange(image.shape[0]) * depth.shape[0]) // image.shape[0]
        cols = (np.arange(image.shape[1]) * depth.shape[1]) // image.shape[1]
        return shown[rows][:, cols]
