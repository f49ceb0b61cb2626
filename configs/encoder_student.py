"""The small encoder of EUPE's chain: the proxy is its only teacher, one size of frames.

    python -m streamzoo.train --config configs/ucf11_teacher.py
    python -m streamzoo.train --config configs/encoder_proxy.py
    python -m streamzoo.train --config configs/encoder_student.py
    python -m streamzoo.train --config configs/encoder_pyramid.py

``configs/encoder_proxy.py`` with ``model.name=eupe-t16`` is direct distillation from all teachers
at once, without a proxy. Figures of a shorter form of both: tests/bench/results/encoder_distil.md.
"""

import dataclasses

from ..train.encoders import EncoderModel
from .encoder_proxy import CONFIG as PROXY

CONFIG = dataclasses.replace(
    PROXY,
    model=EncoderModel("eupe-t16", size=(64, 80), depth=6, layer_scale=1.0),
    teachers=("proxy=runs/encoder_proxy/weights.safetensors",),
    distil=dataclasses.replace(PROXY.distil, student_sizes=((64, 80),), teacher_sizes=((64, 80),)),
    keep_targets=False,
    loop=dataclasses.replace(PROXY.loop, steps=320, out="runs/encoder_student"),
)
