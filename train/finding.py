"""The recipe of a person head: a trained student finds persons better, and stays what it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .. import zoo
from ..zoo.ranges import Share
from ..zoo.traits import finds_persons, stem_of
from .base import BaseRecipe, header
from .data.base import DataError
from .datasets.base import DataConfig
from .datasets.ucf11 import UCF11Data
from .evaluate import evaluate, find_persons
from .loop import Job, LoopConfig
from .tasks.persons import HEAD, FindPersons


@dataclasses.dataclass(frozen=True)
class PersonsRecipe(BaseRecipe):
    """A head on the stem's maps (``person_stem``) learns from a detector, without labels.

    Attributes:
      data, test: to learn from and to measure on; their ``detector`` finds the persons.
      weights: a name or file of a student with a person head and a pretrained stem; it gets a new
        head, or goes on with the one it has.
      threshold: score from which the detector's box is a person.
      shown: score from which the head's box is one.
      dropout: share of the stem's channels that a frame is shown without while the head learns.
      cache: folder for what is kept: decoded frames, persons, features.
    """

    data: DataConfig = UCF11Data()
    test: DataConfig | None = None
    weights: str = ""
    threshold: Share = 0.4
    shown: Share = 0.5
    dropout: Share = 0.25
    cache: str = "runs/cache"
    loop: LoopConfig = LoopConfig()

    def check(self) -> None:
        """Raises DataError: no data, no detector, or a student without a person head."""
        for name, data in (("data", self.data), ("test", self.test)):
            if data is None:
                continue
            data.check(name)
            if not getattr(data, "detector", ""):
                raise DataError(f"{name}.detector is not set: it finds the persons that teach")
        config = zoo.resolve(self.weights).model.config
        if not (finds_persons(config) and stem_of(config)):
            raise DataError(
                f"weights={self.weights}: give a student with a person head and a pretrained stem,"
                " such as dsta-lite0/ucf11"
            )

    def job(self) -> Job:
        """Opens the data and makes the task."""
        old, trained, card = zoo.resolve(self.weights)
        stem = stem_of(old.config)
        fields = {**card.overrides, "person_stem": True, "person_threshold": self.shown}
        name = card.arch or card.name
        model, variables = zoo.init_params(name, seed=self.loop.seed, **fields)
        params = dict(trained["params"])
        if not old.config.person_stem:
            params[HEAD] = variables["params"][HEAD]
        card = dataclasses.replace(card, overrides=fields)
        score = None
        if self.test is not None:
            test = self.test.features(self.cache, stem, card)
            score = lambda variables: find_persons(model, variables, card, test)
        task = FindPersons(
            model, card, {"params": params}, self.threshold, dropout=self.dropout, evaluate=score
        )
        task.header = header(name, fields, card)
        return self.on_clips(task, self.data.features(self.cache, stem, card))

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Metrics of a weights file or name on the test data: those of its actions too."""
        if self.test is None:
            return super().evaluate_file(weights)
        model, variables, card = zoo.resolve(weights)
        test = self.test.features(self.cache, stem_of(model.config), card)
        return evaluate(model, variables, card, test)
