"""The last stage of EUPE's chain: student and proxy each see one of two sizes at every step.

    python -m streamzoo.train --config configs/ucf11_teacher.py
    python -m streamzoo.train --config configs/encoder_proxy.py
    python -m streamzoo.train --config configs/encoder_student.py
    python -m streamzoo.train --config configs/encoder_pyramid.py

It goes on from the weights of ``configs/encoder_student.py``, at half its rate.
"""

import dataclasses

from .encoder_student import CONFIG as STUDENT

SIZES = ((64, 80), (96, 112))

CONFIG = dataclasses.replace(
    STUDENT,
    model=dataclasses.replace(STUDENT.model, weights="runs/encoder_student/weights.safetensors"),
    distil=dataclasses.replace(STUDENT.distil, student_sizes=SIZES, teacher_sizes=SIZES),
    loop=dataclasses.replace(
        STUDENT.loop,
        steps=80,
        optim=dataclasses.replace(STUDENT.loop.optim, learning_rate=5e-4),
        out="runs/encoder_pyramid",
    ),
)
