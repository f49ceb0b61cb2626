"""Recipes: data, model, teacher and loop in one frozen config; ``build`` makes the job of it."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from .. import zoo
from ..layers.hybrid import pattern
from ..layers.mixers import mix
from ..layers.streaming import Fields, Params
from ..zoo.action.student.from_teacher import student_from_teacher
from ..zoo.action.student.model import StudentConfig
from ..zoo.action.videomae.model import VideoMAE
from ..zoo.compress import is_quantised
from ..zoo.encode.stems import PRETRAINED
from ..zoo.ranges import Checked, Share, Whole
from ..zoo.registry import Card
from ..zoo.traits import classes_of, stem_of
from . import checks
from .agreement import agree, hold_out
from .base import BaseRecipe, header
from .clip_teacher import ClipTeacher, streaming
from .compressing import CompressConfig, Compressing
from .data.base import DataError, Source
from .datasets import DataConfig, data_set
from .datasets.synth import SynthData
from .evaluate import evaluate
from .loop import Job, LoopConfig
from .stems import with_stem
from .targets import taught
from .tasks import Distil, DistilConfig, Supervise, SuperviseConfig
from .types import Evaluate


def Data(kind: str = "synth", **fields: Any) -> DataConfig:
    """The config of a data set by its kind, as configs wrote it when one class served all sets:
    words that the set does not read are left out. Use the classes of ``train.datasets``."""
    chosen = data_set(kind)
    text = f"Data(kind={kind!r}) is called {chosen.__name__} now (streamzoo.train.datasets)"
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return chosen(**{name: value for name, value in fields.items() if not chosen.left_out(name)})


@dataclasses.dataclass(frozen=True)
class Model(Checked):
    """Which model, and where its weights come from.

    Attributes:
      name: a registered architecture; ``videomae-window-…`` is a teacher.
      weights: a file or name to start from; "" for random ones (and, for a student, those of its
        teacher where they fit).
      depth: blocks, 0 for the architecture's own.
      shift: share of the channels that ``tsa`` shifts, 0 for the architecture's own.
      window: frames of a teacher's window, 0 for the architecture's own.
      lookahead: frames that a teacher sees after the one it answers for.
      person: give a student the head that finds persons.
      temporal: a student's mixers, a letter per block (``layers.hybrid``); "" for its own.
    """

    name: str = "dsta-lite0"
    weights: str = ""
    depth: Whole = 0
    shift: Share = 0.0
    window: Whole = 0
    lookahead: Whole = 0
    person: bool = False
    temporal: str = ""

    def overrides(self, source: Source, classes: int, dtype: str) -> Fields:
        config = zoo.model_config(self.name)
        fields: Fields = dict(image_size=source.size, num_classes=classes, dtype=dtype)
        if self.depth:
            fields["depth"] = self.depth
        if isinstance(config, StudentConfig):
            fields["heads"] = ("roi", "person") if self.person else ("roi",)
            fields["max_boxes"] = max(source.max_boxes, 8) if self.person else source.max_boxes
            fields["person_threshold"] = 0.4
            # one class per video, and unlabelled folders: slot 0 is the whole frame
            fields["frame_box"] = not source.multi_label or not source.classes
            if self.shift:
                fields["temporal"] = (mix("shift", fraction=self.shift),)
            if self.temporal:
                fields["temporal"] = pattern(self.temporal)
                fields.setdefault("depth", len(self.temporal))
        else:
            fields["lookahead"] = self.lookahead
            if self.window:
                fields["frames"] = self.window
                fields["tubelet"] = 2 if self.window % 2 == 0 else 1
        return fields


@dataclasses.dataclass(frozen=True)
class Recipe(BaseRecipe):
    """All of a training run.

    Attributes:
      data, test: to learn from and to measure on (every ``loop.eval_every`` steps and at the end).
      model: what learns.
      teacher: what it learns from: a file or name of a ``videomae-window-…``; "" learns from the
        labels.
      labels: learn from the labels all the same; a teacher then only gives the first weights.
      distil, supervise: how, with and without a teacher.
      compress: fewer bits or fewer weights while it learns.
      keep_targets: compute the teacher's answers once and keep them, or at every step anew.
      cache: folder for what is kept: decoded frames, persons, features, teachers' answers.
    """

    data: DataConfig = SynthData()
    test: DataConfig | None = None
    model: Model = Model()
    teacher: str = ""
    labels: bool = False
    distil: DistilConfig = DistilConfig()
    supervise: SuperviseConfig = SuperviseConfig()
    compress: CompressConfig = CompressConfig()
    keep_targets: bool = True
    cache: str = "runs/cache"
    loop: LoopConfig = LoopConfig()

    def check(self) -> None:
        """Refuses what can be refused without data. Raises as :meth:`build`."""
        checks.recipe(self)

    def job(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        known = zoo.model_config(self.model.name)
        stem = stem_of(known)
        card = zoo.model_card(self.model.name)
        source = self.data.features(self.cache, stem, card)
        source, held = hold_out(source, self.data.held_out)
        teacher: Any = None
        teacher_variables: Any = None
        told: Any = None
        multi_label = source.multi_label
        if self.teacher:
            teacher, teacher_variables = load_teacher(self.teacher, self.model.lookahead)
            # unlabelled data does not say whether the classes exclude each other; a teacher may
            told = zoo.card_of(self.teacher)
            multi_label = told.multi_label and (source.multi_label or not source.classes)
            multi_label &= not isinstance(teacher, ClipTeacher)  # Kinetics: one class per clip
            _same_classes(self.teacher, told.classes, source.classes)
        classes = teacher.config.num_classes if teacher else len(source.classes)
        if not classes:
            raise DataError(
                f"{self.data.kind} data has no labels: name a teacher with --set teacher=FILE"
            )
        fields = self.model.overrides(source, classes, self.loop.dtype)
        card = dataclasses.replace(
            card, multi_label=multi_label, overrides=fields,
            classes=source.classes or (told.classes if told else ()),
            frame_rate=source.frame_rate, input_size=source.size,
        )  # fmt: skip
        model, variables = self.start(
            self.model.name, fields, self.model.weights, lambda v: with_stem(v, stem)
        )
        if not self.model.weights and teacher and _same_blocks(teacher.config, model.config):
            offline = VideoMAE(teacher.config)
            variables = student_from_teacher(model, variables, offline, teacher_variables)
        if teacher is not None and not self.labels:
            checks.fits(teacher.config, model.config, self.teacher, self.data)
        score = self._score(model, card, stem)
        if score is None and held is not None and teacher is not None:
            unseen = held
            score = lambda v: agree(model, v, card, teacher, teacher_variables, unseen)
        shape = source.read(0, 0, 1).frames.shape[1:] if stem in PRETRAINED else None
        if teacher is None or self.labels:
            task: Any = Supervise(
                model, card, variables, self.supervise, evaluate=score, frame_shape=shape
            )
        else:
            kept = None if self.keep_targets else teacher_variables
            task = Distil(
                model, card, variables, teacher, kept, self.distil, evaluate=score,
                frame_shape=shape,
            )  # fmt: skip
            if self.keep_targets:
                source = taught(source, task, teacher_variables, self.cache)
        task.header = header(self.model.name, fields, card)
        if self.compress.wanted:
            task = Compressing(task, self.compress)
        return self.on_clips(task, source)

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Metrics of a weights file or name on the test data. Raises as :meth:`build`."""
        if self.test is None:
            return super().evaluate_file(weights)
        model, variables, card = zoo.resolve(weights)
        # a quantised encoder reads the frames: stored features are those of its floats
        coded = is_quantised(variables["params"].get("stem", {}))
        test = self.test.features(self.cache, "" if coded else stem_of(model.config), card)
        known = classes_of(model.config)
        if known not in (None, len(test.classes)):
            raise DataError(
                f"{weights} tells {known} classes apart and the test data of this config has "
                f"{len(test.classes)}: name the config that it was trained with"
            )
        # a file of another number of classes than its registered name says nothing of their names
        named = card.classes if len(card.classes) == known else ()
        _same_classes(str(weights), named, test.classes)
        if named and card.multi_label != test.multi_label:
            kinds = "one class (softmax)", "several at a time (sigmoid)"
            raise DataError(
                f"{weights} chooses {kinds[card.multi_label]} and the test data has "
                f"{kinds[test.multi_label]}: name the config that it was trained with"
            )
        card = dataclasses.replace(card, multi_label=test.multi_label, classes=test.classes)
        return evaluate(model, variables, card, test)

    def next_commands(self, weights: Path) -> list[str]:
        commands = [f"streamzoo watch VIDEO --model {weights}", f"streamzoo bench {weights}"]
        return commands if isinstance(zoo.model_config(self.model.name), StudentConfig) else []

    def _score(self, model: Any, card: Card, stem: str) -> Evaluate | None:
        if self.test is None:
            return None
        test = self.test.features(self.cache, stem, card)
        if not test.classes:
            raise DataError(f"test data of kind {self.test.kind} has no labels to measure with")
        return lambda variables: evaluate(model, variables, card, test)


def _same_classes(name: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    """Raises DataError where names are known on both sides and differ, the order included."""
    if not theirs or not ours or theirs == ours:
        return
    if sorted(theirs) == sorted(ours):
        raise DataError(f"{name} has the classes of the data in another order: {', '.join(theirs)}")
    odd = sorted(set(theirs) ^ set(ours))
    raise DataError(
        f"{name} tells {len(theirs)} classes apart and the data has {len(ours)}, which differ in "
        f"{', '.join(odd[:4])}: name the config that it was trained with"
    )


def load_teacher(name_or_path: str, lookahead: int = 0) -> tuple[Any, Params]:
    """(sliding window, variables) of a teacher, published VideoMAEs among them: a fine-tune on AVA
    is one, a classifier of clips (Kinetics) a :class:`ClipTeacher`. Raises DataError for a model
    that is none."""
    path = Path(name_or_path)
    if path.suffix == ".safetensors" and not path.is_file():
        raise DataError(f"no teacher at {path}: train one, e.g. with configs/synth_teacher.py")
    model, variables = zoo.load(name_or_path)
    model = streaming(model, lookahead, name_or_path)
    return model, variables


def _same_blocks(teacher: Any, student: Any) -> bool:
    """Whether a student of one frame can begin with its teacher's blocks."""
    if not isinstance(student, StudentConfig):
        return False
    one = (teacher.dim, teacher.patch, teacher.mlp_ratio, teacher.stem)
    return one == (student.dim, student.patch, student.mlp_ratio, student.stem)
