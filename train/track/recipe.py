"""The recipe of a tracker: data, model, loss and loop in one frozen config."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ... import zoo
from ...layers.streaming import Fields, Params
from ...zoo.ranges import Count
from .. import checks
from ..base import BaseRecipe, header, split
from ..data import mask_clips
from ..data.base import DataError
from ..data.davis import Davis
from ..data.mask_clips import Augment
from ..datasets.base import located
from ..loop import Job, LoopConfig
from .evaluation import sequence_masks
from .metrics import track_metrics
from .task import Track, TrackConfig

TRUNK = "efficientnet-lite0/imagenet"  # the weights of a tracker's EfficientNet-Lite0


@dataclasses.dataclass(frozen=True)
class TrackRecipe(BaseRecipe):
    """All of a tracker's training run.

    Attributes:
      path: DAVIS, an archive or a folder.
      sequences: to learn from; held_out: to measure on, at the end and every ``loop.eval_every``.
      model: a registered tracker.
      size: (height, width) of the frames in training; () for the tracker's own, which it is
        measured at.
      weights: a file or name to start from; "" for random ones and a pretrained trunk.
      augment: how clips are changed.
      track: the loss.
    """

    path: str = ""
    sequences: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    model: str = "tracker-lite0"
    size: tuple[Count, ...] = ()
    weights: str = ""
    augment: Augment = Augment()
    track: TrackConfig = TrackConfig()
    loop: LoopConfig = LoopConfig()

    def check(self) -> None:
        """Refuses what can be refused without data. Raises as :meth:`build`."""
        checks.track(self)

    def job(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        loop, name = self.loop, self.model
        fields: Fields = dict(objects=1, prompted_slots=1, dtype=loop.dtype)
        if self.size:
            fields["image_size"] = self.size
        model, variables = self.start(name, fields, self.weights, with_trunk)
        card = zoo.model_card(name)
        source = Davis(located(self.path), self.sequences, size=model.config.image_size)
        score = (lambda variables: self.measure(variables)) if self.held_out else None
        task = Track(model, card, variables, self.track, evaluate=score)
        task.header = header(name, {"dtype": loop.dtype}, card)

        def batches(host: int, hosts: int) -> Any:
            return mask_clips.batches(
                source, loop.batch, loop.frames, loop.seed, self.augment, host=host, hosts=hosts
            )

        return Job(task, batches, source)

    def measure(self, variables: Params, prompt: str = "mask") -> dict[str, float]:
        """Metrics on the held-out sequences, as :func:`.metrics.track_metrics`. Raises DataError:
        there are none."""
        if not self.held_out:
            raise DataError("this config has no test data: set held_out to names of sequences")
        model: Any = zoo.create_model(self.model, objects=1)
        card = zoo.model_card(self.model)
        source = Davis(located(self.path), self.held_out, size=model.config.image_size)
        native = Davis(located(self.path), self.held_out)
        return track_metrics(list(sequence_masks(model, variables, card, source, native, prompt)))

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Metrics of a weights file or name. Raises as :meth:`build`."""
        return self.measure(zoo.load_weights(weights))


def with_trunk(variables: Params) -> Params:
    """Variables of a tracker whose EfficientNet-Lite0 has its weights."""
    params, frozen = split(variables, Track.apart)
    known = zoo.load_weights(TRUNK)["params"]
    return {"params": {**params, "trunk": {name: known[name] for name in frozen["trunk"]}}}
