"""A better person head for the bundled student of UCF11, without labels.

    python -m streamzoo.train --config configs/ucf11_persons.py --set data.path=ZIP test.path=ZIP

Everything but the head stays as it is, so the actions are the same. The head reads the frozen
stem's maps at strides 16 and 32, and learns from the detector's persons (YOLOX-nano). The named
student has such a head by now, which goes on learning: what was shipped began anew, from
`ucf11_student`'s own run (`--set weights=runs/ucf11_student/weights.safetensors`).
"""

import dataclasses

from ..train.finding import PersonsRecipe
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from .ucf11_teacher import TRAIN

CONFIG = PersonsRecipe(
    data=TRAIN,
    test=dataclasses.replace(TRAIN, split="test", mirror=False),
    weights="dsta-lite0/ucf11",
    loop=LoopConfig(
        steps=2000,
        batch=32,
        frames=5,
        optim=OptimConfig(learning_rate=2e-3, weight_decay=0.05, ema=0.99),
        checkpoint_every=50,
        out="runs/ucf11_persons",
    ),
)
