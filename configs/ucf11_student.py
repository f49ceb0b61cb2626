"""The bundled demonstration student: UCF11's actions and where the persons are, without labels.

    python -m streamzoo.train --config configs/ucf11_teacher.py
    python -m streamzoo.train --config configs/ucf11_student.py

The classes come from the teacher, the persons from the detector (YOLOX-nano). On one 2.5 GHz
core: the teacher's answers, once, 4 minutes; then 9 minutes. Expected on 316 test clips: top-1
0.722, person recall 0.251 at a precision of 0.315 against the detector.
"""

import dataclasses

from ..train.recipe import Model
from ..train.tasks import DistilConfig
from .ucf11_teacher import CONFIG as TEACHER

CONFIG = dataclasses.replace(
    TEACHER,
    model=Model("dsta-lite0", person=True),
    teacher="runs/ucf11_teacher/weights.safetensors",
    distil=DistilConfig(person=0.5),
    loop=dataclasses.replace(TEACHER.loop, steps=400, out="runs/ucf11_student"),
)
