"""The recipe of depth from drawn worlds: data, model, loss and loop in one frozen config."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import grain

from ... import zoo
from ...layers.streaming import Params
from ...zoo.ranges import Count, Size
from ..base import BaseRecipe, header, shared
from ..data.base import DataError
from ..data.world import Shot
from ..loop import Job, LoopConfig
from ..track import with_trunk
from .measure import measured
from .task import DepthConfig, LearnDepth
from .worlds import Worlds, drawn

HELD_OUT = 1_000_000  # seeds from here on are never learned from


@dataclasses.dataclass(frozen=True)
class DepthRecipe(BaseRecipe):
    """All of a training run. No data is needed: worlds are drawn.

    Attributes:
      model: a registered name whose network of single frames is ``frame``, with a frozen trunk.
      size: (height, width) of the pictures.
      worlds, each: to learn from, and pictures of each.
      held_out, frames: films to measure on, and frames of each, at 15 per second.
      weights: a file or name to start from; "" for random ones and a pretrained trunk.
      cache: folder where drawn pictures are kept; "": they are drawn again in every run.
    """

    model: str = "depth-nano"
    size: Size = (192, 256)
    worlds: Count = 1200
    each: Count = 2
    held_out: Count = 8
    frames: Count = 12
    weights: str = ""
    cache: str = "runs/cache"
    depth: DepthConfig = DepthConfig()
    loop: LoopConfig = LoopConfig()

    def check(self) -> None:
        """Refuses a size of which the encoder makes nothing. Raises DataError."""
        if any(side % 32 for side in self.size):
            raise DataError(f"size={self.size}: give sides that are multiples of 32")

    def job(self) -> Job:
        """Draws the worlds that are not there yet, and makes the task."""
        loop = self.loop
        model, variables = self.start(self.model, {"depth": {"dtype": loop.dtype}}, self.weights,
                                      with_trunk)  # fmt: skip
        card = zoo.model_card(self.model)
        task = LearnDepth(model, card, variables, self.depth, evaluate=self.measure)
        task.header = header(self.model, {}, card)

        def batches(host: int, hosts: int) -> Any:
            mine = Worlds(self.size, self.worlds, self.each, self.cache,
                          shared(loop.batch, host, hosts), loop.seed)  # fmt: skip
            return iter(grain.MapDataset.source(mine).to_iter_dataset(
                grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
            ))  # fmt: skip

        return Job(task, batches)

    def films(self, still: bool) -> list[Shot]:
        """Films of worlds that nothing learned from."""
        kept = dataclasses.replace
        worlds = [drawn(HELD_OUT + n, self.size) for n in range(self.held_out)]
        moving = lambda w: min(2, w.boxes - w.round)
        return [
            kept(w, still=still, moving=moving(w) if still else 0).shoot(self.frames)
            for w in worlds
        ]

    def measure(self, variables: Params) -> dict[str, float]:
        """See :func:`.measure.measured`."""
        model, card = zoo.create_model(self.model), zoo.model_card(self.model)
        return measured(model, variables, card, self.films(False), self.films(True))

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Metrics of a weights file or name on held-out worlds. Raises the errors of ``load``."""
        return self.measure(zoo.load_weights(weights))

    def next_commands(self, weights: Path) -> list[str]:
        return [f"streamzoo depth VIDEO --model {weights}"]
