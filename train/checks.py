"""What can be refused before there is data: files that are missing, models that do not go together.

Every recipe has ``check()``, which calls these; the command line does so in the first second, long
before videos are drawn, decoded or encoded. Nothing is computed, downloaded or written here.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from .. import zoo
from ..layers.streaming import Json
from ..zoo.action.student.model import StudentConfig
from ..zoo.action.videomae.model import VideoMAEConfig
from ..zoo.action.videomae.window import WindowConfig
from ..zoo.files import read_metadata
from ..zoo.live.cross_stream.encoder import encoder_stride
from ..zoo.traits import patch_of
from .data import handover
from .data.base import DataError
from .datasets import DATA_SETS, DataConfig, data_set
from .datasets.base import exists
from .datasets.detected import DetectedData


def weights(setting: str, given: str, remedy: str = "train it first, or give another file") -> Any:
    """The config of the model that a weights file or name is of; None where only the hub knows.

    Raises DataError for a file that is not there or a name without weights, naming the setting,
    and the zoo's errors for an unknown name or a damaged file.
    """
    path = Path(given).expanduser()
    if path.is_file():
        header = read_metadata(path)
        name = header.get("model")
        return None if name is None else zoo.model_config(name, **_config(path, header))
    if given.startswith("hf:") or path.is_dir():
        return None
    if path.suffix == ".safetensors":
        missing = "no teacher" if setting.startswith("teacher") else f"{setting}: no weights"
        raise DataError(f"{missing} at {given}: {remedy}")
    card = zoo.model_card(given)
    if not card.pretrained:
        raise DataError(f"{setting}: {given} is an architecture without weights; {remedy}")
    return zoo.model_config(given)


def _config(path: Path, header: dict[str, str]) -> Json:
    try:
        return dict(json.loads(header.get("config", "{}")))
    except (ValueError, TypeError):
        raise zoo.WeightsError(f"{path}: the config in its header is not JSON") from None


def teacher(given: str, lookahead: int = 0) -> Any:
    """The config of a sliding-window teacher, with its look-ahead; a published VideoMAE is one.
    Raises as :func:`weights`, and DataError for a model that is none."""
    config = weights("teacher", given, "train one, e.g. with configs/synth_teacher.py")
    return None if config is None else as_window(config, given, lookahead)


def as_window(config: Any, given: str, lookahead: int = 0) -> WindowConfig:
    """A teacher's config as that of a window over a stream.

    Raises DataError for a model that is no teacher, and for a VideoMAE without a classifier.
    """
    if isinstance(config, VideoMAEConfig) and not isinstance(config, WindowConfig):
        if config.head == "none":
            raise DataError(
                f"teacher: {given} is a VideoMAE without a classifier, so it has no answers to "
                "teach: give one that was fine-tuned, on Kinetics or AVA, or train a "
                "videomae-window from labels (configs/synth_teacher.py and its like)"
            )
        fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        return WindowConfig(**fields, lookahead=lookahead)
    if not isinstance(config, WindowConfig):
        kind = type(config).__name__.removesuffix("Config")
        raise DataError(
            f"teacher: {given} is a {kind}, not a videomae-window, nor a published VideoMAE "
            "classifier through streamzoo convert"
        )
    return dataclasses.replace(config, lookahead=lookahead) if lookahead else config


def fits(taught: Any, student: Any, given: str, data: DataConfig) -> None:
    """Raises DataError, with the settings that would do, where a teacher (a config) cannot teach a
    student (a config) on a data set."""
    if taught.head == "frame" and not data.whole_frame:
        whole = [kind for kind in DATA_SETS if data_set(kind).whole_frame]
        raise DataError(
            f"teacher: {given} is a classifier of clips and teaches the whole frame, which the "
            f"boxes of data.kind={data.kind} leave out: take one of {', '.join(whole)}, or a "
            "teacher of boxes"
        )
    patch = patch_of(student)
    if (taught.image_size, taught.patch) != (tuple(student.image_size), patch):
        (height, width), such = taught.image_size, f"dsta-ti{taught.patch}"
        raise DataError(
            f"teacher: {given} sees {height}x{width} pixels in patches of {taught.patch}, the "
            f"student {student.image_size[0]}x{student.image_size[1]} in patches of {patch}: set "
            f"data.size={height},{width} (and test.size), and model.name to one with patches of "
            f"{taught.patch}, such as {'dsta-lite0' if taught.stem else such}"
        )


def chunks(frames: int, late: int) -> None:
    """Raises DataError for chunks that are not longer than the look-ahead."""
    if frames <= late:
        raise DataError(f"chunks of {frames} frames, look-ahead {late}: raise loop.frames")


def recipe(config: Any) -> None:
    """Of a ``recipe.Recipe``. Raises DataError and the zoo's errors."""
    model, found = config.model, None
    base = zoo.model_config(model.name)
    if config.teacher:
        found = teacher(config.teacher, model.lookahead)
    elif not config.data.labelled:
        kind = config.data.kind
        raise DataError(f"{kind} data has no labels: name a teacher with --set teacher=FILE")
    if model.weights:
        weights("model.weights", model.weights)
    config.data.check("data")
    if config.test is not None:
        config.test.check("test")
        if not config.test.labelled:
            raise DataError(f"test data of kind {config.test.kind} has no labels to measure with")
    contradictions(config, base)
    size = config.data.size
    if not config.data.resizes:
        return
    patch = patch_of(base) or 1
    if any(side % patch for side in size):
        raise DataError(f"data.size={size}: not a multiple of the patch of {model.name}, {patch}")
    if config.test is not None and config.test.resizes and config.test.size != size:
        raise DataError(
            f"test.size={config.test.size} is not data.size={size}: a model is measured at the "
            "size that it learned, set both"
        )
    if isinstance(base, WindowConfig):
        chunks(config.loop.frames, model.lookahead)
        tubelet = (2 if model.window % 2 == 0 else 1) if model.window else base.tubelet
        if config.loop.frames % tubelet and not config.supervise.windows:
            raise DataError(
                f"loop.frames={config.loop.frames}: {model.name} reads {tubelet} frames at a time: "
                "give a multiple of that, or set supervise.windows"
            )
    if found is None:
        return
    chunks(config.loop.frames, found.lookahead)
    if not config.labels:
        blocks, depth = config.distil.blocks, model.depth or base.depth
        if blocks and (len(blocks) != depth or max(blocks) >= found.depth):
            raise DataError(f"distil.blocks={blocks}: {depth} numbers from 0 to {found.depth - 1}")
        fits(found, dataclasses.replace(base, image_size=size), config.teacher, config.data)
        if found.lookahead and config.keep_targets:
            raise DataError(
                f"a teacher with a look-ahead of {found.lookahead} frames cannot be kept: set "
                "keep_targets=False"
            )


def contradictions(config: Any, base: Any) -> None:
    """Of a ``recipe.Recipe`` and the config of its model. Raises DataError, with what would do, for
    settings of which one leaves the other without effect."""
    model, student = config.model, isinstance(base, StudentConfig)
    mixers = base.temporal if isinstance(base, StudentConfig) else ()
    distils = bool(config.teacher) and not config.labels
    weight = "distil.person" if distils else "supervise.person"
    taught = (config.distil if distils else config.supervise).person
    for setting, value, fits in (
        ("model.window", model.window, not student),
        ("model.lookahead", model.lookahead, not student or bool(config.teacher)),
        ("model.shift", model.shift, any(mixer.kind == "shift" for mixer in mixers)),
        ("model.person", model.person, student),
        (weight, taught, student),
    ):
        if value and not fits:
            raise DataError(f"{setting}={value}: {model.name} has none; leave it away")
    if not student:
        return
    if taught and not model.person:
        raise DataError(
            f"{weight}={taught} teaches a head that finds persons, and model.person=False leaves "
            f"it out: set model.person=true, or {weight}=0"
        )
    if model.person and not taught and not model.weights:
        raise DataError(
            f"model.person=True is a head that nothing teaches: set {weight}=0.5, or model.person="
            "false"
        )
    if taught and isinstance(config.data, DetectedData) and not config.data.detector:
        raise DataError(
            f"{weight}={taught} is taught by the persons that data.detector finds, and it is not "
            f"set: give a YOLOX (.onnx), or set model.person=false {weight}=0"
        )


def named(text: str) -> tuple[str, str]:
    """("name", "file") of "name=file". Raises DataError for a name that is not a word."""
    name, equals, path = text.partition("=")
    if not equals or not name.isidentifier() or not path:
        raise DataError(f"teacher {text!r} is not of the form name=file, the name one word")
    return name, path


def encoder(config: Any) -> None:
    """Of an ``encoders.EncoderRecipe``. Raises as :func:`recipe`."""
    paths = dict(map(named, config.teachers))
    if len(paths) != len(config.teachers) or not paths:
        raise DataError(f"teachers={config.teachers}: give at least one, each its own name")
    if config.method == "sami" and len(paths) > 1:
        raise DataError(f"method sami has one teacher, not {', '.join(paths)}")
    base = zoo.model_config(config.model.name)
    for name, path in paths.items():
        weights(f"teachers ({name})", path)
    if config.model.weights:
        weights("model.weights", config.model.weights)
    patch = patch_of(base) or 1
    for setting, sizes in (
        ("model.size", (config.model.size,)),
        ("distil.student_sizes", config.distil.student_sizes),
    ):
        for size in sizes:
            if any(side % patch for side in size):
                raise DataError(f"{setting}={size}: not a multiple of the patch, {patch}")
    if config.method == "agglomerate" and config.keep_targets and config.distil.teacher_sizes:
        raise DataError(
            f"distil.teacher_sizes={config.distil.teacher_sizes}: kept answers are of one size; "
            "leave them away, or set keep_targets=False"
        )
    config.data.check("data")
    if config.test is not None:
        config.test.check("test")


def live(config: Any) -> None:
    """Of a ``live.LiveRecipe``. Raises as :func:`recipe`."""
    if config.loop.frames != handover.FRAMES:
        raise DataError(f"scenes have {handover.FRAMES} frames: set loop.frames to that")
    stride = encoder_stride(zoo.model_config(config.model, **config.fields()).encoder)
    if any(side % stride for side in config.size):
        raise DataError(
            f"size={config.size}: not a multiple of the stride of {config.model}'s encoder, "
            f"{stride}"
        )
    if config.weights:
        weights("weights", config.weights)


def track(config: Any) -> None:
    """Of a ``track.TrackRecipe``. Raises as :func:`recipe`."""
    if both := sorted(set(config.sequences) & set(config.held_out)):
        raise DataError(f"{both[0]} is in sequences and in held_out")
    if zoo.model_card(config.model).task != "track":
        raise DataError(f"model: {config.model} is no tracker; `streamzoo list '*track*'` are")
    exists("path", config.path)
    if config.weights:
        weights("weights", config.weights)
