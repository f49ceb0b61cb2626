"""A session of a depth model that keeps count of flicker, and of points where there are some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..layers.geometry.pose_code import rotation_of
from ..zoo.depth.outputs import Geometry
from .ply import write_ply
from .session import Result, Session

STILL = 4  # of 255: a pixel that changed by no more is the same one
POINTS = 200_000  # of a cloud at most
PER_FRAME = 2000
_rotation = jax.jit(rotation_of)


class DepthSession(Session):
    """A :class:`~.session.Session` of one stream of a model of the task "depth"."""

    def __init__(self, step: Any, size: tuple[int, int]):
        super().__init__(step, size)
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._changes: list[float] = []
        self._shares: list[float] = []
        self._clouds: list[tuple[np.ndarray, np.ndarray]] = []
        self.cameras: list[dict[str, Any]] = []
        self._rng = np.random.default_rng(0)

    def push(self, frame: np.ndarray, time_s: float | None = None) -> Result[Any]:
        """The frame's depth, as :meth:`Session.push`."""
        result = super().push(frame, time_s)
        depth = np.asarray(result.output.depth, np.float32)
        grey = np.asarray(frame, np.float32).mean(axis=-1)
        if grey.shape == depth.shape:
            self._compare(depth, grey)
        if isinstance(result.output, Geometry):
            self._place(result, np.asarray(frame))
        return result

    def _compare(self, depth: np.ndarray, grey: np.ndarray) -> None:
        if self._before is not None:
            old, before = self._before
            same = np.abs(grey - before) <= STILL
            self._shares.append(float(same.mean()))
            if same.any() and (size := float(np.abs(depth).mean())) > 0:
                self._changes.append(float(np.abs(depth - old)[same].mean()) / size)
        self._before = depth, grey

    def _place(self, result: Result[Any], image: np.ndarray) -> None:
        """Points that the model is surest of, and the camera."""
        out = result.output
        code = np.asarray(out.camera, np.float32)
        turn = np.asarray(_rotation(code[3:7]))
        centre = -turn.T @ code[:3]
        self.cameras.append(
            {
                "frame": result.index,
                "time": round(float(result.time), 4),
                "centre": [round(float(v), 5) for v in centre],
                "rotation": np.round(turn.T, 5).tolist(),
            }
        )
        if len(self._clouds) * PER_FRAME >= POINTS:
            return
        sure = np.asarray(out.points_certainty).ravel()
        best = np.argsort(-sure, kind="stable")[: sure.size // 2]
        best = self._rng.choice(best, min(PER_FRAME, best.size), replace=False)
        colours = image.reshape(-1, 3)
        if colours.shape[0] == sure.size:
            self._clouds.append((np.asarray(out.points).reshape(-1, 3)[best], colours[best]))

    def told(self) -> str:
        """What is to be said of the stream at its end."""
        if not self._changes:
            return "flicker: no pixel of two frames in a row was the same"
        flicker, share = np.mean(self._changes), np.mean(self._shares)
        return (
            f"flicker: {flicker:.2%} of the mean depth from frame to frame, over the {share:.0%} "
            "of the pixels that did not change"
        )

    def write(self, stem: Path) -> list[Path]:
        """Writes ``stem``.cameras.jsonl and ``stem``.ply where the model says cameras."""
        if not self.cameras:
            return []
        path, cloud = stem.with_suffix(".cameras.jsonl"), stem.with_suffix(".ply")
        path.write_text("".join(json.dumps(line) + "\n" for line in self.cameras))
        if not self._clouds:
            return [path]
        points, colours = (np.concatenate(part) for part in zip(*self._clouds, strict=True))
        write_ply(cloud, points, colours)
        return [path, cloud]
