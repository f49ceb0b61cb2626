"""A causal student of the synth teacher, without labels (DSTA; others by --set).

    python -m streamzoo.train --config configs/synth_teacher.py
    python -m streamzoo.train --config configs/synth_student.py
    python -m streamzoo.train --config configs/synth_student.py --set model.name=tsa-lite0 \\
        loop.out=runs/synth_tsa

On one 2.5 GHz core: the teacher's answers, once, 9 minutes; then 5 minutes. Expected mAP: TSA 0.607
(the teacher's own); after 600 steps TSA 0.584, DSTA 0.502, `vit-lite0` (no memory) 0.403.
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
        steps=900,
        batch=4,
        optim=dataclasses.replace(TEACHER.loop.optim, learning_rate=3e-3),
        out="runs/synth_student",
    ),
)
