"""The recipe of a live model: scenes, model, loss and loop in one frozen config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ... import zoo
from ...layers.streaming import Fields, Params
from ...zoo.encode.stems import PRETRAINED, stem_stride, stem_width
from ...zoo.live import LiveModel
from ...zoo.ranges import Count, Seed, Size, Whole
from ...zoo.registry import Card
from .. import checks
from ..base import BaseRecipe, header, shared
from ..data import handover
from ..data.base import DataError, Source
from ..data.handover import CameraClips, Scenes
from ..loop import Job, LoopConfig
from ..stems import featured, with_stem
from .evaluation import CHUNK, measure
from .task import Live, LiveLoss


@dataclasses.dataclass(frozen=True)
class LiveRecipe(BaseRecipe):
    """All of a live model's training run.

    Attributes:
      variants, test_variants: surroundings per role, of other seeds; see ``handover``.
      scenes: test scenes.
      test_seed: of the test clips and scenes. 0 was looked at while the recipe was made.
      pairs, bystanders: cameras of a scene: two per pair, and one per bystander.
      size: (height, width) of the frames.
      model: a registered live model; width: of its features, keys and memory, 0 for the registered
        ones; depth: passes of its refinement.
      weights: a file or name to start from; "" for random ones and a pretrained stem.
      live: the loss.
      cache: folder for the frozen stem's features.
      loop: ``lanes`` counts scenes; ``frames`` is theirs.
    """

    variants: Count = 20
    test_variants: Count = 6
    scenes: Count = 128
    test_seed: Seed = 1
    pairs: Count = 2
    bystanders: Whole = 1
    size: Size = (64, 96)
    model: str = "live-mi-lite0"
    width: Whole = 64
    depth: Count = 2
    weights: str = ""
    live: LiveLoss = LiveLoss()
    cache: str = "runs/cache"
    loop: LoopConfig = LoopConfig(frames=handover.FRAMES)
    frame_rate: ClassVar[float] = handover.RATE

    def fields(self) -> Fields:
        """Of the model's config."""
        names = ("embed", "key_dim", "dim")
        widths = dict.fromkeys(names, self.width) | {"hidden": 2 * self.width}
        return dict(
            image_size=self.size, classes=handover.LOOKS, depth=self.depth, max_boxes=4,
            roi_size=2,  # the map has two rows
            dtype=self.loop.dtype, **(widths if self.width else {}),
        )  # fmt: skip

    def open(self, split: str, mine: range) -> Scenes:
        """Scenes of a split, as features where the model's stem is a frozen one."""
        train = split == "train"
        count, seed = (self.variants, 0) if train else (self.test_variants, self.test_seed)
        clips = CameraClips(count, self.size, seed, split)
        stem = zoo.model_config(self.model).stem
        card = zoo.model_card(self.model)
        frames = _frames(clips, stem if stem in PRETRAINED else "", card, self.cache)
        return Scenes(clips, frames, mine, self.loop.seed, self.pairs, self.bystanders)

    def check(self) -> None:
        """Refuses what can be refused without data. Raises as :meth:`build`."""
        checks.live(self)

    def job(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        loop, name, fields = self.loop, self.model, self.fields()
        model, variables = self._start()
        if self.weights:
            variables = zoo.load_weights(self.weights, template=variables)
        task = Live(
            model, zoo.model_card(name), variables, self.live, evaluate=lambda v: self.measure(v)
        )
        card = dataclasses.replace(
            zoo.model_card(name), classes=CameraClips.classes, multi_label=True,
            frame_rate=self.frame_rate,
        )  # fmt: skip
        task.header = header(name, fields, card)

        def batches(host: int, hosts: int) -> Any:
            return handover.batches(self.open("train", shared(loop.batch, host, hosts)))

        return Job(task, batches)

    def _start(self) -> tuple[Any, Params]:
        """The model and its first weights; a frozen stem's are not drawn, only loaded."""
        model: Any = zoo.create_model(self.model, **self.fields())
        stem = model.config.stem
        if stem not in PRETRAINED:
            return zoo.init_params(self.model, seed=self.loop.seed, **self.fields())
        cells = (side // stem_stride(stem) for side in self.size)
        features = jnp.zeros((1, 1, *cells, stem_width(stem)))
        start = jax.jit(lambda key: model.init(key, model.init_carry(1), features))
        return model, with_stem(start(jax.random.key(self.loop.seed)), stem)

    def measure(
        self, variables: Params, *, cross: bool | None = None, model: Any = None
    ) -> dict[str, float]:
        """Metrics on the test scenes, the same ones for every seed of the training.

        cross: with HRM or without, None: as trained; model: by default this recipe's.
        """
        model = model or zoo.create_model(self.model, **self.fields())
        test = self.open("test", range(CHUNK))
        test.seed = self.test_seed
        on = self.live.cross if cross is None else cross
        card = zoo.model_card(self.model)
        return measure(model, variables, card, test, self.scenes, cross=on)

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Metrics of a weights file or name, in the form it was trained in but for HRM, which is
        on or off as ``live.cross`` says. Raises as :meth:`build`."""
        model: Any
        model, variables = zoo.load(weights)
        if not isinstance(model, LiveModel) or model.config.classes != handover.LOOKS:
            raise DataError(f"{weights}: the test scenes have {handover.LOOKS} looks, it has not")
        return self.measure(variables, model=model)


def _frames(clips: CameraClips, stem: str, card: Card, cache: str) -> Callable[[int], np.ndarray]:
    """Number of a video -> its frames, or the features of a frozen stem (kept in ``cache``)."""
    if not stem:
        return lambda video: clips.read(video, 0, handover.FRAMES).frames
    source: Source = clips
    kept = featured(source, stem, card, cache)
    return lambda video: kept.read(video, 0, handover.FRAMES).frames
