"""The recipe of cameras, depth and points from films of drawn rooms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import grain
import numpy as np

from ... import zoo
from ...layers.streaming import Params
from ...zoo.ranges import Count
from ..base import BaseRecipe, header, shared
from ..data.base import DataError
from ..data.world import Shot
from ..loop import Job, LoopConfig
from .films import RATE, Films, room
from .geometry_measure import measured
from .geometry_task import GeometryConfig, LearnGeometry
from .recipe import HELD_OUT


@dataclasses.dataclass(frozen=True)
class GeometryRecipe(BaseRecipe):
    """All of a training run. No data is needed: rooms are drawn. Pictures are of the card's size.

    Attributes:
      model: a registered name that answers with cameras, depth and points of a stream.
      films, each: to learn from, and pictures of each, 5 per second.
      held_out, frames: films to measure on, and frames of each.
      weights: a file or name to start from; "" for random ones.
      cache: folder where drawn films are kept; "": they are drawn again in every run.
    """

    model: str = "vggtstream-nano"
    films: Count = 400
    each: Count = 40
    held_out: Count = 6
    frames: Count = 60
    weights: str = ""
    cache: str = "runs/cache"
    geometry: GeometryConfig = GeometryConfig()
    loop: LoopConfig = LoopConfig()

    def check(self) -> None:
        """Refuses clips that are longer than a film. Raises DataError."""
        if self.loop.frames > self.each:
            raise DataError(
                f"loop.frames={self.loop.frames}: a film has each={self.each} pictures; give fewer"
                " frames, or more pictures"
            )

    def job(self) -> Job:
        """Makes the task; films are drawn when they are first read."""
        loop = self.loop
        model, variables = self.start(self.model, {"dtype": loop.dtype}, self.weights)
        card = zoo.model_card(self.model)
        task = LearnGeometry(model, card, variables, self.geometry, evaluate=self.measure)
        task.header = header(self.model, {}, card)

        def batches(host: int, hosts: int) -> Any:
            mine = Films(self.size, self.films, self.each, loop.frames, self.cache,
                         shared(loop.batch, host, hosts), loop.seed)  # fmt: skip
            return iter(grain.MapDataset.source(mine).to_iter_dataset(
                grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
            ))  # fmt: skip

        return Job(task, batches)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return zoo.model_card(self.model).input_size

    def films_held_out(self) -> list[Shot]:
        """Films of rooms that nothing learned from."""
        return [
            room(HELD_OUT + n, self.size).shoot(self.frames, RATE) for n in range(self.held_out)
        ]

    def measure(self, variables: Params) -> dict[str, float]:
        """Means over held-out films; see :func:`.geometry_measure.measured`."""
        model, card = zoo.create_model(self.model), zoo.model_card(self.model)
        rows = [measured(model, variables, card, film) for film in self.films_held_out()]
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Metrics of a weights file or name on held-out rooms. Raises the errors of ``load``."""
        return self.measure(zoo.load_weights(weights))

    def next_commands(self, weights: Path) -> list[str]:
        return [f"streamzoo depth VIDEO --model {weights}"]
