"""A causal student of the synth teacher, without labels (DSTA; others by --set).

    python -m streamzoo.train --config configs/synth_teacher.py
    python -m streamzoo.train --config configs/synth_student.py
    python -m streamzoo.train --config configs/synth_student.py --set model.name=tsa-lite0

COST
"""

import dataclasses

from ..train.recipe import Model
from .synth_teacher import CONFIG as TEACHER

CONFIG = dataclasses.replace(
    TEACHER,
    model=Model("dsta-lite0"),
    teacher="runs/synth_teacher/weights.safetensors",
    loop=dataclasses.replace(
        TEACHER.loop,
        steps=400,
        lanes=4,
        optim=dataclasses.replace(TEACHER.loop.optim, rate=3e-3),
        out="runs/synth_student",
    ),
)
