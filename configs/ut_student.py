"""A causal student of the UT-Interaction teacher, without labels.

    python -m streamzoo.train --config configs/ut_student.py --set data.path=FOLDER test.path=FOLDER

COST
"""

import dataclasses

from ..train.recipe import Model
from .ut_teacher import CONFIG as TEACHER

CONFIG = dataclasses.replace(
    TEACHER,
    model=Model("dsta-lite0"),
    teacher="runs/ut_teacher/weights.safetensors",
    loop=dataclasses.replace(TEACHER.loop, steps=160, lanes=4, out="runs/ut_student"),
)
