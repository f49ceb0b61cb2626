"""The offline teacher on synthetic persons, from labels: what the synth students learn from.

    python -m streamzoo.train --config configs/synth_teacher.py

Needs nothing but the extra ``train``: the videos are drawn, and the frozen
EfficientNet-Lite0 in front of the model is bundled. On one 2.5 GHz core: features of the videos,
once, 12 minutes; then 0.35 s a step, 8 minutes. Expected: mAP 0.607 on 40 unseen videos. (A third
of the videos, 900 steps: 0.529; what it lacks is videos, not steps.)

A clip teaches at every one of its tubelets (``VideoMAE.every_tubelet``), which is many times
faster than one answer per window.
"""

from ..train.datasets.synth import SynthData
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from ..train.recipe import Model, Recipe

CONFIG = Recipe(
    data=SynthData(videos=960),
    test=SynthData(videos=40, split="test"),
    model=Model("videomae-window-lite0"),
    loop=LoopConfig(
        steps=1200,
        batch=8,
        frames=16,
        optim=OptimConfig(name="muon", learning_rate=1.5e-3, ema=0.99),
        out="runs/synth_teacher",
    ),
)
