"""A causal student of the UT-Interaction teacher, without labels.

    python -m streamzoo.train --config configs/ut_teacher.py --set data.path=FOLDER test.path=FOLDER
    python -m streamzoo.train --config configs/ut_student.py --set data.path=FOLDER test.path=FOLDER

On one 2.5 GHz core: the teacher's answers, once, 2 minutes; then 2 to 4 minutes. Expected top-1 on
35 clips, by seed: 0.686, 0.629, 0.743; the teacher has 0.714.
"""

import dataclasses

from ..train.recipe import Model
from .ut_teacher import CONFIG as TEACHER

CONFIG = dataclasses.replace(
    TEACHER,
    model=Model("dsta-lite0"),
    teacher="runs/ut_teacher/weights.safetensors",
    loop=dataclasses.replace(TEACHER.loop, steps=160, batch=4, out="runs/ut_student"),
)
