"""A student in a new place, without labels: UT-Interaction's car park to its windy lawn.

    python -m streamzoo.train --config configs/ut_teacher.py --set loop.out=runs/set1_teacher \\
        loop.steps=200 "data.sequences=(1,2,3,4,5,6,7,8)" "test.sequences=(15,16,17,18)"
    python -m streamzoo.train --config configs/ut_student.py --set loop.out=runs/set1_student \\
        loop.steps=80 teacher=runs/set1_teacher/weights.safetensors \\
        "data.sequences=(1,2,3,4,5,6,7,8)" "test.sequences=(15,16,17,18)"
    python -m streamzoo.train --config configs/adapt_unlabelled.py

Teacher and student know set 1 only; here the student goes on from its weights on four sequences
of set 2 that nobody labelled, and is measured on the other four. Results: tests/bench/results.
"""

import dataclasses

from ..train.recipe import Model
from .ut_student import CONFIG as STUDENT

CONFIG = dataclasses.replace(
    STUDENT,
    data=dataclasses.replace(STUDENT.data, sequences=(11, 12, 13, 14)),
    test=dataclasses.replace(STUDENT.data, sequences=(15, 16, 17, 18), mirror=False),
    model=Model("dsta-lite0", weights="runs/set1_student/weights.safetensors"),
    teacher="runs/set1_teacher/weights.safetensors",
    loop=dataclasses.replace(STUDENT.loop, steps=80, out="runs/adapted"),
)
