"""A causal student of the EgoGestAR teacher, without labels.

    python -m streamzoo.train --config configs/egogestar_teacher.py --set data.path=D test.path=D
    python -m streamzoo.train --config configs/egogestar_student.py --set data.path=D test.path=D

A frame is one token, so there is no attention within a frame to learn.
"""

import dataclasses

from ..train.recipe import Model
from ..train.tasks import DistilConfig
from .egogestar_teacher import CONFIG as TEACHER

CONFIG = dataclasses.replace(
    TEACHER,
    model=Model("dsta-palm"),
    teacher="runs/egogestar_teacher/weights.safetensors",
    distil=DistilConfig(attention=0.0),
    loop=dataclasses.replace(
        TEACHER.loop,
        steps=250,
        optim=dataclasses.replace(TEACHER.loop.optim, learning_rate=3e-3),
        out="runs/egogestar_student",
    ),
)
