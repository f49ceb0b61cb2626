"""How far a student agrees with what taught it, on videos held out that nobody labelled."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from ..layers.streaming import Params
from ..zoo.registry import Card
from .clip_teacher import ClipTeacher
from .data.base import DataError, Source
from .data.stored import Subset
from .evaluate import answers, find_persons
from .metrics.videos import agreement


def agree(
    model: Any,
    variables: Params,
    card: Card,
    teacher: Any,
    teacher_variables: Params,
    source: Source,
) -> dict[str, float]:
    """:func:`agreement` of a student with its teacher on a source, and with the box teacher the
    metrics of ``evaluate.find_persons`` where the student finds persons."""
    said = list(answers(model, variables, card, source))
    taught = list(answers(teacher, teacher_variables, card, source))
    found = agreement(said, taught, whole=isinstance(teacher, ClipTeacher))
    if "person" in model.config.heads:
        found |= find_persons(model, variables, card, source)
    return found


def hold_out(source: Source, share: float) -> tuple[Source, Source | None]:
    """(videos to learn from, those held out): whole files, the same ones at every start.

    Files are drawn by a hash of their names, at least one; parts of a file ("name@20s") and its
    mirror image stay together. Raises DataError where nothing would be left.
    """
    if not share:
        return source, None
    files = [re.sub(r"(@[\d.]+s)?( \(mirrored\))?$", "", name) for name in source.videos]
    order = sorted(set(files), key=lambda file: hashlib.sha256(file.encode()).hexdigest())
    count = max(1, round(share * len(order)))
    if count >= len(order):
        raise DataError(
            f"data.held_out={share:g}: of {len(order)} video files none is left to learn from: add "
            "videos, cut one in two, or set data.held_out=0"
        )
    out = set(order[:count])
    learned = Subset(source, [i for i, file in enumerate(files) if file not in out])
    return learned, Subset(source, [i for i, file in enumerate(files) if file in out])
