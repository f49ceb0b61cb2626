"""The pipelines by name."""

from __future__ import annotations

import dataclasses

from ...action.decision import Decision
from ...action.person import PersonConfig
from ...detect.coco import CLASSES
from ...detect.yolox.model import FILL, YOLOXConfig
from ...registry import Card, register
from ..tracker import TrackerConfig
from .act import FollowAct, FollowActConfig
from .model import Follow, FollowConfig

STREET = (("person",), ("bicycle", "motorcycle"), ("car", "bus", "truck"))  # taken for one another

NANO = FollowConfig(
    YOLOXConfig(trim=True, threshold=0.1),
    TrackerConfig(
        groups=tuple(tuple(CLASSES.index(name) for name in group) for group in STREET),
        high=0.4,
        begin=0.5,
        match_high=0.1,
        match_new=0.2,
        match_low=0.5,
        confirm=3,
        keep=45,
        coast=5,
    ),
)
CARD = Card(
    "follow-nano",
    summary="persons, bicycles and cars with ids that last: YOLOX-nano and a tracker",
    paper="Ge et al., YOLOX (arXiv 2107.08430); Aharon et al., BoT-SORT (arXiv 2206.14651)",
    input_size=(416, 416),
    fit="letterbox",
    fill=int(FILL),
    mean=(0.0, 0.0, 0.0),  # frames stay as they come, 0 to 255
    std=(1 / 255, 1 / 255, 1 / 255),
    classes=CLASSES,
    multi_label=False,
)
register("follow-nano", Follow, NANO, CARD)

SILENT = Decision(several=False, nothing=(0,), on=2.0)  # until it is fitted nothing is known

ACTIONS = (
    "nothing", "walking", "standing", "sitting", "falling", "fighting", "hugging",
    "shaking hands", "pointing",
)  # fmt: skip

register(
    "follow-act-nano",
    FollowAct,
    FollowActConfig(NANO, PersonConfig(ACTIONS, decision=SILENT)),
    dataclasses.replace(
        CARD,
        name="follow-act-nano",
        arch="",
        summary="the same, and what each person does: a memory along every track",
        classes=(*CLASSES, *ACTIONS),  # of objects, then of what persons do
    ),
)
