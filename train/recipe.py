"""Recipes: data, model, teacher and loop in one frozen config; ``build`` makes the job of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .. import zoo
from ..layers.mixers import mix
from ..zoo.action import SlidingWindow
from ..zoo.action.from_teacher import student_from_teacher
from ..zoo.action.teacher import VideoMAE
from ..zoo.encode.stems import PRETRAINED
from .data import pipeline, ut_interaction
from .data.base import DataError, Source
from .data.stored import Mirrored, Subset
from .evaluate import evaluate
from .loop import Job, LoopConfig
from .stems import featured, with_stem
from .targets import taught
from .tasks import Distil, DistilConfig, Supervise, SuperviseConfig

KINDS = ("synth", "records", "ut", "ucf11", "ucf101-24", "ava", "folder")


@dataclasses.dataclass(frozen=True)
class Data:
    """Which videos, and how they are read.

    Attributes:
      kind: ``synth`` (generated), ``records`` (synth as ArrayRecord files), ``ut``
        (UT-Interaction), ``ucf11``, ``ucf101-24``, ``ava`` (CSV and video files), ``folder``
        (any videos, no labels).
      path: folder or archive; of ``ava`` the folder of the video files.
      csv, labels: of ``ava``: the annotations and the label map (.pbtxt).
      size: (height, width) of the frames in pixels.
      frame_rate: frames/s.
      max_boxes: K.
      split: of ``synth``, ``records`` and ``ucf11``.
      videos: of ``synth``: how many.
      sequences: of ``ut``: those to use, () for all.
      sets: of ``ut``.
      background: of ``ut``: with the background clips.
      detector: ONNX file of a YOLOX, the box teacher of videos without boxes; "" for the whole
        frame alone.
      mirror: also every video mirrored (classes that a mirror exchanges are exchanged).
    """

    kind: str = "synth"
    path: str = ""
    csv: str = ""
    labels: str = ""
    size: tuple[int, int] = (128, 128)
    frame_rate: float = 5.0
    max_boxes: int = 2
    split: str = "train"
    videos: int = 320
    sequences: tuple[int, ...] = ()
    sets: tuple[int, ...] = (1, 2)
    background: bool = True
    detector: str = ""
    mirror: bool = False

    def open(self, cache: str, stem: str = "", card: Any = None) -> Source:
        """The videos, as features of a pretrained ``stem``. Raises DataError: no such data."""
        from .data import ava, folder, synth, ucf11, ucf101_24

        finder = self.detector or None
        common: dict[str, Any] = dict(size=self.size, max_boxes=self.max_boxes)
        found = dict(common, detector=finder, cache=cache)
        if self.kind == "synth":
            source: Source = synth.Synth(
                self.videos, frame_rate=self.frame_rate, split=self.split, **common
            )
        elif self.kind == "records":
            from .data.synth_tfds import SynthRecords

            source = SynthRecords(self.path, self.split)
        elif self.kind == "ut":
            source = ut_interaction.UTInteraction(
                self.path, sets=self.sets,
                frame_rate=self.frame_rate, background=self.background, **found,
            )  # fmt: skip
        elif self.kind == "ucf11":
            source = ucf11.UCF11(self.path, self.split, **found)
        elif self.kind == "ucf101-24":
            source = ucf101_24.UCF101_24(self.path, **common)
        elif self.kind == "ava":
            source = ava.AVA(self.csv, self.path, self.labels, frame_rate=self.frame_rate, **common)
        elif self.kind == "folder":
            source = folder.Folder(self.path, frame_rate=self.frame_rate, whole_frame=True, **found)
        else:
            raise DataError(f"data.kind {self.kind!r}: choose from {', '.join(KINDS)}")
        if self.mirror:
            names = source.classes
            pair = ("walk_left", "walk_right")
            swap = ((names.index(pair[0]), names.index(pair[1])),) if pair[0] in names else ()
            source = Mirrored(source, swap)
        source = featured(source, stem, card, cache)
        if self.kind == "ut" and self.sequences:  # last: all folds share one set of features
            chosen = [i for i, n in enumerate(source.videos) if _sequence(n) in self.sequences]
            if not chosen:
                raise DataError(f"data.sequences={self.sequences}: sets {self.sets} have none")
            source = Subset(source, chosen)
        return source


def _sequence(name: str) -> int:
    # "set1/0_1_4" or "set1/0_1_4 (mirrored)"
    return ut_interaction.parse(Path(name.split(" ")[0]))[1]


@dataclasses.dataclass(frozen=True)
class Model:
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
    """

    name: str = "dsta-lite0"
    weights: str = ""
    depth: int = 0
    shift: float = 0.0
    window: int = 0
    lookahead: int = 0
    person: bool = False

    def overrides(self, source: Source, classes: int, dtype: str) -> dict[str, Any]:
        config = zoo.model_config(self.name)
        fields: dict[str, Any] = dict(image_size=source.size, num_classes=classes, dtype=dtype)
        if self.depth:
            fields["depth"] = self.depth
        if hasattr(config, "temporal"):
            fields["heads"] = ("roi", "person") if self.person else ("roi",)
            fields["max_boxes"] = max(source.max_boxes, 8) if self.person else source.max_boxes
            fields["person_threshold"] = 0.4
            # one class per video, and unlabelled folders: slot 0 is the whole frame
            fields["frame_box"] = not source.multi_label or not source.classes
            if self.shift:
                fields["temporal"] = (mix("shift", fraction=self.shift),)
        else:
            fields["lookahead"] = self.lookahead
            if self.window:
                fields["frames"] = self.window
                fields["tubelet"] = 2 if self.window % 2 == 0 else 1
        return fields


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All of a training run.

    Attributes:
      data, test: to learn from and to measure on (every ``loop.eval_every`` steps and at the end).
      model: what learns.
      teacher: what it learns from: a file or name of a ``videomae-window-…``; "" learns from the
        labels.
      labels: learn from the labels all the same; a teacher then only gives the first weights.
      distil, supervise: how, with and without a teacher.
      keep_targets: compute the teacher's answers once and keep them, or at every step anew.
      cache: folder for what is kept: decoded frames, persons, features, teachers' answers.
    """

    data: Data = Data()
    test: Data | None = None
    model: Model = Model()
    teacher: str = ""
    labels: bool = False
    distil: DistilConfig = DistilConfig()
    supervise: SuperviseConfig = SuperviseConfig()
    keep_targets: bool = True
    cache: str = "runs/cache"
    loop: LoopConfig = LoopConfig()

    def build(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        known = zoo.model_config(self.model.name)
        stem = getattr(known, "stem", "")
        card = zoo.model_card(self.model.name)
        source = self.data.open(self.cache, stem, card)
        teacher: Any = None
        teacher_variables: Any = None
        multi_label = source.multi_label
        if self.teacher:
            teacher, teacher_variables = load_teacher(self.teacher, self.model.lookahead)
            # unlabelled data does not say whether the classes exclude each other; a teacher may
            path = zoo.weights.find_weights(self.teacher)
            told = zoo.weights.read_metadata(path).get("multi_label")
            multi_label = source.multi_label if told is None else told == "true"
        classes = teacher.config.num_classes if teacher else len(source.classes)
        if not classes:
            raise DataError(
                f"{self.data.kind} data has no labels: name a teacher with --set teacher=FILE"
            )
        fields = self.model.overrides(source, classes, self.loop.dtype)
        card = dataclasses.replace(
            card, multi_label=multi_label, classes=source.classes, overrides=fields,
            frame_rate=source.frame_rate, input_size=source.size,
        )  # fmt: skip
        model: Any
        model, variables = zoo.init_params(self.model.name, seed=self.loop.seed, **fields)
        variables = with_stem(variables, stem)
        if self.model.weights:
            variables = zoo.load_weights(self.model.weights, template=variables)
        elif teacher is not None and teacher.config.dim == model.config.dim:
            offline = VideoMAE(teacher.config)
            variables = student_from_teacher(model, variables, offline, teacher_variables)
        score = self._score(model, card, stem)
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
        task.header = header(self.model.name, fields) | {"multi_label": multi_label}
        loop = self.loop

        def batches(host: int, hosts: int) -> Any:
            return pipeline.batches(
                source, loop.lanes, loop.frames, loop.seed, host=host, hosts=hosts
            )

        return Job(task, batches, source)

    def _score(self, model: Any, card: Any, stem: str) -> Any:
        if self.test is None:
            return None
        test = self.test.open(self.cache, stem, card)
        if not test.classes:
            raise DataError(f"test data of kind {self.test.kind} has no labels to measure with")
        return lambda variables: evaluate(model, variables, card, test)


def header(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What ``zoo.load`` wants to read in a weights file: the model and its config."""
    plain = dict(fields)
    if "temporal" in plain:
        plain["temporal"] = [dataclasses.asdict(one) for one in plain["temporal"]]
    return {"model": name, "config": plain}


def load_teacher(name_or_path: str, lookahead: int = 0) -> tuple[Any, Any]:
    """(sliding window, variables) of a teacher. Raises DataError for a model that is none."""
    path = Path(name_or_path)
    if path.suffix == ".safetensors" and not path.is_file():
        raise DataError(f"no teacher at {path}: train one, e.g. with configs/synth_teacher.py")
    changes = {"lookahead": lookahead} if lookahead else {}
    model, variables = zoo.load(name_or_path, **changes)
    if not isinstance(model, SlidingWindow):
        raise DataError(f"{name_or_path} is a {type(model).__name__}, not a videomae-window")
    return model, variables


def evaluate_file(recipe: Any, weights: str) -> dict[str, float]:
    """Figures of a weights file or name on a recipe's test data. Raises as ``Recipe.build``."""
    if hasattr(recipe, "evaluate_file"):  # of another kind, such as an encoder's
        return recipe.evaluate_file(weights)
    if recipe.test is None:
        raise DataError("this config has no test data: set test.kind and test.path")
    model, variables = zoo.load(weights)
    name = zoo.weights.read_metadata(zoo.weights.find_weights(weights)).get("model", "")
    stem = getattr(model.config, "stem", "")
    card = zoo.model_card(name)
    test = recipe.test.open(recipe.cache, stem, card)
    known = getattr(model.config, "num_classes", len(test.classes))
    if known != len(test.classes):
        raise DataError(
            f"{weights} tells {known} classes apart and the test data of this config has "
            f"{len(test.classes)}: name the config that it was trained with"
        )
    card = dataclasses.replace(card, multi_label=test.multi_label, classes=test.classes)
    return evaluate(model, variables, card, test)
