"""Mattes: the persons stay, what is behind them fades to grey."""

from __future__ import annotations

import numpy as np

from ...zoo.matte.outputs import Matte
from .base import Answered, Line, View

FADED = 0.25  # of the background's brightness and contrast that is left
GREY = 110.0


class MatteView(View[Matte]):
    """Of a JSON line ``matte``: ``share`` of the frame that is a person and, where more than a
    thousandth is, the ``box`` x1, y1, x2, y2 in [0, 1] around it."""

    def fields(self, result: Answered[Matte]) -> Line:
        alpha = np.asarray(result.output.alpha, np.float32)
        line: Line = {"share": round(float(alpha.mean()), 4)}
        inside = alpha > 0.5
        if inside.mean() > 1e-3:
            rows, cols = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
            height, width = alpha.shape
            box = cols[0] / width, rows[0] / height, (cols[-1] + 1) / width, (rows[-1] + 1) / height
            line["box"] = [round(float(v), 4) for v in box]
        return {"matte": line}

    def sent(self, result: Answered[Matte]) -> Line:
        return self.fields(result)

    def told(self, record: Line) -> Line:
        return {"matte": record["matte"]} if "matte" in record else {}

    def picture(self, image: np.ndarray, result: Answered[Matte]) -> np.ndarray:
        """The picture with its background faded."""
        from PIL import Image

        alpha = np.asarray(result.output.alpha, np.float32)
        cells = Image.fromarray(np.round(255 * alpha).astype(np.uint8))
        size = image.shape[1], image.shape[0]
        shown = np.asarray(cells.resize(size, Image.Resampling.BILINEAR), np.float32)[..., None]
        behind = GREY + FADED * (image.astype(np.float32) - GREY)
        mixed = behind + shown / 255 * (image - behind)
        return np.round(mixed).astype(np.uint8)
